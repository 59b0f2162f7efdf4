"""What a bus without memory may have let pass while nobody listened, series by series.

    row, row, row │ away: unseen │ row, row
              last               first

Nobody saw what passed, but it must lie between the last row before and the first row after. Where rows are numbered,
chained or stand on a grid, these two also tell when nothing passed, and then there is no gap. Of the other series that
cannot be known: there the whole stretch between the two is a gap.

A series must come in the order of its keys, as the venue sends it, for this to be exact. What it cannot tell: how many
of the absent rows were meant for us and not for another replica; anything of a series that was not heard before or has
not been heard since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec import Struct

from data_manager.domain.batch import Batch, live_rows
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.holes.continuity import Columns, Hole, MaxSilence, Sparse
from data_manager.domain.span import Span
from data_manager.domain.time import INTERVALS_MS, floor_open_ms
from data_manager.domain.values.columns import Ints
from data_manager.ports import Extent

_BACKS_MAX: Final = (
    256  # absences told apart; a series that was not heard during more of them has one gap for the oldest
)


class Gap(Struct, frozen=True):
    """Rows of a series that may have passed unseen; where continuity can tell, that have."""

    series: Series
    hole: Hole


class _Last(Struct):
    """The last row of a series by key, and how many absences there had been when it came."""

    key: int
    time_ms: int
    absences: int


class Absences:
    """Give it every batch that was stored, and tell it of every absence before anything that came after it."""

    def __init__(self, series_max: int = 20_000) -> None:
        """series_max: series whose last row is remembered; of those beyond no gap is known."""
        self._series_max = series_max
        self._last: dict[Series, _Last] = {}
        self._absences = 0
        self._backs_ms: deque[int] = deque(maxlen=_BACKS_MAX)  # when we were back, the latest last

    def resume(self, held: Mapping[Series, Extent], back_ms: int | None = None) -> None:
        """How every series ended in an earlier run. To be told before any row is.

        back_ms: we are back since then already; all absences that were noted so far came later.
        """
        if back_ms is not None:
            self._absences += 1
            self._backs_ms = deque([back_ms, *self._backs_ms], _BACKS_MAX)
        before = self._absences - len(self._backs_ms)
        for series, extent in held.items():
            if len(self._last) < self._series_max:
                self._last[series] = _Last(extent.last_key, extent.last_ms, before)

    def note(self, back_ms: int) -> None:
        """We were away; what is received from back_ms on came after it."""
        self._absences += 1
        self._backs_ms.append(back_ms)

    def saw(self, batch: Batch) -> list[Gap]:
        """These rows were stored. The gaps that they close."""
        gaps: list[Gap] = []
        if not len(batch):
            return gaps  # every row of the flush was refused
        offsets, ends = batch.offsets.tolist(), _ends(batch)
        for position, series in enumerate(batch.series):
            if offsets[position] < offsets[position + 1]:
                last = self._last.get(series)
                if last is None:
                    self._advance(series, *ends[position])
                elif last.absences < self._absences:
                    gaps += self._close(last, batch.of(position))
                elif ends[position][0] > last.key:
                    last.key, last.time_ms = ends[position]
        return gaps

    def _advance(self, series: Series, key: int, time_ms: int) -> None:
        last = self._last.get(series)
        if last is None:
            if len(self._last) < self._series_max:
                self._last[series] = _Last(key, time_ms, self._absences)
        elif key > last.key:
            last.key, last.time_ms = key, time_ms

    def _close(self, last: _Last, rows: Batch) -> list[Gap]:
        """The gaps between last and these rows (of one series): one for each absence that lies between."""
        [series] = rows.series
        received = rows.columns["received_ms"]
        assert isinstance(received, Ints)
        gaps: list[Gap] = []
        for back_ms in list(self._backs_ms)[last.absences - self._absences :]:
            after = received.values >= back_ms
            if not after.all():
                [end] = _ends(rows.take(~after))
                self._advance(series, *end)
            beyond = np.flatnonzero(after & (rows.key > last.key))
            if not len(beyond):
                return gaps  # nothing is learnt of this absence yet
            gaps += [Gap(series, hole) for hole in _holes(last, rows.take(beyond[:1]))]
            last.absences += 1
            [end] = _ends(rows.take(beyond[:1]))
            self._advance(series, *end)
        last.absences = self._absences
        [end] = _ends(rows)
        self._advance(series, *end)
        return gaps


def _ends(batch: Batch) -> list[tuple[int, int]]:
    """Key and time of the last row of each series; of one that may still change, of the row before it."""
    at = batch.offsets[1:] - 1
    ends = list(zip(batch.key[at].tolist(), batch.time_ms[at].tolist(), strict=True))
    for position in np.flatnonzero(live_rows(batch)[at]).tolist():
        interval = batch.series[position].interval
        assert interval is not None, "what changes stands on a grid"
        before = _open_before(ends[position][0], interval)
        ends[position] = before, before
    return ends


def _open_before(open_ms: int, interval: str) -> int:
    length = INTERVALS_MS[interval]
    return open_ms - length if length is not None else floor_open_ms(open_ms - 1, interval)


def _holes(last: _Last, first: Batch) -> list[Hole]:
    """What must or may lie between the last row before and the first one after."""
    dataset, [series] = first.dataset, first.series
    key, time_ms = int(first.key[0]), int(first.time_ms[0])
    span = Span(min(last.time_ms, time_ms), max(last.time_ms, time_ms) + 1)
    if isinstance(dataset.continuity, MaxSilence | Sparse):
        return [Hole(span.start_ms, span.end_ms, None, last.key, key, "unknown")]
    columns = _side_by_side(dataset, last, first)
    return dataset.continuity.holes(columns, key=dataset.key[0], time=dataset.time, span=span, interval=series.interval)


def _side_by_side(dataset: Dataset, last: _Last, first: Batch) -> Columns:
    """The two rows as audited columns; what nobody remembers of the earlier one no rule asks for."""
    remembered = {dataset.time: last.time_ms, dataset.key[0]: last.key}
    columns = {}
    for name in dataset.audited_columns:
        column = first.columns[name]
        if isinstance(column, Ints):
            columns[name] = np.array([remembered.get(name, -1), int(column.filled(-1)[0])], np.int64)
    return columns
