"""Settled funding rates by pages of time. Their times jitter by milliseconds around the slots that we keep them by."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from data_manager.adapters.binance import rest_rows as rows
from data_manager.adapters.binance.gate import Gate, Request
from data_manager.adapters.binance.venues import FUNDING_PAGE
from data_manager.domain.batch import Refused
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Invalid
from data_manager.domain.events import Event
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, MINUTE_MS
from data_manager.ports.source import Fetched

JITTER_MS: Final = MINUTE_MS
"""More than a settlement was ever seen away from its slot (45 ms), and far less than slots lie apart."""


async def funding_rates(gate: Gate, series: Series, span: Span, origin: str) -> AsyncGenerator[Fetched, None]:
    """The rates whose slot lies in span. No interval is assumed: it differs by contract, and changes."""
    at_ms, from_ms = span.start_ms, span.start_ms - JITTER_MS
    last_ms = span.end_ms - 1 + JITTER_MS
    while True:
        params: dict[str, Any] = {
            "symbol": series.symbol, "startTime": from_ms, "endTime": last_ms, "limit": FUNDING_PAGE,
        }  # fmt: skip
        reply = await gate.ask(Request("fundingRate", params, 1, rows.PAGE, is_funding=True))
        rates, refused = rows.read_rows(reply.value, rows.FUNDING)
        events: list[Event] = []
        for position, rate in enumerate(rates):
            event = rows.funding_rate(rate)
            if isinstance(event, Invalid):
                refused.append(Refused(position, event))
            elif span.holds(rate.slot_ms) and rate.symbol == series.symbol:
                events.append(event)
        next_ms = max((rate.funding_ms + 1 for rate in rates), default=last_ms)
        next_slot_ms = -(-next_ms // HOUR_MS) * HOUR_MS
        is_last = not rates or next_slot_ms >= span.end_ms
        end_ms = span.end_ms if is_last else max(at_ms, next_slot_ms)
        if end_ms > at_ms:
            yield rows.piece(Span(at_ms, end_ms), series, events, reply, origin, refused)
        if is_last:
            return
        at_ms, from_ms = end_ms, next_ms
