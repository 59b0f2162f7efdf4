"""The embedded store as other processes read it, while the service goes on writing: the CLI, notebooks.

Every question is answered inside one read transaction, so it sees one moment of the file. Journal entries never
change, so they are decoded once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from data_manager.adapters.store import sqlite
from data_manager.adapters.store.answering import SegmentStore
from data_manager.adapters.store.reading import ChunkRef, Segment
from data_manager.adapters.store.recent import Piece
from data_manager.adapters.store.rows import Catalog, unpack_rows
from data_manager.domain.batch import Batch, empty
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Unavailable
from data_manager.domain.span import Span
from data_manager.ports import Receipt

T = TypeVar("T")


class ReadOnlyStore(SegmentStore):
    """SeriesStore whose append and drop refuse: exactly one process writes, and it is not this one."""

    def __init__(self, folder: Path, cache_bytes: int) -> None:
        """Raises Unavailable when there is no store in the folder yet."""
        super().__init__(folder, cache_bytes)
        if not self._path.exists():
            raise Unavailable(f"no data at {self._path} yet: start the service, or point DATA_DIR at its folder")
        self._pieces: dict[int, Piece] = {}

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite.connect(self._path, write=False)
        sqlite.require_format(connection, self._path)
        return connection

    def _steadily(self, ask: Callable[[], T]) -> T:
        connection = self._connection()
        with sqlite.translated(self._path):
            connection.execute("BEGIN")
            try:
                return ask()
            finally:
                connection.execute("ROLLBACK")

    def _segments(self, series: Series) -> list[Segment]:
        connection = self._connection()
        catalog = Catalog(connection)
        sid = catalog.known(series)
        if sid is None:
            return []
        refs = connection.execute(
            "SELECT id, first_key, last_key, first_ms, last_ms, rows FROM chunk WHERE sid = ? ORDER BY first_key",
            (sid,),
        )
        return [*(ChunkRef(*row) for row in refs), *self._recent(series, catalog)]

    def _recent(self, series: Series, catalog: Catalog) -> list[Batch]:
        connection = self._connection()
        entries = [entry for (entry,) in connection.execute(
            "SELECT entry FROM journal WHERE dataset = ? ORDER BY entry", (series.dataset,)
        )]  # fmt: skip
        for entry in (entry for entry in entries if entry not in self._pieces):
            blob, crc = connection.execute("SELECT blob, crc FROM journal WHERE entry = ?", (entry,)).fetchone()
            whole = sqlite.checked_entry(blob, crc, entry, series.dataset)
            rows = unpack_rows(whole, self._datasets[series.dataset], catalog)
            self._pieces[entry] = Piece(rows, entry)
        gone = [entry for entry, piece in self._pieces.items() if piece.batch.dataset.name == series.dataset]
        for entry in set(gone).difference(entries):
            del self._pieces[entry]
        found = (self._pieces[entry].rows_of(series) for entry in entries)
        return [rows for rows in found if rows is not None]

    async def live(self, series: Series) -> Batch:
        """See SeriesStore.live."""
        return await self._in_reader(lambda: self._read_live(series))

    def _read_live(self, series: Series) -> Batch:
        catalog = Catalog(self._connection())
        row = (
            self._connection().execute("SELECT blob, crc FROM live WHERE sid = ?", (catalog.known(series),)).fetchone()
        )
        dataset = self._datasets[series.dataset]
        if row is None:
            return empty(dataset, (series,))
        return unpack_rows(sqlite.checked(row[0], row[1], f"{series}: the live row"), dataset, catalog)

    async def series(self) -> list[Series]:
        """See SeriesStore.series."""
        return await self._in_reader(self._list)

    def _list(self) -> list[Series]:
        known = self._connection().execute("SELECT market, dataset, symbol, interval FROM series").fetchall()
        return sorted(one for one in (Series(*parts) for parts in known) if self._segments(one))

    async def append(self, batch: Batch) -> Receipt:
        """Refuses: raises Unavailable."""
        raise Unavailable("this store is opened for reading; the service is its writer")

    async def drop(self, series: Series, span: Span) -> int:
        """Refuses: raises Unavailable."""
        raise Unavailable("this store is opened for reading; the service is its writer")
