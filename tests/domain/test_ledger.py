"""The ledger after any audits in any order says of every instant what the last audit of it said."""

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.errors import Conflict
from data_manager.domain.holes.changes import Change, ChangeKind, after, reconciled
from data_manager.domain.holes.continuity import Hole
from data_manager.domain.holes.ledger import STEPS_MAX, HoleState, LedgerEntry, due, moved, require_disjoint
from data_manager.domain.span import Span

LINE = 30
SERIES = "um.candle.BTCUSDT.1m"


def audit(
    entries: Sequence[LedgerEntry],
    span: tuple[int, int],
    holes: Sequence[tuple[int, int]],
    now_ms: int,
    confirm_after_ms: int = 1,
) -> tuple[list[Change], list[LedgerEntry]]:
    near = [one for one in entries if one.start_ms <= span[1] and span[0] <= one.end_ms]
    found = [Hole(start, end, end - start, start - 1, end, "grid") for start, end in holes]
    changes = reconciled(near, Span(*span), found, series=SERIES, now_ms=now_ms, confirm_after_ms=confirm_after_ms)
    return changes, after(entries, changes)


def kinds(changes: Sequence[Change]) -> list[tuple[str, int, int, str]]:
    return [(one.kind.value, one.entry.start_ms, one.entry.end_ms, one.entry.state.value) for one in changes]


def runs(instants: set[int]) -> list[tuple[int, int]]:
    """A set of instants as spans that do not touch."""
    starts = sorted(ms for ms in instants if ms - 1 not in instants)
    return [(start, next(ms for ms in range(start, LINE + 2) if ms not in instants)) for start in starts]


@st.composite
def audits(draw: st.DrawFn) -> tuple[tuple[int, int], set[int]]:
    start = draw(st.integers(0, LINE - 1))
    end = draw(st.integers(start + 1, LINE))
    return (start, end), draw(st.sets(st.integers(start, end - 1)))


moves = st.tuples(st.integers(0, 20), st.sampled_from(HoleState))


def tried(entries: list[LedgerEntry], which: int, to: HoleState, now_ms: int) -> list[LedgerEntry]:
    """A job's or a person's step on one entry, where it is allowed; healing is left to audits."""
    if not entries or to is HoleState.HEALED:
        return entries
    entry = entries[which % len(entries)]
    if not entry.live:
        return entries
    try:
        step = moved(entry, to, at_ms=now_ms, by="job", why="test", evidence={"digest": "x"}, recheck_ms=now_ms)
    except Conflict:
        return entries
    return [step if one is entry else one for one in entries]


@given(st.lists(st.tuples(audits(), st.lists(moves, max_size=2)), max_size=8), st.integers(0, 2))
def test_the_ledger_is_the_last_audit_of_every_instant(
    steps: list[tuple[tuple[tuple[int, int], set[int]], list[tuple[int, HoleState]]]], confirm: int
) -> None:
    model: dict[int, str] = {}
    entries: list[LedgerEntry] = []
    dead: set[str] = set()
    for now_ms, ((span, missing), jobs) in enumerate(steps):
        before = {one.id for one in entries}
        _, entries = audit(entries, span, runs(missing), now_ms, confirm)
        for ms in range(*span):
            if ms in missing:
                model[ms] = "missing"
            elif model.get(ms) == "missing":
                model[ms] = "healed"
        require_disjoint(entries)
        told = {ms: "missing" if one.live else "healed" for one in entries for ms in range(one.start_ms, one.end_ms)}
        assert told == model
        dead |= before - {one.id for one in entries}
        assert not dead & {one.id for one in entries}, "an id never means another hole later"
        assert all(len(one.history) and one.history[-1].state is one.state for one in entries)
        again, same = audit(entries, span, runs(missing), now_ms, confirm)
        assert same == entries, "the same audit twice is once"
        assert {one.kind for one in again} <= {ChangeKind.UNCHANGED}
        for which, to in jobs:
            entries = tried(entries, which, to, now_ms)


@given(st.lists(audits(), min_size=1, max_size=6))
def test_jobs_and_proofs_keep_their_state_where_rows_are_still_missing(
    every: list[tuple[tuple[int, int], set[int]]],
) -> None:
    _, entries = audit([], (0, LINE), [(5, 25)], 0, 0)
    entries = [moved(entries[0], HoleState.ABSENT, at_ms=0, by="job", why="empty answer", evidence={"digest": "x"})]
    proven = set(range(5, 25))
    for now_ms, (span, missing) in enumerate(every, 1):
        _, entries = audit(entries, span, runs(missing), now_ms)
        proven -= set(range(*span)) - missing
        absent = {ms for one in entries if one.state is HoleState.ABSENT for ms in range(one.start_ms, one.end_ms)}
        assert absent == proven
        assert all(one.history[0].why == "found" for one in entries)


def test_a_hole_is_suspected_then_open_then_healed_and_its_history_says_so() -> None:
    changes, entries = audit([], (0, 30), [(10, 20)], 100, confirm_after_ms=300)
    assert kinds(changes) == [("new", 10, 20, "suspected")]
    first = entries[0]
    assert (first.missing, first.after, first.before) == (10, 9, 20)
    changes, entries = audit(entries, (0, 30), [(10, 20)], 200, confirm_after_ms=300)
    assert kinds(changes) == [("unchanged", 10, 20, "suspected")]
    changes, entries = audit(entries, (0, 30), [(10, 20)], 400, confirm_after_ms=300)
    assert kinds(changes) == [("confirmed", 10, 20, "open")]
    assert entries[0].seen_ms == 400
    changes, entries = audit(entries, (0, 30), [], 700)
    assert kinds(changes) == [("healed", 10, 20, "healed")]
    assert entries[0].id == first.id
    assert entries[0].healed_ms == 700
    assert [(step.at_ms, step.state.value, step.by) for step in entries[0].history] == [
        (100, "suspected", "audit"), (400, "open", "audit"), (700, "healed", "audit"),
    ]  # fmt: skip


def test_a_hole_that_grows_keeps_its_name_and_one_that_is_mended_in_the_middle_is_split() -> None:
    _, entries = audit([], (0, 15), [(10, 15)], 1, 0)
    name = entries[0].id
    changes, entries = audit(entries, (0, 30), [(10, 25)], 2, 0)
    assert kinds(changes) == [("grown", 10, 25, "open")]
    changes, entries = audit(entries, (0, 30), [(10, 14), (20, 25)], 3, 0)
    assert kinds(changes) == [("trimmed", 10, 14, "open"), ("healed", 14, 20, "healed"), ("split", 20, 25, "open")]
    assert entries[0].id == name
    assert {one.root for one in entries} == {name}
    assert [one.missing for one in entries] == [4, None, 5]
    changes, entries = audit(entries, (0, 30), [(10, 25)], 4, 0)
    assert kinds(changes) == [("merged", 10, 25, "open")]
    assert (entries[0].id, len(changes[0].absorbed)) == (name, 2)


def test_an_audit_that_does_not_see_the_neighbours_of_a_hole_does_not_forget_them() -> None:
    _, entries = audit([], (0, 20), [(5, 8)], now_ms=1)
    blind = [Hole(5, 8, 3, None, None, "grid")]
    [change] = reconciled(entries, Span(5, 8), blind, series=SERIES, now_ms=1)
    assert (change.kind, change.entry.after, change.entry.before) == (ChangeKind.UNCHANGED, 4, 8)


def test_an_outage_audited_window_by_window_is_one_hole() -> None:
    entries: list[LedgerEntry] = []
    for now_ms, start in enumerate(range(0, 30, 10)):
        _, entries = audit(entries, (start, start + 10), [(max(start, 5), start + 10)], now_ms)
    assert [(one.start_ms, one.end_ms) for one in entries] == [(5, 30)]
    assert entries[0].missing is None, "three windows' counts are not one hole's"


def test_a_hole_mended_page_by_page_does_not_become_many_entries() -> None:
    _, entries = audit([], (0, 30), [(0, 30)], 0, 0)
    for now_ms in range(1, 30):
        _, entries = audit(entries, (0, 30), [(now_ms, 30)], now_ms, 0)
    assert [(one.start_ms, one.end_ms, one.live) for one in entries] == [(0, 29, False), (29, 30, True)]
    assert max(len(one.history) for one in entries) <= STEPS_MAX
    assert entries[1].history[0].why == "found"


def test_rows_that_vanish_again_reopen_the_hole_only_where_they_did() -> None:
    _, entries = audit([], (0, 30), [(10, 20)], 1, 0)
    _, entries = audit(entries, (0, 30), [], 2)
    changes, entries = audit(entries, (0, 30), [(12, 15)], 3)
    assert kinds(changes) == [("split", 10, 12, "healed"), ("reopened", 12, 15, "open"), ("split", 15, 20, "healed")]
    assert entries[1].found_ms == 1
    assert entries[1].healed_ms is None


def test_an_entry_that_is_no_more_is_named_by_the_one_that_took_its_place() -> None:
    _, entries = audit([], (0, 30), [(0, 5), (10, 12), (13, 15)], 1, 0)
    changes, after_ = audit(entries, (0, 30), [(0, 5), (10, 15)], 2, 0)
    assert [(one.kind.value, one.absorbed) for one in changes] == [("unchanged", ()), ("merged", (entries[2].id,))]
    assert [one.id for one in after_] == [one.id for one in entries[:2]]


def test_each_live_hole_keeps_its_name_where_there_are_two_for_two() -> None:
    _, entries = audit([], (0, 30), [(0, 10), (20, 30)], 1, 0)
    _, after_ = audit(entries, (0, 30), [(5, 8), (9, 25)], 2, 0)
    assert [(one.start_ms, one.end_ms, one.id) for one in after_ if one.live] == [
        (5, 8, entries[0].id),
        (9, 25, entries[1].id),
    ]


def test_a_hole_found_beside_a_job_does_not_disturb_it() -> None:
    _, entries = audit([], (0, 30), [(10, 20)], 1, 0)
    entries = [moved(entries[0], HoleState.HEALING, at_ms=2, by="job-7", why="klines")]
    changes, entries = audit(entries, (0, 30), [(5, 25)], 3, 0)
    assert kinds(changes) == [("new", 5, 10, "open"), ("unchanged", 10, 20, "healing"), ("new", 20, 25, "open")]
    assert entries[1].attempts == 1


def test_holes_in_ids_that_share_a_millisecond_do_not_overlap_in_the_ledger() -> None:
    found = [Hole(10, 16, 2, 4, 7, "ids"), Hole(15, 21, 3, 7, 11, "ids"), Hole(20, 21, 1, 11, 13, "ids")]
    changes = reconciled([], Span(0, 30), found, series=SERIES, now_ms=1)
    assert [(one.entry.start_ms, one.entry.end_ms, one.entry.missing, one.entry.before) for one in changes] == [
        (10, 16, 2, 7), (16, 21, 4, 13),
    ]  # fmt: skip


def test_what_the_life_of_a_hole_does_not_know_is_refused() -> None:
    _, (entry,) = audit([], (0, 30), [(10, 20)], 1)
    for wrong in (HoleState.HEALING, HoleState.ABSENT, HoleState.UNRECOVERABLE, HoleState.SUSPECTED):
        with pytest.raises(Conflict, match="suspected: it cannot become"):
            moved(entry, wrong, at_ms=2, by="job", why="too early", evidence={"digest": "x"})
    healing = moved(
        moved(entry, HoleState.OPEN, at_ms=2, by="a", why="w"), HoleState.HEALING, at_ms=3, by="job", why="w"
    )
    with pytest.raises(Conflict):
        moved(healing, HoleState.HEALING, at_ms=4, by="another job", why="me too")
    with pytest.raises(AssertionError, match="evidence"):
        moved(healing, HoleState.ABSENT, at_ms=4, by="job", why="says so")


def test_a_claim_that_nothing_is_there_is_asked_again_when_it_is_due() -> None:
    _, (entry,) = audit([], (0, 30), [(10, 20)], 1, 0)
    absent = moved(entry, HoleState.ABSENT, at_ms=2, by="job", why="[]", evidence={"digest": "x"}, recheck_ms=500)
    never = moved(entry, HoleState.UNRECOVERABLE, at_ms=2, by="job", why="no source")
    assert due([absent, never], 499) == []
    assert due([absent, never], 500) == [absent]
    again = moved(absent, HoleState.OPEN, at_ms=500, by="audit", why="re-check")
    assert (again.recheck_ms, again.history[-2].evidence) == (None, {"digest": "x"})


def test_entries_that_overlap_are_a_bug_and_not_input() -> None:
    _, entries = audit([], (0, 30), [(10, 20)], 1)
    with pytest.raises(AssertionError, match="overlap"):
        reconciled([*entries, *entries], Span(0, 30), [], series=SERIES, now_ms=2)


def test_thousands_of_holes_are_reconciled_in_a_moment() -> None:
    found = [Hole(10 * number, 10 * number + 3, 1, None, None, "grid") for number in range(5_000)]
    started = time.process_time()
    entries = after([], reconciled([], Span(0, 50_000), found, series=SERIES, now_ms=1, confirm_after_ms=0))
    shifted = [Hole(hole.start_ms + 1, hole.end_ms + 1, 1, None, None, "grid") for hole in found]
    changes = reconciled(entries, Span(0, 50_000), shifted, series=SERIES, now_ms=2, confirm_after_ms=0)
    assert time.process_time() - started < 3.0, "measured 0.4 s on a quiet machine"
    assert {one.kind.value for one in changes} == {"grown", "healed"}
    assert len(after(entries, changes)) == 10_000
