"""Health: one figure for a series, and what it is made of.

    part           weight   1 when                                    falls
    completeness     0.4    all expected time is covered              with the share that is not
    freshness        0.3    the newest row is as young as usual       as usual / age
    validity         0.2    no row breaks a check                     with the share of rows that do
    duplicates       0.1    no key stands there twice                 with the share of rows that do

score = 100 * sum(weight * part) / sum(weight), over the parts that apply to the series. A part that applies and is not
known makes the score unknown: None, never 0 and never 100. 100.00 is said only of what has no fault at all.

Completeness speaks for a window that ends now (window()), validity and duplicates for all rows that are held.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.dataset import Dataset
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, INTERVALS_MS

WEIGHTS: Final = {"completeness": 0.4, "freshness": 0.3, "validity": 0.2, "duplicates": 0.1}
HEALTHY_FROM: Final = 95.0
DEGRADED_FROM: Final = 80.0

WINDOW_MS: Final = DAY_MS
"""The stretch a completeness speaks for, unless ten of the series' intervals are longer."""

AS_IT_HAPPENS_MS: Final = DAY_MS
"""A hole found so soon after its end was in data that came as it happened; of others nobody could know earlier."""

_LEARN_ROWS_MIN: Final = 50
_WINDOW_INTERVALS: Final = 10
_BUDGET_DIGITS: Final = 12  # less than a millisecond in a month, and 0.001 is allowed, not 0.0010000000000000009
_PATIENCE: Final = 3  # times the longest usual pause before a series counts as stale

Grade = Literal["healthy", "degraded", "unhealthy", "unknown"]


# ── Freshness ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Cadence(Struct, frozen=True):
    """How often rows come: the middle pause between two, and one that only 1 of 100 is longer than."""

    median_ms: int
    usual_max_ms: int
    rows: int


class Freshness(Struct, frozen=True):
    """age_ms of the newest row, and the age up to which it is fresh."""

    age_ms: int
    limit_ms: int

    @property
    def stale(self) -> bool:
        """Whether rows ought to have come by now."""
        return self.age_ms > self.limit_ms

    @property
    def part(self) -> float:
        """1 while fresh, then limit / age."""
        return 1.0 if self.age_ms <= self.limit_ms else self.limit_ms / self.age_ms


def cadence(times: NDArray[np.int64]) -> Cadence | None:
    """From the times of recent rows, in any order; None when there are too few to tell (fewer than 50)."""
    if len(times) < _LEARN_ROWS_MIN:
        return None
    pauses = np.diff(np.sort(times))
    median, usual = np.quantile(pauses, [0.5, 0.99], method="higher").tolist()
    return Cadence(int(median), int(usual), len(times))


def freshness(
    dataset: Dataset, interval: str | None, last_ms: int | None, now_ms: int, learned: Cadence | None = None
) -> Freshness | None:
    """Of a series whose newest row has the time last_ms; None where silence is normal, or nothing is held.

    A candle is due when its interval is over. Other series may be as old as the dataset declares, or as three times
    their own longest usual pause where that is more: a thin symbol is not stale because others trade more.
    """
    if dataset.fresh_within_ms is None or last_ms is None:
        return None
    limit = dataset.fresh_within_ms
    if interval is not None:
        limit += 2 * (INTERVALS_MS[interval] or 31 * DAY_MS)  # the newest candle opened up to two intervals ago
    elif learned is not None:
        limit = max(limit, _PATIENCE * learned.usual_max_ms)
    return Freshness(max(0, now_ms - last_ms), limit)


def window(
    interval: str | None, first_ms: int, ends_ms: int | None, now_ms: int, window_ms: int = WINDOW_MS
) -> Span | None:
    """What a completeness speaks for, of a series whose first row has the time first_ms.

    It ends now. Only where nothing can be said of such a window, because the audits end before it (a recording of last
    year) or the symbol was delisted by then, it ends there: ends_ms, None when neither is so. It never begins before
    the first row. None when nothing is left.
    """
    length = max(window_ms, _WINDOW_INTERVALS * (INTERVALS_MS[interval] or 31 * DAY_MS) if interval else 0)
    end = now_ms if ends_ms is None or ends_ms > now_ms - length else ends_ms
    start = max(first_ms, end - length)
    return Span(start, end) if start < end else None


# ── Score ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Part(Struct, frozen=True):
    """One part of a score. value: 0 to 1, None: not known. applies: whether it means anything for this series."""

    name: str
    value: float | None
    weight: float
    applies: bool = True


class Health(Struct, frozen=True):
    """score: 0 to 100 with two decimals, rounded down; None: not known."""

    score: float | None
    grade: Grade
    parts: tuple[Part, ...]


def health(
    *,
    completeness: float | None,
    freshness: Freshness | None,
    awaited: bool = True,
    checked: bool = True,
    rows: int | None,
    repeated: int | None,
    invalid: int | None,
) -> Health:
    """The health of one series.

    completeness: see condition.completeness. awaited: rows are due, so that freshness means something. checked: there
    are checks for such rows. rows: that were checked, None or 0 where none was; repeated and invalid: how many of them
    stand there twice, or break a check.
    """
    parts = (
        _part("completeness", completeness),
        _part("freshness", None if freshness is None else freshness.part, applies=awaited),
        _part("validity", _share_left(invalid, rows), applies=checked),
        _part("duplicates", _share_left(repeated, rows), applies=checked),
    )
    counted = [part for part in parts if part.applies]
    known = [part.weight * part.value for part in counted if part.value is not None]
    if len(known) < len(counted):
        return Health(None, "unknown", parts)
    faultless = all(part.value == 1 for part in counted)
    mean = math.fsum(known) / math.fsum(part.weight for part in counted)
    score = 100.0 if faultless else min(percent(mean), 99.99)
    return Health(score, grade(score), parts)


def grade(score: float | None) -> Grade:
    """healthy from 95, degraded from 80, unhealthy below; unknown when the score is."""
    if score is None:
        return "unknown"
    return "healthy" if score >= HEALTHY_FROM else "degraded" if score >= DEGRADED_FROM else "unhealthy"


def percent(fraction: float) -> float:
    """In per cent with two decimals, rounded down, so that 100.0 is said of the whole only."""
    if fraction >= 1:
        return 100.0
    return min(math.floor(fraction * 10_000) / 100, 99.99)


def _part(name: str, value: float | None, *, applies: bool = True) -> Part:
    return Part(name, value, WEIGHTS[name], applies)


def _share_left(bad: int | None, rows: int | None) -> float | None:
    if bad is None or not rows:
        return None
    return 1 - min(bad, rows) / rows


class Overall(Struct, frozen=True):
    """Many series at once. score: the mean of those that are known, None when none is; unknown: how many are not."""

    total: int
    healthy: int
    degraded: int
    unhealthy: int
    unknown: int
    score: float | None


def overall(series: Iterable[Health]) -> Overall:
    """What the summary of all series says."""
    every = list(series)
    grades = [one.grade for one in every]
    known = [one.score for one in every if one.score is not None]
    mean = percent(math.fsum(known) / len(known) / 100) if known else None
    return Overall(
        len(every),
        grades.count("healthy"),
        grades.count("degraded"),
        grades.count("unhealthy"),
        grades.count("unknown"),
        mean,
    )


# ── Holes over time ──────────────────────────────────────────────────────────────────────────────────────────────────


class Repair(Struct, frozen=True):
    """How long holes went unseen and unmended, on average; None: there were none.

    mttd_ms: from the first missing row's time until an audit saw the hole, over the seen ones: those in data that came
    as it happened. mttr_ms: from then until it was healed, over the healed ones.
    """

    holes: int
    seen: int
    healed: int
    mttd_ms: int | None
    mttr_ms: int | None


def repair(entries: Sequence[LedgerEntry]) -> Repair:
    """Of the ledger entries given; pieces cut from one hole count as one, healed when its last piece was."""
    roots: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        roots.setdefault(entry.root or entry.id, []).append(entry)
    seen = [
        max(0, pieces[0].found_ms - min(one.start_ms for one in pieces))
        for pieces in roots.values()
        if pieces[0].found_ms - max(one.end_ms for one in pieces) <= AS_IT_HAPPENS_MS
    ]
    mended = [
        max(0, max(one.healed_ms or 0 for one in pieces) - pieces[0].found_ms)
        for pieces in roots.values()
        if not any(one.live for one in pieces)
    ]
    return Repair(len(roots), len(seen), len(mended), _mean(seen), _mean(mended))


def repairs(series: Iterable[Repair]) -> Repair:
    """Of many series together."""
    every = list(series)
    seen, healed = sum(one.seen for one in every), sum(one.healed for one in every)
    return Repair(
        sum(one.holes for one in every),
        seen,
        healed,
        round(sum(one.seen * (one.mttd_ms or 0) for one in every) / seen) if seen else None,
        round(sum(one.healed * (one.mttr_ms or 0) for one in every) / healed) if healed else None,
    )


class ErrorBudget(Struct, frozen=True):
    """What a promise of completeness allows to be missing: fractions of the expected time. left is negative: broken."""

    promised: float
    allowed: float
    spent: float
    left: float


def error_budget(promised: float, completeness: float | None) -> ErrorBudget | None:
    """Of a promise such as 0.999; None while completeness is not known."""
    if completeness is None:
        return None
    allowed, spent = 1 - promised, 1 - completeness
    return ErrorBudget(*(round(part, _BUDGET_DIGITS) for part in (promised, allowed, spent, allowed - spent)))


def _mean(values: Sequence[int]) -> int | None:
    return round(sum(values) / len(values)) if values else None
