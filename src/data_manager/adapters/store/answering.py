"""Questions about one series, answered from its segments: what both the writer and other processes share."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, local
from typing import TypeVar

import numpy as np

from data_manager.adapters.store import sqlite
from data_manager.adapters.store.cache import ColumnCache
from data_manager.adapters.store.chunks import decode
from data_manager.adapters.store.reading import ChunkRef, Load, Question, Segment, clusters, read
from data_manager.adapters.store.rows import Catalog, unpack_rows
from data_manager.domain.batch import Batch, empty, joined
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt, DamagedRows
from data_manager.domain.span import Span
from data_manager.domain.values.columns import Column
from data_manager.ports import Extent, StoreSizes

T = TypeVar("T")
FILE = "series.db"


class ChunkReplaced(LookupError):
    """A fold replaced the chunk between our look at the directory and our fetch."""


class SegmentStore(ABC):
    """The reading half of SeriesStore. Subclasses say which segments a series has."""

    kind = "embedded"
    deletes_by_itself = False

    def __init__(self, folder: Path, cache_bytes: int) -> None:
        self._path = folder / FILE
        self._datasets = DATASETS
        self._cache = ColumnCache(cache_bytes)
        self._readers = ThreadPoolExecutor(2, "store-reader")
        self._thread = local()
        self._connections: list[sqlite3.Connection] = []
        self._connections_lock = Lock()

    @abstractmethod
    def _segments(self, series: Series) -> list[Segment]:
        """Everything held of a series; later ones win over earlier ones where keys meet. Runs in a reader thread."""

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
        question = Question(span=span, columns=columns, limit=limit, offset=offset, descending=descending, after=after)
        return await self._answer(series, question)

    async def last(self, series: Series, n: int) -> Batch:
        """See SeriesStore.last."""
        rows = await self._answer(series, Question(limit=n, descending=True))
        return rows.take(np.arange(len(rows))[::-1])

    async def keys(self, series: Series, span: Span | None = None) -> Batch:
        """See SeriesStore.keys."""
        return await self._answer(series, Question(span=span, columns=self._datasets[series.dataset].audited_columns))

    async def count(self, series: Series, span: Span | None = None) -> int:
        """See SeriesStore.count."""
        return await self._in_reader(lambda: self._count(series, span))

    async def extent(self, series: Series) -> Extent | None:
        """See SeriesStore.extent."""
        return await self._in_reader(lambda: self._extent(series))

    async def revisions(self, series: Series) -> Batch:
        """See SeriesStore.revisions."""
        return await self._in_reader(lambda: self._revisions(series))

    def _revisions(self, series: Series) -> Batch:
        connection, dataset = self._connection(), self._datasets[series.dataset]
        catalog = Catalog(connection)
        asked = connection.execute(
            "SELECT crc, blob FROM revision WHERE sid = ? ORDER BY key, id", (catalog.known(series),)
        )
        what = f"{series}: a row that was replaced"
        old = [unpack_rows(sqlite.checked(blob, crc, what), dataset, catalog) for crc, blob in asked]
        return joined(old) if old else empty(dataset, (series,))

    def version(self, series: Series) -> int | None:
        """See SeriesStore.version. None: another process writes."""
        return None

    async def sizes(self) -> StoreSizes:
        """See SeriesStore.sizes. What the file and its log hold; pages that are free again are not counted."""
        return StoreSizes(storage_bytes=await self._in_reader(self._used_bytes))

    async def problems(self, now_ms: int) -> list[str]:
        """See SeriesStore.problems. There is nothing here that anybody could have changed."""
        return []

    async def healthy(self) -> bool:
        """See SeriesStore.healthy."""
        return await self._in_reader(lambda: self._connection().execute("SELECT 1").fetchone() == (1,))

    def _used_bytes(self) -> int:
        connection = self._connection()
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        log = self._path.with_name(f"{self._path.name}-wal")
        return (pages - free) * size + (log.stat().st_size if log.exists() else 0)

    async def _answer(self, series: Series, question: Question) -> Batch:
        dataset = self._datasets[series.dataset]
        return await self._in_reader(
            lambda: read(dataset, series, self._segments(series), self._loader(series), question)
        )

    async def _in_reader(self, ask: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._steadily, ask)

    def _steadily(self, ask: Callable[[], T]) -> T:
        """Reader thread: ask again when a fold got in between."""
        while True:
            try:
                with sqlite.translated(self._path):
                    return ask()
            except ChunkReplaced:
                continue

    def _count(self, series: Series, span: Span | None) -> int:
        dataset = self._datasets[series.dataset]
        segments = self._segments(series)
        groups = clusters(segments)
        if span is None and all(len(group) == 1 for group in groups):
            return sum(one.rows if isinstance(one, ChunkRef) else len(one) for (one,) in groups)
        question = Question(span=span, columns=dataset.key)
        return len(read(dataset, series, segments, self._loader(series), question))

    def _extent(self, series: Series) -> Extent | None:
        bounds = [_bounds(segment) for segment in self._segments(series)]
        if not bounds:
            return None
        first_keys, last_keys, first_times, last_times = zip(*bounds, strict=True)
        return Extent(self._count(series, None), min(first_keys), max(last_keys), min(first_times), max(last_times))

    def _loader(self, series: Series) -> Load:
        """How to get columns of this series' chunks in the calling thread: from the cache, else from the file."""
        dataset = self._datasets[series.dataset]

        def load(ref: ChunkRef, names: Collection[str]) -> Batch:
            columns = self._cache.get(ref.id, names)
            if columns is None:
                columns = _fetch(self._connection(), dataset, series, ref, names)
                self._cache.put(ref.id, columns)
            return chunk_batch(dataset, series, ref, columns)

        return load

    def _connection(self) -> sqlite3.Connection:
        """The calling thread's own reading connection."""
        connection: sqlite3.Connection | None = getattr(self._thread, "connection", None)
        if connection is None:
            connection = self._connect()
            self._thread.connection = connection
            with self._connections_lock:
                self._connections.append(connection)
        return connection

    @abstractmethod
    def _connect(self) -> sqlite3.Connection:
        """A new reading connection."""

    async def close(self) -> None:
        """See SeriesStore.close."""
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()


def chunk_batch(dataset: Dataset, series: Series, ref: ChunkRef, columns: dict[str, Column]) -> Batch:
    """Columns of a chunk as a batch of its series."""
    return Batch(dataset, (series,), np.zeros(ref.rows, np.int32), columns)


def _fetch(
    connection: sqlite3.Connection, dataset: Dataset, series: Series, ref: ChunkRef, names: Collection[str]
) -> dict[str, Column]:
    keys = set(dataset.audited_columns)
    columns: dict[str, Column] = {}
    for blob_name, wanted in (("keys", keys.intersection(names)), ("rest", set(names) - keys)):
        if wanted:
            row = connection.execute(
                f"SELECT {blob_name}, {blob_name}_crc FROM chunk WHERE id = ?", (ref.id,)
            ).fetchone()
            if row is None:
                raise ChunkReplaced
            what = f"{series}: the chunk of keys {ref.first_key} to {ref.last_key}"
            try:
                columns.update(decode(sqlite.checked(row[0], row[1], what), wanted))
            except Corrupt as error:
                raise DamagedRows(
                    str(error),
                    start_ms=ref.first_ms,
                    end_ms=ref.last_ms + 1,
                    first_key=ref.first_key,
                    last_key=ref.last_key,
                ) from error
    return {name: columns[name] for name in names}


def _bounds(segment: Segment) -> tuple[int, int, int, int]:
    if isinstance(segment, ChunkRef):
        return segment.first_key, segment.last_key, segment.first_ms, segment.last_ms
    times = segment.time_ms
    return int(segment.key[0]), int(segment.key[-1]), int(times.min()), int(times.max())
