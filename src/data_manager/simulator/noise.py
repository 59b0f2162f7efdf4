"""Chance without state: 64 well-mixed bits for every (seed, word, number), the same on every machine.

Only integer arithmetic and single floating-point products, which IEEE 754 fixes to the last bit, so that one seed is
one market everywhere and whatever order it is asked in.
"""

from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Bits = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@lru_cache(maxsize=65_536)
def key_of(seed: int, *words: object) -> int:
    """64 bits that stand for the words."""
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def bits(key: int, numbers: Index) -> Bits:
    """64 independent bits for each number (splitmix64 of Steele, Lea and Flood, started at key)."""
    mixed = numbers.astype(np.uint64) * _GOLDEN + np.uint64(key)
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def field(mixed: Bits, low: int, width: int) -> Index:
    """width bits from bit low up, as numbers in [0, 2**width)."""
    cut: Index = ((mixed >> np.uint64(low)) & np.uint64((1 << width) - 1)).astype(np.int64)
    return cut


def one(key: int, number: int) -> int:
    """The 64 bits of one number."""
    return int(bits(key, np.array([number], np.int64))[0])


def smooth(key: int, at: Index, shift: int) -> Index:
    """A wave through random heights, one every 2**shift, straight between them: from -32768 to 32767, at each at."""
    low = at >> shift
    first = int(low.min(initial=0)) if len(at) else 0
    last = int(low.max(initial=0)) if len(at) else 0
    if last - first <= 4 * len(at) + 64:
        first, last = (int(low.min()), int(low.max())) if len(at) else (0, 0)
        heights = _heights(key, np.arange(first, last + 2))
        left, right = heights[low - first], heights[low - first + 1]
    else:
        left, right = _heights(key, low), _heights(key, low + 1)
    beyond = at - (low << shift)
    wave: Index = (left * ((1 << shift) - beyond) + right * beyond) >> shift
    return wave


def _heights(key: int, numbers: Index) -> Index:
    return field(bits(key, numbers), 40, 16) - 32_768
