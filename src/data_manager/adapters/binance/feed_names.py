"""Names of the venue's streams: what to subscribe, on which route, and how long each may be silent. Pure.

    btcusdt@kline_1m          one symbol: the symbol in lower case (ASCII letters only), @, the template
    !markPrice@arr@1s         of all symbols

Since 2026 USDⓈ-M futures have two routes, and a stream asked for on the other one is acknowledged and never comes. So
the route is looked up here and never tried out. COIN-M futures and spot have one address for all.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from data_manager.domain.errors import BadSetting
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import INTERVALS_MS

ADDRESSES: Final = {
    "um": "wss://fstream.binance.com", "cm": "wss://dstream.binance.com", "spot": "wss://stream.binance.com:9443",
}  # fmt: skip
"""Where each market's streams are. A route is the first part of the path; "" is the address itself."""


_MAJORS: Final = ("BTC", "ETH", "BNB", "ADA", "SOL", "LINK", "LTC", "XRP")
PAIRS: Final = {
    "um": [f"{asset}USDT" for asset in _MAJORS], "cm": [f"{asset}USD_PERP" for asset in _MAJORS],
    "spot": [f"{asset}USDT" for asset in _MAJORS],
}  # fmt: skip
"""What is fed of each market unless SUPPORTED_PAIRS says otherwise."""

_CANDLES: Final = [f"kline_{interval}" for interval in ("1m", "5m", "15m", "1h", "4h", "1d")]
STREAMS: Final = {
    "um": ["trade", "aggTrade", *_CANDLES, "depth20@100ms", "markPrice@1s", "ticker", "forceOrder"],
    "cm": ["trade", "aggTrade", *_CANDLES, "depth20@100ms", "markPrice@1s", "ticker", "forceOrder"],
    "spot": ["trade", "aggTrade", *_CANDLES, "depth20@100ms", "ticker"],
}
"""And which streams unless BINANCE_STREAMS says otherwise."""


class Template(NamedTuple):
    """What one kind of stream is called, and what is known of it. pattern is of all after the symbol's @."""

    kind: str
    pattern: str
    route: str  # of USDⓈ-M futures; the other markets have one route
    silent_s: float | None  # longer than that it is never silent while it works; None: nobody can say
    markets: tuple[str, ...] = ("um", "cm", "spot")
    example: str = ""


_SPEED = "(@(100|500)ms)?"
_OF_FUTURES = ("um", "cm")

TEMPLATES: Final = (
    Template("trade", "trade", "public", 300.0),
    Template("aggTrade", "aggTrade", "market", 300.0),
    Template("kline", f"kline_({'|'.join(INTERVALS_MS)})", "market", 180.0, example="kline_1m"),
    Template("depth", f"depth(5|10|20){_SPEED}", "public", 60.0, example="depth20@100ms"),
    Template("depthUpdate", f"depth{_SPEED}", "public", 60.0, example="depth@100ms"),
    Template("bookTicker", "bookTicker", "public", 120.0),
    Template("markPrice", "markPrice(@1s)?", "market", 15.0, _OF_FUTURES, "markPrice@1s"),
    Template("ticker", "ticker", "market", 120.0),
    Template("miniTicker", "miniTicker", "market", 120.0),
    Template("forceOrder", "forceOrder", "market", None, _OF_FUTURES),
)
"""Streams of one symbol. A name that only looks like one of these is no stream: the venue would not say so."""

_OF_ALL: Final = (
    Template("bookTicker", "!bookTicker", "public", 30.0, ("um", "cm")),
    Template("markPrice", "!markPrice@arr(@1s)?", "market", 15.0, ("um",), "!markPrice@arr@1s"),
    Template("ticker", "!ticker@arr", "market", 30.0),
    Template("miniTicker", "!miniTicker@arr", "market", 30.0),
    Template("forceOrder", "!forceOrder@arr", "market", None, _OF_FUTURES),
)


class Stream(NamedTuple):
    """One stream to ask for."""

    name: str
    kind: str
    route: str
    silent_s: float | None


def streams_of(market: str, pairs: Sequence[str], templates: Sequence[str]) -> list[Stream]:
    """What to subscribe: every template for every pair, and what is named whole, each once, in that order.

    A template is such as aggTrade or depth20@100ms; named whole are btcusdt@trade and !markPrice@arr@1s. Raises
    BadSetting naming the variable: for a pair that is no symbol of the market, and a name that no stream of it has.
    """
    for pair in pairs:
        if not is_symbol(pair, market):
            raise BadSetting("SUPPORTED_PAIRS", pair, f"must be {market} symbols such as BTCUSDT, joined by commas")
    found = (stream for text in templates for stream in _streams(market, pairs, text))
    return list({stream.name: stream for stream in found}.values())


def _streams(market: str, pairs: Sequence[str], text: str) -> Iterator[Stream]:
    head, _, tail = text.partition("@")
    if (template := _known(text, _OF_ALL)) is not None:
        yield _stream(market, text, text, template)
    elif (template := _known(text, TEMPLATES)) is not None:
        yield from (_stream(market, text, f"{lower(pair)}@{text}", template) for pair in pairs)
    elif (template := _known(tail, TEMPLATES)) is not None and is_symbol(_upper(head), market):
        yield _stream(market, text, f"{lower(head)}@{tail}", template)
    else:
        raise BadSetting("BINANCE_STREAMS", text, f"must be such as {_names(market)}, joined by commas")


def _stream(market: str, text: str, name: str, template: Template) -> Stream:
    if market not in template.markets:
        raise BadSetting("BINANCE_STREAMS", text, f"is no stream of MARKET={market}: there are {_names(market)}")
    return Stream(name, template.kind, template.route if market == "um" else "", template.silent_s)


def _known(text: str, templates: Iterable[Template]) -> Template | None:
    return next((one for one in templates if re.fullmatch(one.pattern, text)), None)


def _names(market: str) -> str:
    return " ".join(one.example or one.kind for one in TEMPLATES if market in one.markets)


def lower(symbol: str) -> str:
    """As stream names have it: ASCII letters are lower case, all others stay. Any other case is never delivered."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in symbol)


def _upper(symbol: str) -> str:
    return "".join(letter.upper() if letter.isascii() else letter for letter in symbol)


def address_of(market: str, url: str | None) -> str:
    """Where to connect: the url given, without the /ws or /stream that the predecessor's has at its end.

    Raises BadSetting for the exchange's own address of another market: its events would be stored as this one's.
    """
    address = re.sub(r"(/(ws|stream))?/*$", "", url or ADDRESSES[market])
    for other, known in ADDRESSES.items():
        if other != market and urlsplit(address).hostname == urlsplit(known).hostname:
            raise BadSetting("BINANCE_WS_URL", url, f"is the address of MARKET={other}, but MARKET is {market}")
    return address


def groups_of(streams: Iterable[Stream], most: int) -> list[tuple[Stream, ...]]:
    """Which streams share a socket: one route each, at most so many, spread evenly."""
    by_route: dict[str, list[Stream]] = {}
    for stream in streams:
        by_route.setdefault(stream.route, []).append(stream)
    found = []
    for together in by_route.values():
        sockets = -(-len(together) // most)
        found += [tuple(together[at::sockets]) for at in range(sockets)]
    return found
