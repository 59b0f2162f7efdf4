"""Condition: a partition of the request, the same however the request is cut and the facts are ordered."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from data_manager.domain.condition.coverage import Audited, Result
from data_manager.domain.condition.partition import (
    Condition,
    Flaw,
    Known,
    Life,
    Range,
    completeness,
    joined,
    ranges,
    share,
)
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span

LINE = 40


def hole(start: int, end: int, state: HoleState = HoleState.OPEN) -> LedgerEntry:
    return LedgerEntry(
        id=f"{start}-{end}-{state.value}", series="um.trade.BTCUSDT", kind="ids", start_ms=start, end_ms=end, missing=1,
        after=None, before=None, state=state, found_ms=0, seen_ms=0,
    )  # fmt: skip


def known(**facts: Any) -> Known:
    """All of the line was audited and is long past, unless said otherwise."""
    usual: dict[str, Any] = {
        "coverage": [Audited(0, LINE, Result.PASS, 2, 1)], "rule_version": 2, "settled_ms": LINE, "now_ms": LINE,
    }  # fmt: skip
    return Known(**{**usual, **facts})


def told(what: Known, start: int = 0, end: int = LINE) -> list[tuple[int, int, str, str]]:
    return [(one.start_ms, one.end_ms, one.condition.value, one.reason) for one in ranges(Span(start, end), what)]


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(-5, LINE + 4))
    return start, draw(st.integers(start + 1, LINE + 5))


@st.composite
def knowledge(draw: st.DrawFn) -> Known:
    def some(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(of, max_size=5))

    moment = st.one_of(st.none(), st.integers(0, LINE))
    settled = draw(st.integers(0, LINE))
    return Known(
        coverage=some(st.builds(lambda at, *rest: Audited(*at, *rest), spans(), st.sampled_from(Result), st.integers(1, 2), st.integers(0, 3))),
        holes=some(st.builds(lambda at, state: hole(*at, state), spans(), st.sampled_from(HoleState))),
        flaws=some(st.builds(lambda at, why, lost: Flaw(*at, why, lost), spans(), st.sampled_from(["spike", "dropped"]), st.booleans())),
        life=Life(draw(moment), draw(moment), tuple(Span(*at) for at in some(spans()))),
        rule_version=2, settled_ms=settled, now_ms=draw(st.integers(settled, LINE + 5)), verifiable=draw(st.booleans()),
    )  # fmt: skip


def slow(what: Known, ms: int) -> str:
    """The table of the module, read line by line for one instant."""
    newest = max(
        (one for one in what.coverage if one.start_ms <= ms < one.end_ms),
        key=lambda one: (one.audited_ms, one.rule_version, list(Result).index(one.result)),
        default=None,
    )
    here = [one for one in what.holes if one.start_ms <= ms < one.end_ms]
    flaws = [one for one in what.flaws if one.start_ms <= ms < one.end_ms]
    life = what.life
    born = life.listed_ms is None or ms >= life.listed_ms
    alive = (
        born and (life.delisted_ms is None or ms < life.delisted_ms) and not any(one.holds(ms) for one in life.halts)
    )
    audited = newest is not None and newest.result is not Result.UNKNOWN and newest.rule_version == what.rule_version
    table = [
        (ms >= what.now_ms, "pending"),
        (not alive, "good"),
        (any(one.state is not HoleState.HEALED for one in here) or any(one.lost for one in flaws), "known_hole"),
        (ms >= what.settled_ms, "pending"),
        (what.verifiable and not audited, "unverified"),
        (bool(flaws), "degraded"),
        (not what.verifiable, "unverifiable"),
        (bool(here), "healed"),
        (True, "good"),
    ]
    return next(condition for holds, condition in table if holds)


@given(knowledge(), spans())
def test_the_ranges_are_the_request_and_say_of_every_instant_what_the_table_says(
    what: Known, request: tuple[int, int]
) -> None:
    found = ranges(Span(*request), what)
    assert found[0].start_ms == request[0]
    assert found[-1].end_ms == request[1]
    for one, other in pairwise(found):
        assert one.end_ms == other.start_ms
        assert (one.condition, one.reason) != (other.condition, other.reason)
    for one in found:
        for ms in range(one.start_ms, one.end_ms):
            assert one.condition.value == slow(what, ms)


@given(knowledge(), spans(), st.data())
def test_the_answers_for_two_halves_joined_are_the_answer_for_the_whole(
    what: Known, request: tuple[int, int], data: st.DataObject
) -> None:
    start, end = request
    if end - start > 1:
        cut = data.draw(st.integers(start + 1, end - 1))
        assert joined([*ranges(Span(start, cut), what), *ranges(Span(cut, end), what)]) == ranges(
            Span(start, end), what
        )


@given(knowledge(), spans())
def test_the_order_in_which_things_are_known_does_not_matter(what: Known, request: tuple[int, int]) -> None:
    reversed_ = replace(what, coverage=what.coverage[::-1], holes=what.holes[::-1], flaws=what.flaws[::-1])
    assert ranges(Span(*request), reversed_) == ranges(Span(*request), what)


def test_a_series_nobody_audited_is_unverified_and_its_completeness_unknown() -> None:
    what = known(coverage=[])
    assert told(what) == [(0, LINE, "unverified", "never audited")]
    assert completeness(ranges(Span(0, LINE), what)) is None


def test_an_auditor_that_failed_and_one_of_older_rules_leave_the_span_unverified() -> None:
    what = known(
        coverage=[
            Audited(0, 20, Result.PASS, 2, 1),
            Audited(5, 10, Result.UNKNOWN, 2, 2),
            Audited(20, LINE, Result.PASS, 1, 9),
        ]
    )
    assert told(what) == [
        (0, 5, "good", "audited"),
        (5, 10, "unverified", "the audit could not be done"),
        (10, 20, "good", "audited"),
        (20, LINE, "unverified", "audited by older rules"),
    ]
    assert completeness(ranges(Span(0, LINE), what)) is None
    assert completeness(ranges(Span(0, 5), what)) == 1.0


def test_holes_flaws_and_what_is_young() -> None:
    what = known(
        holes=[hole(5, 10), hole(12, 14, HoleState.HEALED), hole(36, 38)], flaws=[Flaw(12, 16, "spike"), Flaw(9, 11, "dropped", True)],
        settled_ms=30, now_ms=39,
    )  # fmt: skip
    assert told(what) == [
        (0, 5, "good", "audited"),
        (5, 10, "known_hole", "open"),
        (10, 11, "known_hole", "dropped"),
        (11, 12, "good", "audited"),
        (12, 16, "degraded", "spike"),
        (16, 30, "good", "audited"),
        (30, 36, "pending", "too young to be judged"),
        (36, 38, "known_hole", "open"),
        (38, 39, "pending", "too young to be judged"),
        (39, LINE, "pending", "future"),
    ]
    assert completeness(ranges(Span(0, LINE), what)) == (30 - 6) / (30 + 2)


def test_before_listing_in_a_halt_and_after_delisting_nothing_is_expected() -> None:
    life = Life(listed_ms=10, delisted_ms=30, halts=(Span(15, 20),))
    what = known(life=life, coverage=[Audited(10, 30, Result.PASS, 2, 1)], holes=[hole(25, 30)])
    assert told(what) == [
        (0, 10, "good", "not listed yet"),
        (10, 15, "good", "audited"),
        (15, 20, "good", "halted"),
        (20, 25, "good", "audited"),
        (25, 30, "known_hole", "open"),
        (30, LINE, "good", "delisted"),
    ]
    assert completeness(ranges(Span(0, LINE), what), life) == 10 / 15
    assert completeness(ranges(Span(0, 10), what), life) is None, "nothing was expected: there is no share of it"
    assert completeness(ranges(Span(0, 3), known(now_ms=0, settled_ms=0))) is None


def test_a_sparse_series_is_unverifiable_but_what_was_lost_of_it_is_told() -> None:
    what = known(coverage=[], verifiable=False, flaws=[Flaw(4, 6, "dropped", True), Flaw(8, 9, "damaged")])
    assert [one[2] for one in told(what)] == ["unverifiable", "known_hole", "unverifiable", "degraded", "unverifiable"]
    assert completeness(ranges(Span(0, LINE), what)) is None


def test_shares_of_a_day_for_a_calendar() -> None:
    parts = [Range(0, 10, Condition.GOOD, ""), Range(10, 40, Condition.PENDING, "")]
    assert share(parts, Span(5, 15)) == {Condition.GOOD: 0.5, Condition.PENDING: 0.5}
