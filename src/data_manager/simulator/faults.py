"""Switches that break the exchange in the ways it breaks in life, each for a span of its clock, each repeatable.

    sockets   drop        cut the sockets off, once                     refuse    turn new ones away with a status
    streams   stall       say nothing, stay connected                   lose      leave out a share of the events
              deaf        say nothing to the sockets that are open now; whoever connects anew hears it
              double      send a share twice                            reorder   send a share after what follows
              late        send a share delay_ms late                    lag       make open sockets later each second
    REST      status      answer with status (429 418 403 451 408 5xx)  slow      answer delay_ms late
              short       at most rows rows, whatever was asked         truncate  break off in mid-body
    both      outage      no socket, no answer but 503; where says what of rest, ws, archive
              skew        the clock that answers and events show is skew_ms off
    history   missing     rows of [from_ms, until_ms) are absent        altered   they are wrong (how)
                          (of archives: in the files that paths names, the monthly ones, say)
    archives  absent      404                                           checksum  the published checksum is another one
              interleaved rows out of order                             doubled   every row twice
              cut         the zip ends early                            page      an HTML page instead, with status 200
              header      the first line that the month would not have, or none where it would
              micro       times in microseconds

Which of several events are hit follows from the seed and the event itself: the same run, the same faults.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, get_args
from zlib import crc32

import msgspec
import numpy as np
from msgspec import Struct

from data_manager.domain.errors import BadQuery, NotFound
from data_manager.ports import Clock
from data_manager.simulator.answers import FORBIDDEN, RESTRICTED, UNAVAILABLE, Refused
from data_manager.simulator.bars import BUY, BUY_QUOTE, CLOSE, COUNT, HIGH, OPEN_MS, QUOTE, VOLUME, Rows
from data_manager.simulator.limits import WEIGHT, banned, too_many
from data_manager.simulator.noise import Index, key_of
from data_manager.simulator.tape import Aggregates, Fills, Mask

Kind = Literal[
    "drop", "refuse", "stall", "deaf", "lose", "double", "reorder", "late", "lag", "status", "slow", "short",
    "truncate", "outage", "skew", "missing", "altered", "absent", "checksum", "interleaved", "doubled", "cut", "page",
    "header", "micro",
]  # fmt: skip
Place = Literal["rest", "ws", "archive"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
FAULTS_MAX: Final = 1_000


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One switch. Patterns are shell globs; times are milliseconds of the exchange's clock."""

    kind: Kind
    id: str = ""  # given when it is added
    start_ms: int = 0  # active at start_ms <= now < end_ms
    end_ms: int | None = None
    share: float = 1.0  # of the events or requests that match
    streams: str = "*"  # such as btcusdt@*
    paths: str = "*"  # such as /fapi/v1/klines, or an archive's file name
    closes: bool = False  # of these events only those that close a candle
    route: str = "*"  # of sockets: public, market, or empty
    where: tuple[Place, ...] = ("rest", "ws", "archive")
    dataset: str = "*"  # klines, aggTrades, trades, fundingRate, markPriceKlines …
    symbol: str = "*"
    interval: str = "*"
    from_ms: int = 0  # which rows
    until_ms: int = 1 << 53
    how: Literal["zero", "tick"] = "zero"  # of altered
    variant: str = "unknown"  # of status 503
    status: int = 503
    retry_after_s: int | None = None
    delay_ms: int = 1_000
    rows: int = 100
    skew_ms: int = 0

    def active(self, now_ms: int) -> bool:
        return self.start_ms <= now_ms and (self.end_ms is None or now_ms < self.end_ms)

    def concerns(self, dataset: str, symbol: str, interval: str) -> bool:
        return (
            fnmatchcase(dataset, self.dataset)
            and fnmatchcase(symbol, self.symbol)
            and fnmatchcase(interval, self.interval)
        )


class Faults:
    """The switches that are on."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self._clock = clock
        self._seed = seed
        self._on: dict[str, Fault] = {}
        self._next = 1
        self._requests = 0
        self.fired: set[str] = set()  # drops that were done

    def add(self, fault: Fault) -> Fault:
        """Switch it on; the fault with its id. Raises BadQuery for what would do nothing or harm the simulator."""
        if not 0 < fault.share <= 1:
            raise BadQuery("share", fault.share, "must lie above 0 and not above 1")
        if len(self._on) >= FAULTS_MAX:
            raise BadQuery("faults", len(self._on), f"at most {FAULTS_MAX} at a time")
        began_ms = fault.start_ms or self._clock.now_ms()  # which sockets are open when it begins
        fault = msgspec.structs.replace(
            fault, id=f"f{self._next}", start_ms=began_ms if fault.kind in ("deaf", "lag") else fault.start_ms
        )
        self._next += 1
        self._on[fault.id] = fault
        return fault

    def remove(self, fault_id: str) -> Fault:
        """Switch one off. Raises NotFound."""
        return self._on.pop(self.find(fault_id).id)

    def find(self, fault_id: str) -> Fault:
        """One that is on. Raises NotFound."""
        if fault_id not in self._on:
            raise NotFound(f"no fault {fault_id}: there is {' '.join(self._on) or 'none'}")
        return self._on[fault_id]

    def clear(self) -> int:
        """Switch all off; how many there were."""
        count = len(self._on)
        self._on.clear()
        return count

    def all(self) -> list[Fault]:
        """Those that are on, also the ones whose time has not come or is over."""
        return list(self._on.values())

    def of(self, *kinds: str, at_ms: int | None = None) -> Iterator[Fault]:
        """Those of these kinds that are active now, or at a moment given."""
        moment_ms = self._clock.now_ms() if at_ms is None else at_ms
        return (fault for fault in self.all() if fault.kind in kinds and fault.active(moment_ms))

    def since(self, after_ms: int, until_ms: int, *kinds: str) -> Iterator[Fault]:
        """Those of these kinds that were active at some moment of (after_ms, until_ms]."""
        for fault in self.all():
            over = fault.end_ms is not None and fault.end_ms <= after_ms + 1
            if fault.kind in kinds and fault.start_ms <= until_ms and not over:
                yield fault

    def hits(self, fault: Fault, what: bytes) -> bool:
        """Whether the share of the fault includes this event or request."""
        if fault.share >= 1:
            return True
        return crc32(what, key_of(self._seed, fault.id) & 0xFFFFFFFF) < fault.share * (1 << 32)

    def deaf(self, name: str, opened_ms: int, at_ms: int) -> bool:
        """Whether a socket that was opened then hears nothing of this stream."""
        return any(
            opened_ms <= fault.start_ms and fnmatchcase(name, fault.streams) for fault in self.of("deaf", at_ms=at_ms)
        )

    def lag_ms(self, name: str, route: str, opened_ms: int, at_ms: int) -> int:
        """How far a socket that was opened then has fallen behind with this stream."""
        return sum(
            fault.delay_ms * (at_ms - fault.start_ms) // 1_000
            for fault in self.of("lag", at_ms=at_ms)
            if opened_ms <= fault.start_ms and fnmatchcase(name, fault.streams) and fnmatchcase(route, fault.route)
        )

    def skew_ms(self) -> int:
        """How far off the exchange's shown clock is."""
        return sum(fault.skew_ms for fault in self.of("skew"))

    def out(self, place: Place) -> bool:
        """Whether this part of the exchange is away."""
        return any(place in fault.where for fault in self.of("outage"))

    # ---- requests ----------------------------------------------------------------------------------------------

    def refuse(self, path: str, address: str) -> None:
        """Raise Refused where a switch wants this request refused."""
        if self.out("rest"):
            raise Refused(503, *UNAVAILABLE["down"])
        for fault in self.matching("status", path):
            raise _refusal(fault, address, self._clock.now_ms())

    def matching(self, kind: str, path: str) -> Iterator[Fault]:
        """Active faults of a kind that hit this request."""
        self._requests += 1
        number = b"%d" % self._requests
        return (fault for fault in self.of(kind) if fnmatchcase(path, fault.paths) and self.hits(fault, number))

    def rows_max(self, path: str, limit: int) -> int:
        """The limit, or fewer where pages are short."""
        return min([limit, *(max(1, fault.rows) for fault in self.matching("short", path))])

    # ---- rows --------------------------------------------------------------------------------------------------

    def candles(self, place: Place, dataset: str, symbol: str, interval: str, rows: Rows, file: str = "") -> Rows:
        """The candles as this place shows them; file: path of the archive's file."""
        for fault in self._historic(place, dataset, symbol, interval, file):
            inside = _inside(rows[:, OPEN_MS], fault)
            if fault.kind == "missing":
                rows = rows[~inside]
            elif fault.how == "tick":
                rows = rows.copy()
                rows[inside, CLOSE] += 1
                rows[:, HIGH] = np.maximum(rows[:, HIGH], rows[:, CLOSE])
            else:
                rows = rows.copy()
                for column in (VOLUME, QUOTE, COUNT, BUY, BUY_QUOTE):
                    rows[inside, column] = 0
        return rows

    def aggregates(self, place: Place, symbol: str, trades: Aggregates, file: str = "") -> Aggregates:
        """The aggregates as this place shows them."""
        for fault in self._historic(place, "aggTrades", symbol, "", file):
            inside = _inside(trades.at_ms, fault)
            if fault.kind == "missing":
                trades = trades.take(~inside)
            else:
                column, change = _altered(fault, trades.price, trades.quantity)
                trades = msgspec.structs.replace(trades, **{column: np.where(inside, change, getattr(trades, column))})
        return trades

    def fills(self, place: Place, symbol: str, trades: Fills, file: str = "") -> Fills:
        """The trades as this place shows them."""
        for fault in self._historic(place, "trades", symbol, "", file):
            inside = _inside(trades.at_ms, fault)
            if fault.kind == "missing":
                trades = trades.take(~inside)
            else:
                column, change = _altered(fault, trades.price, trades.quantity)
                trades = msgspec.structs.replace(trades, **{column: np.where(inside, change, getattr(trades, column))})
        return trades

    def slots(self, place: Place, symbol: str, slots: Iterable[int], file: str = "") -> list[int]:
        """The moments of funding that this place shows."""
        gone = [fault for fault in self._historic(place, "fundingRate", symbol, "", file) if fault.kind == "missing"]
        return [slot for slot in slots if not any(fault.from_ms <= slot < fault.until_ms for fault in gone)]

    def _historic(self, place: Place, dataset: str, symbol: str, interval: str, file: str) -> Iterator[Fault]:
        for fault in self.of("missing", "altered"):
            here = place in fault.where and fnmatchcase(file, fault.paths)
            if here and fault.concerns(dataset, symbol, interval):
                yield fault

    # ---- archives ----------------------------------------------------------------------------------------------

    def files(self, kind: str, path: str) -> bool:
        """Whether a file of the archive has this defect now. The pattern is of the name or of the whole path."""
        name = path.rsplit("/", 1)[-1]
        return any(
            (fnmatchcase(name, fault.paths) or fnmatchcase(path, fault.paths)) and self.hits(fault, name.encode())
            for fault in self.of(kind)
        )


def parse(words: dict[str, Any]) -> Fault:
    """A fault from what a caller sent. Raises BadQuery, naming what is wrong."""
    try:
        return msgspec.convert(words, Fault, strict=False)
    except msgspec.ValidationError as error:
        raise BadQuery("fault", words.get("kind"), f"{error}; kinds are {' '.join(KINDS)}") from error


def _inside(at_ms: Index, fault: Fault) -> Mask:
    inside: Mask = (at_ms >= fault.from_ms) & (at_ms < fault.until_ms)
    return inside


def _altered(fault: Fault, price: Index, quantity: Index) -> tuple[str, Index]:
    return ("price", price + 1) if fault.how == "tick" else ("quantity", quantity * 0)


def _refusal(fault: Fault, address: str, now_ms: int) -> Refused:
    headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
    match fault.status:
        case 403:
            return Refused(403, 0, "", headers, page=FORBIDDEN)
        case 418:
            return banned(address, now_ms + 1_000 * (fault.retry_after_s or 120), headers)
        case 429:
            return too_many(address, WEIGHT, headers)
        case 451:
            return Refused(451, 0, RESTRICTED, headers)
        case 503:
            return Refused(503, *UNAVAILABLE.get(fault.variant, UNAVAILABLE["unknown"]), headers)
        case 408:
            return Refused(408, -1007, "Timeout waiting for response from backend server.", headers)
        case status:
            return Refused(status, -1001, "Internal error; unable to process your request. Please try again.", headers)
