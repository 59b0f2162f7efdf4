"""MemoryStore: a SeriesStore of plain dicts. Small and obviously right; the model other stores are measured against.

What an append does with a row, row by row:
- a key that is not held is new;
- a key that is held is a duplicate, except where the dataset keeps the FINAL row: there a row that stands higher
  (rank, then event_ms) and says something else takes its place, and is changed;
- a live row becomes the live row of its series when it lies beyond the newest closed row and is newer, by key and then
  event_ms, than the live row held: changed, else duplicate. Closed rows of a batch come after its live ones; they end
  the live row whose key they reach.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from msgspec import Struct

from data_manager.domain.batch import Batch, build, empty, joined, live_rows, ranks, settle
from data_manager.domain.dataset import Dataset, Field, Keep, Kind, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.ports import Extent, Receipt, StoreSizes

_NO_VALUE = ("received_ms", "origin", "event_ms")
"""Columns in which two rows of one fact may differ."""


class _Row(Struct, frozen=True):
    dataset: Dataset
    values: dict[str, Any]
    rank: int

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(_number(self.dataset.field[name], self.values[name]) for name in self.dataset.key)

    @property
    def event_ms(self) -> int:
        event_ms = self.values["event_ms"]
        return -1 if event_ms is None else int(event_ms)

    def says(self) -> dict[str, Any]:
        return {
            name: _number(self.dataset.field[name], value)
            for name, value in self.values.items()
            if name not in _NO_VALUE
        }


def _number(field: Field, value: Any) -> Any:
    """The value such that equal facts are equal: 1.0 and 1.00 are one number."""
    if field.kind is Kind.NUMBER and value is not None:
        return Decimal(value)
    if field.kind is Kind.LEVELS:
        return [(Decimal(price), Decimal(quantity)) for price, quantity in value]
    return value


class MemoryStore:
    """See SeriesStore."""

    kind = "memory"
    deletes_by_itself = False

    def __init__(self) -> None:
        self.tells_versions = True
        self._held: dict[Series, dict[tuple[Any, ...], _Row]] = {}
        self._live: dict[Series, _Row] = {}
        self._replaced: dict[Series, list[_Row]] = {}
        self._versions: Counter[Series] = Counter()

    async def append(self, batch: Batch) -> Receipt:
        """See SeriesStore.append."""
        receipt = Receipt()
        rows = [
            _Row(batch.dataset, values, rank) for values, rank in zip(batch.rows(), ranks(batch).tolist(), strict=True)
        ]
        self._versions.update(batch.series)
        owners = [batch.series[code] for code in batch.codes.tolist()]
        changeable = live_rows(batch).tolist()
        for row, series, live in zip(rows, owners, changeable, strict=True):
            if live:
                receipt += self._keep_live(series, row)
        for row, series, live in zip(rows, owners, changeable, strict=True):
            if not live:
                receipt += self._keep(series, row)
        return receipt

    def _keep(self, series: Series, row: _Row) -> Receipt:
        held = self._held.setdefault(series, {})
        live = self._live.get(series)
        if live is not None and row.key[0] >= live.key[0]:
            del self._live[series]
        before = held.get(row.key)
        if before is None:
            held[row.key] = row
            return Receipt(new=1)
        higher = (row.rank, row.event_ms) > (before.rank, before.event_ms)
        if row.dataset.on_conflict is Keep.FINAL and higher and row.says() != before.says():
            held[row.key] = row
            self._replaced.setdefault(series, []).append(before)
            return Receipt(changed=1)
        return Receipt(duplicate=1)

    def _keep_live(self, series: Series, row: _Row) -> Receipt:
        closed = max((key[0] for key in self._held.get(series, ())), default=-1)
        live = self._live.get(series)
        newer = live is None or (row.key[0], row.event_ms) > (live.key[0], live.event_ms)
        if row.key[0] > closed and newer:
            self._live[series] = row
            return Receipt(changed=1)
        return Receipt(duplicate=1)

    def version(self, series: Series) -> int | None:
        """See SeriesStore.version."""
        return self._versions[series] if self.tells_versions else None

    async def scan(
        self,
        series: Series,
        span: Span | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        descending: bool = False,
        offset: int = 0,
        after: int | None = None,
    ) -> Batch:
        """See SeriesStore.scan."""
        rows = self._rows(series)
        inside = np.array([span is None or span.holds(ms) for ms in rows.time_ms.tolist()], np.bool_)
        if after is not None:
            inside &= rows.key < after if descending else rows.key > after
        order = np.flatnonzero(inside)
        order = order[::-1] if descending else order
        found = rows.take(order[offset : None if limit is None else offset + limit])
        return found if columns is None else found.select(columns)

    def _rows(self, series: Series) -> Batch:
        """Everything held of a series, by key."""
        return _batch(series, list(self._held.get(series, {}).values()))

    async def last(self, series: Series, n: int) -> Batch:
        """See SeriesStore.last."""
        rows = self._rows(series)
        return rows.take(slice(max(len(rows) - n, 0), None))

    async def live(self, series: Series) -> Batch:
        """See SeriesStore.live."""
        return _batch(series, [self._live[series]] if series in self._live else [])

    async def revisions(self, series: Series) -> Batch:
        """See SeriesStore.revisions."""
        old = sorted(self._replaced.get(series, ()), key=lambda row: row.key)
        return joined([_batch(series, [row]) for row in old]) if old else _batch(series, [])

    async def extent(self, series: Series) -> Extent | None:
        """See SeriesStore.extent."""
        rows = self._rows(series)
        if not len(rows):
            return None
        times = rows.time_ms.tolist()
        return Extent(len(rows), int(rows.key[0]), int(rows.key[-1]), min(times), max(times))

    async def count(self, series: Series, span: Span | None = None) -> int:
        """See SeriesStore.count."""
        return len(await self.scan(series, span))

    async def keys(self, series: Series, span: Span | None = None) -> Batch:
        """See SeriesStore.keys."""
        return await self.scan(series, span, columns=DATASETS[series.dataset].audited_columns)

    async def drop(self, series: Series, span: Span) -> int:
        """See SeriesStore.drop."""
        held = self._held.get(series, {})
        gone = [key for key, row in held.items() if span.holds(row.values[row.dataset.time])]
        for key in gone:
            del held[key]
        kept = [row for row in self._replaced.get(series, ()) if not span.holds(row.values[row.dataset.time])]
        self._replaced[series] = kept
        self._versions[series] += 1
        return len(gone)

    async def series(self) -> list[Series]:
        """See SeriesStore.series."""
        return sorted(series for series, held in self._held.items() if held)

    async def sizes(self) -> StoreSizes:
        """See SeriesStore.sizes."""
        return StoreSizes(rows=sum(map(len, self._held.values())), storage_bytes=0)

    async def problems(self, now_ms: int) -> list[str]:
        """See SeriesStore.problems."""
        return []

    async def healthy(self) -> bool:
        """See SeriesStore.healthy."""
        return True

    async def close(self) -> None:
        """Nothing is open."""


def _batch(series: Series, rows: Sequence[_Row]) -> Batch:
    """Rows of one series as a settled batch."""
    dataset = DATASETS[series.dataset]
    if not rows:
        return empty(dataset, (series,))
    columns = {field.name: build(field, [row.values[field.name] for row in rows])[0] for field in dataset.fields}
    return settle(Batch(dataset, (series,), np.zeros(len(rows), np.int32), columns))
