"""Coverage: which instants of a series were audited, when, by which rules, with what result.

At every instant the newest audit counts: what an earlier one said of the same rows is over. An audit that could not be
done (UNKNOWN) counts like any other, for what it found out is that nobody knows.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from data_manager.domain.condition.sweep import uppermost
from data_manager.domain.holes.continuity import Chained, Continuity, Numbered
from data_manager.domain.span import Span, difference
from data_manager.domain.time import floor_open_ms


class Result(Enum):
    """What an audit of a span came to. UNKNOWN: it could not be done, so nothing may be said of the span."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


_WORSE = {result: badness for badness, result in enumerate(Result)}


class Audited(Struct, frozen=True, order=True):
    """One span and what became of its audit. audited_ms: when it was looked at; of joined spans the oldest time."""

    start_ms: int
    end_ms: int
    result: Result
    rule_version: int
    audited_ms: int


def added(coverage: Iterable[Audited], new: Iterable[Audited], at_most: int = 1_000) -> list[Audited]:
    """The coverage after these audits: sorted, disjoint, neighbours joined, see compacted().

    Audits are added in the order of their times: one that is older than an audit already joined with its neighbours
    may win over it (a lease keeps two auditors from working at once).
    """
    return compacted(newest([*coverage, *new]), at_most)


def newest(audits: Iterable[Audited]) -> list[Audited]:
    """At every instant the newest audit; of two at one time that of the newer rules, then the worse one."""
    return [
        replace(audit, start_ms=start, end_ms=end)
        for start, end, audit in uppermost(
            audits, lambda audit: (audit.audited_ms, audit.rule_version, _WORSE[audit.result])
        )
    ]


def compacted(coverage: Iterable[Audited], at_most: int = 1_000) -> list[Audited]:
    """The same, with neighbours of equal result and rules joined; sorted and disjoint spans in, the same out.

    Where more than at_most remain, neighbours that differ only in PASS, WARN and FAIL are joined too, oldest first,
    and the worst of their results stands for all: no instant becomes known or unknown by that, nor a result better.
    What then remains is bounded by the stretches nobody audited, and those of other rules.
    """
    pieces = _joined(coverage, 0)
    return pieces if len(pieces) <= at_most else _joined(pieces, len(pieces) - at_most)


def _joined(coverage: Iterable[Audited], spare: int) -> list[Audited]:
    """Neighbours joined where they are equal, and up to spare times where only the result differs."""
    pieces: list[Audited] = []
    for piece in coverage:
        before = pieces[-1] if pieces else None
        if before is None or before.end_ms != piece.start_ms or before.rule_version != piece.rule_version:
            pieces.append(piece)
        elif before.result is piece.result or (spare and Result.UNKNOWN not in (before.result, piece.result)):
            spare -= before.result is not piece.result
            pieces[-1] = Audited(
                before.start_ms,
                piece.end_ms,
                max(before.result, piece.result, key=_WORSE.__getitem__),
                piece.rule_version,
                min(before.audited_ms, piece.audited_ms),
            )
        else:
            pieces.append(piece)
    return pieces


def without(coverage: Iterable[Audited], changed: Iterable[Span]) -> list[Audited]:
    """The coverage less the spans whose rows changed since: these have to be audited again."""
    spans = list(changed)
    return [
        replace(audit, start_ms=rest.start_ms, end_ms=rest.end_ms)
        for audit in coverage
        for rest in difference([Span(audit.start_ms, audit.end_ms)], spans)
    ]


def uncovered(span: Span, coverage: Iterable[Audited], rule_version: int) -> list[Span]:
    """What of span nobody has audited by these rules with a result: the work of a full sweep."""
    known = (one for one in coverage if one.rule_version >= rule_version and one.result is not Result.UNKNOWN)
    return difference([span], (Span(one.start_ms, one.end_ms) for one in known))


# ── What an audit may speak for ──────────────────────────────────────────────────────────────────────────────────────


def aligned(span: Span, interval: str) -> Span | None:
    """span from the opening of its first candle to the end of the last one that is over; None when none is.

    A Grid audited by such spans judges every candle exactly once and as a whole.
    """
    start, end = floor_open_ms(span.start_ms, interval), floor_open_ms(span.end_ms, interval)
    return Span(start, end) if start < end else None


def judged(continuity: Continuity, times: NDArray[np.int64], span: Span) -> Span | None:
    """The part of span that holes() can speak for, given the times of the rows it saw; None when it is none of it.

    Ids and chains say something only between two rows that are held: nothing before the first nor after the last.
    """
    if not continuity.verifiable:
        return None
    if not isinstance(continuity, Numbered | Chained):
        return span
    if len(times) < 2:
        return None
    return Span(int(times.min()), int(times.max()) + 1)


def summary(coverage: Iterable[Audited]) -> Mapping[Result, int]:
    """Milliseconds by result."""
    total = dict.fromkeys(Result, 0)
    for audit in coverage:
        total[audit.result] += audit.end_ms - audit.start_ms
    return total
