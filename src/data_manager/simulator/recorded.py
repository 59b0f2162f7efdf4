"""Recordings instead of a market: their streams byte for byte, and the trades and candles that they hold.

What a recording does not say is not invented: with this source there is no mark price, no funding and no book to ask
for by REST, no archive, and an aggregate whose single trades were not recorded has none.
"""

import gzip
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Raw, Struct

from data_manager.domain.checks.bars import opens_of
from data_manager.domain.errors import BadQuery, Corrupt, NotFound
from data_manager.domain.time import MINUTE_MS
from data_manager.simulator import bars
from data_manager.simulator.bars import Rows
from data_manager.simulator.contracts import Contract
from data_manager.simulator.noise import Index
from data_manager.simulator.streams import Sent
from data_manager.simulator.tape import Aggregates, Bursts, Fills

ENDPOINTS: Final = frozenset((
    "ping", "time", "exchangeInfo", "klines", "continuousKlines", "aggTrades", "trades", "historicalTrades",
    "ticker/price",
))  # fmt: skip
"""What can be answered from a recording alone."""


class _Line(Struct):
    recv_ns: int
    msg: Raw


class _Frame(Struct):
    stream: str
    data: Raw


class _Event(Struct):
    """What is read of a payload."""

    e: str = ""
    E: int | None = None
    s: str = ""
    T: int = 0
    t: int = 0
    p: str = ""
    q: str = ""
    m: bool = False
    X: str = "MARKET"
    a: Any = None
    f: int = 0
    l: int = 0  # noqa: E741  # the venue's letter


class Recording(Struct):
    """What was read: events by stream, and the trades among them by symbol."""

    streams: dict[str, list[Sent]]
    trades: dict[str, list[_Event]]
    aggregates: dict[str, list[_Event]]
    start_ms: int
    end_ms: int


def read(files: Iterable[Path]) -> Recording:
    """All of it in memory. Raises NotFound, Corrupt (ends early, or is no recording) and BadQuery (nothing in it)."""
    found = Recording({}, {}, {}, 1 << 60, 0)
    for file in files:
        for number, line in _lines(file):
            try:
                _keep(found, line)
            except msgspec.DecodeError as error:
                raise Corrupt(f"{file}, line {number}: not a recorded message ({error})") from error
    if not found.streams:
        raise BadQuery("from-recordings", "", "holds no message")
    for events in found.streams.values():
        events.sort(key=lambda sent: sent.at_ms)
    for by_symbol in (found.trades, found.aggregates):
        for symbol, rows in by_symbol.items():
            by_symbol[symbol] = list({_id(row): row for row in sorted(rows, key=_id)}.values())
    return found


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as lines:
            yield from enumerate(lines, 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Corrupt(f"{file}: {error}") from error
    except OSError as error:
        raise NotFound(f"{file}: {error.strerror}") from error


_LINE = msgspec.json.Decoder(_Line)
_FRAME = msgspec.json.Decoder(_Frame)
_EVENT = msgspec.json.Decoder(_Event)


def _keep(found: Recording, text: bytes) -> None:
    line = _LINE.decode(text)
    frame = _FRAME.decode(line.msg)
    event = _EVENT.decode(frame.data)
    at_ms = line.recv_ns // 1_000_000 if event.E is None else event.E
    found.streams.setdefault(frame.stream, []).append(Sent(at_ms, bytes(frame.data)))
    found.start_ms, found.end_ms = min(found.start_ms, at_ms), max(found.end_ms, at_ms)
    if event.e == "trade":
        found.trades.setdefault(event.s, []).append(event)
    elif event.e == "aggTrade":
        found.aggregates.setdefault(event.s, []).append(event)


def _id(event: _Event) -> int:
    return int(event.a) if event.e == "aggTrade" else event.t


class RecordedFeed:
    """A Feed that replays. Names are those of the recording; skew does not show, payloads being what they are."""

    def __init__(self, recording: Recording) -> None:
        self._streams = recording.streams
        self._times = {name: [sent.at_ms for sent in events] for name, events in recording.streams.items()}

    def route(self, name: str) -> str | None:
        """See Feed."""
        if name not in self._streams:
            return None
        kind = name.split("@")[1] if "@" in name else name
        return "public" if kind.startswith(("trade", "bookTicker", "depth")) else "market"

    def events(self, name: str, after_ms: int, until_ms: int, skew_ms: int) -> list[Sent]:
        """See Feed."""
        times = self._times.get(name, [])
        return self._streams.get(name, [])[bisect_right(times, after_ms) : bisect_right(times, until_ms)]


class RecordedTape:
    """A Tape of what was recorded."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        symbols = sorted(recording.trades.keys() | recording.aggregates.keys())
        self.contracts: Mapping[str, Contract] = {symbol: _contract(symbol, recording) for symbol in symbols}
        self._fills = {symbol: _fills(recording.trades.get(symbol, ()), one) for symbol, one in self.contracts.items()}
        self._aggregates = {symbol: self._gathered(one) for symbol, one in self.contracts.items()}

    def aggregates(self, contract: Contract, start_ms: int, end_ms: int) -> Aggregates:
        """See Tape."""
        return self._aggregates[contract.symbol].between(start_ms, end_ms)

    def aggregates_from(self, contract: Contract, agg_id: int, count: int) -> Aggregates:
        """See Tape."""
        held = self._aggregates[contract.symbol]
        low = int(np.searchsorted(held.agg_id, agg_id))
        return held.take(slice(low, low + max(0, count)))

    def fills(self, trades: Aggregates, contract: Contract) -> Fills:
        """See Tape."""
        held = self._fills[contract.symbol]
        if len(trades) == 0:
            return held.take(slice(0, 0))
        return held.take((held.trade_id >= trades.first_id[0]) & (held.trade_id <= trades.last_id[-1]))

    def burned(self, trades: Aggregates) -> Bursts:
        """See Tape. The recorded stream has them already."""
        none = np.empty(0, np.int64)
        return Bursts(none, none, none.astype(np.bool_))

    def agg_id_of(self, contract: Contract, trade_id: int) -> int:
        """See Tape."""
        held = self._aggregates[contract.symbol]
        at = int(np.searchsorted(held.last_id, trade_id))
        return int(held.agg_id[min(at, len(held) - 1)])

    def candles(self, contract: Contract, interval: str, start_ms: int, end_ms: int, now_ms: int) -> Rows:
        """See Tape. The minute that the recording began in is not whole and is left out."""
        held = self._traded(contract)
        end_ms = min(end_ms, now_ms + 1, self._recording.end_ms + 1)
        start_ms = max(start_ms, -(-self._recording.start_ms // MINUTE_MS) * MINUTE_MS)
        open_ms = int(opens_of(np.array([start_ms]), interval)[0])
        minutes = np.arange(-(-start_ms // MINUTE_MS) * MINUTE_MS, min(now_ms, self._recording.end_ms) + 1, MINUTE_MS)
        if len(minutes) == 0 or len(held) == 0:
            return bars.empty()
        seen = held.between(0, now_ms + 1)
        fine = bars.from_aggregates(seen, minutes, MINUTE_MS, lambda: int(held.price[0]))
        rows = bars.coarser(fine, interval)
        opens = rows[:, bars.OPEN_MS]
        kept: Rows = rows[(opens >= (start_ms if interval == "1m" else open_ms)) & (opens < end_ms)]
        return kept

    def sampled_candles(
        self, contract: Contract, what: str, interval: str, start_ms: int, end_ms: int, now_ms: int
    ) -> Rows:
        """See Tape. There are none."""
        return bars.empty()

    def _traded(self, contract: Contract) -> Aggregates:
        """Single trades where they were recorded, for candles: else aggregates."""
        fills = self._fills[contract.symbol]
        return _as_aggregates(fills) if len(fills) else self._aggregates[contract.symbol]

    def _gathered(self, contract: Contract) -> Aggregates:
        events = self._recording.aggregates.get(contract.symbol)
        if not events:
            return _as_aggregates(self._fills[contract.symbol])
        quantity = _units([event.q for event in events], contract.quantity_precision)
        first, last = _whole(event.f for event in events), _whole(event.l for event in events)
        return Aggregates(
            _whole(int(event.a) for event in events), _whole(event.T for event in events),
            _units([event.p for event in events], contract.price_precision), quantity, quantity,
            np.array([event.m for event in events], np.bool_), first, last - first + 1, first * 0,
            first.astype(np.uint64),
        )  # fmt: skip


def _contract(symbol: str, recording: Recording) -> Contract:
    """As far as it shows: the digits of prices and quantities, and since when."""
    events = [*recording.trades.get(symbol, ()), *recording.aggregates.get(symbol, ())]
    real = [event for event in events if event.p.strip("0.")]
    return Contract(
        symbol=symbol, base_asset=symbol.removesuffix("USDT"), pair=symbol.split("_", maxsplit=1)[0],
        onboard_ms=min(event.T for event in events),
        price_precision=max(len(event.p.partition(".")[2]) for event in real),
        quantity_precision=max(len(event.q.partition(".")[2]) for event in real),
        base_price=1, swing_ppb=0, pace=0, quantity_scale=1, funding_hours=(),
    )  # fmt: skip


def _fills(events: Sequence[_Event], contract: Contract) -> Fills:
    """The trades of the book: no placeholders, nothing of the insurance fund."""
    real = [event for event in events if event.X == "MARKET" and event.p.strip("0.")]
    none = np.zeros(len(real), np.bool_)
    return Fills(
        _whole(event.t for event in real), _whole(event.T for event in real),
        _units([event.p for event in real], contract.price_precision),
        _units([event.q for event in real], contract.quantity_precision),
        np.array([event.m for event in real], np.bool_), none,
    )  # fmt: skip


def _as_aggregates(fills: Fills) -> Aggregates:
    """Every trade as an aggregate of its own."""
    one = np.ones(len(fills), np.int64)
    return Aggregates(
        fills.trade_id, fills.at_ms, fills.price, fills.quantity, fills.quantity, fills.buyer_is_maker, fills.trade_id,
        one, one * 0, one.astype(np.uint64),
    )  # fmt: skip


def _units(texts: Sequence[str], digits: int) -> Index:
    wholes = (text.partition(".") for text in texts)
    return _whole(int(whole + part.ljust(digits, "0")) for whole, _, part in wholes)


def _whole(numbers: Iterable[int]) -> Index:
    return np.fromiter(numbers, np.int64)
