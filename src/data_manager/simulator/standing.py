"""What stands behind the contracts: composition of indices, constituents of index prices, the insurance fund, sessions.

The shapes are the venue's. The figures are nominal: nothing else follows from them, and markets never close here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from data_manager.domain.time import DAY_MS, MINUTE_MS
from data_manager.simulator.answers import decimal
from data_manager.simulator.contracts import Contract
from data_manager.simulator.quotes import Quotes

INDEX: Final = "INDEX"
_WEIGHTS: Final = 10**8
_FUND: Final = 79_393_057_931_584
_CLASSES: Final = {"COMMODITY": "COMMODITY", "EQUITY": "EQUITY"}  # of sessions, by the kind of what underlies


class Part(NamedTuple):
    """One asset of an index, against its base: its weight, and how much of it, in 10**-8."""

    asset: str
    weight: int
    quantity: int


def parts(index: Contract, contracts: Iterable[Contract]) -> list[Part]:
    """What an index is made of: every coin there is but its own base, the same of each."""
    base = base_of(index)
    assets = sorted({one.base_asset for one in contracts if one.underlying == "COIN" and one.market == "um"} - {base})
    each, rest = divmod(_WEIGHTS, len(assets) or 1)
    return [
        Part(asset, each + (rest if place == 0 else 0), 10 * each // (place + 1)) for place, asset in enumerate(assets)
    ]


def base_of(index: Contract) -> str:
    """BTC of BTCDOM."""
    return index.base_asset.removesuffix("DOM")


def index_info(index: Contract, contracts: Iterable[Contract], now_ms: int) -> dict[str, Any]:
    """As indexInfo has it."""
    return {
        "symbol": index.symbol,
        "time": now_ms // MINUTE_MS * MINUTE_MS,
        "component": "quoteAsset",
        "baseAssetList": [
            {
                "baseAsset": base_of(index),
                "quoteAsset": one.asset,
                "weightInQuantity": decimal(one.quantity, 8),
                "weightInPercentage": decimal(one.weight, 8),
            }
            for one in parts(index, contracts)
        ],
    }


def constituents(contract: Contract, quotes: Quotes, now_ms: int, shown_ms: int) -> dict[str, Any]:
    """As constituents has it: one market, whose price is the index price."""
    price = decimal(quotes.mark(contract, "index", now_ms), 8)
    one = {"exchange": "binance", "symbol": contract.pair, "price": price, "weight": "1.00000000"}
    return {"symbol": contract.symbol, "time": shown_ms, "constituents": [one]}


def insurance(contracts: Iterable[Contract], now_ms: int) -> list[dict[str, Any]]:
    """As insuranceBalance has it: a fund for each asset that contracts are settled in."""
    listed = list(contracts)
    return [
        {
            "symbols": sorted(one.symbol for one in listed if one.quote_asset == asset),
            "assets": [{"asset": asset, "marginBalance": decimal(_FUND, 6), "updateTime": now_ms // DAY_MS * DAY_MS}],
        }
        for asset in sorted({one.quote_asset for one in listed})
    ]


def deleveraging(contract: Contract, now_ms: int) -> dict[str, Any]:
    """As symbolAdlRisk has it."""
    return {"symbol": contract.symbol, "adlRisk": "low", "updateTime": now_ms // (30 * MINUTE_MS) * 30 * MINUTE_MS}


def schedule(contracts: Iterable[Contract], now_ms: int) -> dict[str, Any]:
    """As tradingSchedule has it: of each market whose contracts are listed, the days of a week."""
    first_ms = now_ms // DAY_MS * DAY_MS
    sessions = [
        {"startTime": start_ms, "endTime": start_ms + DAY_MS, "type": "REGULAR"}
        for start_ms in range(first_ms, first_ms + 7 * DAY_MS, DAY_MS)
    ]
    return {"updateTime": first_ms, "marketSchedules": {one: {"sessions": sessions} for one in markets(contracts)}}


def markets(contracts: Iterable[Contract]) -> Sequence[str]:
    """COMMODITY and EQUITY, where there are contracts of them."""
    return sorted({_CLASSES[one.underlying] for one in contracts if one.underlying in _CLASSES})
