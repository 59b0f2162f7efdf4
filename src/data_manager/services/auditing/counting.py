"""What audits came to since the start, as plain numbers that the metrics read."""

from bisect import bisect_left
from collections import Counter
from typing import Final

from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.services.auditing.looking import Crossed

CYCLE_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
"""Bounds of the histogram of cycles, in seconds."""

_DOUBLED: Final = "told_once"  # the check that blames a key that stands there twice


class Figures:
    """gaps: holes entered for the first time, by symbol and interval; duplicates: spans with a key held twice.

    crossed: candles judged by other rows. cycles: audits of everything, by the first bound of CYCLE_S that they kept;
    the last are beyond all of them.
    """

    def __init__(self) -> None:
        self.gaps: Counter[tuple[str, str]] = Counter()
        self.duplicates = 0
        self.crossed = Crossed()
        self.cycles = [0] * (len(CYCLE_S) + 1)
        self.cycles_s = 0.0

    def cycle(self, seconds: float) -> None:
        """An audit of everything took that long."""
        self.cycles[bisect_left(CYCLE_S, seconds)] += 1
        self.cycles_s += seconds

    def entered(self, series: Series, before: SeriesTruth, after: SeriesTruth) -> None:
        """What is known of a series now, and what was."""
        known = {one.root for one in before.holes}
        new = sum(1 for one in after.holes if one.live and one.root not in known)
        if new:
            self.gaps[(series.symbol, series.interval or "")] += new
        told = set(before.flaws)
        self.duplicates += sum(1 for one in after.flaws if one.reason == _DOUBLED and one not in told)
