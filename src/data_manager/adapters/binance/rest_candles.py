"""Candles by pages: spans of time that hold no more rows than a page, some of them asked for ahead.

    |--- page ---|--- page ---|--- page ---|     asked for side by side, handed over in order
    ############   ##   ######               a page that ends early is asked for its rest: it may have been cut short
                              ------------>  an empty one: where does the next candle open? all before it is absent

The venue includes both ends of a span in open time. A candle is closed when both clocks, the venue's and ours, say so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Final

from msgspec import Raw, Struct

from data_manager.adapters.binance import rest_rows as rows
from data_manager.adapters.binance.gate import Gate, Reply, Request
from data_manager.adapters.binance.rest_rows import CandleRow
from data_manager.domain.batch import Refused
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Unavailable
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, INTERVALS_MS, MINUTE_MS, SECOND_MS, iso, next_open_ms, opens_candle
from data_manager.ports.source import Fetched

SETTLED_AFTER_MS: Final = 5 * SECOND_MS
"""So long after its end the venue may still correct a candle."""

AHEAD: Final = 6
"""Pages on their way: at two weights each the budget of a minute allows twelve a second."""
_SHORTEST_MONTH_MS: Final = 28 * DAY_MS


class _Page(Struct):
    reply: Reply[list[Raw]]
    rows: list[CandleRow]
    refused: list[Refused]
    index: dict[int, CandleRow]  # by open time, where index prices were asked for too


_Read = Callable[[int, int, int], Coroutine[Any, Any, _Page]]
"""Rows with low_ms <= open time < high_ms, at most so many, the first ones."""


async def candles(gate: Gate, series: Series, span: Span, origin: str) -> AsyncGenerator[Fetched, None]:
    """The closed candles that open in span."""
    interval = series.interval
    assert interval is not None, "candles have an interval"

    async def read(low_ms: int, high_ms: int, limit: int) -> _Page:
        return await _page(gate, "klines", {"symbol": series.symbol, "interval": interval}, low_ms, high_ms, limit)

    async with aclosing(_walk(gate, read, span, interval)) as pages:
        async for part, page in pages:
            _require_closed(gate, series, page.rows)
            events = [rows.candle(row, series) for row in page.rows]
            yield rows.piece(part, series, events, page.reply, origin, page.refused)


async def mark_prices(gate: Gate, series: Series, span: Span, origin: str) -> AsyncGenerator[Fetched, None]:
    """The last mark and index price of every minute that ends in span."""
    pair = series.symbol.partition("_")[0]

    async def read(low_ms: int, high_ms: int, limit: int) -> _Page:
        names = ({"symbol": series.symbol, "interval": "1m"}, {"pair": pair, "interval": "1m"})
        marks, indexes = await asyncio.gather(
            _page(gate, "markPriceKlines", names[0], low_ms, high_ms, limit),
            _page(gate, "indexPriceKlines", names[1], low_ms, high_ms, limit),
        )
        marks.index = {row.open_ms: row for row in indexes.rows}
        return marks

    opens = Span(span.start_ms - MINUTE_MS + 1, span.end_ms - MINUTE_MS + 1)  # a minute's row stands at its end
    async with aclosing(_walk(gate, read, opens, "1m")) as pages:
        async for part, page in pages:
            _require_closed(gate, series, page.rows)
            events = [rows.mark_price(row, page.index.get(row.open_ms), series) for row in page.rows]
            moved = Span(part.start_ms + MINUTE_MS - 1, part.end_ms + MINUTE_MS - 1)
            yield rows.piece(moved, series, events, page.reply, origin, page.refused)


def _require_closed(gate: Gate, series: Series, found: Sequence[CandleRow]) -> None:
    """Raise Unavailable where a candle is still open, by either clock: no offer of ours asks for it."""
    over_ms = gate.clock.earliest_ms() - SETTLED_AFTER_MS
    for row in found[-1:]:
        if row.close_ms >= over_ms:
            wait_s = (row.close_ms + 1 - over_ms) / 1_000
            raise Unavailable(f"{series} at {iso(row.open_ms)} is not closed yet", retry_after_s=wait_s)


async def _page(gate: Gate, name: str, who: dict[str, str], low_ms: int, high_ms: int, limit: int) -> _Page:
    params: dict[str, Any] = {**who, "startTime": low_ms, "endTime": high_ms - 1, "limit": limit}
    reply = await gate.ask(Request(name, params, gate.venue.candle_weight(limit), rows.PAGE))
    found, refused = rows.read_rows(reply.value, rows.CANDLE)
    inside = sorted((row for row in found if low_ms <= row.open_ms < high_ms), key=lambda row: row.open_ms)
    beside = [row for row in inside if not opens_candle(row.open_ms, who["interval"])]
    refused += (rows.beside(row, who["interval"]) for row in beside)
    return _Page(reply, [row for row in inside if row not in beside] if beside else inside, refused, {})


async def _walk(gate: Gate, read: _Read, span: Span, interval: str) -> AsyncGenerator[tuple[Span, _Page], None]:
    """Every part of span in order, each with the page that holds all there is of it."""
    venue = gate.venue
    length_ms = INTERVALS_MS[interval] or _SHORTEST_MONTH_MS
    width_ms = min(venue.candle_page * length_ms, venue.candle_span_max_ms or 1 << 62)
    starts = range(span.start_ms, span.end_ms, width_ms)

    def ask(low_ms: int, high_ms: int) -> Coroutine[Any, Any, _Page]:
        return read(low_ms, high_ms, -(-(high_ms - low_ms) // length_ms))

    def end(number: int) -> int:
        return min(starts[number] + width_ms, span.end_ms)

    number = 0
    ahead: dict[int, asyncio.Task[_Page]] = {}
    try:
        while number < len(starts):
            for one in range(number, min(number + AHEAD, len(starts))):
                if one not in ahead:
                    ahead[one] = asyncio.create_task(ask(starts[one], end(one)), name=f"page {one}")
            low_ms, high_ms = starts[number], end(number)
            page = await ahead.pop(number)
            number += 1
            while page.rows and (reached_ms := next_open_ms(page.rows[-1].open_ms, interval)) < high_ms:
                yield Span(low_ms, reached_ms), page
                low_ms = reached_ms
                page = await ask(low_ms, high_ms)
            yield Span(low_ms, high_ms), page
            if not page.rows and low_ms == starts[number - 1] and number < len(starts) and venue.finds_next:
                after = await read(high_ms, span.end_ms, 1)
                number = (after.rows[0].open_ms - span.start_ms) // width_ms if after.rows else len(starts)
                next_ms = starts[number] if number < len(starts) else span.end_ms
                if next_ms > high_ms:
                    yield Span(high_ms, next_ms), _Page(after.reply, [], after.refused, {})
                await _dropped([ahead.pop(one) for one in list(ahead) if one < number])
    finally:
        await _dropped(ahead.values())


async def _dropped(tasks: Collection[asyncio.Task[_Page]]) -> None:
    """Let go of pages nobody wants any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
