"""Exact numbers as BSON keeps them: Decimal128 where that gives the venue's text back letter for letter, else the text.

Decimal128 holds a sign, up to 34 digits and an exponent, so "1.10" stays "1.10" and "-0.00" stays "-0.00". What it
would give back in another form ("1e3", "007", "+5") is kept as text, in the same field. On a server that cannot keep
Decimal128 every number is text. Reading takes both, in any mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bson.decimal128 import Decimal128
from numpy.typing import NDArray

from data_manager.domain.values.columns import absent_of
from data_manager.domain.values.decimals import Decimals, narrow_scales, parse_decimals

_BIAS = 6176
_EXPONENT_AT = 49  # the exponent's lowest bit in the high word; below it are the coefficient's upper bits
_SIGN = np.uint64(1 << 63)
_SPECIAL = np.uint64(3 << 61)  # both set: a not-a-number, an infinity, or a form nobody writes
_UPPER = np.uint64((1 << _EXPONENT_AT) - 1)
_SCALE_MAX = 36  # as domain/values/decimals: longer fractions keep their text


def encode_decimals(column: Decimals, *, exact: bool) -> list[Any]:
    """BSON values of a column: Decimal128 or text, None where absent. exact: whether the server keeps Decimal128."""
    if not exact:
        return column.values_list()
    scales = column.scale_array().astype(np.uint64)
    high = (np.uint64(_BIAS) - scales) << np.uint64(_EXPONENT_AT)
    high |= np.where(column.mantissas < 0, _SIGN, np.uint64(0))
    low = np.abs(column.mantissas).astype(np.uint64)
    words: Any = zip(high.tolist(), low.tolist(), strict=True)  # the driver takes such pairs; its types do not say so
    values: list[Any] = [Decimal128(pair) for pair in words]
    for row, text in column.odd.items():
        values[row] = _faithful(text)
    if column.absent is not None:
        for row in np.flatnonzero(column.absent).tolist():
            values[row] = None
    return values


def decode_decimals(values: Sequence[Any]) -> Decimals:
    """The column of BSON values. Raises ValueError or TypeError for what is no number."""
    absent = absent_of(values)
    if absent is not None:
        values = [_ZERO if value is None else value for value in values]
    if any(type(value) is not Decimal128 for value in values):
        return _decode_mixed(values, absent)
    words = np.frombuffer(b"".join([value.bid for value in values]), "<u8").reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    scales = _BIAS - ((high & ~_SIGN) >> np.uint64(_EXPONENT_AT)).astype(np.int64)
    negative = (high & _SIGN) != 0
    strange = ((high & _SPECIAL) == _SPECIAL) | ((high & _UPPER) != 0) | (low >= np.uint64(10**18))
    strange |= (scales < 0) | (scales > _SCALE_MAX) | (negative & (low == 0))
    mantissas = np.where(strange, np.uint64(0), low).astype(np.int64)
    mantissas[negative] *= -1
    scales[strange] = 0
    odd = {row: fixed_text(values[row]) for row in np.flatnonzero(strange).tolist()}
    return Decimals(mantissas, narrow_scales(scales), odd, absent)


def fixed_text(value: Decimal128) -> str:
    """The number without an exponent, with every digit it holds. Raises ValueError for infinities and the like."""
    number = value.to_decimal()
    if not number.is_finite():
        raise ValueError(f"{value} is no number")
    return format(number, "f")


_ZERO = Decimal128("0")


def _faithful(text: str) -> Decimal128 | str:
    """text as Decimal128, or itself where Decimal128 would give it back in another form."""
    number = Decimal128(text)
    return number if fixed_text(number) == text else text


def _decode_mixed(values: Sequence[Any], absent: NDArray[np.bool_] | None) -> Decimals:
    column, broken = parse_decimals([fixed_text(value) if type(value) is Decimal128 else value for value in values])
    if broken:
        row, rule = next(iter(broken.items()))
        raise ValueError(f"{values[row]!r} {rule}")
    return Decimals(column.mantissas, column.scales, column.odd, absent)
