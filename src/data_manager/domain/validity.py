"""What rows must satisfy before we keep them: columns in, a mask of the broken rows out.

Only what cannot be a fact is refused here. What is merely odd (a crossed book, a spike, a clock some hours ahead of
ours) is kept and left to the audit, which reports it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Final

import numpy as np

from data_manager.domain.dataset import Dataset, Rule
from data_manager.domain.events import Event
from data_manager.domain.time import DAY_MS
from data_manager.domain.values.columns import Texts
from data_manager.domain.values.decimals import Decimals

Columns = Mapping[str, Any]

AHEAD_MAX_MS: Final = DAY_MS
AHEAD: Final = "must not lie more than a day after the moment we received it"
"""What has not happened cannot be told. The past is never too long ago: recordings are replayed years later."""


def positive(column: str) -> Rule:
    """The number is above 0."""
    return Rule(column, "must be above 0", lambda columns: _signs(columns[column]) <= 0)


def not_negative(column: str) -> Rule:
    """The number is 0 or above; absent is allowed."""
    return Rule(column, "must not be negative", lambda columns: _signs(columns[column]) < 0)


def positive_unless_placeholder(column: str, quantity: str) -> Rule:
    """The price is above 0, or both price and quantity are 0: the venue's placeholder for a burned trade id."""

    def broken(columns: Columns) -> Any:
        price = _signs(columns[column])
        return (price < 0) | ((price == 0) & (_signs(columns[quantity]) != 0))

    return Rule(column, "must be above 0 (0 only together with quantity 0)", broken)


def at_least(high: str, low: str) -> Rule:
    """high >= low, exactly; rows where either is absent pass."""
    return Rule(high, f"must not be below {low}", lambda columns: columns[high].compare(columns[low]) < 0)


def before(earlier: str, later: str) -> Rule:
    """The first time lies before the second."""
    return Rule(earlier, f"must lie before {later}", lambda columns: columns[earlier].values >= columns[later].values)


def near(column: str, other: str) -> Rule:
    """Two clocks of one fact agree within a day; absent passes. Catches a unit switch the bounds let through."""

    def broken(columns: Columns) -> Any:
        one, two = columns[column], columns[other]
        return (abs(one.values - two.values) > DAY_MS) & one.present & two.present

    return Rule(column, f"must lie within a day of {other}", broken)


def priced_levels(column: str) -> Rule:
    """Every level of a book side has a price above 0 and a quantity of 0 or more."""

    def broken(columns: Columns) -> Any:
        levels = columns[column]
        return levels.any_row((_signs(levels.prices) <= 0) | (_signs(levels.quantities) < 0))

    return Rule(column, "every level needs a price above 0 and a quantity that is not negative", broken)


def burned_or_internal(columns: Columns) -> Any:
    """Trades that a stream tells of and history may leave out: placeholders for burned ids, and the venue's own fills.

    Those are fills of the insurance fund and of deleveraging; history does not tell the kind of a fill.
    """
    kind = columns["kind"]
    assert isinstance(kind, Texts)
    internal = np.array([*(word not in _MARKET for word in kind.words), False])[kind.codes]
    return internal | ((_signs(columns["price"]) == 0) & (_signs(columns["quantity"]) == 0))


_MARKET: Final = ("MARKET", "")


def _signs(column: Decimals) -> Any:
    return column.signs()


def from_the_future(dataset: Dataset, events: Sequence[Event], received_ms: Sequence[int]) -> dict[int, str]:
    """Positions of events whose own time lies more than a day after we received them, each with the column to blame.

    Only the time of the row and the time of its sending count: a next funding time, say, is to come by its nature.
    """
    found: dict[int, str] = {}
    latest_ms = min(received_ms, default=0) + AHEAD_MAX_MS
    for column in _own_times(dataset):
        times = list(map(attrgetter(column), events))
        if max(filter(None, times), default=0) <= latest_ms:
            continue  # the quick answer for nearly every call
        for position, (time_ms, at_ms) in enumerate(zip(times, received_ms, strict=True)):
            if time_ms is not None and time_ms > at_ms + AHEAD_MAX_MS:
                found.setdefault(position, column)
    return found


@cache
def _own_times(dataset: Dataset) -> tuple[str, ...]:
    """The row's time, and when it was sent where no rule ties that to the row's time."""
    tied = any(rule.field == "event_ms" for rule in dataset.rules)
    sent = () if tied or "event_ms" not in dataset.field else ("event_ms",)
    return tuple(dict.fromkeys((dataset.time, *sent)))
