"""/futures/data/…: what is told of whole periods. Taker volumes are those of the candles, open interest that of REST.

Rows bear the time their period begins and are told once it is over.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from data_manager.domain.time import DAY_MS, INTERVALS_MS
from data_manager.simulator import bars
from data_manager.simulator.answers import decimal
from data_manager.simulator.contracts import Contract
from data_manager.simulator.market import Tape
from data_manager.simulator.noise import Index, key_of, smooth
from data_manager.simulator.quotes import Quotes

PERIODS: Final = ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")
KEPT_MS: Final = 30 * DAY_MS

_RATIO: Final = 10_000
Rows = list[dict[str, Any]]


def opens_between(period: str, first_ms: int, until_ms: int) -> Index:
    """Where the periods begin that begin at first_ms or later and are over by until_ms."""
    length_ms = INTERVALS_MS[period]
    assert length_ms is not None, "of no month"
    return np.arange(-(-first_ms // length_ms), until_ms // length_ms, dtype=np.int64) * length_ms


def open_interest(tape: Tape, quotes: Quotes, contract: Contract, period: str, opens: Index) -> Rows:
    """As openInterestHist has it."""
    found = []
    for at_ms in opens.tolist():
        held = quotes.held(contract, at_ms)
        value = held * quotes.mark(contract, "mark", at_ms)
        found.append({
            "symbol": contract.symbol, "sumOpenInterest": decimal(held * 10 ** (8 - contract.quantity_precision), 8),
            "sumOpenInterestValue": decimal(value // 10**contract.quantity_precision, 8),
            "CMCCirculatingSupply": "0.00000000", "timestamp": at_ms,
        })  # fmt: skip
    return found


def taker_volumes(tape: Tape, quotes: Quotes, contract: Contract, period: str, opens: Index) -> Rows:
    """As takerlongshortRatio has it."""
    if not len(opens):
        return []
    until_ms = int(opens[-1]) + (INTERVALS_MS[period] or 0)
    candles = tape.candles(contract, period, int(opens[0]), until_ms, until_ms)
    digits = contract.quantity_precision
    found = []
    for at_ms, volume, bought in candles[:, [bars.OPEN_MS, bars.VOLUME, bars.BUY]].tolist():
        sold = volume - bought
        found.append({
            "buySellRatio": decimal(bought * _RATIO // sold if sold else 0, 4), "buyVol": _four(bought, digits),
            "sellVol": _four(sold, digits), "timestamp": at_ms,
        })  # fmt: skip
    return found


def basis(tape: Tape, quotes: Quotes, contract: Contract, period: str, opens: Index) -> Rows:
    """As basis has it: the mark price against the index price when the period began."""
    found = []
    for at_ms in opens.tolist():
        price, index = (quotes.mark(contract, what, at_ms) for what in ("mark", "index"))
        found.append({
            "indexPrice": decimal(index, 8), "contractType": contract.contract_type,
            "basisRate": decimal((price - index) * _RATIO // index, 4), "futuresPrice": decimal(price, 8),
            "annualizedBasisRate": "", "basis": decimal(price - index, 8), "pair": contract.pair, "timestamp": at_ms,
        })  # fmt: skip
    return found


def long_short(what: str) -> Callable[[Tape, Quotes, Contract, str, Index], Rows]:
    """As the three ratios of accounts and positions have it: a wave around a little more than even."""

    def of(tape: Tape, quotes: Quotes, contract: Contract, period: str, opens: Index) -> Rows:
        waves = smooth(key_of(quotes.seed, contract.symbol, what), opens // (5 * 60_000), 6)
        found = []
        for at_ms, wave in zip(opens.tolist(), waves.tolist(), strict=True):
            long = 5_500 + wave * 1_000 // 32_768
            found.append({
                "symbol": contract.symbol, "longAccount": decimal(long, 4),
                "longShortRatio": decimal(long * _RATIO // (_RATIO - long), 4),
                "shortAccount": decimal(_RATIO - long, 4), "timestamp": at_ms,
            })  # fmt: skip
        return found

    return of


def _four(value: int, digits: int) -> str:
    """With four digits, as these answers have all volumes."""
    return decimal(value * 10 ** (4 - digits) if digits <= 4 else value // 10 ** (digits - 4), 4)


ANSWERS: Final[dict[str, Callable[[Tape, Quotes, Contract, str, Index], Rows]]] = {
    "openInterestHist": open_interest,
    "takerlongshortRatio": taker_volumes,
    "basis": basis,
    "globalLongShortAccountRatio": long_short("accounts"),
    "topLongShortAccountRatio": long_short("top accounts"),
    "topLongShortPositionRatio": long_short("top positions"),
}
