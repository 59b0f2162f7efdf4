"""Aggregate and single trades by pages of ids: several may share an instant, so only ids say where a page ended.

first id    the one after `after`, where that is known; else found by time, once
next page   last id + 1; a page may be shorter than asked for, so only an empty one is the end
piece       rows before the last instant of the page; those of that instant wait for the next page
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from data_manager.adapters.binance import rest_rows as rows
from data_manager.adapters.binance.gate import Gate, Reply, Request
from data_manager.adapters.binance.venues import AGGREGATE_PAGE, Venue
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Unavailable
from data_manager.domain.events import AggTrade
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, MINUTE_MS, SECOND_MS
from data_manager.ports.source import Fetched, Wanted

_LOOK_MS: Final = 10 * SECOND_MS
_LOOK_STEP: Final = 8
_LOOK_MAX_MS: Final = HOUR_MS  # documented: times of one request lie less than an hour apart


class Numbered(Struct, frozen=True):
    """How one kind of trade is asked for by id.

    first_of: the first id that can belong to an aggregate's time; overhang_ms: how much earlier to look for that.
    """

    name: str
    page: int
    weight: int
    decoder: msgspec.json.Decoder[Any]
    first_of: Callable[[AggTrade], int]
    overhang_ms: int = 0
    with_key: bool = False


def aggregates(venue: Venue) -> Numbered:
    """aggTrades."""
    return Numbered("aggTrades", AGGREGATE_PAGE, venue.aggregate_weight, rows.AGGREGATE, lambda found: found.agg_id)


def trades(venue: Venue) -> Numbered:
    """historicalTrades. Fills of an aggregate come up to 100 ms after its time."""
    return Numbered(
        "historicalTrades", venue.trade_page, venue.trade_weight, rows.TRADE, lambda found: found.first_trade_id,
        overhang_ms=SECOND_MS, with_key=venue.trades_need_key,
    )  # fmt: skip


async def numbered(
    gate: Gate, call: Numbered, wanted: Wanted, span: Span, origin: str
) -> AsyncGenerator[Fetched, None]:
    """Rows with a time in span, or where the held ids on both sides are known, those between them."""
    if wanted.after is not None and span.start_ms == wanted.span.start_ms:
        first = wanted.after + 1
    else:
        around = Span(span.start_ms - call.overhang_ms, span.end_ms)
        found = await _first_aggregate(gate, wanted.series.symbol, around)
        if isinstance(found, Reply):
            yield rows.piece(span, wanted.series, [], found, origin)
            return
        first = call.first_of(found)
    reader = _Reader(call, wanted, span)
    at_ms, next_id = span.start_ms, first
    waiting: list[Any] = []
    while True:
        params: dict[str, Any] = {"symbol": wanted.series.symbol, "fromId": next_id, "limit": call.page}
        reply = await gate.ask(Request(call.name, params, call.weight, rows.PAGE, with_key=call.with_key))
        read, refused = rows.read_rows(reply.value, call.decoder)
        found_rows = [one for one in read if reader.key(one) >= next_id]
        if reply.value and (not found_rows or max(map(reader.time, found_rows)) < at_ms - MINUTE_MS):
            raise Unavailable(f"{reply.request}: answered with other rows than asked for")
        is_last = reader.is_last(found_rows)
        waiting += filter(reader.is_wanted, found_rows)
        cut_ms = span.end_ms if is_last else max(at_ms, min(span.end_ms, max(map(reader.time, found_rows))))
        ready = [one for one in waiting if is_last or reader.time(one) < cut_ms]
        if is_last or cut_ms > at_ms:
            events = [rows.named(one, wanted.series.symbol) for one in ready]
            yield rows.piece(Span(at_ms, cut_ms), wanted.series, events, reply, origin, refused)
            waiting = [] if is_last else [one for one in waiting if reader.time(one) >= cut_ms]
        if is_last:
            return
        at_ms, next_id = cut_ms, max(map(reader.key, found_rows)) + 1


class _Reader:
    """What is wanted of pages, and when there is no more of it."""

    def __init__(self, call: Numbered, wanted: Wanted, span: Span) -> None:
        dataset = DATASETS[wanted.series.dataset]
        self._key, self._time = dataset.key[0], dataset.time
        self._span = span
        self._before = wanted.before if span.end_ms == wanted.span.end_ms else None
        self._by_id = span == wanted.span and None not in (wanted.after, wanted.before)

    def key(self, row: Any) -> int:
        return int(getattr(row, self._key))

    def time(self, row: Any) -> int:
        return int(getattr(row, self._time))

    def is_wanted(self, row: Any) -> bool:
        """By id where both ends are known: clocks of neighbours may err a little. Else by time as well."""
        if self._before is not None and self.key(row) >= self._before:
            return False
        return self._by_id or self._span.holds(self.time(row))

    def is_last(self, page: list[Any]) -> bool:
        """Whether nothing wanted can come after this page."""
        if not page or (self._before is not None and max(map(self.key, page)) >= self._before - 1):
            return True
        return not self._by_id and max(map(self.time, page)) >= self._span.end_ms


async def _first_aggregate(gate: Gate, symbol: str, span: Span) -> AggTrade | Reply[Any]:
    """The first aggregate with a time in span; where there is none, the last answer that says so.

    Which end of too full a window the venue answers with is not documented, so only a page that is not full counts.
    """
    at_ms, width_ms = span.start_ms, _LOOK_MS
    while True:
        end_ms = min(at_ms + width_ms, span.end_ms)
        params: dict[str, Any] = {
            "symbol": symbol, "startTime": at_ms, "endTime": end_ms - 1, "limit": AGGREGATE_PAGE,
        }  # fmt: skip
        reply = await gate.ask(Request("aggTrades", params, gate.venue.aggregate_weight, rows.PAGE))
        found, _ = rows.read_rows(reply.value, rows.AGGREGATE)
        if len(found) >= AGGREGATE_PAGE and width_ms > 1:
            width_ms = max(1, width_ms // _LOOK_STEP)
        elif found:
            return min(found, key=lambda one: one.agg_id)
        elif end_ms >= span.end_ms:
            return reply
        else:
            at_ms, width_ms = end_ms, min(width_ms * _LOOK_STEP, _LOOK_MAX_MS)
