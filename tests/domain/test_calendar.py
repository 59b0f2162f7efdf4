"""Days and clean segments, against the partition they are made from."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.condition.calendar import by_day, clean_segments, days_of
from data_manager.domain.condition.partition import Condition, Range, completeness, share
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS

LENGTHS = st.lists(st.tuples(st.integers(1, 2 * DAY_MS), st.sampled_from(Condition)), min_size=1, max_size=12)


def partition(lengths: list[tuple[int, Condition]], days: int) -> list[Range]:
    """Of that many days; the last piece ends with them."""
    ranges, at = [], 0
    for length, condition in lengths:
        end = min(at + length, days * DAY_MS)
        if at < end:
            ranges.append(Range(at, end, condition, condition.value))
        at = end
    if at < days * DAY_MS:
        ranges.append(Range(at, days * DAY_MS, Condition.GOOD, "rest"))
    return ranges


@given(LENGTHS, st.integers(1, 8))
def test_each_day_says_what_its_instants_say(lengths: list[tuple[int, Condition]], days: int) -> None:
    ranges = partition(lengths, days)
    found = by_day(ranges, Span(0, days * DAY_MS))
    assert len(found) == days
    for number, day in enumerate(found):
        span = Span(number * DAY_MS, (number + 1) * DAY_MS)
        shares = share(ranges, span)
        assert day.shares == {word.value: part for word, part in shares.items()}
        assert day.condition.value in day.shares
        inside = [Range(max(one.start_ms, span.start_ms), min(one.end_ms, span.end_ms), one.condition, one.reason) for one in ranges if one.start_ms < span.end_ms and one.end_ms > span.start_ms]  # fmt: skip
        assert day.completeness == completeness(inside)
        judged = shares.keys() - {Condition.PENDING}
        assert (day.condition is Condition.GOOD) == (judged == {Condition.GOOD}), "good: all that was judged is"
        assert (day.condition is Condition.PENDING) == (not judged)


@given(LENGTHS, st.integers(1, 8))
def test_clean_segments_are_all_that_is_good_or_healed(lengths: list[tuple[int, Condition]], days: int) -> None:
    ranges = partition(lengths, days)
    found = clean_segments(ranges, [])
    clean = [one for one in ranges if one.condition in (Condition.GOOD, Condition.HEALED)]
    assert sum(one.length_ms for one in found) == sum(one.end_ms - one.start_ms for one in clean)
    for one in found:
        inside = [part for part in clean if one.start_ms <= part.start_ms and part.end_ms <= one.end_ms]
        assert (inside[0].start_ms, inside[-1].end_ms) == (one.start_ms, one.end_ms)
        assert (one.condition is Condition.HEALED) == any(part.condition is Condition.HEALED for part in inside)
    for one, other in itertools.pairwise(found):
        assert one.end_ms < other.start_ms, "neighbours are one segment"


def test_a_segment_knows_its_keys_from_the_holes_around_it() -> None:
    hole = LedgerEntry(
        id="1", series="um.depth_update.BTCUSDT", kind="chain", start_ms=10, end_ms=20, missing=None, after=7, before=9,
        state=HoleState.OPEN, found_ms=0, seen_ms=0,
    )  # fmt: skip
    ranges = [
        Range(0, 10, Condition.GOOD, "audited"), Range(10, 20, Condition.KNOWN_HOLE, "open"),
        Range(20, 90, Condition.GOOD, "audited"),
    ]  # fmt: skip
    first, second = clean_segments(ranges, [hole])
    assert (first.first_key, first.last_key, second.first_key, second.last_key) == (None, 7, 9, None)


def test_whole_days() -> None:
    assert days_of(Span(5, 6)) == Span(0, DAY_MS)
    assert days_of(Span(DAY_MS, 2 * DAY_MS)) == Span(DAY_MS, 2 * DAY_MS)
