"""How many orders came before any minute, in closed form, so that every aggregate and every trade has its id at once.

Every minute that 3 or 5 divides has at least one: no candle of any interval but 1m opens in a minute without trades, so
that open, high, low and close follow exactly both from trades and from finer candles. Other minutes may be empty.
"""

import numpy as np

from data_manager.domain.time import MINUTE_MS
from data_manager.simulator.contracts import Contract
from data_manager.simulator.noise import Index, bits, field, key_of, smooth

_SURE = np.cumsum([0, *(minute % 3 == 0 or minute % 5 == 0 for minute in range(15))])[:15]
_SURE_PER_15 = 7


class Counter:
    """The counts of one contract. Minutes are since the epoch; indexes count from 0 at the listing."""

    def __init__(self, seed: int, contract: Contract) -> None:
        self._pace = contract.pace * 1_024  # orders a minute in 65,536ths
        self._jitter = key_of(seed, contract.symbol, "minute")
        self._tide = key_of(seed, contract.symbol, "tide")
        self._ids = key_of(seed, contract.symbol, "ids")
        self.first_minute = -(-contract.onboard_ms // MINUTE_MS)
        self.end_minute = contract.delivery_ms // MINUTE_MS
        self._before = int(self._raw(np.array([self.first_minute]))[0])

    def index_at(self, minutes: Index) -> Index:
        """Aggregates before each of these minutes."""
        return self._raw(np.clip(minutes, self.first_minute, self.end_minute)) - self._before

    def minute_of(self, index: int) -> int:
        """The minute that the aggregate of this index happens in."""
        target, rate = index + self._before, self._pace / 65_536
        slope = rate + _SURE_PER_15 / 15
        low = int((target - 13.4 * rate - 4) / slope) - 2
        minutes = np.arange(low, int((target + 4) / slope) + 3)
        minutes = minutes[minutes >= self.first_minute]
        position = int(np.searchsorted(self._raw(minutes), target, side="right")) - 1
        return int(minutes[max(0, position)])

    def ids_before(self, indexes: Index) -> Index:
        """Trade ids used up before each aggregate: it has one to three of its own, the last of which may be burned."""
        late = field(bits(self._ids, indexes), 20, 10)
        before: Index = indexes + (indexes * 768 + (late * 768 >> 10) >> 10)
        return before

    def index_of_id(self, trade_id: int) -> int:
        """The index of the aggregate that used up this trade id."""
        low = max(0, int(trade_id / 1.75) - 4)
        indexes = np.arange(low, low + 10)
        return int(indexes[np.searchsorted(self.ids_before(indexes), trade_id - 1, side="right") - 1])

    def _raw(self, minutes: Index) -> Index:
        """Never falling: the steady part outweighs what jitter (58 %) and tide (40 %) can take away in a minute."""
        sure = minutes // 15 * _SURE_PER_15 + _SURE[minutes % 15]
        jitter = self._pace * 58 // 100 * field(bits(self._jitter, minutes), 20, 10) >> 10
        tide = self._pace * 40 // 100 * 32 * (smooth(self._tide, minutes, 5) + 32_768) >> 16
        count: Index = sure + (self._pace * minutes + jitter + tide >> 16)
        return count
