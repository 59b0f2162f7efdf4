"""The embedded SeriesStore: a journal for speed, chunks for keeping, one SQLite file for both.

    append ──> accept ──> journal entry + recent rows          one transaction and one fsync per group of flushes
                              │  fold, when enough has come
                              v
                           chunks                              one transaction per fold
    scan, last, keys <── chunks + recent rows

One writer thread owns the writing connection; one keeper thread prepares folds, so that a flush waits for a fold's
short commit and never for its work. What readers see is a View, replaced whole: they never wait and never see half.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

import numpy as np
import structlog

from data_manager.adapters.store import sqlite
from data_manager.adapters.store.accepting import NO_KEY, Accepted, accept
from data_manager.adapters.store.answering import SegmentStore, chunk_batch
from data_manager.adapters.store.cache import NotCached
from data_manager.adapters.store.folding import Folded, NewChunk, cut, fold
from data_manager.adapters.store.reading import ChunkRef, Load, Question, Segment, clusters, read
from data_manager.adapters.store.recent import Recent
from data_manager.adapters.store.rows import Catalog, pack_rows
from data_manager.adapters.store.views import View, last_key, read_live, read_views
from data_manager.domain.batch import Batch, empty
from data_manager.domain.dataset import Dataset, Keep, Series
from data_manager.domain.errors import DataManagerError, Unavailable
from data_manager.domain.span import Span
from data_manager.ports import Extent, Receipt

_log = structlog.get_logger(__name__)
_BEHIND = 4  # so many times what makes a fold due may wait, in one dataset or of all bytes: then appends wait for it
_HURRY = 2  # so many times: then the fold takes no breath
_BREATH = 4  # so many times as long as it worked a fold rests after each step, while there is no hurry at all
_INLINE_ROWS = 2_000  # an answer of cached rows up to this size is put together without leaving the event loop


class FoldAt(NamedTuple):
    """How much may wait in the journal of one dataset before it is folded into chunks."""

    rows: int = 131_072
    size_bytes: int = 24 * 1024 * 1024
    entries: int = 2_048


FOLD_AT = FoldAt()
_CHECKPOINT_BYTES = 32 * 1024 * 1024  # written to the log since the last checkpoint


@dataclass(slots=True, eq=False)
class _Append:
    batch: Batch
    outcome: Receipt | DataManagerError | None = None


class EmbeddedStore(SegmentStore):
    """SeriesStore on one SQLite file. Exactly one process may have it open."""

    def __init__(self, folder: Path, cache_bytes: int, fold_at: FoldAt = FOLD_AT) -> None:
        """Opens the file and reads the journal. Raises StoreLocked, Unavailable or Corrupt."""
        super().__init__(folder, cache_bytes)
        self._lock = sqlite.WriterLock(folder)
        self._fold_at = fold_at
        self._writing = sqlite.connect(self._path, write=True)
        sqlite.prepare(self._writing, self._path)
        self._room = sqlite.LogRoom(self._path)
        with sqlite.translated(self._path):
            self._catalog = Catalog(self._writing)
            self._views = read_views(self._writing, self._catalog, list(self._datasets.values()))
            self._live = dict(read_live(self._writing, self._catalog, self._datasets))
        self._last_keys = {one: last_key(view, one) for view in self._views.values() for one in view.series()}
        self._versions: Counter[Series] = Counter()
        self._waiting: list[_Append] = []
        self._logged = 0
        self._waiting_lock = Lock()
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._keeper = ThreadPoolExecutor(1, "store-keeper")
        self._folds: dict[str, asyncio.Task[None]] = {}
        self._closing = Event()

    # ---- append --------------------------------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Receipt:
        """See SeriesStore.append. Appends that wait at the same time share one transaction."""
        if not len(batch):
            return Receipt()
        await self._wait_for_fold(batch.dataset)
        one = _Append(batch)
        with self._waiting_lock:
            self._waiting.append(one)
        await asyncio.get_running_loop().run_in_executor(self._writer, self._drain)
        if not isinstance(one.outcome, Receipt):
            raise one.outcome or Unavailable("the store is closing")
        if self._backlog(batch.dataset) >= 1:
            self._folding(batch.dataset)
        return one.outcome

    def _drain(self) -> None:
        """Writer thread: what waits, each dataset at most once. One call per append, so every append gets its turn."""
        with self._waiting_lock:
            group = _one_per_dataset(self._waiting)
            del self._waiting[: len(group)]
        if group:
            try:
                for one, receipt in zip(group, self._write([one.batch for one in group]), strict=True):
                    one.outcome = receipt
            except DataManagerError as error:
                for one in group:
                    one.outcome = error
            if any(self._views[one.batch.dataset.name].recent.untidy() for one in group):
                with suppress(RuntimeError):  # the store is closing
                    self._writer.submit(self._tidy)

    def _tidy(self) -> None:
        """Writer thread, after those who appended have gone on: merge small pieces."""
        for name, view in self._views.items():
            if view.recent.untidy():
                self._views[name] = view._replace(recent=view.recent.tidied())

    def _write(self, batches: Sequence[Batch]) -> list[Receipt]:
        accepted = [self._accept(batch) for batch in batches]
        with self._catalog.provisional(), sqlite.transaction(self._writing, self._path):
            entries = [self._insert(one) for one in accepted]
        for one, entry in zip(accepted, entries, strict=True):
            self._publish(one, entry)
        self._room.see_to()
        self._logged += sum(one.rows.size_bytes for one in accepted)
        if self._logged > _CHECKPOINT_BYTES:
            self._logged = 0
            self._keeper.submit(self._checkpoint)
        return [one.receipt for one in accepted]

    def _accept(self, batch: Batch) -> Accepted:
        dataset = batch.dataset
        view = self._views[dataset.name]
        last_keys = np.array([self._last_keys.get(series, NO_KEY) for series in batch.series], np.int64)

        def held(series: Series, low: int, high: int, keys_only: bool) -> Batch:
            question = Question(keys=(low, high), columns=[*dataset.key, dataset.time] if keys_only else None)
            return read(dataset, series, view.segments(series), self._loader(series), question)

        return accept(batch, last_keys, held, self._live)

    def _insert(self, one: Accepted) -> int:
        """One accepted batch into the open transaction; the number of its journal entry, 0 when nothing is new."""
        for row in (rows.take(slice(at, at + 1)) for rows in one.replaced for at in range(len(rows))):
            blob = pack_rows(row, self._catalog)
            values = (self._catalog.number(row.series[0]), int(row.key[0]), sqlite.checksum(blob), blob)
            self._writing.execute("INSERT INTO revision (sid, key, crc, blob) VALUES (?, ?, ?, ?)", values)
        for series, live in one.live.items():
            self._insert_live(self._catalog.number(series), live)
        if not len(one.rows):
            return 0
        blob = pack_rows(one.rows, self._catalog)
        cursor = self._writing.execute(
            "INSERT INTO journal (dataset, rows, crc, blob) VALUES (?, ?, ?, ?)",
            (one.rows.dataset.name, len(one.rows), sqlite.checksum(blob), blob),
        )
        return int(cursor.lastrowid or 0)

    def _insert_live(self, sid: int, live: Batch | None) -> None:
        self._writing.execute("DELETE FROM live WHERE sid = ?", (sid,))
        if live is not None:
            blob = pack_rows(live, self._catalog)
            self._writing.execute(
                "INSERT INTO live (sid, crc, blob) VALUES (?, ?, ?)", (sid, sqlite.checksum(blob), blob)
            )

    def _publish(self, one: Accepted, entry: int) -> None:
        """Show readers what was committed."""
        for series, live in one.live.items():
            if live is None:
                self._live.pop(series, None)
            else:
                self._live[series] = live
        rows = one.rows
        if len(rows):
            view = self._views[rows.dataset.name]
            self._views[rows.dataset.name] = view._replace(recent=view.recent.with_entry(rows, entry))
            for series, first, after in zip(
                rows.series, rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True
            ):
                if after > first:
                    self._last_keys[series] = max(int(rows.key[after - 1]), self._last_keys.get(series, NO_KEY))
                    self._versions[series] += 1

    # ---- fold and drop -------------------------------------------------------------------------------------------

    async def _wait_for_fold(self, dataset: Dataset) -> None:
        """Before an append: wait when rows come faster than folds go. Raises what the fold raises; nothing is kept."""
        if self._backlog(dataset) >= _BEHIND:
            await asyncio.shield(self._folding(dataset))
        elif self._fullness() >= _BEHIND:
            largest = max(self._views, key=lambda name: self._views[name].recent.size_bytes)
            await asyncio.shield(self._folding(self._datasets[largest]))

    def _backlog(self, dataset: Dataset) -> float:
        """What waits in the journal, as a multiple of what makes a fold due."""
        recent, limit = self._views[dataset.name].recent, self._fold_at
        return max(recent.rows / limit.rows, recent.size_bytes / limit.size_bytes, recent.entries / limit.entries)

    def _folding(self, dataset: Dataset) -> asyncio.Task[None]:
        """The fold under way, or a new one. One that failed has lost nothing: the next one takes its rows too."""
        task = self._folds.get(dataset.name)
        if task is None or task.done():
            task = asyncio.create_task(self._fold_beside(dataset), name=f"fold {dataset.name}")
            task.add_done_callback(_say_failure)
            self._folds[dataset.name] = task
        return task

    async def fold(self, dataset: Dataset) -> None:
        """Move the recent rows of a dataset into chunks. Raises Unavailable; nothing is lost then."""
        await asyncio.get_running_loop().run_in_executor(self._keeper, self._fold, dataset, _no_rest)

    async def _fold_beside(self, dataset: Dataset) -> None:
        """The same, while nobody waits for it but others have work to do."""
        await asyncio.get_running_loop().run_in_executor(self._keeper, self._fold, dataset, self._rest)

    def _fold(self, dataset: Dataset, rest: Callable[[float], None]) -> None:
        """Keeper thread: prepare the chunks, then let the writer thread commit them."""
        view = self._writer.submit(self._seal, dataset).result()
        if view.recent.pieces:
            folds = []
            started = time.thread_time()
            recent = view.recent.gathered()
            for one in sorted(recent.series()):
                rest(time.thread_time() - started)
                started = time.thread_time()
                folds.append(fold(one, recent.of(one), view.chunks.get(one, ()), self._loader(one)))
            self._writer.submit(self._commit, dataset, folds, view.recent).result()
            self._checkpoint()

    def _rest(self, worked_s: float) -> None:
        """Leave the interpreter and the processor to those who answer, unless rows come faster than folds go."""
        self._closing.wait(worked_s * _BREATH * max(0.0, min(1.0, _HURRY - self._pressure())))

    def _pressure(self) -> float:
        """How near appends are to waiting for folds, as a multiple of what makes a fold due."""
        return max(self._fullness(), *(self._backlog(one) for one in self._datasets.values()))

    def _fullness(self) -> float:
        """What waits in the journal of all datasets together, as a multiple of the bytes that make a fold due."""
        return sum(view.recent.size_bytes for view in self._views.values()) / self._fold_at.size_bytes

    def _seal(self, dataset: Dataset) -> View:
        """Writer thread: the view as it stands, whose recent rows nobody merges any more."""
        view = self._views[dataset.name]
        self._views[dataset.name] = view._replace(recent=view.recent.seal())
        return self._views[dataset.name]

    def _checkpoint(self) -> None:
        """Keeper thread: move committed pages from the log into the file.

        Nobody waits for it, but for the pages that came meanwhile: only when every page has been moved does the log
        begin again from its start, and under load there is always one more.
        """
        sqlite.checkpoint(self._connection(), self._path)
        self._writer.submit(sqlite.checkpoint, self._writing, self._path).result()

    def _commit(self, dataset: Dataset, folds: Sequence[Folded], recent: Recent) -> None:
        """Writer thread: chunks in, what they replace and the journal behind them out, in one transaction."""
        view = self._views[dataset.name]
        chunks = dict(view.chunks)
        with self._catalog.provisional(), sqlite.transaction(self._writing, self._path):
            for one in folds:
                chunks[one.series] = self._replace(one, chunks.get(one.series, ()))
            sql = "DELETE FROM journal WHERE dataset = ? AND entry <= ?"
            self._writing.execute(sql, (dataset.name, recent.until))
        self._views[dataset.name] = View(view.recent.without(recent), chunks)
        for one in folds:
            self._versions[one.series] += 1

    def _replace(self, one: Folded, refs: tuple[ChunkRef, ...]) -> tuple[ChunkRef, ...]:
        gone = {ref.id for ref in one.gone}
        self._writing.executemany("DELETE FROM chunk WHERE id = ?", [(number,) for number in gone])
        sid = self._catalog.number(one.series)
        kept = [ref for ref in refs if ref.id not in gone]
        for chunk in one.new:
            bounds = (chunk.ref.first_key, chunk.ref.last_key, chunk.ref.first_ms, chunk.ref.last_ms, chunk.ref.rows)
            blobs = (sqlite.checksum(chunk.keys), sqlite.checksum(chunk.rest), chunk.keys, chunk.rest)
            cursor = self._writing.execute(
                "INSERT INTO chunk (sid, first_key, last_key, first_ms, last_ms, rows, keys_crc, rest_crc, keys, rest)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (sid, *bounds, *blobs),
            )
            kept.append(ChunkRef(int(cursor.lastrowid or 0), *bounds))
        return tuple(sorted(kept, key=lambda ref: ref.first_key))

    async def drop(self, series: Series, span: Span) -> int:
        """See SeriesStore.drop."""
        recent = self._views[series.dataset].recent.of(series)
        if any(int(rows.time_ms.min()) < span.end_ms for rows in recent):
            await self.fold(self._datasets[series.dataset])
        return await asyncio.get_running_loop().run_in_executor(self._keeper, self._drop, series, span)

    def _drop(self, series: Series, span: Span) -> int:
        """Keeper thread: rewrite the chunks that hold rows of the span; those inside it go unread, damaged ones too."""
        dataset, load = self._datasets[series.dataset], self._loader(series)
        refs = self._views[dataset.name].chunks.get(series, ())
        gone: list[ChunkRef] = []
        new: list[NewChunk] = []
        dropped = 0
        for ref in (ref for ref in refs if ref.last_ms >= span.start_ms and ref.first_ms < span.end_ms):
            if span.start_ms <= ref.first_ms and ref.last_ms < span.end_ms:
                gone.append(ref)
                dropped += ref.rows
                continue
            rows = load(ref, list(dataset.field))
            inside = (rows.time_ms >= span.start_ms) & (rows.time_ms < span.end_ms)
            gone.append(ref)
            new.extend(cut(rows.take(~inside)))
            dropped += int(inside.sum())
        if dropped:
            self._writer.submit(self._commit, dataset, [Folded(series, gone, new)], Recent()).result()
        if dataset.on_conflict is Keep.FINAL and dataset.time == dataset.key[0]:
            self._writer.submit(self._forget_revisions, series, span).result()
        return dropped

    def _forget_revisions(self, series: Series, span: Span) -> None:
        """Writer thread: what was replaced goes with what replaced it; only rows keyed by their time are replaced."""
        with self._catalog.provisional(), sqlite.transaction(self._writing, self._path):
            sid = self._catalog.number(series)
            sql = "DELETE FROM revision WHERE sid = ? AND key >= ? AND key < ?"
            self._writing.execute(sql, (sid, span.start_ms, span.end_ms))

    # ---- reading -------------------------------------------------------------------------------------------------

    def _segments(self, series: Series) -> list[Segment]:
        return self._views[series.dataset].segments(series)

    async def _answer(self, series: Series, question: Question) -> Batch:
        if question.limit is not None and question.limit + question.offset <= _INLINE_ROWS:
            try:
                return read(
                    self._datasets[series.dataset], series, self._segments(series), self._cached(series), question
                )
            except NotCached:
                pass  # a chunk has to be fetched: not on the event loop
        return await super()._answer(series, question)

    async def extent(self, series: Series) -> Extent | None:
        """See SeriesStore.extent. Bounds are in memory; rows have to be looked at only where pieces overlap."""
        groups = clusters(self._segments(series))
        if all(len(group) == 1 for group in groups):
            return self._extent(series)
        return await super().extent(series)

    def _cached(self, series: Series) -> Load:
        dataset = self._datasets[series.dataset]

        def load(ref: ChunkRef, names: Collection[str]) -> Batch:
            columns = self._cache.get(ref.id, names)
            if columns is None:
                raise NotCached
            return chunk_batch(dataset, series, ref, columns)

        return load

    def version(self, series: Series) -> int:
        """See SeriesStore.version. It rises with every change since the store was opened."""
        return self._versions.get(series, 0)

    async def live(self, series: Series) -> Batch:
        """See SeriesStore.live."""
        return self._live.get(series) or empty(self._datasets[series.dataset], (series,))

    async def series(self) -> list[Series]:
        """See SeriesStore.series."""
        return sorted(one for view in self._views.values() for one in view.series())

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite.connect(self._path, write=True)
        connection.execute("PRAGMA query_only = ON")
        return connection

    async def close(self) -> None:
        """See SeriesStore.close. Folds under way are finished; the journal is left for the next start."""
        self._closing.set()
        try:
            await asyncio.gather(*self._folds.values(), return_exceptions=True)  # a failure was said when it happened
        finally:
            for threads in (self._keeper, self._writer):
                await asyncio.to_thread(threads.shutdown)
            await super().close()
            self._writing.close()
            self._lock.close()


def _one_per_dataset(waiting: Sequence[_Append]) -> list[_Append]:
    """The longest run from the front that touches no dataset twice."""
    group: list[_Append] = []
    for one in waiting:
        if any(one.batch.dataset is other.batch.dataset for other in group):
            break
        group.append(one)
    return group


def _no_rest(_: float) -> None:
    """Somebody waits for the fold."""


def _say_failure(fold: asyncio.Task[None]) -> None:
    error = None if fold.cancelled() else fold.exception()
    if error is not None:
        bug = None if isinstance(error, DataManagerError) else error
        _log.error("fold failed: its rows stay in the journal", what=fold.get_name(), reason=str(error), exc_info=bug)
