"""The condition of series as people look at it: day by day, and as the longest stretches that are clean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from data_manager.domain.condition.partition import EVER, Condition, Life, Range, completeness
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS

_CLEAN: Final = (Condition.GOOD, Condition.HEALED)
_WORST_FIRST: Final = (
    Condition.KNOWN_HOLE, Condition.UNVERIFIED, Condition.DEGRADED, Condition.UNVERIFIABLE, Condition.HEALED,
    Condition.GOOD, Condition.PENDING,
)  # fmt: skip


class Day(Struct, frozen=True):
    """One UTC day of a series. shares: of each condition, together 1.

    condition: the worst there is in it; pending only where nothing of it could be judged yet.
    """

    condition: Condition
    completeness: float | None
    shares: dict[str, float]


class Segment(Struct, frozen=True, kw_only=True):
    """A stretch without anything wrong. first_key, last_key: of its rows, where a hole that ends it tells them."""

    start_ms: int
    end_ms: int
    length_ms: int
    condition: Condition
    first_key: int | None
    last_key: int | None


def days_of(span: Span) -> Span:
    """The whole UTC days that the span touches."""
    return Span(span.start_ms - span.start_ms % DAY_MS, span.end_ms + -span.end_ms % DAY_MS)


def by_day(ranges: Sequence[Range], days: Span, life: Life = EVER) -> list[Day]:
    """The ranges, which partition these days, day by day."""
    found: list[Day] = []
    at = 0
    for start_ms in range(days.start_ms, days.end_ms, DAY_MS):
        end_ms = start_ms + DAY_MS
        parts: list[Range] = []
        while at < len(ranges) and ranges[at].start_ms < end_ms:
            one = ranges[at]
            parts.append(Range(max(one.start_ms, start_ms), min(one.end_ms, end_ms), one.condition, one.reason))
            if one.end_ms > end_ms:
                break
            at += 1
        found.append(_day(parts, life))
    return found


def _day(parts: Sequence[Range], life: Life) -> Day:
    lengths: dict[Condition, int] = {}
    for one in parts:
        lengths[one.condition] = lengths.get(one.condition, 0) + one.end_ms - one.start_ms
    worst = next(word for word in _WORST_FIRST if word in lengths)
    return Day(worst, completeness(parts, life), {word.value: ms / DAY_MS for word, ms in lengths.items()})


def clean_segments(ranges: Iterable[Range], holes: Iterable[LedgerEntry]) -> list[Segment]:
    """Stretches that are good or healed, in order of time; healed is said of those that hold something mended."""
    after = {one.end_ms: one.before for one in holes if one.live}
    before = {one.start_ms: one.after for one in holes if one.live}
    found: list[Segment] = []
    start_ms: int | None = None
    condition, end_ms = Condition.GOOD, 0
    for one in [*ranges, None]:
        if one is not None and one.condition in _CLEAN:
            start_ms = one.start_ms if start_ms is None else start_ms
            condition = one.condition if one.condition is Condition.HEALED else condition
            end_ms = one.end_ms
        elif start_ms is not None:
            found.append(
                Segment(
                    start_ms=start_ms,
                    end_ms=end_ms,
                    length_ms=end_ms - start_ms,
                    condition=condition,
                    first_key=after.get(start_ms),
                    last_key=before.get(end_ms),
                )
            )
            start_ms, condition = None, Condition.GOOD
    return found
