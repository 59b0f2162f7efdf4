"""Findings of rows that were let go, by a full bus or a full store: where a source exists, they are fetched again.

The ledger knows most such losses already, by the holes they left. What no rule of continuity can see, because nothing
was held before or after it, is fetched by a job of its own, and the finding is resolved when an audit has found nothing
missing there or that job is completed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from data_manager.domain.condition.coverage import Result, uncovered
from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.holes.continuity import MaxSilence
from data_manager.domain.job import Job, JobState, Target
from data_manager.domain.span import Span, intersection
from data_manager.domain.span import difference as rest_of
from data_manager.domain.time import HOUR_MS, INTERVALS_MS, floor_open_ms, next_open_ms
from data_manager.ports import Clock, Records
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.backfilling.asking import can_be_had_again, new_job, whole

BY: Final = "finding"
"""Who asked for the jobs made here."""

_KINDS: Final = (FindingKind.DROPPED, FindingKind.SHED)
_LISTED_MAX: Final = 200
_PRIORITY: Final = 4
_TRIES_MAX: Final = 5
_AGAIN_MS: Final = HOUR_MS
_EVERY_S: Final = 10.0

Report = Callable[[Sequence[Finding]], None]


class Losses:
    """Mends what findings tell of. shed: names of datasets that are let go for want of room now: they would not fit."""

    def __init__(self, clock: Clock, report: Report, shed: Callable[[], frozenset[str]] = frozenset) -> None:
        self._clock = clock
        self._report = report
        self._shed = shed
        self._looked_s: float | None = None

    async def turn(self, records: Records, free: int) -> int:
        """Look at the findings that stand, now and then, and make so many jobs at most; how many."""
        now_s = self._clock.monotonic_s()
        if self._looked_s is not None and now_s - self._looked_s < _EVERY_S:
            return 0
        self._looked_s = now_s
        made = 0
        for kind in _KINDS:
            for finding in (await records.findings(limit=_LISTED_MAX, kind=kind, open_only=True))[0]:
                made += await self._mend(records, finding, may_ask=made < free)
        return made

    async def _mend(self, records: Records, finding: Finding, *, may_ask: bool) -> bool:
        """Resolve a finding or make a job for it; whether one was made."""
        series = None if finding.series is None else parse_series(finding.series, DATASETS, "")
        if series is None or not can_be_had_again(DATASETS[series.dataset]) or finding.end_ms is None:
            return False
        now_ms = self._clock.now_ms()
        span = whole(series, _widened(series, Span(finding.start_ms, finding.end_ms)), now_ms)
        if span is None:
            return False  # a candle that is not over
        [truth] = await records.truths([series.id]) or [SeriesTruth(series=series.id)]
        if any(one.live and intersection([one.span], [span]) for one in truth.holes):
            return False  # the ledger's
        jobs, _ = await records.jobs(limit=_LISTED_MAX, series=series.id, by=[BY])
        mine = [one for one in jobs if _covers(one, span)]
        if _known_whole(series, truth, span) or any(one.state is JobState.COMPLETED for one in mine):
            self._report([finding.resolved(now_ms, finding.end_ms)])
            return False
        if not may_ask or series.dataset in self._shed() or not _may_try(mine, now_ms):
            return False
        job = new_job(series, [Target(span.start_ms, span.end_ms)], now_ms, by=BY, priority=_PRIORITY)
        return (await records.submit_job(job)).id == job.id


def _widened(series: Series, span: Span) -> Span:
    """To whole candles."""
    if series.interval is None or INTERVALS_MS[series.interval] == INTERVALS_MS["3d"]:
        return span
    last = floor_open_ms(span.end_ms - 1, series.interval)
    return Span(floor_open_ms(span.start_ms, series.interval), next_open_ms(last, series.interval))


def _known_whole(series: Series, truth: SeriesTruth, span: Span) -> bool:
    """Whether an audit looked at all of the span and found nothing missing."""
    continuity = DATASETS[series.dataset].continuity
    if not continuity.verifiable or isinstance(continuity, MaxSilence):  # a rule that cannot see a lost row
        return False
    failed = any(
        one.result is Result.FAIL and intersection([Span(one.start_ms, one.end_ms)], [span]) for one in truth.coverage
    )
    return not failed and not uncovered(span, truth.coverage, RULE_VERSION)


def _covers(job: Job, span: Span) -> bool:
    return not rest_of([span], (one.span for one in job.wanted))


def _may_try(jobs: Sequence[Job], now_ms: int) -> bool:
    """Not while one is open, nor too often, nor too soon after one that was in vain."""
    if any(one.open for one in jobs) or len(jobs) >= _TRIES_MAX:
        return False
    return all(now_ms - (one.completed_ms or now_ms) >= _AGAIN_MS for one in jobs)
