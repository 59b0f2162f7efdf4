"""Silences that are long for a series: a thin symbol is not missing because others trade more.

Each is held against the pauses before it, as far as the store holds any: so it is judged alike whichever audit does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import DamagedRows
from data_manager.domain.holes.continuity import PAUSES, Hole, MaxSilence
from data_manager.domain.span import Span
from data_manager.domain.time import EARLIEST_MS, LATEST_MS
from data_manager.ports import SeriesStore
from data_manager.services.auditing.judging import Times, as_fine_as_lost

_IN_A_THREAD: Final = 1_000  # silences whose judgement would hold up the event loop


async def less_usual(store: SeriesStore, series: Series, holes: Sequence[Hole], rows: Batch, span: Span) -> list[Hole]:
    """The holes without those that are no longer than the series is silent anyway; holes in order of time.

    rows: those in which the holes were found. span: what is spoken of; a silence at its edge may go on beyond. What
    rows do not tell is asked of the store.
    """
    rule = DATASETS[series.dataset].continuity
    if not isinstance(rule, MaxSilence) or not holes:
        return list(holes)
    times, begins_ms, ends_ms = _times(series, rows), holes[0].start_ms, holes[-1].end_ms
    if len(times):
        begins_ms, ends_ms = min(begins_ms, int(times[0])), max(ends_ms, int(times[-1]) + 1)
    short = np.searchsorted(times, holes[0].start_ms) <= PAUSES
    if short and begins_ms > EARLIEST_MS:
        before = await _asked(store, series, Span(EARLIEST_MS, begins_ms), PAUSES + 1, descending=True)
        times = np.concatenate([before, times])
    if (short or span.end_ms <= holes[-1].end_ms) and ends_ms < LATEST_MS:
        times = np.concatenate([times, await _asked(store, series, Span(ends_ms, LATEST_MS), PAUSES)])
    if len(holes) < _IN_A_THREAD:
        return _long(rule, holes, times, span)
    return await asyncio.to_thread(_long, rule, holes, times, span)


def _long(rule: MaxSilence, holes: Sequence[Hole], times: Times, span: Span) -> list[Hole]:
    long = []
    for hole in holes:
        at = int(np.searchsorted(times, hole.start_ms))
        begun = at > 0 and (hole.after is not None or hole.start_ms <= span.start_ms)
        ended = at < len(times) and (hole.before is not None or hole.end_ms >= span.end_ms)
        start_ms = int(times[at - 1]) if begun else hole.start_ms
        end_ms = int(times[at]) if ended else hole.end_ms
        pauses = np.diff(times[max(0, at - PAUSES - 1) : at])
        if len(pauses) < PAUSES:  # so near the beginning of the series what follows tells too
            pauses = np.concatenate([pauses, np.diff(times[at : at + PAUSES - len(pauses)])])
        if end_ms - start_ms > rule.patience_ms(pauses):
            long.append(hole)
    return long


async def _asked(store: SeriesStore, series: Series, span: Span, limit: int, *, descending: bool = False) -> Times:
    """Times of rows, ascending; none where they cannot be read, of which the audit of these rows speaks."""
    try:
        rows = await store.scan(series, span, columns=_names(series), limit=limit, descending=descending)
    except DamagedRows:
        return np.empty(0, np.int64)
    return _times(series, rows)


def _times(series: Series, rows: Batch) -> Times:
    return np.sort(as_fine_as_lost(DATASETS[series.dataset], rows).time_ms)


def _names(series: Series) -> tuple[str, ...]:
    dataset = DATASETS[series.dataset]
    return (*dataset.audited_columns, *(("origin",) if dataset.coarse else ()))
