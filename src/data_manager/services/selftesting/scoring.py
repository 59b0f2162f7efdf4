"""What was planted against what was said. Pure.

    recall      planted faults that were answered as they must be / planted
    precision   the same / (the same + what was said, or held, without a cause)
    delay       from the moment a fault could be noticed to the first word of it, in the time of the data

What was said of the undamaged tape too is not held against a fault. None where there is nothing to divide by: unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from msgspec import Struct

from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.span import Span
from data_manager.domain.time import MINUTE_MS, SECOND_MS
from data_manager.services.selftesting.planting import Planted
from data_manager.services.selftesting.playing import Account

_SLACK_MS: Final = MINUTE_MS  # a spoilt row spoils the candle it lies in, and the minute before it is silent
_WIDE: Final = frozenset({FindingKind.HOLE, FindingKind.SILENCE})  # a time that is off leaves silence as long as that
_EXACT: Final = frozenset({"drop", "chain"})  # one finding per fault, equal in every figure
_SILENT: Final = frozenset({"double", "reorder"})  # nothing may be found
_HELD: Final = frozenset({"reorder", "late"})  # rows that must be there in the end


class Score(Struct, frozen=True, kw_only=True):
    """Of one class of fault. without_cause: what was said or held and follows from no fault, a line each."""

    fault: str
    planted: int
    answered: int
    without_cause: tuple[str, ...]
    missed: tuple[str, ...]
    recall: float | None
    precision: float | None
    delay_median_s: float | None
    delay_max_s: float | None

    @property
    def perfect(self) -> bool:
        """Nothing was missed and nothing said without a cause; true of a class that could not be planted."""
        return self.answered == self.planted and not self.without_cause


def score(fault: str, planted: Sequence[Planted], said: Account, undamaged: Account) -> Score:
    """The score of a class. said: of the damaged tape."""
    findings = _news(said, undamaged)
    delays = [_delay_ms(one, findings, said, undamaged) for one in planted]
    missed = [one for one, delay in zip(planted, delays, strict=True) if delay is None]
    causeless = [
        *(_line(one) for one in _unexplained(fault, planted, findings)),
        *(f"dead letter: {one}" for one in _other_dead(fault, planted, said, undamaged)),
        *_other_rows(planted, said, undamaged),
        *_other_doubles(planted, said, undamaged),
        *[f"{said.unaccounted} events, messages or audits unaccounted for"][: said.unaccounted],
    ]
    return _score(fault, len(planted), missed, causeless, [one for one in delays if one is not None])


def undamaged_score(said: Account) -> Score:
    """Of the tape as it is: every word is one too many."""
    causeless = [_line(versions[-1][1]) for versions in _by_id(said.findings).values()]
    causeless += [f"dead letter: {one.message}" for _, one in said.dead]
    causeless += [f"{said.unaccounted} events, messages or audits unaccounted for"][: said.unaccounted]
    return _score("undamaged", 0, [], causeless, [])


def _score(
    fault: str, planted: int, missed: Sequence[Planted], causeless: Sequence[str], delays_ms: Sequence[int]
) -> Score:
    answered = planted - len(missed)
    said = answered + len(causeless)
    delays_s = [one / SECOND_MS for one in delays_ms] if fault not in _HELD else []
    return Score(
        fault=fault,
        planted=planted,
        answered=answered,
        without_cause=tuple(causeless),
        missed=tuple(f"{one.series} at {one.at_ms}" for one in missed),
        recall=answered / planted if planted else None,
        precision=answered / said if said else None,
        delay_median_s=median(delays_s) if delays_s else None,
        delay_max_s=max(delays_s, default=None),
    )


# ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Versions = Mapping[str, Sequence[tuple[int, Finding]]]
"""Of each finding, by id, when which version was said."""


def _delay_ms(one: Planted, findings: Versions, said: Account, undamaged: Account) -> int | None:
    """How long until the fault was answered as its class demands; None: it was not."""
    if one.fault == "double":
        at_ms = next(
            (at for (at, wire), _ in sorted(said.duplicates.items()) if wire == one.wire and at > one.at_ms), None
        )
        counted = at_ms is not None and _doubles(said, undamaged).get((at_ms, one.wire), 0) > 0
        return at_ms - one.at_ms if at_ms is not None and counted else None
    if one.fault in _HELD:
        held, expected = (account.content.get(one.series, frozenset()) for account in (said, undamaged))
        whole = all(row in held for row in expected if row[0] in one.keys)
        return 0 if whole and not _open(one, findings) else None
    answers = [at for at, letter in said.dead if one.payload and letter.payload == one.payload]
    answers += [versions[0][0] for versions in findings.values() if _answers(one, versions[-1][1])]
    return max(min(answers) - one.at_ms, 0) if answers else None


def _answers(one: Planted, found: Finding) -> bool:
    if found.series != one.series:
        return False
    if one.hole is not None:
        return _exactly(one, found)
    kinds = {"stall": (FindingKind.HOLE, FindingKind.SILENCE)}.get(one.fault, (FindingKind.FLAWED,))
    return found.kind in kinds and any(_overlap(found, span) for span in one.spans)


def _exactly(one: Planted, found: Finding) -> bool:
    hole, told = one.hole, found.evidence
    return (
        hole is not None
        and found.kind is FindingKind.HOLE
        and found.open
        and (found.series, found.start_ms, found.end_ms) == (one.series, hole.start_ms, hole.end_ms)
        and (told["missing"], told["after"], told["before"]) == (hole.missing, hole.after, hole.before)
    )


def _open(one: Planted, findings: Versions) -> bool:
    """Whether something is still said of a row that came."""
    last = [versions[-1][1] for versions in findings.values()]
    return any(found.open and found.series == one.series and _overlap(found, one.spans[0]) for found in last)


# ── Without a cause ──────────────────────────────────────────────────────────────────────────────────────────────────


def _unexplained(fault: str, planted: Sequence[Planted], findings: Versions) -> Iterable[Finding]:
    for versions in findings.values():
        found = versions[-1][1]
        if fault in _SILENT or not any(_explains(one, found) for one in planted):
            yield found


def _explains(one: Planted, found: Finding) -> bool:
    if one.fault in _EXACT:
        return _exactly(one, found)
    whose = found.series is None or found.series.split(".")[2] == one.symbol
    spans = [
        Span(span.start_ms - _SLACK_MS, span.end_ms + _SLACK_MS)
        for span in (*one.spans, Span(one.at_ms, one.at_ms + 1))
    ]
    return whose and any(_overlap(found, span) and (found.kind in _WIDE or _within(found, span)) for span in spans)


def _other_dead(fault: str, planted: Sequence[Planted], said: Account, undamaged: Account) -> Iterable[str]:
    """Dead letters of messages nobody spoilt."""
    known = {one.payload for one in planted} | {one.payload for _, one in undamaged.dead}
    return [one.message for _, one in said.dead if one.payload not in known]


def _other_rows(planted: Sequence[Planted], said: Account, undamaged: Account) -> Iterable[str]:
    """Rows that are held otherwise than without the faults, although no fault touched them."""
    touched = {row for one in planted for row in one.rows}
    for series in sorted(said.content.keys() | undamaged.content.keys()):
        held, expected = (account.content.get(series, frozenset()) for account in (said, undamaged))
        for key in sorted({key for key, _ in held ^ expected}):
            if (series, key) not in touched:
                yield f"{series} {key} is held otherwise"


def _other_doubles(planted: Sequence[Planted], said: Account, undamaged: Account) -> Iterable[str]:
    """Events counted as duplicates more, or less, often than they were doubled."""
    wanted: dict[str, int] = {}
    for one in planted:
        wanted[one.wire] = wanted.get(one.wire, 0) + (one.fault == "double")
    counted: dict[str, int] = {}
    for (_, wire), count in _doubles(said, undamaged).items():
        counted[wire] = counted.get(wire, 0) + count
    for wire in sorted(wanted if any(wanted.values()) else ()):
        if counted.get(wire, 0) != wanted[wire]:
            yield f"{wire}: {counted.get(wire, 0)} duplicates counted, {wanted[wire]} planted"


def _doubles(said: Account, undamaged: Account) -> dict[tuple[int, str], int]:
    """Duplicates that the undamaged tape has not, by step and event type."""
    return {at: count - undamaged.duplicates.get(at, 0) for at, count in said.duplicates.items()}


# ── Shared ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _news(said: Account, undamaged: Account) -> Versions:
    """What was not said of the undamaged tape too."""
    known = {_subject(one) for _, one in undamaged.findings}
    return {name: all_ for name, all_ in _by_id(said.findings).items() if _subject(all_[-1][1]) not in known}


def _by_id(findings: Iterable[tuple[int, Finding]]) -> dict[str, list[tuple[int, Finding]]]:
    versions: dict[str, list[tuple[int, Finding]]] = {}
    for at_ms, one in findings:
        versions.setdefault(one.id, []).append((at_ms, one))
    return versions


def _subject(found: Finding) -> tuple[FindingKind, str | None, str | None, int, int | None]:
    return found.kind, found.series, found.stream, found.start_ms, found.end_ms


def _overlap(found: Finding, span: Span) -> bool:
    """Whether they share an instant; what has no end lasts until it was found, at least."""
    until_ms = max(found.found_ms, found.start_ms + 1) if found.end_ms is None else found.end_ms
    return found.start_ms < span.end_ms and until_ms > span.start_ms


def _within(found: Finding, span: Span) -> bool:
    return span.start_ms <= found.start_ms and (found.end_ms is None or found.end_ms <= span.end_ms)


def _line(found: Finding) -> str:
    subject = found.series or found.stream or "everything"
    return f"{found.kind.value} {subject} {found.start_ms} to {found.end_ms} {dict(found.evidence)}"
