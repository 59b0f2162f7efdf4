"""Symbols: which text can be one of a market's. Needs nothing heavy, so that settings can ask."""

import re
import unicodedata
from functools import lru_cache

_SUFFIX = {
    "um": re.compile(r"_[0-9]{6}|_SETTLED[0-9]{0,2}"),
    "cm": re.compile(r"_PERP|_[0-9]{6}|_SETTLED[0-9]{0,2}"),
    "spot": re.compile(r"(?!)"),
}


@lru_cache(maxsize=65_536)
def is_symbol(symbol: str, market: str) -> bool:
    """Whether symbol can be one of the market's; no futures symbol can be of both futures markets.

    Real ones are not all ASCII (币安人生USDT) nor all letters. COIN-M contracts are a pair quoted in USD and a suffix;
    USDⓈ-M has suffixes too (BTCUSDT_261225), so only both together tell. Remembers answers: ask of short texts only.
    """
    pair, underscore, tail = symbol.partition("_")
    if underscore and _SUFFIX[market].fullmatch(underscore + tail) is None:
        return False
    coin_margined = bool(underscore) and pair.endswith("USD")
    return coin_margined == (market == "cm") and 2 <= len(pair) <= 32 and all(map(_in_symbol, pair))


def _in_symbol(letter: str) -> bool:
    return letter in "0123456789" or unicodedata.category(letter) in ("Lu", "Lo")
