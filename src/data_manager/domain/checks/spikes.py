"""Spikes: prices that stand alone among their neighbours.

A price is a spike when it lies far from the median of the prices around it, measured by their own usual distance from
that median (the Hampel identifier). A median filter keeps steps and trends: a market that moves and stays is no spike,
one print at a tenth of the price is.

    z = 0.6745 * (x - median(x)) / median(|x - median(x)|)          over 2 * REACH + 1 neighbours, on logarithms

Sources: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), for z; Hampel, J. Am. Stat. Assoc. 69 (1974),
for median and MAD as location and scale.
"""

from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data_manager.domain.values.columns import Mask

REACH: Final = 10
"""Neighbours looked at on either side; runs of up to so many wrong prices are found."""

_NORMAL: Final = 0.6745
_BLOCK: Final = 1 << 15

Floats = NDArray[np.float64]


def spikes(prices: Floats, z_max: float = 12.0, fraction_min: float = 0.02) -> Mask:
    """Mask of the prices with |z| > z_max that are off the median of their neighbours by more than fraction_min of it.

    Prices that are not above 0 (placeholders) or absent (NaN) are passed over and blamed for nothing. Too few prices
    to judge (fewer than 2 * REACH + 1) give none. At either end the outermost whole window is used.
    """
    blamed = np.zeros(len(prices), np.bool_)
    real = np.flatnonzero(prices > 0)
    if len(real) < 2 * REACH + 1:
        return blamed
    found = prices[real]
    if found.max() <= found.min() * (1 + fraction_min):
        return blamed  # as in most minutes of most markets
    logs = np.log(found)
    least = float(np.log1p(fraction_min))
    centre = np.clip(np.arange(len(logs)), REACH, len(logs) - 1 - REACH)
    suspects = np.flatnonzero(_width(logs)[centre - REACH] > least)
    windows = sliding_window_view(logs, 2 * REACH + 1)
    for at in range(0, len(suspects), _BLOCK):
        block = suspects[at : at + _BLOCK]
        blamed[real[block]] = _far(logs[block], windows[centre[block] - REACH], z_max, least)
    return blamed


def _far(values: Floats, windows: Any, z_max: float, least: float) -> Mask:
    middle = _median(windows)
    off = np.abs(values - middle)
    usual = _median(np.abs(windows - middle[:, None]))
    far: Mask = (off > least) & (_NORMAL * off > z_max * usual)
    return far


def _median(windows: Any) -> Floats:
    """Of each row; rows have an odd number of values."""
    middle: Floats = np.partition(windows, REACH, axis=1)[:, REACH]
    return middle


def _width(logs: Floats) -> Floats:
    """Highest less lowest of each window: where it is small no price of it can be a spike. Doubling, not sliding."""
    high = low = logs
    length, wanted = 1, 2 * REACH + 1
    while length < wanted:
        step = min(length, wanted - length)
        high = np.maximum(high[:-step], high[step:])
        low = np.minimum(low[:-step], low[step:])
        length += step
    return high - low
