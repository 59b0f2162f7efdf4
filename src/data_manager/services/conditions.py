"""Conditions: what may be believed of any range of a series, now. Travels with every answer.

What the audits know is kept in memory and refreshed when its version changes, at most once a second.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from data_manager.domain.condition import EVER, Known, Range, completeness, ranges
from data_manager.domain.condition import Condition as Word
from data_manager.domain.continuity import Grid, MaxSilence
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.span import Span
from data_manager.domain.time import INTERVALS_MS, MINUTE_MS
from data_manager.domain.truth import Mark, SeriesTruth
from data_manager.ports import Clock
from data_manager.ports_truth import TruthStore
from data_manager.services.audit import GRACE_MS
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.auditing.judging import bracketed, row_end_ms, whole_until_ms
from data_manager.services.query import Page, Query

LATE_MS: Final = 15 * MINUTE_MS
"""An audit may be so long ago; what came since is pending. When it is longer ago, nobody looks: it is unverified."""

_MONTH_MS: Final = 31 * 86_400_000
_REFRESH_S: Final = 1.0


class Condition(NamedTuple):
    """Of one range: covered / expected time (None: unknown), and the ranges that partition it."""

    completeness: float | None
    ranges: list[Range]


class Conditions:
    """Answers from what the audits entered. Raises what the metadata store raises."""

    def __init__(self, truth: TruthStore, clock: Clock, *, grace_ms: int = GRACE_MS, late_ms: int = LATE_MS) -> None:
        self._truth = truth
        self._clock = clock
        self._grace_ms = grace_ms
        self._late_ms = late_ms
        self._known: dict[str, SeriesTruth] = {}
        self._refreshed_s = float("-inf")

    async def condition_of(self, series: Series, span: Span, now_ms: int | None = None) -> Condition:
        """The condition of every instant of the span. now_ms: judge as of then instead of now."""
        await self.refresh()
        known = self._known_of(series, self._clock.now_ms() if now_ms is None else now_ms)
        found = ranges(span, known)
        return Condition(completeness(found, EVER), found)

    async def condition_or_unknown(self, series: Series, span: Span, now_ms: int | None = None) -> Condition:
        """The same for answers that are given all the same: unverified while the metadata store cannot tell."""
        try:
            return await self.condition_of(series, span, now_ms)
        except (Unavailable, Corrupt):
            reason = "the metadata store cannot tell"
            return Condition(None, [Range(span.start_ms, span.end_ms, Word.UNVERIFIED, reason)])

    def version(self, series: Series) -> int:
        """Of what is known of the series here: differs whenever an answer may, but for the passing of time."""
        known = self._known.get(series.id)
        return 0 if known is None else known.version

    async def refresh(self) -> None:
        """Learn what the auditor entered since."""
        now_s = self._clock.monotonic_s()
        if now_s - self._refreshed_s < _REFRESH_S:
            return
        self._refreshed_s = now_s
        try:
            versions = await self._truth.truth_versions()
            stale = [name for name, version in versions.items() if self._version(name) != version]
            if stale:
                found = await self._truth.truths(stale if len(stale) < len(versions) else None)
                self._known.update((one.series, one) for one in found)
        except BaseException:
            self._refreshed_s = float("-inf")
            raise

    def _version(self, name: str) -> int:
        known = self._known.get(name)
        return 0 if known is None else known.version

    def _known_of(self, series: Series, now_ms: int) -> Known:
        truth = self._known.get(series.id) or SeriesTruth(series=series.id)
        return Known(
            coverage=truth.coverage,
            holes=truth.holes,
            flaws=truth.flaws,
            life=EVER,
            rule_version=RULE_VERSION,
            settled_ms=self._settled_ms(series, truth.mark, now_ms),
            now_ms=now_ms,
            verifiable=DATASETS[series.dataset].continuity.verifiable,
        )

    def _settled_ms(self, series: Series, mark: Mark | None, now_ms: int) -> int:
        """From where on it is too early to judge, or the next audit's turn."""
        anchor_ms = now_ms if mark is None or mark.until_ms is None else mark.until_ms
        settled_ms = whole_until_ms(series, anchor_ms, now_ms - self._grace_ms)
        if mark is None or mark.until_ms is None or now_ms - mark.looked_ms > self._late_ms:
            return settled_ms
        if bracketed(DATASETS[series.dataset].continuity):
            return min(settled_ms, mark.until_ms)
        recent = mark.until_ms >= now_ms - self._late_ms - _pause_ms(series)
        return min(settled_ms, mark.until_ms) if recent else settled_ms


def answered_span(query: Query, page: Page) -> Span | None:
    """What a page of rows speaks of: the span asked for as far as the page reaches; None when that is nothing.

    Where no start or no end was asked for, the rows' own times bound it.
    """
    rows, more = page.rows, page.next_cursor is not None
    start_ms, end_ms = query.start_ms, query.end_ms
    if len(rows):
        times = rows.time_ms
        first, last = int(times.min()), row_end_ms(query.series, int(times.max()))
        begun = query.cursor is not None or query.offset > 0
        cut_at_start, cut_at_end = (begun, more) if query.forward else (more, begun)
        start_ms = first if start_ms is None or cut_at_start else start_ms
        end_ms = last if end_ms is None or cut_at_end else end_ms
    return None if start_ms is None or end_ms is None or start_ms >= end_ms else Span(start_ms, end_ms)


def _pause_ms(series: Series) -> int:
    """How far behind now an audit that is up to date may end."""
    continuity = DATASETS[series.dataset].continuity
    if isinstance(continuity, Grid) and series.interval:
        return INTERVALS_MS[series.interval] or _MONTH_MS
    return continuity.silence_ms if isinstance(continuity, MaxSilence) else 0
