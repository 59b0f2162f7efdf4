"""Batch: the rows of one dataset as columns, over one or many series.

    codes    0 0 0 0 1 1 2 2 2        which series a row belongs to, into `series`
    key      7 8 9 12 3 4 1 2 5       ascending inside a series
    price    …                        one column per field of the dataset

pack() turns events into a settled batch, checked() columns that came as such; settle() sorts and leaves one row per
key, by the dataset's Keep rule. Every batch that leaves this module is sorted by series and key and holds no key twice.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple
from numpy.typing import NDArray

from data_manager.domain.dataset import Dataset, Field, Keep, Kind, Series
from data_manager.domain.errors import Invalid
from data_manager.domain.events import Event
from data_manager.domain.values.columns import Column, Flags, Floats, Index, Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals, parse_all, parse_decimals
from data_manager.domain.values.levels import parse_levels

STREAM = "stream"
"""Origin of rows that came live over the bus. Everything else is history: rest:…, archive:…, job:…."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one dataset. Rows of a series stand together, in the order of `series`."""

    dataset: Dataset
    series: tuple[Series, ...]
    codes: NDArray[np.int32]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def key(self) -> NDArray[np.int64]:
        """First part of the natural key."""
        return self._ints(self.dataset.key[0])

    @cached_property
    def time_ms(self) -> NDArray[np.int64]:
        """The column that the times of a query mean."""
        return self._ints(self.dataset.time)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each series begins; one more than there are series."""
        return np.searchsorted(self.codes, np.arange(len(self.series) + 1)).astype(np.int64)

    @property
    def size_bytes(self) -> int:
        """Memory its arrays take, roughly."""
        return self.codes.nbytes + sum(column.size_bytes for column in self.columns.values())

    def _ints(self, name: str) -> NDArray[np.int64]:
        column = self.columns[name]
        assert isinstance(column, Ints)
        return column.values

    def take(self, rows: Index | slice | Mask) -> "Batch":
        """Those rows; the caller keeps them in order."""
        index: Any = np.flatnonzero(rows) if isinstance(rows, np.ndarray) and rows.dtype == np.bool_ else rows
        columns = {name: column.take(index) for name, column in self.columns.items()}
        return Batch(self.dataset, self.series, self.codes[index], columns)

    def of(self, position: int) -> "Batch":
        """The rows of one series, as a batch of that series alone."""
        rows = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        count = rows.stop - rows.start
        return Batch(self.dataset, (self.series[position],), np.zeros(count, np.int32), columns)

    def split(self) -> Iterator["Batch"]:
        """The rows of each series on their own."""
        return (self.of(position) for position in range(len(self.series)))

    def select(self, names: Sequence[str]) -> "Batch":
        """The same rows with only those columns."""
        return Batch(self.dataset, self.series, self.codes, {name: self.columns[name] for name in names})

    def rows(self) -> list[dict[str, Any]]:
        """Python values, row by row: for people and tests, not for speed."""
        names = list(self.columns)
        lists = [column.values_list() for column in self.columns.values()]
        return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]


class Refused(Struct, frozen=True):
    """A row that broke a rule: its position among the events given, and what to tell its sender."""

    position: int
    why: Invalid


class Packed(Struct, frozen=True):
    """pack()'s answer. events given = rows in batch + repeated + refused + untold."""

    batch: Batch
    repeated: int  # rows with a key that another row of the same events has
    refused: list[Refused]
    untold: int = 0  # rows refused beyond those that are told one by one


def pack(dataset: Dataset, market: str, events: Sequence[Event], received_ms: Sequence[int], origin: str) -> Packed:
    """Events of one dataset as a settled batch; rows that cannot be facts are refused, each with its rule."""
    told = _told(dataset, events)
    columns, broken = _columns(dataset, told)
    columns["received_ms"] = Ints(np.array(received_ms, np.int64))
    columns["origin"] = Texts.constant(origin, len(events))
    series, codes = _series(dataset, market, told)
    return checked(Batch(dataset, series, codes, columns), broken, lambda row, name: getattr(events[row], name))


Told = Callable[[int, str], object]
"""What the sender of a row said of a column: row and column in, the value as it came out."""


def checked(batch: Batch, broken: Mapping[int, tuple[str, str]], told: Told, refused_max: int | None = None) -> Packed:
    """Those rows of a batch that can be facts, settled. Any order of rows will do, and any key may stand there twice.

    broken: by row, the column whose value it could not hold and the rule for such values. The rules of the dataset are
    applied here. refused_max: at most so many are told; all are left out.
    """
    wrong = dict(broken)
    for rule in batch.dataset.rules:
        for row in np.flatnonzero(rule.broken(batch.columns)).tolist():
            wrong.setdefault(row, (rule.field, rule.text))
    refused = [
        Refused(row, _invalid(batch, row, name, rule, told)) for row, (name, rule) in islice(wrong.items(), refused_max)
    ]
    if wrong:
        kept = np.ones(len(batch), np.bool_)
        kept[list(wrong)] = False
        batch = batch.take(kept)
    settled = settle(batch)
    return Packed(settled, len(batch) - len(settled), refused, len(wrong) - len(refused))


def _columns(
    dataset: Dataset, told: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Column], dict[int, tuple[str, str]]]:
    """The columns of what events told, by field, and by row the first column whose value it cannot hold."""
    own = dataset.fields[:-2]
    numbers = [field.name for field in own if field.kind is Kind.NUMBER]
    parsed: dict[str, tuple[Column, dict[int, str]]] = {}
    parsed.update(zip(numbers, parse_all([told[name] for name in numbers]), strict=True))
    columns: dict[str, Column] = {}
    broken: dict[int, tuple[str, str]] = {}
    for field in own:
        columns[field.name], bad = parsed.get(field.name) or build(field, told[field.name])
        for row, rule in bad.items():
            broken.setdefault(row, (field.name, rule))
    return columns, broken


def _told(dataset: Dataset, events: Sequence[Event]) -> dict[str, list[Any]]:
    """By field what each event says. The classes of one dataset's events have the same fields in the same order."""
    names = dataset.event.__struct_fields__
    values = list(chain.from_iterable(map(astuple, events)))
    return {name: values[at :: len(names)] for at, name in enumerate(names)}


def build(field: Field, values: Sequence[Any]) -> tuple[Column, dict[int, str]]:
    """The column of a field from Python values, and by row the rule a value breaks."""
    match field.kind:
        case Kind.INT:
            return Ints.of(values), {}
        case Kind.NUMBER:
            return parse_decimals(values)
        case Kind.TEXT:
            return Texts.of(values), {}
        case Kind.FLAG:
            return Flags.of(values), {}
        case Kind.LEVELS:
            return parse_levels(values)
        case Kind.FLOAT:
            return Floats.of(values), {}


def _invalid(batch: Batch, row: int, name: str, rule: str, told: Told) -> Invalid:
    series = batch.series[batch.codes[row]]
    interval = f" {series.interval}" if series.interval else ""
    subject = f"{series.dataset} {series.symbol}{interval} {told(row, batch.dataset.key[0])}"
    why = Invalid(name, told(row, name), rule)
    why.args = (f"{subject}: {why.args[0]}",)
    return why


def _series(
    dataset: Dataset, market: str, told: Mapping[str, Sequence[Any]]
) -> tuple[tuple[Series, ...], NDArray[np.int32]]:
    """The series the events belong to, sorted, and each event's position among them."""
    symbols = told["symbol"]
    names = list(zip(symbols, told["interval"], strict=True)) if dataset.has_interval else symbols
    positions = {name: position for position, name in enumerate(sorted(set(names)))}
    codes = np.fromiter(map(positions.__getitem__, names), np.int32, len(names))
    if dataset.has_interval:
        return tuple(Series(market, dataset.name, symbol, interval) for symbol, interval in positions), codes
    return tuple(Series(market, dataset.name, symbol) for symbol in positions), codes


def empty(dataset: Dataset, series: Sequence[Series] = (), names: Sequence[str] | None = None) -> Batch:
    """No rows."""
    fields = dataset.fields if names is None else [dataset.field[name] for name in names]
    columns = {field.name: build(field, [])[0] for field in fields}
    return Batch(dataset, tuple(series), np.zeros(0, np.int32), columns)


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of all batches (same dataset, same columns), series by series, not yet settled.

    Rows of an earlier batch come before those of a later one inside a series.
    """
    if len(batches) == 1:
        return batches[0]
    series = tuple(sorted({one for batch in batches for one in batch.series}))
    position = {one: code for code, one in enumerate(series)}
    codes = (
        np.zeros(sum(map(len, batches)), np.int32)
        if len(series) == 1
        else np.concatenate(
            [np.array([position[one] for one in batch.series], np.int32)[batch.codes] for batch in batches]
        )
    )
    columns: dict[str, Column] = {
        name: type(column).joined([batch.columns[name] for batch in batches])
        for name, column in batches[0].columns.items()
    }
    return Batch(batches[0].dataset, series, codes, columns)


def settle(batch: Batch) -> Batch:
    """The same rows sorted by series and key, one per key: which one stays is the dataset's Keep rule.

    FIRST keeps the earliest given. FINAL keeps the highest rank (see ranks), then the latest event_ms, then the
    earliest given; so with FINAL the order in which rows are given does not matter. Live rows are states, not facts:
    those of one key with different event_ms all stay, oldest first, after the row that closed it.
    """
    if _is_settled(batch):
        return batch
    live = live_rows(batch)
    parts: list[NDArray[Any]] = [*key_parts(batch)[::-1], batch.codes]
    if batch.dataset.on_conflict is Keep.FINAL:
        event_ms = event_ms_of(batch)
        parts = [np.where(live, event_ms, -event_ms), -ranks(batch), *parts]
    order = np.lexsort(parts)
    ordered = batch.take(order)
    repeats = same_key_as_before(ordered)
    if live.any():
        repeats[1:] &= ~live[order][1:] | (live[order][:-1] & (np.diff(event_ms_of(ordered)) == 0))
    return ordered.take(~repeats) if repeats.any() else ordered


def event_ms_of(batch: Batch) -> NDArray[np.int64]:
    """The venue's time of every row, -1 where it named none."""
    column = batch.columns["event_ms"]
    assert isinstance(column, Ints)
    return column.filled(-1)


def ranks(batch: Batch) -> NDArray[np.int64]:
    """How final each row is: 0 may still change, 1 streamed, 2 from history, 3 from a reconciliation."""
    origin = batch.columns["origin"]
    assert isinstance(origin, Texts)
    by_word = np.array([1 if word == STREAM else 3 if word.startswith("reconcile") else 2 for word in origin.words])
    rank: NDArray[np.int64] = by_word[origin.codes].astype(np.int64) if len(by_word) else np.zeros(len(batch), np.int64)
    return np.where(live_rows(batch), 0, rank)


def live_rows(batch: Batch) -> Mask:
    """Mask of the rows that may still change (an open candle) and are therefore no data yet."""
    if batch.dataset.live is None:
        return np.zeros(len(batch), np.bool_)
    flag = batch.columns[batch.dataset.live]
    assert isinstance(flag, Flags)
    return ~flag.values


def same_key_as_before(batch: Batch) -> Mask:
    """Mask of the rows that share series and whole key with the row before them."""
    same = np.zeros(len(batch), np.bool_)
    if len(batch) > 1:
        same[1:] = batch.codes[1:] == batch.codes[:-1]
        for part in key_parts(batch):
            same[1:] &= part[1:] == part[:-1]
    return same


def _is_settled(batch: Batch) -> bool:
    """Whether rows are already sorted with no first key twice: the common case, found out cheaply."""
    if len(batch) < 2:
        return True
    step = np.diff(batch.codes)
    return bool(((step > 0) | ((step == 0) & (np.diff(batch.key) > 0))).all())


def key_parts(batch: Batch) -> list[NDArray[np.int64]]:
    """The key's parts as integers that order and compare like them inside this batch."""
    return [_ordinal(batch.columns[name]) for name in batch.dataset.key]


_EXACT = Context(prec=120)  # more digits than any number of ours has: the default of 28 would make two keys one
_ZERO = Decimal(0)  # -0 is no other number


def _ordinal(column: Column) -> NDArray[np.int64]:
    if isinstance(column, Ints):
        return column.values
    values = column.values_list()
    if isinstance(column, Decimals):
        values = [format(_EXACT.normalize(column.decimal(row) or _ZERO), "f") for row in range(len(column))]
    order = {value: position for position, value in enumerate(sorted(set(values)))}
    return np.array([order[value] for value in values], np.int64)
