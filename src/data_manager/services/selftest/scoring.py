"""What was found of what was put in: recall, precision and detection delay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.datasets import DATASETS
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.time import MINUTE_MS
from data_manager.services.selftest.faults import Faulty, Missing, Put
from data_manager.services.selftest.playing import Played

_REFUSED_MS: Final = 2 * MINUTE_MS  # so long the watch remembers what was refused


class Report(Struct, frozen=True, kw_only=True):
    """One thing that was reported. Keys and times are both inclusive, but for a flaw's: its end is not.

    hole: what exactly is said to be missing; told: whether a finding says the same; live: whether rows are missing
    still. stream: of what the watch over streams says.
    """

    kind: str  # hole, flaw, dead, duplicate, content, changed, unaccounted, or a finding's kind
    series: str
    key: int = 0
    last_key: int = 0
    start_ms: int = 0
    end_ms: int = 0
    payload: bytes = b""
    stream: str = ""
    hole: Missing | None = None
    told: bool = False
    live: bool = False
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
    unlike = [*_held_otherwise(clean, played)]
    reports += unlike
    changed = {(one.series, one.key) for one in unlike}
    found: list[Put] = []
    delays: list[int] = []
    left = Counter(one.series for one in reports if one.kind == "duplicate")  # by event type
    for put in faulty.puts:
        if put.found_as == "held":
            if (put.series, put.key) not in changed:
                found.append(put)
        elif put.found_as == "duplicate":
            if left[_wire(put)]:
                left[_wire(put)] -= 1
                found.append(put)
        else:
            mine = [one.found_ms for one in reports if _answers(one, put)]
            if mine and (not put.watched or any(_noticed(one, put) for one in reports)):
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
        false=tuple(_line(one) for one in false[:5]),
    )


# ── All that was reported ────────────────────────────────────────────────────────────────────────────────────────────


def reports_of(played: Played) -> Iterator[Report]:
    """All that was reported of a tape."""
    newest = {finding.id: finding for finding in played.findings}
    for truth in played.truths:
        for entry in truth.holes:
            yield _of_hole(entry, newest.get(entry.id))
    for first in {one.id: one for one in reversed(played.findings)}.values():
        if first.kind is not FindingKind.HOLE:
            yield _of_finding(first, newest[first.id])
    for letter in played.dead:
        yield Report(kind="dead", series="", payload=letter.payload, found_ms=letter.received_ms)
    for wire, count in played.duplicates.items():
        yield from [Report(kind="duplicate", series=wire)] * count
    if played.unaccounted:
        yield Report(kind="unaccounted", series="", key=played.unaccounted)


def _of_hole(entry: LedgerEntry, finding: Finding | None) -> Report:
    """An entry of the ledger. Told is what a finding says in the end, and says is so still while rows are missing."""
    hole = Missing(entry.kind, entry.start_ms, entry.end_ms, entry.missing, entry.after, entry.before)
    said = finding is not None and finding.open == entry.live and hole == _said(finding)
    return Report(
        kind="hole", series=entry.series, start_ms=entry.start_ms, end_ms=entry.end_ms, hole=hole, told=said,
        live=entry.live, found_ms=entry.found_ms,
    )  # fmt: skip


def _said(finding: Finding) -> tuple[object, ...]:
    what = [finding.evidence.get(name) for name in ("rule", "missing", "after", "before")]
    return what[0], finding.start_ms, finding.end_ms, *what[1:]


def _of_finding(first: Finding, newest: Finding) -> Report:
    """Found when it was said first; it lasted as long as the newest version says."""
    kind = "flaw" if first.kind is FindingKind.FLAWED else first.kind.value
    end_ms = max(newest.found_ms, newest.start_ms + 1) if newest.end_ms is None else newest.end_ms
    return Report(
        kind=kind, series=first.series or "", start_ms=newest.start_ms, end_ms=end_ms, stream=first.stream or "",
        found_ms=first.found_ms,
    )  # fmt: skip


def _held_otherwise(clean: Played, played: Played) -> Iterator[Report]:
    """Rows that are held otherwise than of the clean tape."""
    for series in sorted(clean.contents.keys() | played.contents.keys()):
        before, after = (one.contents.get(series, frozenset()) for one in (clean, played))
        for key in sorted({key for key, _ in before ^ after}):
            yield Report(kind="content", series=series, key=key, last_key=key)


# ── Which fault it answers, or follows from ──────────────────────────────────────────────────────────────────────────


def _answers(one: Report, put: Put) -> bool:
    """Whether the report is what the fault should be answered with: of what is missing exactly that, and told."""
    match put.found_as:
        case "hole":
            return one.series == put.series and one.hole == put.hole and one.told
        case "missing":
            return one.series == put.series and one.hole is not None and _within(put, one.hole)
        case "dead" | "flaw" | "changed":
            return one.kind == put.found_as and _meet(one, put)
        case _:
            return False


def _noticed(one: Report, put: Put) -> bool:
    """Whether it is the word of the watch over streams about a stall."""
    same = one.series == put.series or (not one.series and one.stream == _wire(put))
    return one.kind == FindingKind.SILENCE.value and same and one.start_ms <= put.end_ms and put.start_ms <= one.end_ms


def _explained(one: Report, puts: Sequence[Put]) -> bool:
    """Whether it is the answer to a fault, or follows from some."""
    if one.hole is not None:
        return _accounted(one, one.hole, [put for put in puts if put.series == one.series])
    if one.kind == FindingKind.SILENCE.value:
        return any(put.watched and _noticed(one, put) for put in puts)
    if one.kind == FindingKind.PARSE_ERRORS.value:
        since_ms = one.found_ms - _REFUSED_MS
        return any(put.found_as == "dead" and since_ms <= put.at_ms <= one.found_ms for put in puts)
    return any(_meet(one, put) for put in puts)


def _accounted(one: Report, hole: Missing, puts: Sequence[Put]) -> bool:
    """Whether the rows a hole lacks are those that were lost, refused or, when it is over, late: each and no other."""
    if any(put.hole is not None for put in puts):
        return any(put.hole == hole for put in puts)
    inside = [put for put in puts if _within(put, hole) and put.found_as in ("missing", "dead")]
    late = not one.live and all(put.found_as == "missing" for put in inside)
    if hole.missing is None:  # pieces of one that healed: nobody counts them any more
        return bool(inside) and late
    return len(inside) == hole.missing and (late or all(put.found_as == "dead" for put in inside))


def _within(put: Put, hole: Missing) -> bool:
    if hole.kind == "grid":
        return hole.start_ms <= put.key < hole.end_ms
    low = -1 if hole.after is None else hole.after
    return low < put.key and (hole.before is None or put.key < hole.before)


def _meet(one: Report, put: Put) -> bool:
    """Whether what was reported is what was put in, or follows from it."""
    if one.kind == "dead":
        return one.payload == put.payload
    if one.kind == "flaw":  # of the row itself, or of a candle that it contradicts
        same = one.series.split(".")[2:3] == put.series.split(".")[2:3]
        return same and one.start_ms <= put.start_ms < one.end_ms
    if one.kind == FindingKind.MISLABELLED.value:
        return one.series == put.label
    if one.series != put.series:
        return False
    if one.kind == "content":
        return one.key in put.touched
    return one.kind == put.found_as and one.key == one.last_key == put.key


def _bare(one: Report) -> Report:
    return replace(one, found_ms=0)


def _wire(put: Put) -> str:
    return DATASETS[put.series.split(".")[1]].wire


def _line(one: Report) -> str:
    what = f"{one.hole.kind} {one.hole.after} to {one.hole.before}" if one.hole else str(one.key)
    return f"{one.kind} {one.series or one.stream} {what}"
