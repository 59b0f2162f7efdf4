"""What REST can be asked for now, and how long that takes: by the budget, or by the way there and back.

call                     rows                      reaches back                    up to
rest:klines              closed candles            to the listing                  the candle before the open one
rest:markPriceKlines     a mark price a minute     to the listing, coarse          the same
rest:aggTrades           aggregate trades          48 h (um, cm)                   2 s ago
rest:historicalTrades    single trades             a month (um, cm), with a key    2 s ago
rest:fundingRate         settled funding           to the listing                  the last full minute
"""

from collections.abc import Sequence
from typing import Final

from data_manager.adapters.binance.gate import Gate
from data_manager.adapters.binance.rest_candles import AHEAD, SETTLED_AFTER_MS
from data_manager.adapters.binance.rest_funding import JITTER_MS
from data_manager.adapters.binance.rest_numbered import Numbered, aggregates, trades
from data_manager.adapters.binance.venues import FUNDING_PAGE, WallMs
from data_manager.domain.span import Span
from data_manager.domain.time import (
    DAY_MS,
    EARLIEST_MS,
    HOUR_MS,
    INTERVALS_MS,
    MINUTE_MS,
    SECOND_MS,
    floor_open_ms,
)
from data_manager.ports.source import Offer, Wanted

ROUND_TRIP_S: Final = 0.3  # a request, its answer read and stored
_ROWS_PER_S: Final = 4  # of trades, where nothing better is known
_WALL_MARGIN_MS: Final = 10 * MINUTE_MS  # the wall moves while we ask
_TRADED_MS: Final = 2 * SECOND_MS  # so long after it a trade has its place


def offered_candles(gate: Gate, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
    """Candles that are over by our clock and by the venue's."""
    interval = wanted.series.interval
    assert interval is not None, "candles have an interval"
    length_ms = INTERVALS_MS[interval] or 28 * DAY_MS
    settled_ms = _venue_ms(gate, now_ms) - SETTLED_AFTER_MS
    # Where 3d is anchored is not documented: one that began less than three days ago may be open.
    end_ms = settled_ms - length_ms + 1 if interval == "3d" else floor_open_ms(settled_ms, interval)
    return _candles(gate, "rest:klines", _within(wanted.span, EARLIEST_MS, end_ms), length_ms)


def offered_mark_prices(gate: Gate, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
    """One mark price at the end of every minute that is over, where there are contracts."""
    end_ms = floor_open_ms(_venue_ms(gate, now_ms) - SETTLED_AFTER_MS, "1m")
    span = _within(wanted.span, EARLIEST_MS, end_ms) if gate.venue.has_mark_prices else None
    return _candles(gate, "rest:markPriceKlines", span, MINUTE_MS, times=2, coarse=True)


def offered_aggregates(gate: Gate, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
    """Aggregate trades behind the wall."""
    venue = gate.venue
    return _numbered(
        gate, "rest:aggTrades", wanted, _behind(wanted.span, venue.aggregate_wall_ms, now_ms), aggregates(venue)
    )


def offered_trades(gate: Gate, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
    """Single trades behind the wall, with a key; where the first id is not known, only as far back as aggregates go."""
    venue = gate.venue
    if venue.trades_need_key and not gate.has_key:
        return []
    span = _behind(wanted.span, venue.trade_wall_ms, now_ms)
    if span is not None and (wanted.after is None or span.start_ms != wanted.span.start_ms):
        span = _behind(span, venue.aggregate_wall_ms, now_ms)
    return _numbered(gate, "rest:historicalTrades", wanted, span, trades(venue))


def offered_funding(gate: Gate, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
    """Settlements of contracts that have funding."""
    span = _within(wanted.span, EARLIEST_MS, _venue_ms(gate, now_ms) - JITTER_MS)
    if span is None or not gate.venue.has_funding:
        return []
    requests = 1 + (span.end_ms - span.start_ms) // (8 * HOUR_MS * FUNDING_PAGE)
    seconds = max(gate.funding.seconds_for(requests), requests * ROUND_TRIP_S)
    return [Offer(call="rest:fundingRate", span=span, seconds=seconds)]


def _venue_ms(gate: Gate, now_ms: int) -> int:
    """The earlier of our time and the venue's."""
    return now_ms + min(0, gate.clock.ahead_ms)


def _behind(span: Span, wall_ms: WallMs, now_ms: int) -> Span | None:
    start_ms = EARLIEST_MS if wall_ms is None else now_ms - wall_ms + _WALL_MARGIN_MS
    return _within(span, start_ms, now_ms - _TRADED_MS)


def _within(span: Span, start_ms: int, end_ms: int) -> Span | None:
    start_ms, end_ms = max(span.start_ms, start_ms), min(span.end_ms, end_ms)
    return Span(start_ms, end_ms) if start_ms < end_ms else None


def _candles(
    gate: Gate, call: str, span: Span | None, length_ms: int, *, times: int = 1, coarse: bool = False
) -> Sequence[Offer]:
    """times: requests for each page."""
    if span is None:
        return []
    page = gate.venue.candle_page
    pages, rest = divmod(-(-(span.end_ms - span.start_ms) // length_ms), page)
    weight = pages * gate.venue.candle_weight(page) + (gate.venue.candle_weight(rest) if rest else 0)
    seconds = max(gate.weight.seconds_for(times * weight), ROUND_TRIP_S * (1 + pages / AHEAD))
    return [Offer(call=call, span=span, seconds=seconds, coarse=coarse)]


def _numbered(gate: Gate, call: str, wanted: Wanted, span: Span | None, how: Numbered) -> Sequence[Offer]:
    if span is None:
        return []
    share = (span.end_ms - span.start_ms) / (wanted.span.end_ms - wanted.span.start_ms)
    if wanted.after is None or wanted.before is None:
        rows = _ROWS_PER_S * (span.end_ms - span.start_ms) / SECOND_MS
    else:
        rows = share * (wanted.before - wanted.after - 1)
    requests = 1 + int(rows / how.page) + (wanted.after is None)
    seconds = max(gate.weight.seconds_for(requests * how.weight), requests * ROUND_TRIP_S)
    return [Offer(call=call, span=span, seconds=seconds)]
