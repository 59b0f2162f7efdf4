"""Health: a figure with its parts; unknown is never a number, and 100 is said only of what has no fault."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.datasets import DATASETS
from data_manager.domain.health import (
    WEIGHTS,
    ErrorBudget,
    Freshness,
    Overall,
    cadence,
    error_budget,
    freshness,
    grade,
    health,
    overall,
    percent,
    repair,
)
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

FRESH = Freshness(1, 10)
fractions = st.one_of(st.none(), st.floats(0, 1))
counts = st.one_of(st.none(), st.integers(0, 100))


def of(**facts: Any) -> Any:
    usual: dict[str, Any] = {"completeness": 1.0, "freshness": FRESH, "rows": 100, "repeated": 0, "invalid": 0}
    return health(**{**usual, **facts})


def test_a_faultless_series_has_one_hundred() -> None:
    assert (of().score, of().grade) == (100.0, "healthy")
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert [(part.name, part.value, part.weight) for part in of().parts] == [
        (name, 1.0, weight) for name, weight in WEIGHTS.items()
    ]


@pytest.mark.parametrize(
    "unknown",
    [{"completeness": None}, {"freshness": None}, {"rows": None}, {"rows": 0}, {"repeated": None}, {"invalid": None}],
)
def test_a_part_nobody_knows_makes_the_score_unknown(unknown: dict[str, Any]) -> None:
    assert (of(**unknown).score, of(**unknown).grade) == (None, "unknown")
    assert any(part.value is None for part in of(**unknown).parts)


@given(fractions, st.integers(0, 10**6), counts, counts, counts, st.booleans())
def test_the_score_is_the_weighted_mean_of_its_parts_and_never_flatters(
    complete: float | None, age: int, rows: int | None, repeated: int | None, invalid: int | None, awaited: bool
) -> None:
    found = of(
        completeness=complete,
        freshness=Freshness(age, 1000),
        rows=rows,
        repeated=repeated,
        invalid=invalid,
        awaited=awaited,
    )
    parts = [part for part in found.parts if part.applies]
    if any(part.value is None for part in parts):
        assert found.score is None
        return
    exact = 100 * sum(part.weight * part.value for part in parts) / sum(part.weight for part in parts)
    assert found.score == pytest.approx(exact, abs=0.011)
    assert (found.score == 100.0) == all(part.value == 1 for part in parts)
    assert found.score <= 99.99 or exact == pytest.approx(100)


def test_what_is_missing_costs_more_than_what_is_late() -> None:
    assert of(completeness=0.5).score == 80.0
    assert of(freshness=Freshness(20, 10)).score == 85.0
    assert of(invalid=50).score == 90.0
    assert of(repeated=100).score == 90.0
    assert of(freshness=None, awaited=False, completeness=0.5).score == pytest.approx(100 * (0.2 + 0.3) / 0.7, abs=0.01)


def test_a_share_is_rounded_down_so_that_all_means_all() -> None:
    assert percent(1.0) == 100.0
    assert percent(1 - 1e-12) == 99.99
    assert percent(0.123456) == 12.34
    assert of(completeness=1 - 1e-15).score == 99.99


def test_grades() -> None:
    assert [grade(score) for score in (100.0, 95.0, 94.99, 80.0, 79.99, 0.0, None)] == [
        "healthy", "healthy", "degraded", "degraded", "unhealthy", "unhealthy", "unknown",
    ]  # fmt: skip


def test_the_summary_counts_the_unknown_and_says_nothing_for_them() -> None:
    assert overall([of(), of(completeness=0.5), of(completeness=0.0), of(completeness=None)]) == Overall(
        4, 1, 1, 1, 1, 80.0
    )
    assert overall([of(completeness=None)]).score is None
    assert overall([]).score is None


def test_a_candle_is_stale_when_the_next_one_is_overdue() -> None:
    def of_hour(age_ms: int) -> bool:
        found = freshness(DATASETS["candle"], "1h", 0, age_ms)
        assert found is not None
        return found.stale

    assert not of_hour(2 * HOUR_MS + 30 * SECOND_MS), "it opened two hours ago, and the next one just closed"
    assert of_hour(2 * HOUR_MS + MINUTE_MS + 1)
    month = freshness(DATASETS["candle"], "1M", 0, 61 * DAY_MS)
    assert month is not None
    assert not month.stale


def test_a_thin_symbol_is_judged_by_its_own_pauses() -> None:
    thin = cadence(np.arange(100) * 5 * MINUTE_MS)
    assert thin is not None
    assert (thin.median_ms, thin.usual_max_ms) == (5 * MINUTE_MS, 5 * MINUTE_MS)
    known = freshness(DATASETS["trade"], None, 0, 10 * MINUTE_MS, thin)
    unknown = freshness(DATASETS["trade"], None, 0, 10 * MINUTE_MS)
    assert known is not None
    assert unknown is not None
    assert (known.stale, unknown.stale) == (False, True)
    assert unknown.part == pytest.approx(0.1)
    assert cadence(np.arange(49)) is None


def test_rare_long_pauses_do_not_teach_patience() -> None:
    times = np.concatenate([np.arange(1000) * 100, [10**9], 10**9 + np.arange(1000) * 100])
    learned = cadence(np.random.default_rng(1).permutation(times))
    assert learned is not None
    assert learned.usual_max_ms == 100


def test_where_silence_is_normal_or_nothing_is_held_freshness_is_not_known() -> None:
    assert freshness(DATASETS["liquidation"], None, 5, 10) is None
    assert freshness(DATASETS["trade"], None, None, 10) is None
    ahead = freshness(DATASETS["trade"], None, 500, 10)
    assert ahead is not None
    assert (ahead.age_ms, ahead.part) == (0, 1.0)


def entry(name: str, start: int, found: int, healed: int | None, root: str = "") -> LedgerEntry:
    return LedgerEntry(
        id=name, series="s", kind="grid", start_ms=start, end_ms=start + 10, missing=None, after=None, before=None,
        state=HoleState.OPEN if healed is None else HoleState.HEALED, found_ms=found, seen_ms=found, healed_ms=healed, root=root,
    )  # fmt: skip


def test_times_to_detect_and_to_repair_count_a_hole_once() -> None:
    first = entry("a", 100, 300, 900), entry("b", 110, 300, 1_100, "a")
    found = repair([*first, entry("c", 500, 600, None)])
    assert (found.holes, found.healed, found.mttd_ms, found.mttr_ms) == (2, 1, 150, 800)
    assert repair([entry("a", 0, 5, None)]).mttr_ms is None
    assert repair([]).mttd_ms is None


def test_an_error_budget_is_spent_by_what_is_missing() -> None:
    budget = error_budget(0.999, 0.9995)
    assert budget is not None
    assert budget.left == pytest.approx(0.0005)
    broken = error_budget(0.999, 0.99)
    assert broken is not None
    assert broken.left < 0
    assert error_budget(0.999, None) is None
    assert error_budget(99.9 / 100, 49 / 50) == ErrorBudget(0.999, 0.001, 0.02, -0.019)
