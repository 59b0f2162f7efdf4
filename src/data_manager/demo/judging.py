"""What is held against what the exchange says is true, row for row: nothing lacking, nothing extra, nothing altered.

The exchange is asked for its truth on its control endpoint, which knows no fault, no limit and no wall of time; what is
held is read like anybody would, over HTTP. The two are brought together by a table of columns written for this, so that
a mistake of the service's decoder cannot hide in its own reflection. Numbers are compared exactly, to the last digit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from msgspec import Struct

from data_manager.demo.plan import FUNDED_MS, HISTORY_MS, WITH_TRADES
from data_manager.demo.watching import Hole
from data_manager.demo.world import World
from data_manager.domain.time import DAY_MS, MINUTE_MS, SECOND_MS

_AT_ONCE: Final = 4
_SETTLED_MS: Final = 2 * SECOND_MS  # a stream's first rows may be the middle of what shares an instant
_AFTER_MS: Final = 5 * SECOND_MS  # what happened may be said a little later
_Values = tuple[Any, ...]
_Rows = Mapping[Any, _Values]


class Verdict(Struct, kw_only=True):
    """What became of the comparison, of one series or of many."""

    dataset: str
    series: int = 0
    rows: int = 0  # that the exchange says there are
    lacking: int = 0
    excused: int = 0  # of a hole at the source itself, known and proven
    extra: int = 0
    altered: int = 0
    doubled: int = 0
    first: str = ""  # trouble, in words

    @property
    def holds(self) -> bool:
        """Whether it is all the same."""
        return not (self.lacking or self.extra or self.altered or self.doubled)

    def add(self, other: Verdict) -> None:
        """This and that together."""
        for name in ("series", "rows", "lacking", "excused", "extra", "altered", "doubled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first = self.first or other.first


class Span(NamedTuple):
    """Half open, in the dataset's time."""

    start_ms: int
    end_ms: int


class Subject(NamedTuple):
    """How one dataset is judged. held, true: a row as key and values, in the same order."""

    path: str
    held: Callable[[dict[str, Any]], tuple[Any, _Values]]
    true: Callable[[World, str, Span], Awaitable[_Rows]]
    since_ms: Callable[[str], int | None]  # of a symbol: where its history begins; None: with the first row held
    until_ms: Callable[[int], int] = int  # where it ends, of the instant up to which everything is judged
    more: Mapping[str, str] = {}


async def judge(world: World, until_ms: int, known: Sequence[Hole]) -> list[Verdict]:
    """Every series up to until_ms. known: holes of which it was proven that the source has nothing there."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(dataset: str, symbol: str) -> Verdict:
        async with turn:
            return await _judged(world, dataset, symbol, until_ms, known)

    verdicts = {name: Verdict(dataset=name) for name in SUBJECTS}
    for found in await asyncio.gather(*(one(name, symbol) for name in SUBJECTS for symbol in world.plan.symbols)):
        verdicts[found.dataset].add(found)
    return [*verdicts.values()]


async def _judged(world: World, dataset: str, symbol: str, until_ms: int, known: Sequence[Hole]) -> Verdict:
    subject = SUBJECTS[dataset]
    since_ms, until_ms = subject.since_ms(symbol), subject.until_ms(until_ms)
    words = {"pair": symbol, **subject.more}
    held = await world.rows(subject.path, start=HISTORY_MS if since_ms is None else since_ms, end=until_ms, **words)
    if since_ms is None and held:
        since_ms = _ms(held[0]["timestamp"]) + _SETTLED_MS
    span = Span(HISTORY_MS if since_ms is None else since_ms, until_ms)
    rows = [subject.held(row) for row in held if _ms(row["timestamp"]) >= span.start_ms]
    true = await subject.true(world, symbol, span)
    excused = [one for one in known if one.series.startswith(f"um.{dataset}.{symbol}")]
    verdict = compared(f"um.{dataset}.{symbol}", rows, true, excused)
    verdict.dataset, verdict.series = dataset, 1
    return verdict


def compared(series: str, rows: Sequence[tuple[Any, _Values]], true: _Rows, excused: Sequence[Hole]) -> Verdict:
    """Rows held against true ones, each by its key. excused: holes whose keys are times, and may be lacking."""
    held = dict(rows)
    times = Counter(key for key, _ in rows)
    lacking = [key for key in true if key not in held]
    proven = [key for key in lacking if any(one.start_ms <= key < one.end_ms for one in excused)]
    extra = [key for key in held if key not in true]
    altered = [key for key in held if key in true and not _same(held[key], true[key])]
    verdict = Verdict(
        dataset="",
        rows=len(true),
        lacking=len(lacking) - len(proven),
        excused=len(proven),
        extra=len(extra),
        altered=len(altered),
        doubled=sum(count - 1 for count in times.values()),
    )
    if not verdict.holds:
        proved = set(proven)
        some = {"lacking": [one for one in lacking if one not in proved], "extra": extra, "altered": altered}
        verdict.first = f"{series}: " + ", ".join(f"{what} {keys[:3]}" for what, keys in some.items() if keys)
        verdict.first += "".join(f"; {held[key]} is {true[key]}" for key in altered[:1])
    return verdict


def _same(ours: _Values, theirs: _Values) -> bool:
    if ours == theirs:
        return True
    return len(ours) == len(theirs) and all(_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, str) and isinstance(other, str):
        return Decimal(one) == Decimal(other)
    return False


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


# ---- the table ----------------------------------------------------------------------------------------------------


def _closed(until_ms: int) -> int:
    """Where the last candle begins that is over and was said by then."""
    return until_ms // MINUTE_MS * MINUTE_MS - MINUTE_MS


def _side(buyer_is_maker: bool) -> str:
    return "sell" if buyer_is_maker else "buy"


async def _true_candles(world: World, symbol: str, span: Span) -> _Rows:
    words = {
        "symbol": symbol, "interval": "1m", "startTime": span.start_ms, "endTime": span.end_ms - 1, "limit": 100_000,
    }  # fmt: skip
    return {
        row[0]: (row[1], row[2], row[3], row[4], row[5], row[7], row[8], row[9], row[10])
        for row in await world.truth("klines", **words)
    }


async def _true_aggregates(world: World, symbol: str, span: Span) -> _Rows:
    words = {"symbol": symbol, "startTime": span.start_ms, "endTime": span.end_ms - 1, "limit": 10_000_000}
    return {
        row["a"]: (row["T"], row["p"], row["q"], row["f"], row["l"], _side(row["m"]))
        for row in await world.truth("aggTrades", **words)
    }


async def _true_funding(world: World, symbol: str, span: Span) -> _Rows:
    words = {"symbol": symbol, "startTime": span.start_ms, "endTime": span.end_ms - 1, "limit": 1_000}
    return {
        row["fundingTime"] // MINUTE_MS * MINUTE_MS: (row["fundingRate"], row["markPrice"])
        for row in await world.truth("fundingRate", **words)
    }


def _of_stream(
    suffix: str, time: Callable[[dict[str, Any]], int], read: Callable[[dict[str, Any]], tuple[Any, _Values]]
) -> Callable[[World, str, Span], Awaitable[_Rows]]:
    async def true(world: World, symbol: str, span: Span) -> _Rows:
        name = "".join(one.lower() if one.isascii() else one for one in symbol)
        events = await world.said(f"{name}@{suffix}", span.start_ms - _AFTER_MS, span.end_ms + _AFTER_MS)
        return dict(read(one) for one in events if span.start_ms <= time(one) < span.end_ms)

    return true


def _levels(levels: list[dict[str, str]]) -> list[list[str]]:
    return [[one["price"], one["quantity"]] for one in levels]


SUBJECTS: Final[dict[str, Subject]] = {
    "candle": Subject(
        "candles",
        lambda row: (
            _ms(row["timestamp"]),
            (
                row["open"], row["high"], row["low"], row["close"], row["volume"], row["quote_volume"],
                row["trades_count"], row["taker_buy_volume"], row["taker_buy_quote_volume"],
            ),
        ),
        _true_candles, lambda _: HISTORY_MS, _closed, {"period": "1m"},
    ),
    "agg_trade": Subject(
        "agg_trades",
        lambda row: (
            row["agg_id"],
            (
                _ms(row["timestamp"]), row["price"], row["quantity"], row["first_trade_id"], row["last_trade_id"],
                row["side"],
            ),
        ),
        _true_aggregates, lambda symbol: HISTORY_MS + DAY_MS if symbol in WITH_TRADES else None,
    ),
    "funding_rate": Subject(
        "funding",
        lambda row: (_ms(row["timestamp"]), (row["funding_rate"], row["mark_price"])),
        _true_funding, lambda _: HISTORY_MS, lambda _: FUNDED_MS,
    ),
    "trade": Subject(
        "trades",
        lambda row: (
            row["trade_id"], (_ms(row["timestamp"]), row["price"], row["quantity"], row["side"], row["kind"]),
        ),
        _of_stream(
            "trade", lambda row: int(row["T"]),
            lambda row: (row["t"], (row["T"], row["p"], row["q"], _side(row["m"]), row["X"])),
        ),
        lambda _: None,
    ),
    "mark_price": Subject(
        "mark_prices",
        lambda row: (
            _ms(row["timestamp"]),
            (
                row["mark_price"], row["index_price"], row["estimated_settle_price"], row["funding_rate_estimate"],
                _ms(row["next_funding_time"]),
            ),
        ),
        _of_stream(
            "markPrice@1s", lambda row: int(row["E"]),
            lambda row: (row["E"], (row["p"], row["i"], row["P"], row["r"], row["T"])),
        ),
        lambda _: None,
    ),
    "depth": Subject(
        "depth",
        lambda row: (row["update_id"], (_ms(row["timestamp"]), _levels(row["bids"]), _levels(row["asks"]))),
        _of_stream(
            "depth5@500ms", lambda row: int(row["E"]), lambda row: (row["u"], (row["E"], row["b"], row["a"])),
        ),
        lambda _: None,
    ),
}  # fmt: skip
"""What is compared: of every symbol, every row."""
