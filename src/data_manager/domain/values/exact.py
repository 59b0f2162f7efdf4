"""Whole columns of exact numbers, for arithmetic: integers over one power of ten.

Decimals keeps what the venue wrote; here the digits of all rows are brought to one scale, so that they can be added,
compared and multiplied as integers. Where 64 bits do not suffice the values are Python's integers in an object array:
slower, and as exact.
"""

from decimal import Decimal
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_manager.domain.values.columns import Mask
from data_manager.domain.values.decimals import Decimals

_FITS: Final = 2**62
_POWERS: Final = 10 ** np.arange(19, dtype=np.int64)
_STEPS_MAX: Final = 18  # powers of ten an int64 can hold


class Exact(NamedTuple):
    """values[i] / 10**scale; 0 where absent says so. values: int64, or object where 64 bits do not suffice."""

    values: NDArray[Any]
    scale: int
    absent: Mask | None = None

    def take(self, rows: Any) -> "Exact":
        """Those rows."""
        return Exact(self.values[rows], self.scale, None if self.absent is None else self.absent[rows])

    @property
    def present(self) -> Mask:
        """Mask of the rows that hold a value."""
        return np.ones(len(self.values), np.bool_) if self.absent is None else ~self.absent

    def text(self, row: int) -> str:
        """One value as decimal text."""
        return shown(int(self.values[row]), self.scale)


def exact(column: Decimals) -> Exact:
    """The column at one scale."""
    if isinstance(column.scales, int) and not column.odd:
        return Exact(column.mantissas, column.scales, column.absent)
    odd = {row: digits(text) for row, text in column.odd.items()}
    scales = column.scale_array().astype(np.int64)
    plain = column.mantissas != 0
    top = max([int(scales[plain].max(initial=0)), *(scale for _, scale in odd.values())])
    values = _times_power(column.mantissas, np.where(plain, top - scales, 0))
    whole = {row: mantissa * 10 ** (top - scale) for row, (mantissa, scale) in odd.items()}
    if any(abs(value) > _FITS for value in whole.values()):
        values = values.astype(object)
    elif odd:
        values = values.copy()
    for row, value in whole.items():
        values[row] = value
    return Exact(values, top, column.absent)


def digits(text: str) -> tuple[int, int]:
    """A decimal text as (mantissa, scale), the scale not negative; exact for any number of digits."""
    sign, parts, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int), "infinities and NaN are refused before they are kept"
    mantissa = int("".join(map(str, parts))) * (-1 if sign else 1)
    return (mantissa, -exponent) if exponent < 0 else (mantissa * 10**exponent, 0)


def shown(mantissa: int, scale: int) -> str:
    """Decimal text without exponent and without superfluous zeros."""
    text = str(abs(mantissa)).zfill(scale + 1)
    whole, fraction = (text[:-scale], text[-scale:].rstrip("0")) if scale else (text, "")
    return f"{'-' if mantissa < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"


def raised(one: Exact, scale: int) -> NDArray[Any]:
    """The values of one at that scale, which is not smaller than its own."""
    return _times_power(one.values, np.full(len(one.values), scale - one.scale, np.int64))


def alike(one: Exact, other: Exact) -> tuple[NDArray[Any], NDArray[Any]]:
    """The values of both at their common scale."""
    scale = max(one.scale, other.scale)
    return raised(one, scale), raised(other, scale)


def plus(one: Exact, other: Exact) -> Exact:
    """The sum per row; absent where either is."""
    left, right = alike(one, other)
    if max(_largest(left), _largest(right)) > _FITS // 2:
        left = left.astype(object)
    return Exact(left + right, max(one.scale, other.scale), _either(one, other))


def minus(one: Exact, other: Exact) -> Exact:
    """The difference per row; absent where either is."""
    return plus(one, Exact(-other.values, other.scale, other.absent))


def times(one: Exact, other: Exact) -> Exact:
    """The product per row; absent where either is."""
    left, right = one.values, other.values
    if _largest(left) * _largest(right) > _FITS:
        left = left.astype(object)
    return Exact(left * right, one.scale + other.scale, _either(one, other))


def unlike(one: Exact, other: Exact) -> Mask:
    """Per row: both are present and they differ."""
    left, right = alike(one, other)
    differ: Mask = (left != right).astype(np.bool_) & one.present & other.present
    return differ


def sums(one: Exact, low: NDArray[np.int64], high: NDArray[np.int64]) -> Exact:
    """Per pair the sum of the rows [low, high), absent where one of them is; low < high, pairs in ascending order."""
    values = one.values
    longest = int((high - low).max(initial=0))
    if _largest(values) * longest > _FITS:
        values = values.astype(object)
    return Exact(reduced(np.add, values, low, high), one.scale, _any_absent(one, low, high))


def extremes(one: Exact, ufunc: np.ufunc, low: NDArray[np.int64], high: NDArray[np.int64]) -> Exact:
    """Per pair np.maximum or np.minimum over the rows [low, high), absent where one of them is."""
    return Exact(reduced(ufunc, one.values, low, high), one.scale, _any_absent(one, low, high))


def reduced(ufunc: np.ufunc, values: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[Any]:
    """ufunc over values[low:high] for each pair; pairs ascending, each with a row, rows between pairs left out."""
    if len(low) == 0:
        return values[:0]
    edges = np.empty(2 * len(low), np.int64)
    edges[::2], edges[1::2] = low, high
    reach = int(high[-1])  # an edge at the very end is no row: the last pair ends there by itself
    answer: NDArray[Any] = ufunc.reduceat(values[:reach], edges[:-1])[::2]
    return answer


def _any_absent(one: Exact, low: NDArray[np.int64], high: NDArray[np.int64]) -> Mask | None:
    return None if one.absent is None else reduced(np.logical_or, one.absent, low, high)


def _either(one: Exact, other: Exact) -> Mask | None:
    if one.absent is None and other.absent is None:
        return None
    return ~(one.present & other.present)


def _largest(values: NDArray[Any]) -> int:
    """The largest magnitude."""
    return max(abs(int(values.max())), abs(int(values.min()))) if len(values) else 0


def _times_power(values: NDArray[Any], steps: NDArray[np.int64]) -> NDArray[Any]:
    """values * 10**steps, in int64 where everything fits."""
    if not steps.any():
        return values
    up = _POWERS[np.minimum(steps, _STEPS_MAX)]
    if values.dtype != object and not ((steps > _STEPS_MAX) | (np.abs(values) > _FITS // up)).any():
        fitting: NDArray[Any] = values * up
        return fitting
    powers = np.array([10**step for step in range(int(steps.max()) + 1)], object)
    wide: NDArray[Any] = values.astype(object) * powers[steps]
    return wide
