"""Lives: what cannot exist is not missing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from data_manager.domain.condition.partition import EVER, Life
from data_manager.domain.holes.continuity import Chained, Grid, Hole, MaxSilence, Numbered
from data_manager.domain.holes.life import lived
from data_manager.domain.span import Span

MINUTE = 60_000
HALTED = Life(10 * MINUTE, 90 * MINUTE, (Span(30 * MINUTE + 1, 40 * MINUTE),))


def gap(start: int, end: int, kind: str = "grid") -> Hole:
    return Hole(start * MINUTE, end * MINUTE, end - start, start - 1, end, kind)


def test_a_hole_loses_what_lies_before_listing_in_a_halt_and_after_delisting() -> None:
    pieces = lived([gap(0, 100)], HALTED, Grid(), "1m")
    assert [(one.start_ms // MINUTE, one.end_ms // MINUTE, one.missing) for one in pieces] == [
        (10, 30, 20),
        (40, 90, 50),
    ]
    assert [(one.after, one.before) for one in pieces] == [(None, None), (None, None)]
    assert lived([gap(31, 39), gap(0, 10), gap(90, 95)], HALTED, Grid(), "1m") == []
    untouched = [gap(11, 15), gap(50, 60)]
    assert lived(untouched, HALTED, Grid(), "1m") == untouched


@pytest.mark.parametrize("rule", [Numbered(), Chained()])
def test_what_keys_prove_no_life_takes_away(rule: Numbered | Chained) -> None:
    assert lived([gap(0, 100, "ids")], HALTED, rule, None) == [gap(0, 100, "ids")]


def test_silence_around_a_halt_counts_by_itself() -> None:
    [whole] = silent = [gap(20, 42, "silence")]
    told = [(20 * MINUTE, 30 * MINUTE + 1), (40 * MINUTE, 42 * MINUTE)]
    assert [(one.start_ms, one.end_ms) for one in lived(silent, HALTED, MaxSilence(5 * MINUTE), None)] == told
    short = replace(whole, end_ms=40 * MINUTE + MaxSilence(5 * MINUTE).shortest_ms)
    assert [(one.start_ms, one.end_ms) for one in lived([short], HALTED, MaxSilence(5 * MINUTE), None)] == told[:1]


bounds = st.integers(0, 200)


@given(
    st.lists(st.tuples(bounds, st.integers(1, 30)), max_size=4),
    bounds,
    bounds,
    st.lists(st.tuples(bounds, st.integers(1, 20)), max_size=3),
)
def test_a_candle_is_missing_iff_it_is_absent_and_wholly_in_the_life(
    gaps: list[tuple[int, int]], listed: int, delisted: int, halts: list[tuple[int, int]]
) -> None:
    """Against sets of minutes."""
    life = Life(
        listed * MINUTE,
        delisted * MINUTE,
        tuple(Span(at * MINUTE + 5, (at + length) * MINUTE + 5) for at, length in halts),
    )
    absent = {minute for at, length in gaps for minute in range(at, at + length)}
    held = np.array(sorted(set(range(240)) - absent)) * MINUTE
    span = Span(0, 240 * MINUTE)
    holes = Grid().holes({"open_ms": held}, key="open_ms", time="open_ms", span=span, interval="1m")
    found = {
        minute
        for one in lived(holes, life, Grid(), "1m")
        for minute in range(one.start_ms // MINUTE, one.end_ms // MINUTE)
    }
    alive = {
        minute
        for minute in absent
        if sum(part.end_ms - part.start_ms for part in life.expected(Span(minute * MINUTE, (minute + 1) * MINUTE)))
        == MINUTE
    }
    assert found == alive
    assert lived(holes, EVER, Grid(), "1m") == holes
