"""Batches as documents and back: one document per row, one field per column, under the column's own name.

    INT     integer, or a BSON date where the column is a time      FLAG    boolean
    NUMBER  Decimal128, or the venue's text (see decimals)          FLOAT   double
    TEXT    string                                                  LEVELS  [{price, quantity}, …]

A field that is absent or null is a value the venue did not give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError

from data_manager.adapters.mongo.decimals import decode_decimals, encode_decimals
from data_manager.adapters.mongo.layout import Document, collection_of, ids_of, is_time, key_of
from data_manager.domain.batch import Batch, build, empty
from data_manager.domain.dataset import Dataset, Field, Kind, Series
from data_manager.domain.errors import Corrupt, DamagedRows
from data_manager.domain.values.columns import Column
from data_manager.domain.values.decimals import Decimals
from data_manager.domain.values.levels import Levels


def encode(batch: Batch, *, exact: bool) -> list[Document]:
    """One document per row, with its _id. exact: whether the server keeps Decimal128."""
    columns = {"_id": ids_of(batch)}
    for name, column in batch.columns.items():
        values = _encoded(batch.dataset.field[name], column, exact)
        if any(value is not None for value in values):
            columns[name] = values
    names = tuple(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def decode(
    dataset: Dataset, series: Series, documents: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> Batch:
    """The documents as a batch of one series, in their order.

    Raises Corrupt for what we cannot have written: DamagedRows where key and time at least can be read.
    """
    wanted = list(names or dataset.field)
    if not documents:
        return empty(dataset, (series,), wanted)
    columns = {}
    for name in wanted:
        try:
            columns[name] = _decoded(dataset.field[name], [document.get(name) for document in documents])
        except _UNREADABLE as error:
            bad = _first_bad(dataset.field[name], documents)
            what = (
                f"collection {collection_of(series)}, documents {bad[0].get('_id')!r} to {bad[-1].get('_id')!r}: field"
                f" {name} is not as we write it ({error})"
            )
            raise _damage(dataset, bad, what) from error
    return Batch(dataset, (series,), np.zeros(len(documents), np.int32), columns)


_UNREADABLE = (TypeError, ValueError, KeyError, AttributeError, OverflowError, BSONError)


def _first_bad(field: Field, documents: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The first documents side by side whose field cannot be read."""
    good = [_readable(field, document) for document in documents]
    start = good.index(False) if False in good else 0
    end = next((at for at in range(start, len(good)) if good[at]), len(good))
    return documents[start : end or len(good)]


def _readable(field: Field, document: Mapping[str, Any]) -> bool:
    try:
        _decoded(field, [document.get(field.name)])
    except _UNREADABLE:
        return False
    return True


def _damage(dataset: Dataset, bad: Sequence[Mapping[str, Any]], what: str) -> Corrupt:
    try:
        keys = [key_of(document["_id"]) for document in bad]
        times = [_milliseconds(document[dataset.time]) for document in bad]
    except _UNREADABLE:
        return Corrupt(what)
    bounds = {"first_key": min(keys), "last_key": max(keys)}
    return DamagedRows(what, start_ms=min(times), end_ms=max(times) + 1, **bounds)


def _encoded(field: Field, column: Column, exact: bool) -> list[Any]:
    if isinstance(column, Decimals):
        return encode_decimals(column, exact=exact)
    if isinstance(column, Levels):
        return _encoded_levels(column, exact)
    values = column.values_list()
    if is_time(field):
        return [None if value is None else DatetimeMS(value) for value in values]
    return values


def _encoded_levels(column: Levels, exact: bool) -> list[Any]:
    prices = encode_decimals(column.prices, exact=exact)
    quantities = encode_decimals(column.quantities, exact=exact)
    pairs = iter([{"price": one, "quantity": other} for one, other in zip(prices, quantities, strict=True)])
    return [list(islice(pairs, count)) for count in column.counts.tolist()]


def _decoded(field: Field, values: list[Any]) -> Column:
    if not field.optional and field.kind is not Kind.FLOAT and None in values:
        raise ValueError("it is missing")
    if field.kind is Kind.NUMBER:
        return decode_decimals(values)
    if field.kind is Kind.LEVELS:
        return _decoded_levels(values)
    if is_time(field):
        values = [None if value is None else _milliseconds(value) for value in values]
    elif (wanted := _PLAIN.get(field.kind)) is not None and not all(
        value is None or isinstance(value, wanted) for value in values
    ):
        raise TypeError(f"it must be {wanted.__name__}")
    return build(field, values)[0]


_PLAIN: dict[Kind, type] = {Kind.INT: int, Kind.TEXT: str, Kind.FLAG: bool, Kind.FLOAT: float}


def _milliseconds(value: Any) -> int:
    if type(value) is not DatetimeMS:
        raise TypeError("it must be a date")
    return int(value)


def _decoded_levels(rows: list[Any]) -> Levels:
    def flat(name: str) -> Decimals:
        column = decode_decimals([level[name] for row in rows for level in row])
        if column.absent is not None:
            raise ValueError(f"a level has no {name}")
        return column

    return Levels(np.array([len(row) for row in rows], np.int32), flat("price"), flat("quantity"))
