"""What an audit reports: findings that begin, go on or are over."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from data_manager.domain.condition.partition import Flaw
from data_manager.domain.finding import Evidence, Finding, FindingKind, Severity, finding_id
from data_manager.domain.holes.changes import described
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span
from data_manager.services.auditing.entering import DISPUTED, Entering

_OF_A_SERIES_MAX: Final = 200  # holes told one by one at one audit; the ledger knows all
_SEVERITY: Final[dict[str, Severity]] = {"spike": "warning", "in_time": "warning"}


def changes_of(
    series: str, entering: Entering, flaws_before: Iterable[Flaw], now_ms: int, told_from_ms: int = 0
) -> list[Finding]:
    """Findings of the holes and flaws that this audit changed. told_from_ms: of no holes shorter than this."""
    held = {entry.id: entry for entry in entering.ledger}
    holes = (one for one in _holes(entering.before, held, now_ms) if (one.end_ms or 0) - one.start_ms >= told_from_ms)
    found = [*islice(holes, _OF_A_SERIES_MAX)]
    known = set(flaws_before)
    news = [flaw for flaw in entering.flaws if flaw not in known and not flaw.lost and flaw.reason != DISPUTED]
    found += [_flawed(series, flaw, entering.evidence.get(flaw, {}), now_ms) for flaw in news]
    standing = {(flaw.reason, flaw.start_ms) for flaw in entering.flaws}  # one that grew is the same finding
    over = [one for one in entering.lifted if one.reason != DISPUTED and (one.reason, one.start_ms) not in standing]
    return [*found, *(_flawed(series, flaw, {}, now_ms).resolved(now_ms, now_ms) for flaw in over)]


def _holes(before: dict[str, LedgerEntry], held: dict[str, LedgerEntry], now_ms: int) -> Iterator[Finding]:
    """A hole is told once it is certain, and again when it is over; suspicions are the ledger's alone."""
    for entry in held.values():
        old = before.get(entry.id)
        told = old is not None and old.state is not HoleState.SUSPECTED
        if entry.live and entry.state is not HoleState.SUSPECTED:
            if not told or (old is not None and described(old) != described(entry)):
                yield _hole(entry, now_ms)
        elif not entry.live and told and old is not None and old.live:
            yield _hole(entry, now_ms).resolved(now_ms, now_ms)
    for gone in before.keys() - held.keys():
        if before[gone].live and before[gone].state is not HoleState.SUSPECTED:
            yield _hole(before[gone], now_ms).resolved(now_ms, now_ms)


def _hole(entry: LedgerEntry, now_ms: int) -> Finding:
    return Finding(
        id=entry.id,
        kind=FindingKind.HOLE,
        series=entry.series,
        stream=None,
        severity="warning",
        start_ms=entry.start_ms,
        end_ms=entry.end_ms,
        evidence={"rule": entry.kind, "missing": entry.missing, "after": entry.after, "before": entry.before},
        found_ms=now_ms,
    )


def _flawed(series: str, flaw: Flaw, evidence: Evidence, now_ms: int) -> Finding:
    return Finding(
        id=finding_id(FindingKind.FLAWED, series, flaw.reason, flaw.start_ms),
        kind=FindingKind.FLAWED,
        series=series,
        stream=None,
        severity=_SEVERITY.get(flaw.reason, "critical"),
        start_ms=flaw.start_ms,
        end_ms=flaw.end_ms,
        evidence={"rule": flaw.reason, **evidence},
        found_ms=now_ms,
    )


def not_done(series: str, span: Span, kind: FindingKind, why: str, now_ms: int) -> Finding:
    """An audit of a span that could not be done."""
    return Finding(
        id=finding_id(kind, series, None, span.start_ms),
        kind=kind,
        series=series,
        stream=None,
        severity="critical",
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        evidence={"why": why[:200]},
        found_ms=now_ms,
    )
