"""Times that do not fit the order of the keys: as few rows as possible are blamed, so that all others agree."""

from bisect import bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_manager.domain.values.columns import Mask

Times = NDArray[np.int64]

_FAR: Final = 1 << 61


def astray(times: Times, slack_ms: int) -> Mask:
    """Rows whose times contradict those of the rows that agree with one another, by more than slack_ms.

    One that is an hour ahead makes none of those behind it late, nor does one that is late make all before it early.
    """
    high = np.maximum.accumulate(times)
    wrong: Mask = np.zeros(len(times), np.bool_)
    late = np.flatnonzero(times < high - slack_ms)
    if not len(late):
        return wrong
    low = np.minimum.accumulate(times[::-1])[::-1]
    edges = np.concatenate([[0], np.flatnonzero(high[:-1] <= low[1:]) + 1, [len(times)]])
    for at in np.unique(np.searchsorted(edges, late, side="right") - 1).tolist():
        torn = slice(int(edges[at]), int(edges[at + 1]))
        wrong[torn] = _contradicting(times[torn], slack_ms)
    return wrong


def _contradicting(times: Times, slack_ms: int) -> Mask:
    agree = np.zeros(len(times), np.bool_)
    agree[_longest_rise(times.tolist())] = True
    before = np.maximum.accumulate(np.where(agree, times, -_FAR))
    behind = np.minimum.accumulate(np.where(agree, times, _FAR)[::-1])[::-1]
    wrong: Mask = (times < before - slack_ms) | (times > behind + slack_ms)
    return wrong


def _longest_rise(times: list[int]) -> list[int]:
    """Places of the most rows whose times never go back; of several such choices one that begins early."""
    lowest: list[int] = []  # by length: the lowest time with which so many rows end
    ends: list[int] = []  # where that is
    prior: list[int] = []  # the row before each, -1 for none
    for place, time in enumerate(times):
        length = bisect_right(lowest, time)
        prior.append(ends[length - 1] if length else -1)
        if length == len(lowest):
            lowest.append(time)
            ends.append(place)
        else:
            lowest[length], ends[length] = time, place
    found, place = [], ends[-1]
    while place >= 0:
        found.append(place)
        place = prior[place]
    return found
