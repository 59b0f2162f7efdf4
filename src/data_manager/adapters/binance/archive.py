"""The archive source: whole days and months as the venue publishes them, each file with its checksum.

    checksum ──> zip ──> survey ──> rows by stretches of time, packed and checked like live ones
       │           └── another digest than promised: Corrupt, and nothing of it is handed over
       └── 404: the day's rows may be in the month's file, the month's in its days'; else there are none, with proof

The next files are on their way while one is read. A file is on the disk, never in memory.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from data_manager.adapters.binance import archive_read as reading
from data_manager.adapters.binance.archive_files import INDEX_PRICES, KINDS, File, beside, days_of, files, month_of
from data_manager.adapters.binance.archive_read import Whole
from data_manager.adapters.binance.archive_taking import Absent, Taken, Taker
from data_manager.adapters.binance.http import Http
from data_manager.domain.batch import Batch, Packed, empty
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Unavailable
from data_manager.domain.finding import Evidence
from data_manager.domain.span import Span
from data_manager.ports import Clock
from data_manager.ports.source import Digests, Fetched, Offer, Wanted

_AHEAD: Final = 1  # files on their way besides the one that is read
_FIRST_S: Final = 0.4  # until the first file is there
_LATE_S: Final = 3_600.0
_STALE_S: Final = 86_400.0  # downloads left behind by a process that was killed


class ArchiveSource:
    """Source by the archive's files, of every market."""

    name = "archive"

    def __init__(self, http: Http, address: str, clock: Clock, digests: Digests, downloads: Path) -> None:
        """downloads: the folder for files on their way."""
        self._http = http
        self._clock = clock
        self._downloads = downloads
        self._taker = Taker(http, address, clock, digests)

    def offers(self, wanted: Wanted, now_ms: int) -> Sequence[Offer]:
        """See Source.offers: one for each run of days or of months."""
        kind = next((KINDS[name] for name in DATASETS[wanted.series.dataset].refill if name in KINDS), None)
        if kind is None:
            return []
        runs = groupby(files(kind, wanted.series, wanted.span, now_ms), key=lambda file: file.is_day)
        return [_offer(list(run), wanted.span) for _, run in runs]

    async def fetch(self, wanted: Wanted, offer: Offer, origin: str) -> AsyncIterator[Fetched]:
        """See Source.fetch."""
        if offer.call not in KINDS:
            raise BadQuery("call", offer.call, f"must be one of {' '.join(KINDS)}")
        word = f"{origin} {offer.call}".lstrip()
        plan = files(KINDS[offer.call], wanted.series, offer.span, self._clock.now_ms())
        folder = await asyncio.to_thread(_own_folder, self._downloads)
        try:
            async with aclosing(_Fetch(self._taker, self._clock, folder, word).pieces(plan, offer.span)) as pieces:
                async for one in pieces:
                    yield _between(one, wanted)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def knows(self, series: Series) -> bool | None:
        """See Source.knows: the archive lists nothing."""
        return None

    def facts(self) -> dict[str, dict[str, int | float | str | None]]:
        """What holds us up, as RestSource.facts."""
        return {"archive": {**self._taker.breaker.facts()}}

    async def close(self) -> None:
        """See Source.close."""
        await self._http.close()
        self._taker.close()


class _Small(NamedTuple):
    """A small file whose rows are read, and what the evidence says besides."""

    taken: Taken
    whole: Whole
    evidence: Evidence


_Ready = Absent | Taken | _Small


class _Fetch:
    """One answer: the files it needs, in order, and what takes the place of those that are not there."""

    def __init__(self, taker: Taker, clock: Clock, folder: Path, word: str) -> None:
        self._taker = taker
        self._clock = clock
        self._folder = folder
        self._word = word

    async def pieces(self, plan: Sequence[File], span: Span) -> AsyncGenerator[Fetched, None]:
        """All that the files have in span."""
        coming: deque[asyncio.Task[_Ready]] = deque()
        left = deque(plan)
        try:
            for file in plan:
                while left and len(coming) <= _AHEAD:
                    work = self._ready(left[0], _part(left[0], span))
                    coming.append(asyncio.create_task(work, name=f"archive {left.popleft().name}"))
                async with aclosing(self._of(file, _part(file, span), await coming.popleft())) as pieces:
                    async for one in pieces:
                        yield one
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)

    async def _of(self, file: File, part: Span, ready: _Ready) -> AsyncGenerator[Fetched, None]:
        """What there is of part: in the file, or in those that stand in for it."""
        stand_ins = await self._instead(file, part) if isinstance(ready, Absent) else []
        for other in stand_ins or [file]:
            piece = _part(other, part)
            found = await self._ready(other, piece) if stand_ins else ready
            if isinstance(found, Absent):
                yield Fetched(span=piece, rows=_no_rows(file.series), evidence=found.evidence)
                continue
            async with aclosing(self._read(found, piece)) as pieces:
                async for one in pieces:
                    yield one

    async def _instead(self, file: File, part: Span) -> Sequence[File]:
        """Files that together span part, for one that is not there; none where it is true that there is nothing."""
        now_ms = self._clock.now_ms()
        if not file.is_day and file.has_days:
            days = days_of(file, part)
            there = await self._taker.is_there(days[0]) or await self._taker.is_there(days[-1])
            return days if there else []
        if file.late(now_ms):
            raise Unavailable(f"{file.name} is not published yet", retry_after_s=_LATE_S)
        month = month_of(file.kind, file.series, file.span.start_ms)
        return [month] if file.is_day and file.kind.months and month.out_ms <= now_ms else []

    async def _ready(self, file: File, part: Span) -> _Ready:
        """The file on the disk; a small one read already."""
        taken = await self._take(file)
        if isinstance(taken, Absent) or file.kind.fine:
            return taken
        return _Small(taken, *await self._whole(taken, part))

    async def _read(self, found: Taken | _Small, part: Span) -> AsyncGenerator[Fetched, None]:
        """The rows of a file in part; afterwards it is known as taken in, and gone from the disk.

        Of a file that was published again the earlier version stays known until all of the new one was asked for.
        """
        if isinstance(found, _Small):
            taken = found.taken
            one = reading.fetched(part, found.whole.packed, taken, found.whole.survey)
            yield replace(one, evidence=one.evidence | found.evidence)
        else:
            taken = found
            async with aclosing(self._worked(reading.read_stretches(taken, part, self._word))) as pieces:
                async for one in pieces:
                    yield one
        if "republished" not in taken.evidence or part == taken.file.span:
            await self._taker.keep(taken)
        await asyncio.to_thread(taken.table.path.unlink, missing_ok=True)

    async def _whole(self, taken: Taken, part: Span) -> tuple[Whole, Evidence]:
        """The rows of a small file, completed from others, and what the evidence says of those."""
        packed, survey = await self._taker.work(reading.read_whole, taken, part, self._word)
        if taken.file.kind.coarse:
            packed = await self._with_indexes(packed, taken.file, part)
        if taken.file.is_day or taken.file.rows_per_day is None:
            return Whole(packed, survey), {}
        completed_by = 0
        for run in reading.short_days(packed.batch, part, taken.file.rows_per_day):
            for start_ms in run:
                [day] = days_of(taken.file, Span(start_ms, start_ms + 1))
                found = await self._take(day)
                if isinstance(found, Absent):
                    break
                more = await self._taker.work(reading.read_whole, found, day.span, self._word)
                packed = reading.completed(packed, more.packed)
                completed_by += 1
                await self._taker.keep(found)
        return Whole(packed, survey), {"completed_by_days": completed_by} if completed_by else {}

    async def _with_indexes(self, packed: Packed, file: File, part: Span) -> Packed:
        found = await self._take(beside(file, INDEX_PRICES))
        if isinstance(found, Absent):
            return packed
        indexes = await self._taker.work(reading.read_whole, found, part, self._word)
        return reading.with_index_prices(packed, indexes.packed.batch)

    async def _take(self, file: File) -> Taken | Absent:
        return await self._taker.take(file, self._folder)

    async def _worked(self, pieces: Iterator[Fetched]) -> AsyncGenerator[Fetched, None]:
        """The pieces, made by a worker thread: the next one while one is used."""
        coming = asyncio.create_task(self._taker.work(next, pieces, None), name="archive piece")
        try:
            while (one := await asyncio.shield(coming)) is not None:
                coming = asyncio.create_task(self._taker.work(next, pieces, None), name="archive piece")
                yield one
        finally:
            await asyncio.wait([coming])  # a thread cannot be cancelled, and the file must stay until it is done
            coming.exception()


def _part(file: File, span: Span) -> Span:
    return Span(max(span.start_ms, file.span.start_ms), min(span.end_ms, file.span.end_ms))


def _offer(run: Sequence[File], span: Span) -> Offer:
    first = run[0]
    part = Span(_part(first, span).start_ms, _part(run[-1], span).end_ms)
    seconds = _FIRST_S + sum(file.seconds for file in run)
    return Offer(call=first.kind.call, span=part, seconds=seconds, coarse=first.kind.coarse)


def _between(one: Fetched, wanted: Wanted) -> Fetched:
    """Without rows that are held already, on either side of what is wanted."""
    keys = one.rows.key
    low = 0 if wanted.after is None else int(np.searchsorted(keys, wanted.after, side="right"))
    high = len(keys) if wanted.before is None else int(np.searchsorted(keys, wanted.before))
    if (low, high) == (0, len(keys)):
        return one
    rows = one.rows.take(slice(low, max(low, high)))
    return replace(one, rows=rows, evidence=one.evidence | {"rows": len(rows)})


def _no_rows(series: Series) -> Batch:
    return empty(DATASETS[series.dataset], (series,))


def _own_folder(downloads: Path) -> Path:
    """A fresh folder for one answer; what a killed process left behind long ago is removed."""
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        for left in downloads.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=downloads))
    except OSError as error:
        raise Unavailable(f"{downloads} cannot take downloads: {error.strerror or error}") from error
