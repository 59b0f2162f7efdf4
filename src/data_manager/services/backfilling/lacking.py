"""What a source lacks, by its own answer: the dataset's rule of continuity, asked of the rows that it gave.

Where it lacks rows, the request, the digest of the answer and its time are the proof. Nothing is claimed of instants
whose rows may still be on their way into the source.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from data_manager.domain.continuity import Grid, Hole, Numbered, Schedule
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.job import Absent
from data_manager.domain.span import Span, intersection
from data_manager.domain.time import HOUR_MS
from data_manager.ports.source import Fetched, Offer, Wanted
from data_manager.services.audit import GRACE_MS
from data_manager.services.auditing.judging import holes_of


class Edge(Struct, frozen=True):
    """The last row of what went before: its key and its time."""

    key: int
    time_ms: int


def lacking(
    series: Series, wanted: Wanted, offer: Offer, fetched: Fetched, before: Edge | None, now_ms: int
) -> tuple[Absent, ...]:
    """Where the answer lacks rows that must exist. before: the last row of the answer before it, if that touches it."""
    settled = _settled(series, fetched.span, now_ms)
    if settled is None:
        return ()
    continuity = DATASETS[series.dataset].continuity
    if isinstance(continuity, Numbered):
        holes = _of_ids(wanted, fetched, before, continuity.burned)
    elif isinstance(continuity, Grid | Schedule):
        inside = fetched.rows.time_ms < settled.end_ms
        holes = holes_of(series, fetched.rows.take(inside), settled)
    else:
        nothing = not len(fetched.rows)
        holes = [Hole(settled.start_ms, settled.end_ms, None, None, None, "silence")] if nothing else []
    return tuple(
        Absent(part.start_ms, part.end_ms, hole.missing, offer.call, fetched.evidence)
        for hole in holes
        for part in intersection([Span(hole.start_ms, hole.end_ms)], [settled])
    )


def edge_of(fetched: Fetched, before: Edge | None) -> Edge | None:
    """The last row so far."""
    if not len(fetched.rows):
        return before
    return Edge(int(fetched.rows.key[-1]), int(fetched.rows.time_ms[-1]))


_PUBLISHED_MS: Final = HOUR_MS  # a settlement comes out that late


def _settled(series: Series, span: Span, now_ms: int) -> Span | None:
    """The part of span whose rows any source has by now, if it ever will."""
    late_ms = _PUBLISHED_MS if isinstance(DATASETS[series.dataset].continuity, Schedule) else GRACE_MS
    parts = intersection([span], [Span(0, now_ms - late_ms)])
    return parts[0] if parts else None


def _of_ids(wanted: Wanted, fetched: Fetched, before: Edge | None, burned: int) -> list[Hole]:
    """Jumps in the ids: inside the answer, from the answer before it, and from and to the rows held around the hole.

    burned: so many ids in a row that the answer leaves out are none.
    """
    rows, span = fetched.rows, fetched.span
    if not len(rows) and before is None and wanted.after is None and wanted.before is None:
        return [Hole(span.start_ms, span.end_ms, None, None, None, "ids")]
    keys, times = [rows.key], [rows.time_ms]
    low, high = before, None
    if low is None and wanted.after is not None and span.start_ms == wanted.span.start_ms:
        low = Edge(wanted.after, span.start_ms)
    if wanted.before is not None and span.end_ms == wanted.span.end_ms:
        high = Edge(wanted.before, span.end_ms - 1)
    for edge in (low, high):
        if edge is not None:
            keys.append(np.array([edge.key], np.int64))
            times.append(np.array([edge.time_ms], np.int64))
    every, first = np.unique(np.concatenate(keys), return_index=True)
    dataset = DATASETS[wanted.series.dataset]
    columns = {dataset.key[0]: every, dataset.time: np.concatenate(times)[first]}
    holes = dataset.continuity.holes(columns, key=dataset.key[0], time=dataset.time, span=span)
    own = set(rows.key.tolist()) if burned else set()
    return [one for one in holes if not (one.after in own and one.before in own and (one.missing or 0) <= burned)]
