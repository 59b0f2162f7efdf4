"""Rows of one series told twice, by us and by a source or by two sources: which are missing, extra or another fact?

    held   7  8  9     11  12'
    said   7  8     10 11  12        9 is extra, 10 is missing, 12 differs, in the fields named

What was said when and by whom is no fact, and what one side leaves out is no difference. Rows that only a stream tells
of, such as the venue's placeholders for burned ids, are excused where history leaves them out.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import Batch, joined, key_parts
from data_manager.domain.proof.canonical import facts
from data_manager.domain.values.columns import Column, Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals

DIFFERENCES_MAX: Final = 1_000
"""Differences named one by one; all are counted."""

Index = NDArray[np.int64]
What = Literal["missing", "extra", "changed"]


class RowDifference(Struct, frozen=True):
    """One row in which what is held differs from what a source said; of a changed one, one field.

    missing: the source has it and we do not; extra: the other way round. key: the parts of the row's key.
    """

    what: What
    series: str
    key: tuple[Any, ...]
    at_ms: int
    field: str | None
    held: str | None
    said: str | None
    source: str


class Comparison(Struct, frozen=True, kw_only=True):
    """agreed + excused + differing = different keys on both sides. differences: of the first ones, in order of key."""

    agreed: int = 0
    excused: int = 0
    differing: int = 0
    differences: tuple[RowDifference, ...] = ()

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(
            agreed=self.agreed + other.agreed,
            excused=self.excused + other.excused,
            differing=self.differing + other.differing,
            differences=(*self.differences, *other.differences)[:DIFFERENCES_MAX],
        )


def compare(held: Batch, said: Batch, source: str) -> Comparison:
    """Both settled, of one series and of the same stretch of time. source: who said it, as differences name it."""
    names = list(dict.fromkeys((*held.dataset.key, held.dataset.time, *(field.name for field in facts(held.dataset)))))
    held, said = held.select(names), said.select(names)
    mine, theirs = _pairs(held, said)
    extra = np.setdiff1d(np.arange(len(held)), mine)
    missing = np.setdiff1d(np.arange(len(said)), theirs)
    untold = held.dataset.untold
    excused = np.zeros(len(extra), np.bool_) if untold is None else untold(held.take(extra).columns)
    fields = _unequal(held.take(mine), said.take(theirs))
    changed = np.logical_or.reduce([*fields.values(), np.zeros(len(mine), np.bool_)])
    found = [
        *_lonely("extra", held, extra[~excused], source),
        *_lonely("missing", said, missing, source),
        *_changed(held.take(mine), said.take(theirs), fields, source),
    ]
    return Comparison(
        agreed=int((~changed).sum()),
        excused=int(excused.sum()),
        differing=int(changed.sum()) + int((~excused).sum()) + len(missing),
        differences=tuple(sorted(found, key=lambda one: (one.at_ms, one.key, one.field or "")))[:DIFFERENCES_MAX],
    )


def _pairs(held: Batch, said: Batch) -> tuple[Index, Index]:
    """Positions of the rows with equal keys, in one and in the other."""
    if not len(held) or not len(said):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both = joined([held, said])
    parts = key_parts(both)
    order = np.lexsort([np.arange(len(both)), *parts[::-1]])
    equal = np.ones(len(both) - 1, np.bool_)
    for part in parts:
        equal &= part[order][1:] == part[order][:-1]
    at = np.flatnonzero(equal)
    return order[at], order[at + 1] - len(held)


def _unequal(held: Batch, said: Batch) -> dict[str, Mask]:
    """By field the pairs that both tell and tell otherwise."""
    found = {}
    for field in facts(held.dataset):
        one, other = held.columns[field.name], said.columns[field.name]
        unequal = ~one.same(other)
        if unequal.any() and field.optional:
            unequal &= _told(one) & _told(other)
        if unequal.any():
            found[field.name] = unequal
    return found


def _told(column: Column) -> Mask:
    """Mask of the rows in which the venue said something."""
    if isinstance(column, Texts):
        return np.asarray(column.codes >= 0)
    if isinstance(column, Ints | Decimals) and column.absent is not None:
        return ~column.absent
    return np.ones(len(column), np.bool_)


def _lonely(what: What, rows: Batch, at: Index, source: str) -> Iterable[RowDifference]:
    some = rows.take(at[:DIFFERENCES_MAX])
    for row in range(len(some)):
        yield RowDifference(what, rows.series[0].id, _key(some, row), int(some.time_ms[row]), None, None, None, source)


def _changed(held: Batch, said: Batch, fields: dict[str, Mask], source: str) -> Iterable[RowDifference]:
    for name, unequal in fields.items():
        for row in np.flatnonzero(unequal)[:DIFFERENCES_MAX].tolist():
            one, other = (_shown(batch.columns[name], row) for batch in (held, said))
            moment = int(held.time_ms[row])
            yield RowDifference("changed", held.series[0].id, _key(held, row), moment, name, one, other, source)


def _key(rows: Batch, row: int) -> tuple[Any, ...]:
    return tuple(_value(rows.columns[name], row) for name in rows.dataset.key)


def _shown(column: Column, row: int) -> str:
    return str(_value(column, row))


def _value(column: Column, row: int) -> Any:
    return column.take(slice(row, row + 1)).values_list()[0]
