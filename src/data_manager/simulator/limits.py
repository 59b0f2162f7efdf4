"""Request weights per address and minute, the buckets beside them, and what happens to who goes on regardless.

    within the budget   the answer, and X-MBX-USED-WEIGHT-1M
    over it             429 until the minute of the exchange's clock ends; what is refused still counts
    going on            after 20 refusals without an answer between them: 418 for 2 minutes, twice as long each time,
                        up to 3 days

Windows are those of the clock (they end at :00), not the last 60 seconds. The funding routes and /futures/data have
request counts of their own per 5 minutes, and no weight header.
"""

from typing import Final

from msgspec import Struct

from data_manager.domain.time import DAY_MS, MINUTE_MS
from data_manager.ports import Clock
from data_manager.simulator.answers import Refused

WEIGHT_PER_MINUTE: Final = 2_400
_PATIENCE: Final = 20
_BAN_FIRST_MS: Final = 2 * MINUTE_MS
_BAN_LAST_MS: Final = 3 * DAY_MS
_ADDRESSES_MAX: Final = 4_096


class Bucket(Struct, frozen=True):
    """A budget per address. header: whether answers tell how much of it is used."""

    name: str
    limit: int
    window_ms: int
    header: bool


WEIGHT: Final = Bucket("weight", WEIGHT_PER_MINUTE, MINUTE_MS, True)
FUNDING: Final = Bucket("funding", 500, 5 * MINUTE_MS, False)
STATISTICS: Final = Bucket("statistics", 1_000, 5 * MINUTE_MS, False)


class _Usage(Struct):
    window: int = -1
    used: int = 0


class _Address(Struct):
    """What one address has used, and how it behaved."""

    used: dict[str, _Usage]
    refused: int = 0  # since the last request that was answered
    bans: int = 0
    banned_until_ms: int = 0


class Limits:
    """Counts for all addresses; the least recent ones are forgotten. limit: weight per minute, for tests."""

    def __init__(self, clock: Clock, *, limit: int = WEIGHT_PER_MINUTE, tell_when: bool = True) -> None:
        self._clock = clock
        self._weight = Bucket(WEIGHT.name, limit, WEIGHT.window_ms, True)
        self._addresses: dict[str, _Address] = {}
        self._tell_when = tell_when  # whether refusals carry Retry-After

    @property
    def weight(self) -> int:
        """Weight an address has in a minute."""
        return self._weight.limit

    def charge(self, address: str, bucket: Bucket, weight: int) -> dict[str, str]:
        """Count a request; the headers its answer bears. Raises Refused with 429 or 418."""
        now_ms = self._clock.now_ms()
        who = self._address(address)
        if now_ms < who.banned_until_ms:
            raise self._banned(address, who, now_ms)
        bucket = self._weight if bucket.name == WEIGHT.name else bucket
        usage = who.used.setdefault(bucket.name, _Usage())
        if (window := now_ms // bucket.window_ms) != usage.window:
            usage.window, usage.used = window, 0
        usage.used += weight
        headers = {"X-MBX-USED-WEIGHT-1M": str(usage.used)} if bucket.header else {}
        if usage.used <= bucket.limit:
            who.refused = 0
            return headers
        who.refused += 1
        if who.refused > _PATIENCE:
            who.banned_until_ms = now_ms + min(_BAN_FIRST_MS << who.bans, _BAN_LAST_MS)
            who.bans, who.refused = min(who.bans + 1, 16), 0
            raise self._banned(address, who, now_ms)
        raise self._too_many(address, bucket, now_ms, headers)

    def used(self, address: str) -> int:
        """Weight used by the address in the minute that runs."""
        usage = self._address(address).used.get(WEIGHT.name)
        return usage.used if usage and usage.window == self._clock.now_ms() // MINUTE_MS else 0

    def _address(self, address: str) -> _Address:
        who = self._addresses.pop(address, None) or _Address({})
        self._addresses[address] = who
        if len(self._addresses) > _ADDRESSES_MAX:
            del self._addresses[next(iter(self._addresses))]
        return who

    def _too_many(self, address: str, bucket: Bucket, now_ms: int, headers: dict[str, str]) -> Refused:
        left_ms = bucket.window_ms - now_ms % bucket.window_ms
        return too_many(address, bucket, headers | self._when(left_ms))

    def _banned(self, address: str, who: _Address, now_ms: int) -> Refused:
        return banned(address, who.banned_until_ms, self._when(who.banned_until_ms - now_ms))

    def _when(self, left_ms: int) -> dict[str, str]:
        return {"Retry-After": str(-(-left_ms // 1_000))} if self._tell_when else {}


def too_many(address: str, bucket: Bucket, headers: dict[str, str]) -> Refused:
    """429 in the venue's words."""
    per = "minute" if bucket.window_ms == MINUTE_MS else f"{bucket.window_ms // MINUTE_MS} minutes"
    message = (
        f"Too many requests; current limit of IP({address}) is {bucket.limit} requests per {per}. "
        "Please use the websocket for live updates to avoid polling the API."
    )
    return Refused(429, -1003, message, headers)


def banned(address: str, until_ms: int, headers: dict[str, str]) -> Refused:
    """418 in the venue's words."""
    message = (
        f"Way too many requests; IP({address}) banned until {until_ms}. "
        "Please use the websocket for live updates to avoid bans."
    )
    return Refused(418, -1003, message, headers)
