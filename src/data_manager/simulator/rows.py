"""How the REST interface words what happened: the exact shapes of its answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_manager.domain.checks.bars import next_opens
from data_manager.domain.time import DAY_MS, MINUTE_MS
from data_manager.simulator import bars
from data_manager.simulator.answers import Units, decimal
from data_manager.simulator.bars import Rows
from data_manager.simulator.books import Side
from data_manager.simulator.contracts import Contract
from data_manager.simulator.tape import Aggregates, Fills

_MARK_DIGITS = 8


def klines(rows: Rows, interval: str, units: Units) -> list[list[Any]]:
    """Twelve fields a candle; the last is always "0"."""
    closes = (next_opens(rows[:, bars.OPEN_MS], interval) - 1).tolist()
    price, quantity, quote = units.price, units.quantity, units.quote
    return [
        [
            one[0], decimal(one[1], price), decimal(one[2], price), decimal(one[3], price), decimal(one[4], price),
            decimal(one[5], quantity), close, decimal(one[6], quote), one[7], decimal(one[8], quantity),
            decimal(one[9], quote), "0",
        ]
        for one, close in zip(rows.tolist(), closes, strict=True)
    ]  # fmt: skip


def sampled_klines(rows: Rows, interval: str) -> list[list[Any]]:
    """Of mark, index or premium: only prices and the number of samples mean something."""
    closes = (next_opens(rows[:, bars.OPEN_MS], interval) - 1).tolist()
    return [
        [one[0], *(decimal(one[at], _MARK_DIGITS) for at in range(1, 5)), "0", close, "0", one[7], "0", "0", "0"]
        for one, close in zip(rows.tolist(), closes, strict=True)
    ]


def aggregates(trades: Aggregates, units: Units) -> list[dict[str, Any]]:
    columns = (
        trades.agg_id, trades.price, trades.quantity, trades.plain_quantity, trades.first_id, trades.last_id,
        trades.at_ms, trades.buyer_is_maker,
    )  # fmt: skip
    facts = zip(*map(np.ndarray.tolist, columns), strict=True)
    return [
        {
            "a": agg_id, "p": decimal(price, units.price), "q": decimal(quantity, units.quantity),
            "nq": decimal(plain, units.quantity), "f": first, "l": last, "T": at_ms, "m": maker,
        }
        for agg_id, price, quantity, plain, first, last, at_ms, maker in facts
    ]  # fmt: skip


def trades(fills: Fills, units: Units) -> list[dict[str, Any]]:
    """quoteQty is cut to the digits of a price, as the venue does."""
    columns = (fills.trade_id, fills.price, fills.quantity, fills.at_ms, fills.buyer_is_maker, fills.improved)
    cut = 10**units.quantity
    return [
        {
            "id": trade_id, "price": decimal(price, units.price), "qty": decimal(quantity, units.quantity),
            "quoteQty": decimal(price * quantity // cut, units.price), "time": at_ms, "isBuyerMaker": maker,
            "isRPITrade": improved,
        }
        for trade_id, price, quantity, at_ms, maker, improved in zip(*map(np.ndarray.tolist, columns), strict=True)
    ]  # fmt: skip


def levels(side: Side, units: Units) -> list[tuple[str, str]]:
    """[price, quantity], from the best price outwards."""
    pairs = zip(side.price.tolist(), side.quantity.tolist(), strict=True)
    return [(decimal(price, units.price), decimal(quantity, units.quantity)) for price, quantity in pairs]


def day_of(contract: Contract, rows: Rows, last_quantity: int, closed_ms: int) -> dict[str, Any]:
    """The rolling 24 hours as ticker/24hr has them; rows: candles from the minute 24 hours ago until now."""
    units = Units.of(contract)
    [total] = bars.coarser(np.column_stack([np.zeros(len(rows), np.int64), rows[:, 1:]]), "1M").tolist()
    opened, high, low, close, volume, quote, count = total[1:8]
    change = close - opened
    average = quote // volume if volume else close
    return {
        "symbol": contract.symbol,
        "priceChange": decimal(change, units.price),
        "priceChangePercent": decimal(_rounded(change * 100_000, opened), 3),
        "weightedAvgPrice": decimal(average, units.price),
        "lastPrice": decimal(close, units.price),
        "lastQty": decimal(last_quantity, units.quantity),
        "openPrice": decimal(opened, units.price),
        "highPrice": decimal(high, units.price),
        "lowPrice": decimal(low, units.price),
        "volume": decimal(volume, units.quantity),
        "quoteVolume": decimal(quote // 10 ** max(0, units.quote - 2), min(2, units.quote)),
        "openTime": closed_ms // MINUTE_MS * MINUTE_MS - DAY_MS,
        "closeTime": closed_ms,
        "firstId": total[10],
        "lastId": total[11],
        "count": count,
    }


def _rounded(above: int, below: int) -> int:
    return (2 * above + below) // (2 * below)


def known(contracts: Sequence[Contract]) -> list[Contract]:
    """Those of this market: the rows of COIN-M belong to the streams of all markets only."""
    return [one for one in contracts if one.market == "um"]
