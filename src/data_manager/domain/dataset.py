"""Dataset and Series: what a kind of record is, and whose.

A dataset is declared once, in datasets.py. Generic code reads the declaration and nothing else: if some code asks
for a dataset by name, the design has leaked.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Raw, Struct

from data_manager.domain.errors import BadQuery
from data_manager.domain.events import Event, Levels, Number
from data_manager.domain.holes.continuity import Continuity
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import require_interval

MARKETS = ("um", "cm", "spot")
"""USDⓈ-M futures, COIN-M futures, spot. Never mixed: a market is part of every series."""


class Kind(Enum):
    """How a column holds its values; derived from the type of the event's field."""

    INT = "int"
    NUMBER = "number"
    TEXT = "text"
    FLAG = "flag"
    LEVELS = "levels"
    FLOAT = "float"


class Field(Struct, frozen=True):
    """One column. optional: a row may hold None, which means the venue did not say."""

    name: str
    kind: Kind
    optional: bool


class Keep(Enum):
    """What happens when a row arrives whose key is already held."""

    FIRST = "first"  # the fact never changes: the row that is held stays
    FINAL = "final"  # history beats stream; between equals the later event_ms; the old row is kept as a revision


class Answer(Struct, frozen=True):
    """One member of a row as the API answers it: its name there, the column it comes from, and the form."""

    name: str
    column: str
    form: Literal["plain", "time", "taker_side"] = "plain"


class Rule(Struct, frozen=True):
    """What a row must satisfy before we keep it.

    broken: the columns of a batch in, a mask of the rows that break the rule out. field is the column the message
    names, text says what would be valid.
    """

    field: str
    text: str
    broken: Callable[[Mapping[str, Any]], Any]


PROVENANCE = (Field("received_ms", Kind.INT, optional=False), Field("origin", Kind.TEXT, optional=False))
"""Columns every row carries besides the event's own: our clock, and who brought it (stream, job or archive file)."""


class Dataset(Struct, frozen=True, kw_only=True, dict=True, eq=False):
    """One kind of record. Generic code reads this and nothing else."""

    name: str  # "trade": series ids, metric labels, CLI words
    path: str  # "trades": GET /data/trades
    alias: str  # the predecessor's word: trades_BTCUSDT, candles_BTCUSDT_1h
    event: type[Event]  # its fields, in order, are the columns; its types are their kinds
    key: tuple[str, ...]  # natural key inside one series: equal key, same fact; the first part is an integer
    time: str  # the column that start and end of a query mean
    on_conflict: Keep
    continuity: Continuity  # what "missing" means here
    fresh_within_ms: int | None  # older than this is stale; None: silence is normal
    refill: tuple[str, ...]  # source calls that mend a hole, best first; empty: nobody can, and we say so
    retention_days: int | Mapping[str, int] | None  # None keeps for ever; by interval where it differs
    rules: tuple[Rule, ...]
    answer: tuple[Answer, ...]  # the members of a row in an API answer
    wire: str  # the event as the metrics' label event_type names it
    description: str  # one sentence for the catalogue, with units
    shed_from: float | None = None  # share of the byte budget from which it is let go; None: never, see shedding.py
    coarse: tuple[str, ...] = ()  # of refill: calls whose rows are coarser than what was lost, and fill no hole
    untold: Callable[[Mapping[str, Any]], Any] | None = None  # columns in, mask of the rows history may leave out
    live: str | None = None  # the flag that is false while a row may still change; such rows are live state, not data

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Columns in order: the event's own, then received_ms and origin."""
        hints = get_type_hints(self.event, include_extras=True)
        own = (name for name in self.event.__struct_fields__ if name not in ("symbol", "interval"))
        return (*(_field(name, hints[name]) for name in own), *PROVENANCE)

    @cached_property
    def field(self) -> dict[str, Field]:
        """Columns by name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def has_interval(self) -> bool:
        """Whether a series of this dataset names an interval."""
        return "interval" in self.event.__struct_fields__

    @cached_property
    def audited_columns(self) -> tuple[str, ...]:
        """What an audit reads: the key, the time, and what continuity needs besides."""
        return tuple(dict.fromkeys((*self.key, self.time, *self.continuity.columns)))


def _field(name: str, hint: Any) -> Field:
    options = get_args(hint) if _is_union(hint) else (hint,)
    bare = Levels if Raw in options else next(option for option in options if option is not NoneType)
    if get_origin(bare) is Annotated:
        bare = get_args(bare)[0]
    kinds: dict[Any, Kind] = {
        int: Kind.INT, Number: Kind.NUMBER, str: Kind.TEXT, bool: Kind.FLAG, Levels: Kind.LEVELS, float: Kind.FLOAT,
    }  # fmt: skip
    return Field(name, kinds[bare], NoneType in options)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


class Series(Struct, frozen=True, order=True):
    """Market + dataset + symbol (+ interval): the unit everything is stored, audited and served by."""

    market: str
    dataset: str
    symbol: str
    interval: str | None = None

    @property
    def id(self) -> str:
        """um.candle.BTCUSDT.1h"""
        tail = f".{self.interval}" if self.interval else ""
        return f"{self.market}.{self.dataset}.{self.symbol}{tail}"

    def __str__(self) -> str:
        return self.id


def parse_series(text: str, datasets: Mapping[str, Dataset], default_market: str) -> Series:
    """A series from its id (um.candle.BTCUSDT.1h) or the predecessor's alias (candles_BTCUSDT_1h, default market).

    Raises BadQuery naming the part that is wrong. Whether such a series holds anything is not asked.
    """
    return _from_id(text, datasets) if "." in text else _from_alias(text, datasets, default_market)


def _from_id(text: str, datasets: Mapping[str, Dataset]) -> Series:
    market, dataset, symbol, interval, *rest = [*text.split("."), None, None]
    if market not in MARKETS:
        raise BadQuery("series", text, f"the market must be one of {' '.join(MARKETS)}")
    if dataset not in datasets:
        raise BadQuery("series", text, f"the dataset must be one of {' '.join(datasets)}")
    if any(part is not None for part in rest):
        raise BadQuery("series", text, "must read market.dataset.SYMBOL or market.dataset.SYMBOL.interval")
    return make_series(datasets[dataset], str(market), symbol or "", interval)


def _from_alias(text: str, datasets: Mapping[str, Dataset], market: str) -> Series:
    for dataset in datasets.values():
        prefix = f"{dataset.alias}_"
        if text.startswith(prefix):
            rest = text.removeprefix(prefix)
            symbol, _, interval = rest.rpartition("_") if dataset.has_interval else (rest, "", None)
            if is_symbol(symbol, market):
                return make_series(dataset, market, symbol, interval)
    raise BadQuery("series", text, "must read like um.candle.BTCUSDT.1h or candles_BTCUSDT_1h")


def make_series(dataset: Dataset, market: str, symbol: str, interval: str | None) -> Series:
    """The series, with every part checked; BadQuery names the part that is wrong."""
    if not is_symbol(symbol, market):
        raise BadQuery("pair", symbol, f"must be a {market} symbol such as {_SYMBOL_RULES[market]}")
    if dataset.has_interval:
        return Series(market, dataset.name, symbol, require_interval(interval or ""))
    if interval:
        raise BadQuery("period", interval, f"{dataset.name} has no interval: leave it out")
    return Series(market, dataset.name, symbol)


_LETTERS = "2 to 32 capital letters, digits or letters without case"
_SYMBOL_RULES = {
    "um": f"BTCUSDT or BTCUSDT_261225: {_LETTERS}, and the date of a contract that ends",
    "cm": f"BTCUSD_PERP or BTCUSD_261225: {_LETTERS} that end in USD, and _PERP or the date of a contract that ends",
    "spot": f"BTCUSDT: {_LETTERS}",
}
