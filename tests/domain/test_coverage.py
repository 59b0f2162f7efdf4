"""Coverage: at every instant the newest audit counts, and joining neighbours changes nothing that is said."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.condition.coverage import (
    Audited,
    Result,
    added,
    aligned,
    compacted,
    judged,
    newest,
    summary,
    uncovered,
    without,
)
from data_manager.domain.condition.sweep import uppermost
from data_manager.domain.holes.continuity import Grid, MaxSilence, Numbered, Sparse
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, MINUTE_MS, parse_time

LINE = 24
WORSE = list(Result)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start = draw(st.integers(0, LINE - 1))
    return Span(start, draw(st.integers(start + 1, LINE)))


@st.composite
def audits(draw: st.DrawFn) -> Audited:
    span = draw(spans())
    result, version, at = draw(st.sampled_from(Result)), draw(st.integers(1, 2)), draw(st.integers(0, 5))
    return Audited(span.start_ms, span.end_ms, result, version, at)


def said(coverage: list[Audited], ms: int) -> Audited | None:
    """What coverage says of one instant, which it says once at most."""
    found = [one for one in coverage if one.start_ms <= ms < one.end_ms]
    assert len(found) < 2
    return found[0] if found else None


def best(every: list[Audited], ms: int) -> tuple[int, int, int] | None:
    ranks = [
        (one.audited_ms, one.rule_version, WORSE.index(one.result)) for one in every if one.start_ms <= ms < one.end_ms
    ]
    return max(ranks, default=None)


@given(st.lists(audits(), max_size=12), st.randoms())
def test_the_newest_audit_counts_at_every_instant_whatever_their_order(every: list[Audited], random: object) -> None:
    shuffled = list(every)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert newest(shuffled) == newest(every)
    for ms in range(LINE):
        found = said(newest(every), ms)
        rank = found and (found.audited_ms, found.rule_version, WORSE.index(found.result))
        assert rank == best(every, ms)


@given(st.lists(audits(), max_size=12))
def test_joining_neighbours_keeps_result_and_rules_of_every_instant(every: list[Audited]) -> None:
    exact, small = newest(every), compacted(newest(every))
    for ms in range(LINE):
        one, other = said(exact, ms), said(small, ms)
        assert (one and (one.result, one.rule_version)) == (other and (other.result, other.rule_version))
        assert one is None or other is None or other.audited_ms <= one.audited_ms
    assert added([], every) == small
    assert compacted(small) == small


@given(st.lists(audits(), max_size=20), st.integers(1, 4))
def test_too_many_pieces_are_joined_without_making_any_instant_better_or_known(every: list[Audited], most: int) -> None:
    exact, few = newest(every), compacted(newest(every), most)
    for ms in range(LINE):
        one, other = said(exact, ms), said(few, ms)
        assert (one is None) == (other is None)
        if one and other:
            assert (one.result is Result.UNKNOWN) == (other.result is Result.UNKNOWN)
            assert one.rule_version == other.rule_version
            assert WORSE.index(other.result) >= WORSE.index(one.result)


def test_coverage_that_alternates_for_years_stays_small() -> None:
    coverage: list[Audited] = []
    for number in range(5_000):
        result = Result.PASS if number % 2 else Result.FAIL
        coverage = added(coverage, [Audited(number * 300, number * 300 + 300, result, 1, number)], at_most=100)
    assert len(coverage) <= 100
    assert (coverage[0].start_ms, coverage[-1].end_ms) == (0, 5_000 * 300)
    assert coverage[0].result is Result.FAIL, "what was joined says the worse"


def test_two_audits_of_equal_age_and_the_worse_result_counts() -> None:
    coverage = added([], [Audited(0, 9, Result.PASS, 1, 5), Audited(3, 6, Result.UNKNOWN, 1, 5)])
    assert [one.result for one in coverage] == [Result.PASS, Result.UNKNOWN, Result.PASS]
    assert summary(coverage) == {Result.PASS: 6, Result.WARN: 0, Result.FAIL: 0, Result.UNKNOWN: 3}


def test_what_changed_since_and_what_was_never_done_is_work_to_do() -> None:
    coverage = [
        Audited(0, 10, Result.PASS, 2, 5),
        Audited(10, 12, Result.UNKNOWN, 2, 5),
        Audited(12, 20, Result.FAIL, 1, 5),
    ]
    assert uncovered(Span(0, 24), coverage, 2) == [Span(10, 24)]
    assert uncovered(Span(0, 24), without(coverage, [Span(3, 4)]), 1) == [Span(3, 4), Span(10, 12), Span(20, 24)]


def test_an_audit_speaks_for_whole_candles_and_for_what_lies_between_rows() -> None:
    at = parse_time("2024-01-01T10:30:00Z")
    assert aligned(Span(at, at + HOUR_MS), "1h") == Span(at - 30 * MINUTE_MS, at + 30 * MINUTE_MS)
    assert aligned(Span(at, at + MINUTE_MS), "1h") is None
    assert aligned(Span(at, at + 60 * 24 * HOUR_MS), "1M") == Span(parse_time("2024-01-01"), parse_time("2024-03-01"))
    times = np.array([7, 5, 9])
    assert judged(Numbered(), times, Span(0, 20)) == Span(5, 10)
    assert judged(Numbered(), times[:1], Span(0, 20)) is None
    assert judged(MaxSilence(3), times[:0], Span(0, 20)) == Span(0, 20)
    assert judged(Grid(), times, Span(0, 20)) == Span(0, 20)
    assert judged(Sparse(), times, Span(0, 20)) is None


@given(st.lists(spans(), max_size=12))
def test_the_uppermost_claim_is_told_once_for_every_instant(claims: list[Span]) -> None:
    told = list(uppermost(claims, lambda one: (one.end_ms, one.start_ms)))
    for ms in range(LINE):
        holding = [one for one in claims if one.holds(ms)]
        answers = [claim for start, end, claim in told if start <= ms < end]
        assert answers == ([max(holding, key=lambda one: (one.end_ms, one.start_ms))] if holding else [])
