"""Conflicting revisions: rows that were replaced, and what they said otherwise."""

import numpy as np

from data_manager.domain.batch import Batch, joined, key_parts
from data_manager.domain.checks.crosscheck import Difference
from data_manager.domain.proof.canonical import facts
from data_manager.domain.values.columns import Texts


def conflicts(held: Batch, revised: Batch) -> list[Difference]:
    """Every field in which a row that was replaced differs from the row that is held under its key.

    held, revised: of one series, with equal columns; a key may stand several times among the revised ones. computed is
    what the older row said, source its origin. Rows whose key is not held are passed over.
    """
    if not len(held) or not len(revised):
        return []
    whole = joined([held, revised])
    parts = key_parts(whole)
    order = np.lexsort(parts[::-1])  # stable: of equal keys the held one comes first
    fresh = np.ones(len(whole), np.bool_)
    fresh[1:] = np.logical_or.reduce([part[order][1:] != part[order][:-1] for part in parts])
    partner = np.empty(len(whole), np.int64)
    partner[order] = order[np.maximum.accumulate(np.where(fresh, np.arange(len(whole)), 0))]
    rows = np.arange(len(held), len(whole))
    rows = rows[partner[rows] < len(held)]
    old, new = whole.take(rows), whole.take(partner[rows])
    found = []
    for place, field in enumerate(facts(held.dataset)):
        unequal = np.flatnonzero(~old.columns[field.name].same(new.columns[field.name]))
        found += [(row, place, field.name) for row in unequal.tolist()]
    return [_told(old, new, row, name) for row, _, name in sorted(found)]


def _told(old: Batch, new: Batch, row: int, name: str) -> Difference:
    at = slice(row, row + 1)
    origin = old.columns["origin"].take(at)
    assert isinstance(origin, Texts)
    moment = int(old.time_ms[row])
    said, says = (batch.columns[name].take(at).values_list()[0] for batch in (old, new))
    source = str(origin.values_list()[0])
    return Difference(new.series[0].id, name, moment, moment + 1, str(says), str(said), source)
