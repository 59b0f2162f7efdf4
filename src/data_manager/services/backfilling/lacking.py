"""What a source lacks, by its own answer: the dataset's rule of continuity, asked of the rows that it gave.

Where it lacks rows, the request, the digest of the answer and its time are the evidence. Nothing is claimed of instants
whose rows may still be on their way into the source, and where it gave as many rows that were refused, these may be the
ones: that is in doubt.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct

from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.holes.continuity import Grid, Hole, Numbered, Schedule
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


class Lack(Struct, frozen=True):
    """What an answer lacks, and how many ids it leaves out that the venue burned."""

    absent: tuple[Absent, ...] = ()
    burned: int = 0


def lacking(
    series: Series,
    wanted: Wanted,
    offer: Offer,
    fetched: Fetched,
    before: Edge | None,
    now_ms: int,
    *,
    may_burn: bool = True,
) -> Lack:
    """Where the answer lacks rows that must exist. before: the last row of the answer before it, if that touches it.

    may_burn: whether ids it leaves out may be such as the venue burned.
    """
    settled = _settled(series, fetched.span, now_ms)
    if settled is None:
        return Lack()
    continuity, burned = DATASETS[series.dataset].continuity, 0
    if isinstance(continuity, Numbered):
        holes, burned = _of_ids(wanted, fetched, before, continuity, may_burn)
        if before is not None:  # what is missed between two answers may have happened in the span of the first
            settled = Span(min(settled.start_ms, before.time_ms), settled.end_ms)
    elif isinstance(continuity, Grid | Schedule):
        inside = fetched.rows.time_ms < settled.end_ms
        holes = holes_of(series, fetched.rows.take(inside), settled)
        alone = isinstance(continuity, Schedule) and not len(fetched.rows)
        if alone and None not in (wanted.after, wanted.before):  # its step cannot be told from nothing
            holes = [Hole(settled.start_ms, settled.end_ms, None, wanted.after, wanted.before, "schedule")]
    else:
        nothing = not len(fetched.rows)
        holes = [Hole(settled.start_ms, settled.end_ms, None, None, None, "silence")] if nothing else []
    refused, doubt = fetched.broken, None
    if refused and sum(one.missing or 1 for one in holes) <= refused:
        doubt = f"{offer.call} gave {refused} rows that break a rule"
    absent = (
        Absent(part.start_ms, part.end_ms, hole.missing, offer.call, fetched.evidence, hole.after, hole.before, doubt)
        for hole in holes
        for part in intersection([Span(hole.start_ms, hole.end_ms)], [settled])
    )
    return Lack(tuple(absent), burned)


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


def _of_ids(
    wanted: Wanted, fetched: Fetched, before: Edge | None, rule: Numbered, may_burn: bool
) -> tuple[list[Hole], int]:
    """Jumps in the ids: inside the answer, from the answer before it, and from and to the rows held around the hole.

    Ids left out between two rows of the answer that the rule takes for burned are none; how many these are.
    """
    rows, span = fetched.rows, fetched.span
    if not len(rows) and before is None and wanted.after is None and wanted.before is None:
        return [Hole(span.start_ms, span.end_ms, None, None, None, "ids")], 0
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
    if not rule.burned or not may_burn:
        return holes, 0
    own = set(rows.key.tolist())
    few = {one for one in holes if one.after in own and one.before in own and (one.missing or 0) <= rule.burned}
    burned = sum(one.missing or 0 for one in few)
    if burned <= fetched.broken or not rule.may_be_burned(burned, len(rows)):
        return holes, 0
    return [one for one in holes if one not in few], burned
