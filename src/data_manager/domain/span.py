"""Spans of time and their algebra: [start_ms, end_ms), half open, UTC milliseconds.

What is missing = wanted minus present, a pure function over sorted disjoint spans.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from msgspec import Struct

from data_manager.domain.errors import BadQuery


class Span(Struct, frozen=True, order=True):
    """The instants start_ms <= t < end_ms. Never empty: start_ms < end_ms."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.start_ms >= self.end_ms:
            raise BadQuery("start", self.start_ms, f"must lie before end {self.end_ms}")

    def holds(self, ms: int) -> bool:
        """Whether the instant ms lies inside."""
        return self.start_ms <= ms < self.end_ms


def union(spans: Iterable[Span]) -> list[Span]:
    """The same instants as sorted, disjoint spans that do not touch."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start_ms <= merged[-1].end_ms:
            merged[-1] = Span(merged[-1].start_ms, max(merged[-1].end_ms, span.end_ms))
        else:
            merged.append(span)
    return merged


def intersection(one: Iterable[Span], other: Iterable[Span]) -> list[Span]:
    """The instants that lie in both, as sorted, disjoint spans."""
    left, right = union(one), union(other)
    common: list[Span] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i].start_ms, right[j].start_ms)
        end = min(left[i].end_ms, right[j].end_ms)
        if start < end:
            common.append(Span(start, end))
        if left[i].end_ms < right[j].end_ms:
            i += 1
        else:
            j += 1
    return common


def difference(wanted: Iterable[Span], present: Iterable[Span]) -> list[Span]:
    """The instants of wanted that are not in present, as sorted, disjoint spans."""
    missing: list[Span] = []
    held = union(present)
    i = 0
    for span in union(wanted):
        at = span.start_ms
        while i < len(held) and held[i].end_ms <= at:
            i += 1
        for j in range(i, len(held)):
            if held[j].start_ms >= span.end_ms:
                break
            if held[j].start_ms > at:
                missing.append(Span(at, held[j].start_ms))
            at, i = held[j].end_ms, j
        if at < span.end_ms:
            missing.append(Span(at, span.end_ms))
    return missing


def cut_at(spans: Iterable[Span], edges: Iterable[int]) -> list[Span]:
    """Sorted, disjoint spans, cut in two wherever an edge lies inside one: neighbours that touch stay apart there."""
    inner = sorted(set(edges))
    parts: list[Span] = []
    for span in spans:
        low, high = bisect_right(inner, span.start_ms), bisect_left(inner, span.end_ms)
        ends = [span.start_ms, *inner[low:high], span.end_ms]
        parts += map(Span, ends, ends[1:])
    return parts
