"""Which rows of a batch are new, which change what is held, and which we have already.

fast path     the row's key lies beyond the last one of its series: new, without looking
slower path   it does not: look up the held rows of that key range (recent rows or decoded chunks, mostly cached)

Same Receipt either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_manager.domain.batch import Batch, event_ms_of, joined, key_parts, live_rows, ranks
from data_manager.domain.dataset import Keep, Series
from data_manager.domain.values.columns import Mask
from data_manager.ports import Receipt

NO_KEY = np.iinfo(np.int64).min
"""Stands for the last key of a series that holds nothing."""

Held = Callable[[Series, int, int, bool], Batch]
"""Held rows of a series with first keys from … to … inclusive; whole rows, or only their keys when the flag is set."""


@dataclass(frozen=True)
class Accepted:
    """What is to be written for one batch, and the receipt that is true once it is."""

    rows: Batch
    receipt: Receipt
    replaced: list[Batch] = field(default_factory=list)  # rows as they were, one series each
    live: dict[Series, Batch | None] = field(default_factory=dict)  # new live rows; None: the row was closed


def accept(batch: Batch, last_keys: NDArray[np.int64], held: Held, live: Mapping[Series, Batch]) -> Accepted:
    """Sort the rows of a settled batch. last_keys: of each of its series, NO_KEY when it holds nothing."""
    open_rows = live_rows(batch)
    fresh = (batch.key > last_keys[batch.codes]) & ~open_rows
    kept = fresh.copy()
    changed = 0
    replaced: list[Batch] = []
    to_look_up = ~fresh & ~open_rows
    for position in np.unique(batch.codes[to_look_up]).tolist() if to_look_up.any() else ():
        rows = np.flatnonzero((batch.codes == position) & to_look_up)
        kept[rows], old = _against_held(batch.take(rows), batch.series[position], held)
        if len(old):
            changed += len(old)
            replaced.append(old)
    live_changes = _live_changes(batch, open_rows, last_keys, live) if batch.dataset.live else {}
    live_count = sum(count for count, _ in live_changes.values())
    new = int(kept.sum()) - changed
    receipt = Receipt(new, changed + live_count, len(batch) - new - changed - live_count)
    rows_kept = batch if kept.all() else batch.take(kept)
    return Accepted(rows_kept, receipt, replaced, {series: row for series, (_, row) in live_changes.items()})


def _against_held(given: Batch, series: Series, held: Held) -> tuple[Mask, Batch]:
    """Mask of the given rows (of one series) to keep, and the held rows they replace."""
    dataset = given.dataset
    low, high = int(given.key.min()), int(given.key.max())
    if dataset.on_conflict is Keep.FIRST and len(dataset.key) == 1:
        known = held(series, low, high, True)
        return ~np.isin(given.key, known.key), known.take(slice(0, 0))
    known = held(series, low, high, False)
    mine, theirs = _pairs(given, known)
    keep = np.ones(len(given), np.bool_)
    keep[mine] = False
    if dataset.on_conflict is Keep.FIRST or not len(mine):
        return keep, known.take(slice(0, 0))
    better = _better(given.take(mine), known.take(theirs))
    keep[mine[better]] = True
    return keep, known.take(theirs[better])


def _pairs(given: Batch, known: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the rows that share their whole key: in given, and in known."""
    if not len(known):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing
    both = joined([known, given])
    parts = key_parts(both)
    order = np.lexsort([np.arange(len(both)), *parts[::-1]])
    equal = np.ones(len(both) - 1, np.bool_)
    for part in parts:
        equal &= part[order][1:] == part[order][:-1]
    first = np.flatnonzero(equal)
    return order[first + 1] - len(known), order[first]


def _better(given: Batch, known: Batch) -> Mask:
    """Per pair: the given row is more final than the known one and says something else."""
    given_rank, known_rank = ranks(given), ranks(known)
    later = event_ms_of(given) > event_ms_of(known)
    better: Mask = (given_rank > known_rank) | ((given_rank == known_rank) & later)
    unlike = np.zeros(len(given), np.bool_)
    for name, column in given.columns.items():
        if name not in ("received_ms", "origin", "event_ms"):
            unlike |= ~column.same(known.columns[name])
    return better & unlike


def _live_changes(
    batch: Batch, open_rows: Mask, last_keys: NDArray[np.int64], live: Mapping[Series, Batch]
) -> dict[Series, tuple[int, Batch | None]]:
    """Per series whose live row changes: how many rows were newer than the one before, and the one to hold now.

    A state counts although the same batch closes its candle: it came first.
    """
    changes: dict[Series, tuple[int, Batch | None]] = {}
    for position, series in enumerate(batch.series):
        rows = batch.of(position)
        is_open = open_rows[batch.offsets[position] : batch.offsets[position + 1]]
        newer = is_open & (rows.key > last_keys[position])
        held = live.get(series)
        if held is not None:
            held_key, held_ms = int(held.key[0]), int(event_ms_of(held)[0])
            newer &= (rows.key > held_key) | ((rows.key == held_key) & (event_ms_of(rows) > held_ms))
        newest = rows.take(np.flatnonzero(newer)[-1:]) if newer.any() else held
        if newest is not None:
            closed_until = int(rows.key[~is_open].max(initial=last_keys[position]))
            now = newest if int(newest.key[0]) > closed_until else None
            if newer.any() or now is not held:
                changes[series] = int(newer.sum()), now
    return changes
