"""Batches as blobs, and the numbers that stand for series in them.

A journal entry is one blob of a whole flush: the dataset's columns and one more, the series' number of each row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from data_manager.adapters.store.chunks import decode, encode
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Corrupt
from data_manager.domain.values.columns import Column, Ints

_SID = "#series"


class Catalog:
    """The numbers of the series. New ones are given inside a transaction and hold only if it commits."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._numbers: dict[Series, int] = {}
        self._series: dict[int, Series] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read all numbers anew."""
        rows = self._connection.execute("SELECT sid, market, dataset, symbol, interval FROM series").fetchall()
        self._series = {sid: Series(*parts) for sid, *parts in rows}
        self._numbers = {series: sid for sid, series in self._series.items()}

    @contextmanager
    def provisional(self) -> Iterator[Catalog]:
        """Give numbers inside the block's transaction; forget them again if it does not commit."""
        before = len(self._numbers)
        try:
            yield self
        except BaseException:
            for series in list(self._numbers)[before:]:
                del self._series[self._numbers.pop(series)]
            raise

    def number(self, series: Series) -> int:
        """The number of a series, a new one if it has none yet."""
        sid = self._numbers.get(series)
        if sid is None:
            cursor = self._connection.execute(
                "INSERT INTO series (market, dataset, symbol, interval) VALUES (?, ?, ?, ?)",
                (series.market, series.dataset, series.symbol, series.interval),
            )
            sid = int(cursor.lastrowid or 0)
            self._numbers[series] = sid
            self._series[sid] = series
        return sid

    def known(self, series: Series) -> int | None:
        """The number of a series, None when it has none."""
        return self._numbers.get(series)

    def of(self, sid: int) -> Series:
        """The series of a number; Corrupt when nobody has it."""
        series = self._series.get(sid)
        if series is None:
            raise Corrupt(f"a row names series number {sid}, which does not exist")
        return series


def pack_rows(batch: Batch, catalog: Catalog) -> bytes:
    """A batch of any number of series as one blob, not compressed: it is soon folded, and speed matters here."""
    numbers = np.array([catalog.number(series) for series in batch.series], np.int64)
    return encode({_SID: Ints(numbers[batch.codes]), **batch.columns}, None)


def unpack_rows(blob: bytes, dataset: Dataset, catalog: Catalog) -> Batch:
    """The batch of a blob. Raises Corrupt."""
    columns: dict[str, Column] = decode(blob)
    sids = columns.pop(_SID, None)
    if not isinstance(sids, Ints) or set(columns) != set(dataset.field):
        raise Corrupt(f"a blob of dataset {dataset.name} holds other columns: {sorted(columns)}")
    starts = np.flatnonzero(np.diff(sids.values, prepend=sids.values[:1] - 1))
    series = tuple(catalog.of(sid) for sid in sids.values[starts].tolist())
    counts = np.diff(np.append(starts, len(sids)))
    return Batch(dataset, series, np.repeat(np.arange(len(series), dtype=np.int32), counts), columns)
