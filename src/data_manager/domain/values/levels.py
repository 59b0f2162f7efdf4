"""Book sides as columns: any number of (price, quantity) pairs per row, exact like every number here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import DecodeError, Raw
from msgspec.json import Decoder as JsonDecoder
from msgspec.json import Encoder as JsonEncoder
from numpy.typing import NDArray

from data_manager.domain.values.columns import Index, Mask
from data_manager.domain.values.decimals import Decimals, narrow_scales, parse_array
from data_manager.domain.values.numerals import read_plain


@dataclass(frozen=True, eq=False)
class Levels:
    """Book sides: per row any number of (price, quantity) pairs, held as two flat columns and the counts."""

    counts: NDArray[np.int32]
    prices: Decimals
    quantities: Decimals

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row's pairs begin in the flat columns; one more than rows."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def take(self, rows: Index | slice) -> "Levels":
        starts, counts = self.offsets[:-1][rows], self.counts[rows]
        if isinstance(rows, slice) and rows.step in (None, 1) and len(counts):
            flat: Index | slice = slice(int(starts[0]), int(starts[-1] + counts[-1]))
        else:
            before = np.cumsum(counts, dtype=np.int64) - counts
            flat = np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
        return Levels(counts, self.prices.take(flat), self.quantities.take(flat))

    @classmethod
    def joined(cls, parts: Sequence["Levels"]) -> "Levels":
        return cls(
            np.concatenate([part.counts for part in parts]),
            Decimals.joined([part.prices for part in parts]),
            Decimals.joined([part.quantities for part in parts]),
        )

    @property
    def size_bytes(self) -> int:
        return self.counts.nbytes + self.prices.size_bytes + self.quantities.size_bytes

    def any_row(self, flat: Mask) -> Mask:
        """Per row: whether any of its pairs is set in a mask over all pairs."""
        rows = np.repeat(np.arange(len(self)), self.counts)
        hit = np.zeros(len(self), np.bool_)
        hit[rows[flat]] = True
        return hit

    def same(self, other: "Levels") -> Mask:
        equal: Mask = self.counts == other.counts
        rows = np.flatnonzero(equal)
        one, two = self.take(rows), other.take(rows)
        unlike = one.any_row(~(one.prices.same(two.prices) & one.quantities.same(two.quantities)))
        equal[rows[unlike]] = False
        return equal

    def values_list(self) -> list[Any]:
        pairs = list(zip(self.prices.values_list(), self.quantities.values_list(), strict=True))
        offsets = self.offsets.tolist()
        return [pairs[start:end] for start, end in pairwise(offsets)]

    def arrow(self) -> pa.Array:
        pairs = pa.StructArray.from_arrays([self.prices.arrow(), self.quantities.arrow()], names=["price", "quantity"])
        return pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pairs)


def parse_levels(rows: Sequence[Any]) -> tuple[Levels, dict[int, str]]:
    """Book sides from pairs of texts or from the JSON text of such, and by row the rule that it breaks."""
    return _parse_plain(rows) or _parse_each(rows)


def _parse_plain(rows: Sequence[Any]) -> tuple[Levels, dict[int, str]] | None:
    """All sides at once; None unless all are written as the venue writes them.

    Joined by bars, their quotes say how many levels each has, and whether what is not a digit is in its place is one
    comparison.
    """
    try:
        joined = b"|".join([side if isinstance(side, Raw) else _ENCODE(side) for side in rows])
    except UnicodeEncodeError:
        return None
    text = np.frombuffer(joined, np.uint8)
    ends = np.append(np.flatnonzero(text == _BAR), len(text))
    if len(ends) != len(rows):
        return None
    quotes = np.searchsorted(np.flatnonzero(text == _QUOTE), ends)
    counts = np.diff(quotes, prepend=0) // 4
    if joined.translate(None, _NUMERIC) != b"|".join(map(_skeleton, counts.tolist())):
        return None
    flat = joined.translate(None, b'[]"')
    flat = b",".join(filter(None, flat.split(b"|"))) if (counts == 0).any() else flat.replace(b"|", b",")
    plain = read_plain(flat, 2 * int(counts.sum()))
    if plain is None:
        return None
    mantissas, scales = plain
    prices, quantities = (Decimals(mantissas[at::2], narrow_scales(scales[at::2])) for at in (0, 1))
    return Levels(counts.astype(np.int32), prices, quantities), {}


def _parse_each(rows: Sequence[Any]) -> tuple[Levels, dict[int, str]]:
    sides = [_side_text(row) for row in rows]
    misshapen = {row: _SIDE_RULE for row, text in enumerate(sides) if text is None}
    counts = np.array([(text.count(b",") + 1) // 2 if text else 0 for text in sides], np.int32)
    joined = b",".join(text for text in sides if text)
    flat = (
        pc.split_pattern(pa.array([joined.decode()], pa.string()), ",").values if joined else pa.array([], pa.string())
    )
    numbers, bad = parse_array(flat, None)
    levels = Levels(counts, _narrowed(numbers.take(slice(0, None, 2))), _narrowed(numbers.take(slice(1, None, 2))))
    rows_of_bad = np.searchsorted(levels.offsets, np.array(list(bad), np.int64) // 2, side="right") - 1
    broken = {row: f"every level {rule}" for row, rule in zip(rows_of_bad.tolist(), bad.values(), strict=True)}
    return levels, {**broken, **misshapen}


_SIDE_RULE = "must be a list of [price, quantity] pairs of decimal texts"
_SIDE = JsonDecoder(list[tuple[str, str]])
_ENCODE = JsonEncoder().encode
_NUMERIC = b"0123456789.-"
_BAR, _QUOTE = b'|"'


def plain_levels(side: bytes | Raw) -> int | None:
    """How many levels a book side's JSON text has, when it is written as the venue writes it: [["1.5","2"],…].

    None for anything else: other blanks, exponents, other shapes.
    """
    skeleton = bytes(side).translate(None, _NUMERIC)
    count = len(skeleton) // 8
    return count if skeleton == _skeleton(count) else None


@lru_cache(maxsize=2_048)
def _skeleton(count: int) -> bytes:
    """The text of a side of so many levels, without its numbers."""
    return b"[" + b",".join([b'["",""]'] * count) + b"]"


def _side_text(side: Any) -> bytes | None:
    """A side's numbers joined by commas; None when it is no list of pairs of texts."""
    if isinstance(side, Raw):
        text = bytes(side)
        if plain_levels(text) is not None:
            return text.translate(None, b'[]"')
        try:
            side = _SIDE.decode(text)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            return None
    numbers = [number for pair in side for number in pair]
    try:
        text = ",".join(numbers).encode()
    except UnicodeEncodeError:
        return None
    return text if text.count(b",") == max(len(numbers) - 1, 0) and all(numbers) else None


def _narrowed(column: Decimals) -> Decimals:
    """The same, with one scale for all rows where they agree."""
    return Decimals(column.mantissas, narrow_scales(column.scale_array().astype(np.int64)), column.odd)
