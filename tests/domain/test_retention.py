"""How long rows are kept, in which pieces they go, and that what went is told exactly from what is missing."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.checks.paging import Checking
from data_manager.domain.checks.rules import CHECKS, check
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadSetting
from data_manager.domain.holes.continuity import Chained, Grid, Hole, Numbered
from data_manager.domain.retention import (
    LetGo,
    days_by_name,
    grown,
    kept_days,
    parse_days,
    piece_of,
    still_gone,
    unexplained,
)
from data_manager.domain.span import Span, difference
from data_manager.domain.time import DAY_MS, INTERVALS_MS, MINUTE_MS, WEEK_MS, parse_time
from tests.contract.rows import BASE_MS, batch_of, trade

DAY0 = parse_time("2024-02-29T00:00:00Z")


def test_days_come_from_the_setting_then_from_the_table() -> None:
    days = parse_days("trade=30, candle.1m=365,depth=forever", DATASETS)
    names = {"trade": 30, "candle.1m": 365, "candle.1h": 90, "candle.1M": 730, "depth": None, "funding_rate": None}
    found = days_by_name(DATASETS.values(), days)
    assert {name: found[name] for name in names} == names
    assert kept_days(Series("um", "candle", "BTCUSDT", "5m"), DATASETS["candle"], parse_days("candle=1", DATASETS)) == 1
    assert parse_days("", DATASETS) == {}


@pytest.mark.parametrize("text", ["trade", "trade=", "trade=0", "trade=-1", "trade=1.5", "trade=36501", "trades=3", "candle.2m=3", "trade.1m=3", "depth=Forever", "trade=७"])  # fmt: skip
def test_other_words_are_named(text: str) -> None:
    with pytest.raises(BadSetting, match="RETENTION_DAYS"):
        parse_days(f"depth=1,{text}", DATASETS)


@pytest.mark.parametrize("interval", [None, *INTERVALS_MS])
@given(ms=st.integers(DAY0, DAY0 + 400 * DAY_MS))
def test_a_piece_holds_its_rows_and_whole_candles(interval: str | None, ms: int) -> None:
    series = Series("um", "candle" if interval else "trade", "BTCUSDT", interval)
    piece = piece_of(series, ms)
    assert piece.holds(ms)
    if interval != "3d":  # there each candle is its own
        assert piece_of(series, piece.start_ms) == piece == piece_of(series, piece.end_ms - 1)
    assert piece.end_ms - piece.start_ms >= max(DAY_MS, INTERVALS_MS[interval] or 0 if interval else 0)
    assert piece_of(Series("um", "candle", "BTCUSDT", "1w"), ms).end_ms % WEEK_MS == 4 * DAY_MS


ids = st.integers(1, 40)


@given(missing=st.sets(ids), gone=st.lists(st.tuples(ids, st.integers(0, 8)), max_size=3))
def test_of_ids_what_went_is_explained_and_what_is_missing_is_not(
    missing: set[int], gone: list[tuple[int, int]]
) -> None:
    """Ids 0 and 60 are held, so that everything between can be judged; times are ten times the id."""
    pieces = grown([], [LetGo(10 * start, 10 * (start + more) + 1, start, start + more) for start, more in gone])
    went = {key for one in pieces for key in range(one.first_key, one.last_key + 1)}
    keys = np.array(sorted(set(range(61)) - missing - went), np.int64)
    holes = Numbered().holes({"id": keys, "at": 10 * keys}, key="id", time="at", span=Span(0, 601))
    rest = unexplained(holes, pieces, Numbered())
    found = [key for one in rest for key in range((one.after or 0) + 1, one.before or 0)]
    assert found == sorted(missing - went)
    assert sum(one.missing or 0 for one in rest) == len(found)
    assert all(one.start_ms < one.end_ms for one in rest)


@given(missing=st.sets(ids), gone=st.lists(st.tuples(ids, st.integers(0, 8)), max_size=3))
def test_of_candles_what_went_is_explained_and_what_is_missing_is_not(
    missing: set[int], gone: list[tuple[int, int]]
) -> None:
    pieces = grown([], [LetGo(start * MINUTE_MS, (start + more + 1) * MINUTE_MS, start, start) for start, more in gone])
    went = {minute for one in pieces for minute in range(one.start_ms // MINUTE_MS, one.end_ms // MINUTE_MS)}
    opens = np.array(sorted(set(range(61)) - missing - went), np.int64) * MINUTE_MS
    span = Span(0, 61 * MINUTE_MS)
    holes = Grid().holes({"open_ms": opens}, key="open_ms", time="open_ms", span=span, interval="1m")
    rest = unexplained(holes, pieces, Grid())
    found = [minute for one in rest for minute in range(one.start_ms // MINUTE_MS, one.end_ms // MINUTE_MS)]
    assert found == sorted(missing - went)


def test_a_chain_that_retention_cut_is_no_broken_one() -> None:
    hole = Hole(100, 900, None, 5, 77, "chain")
    assert unexplained([hole], [LetGo(200, 300, 10, 20)], Chained()) == []
    assert unexplained([hole], [LetGo(900, 950, 10, 20)], Chained()) == [hole]


spans = st.tuples(st.integers(0, 30), st.integers(1, 9)).map(lambda at: Span(at[0], at[0] + at[1]))


@given(st.lists(spans, max_size=4), spans, st.lists(spans, max_size=3))
def test_where_an_audit_finds_no_hole_rows_came_back(went: list[Span], audited: Span, holes: list[Span]) -> None:
    gone = grown([], [LetGo(one.start_ms, one.end_ms, one.start_ms, one.end_ms) for one in went])
    left = still_gone(gone, audited, [Hole(one.start_ms, one.end_ms, None, None, None, "grid") for one in holes])
    instants = {ms for one in left for ms in range(one.start_ms, one.end_ms)}
    before = {ms for one in gone for ms in range(one.start_ms, one.end_ms)}
    missing = {ms for one in holes for ms in range(one.start_ms, one.end_ms)}
    seen = set(range(audited.start_ms, audited.end_ms)) - missing
    assert instants == before - seen
    assert difference([Span(one.start_ms, one.end_ms) for one in left], [Span(0, 99)]) == []


@given(st.lists(st.integers(1, 120), max_size=6), st.sets(st.integers(3, 116), max_size=4))
def test_rows_are_checked_alike_in_pages_of_any_size(cuts: list[int], odd: set[int]) -> None:
    rows = batch_of(
        [trade(n, price="9000" if n in odd else f"{100 + n % 3}.5") for n in range(120)], received_ms=BASE_MS * 2
    )
    checking, places = Checking(rows.dataset), sorted({0, *cuts, len(rows)})
    for start, end in pairwise(places):
        checking.update(rows.take(slice(start, min(end, len(rows)))))
    checking.finish()
    whole: Counter[str] = Counter()
    for one in check(rows):
        whole[one.rule] += one.rows
    assert {name.partition(".")[0]: count for name, count in checking.offences.items()} == whole
    assert len(checking.names) == len([one for one in CHECKS["trade"] if one.severity != "info"])
