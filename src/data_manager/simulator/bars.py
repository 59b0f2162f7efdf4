"""Candles as rows of whole numbers: made of aggregates, and of finer candles, exactly.

A row is open_ms, open, high, low, close, volume, quote volume, count, taker buy volume, taker buy quote volume, first
and last trade id. A bar without trades is flat at the close before it, its sums 0 and its ids -1.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_manager.domain.checks.bars import opens_of
from data_manager.simulator.noise import Index
from data_manager.simulator.tape import Aggregates

OPEN_MS, OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, COUNT, BUY, BUY_QUOTE, FIRST_ID, LAST_ID = range(12)
WIDTH: Final = 12
_SUMS: Final = (VOLUME, QUOTE, COUNT, BUY, BUY_QUOTE)

Rows = NDArray[np.int64]  # shape (bars, WIDTH)


def empty() -> Rows:
    return np.empty((0, WIDTH), np.int64)


def from_aggregates(trades: Aggregates, opens: Index, length_ms: int, close_before: Callable[[], int]) -> Rows:
    """One row per open time, each length_ms long: the aggregates in them. close_before: asked if the first is flat."""
    rows = np.zeros((len(opens), WIDTH), np.int64)
    rows[:, OPEN_MS] = opens
    low = np.searchsorted(trades.at_ms, opens)
    high = np.searchsorted(trades.at_ms, opens + length_ms)
    some = np.flatnonzero(high > low)
    if len(some):
        _fill(rows, some, trades, low[some], high[some])
    return _flattened(rows, close_before)


def _fill(rows: Rows, some: Index, trades: Aggregates, low: Index, high: Index) -> None:
    edges = np.stack((low, high), axis=1).ravel()
    rows[some, OPEN] = trades.price[low]
    rows[some, CLOSE] = trades.price[high - 1]
    rows[some, HIGH] = _reduced(np.maximum, trades.price, edges)
    rows[some, LOW] = _reduced(np.minimum, trades.price, edges)
    quote = trades.price * trades.quantity
    bought = ~trades.buyer_is_maker
    sums = (trades.quantity, quote, trades.fills, trades.quantity * bought, quote * bought)
    for column, values in zip(_SUMS, sums, strict=True):
        rows[some, column] = _reduced(np.add, values, edges)
    rows[some, FIRST_ID] = trades.first_id[low]
    rows[some, LAST_ID] = trades.last_id[high - 1]


def _reduced(reduce: np.ufunc, values: Index, edges: Index) -> Index:
    padded = np.append(values, values[-1:])  # reduceat takes no edge at the very end
    reduced: Index = reduce.reduceat(padded, edges)[::2]
    return reduced


def _flattened(rows: Rows, close_before: Callable[[], int]) -> Rows:
    flat = rows[:, COUNT] == 0
    if flat.any():
        last = np.maximum.accumulate(np.where(flat, -1, np.arange(len(rows))))
        close = rows[np.maximum(last, 0), CLOSE]
        if flat[0]:
            close[last < 0] = close_before()
        for column in (OPEN, HIGH, LOW, CLOSE):
            rows[flat, column] = close[flat]
        rows[flat, FIRST_ID] = rows[flat, LAST_ID] = -1
    return rows


def coarser(rows: Rows, interval: str) -> Rows:
    """Finer rows, gathered into bars of the interval. The first and the last may be made of fewer than they should."""
    if len(rows) == 0:
        return rows
    opens = opens_of(rows[:, OPEN_MS], interval)
    first = np.flatnonzero(np.append(True, opens[1:] != opens[:-1]))
    last = np.append(first[1:], len(rows)) - 1
    made = np.empty((len(first), WIDTH), np.int64)
    made[:, OPEN_MS] = opens[first]
    made[:, OPEN] = rows[first, OPEN]
    made[:, CLOSE] = rows[last, CLOSE]
    made[:, HIGH] = np.maximum.reduceat(rows[:, HIGH], first)
    made[:, LOW] = np.minimum.reduceat(rows[:, LOW], first)
    for column in _SUMS:
        made[:, column] = np.add.reduceat(rows[:, column], first)
    never = np.iinfo(np.int64).max
    ids = np.where(rows[:, FIRST_ID] < 0, never, rows[:, FIRST_ID])
    made[:, FIRST_ID] = np.minimum.reduceat(ids, first)
    made[made[:, FIRST_ID] == never, FIRST_ID] = -1
    made[:, LAST_ID] = np.maximum.reduceat(rows[:, LAST_ID], first)
    return made


def from_samples(values: Index, opens: Index, per_bar: int) -> Rows:
    """Rows of a sampled price: per_bar samples in each bar, in order. COUNT is the number of samples."""
    rows = np.zeros((len(opens), WIDTH), np.int64)
    rows[:, OPEN_MS] = opens
    table = values.reshape(len(opens), per_bar)
    rows[:, OPEN], rows[:, CLOSE] = table[:, 0], table[:, -1]
    rows[:, HIGH], rows[:, LOW] = table.max(axis=1), table.min(axis=1)
    rows[:, COUNT] = per_bar
    return rows
