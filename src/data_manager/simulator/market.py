"""The market: any aggregate, trade or candle of any contract, made when asked for.

Orders come first: each is one or more aggregates at rising (buy) or falling (sell) prices in one millisecond; each
aggregate is one to three fills. Candles follow from the aggregates, coarse candles from fine ones. What happens in a
minute depends on seed, symbol and minute alone, so every span is the same whatever was asked before; only results are
kept, and only so many.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

import numpy as np

from data_manager.domain.checks.bars import next_opens, opens_of
from data_manager.domain.time import DAY_MS, HOUR_MS, INTERVALS_MS, MINUTE_MS, floor_open_ms
from data_manager.simulator import bars, path
from data_manager.simulator.bars import Rows
from data_manager.simulator.contracts import Contract
from data_manager.simulator.counting import Counter
from data_manager.simulator.noise import Bits, Index, bits, field, key_of
from data_manager.simulator.tape import Aggregates, Bounded, Bursts, Fills, Mask, joined

_MINUTES_PER_HOUR: Final = HOUR_MS // MINUTE_MS
SAMPLE_MS: Final = {"mark": 1_000, "index": 1_000, "premium": 5_000}


class Tape(Protocol):
    """What happened on an exchange, from a seed or from recordings. Spans are half open, in UTC milliseconds."""

    @property
    def contracts(self) -> Mapping[str, Contract]: ...

    def aggregates(self, contract: Contract, start_ms: int, end_ms: int) -> Aggregates:
        """The aggregate trades of a span."""
        ...

    def aggregates_from(self, contract: Contract, agg_id: int, count: int) -> Aggregates:
        """At most count of them from this id up."""
        ...

    def fills(self, trades: Aggregates, contract: Contract) -> Fills:
        """The single trades that these aggregates are made of."""
        ...

    def burned(self, trades: Aggregates) -> Bursts:
        """The ids behind these aggregates that no trade of the book got."""
        ...

    def agg_id_of(self, contract: Contract, trade_id: int) -> int:
        """The aggregate that the trade belongs to, or would belong to."""
        ...

    def candles(self, contract: Contract, interval: str, start_ms: int, end_ms: int, now_ms: int) -> Rows:
        """Candles with start_ms <= open time < end_ms, as they stand at now_ms: the last may be unfinished."""
        ...

    def sampled_candles(
        self, contract: Contract, what: str, interval: str, start_ms: int, end_ms: int, now_ms: int
    ) -> Rows:
        """The same of mark price, index price (in 10**-8) or premium."""
        ...


class Market:
    """A Tape made from a seed."""

    def __init__(self, contracts: Mapping[str, Contract], seed: int) -> None:
        self.contracts = contracts
        self.seed = seed
        self._counters = {symbol: Counter(seed, contract) for symbol, contract in contracts.items()}
        self._hours: Bounded[Aggregates] = Bounded(512)
        self._days: Bounded[Rows] = Bounded(256)
        self._hourly: Bounded[Rows] = Bounded(16_384)

    def aggregates(self, contract: Contract, start_ms: int, end_ms: int) -> Aggregates:
        """See Tape. Short spans are cut from hours that are kept, long ones are made at once and not kept."""
        first, last = start_ms // HOUR_MS, max(start_ms, end_ms - 1) // HOUR_MS
        if last - first > 4:
            made = self._made(contract, start_ms // MINUTE_MS, -(-end_ms // MINUTE_MS))
        else:
            made = joined([self._hour(contract, hour) for hour in range(first, last + 1)])
        return made.between(start_ms, end_ms)

    def aggregates_from(self, contract: Contract, agg_id: int, count: int) -> Aggregates:
        """See Tape."""
        counter = self._counters[contract.symbol]
        index = max(0, agg_id - 1)
        end = int(counter.index_at(np.array([counter.end_minute]))[0])
        if index >= end or count <= 0:
            return self._made(contract, 0, 0)
        last = counter.minute_of(min(index + count, end) - 1)
        made = self._made(contract, counter.minute_of(index), last + 1)
        low = index + 1 - int(made.agg_id[0])
        return made.take(slice(low, low + count))

    def agg_id_of(self, contract: Contract, trade_id: int) -> int:
        """See Tape."""
        return self._counters[contract.symbol].index_of_id(max(1, trade_id)) + 1

    def fills(self, trades: Aggregates, contract: Contract) -> Fills:
        """See Tape. A second and a third fill come up to 39 ms later, never past the next aggregate or the minute."""
        owner = np.repeat(np.arange(len(trades)), trades.fills)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(trades.fills) - trades.fills, trades.fills)
        room = np.append(trades.at_ms[1:], 1 << 60) - trades.at_ms
        room = np.minimum(room, MINUTE_MS - 1 - trades.at_ms % MINUTE_MS)[owner]
        delay = nth * (field(trades.chance, 24, 8) % 20)[owner]
        quantity = _split(trades)[np.arange(len(trades))[owner], nth] if len(owner) else trades.agg_id
        improved = (nth == trades.fills[owner] - 1) & (trades.plain_quantity < trades.quantity)[owner]
        return Fills(
            trades.first_id[owner] + nth, trades.at_ms[owner] + np.minimum(delay, room), trades.price[owner], quantity,
            trades.buyer_is_maker[owner], improved,
        )  # fmt: skip

    def burned(self, trades: Aggregates) -> Bursts:
        """See Tape."""
        rows = np.flatnonzero(trades.burned)
        insurance = field(trades.chance[rows], 44, 6) == 0
        return Bursts(trades.last_id[rows] + 1, trades.at_ms[rows], insurance)

    def candles(self, contract: Contract, interval: str, start_ms: int, end_ms: int, now_ms: int) -> Rows:
        """See Tape. A contract that is not traded any more has no candles after the one it was delivered in."""
        open_ms, end_ms = self._within(contract, interval, start_ms, end_ms, now_ms)
        if open_ms >= end_ms:
            return bars.empty()
        rows = bars.coarser(self._pieces(contract, open_ms, end_ms, now_ms, interval), interval)
        return _between(rows, start_ms, end_ms)

    def sampled_candles(
        self, contract: Contract, what: str, interval: str, start_ms: int, end_ms: int, now_ms: int
    ) -> Rows:
        """See Tape."""
        open_ms, end_ms = self._within(contract, interval, start_ms, end_ms, now_ms)
        if open_ms >= end_ms:
            return bars.empty()
        until_ms = min(int(next_opens(opens_of(np.array([end_ms - 1]), interval), interval)[0]), now_ms + 1)
        hours = range(open_ms // HOUR_MS, -(-until_ms // HOUR_MS))
        length_ms = INTERVALS_MS[interval] or DAY_MS
        pieces = [self._sampled(contract, what, hour, now_ms, whole=length_ms >= HOUR_MS) for hour in hours]
        rows = np.concatenate([bars.empty(), *pieces])
        kept = (rows[:, bars.OPEN_MS] >= open_ms) & (rows[:, bars.OPEN_MS] < until_ms)
        return _between(bars.coarser(rows[kept], interval), start_ms, end_ms)

    def _within(self, contract: Contract, interval: str, start_ms: int, end_ms: int, now_ms: int) -> tuple[int, int]:
        """Open time of the first candle that counts, and the end of the last."""
        first_ms = self._counters[contract.symbol].first_minute * MINUTE_MS
        if first_ms > now_ms:  # announced: also its first week is to come
            return first_ms, first_ms
        opens = opens_of(np.array([max(start_ms, 0)]), interval)
        open_ms = int(opens[0] if opens[0] >= start_ms else next_opens(opens, interval)[0])
        listed_ms = floor_open_ms(first_ms, interval)
        return max(open_ms, listed_ms), min(end_ms, now_ms + 1, contract.delivery_ms)

    def _pieces(self, contract: Contract, open_ms: int, end_ms: int, now_ms: int, interval: str) -> Rows:
        """Rows fine enough for what is asked, of all that happened in [open_ms, end of the last candle) up to now."""
        length_ms = INTERVALS_MS[interval]
        coarse = length_ms is None or length_ms >= DAY_MS
        last_ms = min(now_ms + 1, contract.delivery_ms)
        until_ms = min(last_ms, int(next_opens(opens_of(np.array([end_ms - 1]), interval), interval)[0]))
        whole_ms = until_ms // MINUTE_MS * MINUTE_MS
        if whole_ms - open_ms <= 3 * HOUR_MS:
            pieces = [self._few(contract, open_ms, whole_ms)]
        else:
            days = range(open_ms // DAY_MS, -(-whole_ms // DAY_MS))
            pieces = [self._day(contract, day, whole_ms, coarse=coarse) for day in days]
        if whole_ms < until_ms:
            pieces.append(self._partial(contract, whole_ms, until_ms))
        rows = np.concatenate([bars.empty(), *pieces])
        first_ms = self._counters[contract.symbol].first_minute * MINUTE_MS
        return rows[rows[:, bars.OPEN_MS] >= max(open_ms, first_ms)]

    def _day(self, contract: Contract, day: int, until_ms: int, *, coarse: bool) -> Rows:
        """The rows of one day before until_ms: by the hour where coarse, the last hour by the minute."""
        if not coarse:
            rows = self._minutes(contract, day)
            return rows[rows[:, bars.OPEN_MS] < until_ms]
        hourly = self._hourly.get((contract.symbol, day), lambda: bars.coarser(self._minutes(contract, day), "1h"))
        hour_ms = until_ms // HOUR_MS * HOUR_MS
        if (day + 1) * DAY_MS <= hour_ms:
            return hourly
        fine = self._minutes(contract, day)
        opens = fine[:, bars.OPEN_MS]
        return np.concatenate(
            [hourly[hourly[:, bars.OPEN_MS] < hour_ms], fine[(opens >= hour_ms) & (opens < until_ms)]]
        )

    def _few(self, contract: Contract, open_ms: int, until_ms: int) -> Rows:
        """Whole minutes of a short span, from the hours of trades that are kept."""
        opens = np.arange(open_ms // MINUTE_MS * MINUTE_MS, until_ms, MINUTE_MS)
        if len(opens) == 0:
            return bars.empty()
        before = partial(self.price_before, contract, int(opens[0]) // MINUTE_MS)
        return bars.from_aggregates(self.aggregates(contract, int(opens[0]), until_ms), opens, MINUTE_MS, before)

    def _minutes(self, contract: Contract, day: int) -> Rows:
        return self._days.get((contract.symbol, day), lambda: self._made_minutes(contract, day * DAY_MS))

    def _made_minutes(self, contract: Contract, start_ms: int) -> Rows:
        first = start_ms // MINUTE_MS
        counter = self._counters[contract.symbol]
        trades = self._made(contract, first, first + DAY_MS // MINUTE_MS)
        opens = np.arange(start_ms, start_ms + DAY_MS, MINUTE_MS)
        opens = opens[(opens >= counter.first_minute * MINUTE_MS) & (opens < counter.end_minute * MINUTE_MS)]
        return bars.from_aggregates(trades, opens, MINUTE_MS, partial(self.price_before, contract, first))

    def _partial(self, contract: Contract, open_ms: int, until_ms: int) -> Rows:
        """The minute at open_ms as it stands just before until_ms."""
        trades = self.aggregates(contract, open_ms, until_ms)
        before = partial(self.price_before, contract, open_ms // MINUTE_MS)
        return bars.from_aggregates(trades, np.array([open_ms]), MINUTE_MS, before)

    def price_before(self, contract: Contract, minute: int) -> int:
        """The last price before this minute; where the price began, if there is none."""
        counter = self._counters[contract.symbol]
        index = int(counter.index_at(np.array([minute]))[0])
        if index == 0:
            at_ms = np.array([counter.first_minute * MINUTE_MS])
            return int(path.mid_ticks(self.seed, contract, at_ms)[0]) * contract.tick
        last = counter.minute_of(index - 1)
        return int(self._made(contract, last, last + 1).price[-1])

    def _sampled(self, contract: Contract, what: str, hour: int, now_ms: int, *, whole: bool) -> Rows:
        """Minutes of an hour of samples; one row for it where whole and over. The last minute may be unfinished."""
        start_ms, step_ms = hour * HOUR_MS, SAMPLE_MS[what]
        if start_ms + HOUR_MS <= now_ms:
            minutes = self._days.get(
                (contract.symbol, what, hour), lambda: self._sampled_minutes(contract, what, start_ms, HOUR_MS)
            )
            if not whole:
                return minutes
            return self._hourly.get((contract.symbol, what, hour), lambda: bars.coarser(minutes, "1h"))
        done_ms = (now_ms + 1 - start_ms) // MINUTE_MS * MINUTE_MS
        rows = self._sampled_minutes(contract, what, start_ms, done_ms)
        moments = np.arange(start_ms + done_ms, now_ms + 1, step_ms)
        if len(moments) == 0:
            return rows
        values = path.sampled(self.seed, contract, what, moments)
        return np.concatenate([rows, bars.from_samples(values, moments[:1], len(moments))])

    def _sampled_minutes(self, contract: Contract, what: str, start_ms: int, length_ms: int) -> Rows:
        step_ms = SAMPLE_MS[what]
        values = path.sampled(self.seed, contract, what, np.arange(start_ms, start_ms + length_ms, step_ms))
        opens = np.arange(start_ms, start_ms + length_ms, MINUTE_MS)
        return bars.from_samples(values, opens, MINUTE_MS // step_ms)

    def _hour(self, contract: Contract, hour: int) -> Aggregates:
        first = hour * _MINUTES_PER_HOUR
        return self._hours.get((contract.symbol, hour), lambda: self._made(contract, first, first + _MINUTES_PER_HOUR))

    def _made(self, contract: Contract, first: int, end: int) -> Aggregates:
        """All aggregates of the minutes first to end - 1."""
        counter = self._counters[contract.symbol]
        minutes = np.arange(first, end + 1)
        edges = counter.index_at(minutes)
        counts = np.diff(edges)
        index = np.arange(edges[0], edges[-1])
        minute = np.repeat(np.arange(len(counts)), counts)
        nth = index - edges[minute]
        drawn = bits(key_of(self.seed, contract.symbol, "order"), index)
        head = _heads(drawn, nth)
        beyond = (nth << 20 | field(drawn, 0, 20)) * MINUTE_MS // (counts[minute] << 20)
        at_ms = (minutes[minute] * MINUTE_MS + beyond)[head]
        sells = (field(drawn, 24, 1) == 0)[head]
        swept = np.arange(len(index)) - head
        mid = path.mid_ticks(self.seed, contract, at_ms)
        price = (mid + np.where(sells, -swept, swept + 1)) * contract.tick
        return self._sized(contract, counter, index, at_ms, price, sells, drawn)

    def _sized(
        self, contract: Contract, counter: Counter, index: Index, at_ms: Index, price: Index, sells: Mask, drawn: Bits
    ) -> Aggregates:
        ids = counter.ids_before(np.append(index, (int(index[-1]) if len(index) else 0) + 1))
        slots = np.diff(ids)[: len(index)]
        chance = bits(key_of(self.seed, contract.symbol, "size"), index)
        burned = ((slots > 1) & (field(chance, 32, 7) == 0)).astype(np.int64)
        fills = slots - burned
        share = field(drawn, 25, 24) / (1 << 24)
        share = share * share
        quantity = fills + (contract.quantity_scale * (share * share)).astype(np.int64)
        made = Aggregates(
            index + 1, at_ms, price, quantity, quantity.copy(), sells, ids[: len(index)] + 1, fills, burned, chance
        )  # fmt: skip
        improved = (field(chance, 52, 5) == 0) & (fills > 1)
        if improved.any():
            last = _split(made)[np.arange(len(index)), fills - 1]
            made.plain_quantity[:] = quantity - np.where(improved, last, 0)
        return made


def _between(rows: Rows, start_ms: int, end_ms: int) -> Rows:
    opens = rows[:, bars.OPEN_MS]
    kept: Rows = rows[(opens >= start_ms) & (opens < end_ms)]
    return kept


def _heads(drawn: Bits, nth: Index) -> Index:
    """For each aggregate the first one of its order: a quarter of them go on with the order before."""
    goes_on = (field(drawn, 20, 2) == 0) & (nth > 0)
    heads: Index = np.maximum.accumulate(np.where(goes_on, 0, np.arange(len(nth))))
    return heads


def _split(trades: Aggregates) -> Index:
    """The quantities of up to three fills of each aggregate, shape (n, 3), at least 1 each."""
    free = trades.quantity - trades.fills
    first = free * field(trades.chance, 0, 10) >> 10
    second = (free - first) * field(trades.chance, 12, 10) >> 10
    first = np.where(trades.fills == 1, free, first)
    second = np.where(trades.fills == 3, second, free - first)
    return np.stack([first + 1, second + 1, free - first - second + 1], axis=1)
