"""Exact numbers as columns: the venue's text in, the same text out, int64 in between.

A number is a mantissa and a scale: "0.0120" is (120, 4). The scale is one for the column where the digits are
uniform, one per row where they are not. What such a pair cannot give back letter for letter (more than 18 digits,
"1e-5", "-0.0", "007") keeps its text beside, by row: odd. Nothing ever becomes a float on this road.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.values.columns import Index, Mask, absent_of, join_masks, same_absent, take_mask
from data_manager.domain.values.numerals import read_plain

DIGITS_MAX = 34
"""Significant digits we take: what Decimal128 can hold, so that every store can."""

_SCALE_MAX = 36  # longer fractions keep their text
_FEW = 20  # below this, plain Python is quicker than setting up array kernels
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.([0-9]{1,18}))?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)


class Decimals(Struct, frozen=True, eq=False, gc=False):
    """Numbers of one column. scales: digits after the point, one for all or one per row. odd: texts by row."""

    mantissas: NDArray[np.int64]
    scales: int | NDArray[np.uint8]
    odd: dict[int, str] = {}
    absent: Mask | None = None

    def __len__(self) -> int:
        return len(self.mantissas)

    def scale_array(self) -> NDArray[np.uint8]:
        """The scale of every row."""
        if isinstance(self.scales, int):
            return np.full(len(self), self.scales, np.uint8)
        return self.scales

    def take(self, rows: Index | slice) -> "Decimals":
        odd = self.odd
        if odd:
            positions = np.arange(len(self))[rows].tolist()
            odd = {new: odd[old] for new, old in enumerate(positions) if old in odd}
        scales = self.scales if isinstance(self.scales, int) else self.scales[rows]
        return Decimals(self.mantissas[rows], scales, odd, take_mask(self.absent, rows))

    @classmethod
    def joined(cls, parts: Sequence["Decimals"]) -> "Decimals":
        lengths = [len(part) for part in parts]
        odd: dict[int, str] = {}
        start = 0
        for part, length in zip(parts, lengths, strict=True):
            if part.odd:
                odd.update((start + row, text) for row, text in part.odd.items())
            start += length
        return cls(
            np.concatenate([part.mantissas for part in parts]),
            _joined_scales(parts),
            odd,
            join_masks([part.absent for part in parts], lengths),
        )

    def same(self, other: "Decimals") -> Mask:
        equal: Mask = (self.compare(other) == 0) & same_absent(self.absent, other.absent, len(self))
        return equal

    def signs(self) -> NDArray[np.int64]:
        """-1, 0 or 1 per row; 1 where a row is absent, so that a rule passes it."""
        signs: NDArray[np.int64] = np.sign(self.mantissas)
        for row, text in self.odd.items():
            signs[row] = Decimal(text).compare(Decimal(0))
        if self.absent is not None:
            signs[self.absent] = 1
        return signs

    def compare(self, other: "Decimals") -> NDArray[np.int64]:
        """Per row the sign of self - other, exactly; 0 where either is absent."""
        if isinstance(self.scales, int) and isinstance(other.scales, int) and self.scales == other.scales:
            signs = _sign_of_difference(self.mantissas, other.mantissas)
            unsure: Mask = np.zeros(len(self), np.bool_)
        else:
            signs, unsure = _compare_scaled(self, other)
        for row in (*self.odd, *other.odd):
            unsure[row] = True
        for row in np.flatnonzero(unsure).tolist():
            signs[row] = self.decimal(row).compare(other.decimal(row))
        for absent in (self.absent, other.absent):
            if absent is not None:
                signs[absent] = 0
        return signs

    def decimal(self, row: int) -> Decimal:
        """One value, exactly (0 where absent)."""
        text = self.odd.get(row)
        if text is not None:
            return Decimal(text)
        scale = self.scales if isinstance(self.scales, int) else int(self.scales[row])
        return Decimal(int(self.mantissas[row])).scaleb(-scale)

    def floats(self) -> NDArray[np.float64]:
        """The nearest float64 of each value, NaN where absent: for statistics, never for keeping."""
        floats = self.mantissas / np.power(10.0, self.scales)
        for row, text in self.odd.items():
            floats[row] = float(text)
        if self.absent is not None:
            floats[self.absent] = np.nan
        return floats

    @property
    def size_bytes(self) -> int:
        return self.mantissas.nbytes + (0 if isinstance(self.scales, int) else len(self))

    def values_list(self) -> list[Any]:
        texts: list[Any] = _texts(self.mantissas, self.scales)
        for row, text in self.odd.items():
            texts[row] = text
        if self.absent is not None:
            for row in np.flatnonzero(self.absent).tolist():
                texts[row] = None
        return texts

    def arrow(self) -> pa.Array:
        """decimal128(38, largest scale), exact; text when 38 digits do not suffice."""
        if not self.odd:
            packed = _arrow_decimals(self)
            if packed is not None:
                return packed
        values = [None if text is None else Decimal(text) for text in self.values_list()]
        scale = max((-int(value.as_tuple().exponent) for value in values if value is not None), default=0)
        whole = max((value.adjusted() + 1 for value in values if value is not None), default=1)
        if max(scale, 0) + max(whole, 1) <= 38:
            return pa.array(values, pa.decimal128(38, max(scale, 0)))
        return pa.array(self.values_list(), pa.string())


def parse_decimals(texts: Sequence[str | None]) -> tuple[Decimals, dict[int, str]]:
    """The column of texts, and by row the rule that a text breaks (such a row holds 0 and must not be kept)."""
    [parsed] = parse_all([texts])
    return parsed


def parse_all(columns: Sequence[Sequence[str | None]]) -> list[tuple[Decimals, dict[int, str]]]:
    """The same for columns of one length. Together: reading numbers costs by the call, not only by the number."""
    rows = len(columns[0]) if columns else 0
    if rows * len(columns) < _FEW:
        return [_parse_each(texts) for texts in columns]
    absent = [absent_of(texts) for texts in columns]
    plain = _read_plain(
        [texts if none is None else _zeroed(texts) for texts, none in zip(columns, absent, strict=True)]
    )
    if plain is None:  # at least one is no plain number: column by column, so that only its own is slow
        return [_parse_strange(texts) for texts in columns] if len(columns) == 1 else [*map(parse_decimals, columns)]
    parsed: list[tuple[Decimals, dict[int, str]]] = []
    for mantissas, scales, none in zip(*plain, absent, strict=True):
        if none is not None:
            scales[none] = 0
        parsed.append((Decimals(mantissas, narrow_scales(scales), {}, none), {}))
    return parsed


def _read_plain(columns: Sequence[Sequence[str | None]]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Mantissas and scales, one line per column; None unless all texts are plain numbers."""
    rows = len(columns[0])
    try:
        joined = ",".join(map(",".join, columns)).encode()  # type: ignore[arg-type]  # what was absent is "0" by now
    except UnicodeEncodeError:
        return None
    plain = read_plain(joined, rows * len(columns))
    return None if plain is None else (plain[0].reshape(-1, rows), plain[1].reshape(-1, rows))


def _zeroed(texts: Sequence[str | None]) -> list[str]:
    return ["0" if text is None else text for text in texts]


def _parse_strange(texts: Sequence[str | None]) -> tuple[Decimals, dict[int, str]]:
    try:
        array = pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return _parse_each(texts)
    return parse_array(array, absent_of(texts))


def parse_array(array: pa.Array, absent: Mask | None) -> tuple[Decimals, dict[int, str]]:
    """As parse_decimals, for an Arrow array of texts: whole columns at once, and one by one what is not plain."""
    digits = pc.replace_substring(array, ".", "", max_replacements=1)
    try:
        mantissas = _numpy(pc.cast(digits, pa.int64()))
        strange = np.zeros(len(array), np.bool_)
    except pa.ArrowInvalid:  # at least one is no plain number: find which, so that only those are slow
        plain = pc.and_(
            pc.match_substring_regex(array, r"^-?[0-9]+(\.[0-9]+)?$"), pc.less_equal(pc.binary_length(digits), 18)
        ).fill_null(True)
        mantissas = _numpy(pc.cast(pc.if_else(plain, digits, pa.scalar("0")), pa.int64()))
        strange = ~plain.to_numpy(zero_copy_only=False)
    length = _numpy(pc.binary_length(array)).astype(np.int64)
    dot = _numpy(pc.find_substring(array, "."), -1).astype(np.int64)
    scales = np.where(dot < 0, 0, length - dot - 1)
    strange |= (length != _plain_length(mantissas, scales)) | (scales > _SCALE_MAX)
    if absent is not None:
        strange &= ~absent
        scales[absent] = 0
    rows = np.flatnonzero(strange).tolist()
    odd, broken = _odd_texts({row: array[row].as_py() for row in rows})
    mantissas[rows] = 0
    scales[rows] = 0
    return Decimals(mantissas, narrow_scales(scales), odd, absent), broken


def _numpy(array: pa.Array, null: int = 0) -> NDArray[Any]:
    values: NDArray[Any] = array.fill_null(null).to_numpy(zero_copy_only=False)
    return values.copy() if not values.flags.writeable else values


def _plain_length(mantissas: NDArray[np.int64], scales: NDArray[np.int64]) -> NDArray[np.int64]:
    """How long the text of each (mantissa, scale) is; a text of another length is not what they give back."""
    digits = np.searchsorted(_POWERS[1:], np.abs(mantissas), side="right") + 1
    length: NDArray[np.int64] = np.maximum(digits, scales + 1) + (mantissas < 0) + (scales > 0)
    return length


def narrow_scales(scales: NDArray[np.integer[Any]]) -> int | NDArray[np.uint8]:
    """One scale where all rows agree, else one per row."""
    if len(scales) == 0:
        return 0
    first = int(scales[0])
    return first if (scales == first).all() else scales.astype(np.uint8)


def _parse_each(texts: Sequence[str | None]) -> tuple[Decimals, dict[int, str]]:
    mantissas, scales, strange = [], [], {}
    for row, text in enumerate(texts):
        plain = _PLAIN.fullmatch(text) if text is not None and len(text) < 20 else None
        if plain is None or text is None or (text[0] == "-" and not text.strip("-0.")):
            mantissas.append(0)
            scales.append(0)
            if text is not None:
                strange[row] = text
        else:
            mantissas.append(int(text.replace(".", "")))
            scales.append(len(plain[1] or ""))
    odd, broken = _odd_texts(strange)
    column = Decimals(np.array(mantissas, np.int64), narrow_scales(np.array(scales, np.int64)), odd, absent_of(texts))
    return column, broken


def _odd_texts(strange: dict[int, str]) -> tuple[dict[int, str], dict[int, str]]:
    """Sort unusual texts into those that are numbers, kept as they are, and the rules the others break."""
    odd, broken = {}, {}
    for row, text in strange.items():
        if len(text) > 120 or _NUMBER.fullmatch(text) is None:
            broken[row] = "must be a decimal number as text, such as 0.0120"
        elif len(Decimal(text).as_tuple().digits) > DIGITS_MAX:
            broken[row] = f"must have at most {DIGITS_MAX} significant digits"
        else:
            odd[row] = text
    return odd, broken


def _texts(mantissas: NDArray[np.int64], scales: int | NDArray[np.uint8]) -> list[str]:
    numbers = mantissas.tolist()
    if not isinstance(scales, int):
        return [_text(number, scale) for number, scale in zip(numbers, scales.tolist(), strict=True)]
    if scales == 0:
        return [str(number) for number in numbers]
    if len(numbers) and min(numbers) < 0:
        return [_text(number, scales) for number in numbers]
    width = scales + 1
    return [f"{(text := str(number).zfill(width))[:-scales]}.{text[-scales:]}" for number in numbers]


def _text(number: int, scale: int) -> str:
    if scale == 0:
        return str(number)
    text = str(abs(number)).zfill(scale + 1)
    return f"{'-' if number < 0 else ''}{text[:-scale]}.{text[-scale:]}"


def _joined_scales(parts: Sequence[Decimals]) -> int | NDArray[np.uint8]:
    filled = [part for part in parts if len(part)] or [parts[0]]
    first = filled[0].scales
    if isinstance(first, int) and all(isinstance(part.scales, int) and part.scales == first for part in filled):
        return first
    return np.concatenate([part.scale_array() for part in filled])


def _sign_of_difference(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signs of one - other; the difference itself might not fit 64 bits."""
    return (one > other).astype(np.int64) - (one < other)


def _compare_scaled(one: Decimals, other: Decimals) -> tuple[NDArray[np.int64], Mask]:
    """Signs of the difference at a common scale, and the rows where 64 bits are too few for that."""
    left, right = one.scale_array().astype(np.int64), other.scale_array().astype(np.int64)
    common = np.maximum(left, right)
    up_left, up_right = _POWERS[np.minimum(common - left, 18)], _POWERS[np.minimum(common - right, 18)]
    limit = np.int64(2**62)
    unsure: Mask = (np.abs(one.mantissas) > limit // up_left) | (np.abs(other.mantissas) > limit // up_right)
    unsure |= np.abs(left - right) > 18
    return _sign_of_difference(one.mantissas * up_left, other.mantissas * up_right), unsure


def _arrow_decimals(column: Decimals) -> pa.Array | None:
    """decimal128 straight from the int64 mantissas: low word, sign extension. None when rescaling overflows."""
    scale = column.scales if isinstance(column.scales, int) else int(column.scales.max(initial=0))
    mantissas = column.mantissas
    if not isinstance(column.scales, int):
        steps = scale - column.scales.astype(np.int64)
        up = _POWERS[np.minimum(steps, 18)]
        if (steps > 18).any() or (np.abs(mantissas) > np.int64(2**62) // up).any():
            return None
        mantissas = mantissas * up
    words = np.empty((len(mantissas), 2), np.int64)
    words[:, 0] = mantissas
    words[:, 1] = mantissas >> 63
    validity = None if column.absent is None else pa.array(~column.absent).buffers()[1]
    return pa.Array.from_buffers(pa.decimal128(38, scale), len(mantissas), [validity, pa.py_buffer(words)])
