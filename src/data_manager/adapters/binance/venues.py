"""Where the history of each market is asked for over REST, what a request costs there, and how far back it reaches.

    market   host     path       weight a minute   candles: page, weight   aggregates   single trades
    um       fapi     /fapi/v1/  2400, with cm     499 for 2               20, 48 h     200, a month, with a key
    cm       dapi     /dapi/v1/  the same pool     499 for 2, 200 days     20, 48 h     20, a month, with a key
    spot     api      /api/v3/   6000              1000 for 2              4            25

um was measured in October 2026; what stands here for cm and spot is what the venue documents.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from data_manager.domain.time import DAY_MS, HOUR_MS

WallMs = int | None


class Venue(Struct, frozen=True, kw_only=True):
    """One market's REST. Weights are per request; a wall is how far back answers reach, None for no bound."""

    market: str
    path: str
    setting: str  # of its address
    pool: str  # markets of one pool share one budget
    weight_per_minute: int
    candle_weight: Callable[[int], int]  # by the limit asked for
    candle_page: int  # rows of the page with the most rows per weight
    candle_span_max_ms: int | None = None  # of one request
    finds_next: bool = True  # whether a page begins at startTime, so that a limit of 1 finds the next candle
    aggregate_weight: int
    aggregate_wall_ms: WallMs
    trade_page: int
    trade_weight: int
    trade_wall_ms: WallMs
    trades_need_key: bool = True
    has_funding: bool = True
    has_mark_prices: bool = True


def _futures_candle_weight(limit: int) -> int:
    """Documented edges, which lie one below the measured ones."""
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1_000 else 10


AGGREGATE_PAGE: Final = 1_000
FUNDING_PAGE: Final = 1_000
FUNDING_REQUESTS: Final = 500
FUNDING_WINDOW_MS: Final = 300_000

_AGGREGATES_KEPT_MS: Final = 48 * HOUR_MS
_TRADES_KEPT_MS: Final = 30 * DAY_MS

VENUES: Final[dict[str, Venue]] = {
    "um": Venue(
        market="um", path="/fapi/v1/", setting="BINANCE_FAPI_BASE_URL", pool="futures", weight_per_minute=2_400,
        candle_weight=_futures_candle_weight, candle_page=499, aggregate_weight=20,
        aggregate_wall_ms=_AGGREGATES_KEPT_MS, trade_page=500, trade_weight=200, trade_wall_ms=_TRADES_KEPT_MS,
    ),
    "cm": Venue(
        market="cm", path="/dapi/v1/", setting="BINANCE_DAPI_BASE_URL", pool="futures", weight_per_minute=2_400,
        candle_weight=_futures_candle_weight, candle_page=499, candle_span_max_ms=200 * DAY_MS, finds_next=False,
        aggregate_weight=20, aggregate_wall_ms=_AGGREGATES_KEPT_MS, trade_page=500, trade_weight=20,
        trade_wall_ms=_TRADES_KEPT_MS,
    ),
    "spot": Venue(
        market="spot", path="/api/v3/", setting="BINANCE_API_BASE_URL", pool="spot", weight_per_minute=6_000,
        candle_weight=lambda limit: 2, candle_page=1_000, aggregate_weight=4, aggregate_wall_ms=None,
        trade_page=1_000, trade_weight=25, trade_wall_ms=None, trades_need_key=False, has_funding=False,
        has_mark_prices=False,
    ),
}  # fmt: skip
"""Every market we can ask, by its name."""
