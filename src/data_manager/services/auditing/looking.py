"""One audit of one series: reads its rows page by page and enters what they say.

An audit goes on where the one before stopped, a little further back. When rows came or went before that, or when it is
asked to, it begins at the first row. What lies beyond the last row of a series is missing only where the series was
being fed as it happened: a recording replayed today does not lack the years since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.batch import Batch, joined, settle
from data_manager.domain.checks.crosscheck import CrossCheck, empty_bars, fills_of
from data_manager.domain.checks.rules import CHECKS, Offence, check
from data_manager.domain.condition.coverage import aligned
from data_manager.domain.condition.partition import EVER, Life
from data_manager.domain.condition.truth import Mark, SeriesTruth
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt, DamagedRows
from data_manager.domain.holes.continuity import Hole, MaxSilence, Sparse
from data_manager.domain.holes.ledger import HoleState
from data_manager.domain.holes.life import lived
from data_manager.domain.span import Span, intersection, union
from data_manager.domain.time import DAY_MS, EARLIEST_MS, LATEST_MS, MINUTE_MS
from data_manager.domain.values.columns import Ints
from data_manager.ports import Extent, SeriesStore
from data_manager.services.auditing.burned import less_burned
from data_manager.services.auditing.entering import Entering
from data_manager.services.auditing.judging import (
    Disordered,
    Judged,
    bracketed,
    holes_of,
    judge,
    reread_whole,
    resume,
    row_end_ms,
    settled_ms,
    whole_until_ms,
)
from data_manager.services.auditing.silent import less_usual

LIVE_WITHIN_MS: Final = DAY_MS
"""A series is fed as it happens when its newest row came within so long of its time."""

_NEAR_MS: Final = 10 * MINUTE_MS  # holes so near one another are looked into together
_WIDER: Final = 5  # so much wider are rows with all that is checked than keys alone
_PAGE_LEAST: Final = 90
_FEW: Final = 2_000  # rows that came since the last audit are seldom more, and are read at once where they are at hand
_IN_A_THREAD: Final = 50_000  # rows whose judgement would hold up the event loop


class Crossed(Struct, frozen=True):
    """How many candles were judged by other rows of the same facts, and what came of it: see CrossCheck."""

    agreed: int = 0
    excused: int = 0
    differing: int = 0
    unjudged: int = 0

    def __add__(self, other: Crossed | CrossCheck) -> Crossed:
        return Crossed(
            self.agreed + other.agreed,
            self.excused + other.excused,
            self.differing + other.differing,
            self.unjudged + other.unjudged,
        )


class Seen(Struct, frozen=True):
    """A version of the store's that was looked at. over: nothing of it was too young, and nothing after it is due."""

    version: int
    over: bool


class Looked(Struct):
    """How far an audit came, also when it ends by an error.

    span: what it was about to judge; rows: those it read; crossed: candles judged by other rows; damaged: rows that
    cannot be read, all around which was audited.
    """

    entering: Entering
    span: Span | None = None
    mark: Mark | None = None
    seen: Seen | None = None
    rows: int = 0
    crossed: Crossed = Crossed()
    damaged: list[DamagedRows] = []


class Looking:
    """Audits series of one store. grace_ms: rows younger than that may be on their way."""

    def __init__(self, store: SeriesStore, grace_ms: int, page_rows: int) -> None:
        self._store = store
        self._grace_ms = grace_ms
        self._page_rows = page_rows

    async def go_on(
        self,
        looked: Looked,
        series: Series,
        truth: SeriesTruth,
        now_ms: int,
        *,
        full: bool,
        values: bool,
        seen: Seen | None,
        life: Life = EVER,
    ) -> None:
        """Audit what changed since the mark of truth; with full everything. Fills looked as it goes."""
        mark, settled_ms = truth.mark, self.settled_ms(series, now_ms)
        version = self._store.version(series)
        confirmed = all(one.state is not HoleState.SUSPECTED for one in truth.holes)
        if mark and confirmed and not full and self._unchanged(series, mark, seen, version, settled_ms):
            looked.mark, looked.seen = replace(mark, looked_ms=now_ms), seen
            return
        extent = await self._store.extent(series)
        if extent is None:
            looked.entering.keep_within(None)
            looked.mark = Mark(looked_ms=now_ms, swept_ms=now_ms)
            return
        one = Walk(self, looked, series, extent, settled_ms, now_ms, values=values, life=life)
        whole = mark is None or full or mark.anchor_key is None or reread_whole(series)
        if whole or mark is None or not await one.since(mark):
            await one.everything()
        if version is not None:
            looked.seen = Seen(version, one.over)

    def _unchanged(self, series: Series, mark: Mark, seen: Seen | None, version: int | None, settled_ms: int) -> bool:
        if (
            seen is None
            or version is None
            or seen.version != version
            or (mark.anchor_key is None and not reread_whole(series))
        ):
            return False
        if seen.over:
            return True
        if bracketed(DATASETS[series.dataset].continuity):
            return False
        return mark.until_ms is not None and whole_until_ms(series, mark.until_ms, settled_ms) == mark.until_ms

    def settled_ms(self, series: Series, now_ms: int) -> int:
        """Rows of this time and younger are not judged yet."""
        return settled_ms(series, now_ms, self._grace_ms)

    async def page(
        self, series: Series, names: Sequence[str], anchor_key: int | None, few: int | None = None
    ) -> tuple[Batch, bool]:
        """Rows from the anchor on, and whether these are the last. few: how many there will be, most likely."""
        limit = None
        if len(DATASETS[series.dataset].key) == 1 and not reread_whole(series):
            wide = len(names) > len(DATASETS[series.dataset].audited_columns)
            limit = max(self._page_rows // _WIDER, _PAGE_LEAST) if wide else self._page_rows
        after = None if anchor_key is None else anchor_key - 1
        if few is not None and limit is not None and few < limit:
            rows = await self._store.scan(series, None, columns=names, limit=few, after=after)
            if len(rows) < few:
                return rows, True
        rows = await self._store.scan(series, None, columns=names, limit=limit, after=after)
        return rows, limit is None or len(rows) < limit

    async def until(self, series: Series, names: Sequence[str], anchor_key: int | None, end_ms: int) -> Batch:
        """Rows from the anchor on whose times lie before end_ms."""
        after = None if anchor_key is None else anchor_key - 1
        return await self._store.scan(series, Span(EARLIEST_MS, end_ms), columns=names, after=after)

    async def fed(self, series: Series, row_end: int) -> bool:
        """Whether the newest row, which ends there, came as it happened."""
        newest = await self._store.last(series, 1)
        received = newest.columns["received_ms"]
        assert isinstance(received, Ints)
        return len(newest) > 0 and int(received.values[-1]) - row_end <= LIVE_WITHIN_MS

    async def quiet(self, fills: Series, interval: str, holes: Sequence[Hole]) -> list[Span]:
        """Bars at and around the holes in which, by the ids of the fills held, nobody traded."""
        found: list[Span] = []
        for span in union(Span(hole.start_ms - _NEAR_MS, hole.end_ms + _NEAR_MS) for hole in holes):
            columns = DATASETS[fills.dataset].audited_columns
            before, behind = Span(EARLIEST_MS, span.start_ms), Span(span.end_ms, LATEST_MS)
            rows = [
                await self._store.scan(fills, before, columns=columns, limit=1, descending=True),
                await self._store.scan(fills, span, columns=columns),
                await self._store.scan(fills, behind, columns=columns, limit=1),
            ]
            found += empty_bars(settle(joined(rows)), interval)
        return union(found)

    async def less_usual(self, series: Series, holes: Sequence[Hole], rows: Batch, span: Span) -> list[Hole]:
        """The holes without ids that the venue burned, and without silences that are usual for the series."""
        return await less_usual(self._store, series, await less_burned(self._store, series, holes), rows, span)

    async def within(self, looked: Looked, series: Series, span: Span, now_ms: int, life: Life = EVER) -> None:
        """Audit one span, whatever was audited before. The mark stays where it is."""
        extent = await self._store.extent(series)
        settled_ms = self.settled_ms(series, now_ms)
        if extent is None or span.start_ms >= min(settled_ms, LATEST_MS):
            return
        one = Walk(self, looked, series, extent, settled_ms, now_ms, values=True, life=life)
        if bracketed(DATASETS[series.dataset].continuity):
            await self._between_rows(one, span)
        else:
            await self._up_to_edges(one, span)

    async def _between_rows(self, one: Walk, span: Span) -> None:
        """Ids and chains, with the rows next to the span, so that its edges are judged too."""
        series, names = one.series, one.names
        rows = await self._store.scan(series, span, columns=names)
        low, high = Span(EARLIEST_MS - 1, span.start_ms), Span(span.end_ms, LATEST_MS + 1)  # the span may be all time
        prior = await self._store.scan(series, low, columns=names, limit=1, descending=True)
        later = await self._store.scan(series, high, columns=names, limit=1)
        every = settle(joined([prior, rows, later]))
        one.looked.rows += len(every)
        if len(every) < 2:
            return
        start = span.start_ms if len(prior) else int(every.time_ms.min())
        end = min(span.end_ms if len(later) else int(every.time_ms.max()) + 1, one.settled_ms)
        if start < end:
            asked = Span(start, end)
            one.looked.span = asked
            holes = [hole for hole in holes_of(series, every, asked) if await self._is_hole(series, hole, asked)]
            await one.enter(Judged(asked, holes), rows)

    async def _is_hole(self, series: Series, hole: Hole, span: Span) -> bool:
        """Rows between the two may be held and have times outside the span: clocks and ids need not agree."""
        if hole.end_ms <= span.start_ms or hole.start_ms >= span.end_ms:
            return False
        beside = await self._store.scan(
            series, None, columns=DATASETS[series.dataset].audited_columns, limit=1, after=hole.after
        )
        return bool(beside.key.tolist() == [hole.before])

    async def _up_to_edges(self, one: Walk, span: Span) -> None:
        series, continuity = one.series, DATASETS[one.series.dataset].continuity
        if reread_whole(series):
            await one.everything()
            return
        end_ms = await one.end_ms(one.extent.last_ms)
        wider = continuity.silence_ms + 1 if isinstance(continuity, MaxSilence) else 0
        held = Span(one.extent.first_ms, max(end_ms, one.extent.first_ms + 1))
        asked = aligned(Span(span.start_ms, span.end_ms), str(series.interval)) if series.interval else span
        parts = [] if asked is None else intersection([Span(asked.start_ms - wider, asked.end_ms + wider)], [held])
        for part in parts:
            one.looked.span = part
            rows = await self._store.scan(series, part, columns=one.names)
            one.looked.rows += len(rows)
            judged = judge(series, rows, from_ms=part.start_ms, end_ms=part.end_ms, last=True)
            for inner in intersection([part], [asked or part]):
                await one.enter(Judged(inner if judged.span else None, judged.holes), rows)


class Walk:
    """From the anchor of one series to its last row, page by page."""

    def __init__(
        self,
        looking: Looking,
        looked: Looked,
        series: Series,
        extent: Extent,
        settled_ms: int,
        now_ms: int,
        *,
        values: bool,
        life: Life,
    ) -> None:
        looked.entering.live_by(life)
        self.looked = looked
        self.series = series
        self.extent = extent
        self.settled_ms = settled_ms
        self.over = isinstance(DATASETS[series.dataset].continuity, Sparse)
        self.names = _columns(DATASETS[series.dataset], values)
        self._looking = looking
        self._now_ms = now_ms
        self._values = values
        self._life = life

    async def since(self, mark: Mark) -> bool:
        """Audit what came since the mark; False when that is not all that changed."""
        anchor = mark.anchor_key
        rows, last = await self._looking.page(self.series, self.names, anchor, _FEW)
        held = int((rows.key <= self.extent.last_key).sum())
        moved = bracketed(DATASETS[self.series.dataset].continuity) and rows.key[:1].tolist() != [anchor]
        if not last or not held or moved or self.extent.rows - held != mark.rows_before:
            return False
        from_ms = None if mark.from_ms is None else max(mark.from_ms, self.extent.first_ms)
        try:
            judged = await self._judged(rows, from_ms, last)
        except Disordered:
            return False
        await self.enter(judged, rows)
        self._finish(rows, judged, mark.swept_ms, mark.until_ms)
        return True

    async def everything(self) -> None:
        """Audit the whole series; what was said before of instants without rows is forgotten."""
        from_ms: int | None = None
        anchor: int | None = None
        last = False
        while not last:
            rows, last, damage = await self._page(anchor)
            judged = await self._judged(rows, from_ms, last, damage)
            await self.enter(judged, rows)
            if damage is not None:
                self.looked.damaged.append(damage)
                from_ms = None if bracketed(DATASETS[self.series.dataset].continuity) else damage.end_ms
                anchor = damage.last_key + 1
            elif not last:
                goes_on = resume(self.series, rows, judged, None, later=False)
                if goes_on.anchor_key in (None, anchor):
                    raise Corrupt(f"{self.series}: the times of {len(rows):,} rows leave no place to go on from")
                from_ms, anchor = goes_on.from_ms, goes_on.anchor_key
        until_ms = self.looked.entering.judged_until_ms
        start_ms = self.extent.first_ms
        kept = Span(start_ms, until_ms) if until_ms is not None and start_ms < until_ms else None
        self.looked.entering.keep_within(kept)
        for one in self.looked.damaged:
            self.looked.entering.enter_unknown(Span(one.start_ms, one.end_ms))
        self._finish(rows, judged, self._now_ms, until_ms)

    async def _page(self, anchor: int | None) -> tuple[Batch, bool, DamagedRows | None]:
        """Rows from the anchor on, and whether they are the last; where some cannot be read, those before them."""
        try:
            return (*await self._looking.page(self.series, self.names, anchor), None)
        except DamagedRows as damage:
            if anchor is not None and damage.last_key < anchor:
                raise
            return await self._looking.until(self.series, self.names, anchor, damage.start_ms), False, damage

    async def _judged(self, rows: Batch, from_ms: int | None, last: bool, damage: DamagedRows | None = None) -> Judged:
        newest_ms = int(rows.time_ms.max()) if len(rows) else self.extent.last_ms
        end_ms = await self.end_ms(newest_ms) if last else whole_until_ms(self.series, newest_ms, self.settled_ms)
        if damage is not None:
            last, end_ms = True, whole_until_ms(self.series, newest_ms, min(damage.start_ms, self.settled_ms))
        start_ms = self.extent.first_ms if from_ms is None else from_ms
        self.looked.span = Span(start_ms, max(end_ms, start_ms + 1))
        self.looked.rows += len(rows)
        if len(rows) < _IN_A_THREAD:
            return judge(self.series, rows, from_ms=from_ms, end_ms=end_ms, last=last)
        return await asyncio.to_thread(judge, self.series, rows, from_ms=from_ms, end_ms=end_ms, last=last)

    async def end_ms(self, newest_ms: int) -> int:
        """Up to where rows of the series have to be there, if its newest row is of newest_ms."""
        continuity = DATASETS[self.series.dataset].continuity
        dead_ms = LATEST_MS if self._life.delisted_ms is None else self._life.delisted_ms
        due_ms = whole_until_ms(self.series, newest_ms, min(self.settled_ms, dead_ms))
        self.over = self.over or dead_ms <= self.settled_ms
        if bracketed(continuity):
            return due_ms
        own_ms = row_end_ms(self.series, newest_ms)
        pause_ms = continuity.silence_ms if isinstance(continuity, MaxSilence) else 0
        if own_ms + pause_ms >= due_ms or await self._looking.fed(self.series, own_ms):
            return due_ms
        self.over = True
        return own_ms

    async def enter(self, judged: Judged, rows: Batch) -> None:
        """What was found, by the rule and, where values were read, by the checks."""
        if judged.span is not None:
            rule = DATASETS[self.series.dataset].continuity
            holes = lived(judged.holes, self._life, rule, self.series.interval)
            holes = await self._looking.less_usual(self.series, holes, rows, judged.span)
            fills = fills_of(self.series)
            if fills is not None and holes:
                quiet = Life(halts=tuple(await self._looking.quiet(fills, str(self.series.interval), holes)))
                self.looked.entering.live_by(quiet)
                holes = lived(holes, quiet, rule, self.series.interval)
            self.looked.entering.enter(judged.span, holes)
        if self._values and len(rows):
            times = rows.time_ms
            span = Span(int(times.min()), int(times.max()) + 1)
            self.looked.entering.enter_checks(span, await self._offences(rows))

    async def _offences(self, rows: Batch) -> list[Offence]:
        return check(rows) if len(rows) < _IN_A_THREAD // 10 else await asyncio.to_thread(check, rows)

    def _finish(self, rows: Batch, judged: Judged, swept_ms: int, until_ms: int | None) -> None:
        entering = self.looked.entering
        if bracketed(DATASETS[self.series.dataset].continuity):
            self.over = (entering.judged_until_ms or 0) > self.extent.last_ms
        elif entering.judged_until_ms is not None:
            entering.not_yet(entering.judged_until_ms)
        goes_on = resume(self.series, rows, judged, entering.undecided_since_ms())
        anchor, last_key = goes_on.anchor_key, self.extent.last_key
        tail = 0 if anchor is None else int(((rows.key >= anchor) & (rows.key <= last_key)).sum())
        self.looked.mark = Mark(
            looked_ms=self._now_ms,
            swept_ms=swept_ms,
            until_ms=entering.judged_until_ms or until_ms,
            from_ms=goes_on.from_ms,
            anchor_key=anchor,
            rows_before=self.extent.rows - tail,
        )


def _columns(dataset: Dataset, values: bool) -> tuple[str, ...]:
    """What an audit reads: by the rule of continuity, and for the checks."""
    names = [*dataset.audited_columns, *(("origin",) if dataset.coarse else ())]
    if values:
        for one in CHECKS.get(dataset.name, ()):
            names += [name for name in (one.field, *one.columns) if name]
        names.append("received_ms")
    return tuple(dict.fromkeys(names))
