"""The closer look: what a row is when the one typed decode did not take it, or what is wrong with it.

Slow (tens of microseconds) and exact. What the venue documents for its streams hardly ever comes here: rows of another
market, REST rows, other services' messages, odd spellings, broken fields.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, get_args

from msgspec import Raw, ValidationError
from msgspec.json import Decoder as JsonDecoder
from msgspec.json import decode, encode
from msgspec.structs import fields

from data_manager.adapters.binance import wire_words as words
from data_manager.adapters.binance.wire_books import label_symbol
from data_manager.adapters.binance.wire_words import Place
from data_manager.domain import events
from data_manager.domain.dataset import MARKETS, Series
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.errors import Invalid, Rejected, UnknownKind
from data_manager.domain.events import Ignored
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import INTERVALS_MS

Row = dict[str, Raw]
FOREIGN = Ignored("foreign")
"""What read() says of a bare object that nothing tells to be market data: another service's, or market data wrapped in
a way we do not know."""


def read(row: Row, place: Place, market: str) -> Any:
    """The row decoded as the kind it is (for its finish function), or Ignored, or Rejected with the field to blame."""
    kind = kind_of(row, place)
    if isinstance(kind, (Ignored, Rejected)):
        return kind
    if kind is words.WireBook and not row.keys() & {"s", "symbol"}:
        kind = words.WireLabelledBook
    symbol = _symbol_of(row, kind, place)
    if not isinstance(symbol, str):
        return symbol
    if not is_symbol(symbol, market):
        return _stranger(row, kind, symbol, place, market)
    if kind is words.WireFundingRate and "e" in row and "E" not in row:
        return Invalid(place.path("E"), None, _RULES[events.Ms])  # without it nothing tells a settled rate from a guess
    row = _as_read(row, kind, symbol)
    try:
        return _READERS[kind].decode(encode(row))
    except ValidationError as error:
        return _blame(str(error), kind, row, place)


def place_of(frame: Row, received_ms: int) -> Place:
    """Where the rows of a frame stand. A label or a timestamp that is no text, or not a time, is none."""
    label, timestamp = (text_of(frame[name]) if name in frame else None for name in ("stream", "timestamp"))
    return Place(label if label and len(label) <= _LABEL_MAX else "", "data", _sent(timestamp or ""), received_ms)


_LABEL_MAX = 96


def _sent(timestamp: str) -> datetime | None:
    """2025-10-20T12:34:56.789012Z, with or without the fraction; some writers put a zone before the Z."""
    try:
        return datetime.fromisoformat(timestamp.removesuffix("Z"))
    except ValueError:
        return None


# --- what it is


def kind_of(row: Row, place: Place) -> Any:
    """The wire struct to read the row with, or Ignored or UnknownKind: by e, then by shape, then by the stream name."""
    if "e" in row:
        said = text_of(row["e"])
        kind = _BY_E.get(said.lower()) if said is not None else None
        return kind or UnknownKind(
            f"{place.path('e')} {_shown(row['e'])!r}: no dataset takes this", field=place.path("e")
        )
    for shape, kind in _BY_SHAPE:
        if shape <= row.keys():
            return kind
    reason = _reason(row)
    if reason != FOREIGN.reason or not place.where.startswith("data"):
        return Ignored(reason)
    stream = _STREAM.fullmatch(place.label)
    kind = _BY_STREAM.get((stream[1] or stream[2]).lower()) if stream else None
    return kind or UnknownKind(
        f"{place.where}: neither e nor the shape nor the stream {place.label!r} says what it is", field=place.where
    )


_BY_E = {
    **{str(kind.__struct_config__.tag).lower(): kind for kind in words.TAGGED},
    "fundingrate": words.WireFundingRate,
}
_BY_SHAPE = (
    ({"lastUpdateId", "bids", "asks"}, words.WireBook),
    ({"u", "s", "b", "B", "a", "A"}, words.WireSpotBookTicker),
    ({"symbol", "fundingTime", "fundingRate"}, words.WireFundingRate),
)
_STREAM = re.compile(r"!(\w+?)(?:@.*)?|[^@]+@([A-Za-z]+)(?:\d+|_\w+)?(?:@.*)?")  # !ticker@arr or btcusdt@kline_1m
_BY_STREAM = {
    "trade": words.WireTrade, "aggtrade": words.WireAggTrade, "kline": words.WireKline, "ticker": words.WireTicker,
    "depth": words.WireDepthUpdate, "bookticker": words.WireSpotBookTicker, "markprice": words.WireMarkPrice,
    "forceorder": words.WireForceOrder, "fundingrate": words.WireFundingRate,
}  # fmt: skip
_READERS = {
    kind: JsonDecoder(kind) for kind in {*_BY_E.values(), *_BY_STREAM.values(), words.WireBook, words.WireLabelledBook}
}


def _reason(row: Row) -> str:
    if row.keys() >= {"result", "id"} or row.keys() >= {"error", "id"} or _dig(row, "error.code") is not None:
        return "subscribe_ack"
    return "heartbeat" if row.keys() >= {"service", "timestamp", "version", "status"} else FOREIGN.reason


# --- whose it is


def _symbol_of(row: Row, kind: Any, place: Place) -> str | Invalid:
    at = _SYMBOL_AT.get(kind, ("s",))
    for path in at:
        raw = _dig(row, path)
        if raw is not None:
            symbol = text_of(raw)
            if symbol and len(symbol) <= _SYMBOL_MAX:
                return symbol
            return Invalid(place.path(path), _shown(raw), _NO_SYMBOL)
    from_label = label_symbol(place.label) if kind is words.WireLabelledBook else None
    return from_label or Invalid(place.path(at[0]), None, "must name the symbol: nothing is stored without one")


_SYMBOL_MAX = 48
_SYMBOL_AT = {
    words.WireKline: ("k.s", "s"),
    words.WireForceOrder: ("o.s",),
    words.WireFundingRate: ("symbol", "s"),
    words.WireBook: ("s", "symbol"),
}


def whose(row: Row, place: Place, market: str) -> tuple[str | None, str | None]:
    """Of what stream (the metrics' label) and of what series (its id) a rejected row is, as far as it can be read.

    A book that names no symbol is of no series: its label may be wrong.
    """
    dataset = _DATASETS.get(kind := kind_of(row, place))
    if dataset is None:
        return None, None
    symbol = _symbol_of(row, kind, place)
    raw = _dig(row, "k.i") if dataset.has_interval else None
    interval = None if raw is None else text_of(raw)
    if (
        not isinstance(symbol, str)
        or not is_symbol(symbol, market)
        or dataset.has_interval != (interval in INTERVALS_MS)
    ):
        return dataset.wire, None
    return dataset.wire, Series(market, dataset.name, symbol, interval).id


_DATASETS = {
    **{kind: BY_EVENT[kind.__mro__[1]] for kind in words.EVENTS},
    words.WireKline: BY_EVENT[events.Candle],
    words.WireForceOrder: BY_EVENT[events.Liquidation],
}


def _stranger(row: Row, kind: Any, symbol: str, place: Place, market: str) -> Ignored | Invalid:
    """A symbol that is not the market's. On merged streams the row says so itself (st), and that is no error."""
    homes = [other for other in MARKETS if is_symbol(symbol, other)]
    if _SAID.get(bytes(row.get("st", b""))) in homes:
        return Ignored("other_market")
    rule = f"is a symbol of {' or '.join(homes)}, and MARKET is {market}" if homes else _NO_SYMBOL
    return Invalid(place.path(_SYMBOL_AT.get(kind, ("s",))[0]), symbol[:80], rule)


_SAID = {b"1": "um", b"2": "cm"}
_NO_SYMBOL = "must be a symbol in capital letters, such as BTCUSDT, BTCUSDT_261225 or (COIN-M) BTCUSD_PERP"


# --- what it says


def _as_read(row: Row, kind: Any, symbol: str) -> Row:
    """The row in the spelling its struct reads."""
    if kind in (words.WireBook, words.WireLabelledBook):
        known = {name: row[name] for name in kind.__struct_encode_fields__ if name in row}
        return known | {"s": Raw(encode(symbol))} if kind is words.WireBook else known
    if kind is words.WireFundingRate:
        return {name: row[letter] for letter, name in _FUNDING_LETTERS.items() if letter in row} | row
    tag = kind.__struct_config__.tag
    return row | {"e": Raw(encode(tag))} if tag else row


_FUNDING_LETTERS = {"s": "symbol", "T": "fundingTime", "r": "fundingRate", "p": "markPrice"}


def _blame(why: str, kind: Any, row: Row, place: Place) -> Invalid:
    """The Invalid for what msgspec found: the field's path, its value, and what would be valid there."""
    at, missing = _AT.search(why), _MISSING.match(why)
    names = [*(at[1].split(".")[1:] if at else ()), *([missing[1]] if missing else ())]
    path = _INDEX.sub("[]", ".".join(names))
    bare = [name.partition("[")[0] for name in names]
    raw = _dig(row, ".".join(bare))
    return Invalid(place.path(path), None if raw is None else _shown(raw), _rule(kind, tuple(bare)))


_AT = re.compile(r" - at `\$(.*)`$")
_INDEX = re.compile(r"\[[^\]]*\]")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")


@lru_cache(maxsize=1024)  # the names are those of structs
def _rule(kind: Any, names: tuple[str, ...]) -> str:
    for name in names:
        kind = next((field.type for field in fields(kind) if field.encode_name == name), None)
    options = (kind, *get_args(kind))  # Number | None: the rule of the first that has one
    return next((_RULES[option] for option in options if option in _RULES), "must be a JSON object")


_RULES: dict[Any, str] = {
    events.Number: 'must be a decimal number as JSON text, such as "27000.10"',
    events.Levels: 'must be a list of levels, ["price","quantity"], each a decimal number as JSON text',
    events.Ms: "must be a whole number of milliseconds since 1970, between 2010 and 2100",
    words.FundingMs: "must be a whole number of milliseconds since 1970, or 0",
    events.Id: "must be a whole number from 0 to 2^63-1",
    words.TradeId: "must be a whole number from 0 to 2^63-1, or -1 for none",
    int: "must be a whole number",
    bool: "must be true or false",
    str: "must be JSON text",
    words.Symbol: _NO_SYMBOL,
    words.Word: "must be JSON text of up to 32 characters",
}


def _dig(row: Row, path: str) -> Raw | None:
    """The raw value at a path such as k.s; None where there is none."""
    name, dot, rest = path.partition(".")
    raw = row.get(name)
    if raw is None or not dot:
        return raw
    return _dig(decode(raw, type=Row), rest) if bytes(raw).startswith(b"{") else None


def text_of(raw: Raw) -> str | None:
    """The text a raw value is, None if it is something else."""
    return decode(raw, type=str) if bytes(raw).startswith(b'"') else None


def _shown(raw: Raw) -> object:
    """A value for a message: itself if it is short and plain, else the start of its JSON."""
    data = bytes(raw)
    return decode(data) if _PLAIN.fullmatch(data) else data[:80].decode(errors="replace")


_PLAIN = re.compile(rb'"[^"]{0,80}"|-?\d{1,30}(?:\.\d{1,30})?|true|false|null')
