"""What an audit reports: findings that begin, go on or are over."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from data_manager.domain.condition.partition import Flaw
from data_manager.domain.finding import Evidence, Finding, FindingKind, Severity, finding_id
from data_manager.domain.holes.changes import described
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span
from data_manager.services.auditing.entering import DISPUTED, Entering

_OF_A_SERIES_MAX: Final = 200  # holes told one by one at one audit; the ledger knows all
_OVER_MAX: Final = 10_000  # holes that are over, told one by one at one audit
_SEVERITY: Final[dict[str, Severity]] = {"spike": "warning", "in_time": "warning"}


def changes_of(
    series: str, entering: Entering, flaws_before: Iterable[Flaw], now_ms: int, told_from_ms: int = 0
) -> list[Finding]:
    """Findings of the holes and flaws that this audit changed. told_from_ms: of no holes shorter than this."""
    version = entering.version
    held = {entry.id: entry for entry in entering.ledger}
    begun = islice(_begun(entering.before, held, told_from_ms), _OF_A_SERIES_MAX)
    found = [_hole(entry, now_ms, version) for entry in begun]
    over = islice(_over(entering.before, held, told_from_ms), _OVER_MAX)
    found += [_hole(entry, now_ms, version).resolved(now_ms, now_ms) for entry in over]
    known = set(flaws_before)
    news = [flaw for flaw in entering.flaws if flaw not in known and not flaw.lost and flaw.reason != DISPUTED]
    found += [_flawed(series, flaw, entering.evidence.get(flaw, {}), now_ms, version) for flaw in news]
    standing = {(flaw.reason, flaw.start_ms) for flaw in entering.flaws}  # one that grew is the same finding
    lifted = [one for one in entering.lifted if one.reason != DISPUTED and (one.reason, one.start_ms) not in standing]
    return [*found, *(_flawed(series, flaw, {}, now_ms, version).resolved(now_ms, now_ms) for flaw in lifted)]


def _is_told(entry: LedgerEntry | None, told_from_ms: int) -> bool:
    """Whether a finding stands for it. A hole is told once it is certain; suspicions are the ledger's alone."""
    return (
        entry is not None
        and entry.live
        and entry.state is not HoleState.SUSPECTED
        and entry.end_ms - entry.start_ms >= told_from_ms
    )


def _begun(
    before: Mapping[str, LedgerEntry], held: Mapping[str, LedgerEntry], told_from_ms: int
) -> Iterator[LedgerEntry]:
    """Holes that are new, are there again, or are described otherwise by now."""
    for entry in held.values():
        old = before.get(entry.id)
        news = old is None or not _is_told(old, told_from_ms) or described(old) != described(entry)
        if news and _is_told(entry, told_from_ms):
            yield entry


def _over(
    before: Mapping[str, LedgerEntry], held: Mapping[str, LedgerEntry], told_from_ms: int
) -> Iterator[LedgerEntry]:
    """Holes that were told and are to be told no more, as they stood last."""
    for number, old in before.items():
        entry = held.get(number)
        if _is_told(old, told_from_ms) and not _is_told(entry, told_from_ms):
            yield entry or old


def _hole(entry: LedgerEntry, now_ms: int, version: int) -> Finding:
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
        version=version,
    )


def _flawed(series: str, flaw: Flaw, evidence: Evidence, now_ms: int, version: int) -> Finding:
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
        version=version,
    )


def not_done(series: str, span: Span, kind: FindingKind, why: str, now_ms: int, version: int) -> Finding:
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
        version=version,
    )
