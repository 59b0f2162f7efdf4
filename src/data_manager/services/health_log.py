"""What is kept of health: one row per series as of now, its history by hour and day, and the audit log.

Written when it changed, not each time it was looked at:

    health_metrics  now    the figures changed, or an hour began
                    hour   the first of a day, and an hour whose worst differs from what was written last
                    day    every day, and when it got worse
    audit_logs      gap           a hole began, changed or was healed
                    health_check  once an hour about all series, and when the status of one changed

So an hour without a row was as the last row before it says, if all series were looked at in it; where they were not,
nobody knows. Hours go after HOURS_KEPT_MS, everything else after the days given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeVar

from msgspec.structs import replace

from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.finding import Evidence
from data_manager.domain.health import Grade, Overall, grade, overall, percent
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, floor_open_ms
from data_manager.ports.health import AuditNote, Grain, HealthLog, HealthRow
from data_manager.services.health import SeriesHealth

HOURS_KEPT_MS: Final = 7 * DAY_MS
ROWS_MAX: Final = 300_000
"""Of either table; the oldest go."""

POINTS_MAX: Final = 1_000
"""Hours or days in one answer."""

_AT_ONCE: Final = 500  # rows in one write: under a lease none may take long
_GAPS_MAX: Final = 1_000  # of one series at a time
_SLACK_MS: Final = DAY_MS  # holes that changed so long before the newest note are noted again after a start
_LONG_MS: Final = HOUR_MS  # a hole longer than this is of high severity
_LENGTHS_MS: Final[Mapping[Grain, int]] = {"hour": HOUR_MS, "day": DAY_MS}
_UNKNOWN_RANK: Final = 101.0
T = TypeVar("T")


class HealthPoint(NamedTuple):
    """How a series stood in the hour or day that begins at start_ms. row is None where nobody looked."""

    start_ms: int
    row: HealthRow | None

    @property
    def status(self) -> Grade:
        """As of the worst that was known of it."""
        return "unknown" if self.row is None else grade(self.row.score)


class HealthKeeper:
    """Knows what was written, and writes what changed. One per process; keep() it while we lead."""

    def __init__(self) -> None:
        self._now: dict[str, HealthRow] = {}
        self._hours: dict[str, HealthRow] = {}
        self._days: dict[str, HealthRow] = {}
        self._grades: dict[str, Grade] = {}
        self._versions: dict[str, int] = {}  # of the truth whose gaps were noted, by series
        self._gaps: dict[str, dict[str, LedgerEntry]] = {}  # as they were noted, by series and id
        self._noted_ms: int | None = None  # what changed before was noted by an earlier life of ours
        self._checked: tuple[int, Overall] | None = None
        self._forgotten_ms = 0

    async def keep(
        self, log: HealthLog, every: Sequence[SeriesHealth], truths: Iterable[SeriesTruth], now_ms: int
    ) -> None:
        """Write what changed since the last time. Raises what the metadata store raises: then it is tried again."""
        rows = [row for one in every for row in self._rows(one, now_ms)]
        for some in _parts(rows):
            await log.keep_health(some)
        for row in rows:
            self._of(row.grain)[row.series] = row
        await self._keep_gaps(log, truths)
        await self._keep_checks(log, every, now_ms)

    async def forget(self, log: HealthLog, days: int, now_ms: int) -> bool:
        """Let the old go, once an hour; whether it was time."""
        if now_ms - self._forgotten_ms < HOUR_MS:
            return False
        before_ms = now_ms - days * DAY_MS
        hours_ms = max(before_ms, now_ms - HOURS_KEPT_MS)
        await log.forget_health(hours_before_ms=hours_ms, before_ms=before_ms, rows_max=ROWS_MAX)
        self._forgotten_ms = now_ms
        return True

    # ---- health --------------------------------------------------------------------------------------------------

    def _of(self, grain: Grain) -> dict[str, HealthRow]:
        return {"now": self._now, "hour": self._hours, "day": self._days}[grain]

    def _rows(self, one: SeriesHealth, now_ms: int) -> Iterator[HealthRow]:
        row = row_of(one, now_ms)
        hour_ms, day_ms = floor_open_ms(now_ms, "1h"), floor_open_ms(now_ms, "1d")
        now, hour, day = (known.get(row.series) for known in (self._now, self._hours, self._days))
        if now is None or not _alike(row, now) or now.at_ms < hour_ms:
            yield row
        if _hour_is_due(row, hour, hour_ms, day_ms):
            yield replace(row, grain="hour", slot_ms=hour_ms)
        if day is None or day.slot_ms != day_ms or _worse(row, day):
            yield replace(row, grain="day", slot_ms=day_ms)

    # ---- the audit log -------------------------------------------------------------------------------------------

    async def _keep_gaps(self, log: HealthLog, truths: Iterable[SeriesTruth]) -> None:
        if self._noted_ms is None:
            newest_ms = await log.newest_note_ms("gap")
            self._noted_ms = 0 if newest_ms is None else newest_ms - _SLACK_MS
        for truth in truths:
            if self._versions.get(truth.series) != truth.version:
                for some in _parts(list(self._gap_notes(truth, self._noted_ms))):
                    await log.keep_notes(some)
                self._gaps[truth.series] = {one.id: one for one in truth.holes[-_GAPS_MAX:]}
                self._versions[truth.series] = truth.version

    def _gap_notes(self, truth: SeriesTruth, noted_ms: int) -> Iterator[AuditNote]:
        known = self._gaps.get(truth.series)
        for hole in truth.holes[-_GAPS_MAX:]:
            held = None if known is None else known.get(hole.id)
            new = _changed_ms(hole) >= noted_ms if held is None else (held.state, held.span) != (hole.state, hole.span)
            if new:
                yield gap_note(hole)
        held_ids = {hole.id for hole in truth.holes}
        for hole_id, gone in (known or {}).items():
            if hole_id not in held_ids and gone.live:
                note = gap_note(gone)
                yield replace(note, result="pass", details={**note.details, "state": "absorbed"})

    async def _keep_checks(self, log: HealthLog, every: Sequence[SeriesHealth], now_ms: int) -> None:
        notes = [
            _status_note(one, now_ms)
            for one in every
            if one.health.grade != "unknown" and self._grades.get(one.series.id, "healthy") != one.health.grade
        ]
        total = overall(one.health for one in every)
        hour_ms = floor_open_ms(now_ms, "1h")
        if self._checked != (hour_ms, total):
            notes.append(_check_note(total, hour_ms, now_ms))
        for some in _parts(notes):
            await log.keep_notes(some)
        self._checked = (hour_ms, total)
        self._grades |= {one.series.id: one.health.grade for one in every if one.health.grade != "unknown"}


def row_of(one: SeriesHealth, now_ms: int) -> HealthRow:
    """The figures of a series as they are kept."""
    return HealthRow(
        series=one.series.id,
        grain="now",
        slot_ms=0,
        at_ms=now_ms,
        completeness=None if one.completeness is None else percent(one.completeness),
        freshness_s=None if one.freshness is None else one.freshness.age_ms // 1_000,
        gaps=one.gaps,
        duplicates=one.duplicates,
        consistency=None if one.consistency is None else percent(one.consistency),
        score=one.health.score,
    )


def _hour_is_due(row: HealthRow, written: HealthRow | None, hour_ms: int, day_ms: int) -> bool:
    if written is None or written.slot_ms < day_ms:
        return True
    return not _alike(row, written) if written.slot_ms < hour_ms else _worse(row, written)


def _alike(one: HealthRow, other: HealthRow) -> bool:
    """Whether two rows say the same, whenever and of however old a newest row."""
    return replace(one, grain="now", slot_ms=0, at_ms=0, freshness_s=None) == replace(
        other, grain="now", slot_ms=0, at_ms=0, freshness_s=None
    )


def _worse(one: HealthRow, other: HealthRow) -> bool:
    """Whether it stands lower; what is known is lower than what is not."""
    return _rank(one) < _rank(other)


def _rank(row: HealthRow) -> float:
    return _UNKNOWN_RANK if row.score is None else row.score


def gap_note(hole: LedgerEntry) -> AuditNote:
    """A hole as the audit log has it: of high severity when it is longer than an hour."""
    details: Evidence = {"rule": hole.kind, "missing": hole.missing, "state": hole.state.value}
    details |= {"found_ms": hole.found_ms, "healed_ms": hole.healed_ms, "attempts": hole.attempts}
    long = hole.end_ms - hole.start_ms > _LONG_MS
    return AuditNote(
        id=hole.id,
        kind="gap",
        series=hole.series,
        severity="high" if long else "medium",
        result="fail" if hole.live else "pass",
        details=details,
        start_ms=hole.start_ms,
        end_ms=hole.end_ms,
        at_ms=_changed_ms(hole),
    )


def _status_note(one: SeriesHealth, now_ms: int) -> AuditNote:
    severity: dict[Grade, Literal["high", "medium"]] = {"unhealthy": "high", "degraded": "medium"}
    span = one.window or Span(now_ms, now_ms + 1)
    row = row_of(one, now_ms)
    details: Evidence = {"status": one.health.grade, "gaps": row.gaps, "freshness_s": row.freshness_s}
    return AuditNote(
        id=_digest("health_check", one.series.id, str(now_ms)),
        kind="health_check",
        series=one.series.id,
        severity=severity.get(one.health.grade),
        result="pass" if one.health.grade == "healthy" else "warn" if one.health.grade == "degraded" else "fail",
        details={**details, "score": None if row.score is None else f"{row.score:.2f}"},
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        at_ms=now_ms,
    )


def _check_note(total: Overall, hour_ms: int, now_ms: int) -> AuditNote:
    """That all series were looked at in an hour."""
    counts: Evidence = {"total": total.total, "healthy": total.healthy, "degraded": total.degraded}
    counts |= {"unhealthy": total.unhealthy, "unknown": total.unknown}
    known = total.total > total.unknown
    return AuditNote(
        id=_digest("health_check", "", str(hour_ms)),
        kind="health_check",
        series=None,
        severity="high" if total.unhealthy else "medium" if total.degraded else None,
        result="fail" if total.unhealthy else "warn" if total.degraded else "pass" if known else "unknown",
        details={**counts, "score": None if total.score is None else f"{total.score:.2f}"},
        start_ms=hour_ms,
        end_ms=hour_ms + HOUR_MS,
        at_ms=now_ms,
    )


def _changed_ms(hole: LedgerEntry) -> int:
    return hole.history[-1].at_ms if hole.history else hole.found_ms


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    return (rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE))


# ── Reading it back ──────────────────────────────────────────────────────────────────────────────────────────────────


async def history(log: HealthLog, series: str, span: Span, grain: Grain) -> list[HealthPoint]:
    """Every hour or day that begins in span, in order. Raises what the metadata store raises."""
    length = _LENGTHS_MS[grain]
    starts = range(span.start_ms + -span.start_ms % length, span.end_ms, length)
    if grain == "day":
        days = {row.slot_ms: row for row in await log.health_rows(series, "day", span)}
        return [HealthPoint(ms, days.get(ms)) for ms in starts]
    rows = await log.health_rows(series, "hour", Span(span.start_ms - DAY_MS, span.end_ms))
    looked = set(await log.checked_slots(span))
    points: list[HealthPoint] = []
    held: HealthRow | None = None
    at = 0
    for ms in starts:
        while at < len(rows) and rows[at].slot_ms <= ms:
            held, at = rows[at], at + 1
        points.append(HealthPoint(ms, held if ms in looked and held is not None else None))
    return points
