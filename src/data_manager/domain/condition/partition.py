"""Condition: what may be believed of any span of a series, as a partition of the span.

At every instant the first line of this table that holds is the answer:

    future       pending        not yet come
    not expected good           outside the series' life: before listing, after delisting, in a halt
    lost         known_hole     rows are known to be missing: a hole of the ledger that is not healed, or a drop
    young        pending        too young to be judged
    not audited  unverified     never, or the audit could not be done, or was done by older rules
    flawed       degraded       audited, and something is wrong with the rows (a conflict, a spike, a crossed book)
    sparse       unverifiable   nothing can tell whether rows are missing
    mended       healed         was a hole once
    audited      good

What is lost is told at once, without waiting for the audit; what is merely flawed does not make an unaudited stretch
look audited. A series without continuity (sparse) is never audited for holes, so there a flaw shows all the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from msgspec import Struct

from data_manager.domain.condition.coverage import Audited, Result, newest
from data_manager.domain.condition.sweep import uppermost
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span, difference, intersection


class Condition(Enum):
    """See the table above."""

    GOOD = "good"
    HEALED = "healed"
    KNOWN_HOLE = "known_hole"
    DEGRADED = "degraded"
    PENDING = "pending"
    UNVERIFIED = "unverified"
    UNVERIFIABLE = "unverifiable"


class Range(Struct, frozen=True):
    """A stretch of one condition; reason is a short stable text."""

    start_ms: int
    end_ms: int
    condition: Condition
    reason: str


class Flaw(Struct, frozen=True):
    """Something found to be wrong with a span besides holes. lost: its rows are not there, or cannot be read."""

    start_ms: int
    end_ms: int
    reason: str
    lost: bool = False


class Life(Struct, frozen=True):
    """When rows of a series can exist: from listed_ms until delisted_ms, but for halts. None: not known, or never."""

    listed_ms: int | None = None
    delisted_ms: int | None = None
    halts: tuple[Span, ...] = ()

    def expected(self, span: Span) -> list[Span]:
        """The parts of span in which rows are expected: what an audit looks at."""
        start = span.start_ms if self.listed_ms is None else max(span.start_ms, self.listed_ms)
        end = span.end_ms if self.delisted_ms is None else min(span.end_ms, self.delisted_ms)
        return difference([Span(start, end)], self.halts) if start < end else []


EVER = Life()
"""The life of a series whose bounds nobody knows: rows are expected at all times."""


class Known(Struct, frozen=True, kw_only=True):
    """All that is known of one series. Orders do not matter; more than the span in question does no harm.

    settled_ms: from here on it is too early to judge (rows may be on their way). For ids and chains it is at most one
    beyond the time of the last row: what comes after that can only be judged by the next row.
    """

    coverage: Sequence[Audited]
    holes: Sequence[LedgerEntry] = ()
    flaws: Sequence[Flaw] = ()
    life: Life = EVER
    rule_version: int
    settled_ms: int
    now_ms: int
    verifiable: bool = True


_FUTURE, _NOT_EXPECTED, _LOST, _YOUNG, _NOT_AUDITED, _FLAWED, _SPARSE, _MENDED, _AUDITED = range(9, 0, -1)
_CONDITIONS = {
    _FUTURE: Condition.PENDING,
    _NOT_EXPECTED: Condition.GOOD,
    _LOST: Condition.KNOWN_HOLE,
    _YOUNG: Condition.PENDING,
    _NOT_AUDITED: Condition.UNVERIFIED,
    _FLAWED: Condition.DEGRADED,
    _SPARSE: Condition.UNVERIFIABLE,
    _MENDED: Condition.HEALED,
    _AUDITED: Condition.GOOD,
}


class _Said(Struct, frozen=True):
    start_ms: int
    end_ms: int
    rank: int
    reason: str


def ranges(span: Span, known: Known) -> list[Range]:
    """The condition of every instant of span: disjoint, in order, together span; neighbours differ.

    Says the same of an instant whatever span it is asked in: the answers for two halves, joined(), are the whole's.
    """
    said = [
        _Said(max(one.start_ms, span.start_ms), min(one.end_ms, span.end_ms), one.rank, one.reason)
        for one in _everything(span, known)
        if one.start_ms < span.end_ms and one.end_ms > span.start_ms
    ]
    pieces = uppermost(said, lambda one: (one.rank, one.reason))
    return joined(Range(start, end, _CONDITIONS[one.rank], one.reason) for start, end, one in pieces)


def joined(parts: Iterable[Range]) -> list[Range]:
    """The same, with touching neighbours of equal condition and reason made one; parts come in order of time."""
    whole: list[Range] = []
    for part in parts:
        last = whole[-1] if whole else None
        if last and (last.end_ms, last.condition, last.reason) == (part.start_ms, part.condition, part.reason):
            whole[-1] = Range(last.start_ms, part.end_ms, part.condition, part.reason)
        else:
            whole.append(part)
    return whole


def completeness(parts: Iterable[Range], life: Life = EVER) -> float | None:
    """Covered time / expected time, 0 to 1; 1.0 only when all of it is covered.

    Expected is what lies in the series' life and is neither young nor to come. Covered is what was audited and is not
    lost (good, healed, degraded). None when nothing is expected, or when any expected instant is unverified or
    unverifiable: then nobody knows.
    """
    expected = covered = 0
    for part in parts:
        if part.condition is Condition.PENDING:
            continue
        length = part.end_ms - part.start_ms
        if life is not EVER:
            length = sum(one.end_ms - one.start_ms for one in life.expected(Span(part.start_ms, part.end_ms)))
        if length and part.condition in (Condition.UNVERIFIED, Condition.UNVERIFIABLE):
            return None
        expected += length
        covered += length * (part.condition is not Condition.KNOWN_HOLE)
    return covered / expected if expected else None


def _everything(span: Span, known: Known) -> Iterator[_Said]:
    """All that is said of span; at least one thing of every instant."""
    end = span.end_ms
    yield from _times(span, known)
    yield from _base(span, known)
    for hole in known.holes:
        mended = hole.state is HoleState.HEALED
        yield _Said(hole.start_ms, hole.end_ms, _MENDED if mended else _LOST, hole.state.value)
    for flaw in known.flaws:
        yield _Said(flaw.start_ms, flaw.end_ms, _LOST if flaw.lost else _FLAWED, flaw.reason)
    yield _Said(known.now_ms, max(end, known.now_ms), _FUTURE, "future")


def _times(span: Span, known: Known) -> Iterator[_Said]:
    """What follows from the clock and from the series' life alone."""
    start, end, life = span.start_ms, span.end_ms, known.life
    yield _Said(known.settled_ms, max(end, known.settled_ms), _YOUNG, "too young to be judged")
    if life.listed_ms is not None:
        yield _Said(min(start, life.listed_ms), life.listed_ms, _NOT_EXPECTED, "not listed yet")
    if life.delisted_ms is not None:
        yield _Said(life.delisted_ms, max(end, life.delisted_ms), _NOT_EXPECTED, "delisted")
    for halt in life.halts:
        yield _Said(halt.start_ms, halt.end_ms, _NOT_EXPECTED, "halted")


def _base(span: Span, known: Known) -> Iterator[_Said]:
    """What the audits say, or that there were none."""
    if not known.verifiable:
        yield _Said(span.start_ms, span.end_ms, _SPARSE, "sparse by nature")
        return
    looked = [one for one in known.coverage if one.start_ms < span.end_ms and one.end_ms > span.start_ms]
    for audit in newest(looked):
        if audit.result is Result.UNKNOWN:
            yield _Said(audit.start_ms, audit.end_ms, _NOT_AUDITED, "the audit could not be done")
        elif audit.rule_version < known.rule_version:
            yield _Said(audit.start_ms, audit.end_ms, _NOT_AUDITED, "audited by older rules")
        else:
            yield _Said(audit.start_ms, audit.end_ms, _AUDITED, "audited")
    for gap in difference([span], (Span(one.start_ms, one.end_ms) for one in looked)):
        yield _Said(gap.start_ms, gap.end_ms, _NOT_AUDITED, "never audited")


def share(parts: Iterable[Range], span: Span) -> dict[Condition, float]:
    """By condition the fraction of span it holds, for a calendar of days; conditions that do not occur are left out."""
    found: dict[Condition, int] = {}
    for part in parts:
        for one in intersection([Span(part.start_ms, part.end_ms)], [span]):
            found[part.condition] = found.get(part.condition, 0) + one.end_ms - one.start_ms
    return {condition: ms / (span.end_ms - span.start_ms) for condition, ms in found.items()}


def range_facts(parts: Iterable[Range]) -> list[dict[str, str | int]]:
    """Ranges as they stand in answers."""
    return [
        {"start_ms": one.start_ms, "end_ms": one.end_ms, "condition": one.condition.value, "reason": one.reason}
        for one in parts
    ]


def shares_text(parts: Sequence[Range], span: Span) -> str:
    """The share of each condition in a span that the parts partition, such as "good=0.94, known_hole=0.06"."""
    if len(parts) == 1:
        return f"{parts[0].condition.value}=1"
    found: dict[str, int] = {}
    for part in parts:
        word = part.condition.value
        found[word] = found.get(word, 0) + part.end_ms - part.start_ms
    whole = span.end_ms - span.start_ms
    return ", ".join(f"{word.value}={found[word.value] / whole:.6g}" for word in Condition if word.value in found)
