"""What was found of what was put in: recall, precision and detection delay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.datasets import DATASETS
from data_manager.domain.finding import FindingKind
from data_manager.domain.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span, intersection
from data_manager.domain.time import INTERVALS_MS
from data_manager.services.selftest.faults import Faulty, Put
from data_manager.services.selftest.playing import Played

_KEYS_MAX: Final = 100_000  # of one hole that are told one by one


class Report(Struct, frozen=True, kw_only=True):
    """One thing that was reported. Keys and times are both inclusive, but for a flaw's: its end is not.

    rows: of a hole that spans keys which are held: how many of them are missing; 0 where that is not the question.
    """

    kind: str  # missing, chain, silence, flaw, dead, duplicate or content
    series: str
    key: int = 0
    last_key: int = 0
    start_ms: int = 0
    end_ms: int = 0
    payload: bytes = b""
    rows: int = 0
    found_ms: int = 0


class Score(Struct, frozen=True, kw_only=True):
    """Of one class of fault. recall and precision are None where the tape has no place for such a fault.

    delay_…_s: from the fault to the report, by the tape's clock; None where it is told at once or not at all.
    missed, false: the first few of each, in words.
    """

    fault: str
    put: int
    found: int
    reported: int
    explained: int
    recall: float | None
    precision: float | None
    delay_median_s: float | None = None
    delay_max_s: float | None = None
    missed: tuple[str, ...] = ()
    false: tuple[str, ...] = ()

    @property
    def perfect(self) -> bool:
        """Everything was found, and nothing else; or there was nothing to find."""
        return self.recall in (None, 1.0) and self.precision in (None, 1.0)


def score(fault: str, faulty: Faulty, clean: Played, played: Played) -> Score:
    """What came of one class of fault. What was reported of the clean tape too is nobody's fault."""
    known = Counter(map(_bare, reports_of(clean)))
    reports = []
    for one in reports_of(played):
        if known[_bare(one)]:
            known[_bare(one)] -= 1
        else:
            reports.append(one)
    if faulty.same:
        differing = {name for name, hashed in clean.contents.items() if played.contents.get(name) != hashed}
        reports += [Report(kind="content", series=name) for name in sorted(differing)]
    changed = {one.series for one in reports if one.kind == "content"}
    found: list[Put] = []
    delays: list[int] = []
    left = Counter(one.series for one in reports if one.kind == "duplicate")  # by event type
    for put in faulty.puts:
        if put.found_as == "held":
            if put.series not in changed:
                found.append(put)
        elif put.found_as == "duplicate":
            if left[_wire(put)]:
                left[_wire(put)] -= 1
                found.append(put)
        else:
            mine = [one.found_ms for one in reports if one.kind == put.found_as and _meet(one, put)]
            if mine:
                found.append(put)
                delays.append(min(mine) - put.at_ms)
    return told(fault, faulty.puts, found, reports, delays)


def told(
    fault: str, puts: Sequence[Put], found: Sequence[Put], reports: Sequence[Report], delays: Sequence[int] = ()
) -> Score:
    """The score of these."""
    allowed = Counter(_wire(put) for put in puts if put.found_as == "duplicate")
    false = []
    for one in reports:
        if one.kind == "duplicate" and allowed[one.series]:
            allowed[one.series] -= 1
        elif one.kind == "duplicate" or not _explained(one, puts):
            false.append(one)
    missed = [put for put in puts if put not in set(found)]
    late = [one / 1_000 for one in delays if one > 0]
    return Score(
        fault=fault,
        put=len(puts),
        found=len(found),
        reported=len(reports),
        explained=len(reports) - len(false),
        recall=len(found) / len(puts) if puts else None,
        precision=(len(reports) - len(false)) / len(reports) if reports else 1.0 if puts else None,
        delay_median_s=median(late) if late else None,
        delay_max_s=max(late) if late else None,
        missed=tuple(f"{put.found_as} {put.series} {put.key}" for put in missed[:5]),
        false=tuple(f"{one.kind} {one.series} {one.key}" for one in false[:5]),
    )


def reports_of(played: Played) -> Iterator[Report]:
    """All that was reported of a tape. A hole that was open must have been told: what is only entered helps nobody."""
    told_of: dict[str, list[Span]] = {}
    for finding in played.findings:
        if finding.kind is FindingKind.HOLE and finding.end_ms is not None:
            told_of.setdefault(finding.series or "", []).append(Span(finding.start_ms, finding.end_ms))
    for truth in played.truths:
        for hole in truth.holes:
            opened = any(step.state is HoleState.OPEN for step in hole.history)
            if not opened or intersection([hole.span], told_of.get(truth.series, ())):
                yield from _rows(truth.series, hole)
    for finding in {one.id: one for one in reversed(played.findings)}.values():
        if finding.kind is FindingKind.FLAWED:
            yield Report(
                kind="flaw", series=finding.series or "", start_ms=finding.start_ms,
                end_ms=finding.end_ms or finding.start_ms, found_ms=finding.found_ms,
            )  # fmt: skip
        elif finding.kind is not FindingKind.HOLE:
            yield Report(kind=finding.kind.value, series=finding.series or "", found_ms=finding.found_ms)
    for letter in played.dead:
        yield Report(kind="dead", series="", payload=letter.payload, found_ms=letter.received_ms)
    for wire, count in played.duplicates.items():
        yield from [Report(kind="duplicate", series=wire)] * count


def _rows(series: str, hole: LedgerEntry) -> Iterator[Report]:
    """One report per row that is missing, where they can be told apart."""
    interval = INTERVALS_MS.get(series.rpartition(".")[2])
    if hole.kind == "ids" and hole.after is not None and hole.before is not None:
        keys = range(hole.after + 1, hole.before)
        if hole.missing not in (None, len(keys)):  # several in one millisecond are one entry
            yield Report(
                kind="missing", series=series, key=keys[0], last_key=keys[-1], rows=hole.missing or 0,
                found_ms=hole.found_ms,
            )  # fmt: skip
            return
    elif hole.kind == "grid" and interval is not None:
        keys = range(hole.start_ms, hole.end_ms, interval)
    else:
        keys = range(0)
    for key in keys[:_KEYS_MAX]:
        yield Report(kind="missing", series=series, key=key, last_key=key, found_ms=hole.found_ms)
    if not keys:
        yield Report(
            kind=hole.kind if hole.kind in ("chain", "silence") else "missing", series=series, key=hole.after or 0,
            last_key=hole.before or 0, start_ms=hole.start_ms, end_ms=hole.end_ms, found_ms=hole.found_ms,
        )  # fmt: skip


def _explained(one: Report, puts: Sequence[Put]) -> bool:
    met = [put for put in puts if _meet(one, put)]
    if not one.rows:
        return bool(met)
    return sum(put.found_as in ("missing", "dead") for put in met) == one.rows


def _meet(one: Report, put: Put) -> bool:
    """Whether what was reported is what was put in, or follows from it."""
    if one.kind == "dead":
        return one.payload == put.payload
    if one.kind == "flaw":  # of the row itself, or of a candle that it contradicts
        same = one.series.split(".")[2:3] == put.series.split(".")[2:3]
        return same and one.start_ms <= put.start_ms < one.end_ms
    if one.series != put.series:
        return False
    match one.kind:
        case "changed":
            return put.found_as == one.kind and one.key == one.last_key == put.key
        case "missing":
            return put.key <= one.last_key and one.key <= put.last_key
        case "chain":
            return (one.key, one.last_key) == (put.key, put.last_key)
        case "silence":
            return one.start_ms <= put.end_ms and put.start_ms <= one.end_ms
        case _:
            return False


def _bare(one: Report) -> Report:
    return replace(one, found_ms=0)


def _wire(put: Put) -> str:
    return DATASETS[put.series.split(".")[1]].wire
