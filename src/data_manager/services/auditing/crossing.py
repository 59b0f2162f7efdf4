"""Cross-checks as a part of the audit: candles judged by what else is held of the same facts, window by window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.batch import Batch, joined, settle
from data_manager.domain.checks.crosscheck import CrossCheck, Judge, judges_of
from data_manager.domain.condition.coverage import aligned
from data_manager.domain.condition.truth import Mark, SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import (
    DAY_MS,
    EARLIEST_MS,
    HOUR_MS,
    INTERVALS_MS,
    LATEST_MS,
    MINUTE_MS,
    floor_open_ms,
    next_open_ms,
)
from data_manager.ports import Clock, SeriesStore
from data_manager.services.auditing.looking import Looked

KnownHoles = Callable[[str], Sequence[LedgerEntry]]

_FINE_ROWS: Final = 20_000  # candles that judge others, read in one go
_FILLS_MS: Final = 15 * MINUTE_MS  # trades that judge candles, likewise
_FIRST_MS: Final = DAY_MS  # the first time, and when no full audit is asked for, candles are judged so far back at once
_FIRST_FILLS_MS: Final = HOUR_MS  # and so far by trades, of which there are many
_MONTH_MS: Final = 31 * DAY_MS
_BACK_S: Final = 2.0  # so long at most a run goes further back, with all series together
_AGAIN_MS: Final = HOUR_MS  # what could not be judged is tried again for so long
_IN_A_THREAD: Final = 5_000


class Window(Struct, frozen=True):
    """What one series said of another in a span."""

    span: Span
    source: Series
    found: CrossCheck


class Crossing:
    """Judges series of one store by others of it. held: all of them, as of now, by market and symbol.

    What was held long before the first time is judged too, a little at each run, from the newest to the oldest.
    """

    def __init__(self, store: SeriesStore) -> None:
        self._store = store
        self.held: dict[tuple[str, str], list[Series]] = {}
        self._back_to_ms: dict[
            tuple[Series, Series], int
        ] = {}  # candles of the one were judged by the other from there
        self._back_s = _BACK_S  # that is left of this run

    def learn(self, held: Collection[Series]) -> None:
        """These are held, and a run begins."""
        self._back_s = _BACK_S
        self.held = {}
        for one in held:
            self.held.setdefault((one.market, one.symbol), []).append(one)

    def judges(self, series: Series, *, every: bool = False) -> list[Judge]:
        """Who can judge the series: the finest candles that make it up, else its trades; every: of each kind one."""
        found = judges_of(series, self.held.get((series.market, series.symbol), ()))
        best = {one.source.dataset: one for one in reversed(found)}
        return [one for one in found if best[one.source.dataset] is one] if every else found[:1]

    async def enter(
        self, looked: Looked, series: Series, truth: SeriesTruth, known: KnownHoles, clock: Clock, *, full: bool
    ) -> None:
        """Judge what was audited since the last time, enter the differences, and remember how far that came.

        known: the holes of a series by its id. clock: how long it takes to go back. full: everything, by every kind of
        judge.
        """
        mark, coverage = looked.mark, looked.entering.coverage
        if mark is None or mark.until_ms is None or not coverage or coverage[0].start_ms >= mark.until_ms:
            return
        covered, crossed_ms = Span(coverage[0].start_ms, mark.until_ms), mark.crossed_ms
        for first, judge in enumerate(self.judges(series, every=full)):
            mended = _mended([*known(series.id), *known(judge.source.id)], truth.mark)
            span = due(series, judge, crossed_ms, covered, mended, full=full)
            windows = [] if span is None else await self._entered(looked, series, judge, span)
            if first == 0 and span is not None:
                looked.mark = replace(mark, crossed_ms=again_from_ms(windows, span.end_ms))
                self._note(series, judge, span.start_ms)
        if not full:
            await self._go_back(looked, series, covered, clock)

    def _note(self, series: Series, judge: Judge, from_ms: int) -> None:
        pair = (series, judge.source)
        self._back_to_ms[pair] = min(from_ms, self._back_to_ms.get(pair, from_ms))

    async def _go_back(self, looked: Looked, series: Series, covered: Span, clock: Clock) -> None:
        """Judge candles of longer ago, as far as this run has time for it."""
        for judge in self.judges(series):
            at_ms = self._back_to_ms.get((series, judge.source), covered.end_ms)
            step_ms = max(_window_ms(judge.source), INTERVALS_MS[str(series.interval)] or _MONTH_MS)
            while at_ms > covered.start_ms and self._back_s > 0:
                began_s = clock.monotonic_s()
                span = aligned(Span(max(covered.start_ms, at_ms - step_ms), at_ms), str(series.interval))
                if span is not None:
                    await self._entered(looked, series, judge, span)
                at_ms = covered.start_ms if span is None else min(span.start_ms, at_ms - 1)
                self._note(series, judge, at_ms)
                self._back_s -= clock.monotonic_s() - began_s

    async def enter_within(self, looked: Looked, series: Series, span: Span) -> None:
        """The same for the candles of one span, by every kind of judge."""
        whole = aligned(span, series.interval) if series.interval else None
        if whole is not None:
            for judge in self.judges(series, every=True):
                await self._entered(looked, series, judge, whole)

    async def _entered(self, looked: Looked, series: Series, judge: Judge, span: Span) -> list[Window]:
        windows = [one async for one in self.windows(series, judge, span)]
        for one in windows:
            looked.entering.enter_differences(one.span, one.source, one.found.differences)
            looked.crossed += one.found
        return windows

    async def windows(self, series: Series, judge: Judge, span: Span) -> AsyncIterator[Window]:
        """Judge the candles that open in the span, which is of whole candles and may be wider than what is held.

        Those that open where nothing is held of the source are unjudged, all of them at once.
        """
        interval, step_ms, at = str(series.interval), _window_ms(judge.source), span.start_ms
        held = await self._held(judge.source, interval) if span.end_ms - at > step_ms else span
        while at < span.end_ms:
            if not held.start_ms <= at < held.end_ms:
                beside = Span(at, min(span.end_ms, held.start_ms) if at < held.start_ms else span.end_ms)
                candles = await self._store.scan(series, beside, columns=judge.judged_columns, limit=1)
                if len(candles):
                    found = _unjudged(await self._store.count(series, beside), int(candles.key[0]))
                    yield Window(beside, judge.source, found)
                at = beside.end_ms
                continue
            reach = aligned(Span(at, at + step_ms), interval)
            end = min(span.end_ms, reach.end_ms if reach else next_open_ms(at, interval))
            window = Span(at, end)
            candles = await self._store.scan(series, window, columns=judge.judged_columns)
            if len(candles):
                yield Window(window, judge.source, await self._judged(judge, candles, window))
                at = end
            else:
                at = await self._next(series, judge, Span(end, span.end_ms)) if end < span.end_ms else end

    async def _held(self, source: Series, interval: str) -> Span:
        """The candles in which anything may be held of the source."""
        extent = await self._store.extent(source)
        if extent is None:
            return Span(LATEST_MS, LATEST_MS + 1)
        return Span(
            floor_open_ms(extent.first_ms, interval), next_open_ms(floor_open_ms(extent.last_ms, interval), interval)
        )

    async def _next(self, series: Series, judge: Judge, span: Span) -> int:
        """Where the first candle of the span opens, or its end."""
        candles = await self._store.scan(series, span, columns=judge.judged_columns, limit=1)
        return int(candles.key[0]) if len(candles) else span.end_ms

    async def _judged(self, judge: Judge, candles: Batch, window: Span) -> CrossCheck:
        rows = await self._rows(judge, candles, window)
        if len(rows) < _IN_A_THREAD:
            return judge.by(rows, candles)
        return await asyncio.to_thread(judge.by, rows, candles)

    async def _rows(self, judge: Judge, candles: Batch, window: Span) -> Batch:
        """Rows of the window; fills with the one before and the one after, which tell whether any is missing."""
        last_ms = int(candles.key[-1])
        window = Span(window.start_ms, max(window.end_ms, next_open_ms(last_ms, str(candles.series[0].interval))))
        rows = await self._store.scan(judge.source, window, columns=judge.columns)
        if not judge.bracketed:
            return rows
        before, behind = Span(EARLIEST_MS, window.start_ms), Span(window.end_ms, LATEST_MS)
        prior = await self._store.scan(judge.source, before, columns=judge.columns, limit=1, descending=True)
        later = await self._store.scan(judge.source, behind, columns=judge.columns, limit=1)
        return settle(joined([prior, rows, later]))


def _unjudged(candles: int, from_ms: int) -> CrossCheck:
    return CrossCheck(agreed=0, excused=0, differing=0, unjudged=candles, differences=(), unjudged_from_ms=from_ms)


def due(
    series: Series,
    judge: Judge,
    crossed_ms: int | None,
    covered: Span,
    mended: Sequence[LedgerEntry],
    *,
    full: bool,
) -> Span | None:
    """Which candles are to be judged: whole ones from where the last audit stopped, or from what was mended since.

    covered: what was audited of the series. full: all of it.
    """
    back_ms = _FIRST_FILLS_MS if judge.bracketed else _FIRST_MS
    first_ms = covered.end_ms - back_ms if crossed_ms is None else crossed_ms
    start_ms = covered.start_ms if full else min([first_ms, *(one.start_ms for one in mended)])
    start_ms = max(start_ms, covered.start_ms)
    return aligned(Span(start_ms, covered.end_ms), str(series.interval)) if start_ms < covered.end_ms else None


def _mended(holes: Iterable[LedgerEntry], mark: Mark | None) -> list[LedgerEntry]:
    """Those whose rows came since the last audit looked."""
    since_ms = 0 if mark is None else mark.looked_ms
    return [one for one in holes if one.healed_ms is not None and one.healed_ms >= since_ms]


def again_from_ms(windows: Sequence[Window], until_ms: int) -> int:
    """Where the next audit goes on: at the first candle that could not be judged, if that is not long ago."""
    open_ms = [one.found.unjudged_from_ms for one in windows if one.found.unjudged_from_ms is not None]
    late = [at for at in open_ms if at >= until_ms - _AGAIN_MS]
    return min([until_ms, *late])


def _window_ms(source: Series) -> int:
    length = INTERVALS_MS[source.interval] if source.interval else None
    return _FILLS_MS if length is None else _FINE_ROWS * length
