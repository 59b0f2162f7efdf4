"""A complete series has no holes; taking rows away makes exactly the holes that were taken."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather

from data_manager.domain.holes.continuity import (
    Chained,
    Columns,
    Continuity,
    Grid,
    Hole,
    MaxSilence,
    Numbered,
    Schedule,
    Sparse,
    segments,
)
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, INTERVALS_MS, MINUTE_MS, floor_open_ms, next_open_ms, parse_time

START_MS = parse_time("2024-01-01T00:00:00Z")  # a Monday, and the first of a month
FUNDING = Schedule((8 * HOUR_MS, 4 * HOUR_MS, 2 * HOUR_MS, HOUR_MS))

intervals = st.sampled_from(list(INTERVALS_MS))
starts = st.integers(START_MS, START_MS + 800 * DAY_MS)


def ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), np.int64)


def holes(rule: Continuity, span: Span, columns: Columns, interval: str | None = None) -> list[Hole]:
    return rule.holes(columns, key="key", time="time", span=span, interval=interval)


def by_time(rule: Continuity, span: Span, rows: Iterable[int], interval: str | None = None) -> list[Hole]:
    """Holes of a series whose key is its time."""
    keys = ints(rows)
    return holes(rule, span, {"key": keys, "time": keys}, interval)


def without(rows: list[int], taken: Iterable[int]) -> list[int]:
    return [row for row in rows if row not in set(taken)]


# ── Grid ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def opens(span: Span, interval: str) -> list[int]:
    """Every open time inside span, counted out one by one."""
    at, found = floor_open_ms(span.start_ms, interval), []
    while at < span.end_ms:
        if at >= span.start_ms:
            found.append(at)
        at = next_open_ms(at, interval)
    return found


@st.composite
def candle_spans(draw: st.DrawFn) -> tuple[str, Span]:
    interval = draw(intervals)
    start = draw(starts)
    length = (INTERVALS_MS[interval] or 31 * DAY_MS) * draw(st.integers(1, 20)) + draw(st.integers(0, DAY_MS))
    return interval, Span(start, start + max(1, min(length, 25 * (INTERVALS_MS[interval] or 31 * DAY_MS))))


def expected_of(found: Iterable[Hole], interval: str) -> list[int]:
    """The open times a list of holes claims to be missing."""
    return [at for hole in found for at in opens(Span(hole.start_ms, hole.end_ms), interval)]


@given(candle_spans())
def test_a_complete_grid_has_no_holes(case: tuple[str, Span]) -> None:
    interval, span = case
    rows = opens(span, interval)
    assert by_time(Grid(), span, rows, interval) == []


@given(candle_spans(), st.data())
def test_taking_any_candles_away_makes_exactly_those_holes(case: tuple[str, Span], data: st.DataObject) -> None:
    interval, span = case
    rows = opens(span, interval)
    taken = sorted(data.draw(st.sets(st.sampled_from(rows)) if rows else st.just(set())))
    found = by_time(Grid(), span, without(rows, taken), interval)
    if interval == "3d" and len(taken) == len(rows):
        return  # without a row there is no anchor but the epoch, which the next line would assume as well
    assert expected_of(found, interval) == taken
    assert sum(hole.missing or 0 for hole in found) == len(taken)
    assert all(before.end_ms < after.start_ms for before, after in pairwise(found)), "neighbouring holes are one hole"
    assert all(hole.kind == "grid" and span.start_ms <= hole.start_ms < hole.end_ms <= span.end_ms for hole in found)


@given(candle_spans(), st.data())
def test_a_hole_names_the_neighbours_that_are_held(case: tuple[str, Span], data: st.DataObject) -> None:
    interval, span = case
    rows = opens(span, interval)
    held = without(rows, data.draw(st.sets(st.sampled_from(rows)) if rows else st.just(set())))
    for hole in by_time(Grid(), span, held, interval):
        assert hole.after == max((row for row in held if row < hole.start_ms), default=None)
        assert hole.before == min((row for row in held if row >= hole.end_ms), default=None)


def test_a_span_that_ends_amid_a_candle_expects_it_and_ends_the_hole_there() -> None:
    span = Span(START_MS, START_MS + 90_000)
    assert by_time(Grid(), span, [START_MS], "1m") == [
        Hole(START_MS + MINUTE_MS, START_MS + 90_000, 1, START_MS, None, "grid")
    ]


def test_a_span_between_two_opens_expects_nothing() -> None:
    assert by_time(Grid(), Span(START_MS + 1, START_MS + HOUR_MS), [], "1h") == []


def test_a_week_opens_on_monday_and_a_month_on_the_first() -> None:
    span = Span(parse_time("2024-02-01"), parse_time("2024-03-04"))
    mondays = [parse_time(f"2024-02-{day:02d}") for day in (5, 12, 19, 26)]
    assert by_time(Grid(), span, mondays, "1w") == []
    assert by_time(Grid(), span, [parse_time("2024-02-01"), parse_time("2024-03-01")], "1M") == []


def test_a_row_beside_the_grid_fills_no_place() -> None:
    span = Span(START_MS, START_MS + 4 * MINUTE_MS)
    rows = [START_MS, START_MS + MINUTE_MS + 1, START_MS + 2 * MINUTE_MS, START_MS + 3 * MINUTE_MS]
    assert [hole.start_ms for hole in by_time(Grid(), span, rows, "1m")] == [START_MS + MINUTE_MS]
    assert [hole.start_ms for hole in by_time(Grid(), Span(START_MS, START_MS + 40 * DAY_MS), rows[:2], "1M")] == [
        parse_time("2024-02-01")
    ]


def test_rows_that_share_an_open_time_count_once() -> None:
    span = Span(START_MS, START_MS + 3 * HOUR_MS)
    rows = [START_MS, START_MS, START_MS + 2 * HOUR_MS, START_MS + 2 * HOUR_MS]
    assert by_time(Grid(), span, rows, "1h") == [
        Hole(START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, 1, START_MS, START_MS + 2 * HOUR_MS, "grid")
    ]


def test_three_days_are_anchored_where_the_venue_anchors_them() -> None:
    day = floor_open_ms(START_MS, "3d") + DAY_MS
    rows = [day + step * 3 * DAY_MS for step in range(10)]
    span = Span(day, day + 30 * DAY_MS)
    assert by_time(Grid(), span, rows, "3d") == []
    assert [hole.start_ms for hole in by_time(Grid(), span, without(rows, rows[4:5]), "3d")] == rows[4:5]


# ── Numbered and Chained ─────────────────────────────────────────────────────────────────────────────────────────────

ID_SPAN = Span(START_MS, START_MS + DAY_MS)


def numbered(ids: Iterable[int]) -> Columns:
    """Rows with two ids per millisecond."""
    keys = ints(ids)
    return {"key": keys, "time": START_MS + keys // 2}


@given(st.integers(0, 2**62), st.integers(1, 60), st.data())
def test_taking_any_ids_away_makes_exactly_those_holes(first: int, count: int, data: st.DataObject) -> None:
    ids = range(first, first + count)
    inner = list(ids)[1:-1]
    taken = data.draw(st.sets(st.sampled_from(inner)) if inner else st.just(set()))
    held = [i for i in ids if i not in taken]
    columns = {"key": ints(held), "time": START_MS + (ints(held) - first) // 2}
    found = holes(Numbered(), ID_SPAN, columns)
    claimed = [i for hole in found for i in range((hole.after or 0) + 1, hole.before or 0)]
    assert claimed == sorted(taken)
    assert [hole.missing for hole in found] == [(hole.before or 0) - (hole.after or 0) - 1 for hole in found]
    for i in taken:
        assert any(hole.start_ms <= START_MS + (i - first) // 2 < hole.end_ms for hole in found)


def test_ids_outside_the_rows_held_are_nobodys_hole() -> None:
    assert holes(Numbered(), ID_SPAN, numbered([])) == []
    assert holes(Numbered(), ID_SPAN, numbered([500])) == []


def test_an_id_hole_holds_even_if_the_clock_went_back() -> None:
    columns = {"key": ints([7, 9]), "time": ints([START_MS + 50, START_MS + 20])}
    assert holes(Numbered(), ID_SPAN, columns) == [Hole(START_MS + 20, START_MS + 51, 1, 7, 9, "ids")]


def test_long_series_are_looked_at_across_block_borders() -> None:
    ids = np.arange(200_000, dtype=np.int64)
    taken = [65_535, 65_536, 131_071, 131_073]
    columns = {"key": np.delete(ids, taken), "time": START_MS + np.delete(ids, taken)}
    assert [(hole.after, hole.before) for hole in holes(Numbered(), ID_SPAN, columns)] == [
        (65_534, 65_537), (131_070, 131_072), (131_072, 131_074),
    ]  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """A whole chain of (first, last, previous) update ids; spot rows name no previous one."""
    named = draw(st.booleans())
    last, rows = draw(st.integers(0, 2**40)), []
    for width in draw(st.lists(st.integers(1, 9), min_size=1, max_size=30)):
        skip = draw(st.integers(0, 5)) if named else 0
        rows.append((last + 1 + skip, last + skip + width, last if named else -1))
        last = last + skip + width
    return rows


def chained(rows: list[tuple[int, int, int]]) -> Columns:
    first, last, previous = (ints(part) for part in zip(*rows, strict=True)) if rows else (ints([]),) * 3
    return {"key": last, "time": START_MS + last, "first_update_id": first, "previous_update_id": previous}


@given(chains(), st.data())
def test_taking_updates_away_breaks_the_chain_there_and_only_there(
    rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    taken = data.draw(st.sets(st.sampled_from(range(len(rows)))))
    kept = [i for i in range(len(rows)) if i not in taken]
    columns = chained([rows[i] for i in kept])
    breaks = [(rows[i][1], rows[j][1]) for i, j in pairwise(kept) if j - i > 1]
    found = holes(Chained(), ID_SPAN, columns)
    assert [(hole.after, hole.before) for hole in found] == breaks
    assert all(hole.kind == "chain" and hole.missing is None for hole in found)
    parts = segments(columns, key="key")
    assert [i for start, end in parts for i in range(start, end)] == list(range(len(kept)))
    assert len(parts) == (len(breaks) + 1 if kept else 0)


def test_a_chain_may_name_its_predecessor_in_some_rows_only() -> None:
    rows = [(1, 5, -1), (6, 9, 5), (10, 12, -1), (14, 15, -1), (20, 22, 15)]
    assert [hole.before for hole in holes(Chained(), ID_SPAN, chained(rows))] == [15]


# ── Schedule ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def settle(regimes: Iterable[tuple[int, int]], start_ms: int = START_MS) -> list[int]:
    """Settlements of (step in hours, how many) one after another; a new step begins at its next own multiple."""
    slots = [start_ms]
    for hours, count in regimes:
        for _ in range(count):
            slots.append((slots[-1] // (hours * HOUR_MS) + 1) * hours * HOUR_MS)
    return slots


def whole(slots: list[int]) -> Span:
    return Span(slots[0], slots[-1] + 1)


regimes = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(3, 12)), min_size=1, max_size=6)


@given(regimes)
def test_a_schedule_that_changes_its_step_has_no_holes(changes: list[tuple[int, int]]) -> None:
    slots = settle(changes)
    assert by_time(FUNDING, whole(slots), slots) == []


def test_the_steps_of_the_venue_in_mid_history_are_no_holes() -> None:
    slots = settle([(8, 6), (4, 6), (1, 37), (4, 6), (8, 3)])
    assert by_time(FUNDING, whole(slots), slots) == []


@given(st.sampled_from([1, 2, 4, 8]), st.integers(4, 40), st.data())
def test_a_missed_settlement_is_exactly_one_hole(hours: int, count: int, data: st.DataObject) -> None:
    slots = settle([(hours, count)])
    missed = data.draw(st.sampled_from(slots[1:-1]))
    step = hours * HOUR_MS
    assert by_time(FUNDING, whole(slots), without(slots, [missed])) == [
        Hole(missed, missed + step, 1, missed - step, missed + step, "schedule")
    ]


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(24, 30)), min_size=1, max_size=4), st.data())
def test_a_missed_settlement_is_found_among_changing_steps(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    slots = settle(changes)
    bends = [b for a, b, c in zip(slots, slots[1:], slots[2:], strict=False) if c - b != b - a]
    far = [slot for slot in slots[1:-1] if all(abs(slot - bend) > 16 * HOUR_MS for bend in bends)]
    missed = data.draw(st.sampled_from(far))
    found = by_time(FUNDING, whole(slots), without(slots, [missed]))
    assert [(hole.start_ms, hole.missing) for hole in found] == [(missed, 1)]


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 40), st.data())
def test_a_schedule_never_claims_what_was_not_taken(hours: int, count: int, data: st.DataObject) -> None:
    slots = settle([(hours, count)])
    taken = data.draw(st.sets(st.sampled_from(slots), max_size=len(slots) - 1))
    found = by_time(FUNDING, whole(slots), without(slots, taken))
    assert sum(hole.missing or 0 for hole in found) <= len(taken)
    for hole in found:
        inside = [slot for slot in slots if hole.start_ms <= slot < hole.end_ms]
        assert inside
        assert set(inside) <= taken


def test_the_first_and_the_last_settlement_of_a_span_can_be_missed() -> None:
    slots = settle([(4, 12)])
    found = by_time(FUNDING, whole(slots), slots[1:-1])
    assert [(hole.start_ms, hole.missing, hole.after, hole.before) for hole in found] == [
        (slots[0], 1, None, slots[1]),
        (slots[-1], 1, slots[-2], None),
    ]


def test_a_span_without_any_settlement_is_a_hole_nobody_can_count() -> None:
    span = Span(START_MS + 1, START_MS + 2 * DAY_MS)
    assert by_time(FUNDING, span, []) == [Hole(START_MS + 8 * HOUR_MS, span.end_ms, None, None, None, "schedule")]
    assert by_time(FUNDING, Span(START_MS + 1, START_MS + 8 * HOUR_MS), []) == []


def test_special_rates_beside_or_on_a_slot_change_nothing() -> None:
    slots = settle([(8, 9)])
    assert by_time(FUNDING, whole(slots), sorted([*slots, slots[3], slots[4] + 7 * MINUTE_MS])) == []


# ── MaxSilence and Sparse ────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 200), max_size=40), st.integers(1, 60))
def test_silence_is_every_stretch_longer_than_allowed(offsets: list[int], silence: int) -> None:
    span = Span(START_MS, START_MS + 201)
    times = sorted(START_MS + offset for offset in offsets)
    found = by_time(MaxSilence(silence), span, times)
    marks = [span.start_ms, *times, span.end_ms]
    assert len(found) == sum(later - earlier > silence for earlier, later in pairwise(marks))
    for hole in found:
        assert not any(hole.start_ms <= at < hole.end_ms for at in times)
        assert hole.end_ms - hole.start_ms >= silence
        assert hole.missing is None


def test_silence_is_measured_by_the_clock_not_by_the_order_of_keys() -> None:
    span = Span(START_MS, START_MS + 10)
    columns = {"key": ints([1, 2, 3, 4]), "time": START_MS + ints([0, 6, 3, 9])}
    assert holes(MaxSilence(3), span, columns) == []
    assert holes(MaxSilence(2), span, columns) == [
        Hole(START_MS + 1, START_MS + 3, None, 1, 3, "silence"),
        Hole(START_MS + 4, START_MS + 6, None, 3, 2, "silence"),
        Hole(START_MS + 7, START_MS + 9, None, 2, 4, "silence"),
    ]


@pytest.mark.parametrize(
    ("pauses_ms", "patience_ms"),
    [
        ([], 60_000), ([100_000] * 19, 60_000), ([100_000] * 20, 500_000), ([1_000] * 499, 60_000), ([1_000] * 500, 20_000),
        ([1_000] * 499 + [2_000], 40_000), ([100] * 480 + [9_000] * 20, 60_000), ([20_000] * 480 + [400_000] * 20, 100_000),
        ([100_000] * 490 + [900_000] * 10, 500_000),
    ],
)  # fmt: skip
def test_how_long_is_too_long_is_told_by_the_pauses_before(pauses_ms: list[int], patience_ms: int) -> None:
    assert MaxSilence(60_000).patience_ms(ints(pauses_ms)) == patience_ms


def test_of_books_and_mark_prices_ten_seconds_are_too_long_unless_they_are_slow() -> None:
    rule = MaxSilence(10_000)
    assert [rule.patience_ms(ints([pause] * 500)) for pause in (100, 1_000, 3_000)] == [10_000, 10_000, 15_000]


def test_a_span_without_rows_is_silent() -> None:
    span = Span(START_MS, START_MS + HOUR_MS)
    assert by_time(MaxSilence(MINUTE_MS), span, []) == [Hole(span.start_ms, span.end_ms, None, None, None, "silence")]


def test_nothing_is_claimed_of_a_sparse_series() -> None:
    assert by_time(Sparse(), ID_SPAN, [START_MS, START_MS + HOUR_MS]) == []
    assert not Sparse.verifiable
    assert all(rule.verifiable for rule in (Grid, Numbered, Chained, Schedule, MaxSilence))


@pytest.mark.parametrize("rule", [Grid(), Numbered(), Chained(), FUNDING, MaxSilence(MINUTE_MS), Sparse()])
def test_a_hole_is_made_of_python_numbers(rule: Continuity) -> None:
    keys = ints([START_MS, START_MS + 8 * HOUR_MS, START_MS + 40 * HOUR_MS])
    columns = {"key": keys, "time": keys, "first_update_id": keys, "previous_update_id": keys}
    for hole in holes(rule, Span(START_MS, START_MS + 50 * HOUR_MS), columns, "1h"):
        assert {type(getattr(hole, name)) for name in Hole.__struct_fields__} <= {int, str, type(None)}


def test_the_start_of_these_tests_is_a_monday_and_a_first() -> None:
    assert floor_open_ms(START_MS, "1w") == START_MS == floor_open_ms(START_MS, "1M")


# ── Recorded history ─────────────────────────────────────────────────────────────────────────────────────────────────


def recorded_ms(file: Path) -> np.ndarray:
    """First column of a recording, in milliseconds (funding times are late by some)."""
    return feather.read_table(file).column(0).to_numpy().astype("datetime64[ms]").astype(np.int64)


@pytest.mark.parametrize(
    ("file", "interval", "gaps", "missing"),
    [
        ("spot_XRPETH_1m_2019-10", "1m", 676, 1_091),
        ("spot_UNITTESTBTC_1m_2017-11", "1m", 538, 717),
        ("spot_TRXBTC_5m_2018-01", "5m", 6, 6),
        ("spot_ZECBTC_5m_2018-01", "5m", 2, 2),
        ("spot_ETHBTC_5m_2018-01", "5m", 0, 0),
        ("binance_usdm_XRPUSDT_5m_2021-11", "5m", 0, 0),
    ],
)
def test_recorded_candles_lack_what_is_known_to_lack(
    recordings: Path, file: str, interval: str, gaps: int, missing: int
) -> None:
    rows = recorded_ms(recordings / "klines" / f"{file}.feather").tolist()
    found = by_time(Grid(), whole(rows), rows, interval)
    assert (len(found), sum(hole.missing or 0 for hole in found)) == (gaps, missing)


def test_recorded_funding_is_complete(recordings: Path) -> None:
    late = recorded_ms(recordings / "funding" / "binance_usdm_XRPUSDT_funding_8h_2021-11_2021-12.feather")
    slots = (late - late % HOUR_MS).tolist()
    assert len(slots) == 91
    assert by_time(FUNDING, whole(slots), slots) == []
    assert [hole.start_ms for hole in by_time(FUNDING, whole(slots), without(slots, slots[40:43]))] == [slots[40]]
