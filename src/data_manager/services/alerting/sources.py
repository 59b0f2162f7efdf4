"""What stands now, as alarms: open findings, holes that are not healed, series whose health fell.

findings   one alarm per kind and series or stream; holes are the ledger's
           kinds that tell of the past (a drop, a flaw) are over when nothing new came for QUIET_MS
holes      one per series with holes somebody may still mend; critical from an hour on
health     one per series that stood degraded or unhealthy twice in a row; while it is not known it stays as it was
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from data_manager.domain.alert import Alarm, Alert
from data_manager.domain.finding import Evidence, Finding, FindingKind, Severity
from data_manager.domain.holes.ledger import HoleState
from data_manager.domain.time import HOUR_MS, iso
from data_manager.ports.alerts import LiveHoles, OpenFindings
from data_manager.services.health import SeriesHealth

QUIET_MS: Final = HOUR_MS
"""Findings that tell of the past stand for so long after the newest of them."""

LONG_MS: Final = HOUR_MS
"""A hole longer than this is critical."""

HOLE: Final = FindingKind.HOLE.value
HEALTH: Final = "health"
_TURNS: Final = 2
_OF_THE_PAST: Final = frozenset(
    kind.value for kind in (FindingKind.DROPPED, FindingKind.DISCARDED, FindingKind.SHED, FindingKind.FLAWED)
)
_MENDABLE: Final = (HoleState.OPEN, HoleState.HEALING)
_WORDS: Final[Mapping[str, str]] = {
    FindingKind.DROPPED.value: "events were let go before anybody stored them",
    FindingKind.DISCARDED.value: "the stream discarded messages that nobody had read",
    FindingKind.SILENCE.value: "nothing comes that used to come",
    FindingKind.STALE.value: "what comes is late",
    FindingKind.PARSE_ERRORS.value: "too much of what comes cannot be kept",
    FindingKind.MISLABELLED.value: "books are not of the symbol they name",
    FindingKind.LEADERLESS.value: "no replica does the work that one does for all",
    FindingKind.OUTDATED.value: "a process of another release still runs, and may write nothing",
    FindingKind.DRIFT.value: "a database's indexes or retention are not what they should be",
    FindingKind.FLAWED.value: "rows break a check",
    FindingKind.CORRUPT.value: "what is held cannot be read",
    FindingKind.UNAUDITED.value: "an audit could not be done",
    FindingKind.SHED.value: "events are let go: the store is about to be full",
    FindingKind.DIFFERS.value: "what is held is not what a source says",
    FindingKind.ABANDONED.value: "a backfill that was asked for failed",
}


def of_findings(groups: Iterable[OpenFindings], now_ms: int) -> Iterator[Alarm]:
    """Alarms of the findings that stand."""
    for one in groups:
        if one.kind in _OF_THE_PAST and now_ms - one.found_ms > QUIET_MS:
            continue
        yield Alarm(
            kind=one.kind,
            series=one.series,
            stream=one.stream,
            severity=one.severity,
            since_ms=one.start_ms,
            newest_ms=one.found_ms,
            count=one.count,
            text=_WORDS.get(one.kind, "something is wrong"),
            evidence={},
        )


def detailed(alarm: Alarm, finding: Finding) -> tuple[str, Evidence]:
    """Text and evidence of an alarm whose newest finding this is."""
    known = ", ".join(f"{name} {value}" for name, value in finding.evidence.items() if value is not None)
    return f"{alarm.text} (since {iso(alarm.since_ms)}{'; ' if known else ''}{known})", dict(finding.evidence)


def of_holes(groups: Iterable[LiveHoles], hole_from_ms: int) -> Iterator[Alarm]:
    """Alarms of holes that somebody may mend. hole_from_ms: of series that have one at least so long."""
    for series, standing in _by_series(groups).items():
        mendable = [one for one in standing if one.state in _MENDABLE and one.longest_ms >= hole_from_ms]
        if not mendable:
            continue
        count, missing = sum(one.count for one in mendable), sum(one.missing for one in mendable)
        start_ms, end_ms = min(one.start_ms for one in mendable), max(one.end_ms for one in mendable)
        longest_ms = max(one.longest_ms for one in mendable)
        severity: Severity = "critical" if longest_ms > LONG_MS else "warning"
        rows = "1 row is" if missing == 1 else f"{missing:,} rows are" if missing else "rows are"
        where = f"from {iso(start_ms)} to {iso(end_ms)}"
        yield Alarm(
            kind=HOLE,
            series=series,
            severity=severity,
            since_ms=start_ms,
            newest_ms=max(one.found_ms for one in mendable),
            count=count,
            text=f"{rows} missing in {count:,} hole{'s' if count > 1 else ''}, {where}",
            evidence={"missing": missing or None, "start_ms": start_ms, "end_ms": end_ms, "longest_ms": longest_ms},
        )


def after_holes(groups: Iterable[LiveHoles]) -> dict[str, str]:
    """By series, why holes stand that nobody mends any more: what to say when its alert is over."""
    return {
        series: "no hole is left to mend: "
        + ", ".join(f"{one.count:,} {one.state.value.replace('_', ' ')}" for one in standing)
        for series, standing in _by_series(groups).items()
    }


def _by_series(groups: Iterable[LiveHoles]) -> dict[str, list[LiveHoles]]:
    found: dict[str, list[LiveHoles]] = {}
    for one in groups:
        found.setdefault(one.series, []).append(one)
    return found


class Stood(NamedTuple):
    """How a series stands: grade, for so many looks in a row, the first of which was at since_ms."""

    health: SeriesHealth
    looks: int
    since_ms: int


class Grades:
    """How series stood at the last looks at their health."""

    def __init__(self) -> None:
        self._looked = False
        self._stood: dict[str, Stood] = {}

    def saw(self, every: Sequence[SeriesHealth], now_ms: int) -> None:
        """All series were looked at."""
        self._looked = True
        before, self._stood = self._stood, {}
        for one in every:
            known = before.get(one.series.id)
            if known is None or known.health.health.grade != one.health.grade:
                known = Stood(one, 0, now_ms)
            self._stood[one.series.id] = Stood(one, known.looks + 1, known.since_ms)

    def alarms(self) -> Iterator[Alarm]:
        """Of series that stood degraded or unhealthy for some looks."""
        for stood in self._stood.values():
            if stood.health.health.grade in ("degraded", "unhealthy") and stood.looks >= _TURNS:
                yield _health_alarm(stood)

    def undecided(self, alert: Alert) -> bool:
        """Whether an alert about health stays as it is, for nobody knows yet how its series stands."""
        if alert.kind != HEALTH:
            return False
        stood = self._stood.get(alert.series or "")
        if stood is None:
            return not self._looked
        return stood.health.health.grade == "unknown" or stood.looks < _TURNS


def _health_alarm(stood: Stood) -> Alarm:
    found = stood.health.health
    low = [(part.name, part.value) for part in found.parts if part.applies and part.value is not None]
    named = {name: f"{value:.4f}" for name, value in sorted(low, key=lambda one: one[1]) if value < 1}
    return Alarm(
        kind=HEALTH,
        series=stood.health.series.id,
        severity="critical" if found.grade == "unhealthy" else "warning",
        since_ms=stood.since_ms,
        newest_ms=stood.since_ms,
        count=1,
        text=f"{found.grade}, score {found.score}: {', '.join(f'{name} {value}' for name, value in named.items())}",
        evidence=dict(named),
    )
