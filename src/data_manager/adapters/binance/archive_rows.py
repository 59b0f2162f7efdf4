"""Lines of an archive's table as columns of a batch: text → int64, exact numbers and flags, never through a float.

What differs from file to file is found by looking: a header or none, milliseconds or microseconds, true or True, more
columns than we read. A line that cannot be read is refused and does not spoil the file.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import Batch, Packed, checked
from data_manager.domain.dataset import Field, Keep, Kind, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.time import EARLIEST_MS, HOUR_MS, LATEST_MS
from data_manager.domain.values.columns import Column, Flags, Ints, Mask, Texts
from data_manager.domain.values.decimals import Decimals, parse_array

REFUSED_MAX: Final = 100
"""Refused rows that a piece tells one by one."""

Lines = Mapping[int, Any]
"""Columns of the table by position, as Arrow arrays of text."""


class Layout(Struct, frozen=True):
    """Where a file's columns belong. places: by column of the dataset, its position in the file.

    time: position of the row's time. times: columns that hold one. derived: columns that follow from others.
    """

    places: Mapping[str, int]
    time: int
    times: frozenset[str]
    derived: Mapping[str, Callable[[dict[str, Column]], Column]] = {}

    @property
    def read(self) -> list[int]:
        """Positions that are read, ascending."""
        return sorted({self.time, *self.places.values()})


def _funding_slots(columns: dict[str, Column]) -> Column:
    """The full hour nearest to the settlement, which jitters by milliseconds."""
    settled = columns["funding_ms"]
    assert isinstance(settled, Ints)
    return Ints((settled.values + HOUR_MS // 2) // HOUR_MS * HOUR_MS)


_CANDLES: Final = {
    "open_ms": 0, "open": 1, "high": 2, "low": 3, "close": 4, "volume": 5, "close_ms": 6, "quote_volume": 7,
    "trades": 8, "taker_buy_volume": 9, "taker_buy_quote_volume": 10,
}  # fmt: skip

LAYOUTS: Final[Mapping[str, Layout]] = {
    "klines": Layout(
        _CANDLES, 0, frozenset(("open_ms", "close_ms")),
        {"closed": lambda columns: Flags(np.ones(len(columns["open_ms"]), np.bool_))},
    ),
    "aggTrades": Layout(
        {"agg_id": 0, "price": 1, "quantity": 2, "first_trade_id": 3, "last_trade_id": 4, "traded_ms": 5,
         "buyer_is_maker": 6},
        5, frozenset(("traded_ms",)),
    ),
    "trades": Layout(
        {"trade_id": 0, "price": 1, "quantity": 2, "traded_ms": 4, "buyer_is_maker": 5}, 4, frozenset(("traded_ms",))
    ),
    "markPriceKlines": Layout({"event_ms": 6, "mark_price": 4}, 6, frozenset(("event_ms",))),
    "indexPriceKlines": Layout({"event_ms": 6, "mark_price": 4}, 6, frozenset(("event_ms",))),
    "fundingRate": Layout(
        {"funding_ms": 0, "funding_rate": 2}, 0, frozenset(("funding_ms",)),
        {
            "slot_ms": _funding_slots,
            "rate_type": lambda columns: Texts.constant("Regular", len(columns["funding_ms"])),
        },
    ),
}  # fmt: skip
"""By the archive's folder."""


class Origin(Struct, frozen=True):
    """Whose rows these are, who brought them and when, and the unit of their times: so many are a millisecond.

    revised_ms: when a later version of the file said so, which outranks what earlier ones said.
    """

    series: Series
    word: str
    received_ms: int
    per_ms: int
    revised_ms: int | None = None


def unit_of(value: int) -> int | None:
    """How many units of a time are a millisecond, by its size; None where it is no time of our age in any of them."""
    return next((per for per in (1, 1_000, 1_000_000) if EARLIEST_MS <= value // per < LATEST_MS), None)


def batch_of(lines: Lines, layout: Layout, origin: Origin) -> Packed:
    """Rows of the lines that can be facts, settled; the others refused, the first REFUSED_MAX of them one by one."""
    dataset = DATASETS[origin.series.dataset]
    columns: dict[str, Column] = {}
    broken: dict[int, tuple[str, str]] = {}
    count = len(lines[layout.time])
    for field in dataset.fields:
        if (place := layout.places.get(field.name)) is not None:
            columns[field.name], bad = _column(field, lines[place])
            if field.name in layout.times and origin.per_ms != 1:
                columns[field.name] = _scaled(columns[field.name], origin.per_ms)
            for row, rule in bad.items():
                broken.setdefault(row, (field.name, rule))
        elif field.name not in layout.derived:
            columns[field.name] = _told_by_us(field, count, origin, dataset.on_conflict)
    columns |= {name: derive(columns) for name, derive in layout.derived.items()}
    ordered = {field.name: columns[field.name] for field in dataset.fields}

    def told(row: int, name: str) -> object:
        place = layout.places.get(name)
        return None if place is None else lines[place][row].as_py()

    return checked(Batch(dataset, (origin.series,), np.zeros(count, np.int32), ordered), broken, told, REFUSED_MAX)


def _column(field: Field, texts: Any) -> tuple[Column, dict[int, str]]:
    match field.kind:
        case Kind.INT:
            return whole_numbers(texts)
        case Kind.FLAG:
            return _flags(texts)
        case _:
            assert field.kind is Kind.NUMBER, f"no archive tells {field.name}"
            return parse_array(texts, None)


def whole_numbers(texts: Any) -> tuple[Ints, dict[int, str]]:
    """Texts as int64; what is none stands as 0 and is told by row."""
    try:
        return Ints(_numpy(pc.cast(texts, pa.int64()))), {}
    except pa.ArrowInvalid:
        plain = pc.match_substring_regex(texts, r"^-?[0-9]{1,18}$")
        values = _numpy(pc.cast(pc.if_else(plain, texts, pa.scalar("0")), pa.int64()))
        bad = np.flatnonzero(~_numpy(plain)).tolist()
        return Ints(values), dict.fromkeys(bad, "must be a whole number")


def _flags(texts: Any) -> tuple[Flags, dict[int, str]]:
    words = pc.utf8_lower(texts)
    yes, no = _numpy(pc.equal(words, "true")), _numpy(pc.equal(words, "false"))
    return Flags(yes), dict.fromkeys(np.flatnonzero(~(yes | no)).tolist(), "must be true or false")


def _told_by_us(field: Field, count: int, origin: Origin, keep: Keep) -> Column:
    """A column the archive does not have: ours, or absent."""
    if field.name == "event_ms" and keep is Keep.FINAL and origin.revised_ms is not None:
        return Ints(np.full(count, origin.revised_ms, np.int64))
    if field.name == "origin":
        return Texts.constant(origin.word, count)
    if field.name == "received_ms":
        return Ints(np.full(count, origin.received_ms, np.int64))
    assert field.optional, f"every archive must tell {field.name}"
    absent: Mask = np.ones(count, np.bool_)
    match field.kind:
        case Kind.INT:
            return Ints(np.zeros(count, np.int64), absent)
        case Kind.TEXT:
            return Texts(np.full(count, -1, np.int32), ())
        case _:
            return Decimals(np.zeros(count, np.int64), 0, {}, absent)


def _scaled(column: Column, per_ms: int) -> Ints:
    assert isinstance(column, Ints)
    return Ints(column.values // per_ms)


def _numpy(array: Any) -> NDArray[Any]:
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values.copy() if not values.flags.writeable else values
