"""Where a series lives in MongoDB and under which id a row does: names and keys, both ways.

trades_BTCUSDT, candles_BTCUSDT_1h      a series of market um: the predecessor's names
cm.trades_BTCUSD_PERP, spot.…           a series of another market: markets never share a collection
_id of a key of one part                that integer (a trade id; an open time in ms)
_id of a key of several parts           text, "0001700000041000 5 2 SELL": sorts as the parts do
data_manager.live                       the open candle of each series, by series id
data_manager.revisions                  rows that were replaced, as they were
data_manager.canary                     what a connection writes and reads back to learn the server's abilities
"""

from __future__ import annotations

from decimal import Context
from functools import lru_cache
from typing import Any

from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import MARKETS, Dataset, Field, Kind, Series, make_series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.span import Span
from data_manager.domain.values.columns import Column
from data_manager.domain.values.decimals import Decimals

Document = dict[str, Any]

OURS = "data_manager"
LIVE = f"{OURS}.live"
REVISIONS = f"{OURS}.revisions"
CANARY = f"{OURS}.canary"
LAYOUT = f"{OURS}.layout"
OF_THE_HOUSE = (LIVE, REVISIONS, CANARY, LAYOUT)  # what they hold are no rows of a series
FORMAT = 1

_BARE_MARKET = "um"
_KEY_DIGITS = 19  # of the largest 64-bit integer, so that texts sort as the numbers do
_ESCAPES = {code: f"\\u{code:04x}" for code in range(33)} | {ord("\\"): "\\\\"}
_EXACT = Context(prec=120)


@lru_cache(maxsize=65_536)
def collection_of(series: Series) -> str:
    """The collection of a series. Raises BadQuery when a part of it is not what the dataset table allows."""
    dataset = DATASETS[series.dataset]
    if series.market not in MARKETS:
        raise BadQuery("market", series.market, f"must be one of {' '.join(MARKETS)}")
    make_series(dataset, series.market, series.symbol, series.interval)
    name = "_".join(part for part in (dataset.alias, series.symbol, series.interval) if part)
    return name if series.market == _BARE_MARKET else f"{series.market}.{name}"


@lru_cache(maxsize=65_536)
def series_of(collection: str) -> Series | None:
    """The series of a collection; None when it is not one of ours."""
    before, dot, after = collection.partition(".")
    market, name = (before, after) if dot else (_BARE_MARKET, before)
    if market not in MARKETS or "." in name:
        return None
    try:
        series = parse_series(name, DATASETS, market)
    except BadQuery:
        return None
    return series if collection_of(series) == collection else None


def ids_of(batch: Batch) -> list[Any]:
    """The _id of every row."""
    keys = batch.key.tolist()
    if len(batch.dataset.key) == 1:
        return list(map(Int64, keys))
    parts = [[f"{key:0{_KEY_DIGITS}d}" for key in keys]]
    parts += [_parts(batch.columns[name]) for name in batch.dataset.key[1:]]
    return list(map(" ".join, zip(*parts, strict=True)))


def key_of(identity: Any) -> int:
    """The first part of the key of a row by its _id. Raises ValueError or TypeError for what is none of ours."""
    return int(identity.partition(" ")[0] if isinstance(identity, str) else identity)


def _parts(column: Column) -> list[str]:
    """A key part as text: equal values give equal text, and it sorts as domain/batch sorts."""
    if isinstance(column, Decimals):
        return [format(_EXACT.normalize(column.decimal(row)), "f") for row in range(len(column))]
    return [str(value).translate(_ESCAPES) for value in column.values_list()]


def key_bound(dataset: Dataset, key: int) -> Any:
    """What every _id whose first key part is at least key stands at or above, and every other one below."""
    return Int64(min(key, 2**63 - 1)) if len(dataset.key) == 1 else f"{max(key, 0):0{_KEY_DIGITS}d}"


def keys_between(dataset: Dataset, start: int | None, end: int | None) -> Document:
    """A filter for rows whose first key part lies in [start, end); None leaves a side open.

    Documents that somebody else wrote under ids of another kind (the predecessor's were SYMBOL_ms) are none of them: a
    number compares with numbers only, and the texts of ours begin with a digit.
    """
    bounds: Document = {"$gte": Int64(-(2**63))} if len(dataset.key) == 1 else {"$gte": "0", "$lt": ":"}
    if start is not None:
        bounds["$gte"] = key_bound(dataset, start)
    if end is not None:
        bounds["$lt"] = key_bound(dataset, end)
    return {"_id": bounds}


def rows_of(dataset: Dataset, span: Span | None, after: int | None = None, *, descending: bool = False) -> Document:
    """A filter for the rows of a question: time in span, first key part beyond after in the direction of reading."""
    start, end = (None, after) if descending else (None if after is None else after + 1, None)
    wanted: Document = {}
    if span is not None and dataset.time == dataset.key[0]:  # then _id knows, and no other index is needed
        start = span.start_ms if start is None else max(start, span.start_ms)
        end = span.end_ms if end is None else min(end, span.end_ms)
    elif span is not None:
        wanted[dataset.time] = {"$gte": DatetimeMS(span.start_ms), "$lt": DatetimeMS(span.end_ms)}
    if wanted and start is None and end is None:
        return wanted  # what has the time of our rows is ours
    return {**keys_between(dataset, start, end), **wanted}


def is_time(field: Field) -> bool:
    """Whether a column holds UTC milliseconds, which BSON keeps as a date: their names end with the unit."""
    return field.kind is Kind.INT and field.name.endswith("_ms")
