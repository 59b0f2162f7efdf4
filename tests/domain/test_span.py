"""The algebra of spans, against sets of integers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.errors import BadQuery
from data_manager.domain.span import Span, cut_at, difference, intersection, union

spans = st.builds(lambda start, length: Span(start, start + length), st.integers(-40, 40), st.integers(1, 25))
many = st.lists(spans, max_size=8)


def instants(parts: list[Span]) -> set[int]:
    return {ms for part in parts for ms in range(part.start_ms, part.end_ms)}


def is_tidy(parts: list[Span]) -> bool:
    """Sorted, disjoint, and no two touch."""
    return all(one.end_ms < other.start_ms for one, other in pairwise(parts))


@given(many)
def test_union_holds_the_same_instants(parts: list[Span]) -> None:
    merged = union(parts)
    assert instants(merged) == instants(parts)
    assert is_tidy(merged)
    assert union(merged) == merged
    assert union(reversed(parts)) == merged


@given(many, many)
def test_intersection_holds_what_both_hold(one: list[Span], other: list[Span]) -> None:
    common = intersection(one, other)
    assert instants(common) == instants(one) & instants(other)
    assert is_tidy(common)
    assert intersection(other, one) == common


@given(many, many)
def test_difference_holds_what_only_the_first_holds(wanted: list[Span], present: list[Span]) -> None:
    missing = difference(wanted, present)
    assert instants(missing) == instants(wanted) - instants(present)
    assert is_tidy(missing)


@given(many, many)
def test_missing_and_common_make_the_whole(wanted: list[Span], present: list[Span]) -> None:
    assert union([*difference(wanted, present), *intersection(wanted, present)]) == union(wanted)


@given(spans, st.integers(-50, 70))
def test_a_span_holds_its_start_and_not_its_end(span: Span, ms: int) -> None:
    assert span.holds(ms) == (ms in instants([span]))
    assert span.holds(span.start_ms)
    assert not span.holds(span.end_ms)


@pytest.mark.parametrize("end", [10, 9, -1])
def test_a_span_is_never_empty(end: int) -> None:
    with pytest.raises(BadQuery, match="start") as caught:
        Span(10, end)
    assert caught.value.field == "start"


@given(many, st.lists(st.integers(-5, 60)))
def test_cut_spans_hold_the_same_instants_and_no_edge_lies_inside(parts: list[Span], edges: list[int]) -> None:
    cut = cut_at(union(parts), edges)
    assert union(cut) == union(parts)
    assert all(one.end_ms <= other.start_ms for one, other in pairwise(cut))
    assert not any(one.start_ms < edge < one.end_ms for one in cut for edge in edges)
