"""Small true batches for the store's tests: any dataset, any number of series, rows that are facts."""

from collections.abc import Sequence

from data_manager.domain.batch import STREAM, Batch, joined, pack, settle
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.events import AggTrade, Candle, DepthUpdate, Event, Liquidation, Number, Trade

BASE_MS = 1_700_000_040_000  # a full minute


def trade(number: int, symbol: str = "BTCUSDT", price: str = "1.50", jitter_ms: int = 0) -> Trade:
    """traded_ms follows the id, give or take jitter_ms."""
    return Trade(
        symbol=symbol, trade_id=number, price=Number(price), quantity=Number("2"), traded_ms=BASE_MS + 10 * number + jitter_ms,
        buyer_is_maker=number % 3 == 0, kind="MARKET", event_ms=BASE_MS + 10 * number + jitter_ms + 3,
    )  # fmt: skip


def agg_trade(number: int, symbol: str = "BTCUSDT") -> AggTrade:
    return AggTrade(
        symbol=symbol, agg_id=number, price=Number("1.5"), quantity=Number("3"), first_trade_id=number, last_trade_id=number + 1,
        traded_ms=BASE_MS + number, buyer_is_maker=False,
    )  # fmt: skip


def candle(
    minute: int,
    close: str = "2.0",
    *,
    closed: bool = True,
    late_ms: int = 0,
    symbol: str = "BTCUSDT",
    interval: str = "1m",
) -> Candle:
    open_ms = BASE_MS + minute * 60_000
    return Candle(
        symbol=symbol, interval=interval, open_ms=open_ms, open=Number("2"), high=Number("9.00"), low=Number("1"),
        close=Number(close), volume=Number("10.5"), trades=7, close_ms=open_ms + 59_999, closed=closed,
        event_ms=open_ms + (60_000 if closed else 30_000) + late_ms,
    )  # fmt: skip


def depth_update(number: int, symbol: str = "BTCUSDT") -> DepthUpdate:
    levels = [(Number(f"{100 - step}.5"), Number("0" if step % 2 else "1.25")) for step in range(number % 4)]
    return DepthUpdate(
        symbol=symbol, update_id=number, first_update_id=number, previous_update_id=None if number % 5 == 0 else number - 1,
        event_ms=BASE_MS + number, bids=levels, asks=[],
    )  # fmt: skip


def liquidation(second: int, quantity: str = "1", side: str = "SELL") -> Liquidation:
    return Liquidation(
        symbol="BTCUSDT", traded_ms=BASE_MS + second * 1000, price=Number("5"), quantity=Number(quantity), side=side,
        average_price=Number("5"), last_filled_quantity=Number("1"), filled_quantity=Number("1"), order_type="LIMIT",
        time_in_force="IOC", status="FILLED",
    )  # fmt: skip


def batch_of(events: Sequence[Event], origin: str = STREAM, received_ms: int = BASE_MS) -> Batch:
    """The events, all of one dataset, as one settled batch of market um."""
    return pack(BY_EVENT[type(events[0])], "um", events, [received_ms] * len(events), origin).batch


def mixed(batches: Sequence[Batch]) -> Batch:
    """Batches of different origins as one."""
    return settle(joined(list(batches)))
