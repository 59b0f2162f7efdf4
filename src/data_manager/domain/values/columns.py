"""Columns: many values of one kind, moved as arrays.

Ints, Flags, Floats and Texts are what they say; Decimals and Levels live in decimals.py. Every column can be cut
(take), joined (joined), compared by value (same), shown as Python values (values_list) and as Arrow (arrow). A row
may be absent where its field is optional; absent is not 0.

They are msgspec structs because making one costs a seventh of what a frozen dataclass does, and small answers and small
flushes make many.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Index = NDArray[np.int64]


class Column(Protocol):
    """What every kind of column can do. Indexes are row positions."""

    def __len__(self) -> int: ...

    @property
    def size_bytes(self) -> int:
        """Memory its arrays take, roughly."""
        ...

    def take(self, rows: Index | slice) -> Self:
        """Those rows, in that order."""
        ...

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one after the other."""
        ...

    def same(self, other: Self) -> Mask:
        """Per row: equal by value (1.0 equals 1.00; absent equals absent)."""
        ...

    def values_list(self) -> list[Any]:
        """Python values: int, bool, float, text, level pairs; None where absent."""
        ...

    def arrow(self) -> pa.Array:
        """The same values for Arrow readers; numbers as exact decimals."""
        ...


def absent_of(values: Sequence[object]) -> Mask | None:
    """Mask of the None in values, or None when there are none."""
    if None not in values:
        return None
    return np.fromiter((value is None for value in values), np.bool_, len(values))


def take_mask(mask: Mask | None, rows: Index | slice) -> Mask | None:
    """The mask of those rows; None when nothing in it is set."""
    if mask is None:
        return None
    cut = mask[rows]
    return cut if cut.any() else None


def join_masks(masks: Sequence[Mask | None], lengths: Sequence[int]) -> Mask | None:
    """Masks one after the other; None when nothing in them is set."""
    if all(mask is None for mask in masks):
        return None
    return np.concatenate(
        [np.zeros(length, np.bool_) if mask is None else mask for mask, length in zip(masks, lengths, strict=True)]
    )


def same_absent(one: Mask | None, other: Mask | None, length: int) -> Mask:
    """Per row: absent in both or in neither."""
    none = np.zeros(length, np.bool_)
    equal: Mask = (none if one is None else one) == (none if other is None else other)
    return equal


class Ints(Struct, frozen=True, eq=False, gc=False):
    """int64 values; 0 stands where a row is absent."""

    values: NDArray[np.int64]
    absent: Mask | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, values: Sequence[int | None]) -> "Ints":
        """From Python values; OverflowError beyond 64 bits."""
        try:
            return cls(np.fromiter(values, np.int64, len(values)))
        except TypeError:
            return cls(np.array([0 if value is None else value for value in values], np.int64), absent_of(values))

    @property
    def present(self) -> Any:
        """Mask of the rows that hold a value (one True when all do)."""
        return np.True_ if self.absent is None else ~self.absent

    @property
    def size_bytes(self) -> int:
        return self.values.nbytes

    def take(self, rows: Index | slice) -> "Ints":
        return Ints(self.values[rows], take_mask(self.absent, rows))

    @classmethod
    def joined(cls, parts: Sequence["Ints"]) -> "Ints":
        return cls(
            np.concatenate([part.values for part in parts]),
            join_masks([part.absent for part in parts], [len(part) for part in parts]),
        )

    def same(self, other: "Ints") -> Mask:
        equal: Mask = (self.values == other.values) & same_absent(self.absent, other.absent, len(self))
        return equal

    def filled(self, value: int) -> NDArray[np.int64]:
        """The values, with value where a row is absent."""
        return self.values if self.absent is None else np.where(self.absent, np.int64(value), self.values)

    def values_list(self) -> list[Any]:
        values: list[Any] = self.values.tolist()
        if self.absent is not None:
            for row in np.flatnonzero(self.absent).tolist():
                values[row] = None
        return values

    def arrow(self) -> pa.Array:
        return pa.array(self.values, pa.int64(), mask=self.absent)


class Flags(Struct, frozen=True, eq=False, gc=False):
    """True or False, never absent."""

    values: Mask

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, values: Sequence[bool]) -> "Flags":
        """From Python values."""
        return cls(np.array(values, np.bool_))

    @property
    def size_bytes(self) -> int:
        return self.values.nbytes

    def take(self, rows: Index | slice) -> "Flags":
        return Flags(self.values[rows])

    @classmethod
    def joined(cls, parts: Sequence["Flags"]) -> "Flags":
        return cls(np.concatenate([part.values for part in parts]))

    def same(self, other: "Flags") -> Mask:
        equal: Mask = self.values == other.values
        return equal

    def values_list(self) -> list[Any]:
        values: list[Any] = self.values.tolist()
        return values

    def arrow(self) -> pa.Array:
        return pa.array(self.values, pa.bool_())


class Floats(Struct, frozen=True, eq=False, gc=False):
    """float64 values of derived figures; NaN stands where a row is absent."""

    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Floats":
        """From Python values."""
        return cls(np.array([np.nan if value is None else value for value in values], np.float64))

    @property
    def size_bytes(self) -> int:
        return self.values.nbytes

    def take(self, rows: Index | slice) -> "Floats":
        return Floats(self.values[rows])

    @classmethod
    def joined(cls, parts: Sequence["Floats"]) -> "Floats":
        return cls(np.concatenate([part.values for part in parts]))

    def same(self, other: "Floats") -> Mask:
        equal: Mask = (self.values == other.values) | (np.isnan(self.values) & np.isnan(other.values))
        return equal

    def values_list(self) -> list[Any]:
        return [None if value != value else value for value in self.values.tolist()]

    def arrow(self) -> pa.Array:
        return pa.array(self.values, pa.float64(), mask=np.isnan(self.values))


class Texts(Struct, frozen=True, eq=False, gc=False):
    """Short texts with few distinct values: codes into words; -1 where a row is absent."""

    codes: NDArray[np.int32]
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, values: Sequence[str | None]) -> "Texts":
        """From Python values."""
        words = tuple(word for word in dict.fromkeys(values) if word is not None)
        if len(words) == 1 and None not in values:
            return cls.constant(words[0], len(values))
        code_of: dict[str | None, int] = {None: -1, **{word: code for code, word in enumerate(words)}}
        return cls(np.fromiter(map(code_of.__getitem__, values), np.int32, len(values)), words)

    @classmethod
    def constant(cls, word: str, length: int) -> "Texts":
        """The same word in every row."""
        return cls(np.zeros(length, np.int32), (word,))

    @property
    def size_bytes(self) -> int:
        return self.codes.nbytes

    def take(self, rows: Index | slice) -> "Texts":
        return Texts(self.codes[rows], self.words)

    @classmethod
    def joined(cls, parts: Sequence["Texts"]) -> "Texts":
        if all(part.words == parts[0].words for part in parts):
            return cls(np.concatenate([part.codes for part in parts]), parts[0].words)
        words: dict[str, int] = {}
        recoded = []
        for part in parts:
            codes = np.array([*(words.setdefault(word, len(words)) for word in part.words), -1], np.int32)
            recoded.append(codes[part.codes])  # -1 finds the -1 at the end
        return cls(np.concatenate(recoded), tuple(words))

    def same(self, other: "Texts") -> Mask:
        both = Texts.joined([self, other]).codes
        equal: Mask = both[: len(self)] == both[len(self) :]
        return equal

    def values_list(self) -> list[Any]:
        words: list[str | None] = [*self.words, None]
        return [words[code] for code in self.codes.tolist()]

    def arrow(self) -> pa.Array:
        words = pa.array([*self.words, None], pa.string())
        return words.take(pa.array(np.where(self.codes < 0, len(self.words), self.codes)))
