"""The life of a job, and how jobs that overlap become one."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from data_manager.domain import job as jobs
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Conflict
from data_manager.domain.job import (
    ABSENT_MAX,
    FAILURES_MAX,
    Absent,
    Job,
    JobState,
    Piece,
    Target,
    entered,
    expected_rows,
    targets_joined,
)
from data_manager.domain.span import Span, intersection, union
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS

SERIES = "um.candle.BTCUSDT.1m"
STEPS = {
    JobState.RUNNING: lambda job: jobs.started(job, "me", 9),
    JobState.COMPLETED: lambda job: jobs.completed(replace(job, done=(job.span,)), 9),
    JobState.FAILED: lambda job: jobs.failed(job, "no", 9),
    JobState.CANCELLED: lambda job: jobs.cancelled(job, None, 9),
    JobState.PENDING: lambda job: jobs.retried(job, 9) if not job.open else jobs.released(job, 9, 9),
}
ALLOWED = {
    "pending": {"running", "cancelled"},
    "running": {"pending", "completed", "failed", "cancelled"},
    "completed": set(),
    "failed": {"pending"},
    "cancelled": {"pending"},
}


def job(*spans: tuple[int, int], id: str = "a", **other: Any) -> Job:  # noqa: A002 - a job's own word
    wanted = tuple(Target(start, end) for start, end in spans or ((0, 100),))
    return Job(**{"id": id, "series": SERIES, "wanted": wanted, "created_ms": 1, "updated_ms": 1, **other})


def piece(start: int, end: int, **other: Any) -> Piece:
    return Piece(span=Span(start, end), **other)


@pytest.mark.parametrize(("state", "to"), [*product(JobState, JobState)])
def test_no_step_but_those_of_the_picture(state: JobState, to: JobState) -> None:
    one = job(state=state)
    if to.value in ALLOWED[state.value]:
        moved = STEPS[to](one)
        assert moved.state is to
        assert (moved.completed_ms is not None) == (not moved.open)
    else:
        with pytest.raises(Conflict, match=f"job a is {state.value}"):
            STEPS[to](one)


def test_pieces_add_up_and_an_interrupted_job_goes_on_where_it_stopped() -> None:
    one = jobs.started(job((0, 100), (200, 300)), "me", 5)
    one = jobs.advanced(one, piece(0, 100, fetched=9, new=7, changed=1, duplicate=1, refused=2), 6)
    assert (one.progress, one.cursor_ms, one.remaining) == (0.5, 200, [Span(200, 300)])
    one = jobs.advanced(jobs.started(jobs.released(one, 0, 7), "you", 8), piece(200, 250, fetched=1, new=1), 9)
    assert (one.remaining, one.progress, one.attempts, one.started_ms) == ([Span(250, 300)], 0.75, 2, 5)
    assert (one.fetched, one.new, one.changed, one.duplicate, one.refused) == (10, 8, 1, 1, 2)
    with pytest.raises(AssertionError):
        jobs.completed(one, 10)


def test_it_fails_for_good_when_it_failed_too_often_in_a_row() -> None:
    one = jobs.started(job(), "me", 1)
    for number in range(FAILURES_MAX - 1):
        one = jobs.stumbled(one, "away", 50, 2)
        assert (one.state, one.failures, one.run_from_ms, one.error) == (JobState.PENDING, number + 1, 50, "away")
        one = jobs.started(one, "me", 60)
    assert jobs.stumbled(jobs.advanced(one, piece(0, 5), 61), "away", 70, 62).state is JobState.PENDING, "it got on"
    one = jobs.stumbled(one, "away", 70, 62)
    assert (one.state, one.completed_ms) == (JobState.FAILED, 62)
    assert "6 times" in str(one.error)
    again = jobs.retried(one, 80)
    assert (again.failures, again.error, again.completed_ms) == (0, None, None)


def test_what_the_source_lacks_is_named_and_bounded() -> None:
    def lack(start: int, end: int, call: str = "rest:klines") -> Absent:
        return Absent(start, end, 1, call, {"at": start})

    one = jobs.started(job((0, 10_000)), "me", 1)
    one = jobs.advanced(one, piece(0, 30, absent=(lack(10, 20), lack(20, 30))), 2)
    one = jobs.advanced(one, piece(30, 50, absent=(lack(30, 40), lack(40, 50, "archive:klines"))), 3)
    assert one.absent == (Absent(10, 40, 3, "rest:klines", {"at": 10}), lack(40, 50, "archive:klines"))
    many = tuple(lack(at, at + 1) for at in range(100, 100 + 2 * ABSENT_MAX, 2))
    one = jobs.advanced(one, piece(50, 10_000, absent=many), 4)
    assert (len(one.absent), one.absent_more) == (ABSENT_MAX, 2)


def test_rows_that_are_absent_at_one_instant_are_all_counted_and_none_twice() -> None:
    first = Absent(84, 92, 1, "rest:aggTrades", {"at": 1}, 37, 39)
    second = Absent(91, 92, 1, "rest:aggTrades", {"at": 2}, 39, 41)
    one = jobs.started(job((0, 100)), "me", 1)
    one = jobs.advanced(one, piece(0, 95, absent=(first, second)), 2)
    assert one.absent == (Absent(84, 92, 2, "rest:aggTrades", {"at": 1}, 37, 41),)
    assert jobs.advanced(one, piece(0, 95, absent=(first, second)), 3).absent == one.absent


# ── Overlaps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_asked_for_already_is_answered_with_that_job() -> None:
    held = job((0, 100))
    assert entered([held], job((20, 30), id="b"), 5).job is held
    assert entered([held], job((20, 30), id="b"), 5).changes == ()
    urgent = entered([held], job((20, 30), id="b", priority=1), 5)
    assert (urgent.job.id, urgent.job.priority, len(urgent.changes)) == ("a", 1, 1)


def test_neighbours_do_not_overlap() -> None:
    new = job((100, 200), id="b")
    assert entered([job((0, 100))], new, 5).changes == (new,)


def test_who_bridges_two_makes_them_one() -> None:
    old, running = (
        job((0, 100), fetched=3, done=(Span(0, 10),)),
        job((200, 300), id="b", state=JobState.RUNNING, created_ms=7),
    )
    outcome = entered([old, running], job((50, 250), id="c"), 9)
    assert outcome.job.id == "b", "who is at work goes on"
    assert [one.span for one in outcome.job.wanted] == [Span(0, 300)]
    assert (outcome.job.done, outcome.job.fetched) == ((Span(0, 10),), 3)
    [over] = [one for one in outcome.changes if one.id == "a"]
    assert (over.state, over.into) == (JobState.CANCELLED, "b")


@pytest.mark.parametrize("by", jobs.OWN)
def test_a_heal_makes_nobody_lose_the_job_he_waits_for(by: str) -> None:
    held = [job((0, 100)), job((100, 300), id="b", created_ms=7)]
    assert entered(held, job((50, 250), id="c", by=by), 9) == jobs.Entered(held[0], ())
    assert [one.span for one in entered(held, job((50, 350), id="c", by=by), 9).job.wanted] == [Span(0, 350)]
    assert entered(held, job((50, 250), id="c", by="api"), 9).job.id == "a"
    assert len(entered(held, job((50, 250), id="c", by="api"), 9).changes) == 2


SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda it: (it[0], it[0] + it[1])), min_size=1, max_size=3
)


@given(st.lists(SPANS, min_size=1, max_size=12))
def test_open_jobs_never_overlap_and_together_want_all_that_was_asked_for(
    requests: list[list[tuple[int, int]]],
) -> None:
    held: dict[str, Job] = {}
    for number, spans in enumerate(requests):
        merged = [(span.start_ms, span.end_ms) for span in union(Span(*one) for one in spans)]
        outcome = entered(
            [one for one in held.values() if one.open], job(*merged, id=str(number), created_ms=number), 99
        )
        held.update((one.id, one) for one in outcome.changes)
        for span in merged:
            assert intersection([Span(*span)], (one.span for one in outcome.job.wanted)) == [Span(*span)]
    wanted = [one.span for held_one in held.values() if held_one.open for one in held_one.wanted]
    assert sum(one.end_ms - one.start_ms for one in union(wanted)) == sum(one.end_ms - one.start_ms for one in wanted)
    assert union(wanted) == union(Span(*one) for spans in requests for one in spans)


def test_joined_stretches_know_the_rows_around_them_where_that_is_certain() -> None:
    left, right = Target(0, 10, 1, 5), Target(8, 20, 4, 9)
    assert targets_joined([right, left]) == (Target(0, 20, 1, 9),)
    assert targets_joined([left, Target(10, 20, 5, 9)]) == (left, Target(10, 20, 5, 9))
    assert targets_joined([left, Target(0, 10)]) == (Target(0, 10),)
    assert targets_joined([Target(0, 10), Target(2, 3, 1, 2)]) == (Target(0, 10),)


def test_rows_that_can_be_expected() -> None:
    candle, trade = DATASETS["candle"], DATASETS["agg_trade"]
    assert expected_rows(candle, "1m", [Target(0, HOUR_MS), Target(DAY_MS + 1, DAY_MS + MINUTE_MS)]) == 60
    assert expected_rows(candle, "1w", [Target(0, 14 * DAY_MS)]) == 2
    assert expected_rows(candle, "1M", [Target(0, 90 * DAY_MS)]) is None
    assert expected_rows(trade, None, [Target(0, 5, 10, 15), Target(9, 12, 20, 21)]) == 4
    assert expected_rows(trade, None, [Target(0, 5)]) is None
