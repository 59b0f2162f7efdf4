"""What is held of each dataset, as readers see it: whole, never half; and as the last process left it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from data_manager.adapters.store import sqlite
from data_manager.adapters.store.accepting import NO_KEY
from data_manager.adapters.store.reading import ChunkRef, Segment
from data_manager.adapters.store.recent import Recent
from data_manager.adapters.store.rows import Catalog, unpack_rows
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series


class View(NamedTuple):
    """What is held of one dataset at one moment: recent rows, and the chunks of each series in key order."""

    recent: Recent
    chunks: dict[Series, tuple[ChunkRef, ...]]

    def segments(self, series: Series) -> list[Segment]:
        """Everything held of a series; later pieces win over earlier ones where keys meet."""
        return [*self.chunks.get(series, ()), *self.recent.of(series)]

    def series(self) -> set[Series]:
        """Every series that holds a row."""
        return {*(one for one, refs in self.chunks.items() if refs), *self.recent.series()}


def last_key(view: View, series: Series) -> int:
    """The highest key held of a series; NO_KEY when nothing is."""
    keys = [ref.last_key for ref in view.chunks.get(series, ())]
    return max([*keys, *(int(rows.key[-1]) for rows in view.recent.of(series))], default=NO_KEY)


def read_views(connection: sqlite3.Connection, catalog: Catalog, datasets: Sequence[Dataset]) -> dict[str, View]:
    """The directory of chunks and the journal, as the last process left them."""
    views = {dataset.name: View(Recent(), {}) for dataset in datasets}
    chunks: dict[Series, list[ChunkRef]] = {}
    sql = "SELECT sid, id, first_key, last_key, first_ms, last_ms, rows FROM chunk ORDER BY sid, first_key"
    for sid, *row in connection.execute(sql):
        chunks.setdefault(catalog.of(sid), []).append(ChunkRef(*row))
    for series, refs in chunks.items():
        views[series.dataset].chunks[series] = tuple(refs)
    for dataset in datasets:
        recent = views[dataset.name].recent
        entries = connection.execute(
            "SELECT entry, crc, blob FROM journal WHERE dataset = ? ORDER BY entry", (dataset.name,)
        )
        for entry, crc, blob in entries:
            rows = unpack_rows(sqlite.checked_entry(blob, crc, entry, dataset.name), dataset, catalog)
            recent = recent.with_entry(rows, entry).tidied()
        views[dataset.name] = views[dataset.name]._replace(recent=recent)
    return views


def read_live(
    connection: sqlite3.Connection, catalog: Catalog, datasets: dict[str, Dataset]
) -> list[tuple[Series, Batch]]:
    """The live row of each series that has one."""
    rows = connection.execute("SELECT sid, crc, blob FROM live").fetchall()
    found = []
    for sid, crc, blob in rows:
        series = catalog.of(sid)
        whole = sqlite.checked(blob, crc, f"{series}: the live row")
        found.append((series, unpack_rows(whole, datasets[series.dataset], catalog)))
    return found
