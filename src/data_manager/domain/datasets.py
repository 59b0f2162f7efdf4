"""THE table: every dataset, declared once.

From a row here follow columns, storage, idempotent append, hole finding, freshness, backfill, retention, catalogue,
schema, routes, CLI words and metric labels. Adding a dataset is a row here, an event, a mapper in
adapters/binance/wire.py and a recorded payload in tests/wire.
"""

from data_manager.domain import events
from data_manager.domain.continuity import Chained, Grid, MaxSilence, Numbered, Schedule, Sparse
from data_manager.domain.dataset import Answer, Dataset, Keep
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from data_manager.domain.validity import (
    at_least,
    before,
    near,
    not_negative,
    positive,
    positive_unless_placeholder,
    priced_levels,
)

_CANDLE_DAYS = {
    "1m": 7, "3m": 14, "5m": 14, "15m": 30, "30m": 30, "1h": 90, "2h": 90, "4h": 180, "6h": 180, "8h": 180,
    "12h": 365, "1d": 365, "3d": 365, "1w": 730, "1M": 730,
}  # fmt: skip


def _same(*columns: str) -> tuple[Answer, ...]:
    return tuple(Answer(column, column) for column in columns)


_TABLE = (
    Dataset(
        name="trade",
        path="trades",
        alias="trades",
        event=events.Trade,
        key=("trade_id",),
        time="traded_ms",
        on_conflict=Keep.FIRST,
        continuity=Numbered(),
        fresh_within_ms=MINUTE_MS,
        refill=("archive:trades", "rest:historicalTrades"),
        retention_days=7,
        shed_from=0.98,
        rules=(
            positive_unless_placeholder("price", "quantity"), not_negative("quantity"), near("event_ms", "traded_ms"),
        ),
        answer=(
            Answer("timestamp", "traded_ms", "time"), *_same("trade_id", "price", "quantity"),
            Answer("side", "buyer_is_maker", "taker_side"), *_same("kind"),
        ),
        wire="trade",
        description="Individual fills: price in quote, quantity in base currency, side of the taker.",
    ),
    Dataset(
        name="agg_trade",
        path="agg_trades",
        alias="agg_trades",
        event=events.AggTrade,
        key=("agg_id",),
        time="traded_ms",
        on_conflict=Keep.FIRST,
        continuity=Numbered(),
        fresh_within_ms=MINUTE_MS,
        refill=("rest:aggTrades", "archive:aggTrades"),
        retention_days=7,
        shed_from=0.97,
        rules=(positive("price"), not_negative("quantity"), near("event_ms", "traded_ms")),
        answer=(
            Answer("timestamp", "traded_ms", "time"),
            *_same("agg_id", "price", "quantity", "plain_quantity", "first_trade_id", "last_trade_id"),
            Answer("side", "buyer_is_maker", "taker_side"),
        ),
        wire="aggTrade",
        description="Fills of one taker order at one price within 100 ms; ids are separate from trade ids.",
    ),
    Dataset(
        name="candle",
        path="candles",
        alias="candles",
        event=events.Candle,
        key=("open_ms",),
        time="open_ms",
        on_conflict=Keep.FINAL,
        continuity=Grid(),
        fresh_within_ms=MINUTE_MS,
        refill=("rest:klines", "archive:klines"),
        retention_days=_CANDLE_DAYS,
        rules=(
            positive("low"), at_least("high", "open"), at_least("high", "close"), at_least("open", "low"),
            at_least("close", "low"), not_negative("volume"), before("open_ms", "close_ms"),
        ),
        answer=(
            Answer("timestamp", "open_ms", "time"), *_same("open", "high", "low", "close", "volume", "quote_volume"),
            Answer("trades_count", "trades"), *_same("taker_buy_volume", "taker_buy_quote_volume"),
        ),
        wire="kline",
        live="closed",
        description="Closed candles by open time: OHLC in quote, volume in base, quote_volume in quote currency.",
    ),
    Dataset(
        name="depth",
        path="depth",
        alias="depth",
        event=events.Depth,
        key=("update_id",),
        time="event_ms",
        on_conflict=Keep.FIRST,
        continuity=MaxSilence(10 * SECOND_MS),
        fresh_within_ms=30 * SECOND_MS,
        refill=(),
        retention_days=1,
        shed_from=0.94,
        rules=(priced_levels("bids"), priced_levels("asks"), near("matched_ms", "event_ms")),
        answer=(Answer("timestamp", "event_ms", "time"), *_same("update_id", "bids", "asks", "clock")),
        wire="depth",
        description="The best levels of the book, whole each time: price in quote, quantity in base currency.",
    ),
    Dataset(
        name="depth_update",
        path="depth_updates",
        alias="depth_updates",
        event=events.DepthUpdate,
        key=("update_id",),
        time="event_ms",
        on_conflict=Keep.FIRST,
        continuity=Chained(),
        fresh_within_ms=30 * SECOND_MS,
        refill=(),
        retention_days=1,
        shed_from=0.92,
        rules=(priced_levels("bids"), priced_levels("asks"), near("matched_ms", "event_ms")),
        answer=(
            Answer("timestamp", "event_ms", "time"),
            *_same("update_id", "first_update_id", "previous_update_id", "bids", "asks"),
        ),
        wire="depth",
        description="Changed book levels; quantity 0 removes one. A broken chain starts a new segment.",
    ),
    Dataset(
        name="book_ticker",
        path="book_tickers",
        alias="book_tickers",
        event=events.BookTicker,
        key=("update_id",),
        time="event_ms",
        on_conflict=Keep.FIRST,
        continuity=MaxSilence(MINUTE_MS),
        fresh_within_ms=MINUTE_MS,
        refill=(),
        retention_days=1,
        shed_from=0.90,
        rules=(
            not_negative("bid"), not_negative("ask"), not_negative("bid_quantity"), not_negative("ask_quantity"),
            near("matched_ms", "event_ms"),
        ),
        answer=(
            Answer("timestamp", "event_ms", "time"),
            *_same("update_id", "bid", "bid_quantity", "ask", "ask_quantity", "clock"),
        ),
        wire="bookTicker",
        description="Best bid and ask at each change: prices in quote, quantities in base currency.",
    ),
    Dataset(
        name="mark_price",
        path="mark_prices",
        alias="mark_prices",
        event=events.MarkPrice,
        key=("event_ms",),
        time="event_ms",
        on_conflict=Keep.FIRST,
        continuity=MaxSilence(10 * SECOND_MS),
        fresh_within_ms=30 * SECOND_MS,
        refill=("rest:markPriceKlines", "archive:markPriceKlines"),
        retention_days=7,
        shed_from=0.96,
        rules=(positive("mark_price"),),
        answer=(
            Answer("timestamp", "event_ms", "time"),
            *_same(
                "mark_price", "mark_price_average", "index_price", "estimated_settle_price", "funding_rate_estimate",
            ),
            Answer("next_funding_time", "next_funding_ms", "time"),
        ),
        wire="markPrice",
        description="Mark and index price in quote currency, and the running estimate of the coming funding rate.",
    ),
    Dataset(
        name="funding_rate",
        path="funding",
        alias="funding_rates",
        event=events.FundingRate,
        key=("slot_ms", "rate_type"),
        time="slot_ms",
        on_conflict=Keep.FINAL,
        continuity=Schedule((8 * HOUR_MS, 4 * HOUR_MS, 2 * HOUR_MS, HOUR_MS)),
        fresh_within_ms=9 * HOUR_MS,
        refill=("rest:fundingRate", "archive:fundingRate"),
        retention_days=None,
        rules=(near("funding_ms", "slot_ms"),),
        answer=(
            Answer("timestamp", "slot_ms", "time"), *_same("funding_rate", "mark_price", "rate_type"),
            Answer("funding_time", "funding_ms", "time"),
        ),
        wire="fundingRate",
        description="Settled funding rates by settlement slot: a fraction of the position's value.",
    ),
    Dataset(
        name="ticker",
        path="tickers",
        alias="tickers",
        event=events.Ticker,
        key=("event_ms",),
        time="event_ms",
        on_conflict=Keep.FIRST,
        continuity=MaxSilence(MINUTE_MS),
        fresh_within_ms=MINUTE_MS,
        refill=(),
        retention_days=7,
        shed_from=0.95,
        rules=(not_negative("last_price"), not_negative("volume"), not_negative("quote_volume")),
        answer=(
            Answer("timestamp", "event_ms", "time"),
            *_same(
                "last_price", "last_quantity", "price_change", "price_change_percent", "weighted_average_price", "open",
                "high", "low", "volume", "quote_volume", "trades", "bid", "bid_quantity", "ask", "ask_quantity",
            ),
        ),
        wire="ticker",
        description="Rolling 24-hour statistics: prices in quote, volume in base, quote_volume in quote currency.",
    ),
    Dataset(
        name="liquidation",
        path="liquidations",
        alias="liquidations",
        event=events.Liquidation,
        key=("traded_ms", "price", "quantity", "side"),
        time="traded_ms",
        on_conflict=Keep.FIRST,
        continuity=Sparse(),
        fresh_within_ms=None,
        refill=(),
        retention_days=30,
        rules=(positive("price"), positive("quantity"), near("event_ms", "traded_ms")),
        answer=(
            Answer("timestamp", "traded_ms", "time"),
            *_same("side", "price", "quantity", "average_price", "last_filled_quantity", "filled_quantity", "status"),
        ),
        wire="forceOrder",
        description="Forced orders, at most one per symbol and second: a sample. SELL closes a long.",
    ),
    Dataset(
        name="metric",
        path="metrics",
        alias="analytics",
        event=events.Metric,
        key=("as_of_ms", "metric", "method", "window"),
        time="as_of_ms",
        on_conflict=Keep.FINAL,
        continuity=Grid(),
        fresh_within_ms=DAY_MS,
        refill=("recompute",),
        retention_days=365,
        rules=(),
        answer=(
            Answer("timestamp", "as_of_ms", "time"),
            *_same("metric", "method", "window", "value", "inputs_have", "inputs_need"),
        ),
        wire="metric",
        description="Derived figures by as-of time, method and window; value is null when there was too little data.",
    ),
)  # fmt: skip

DATASETS = {dataset.name: dataset for dataset in _TABLE}
"""Every dataset by name, in the order of the table."""

BY_EVENT = {dataset.event: dataset for dataset in _TABLE}
"""Every dataset by the event it stores."""
