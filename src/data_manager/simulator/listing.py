"""exchangeInfo and fundingInfo: what is listed, in the venue's shapes."""

from collections.abc import Iterable
from typing import Any, Final

from data_manager.simulator.answers import decimal
from data_manager.simulator.contracts import Contract, interval_ms
from data_manager.simulator.limits import WEIGHT_PER_MINUTE
from data_manager.simulator.noise import key_of

_ORDER_TYPES: Final = [
    "LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET",
]  # fmt: skip


def exchange_info(contracts: Iterable[Contract], now_ms: int, weight: int = WEIGHT_PER_MINUTE) -> dict[str, Any]:
    """The whole of it."""
    listed = list(contracts)
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1_200},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300},
        ],
        "exchangeFilters": [],
        "assets": [
            {"asset": asset, "marginAvailable": True, "autoAssetExchange": "-10000"}
            for asset in sorted({one.quote_asset for one in listed})
        ],
        "symbols": [_symbol(one, now_ms) for one in listed],
    }


def funding_info(contracts: Iterable[Contract], now_ms: int) -> list[dict[str, Any]]:
    """Of every contract that has funding: its interval now, and its cap."""
    return [
        {
            "symbol": one.symbol,
            "adjustedFundingRateCap": decimal(one.funding_cap, 8),
            "adjustedFundingRateFloor": decimal(-one.funding_cap, 8),
            "fundingIntervalHours": interval_ms(one, now_ms + 1) // 3_600_000,
            "disclaimer": False,
            "updateTime": None if key_of(0, one.symbol) % 14 == 0 else one.onboard_ms,
        }
        for one in contracts
        if one.funding_hours
    ]


def _symbol(one: Contract, now_ms: int) -> dict[str, Any]:
    return {
        "symbol": one.symbol,
        "pair": one.pair,
        "contractType": one.contract_type,
        "deliveryDate": one.delivery_ms,
        "onboardDate": one.onboard_ms,
        "status": one.status(now_ms),
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": one.base_asset,
        "quoteAsset": one.quote_asset,
        "marginAsset": one.quote_asset,
        "pricePrecision": one.price_precision,
        "quantityPrecision": one.quantity_precision,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": one.underlying,
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10_000,
        "filters": _filters(one),
        "orderTypes": _ORDER_TYPES,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY"],
    }


def _filters(one: Contract) -> list[dict[str, Any]]:
    tick, step = decimal(one.tick, one.price_precision), decimal(1, one.quantity_precision)
    most = str(one.quantity_scale * 1_000 // 10**one.quantity_precision)
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": tick,
            "maxPrice": decimal(one.base_price * 100, one.price_precision),
            "tickSize": tick,
        },
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": most, "stepSize": step},
        {"filterType": "MARKET_LOT_SIZE", "minQty": step, "maxQty": most, "stepSize": step},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
        {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500", "multiplierDecimal": "4"},
        {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
    ]
