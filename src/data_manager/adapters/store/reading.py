"""Reading one series: which segments hold the answer, in which order, and no more of them than needed.

A segment is a chunk on disk or a slice of a recent batch: sorted by key, no key twice. Segments whose key ranges
overlap form a cluster and are settled together; clusters follow one another. A question walks the clusters from the
end it wants and stops as soon as it has enough rows.

    chunk  chunk  chunk  recent  recent
    |----| |----| |-----------|            the last chunk and the late recent rows: one cluster
                     |----|    |-----|
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from msgspec import Struct

from data_manager.domain.batch import Batch, empty, joined, settle
from data_manager.domain.dataset import Dataset, Keep, Series
from data_manager.domain.span import Span


class ChunkRef(Struct, frozen=True):
    """A chunk as the directory knows it. Keys and times are inclusive on both sides."""

    id: int
    first_key: int
    last_key: int
    first_ms: int
    last_ms: int
    rows: int


Segment = ChunkRef | Batch
Load = Callable[[ChunkRef, Collection[str]], Batch]
"""The named columns of a chunk, as a batch of its series."""


class Question(Struct, frozen=True, kw_only=True):
    """What to read of one series. The defaults read everything, ascending."""

    span: Span | None = None
    columns: Sequence[str] | None = None
    limit: int | None = None
    offset: int = 0
    descending: bool = False
    after: int | None = None  # only keys beyond this one, in the direction of reading
    keys: tuple[int, int] | None = None  # only first keys from … to …, both inclusive


def read(dataset: Dataset, series: Series, segments: Sequence[Segment], load: Load, question: Question) -> Batch:
    """The rows that answer the question, in the order it asks for."""
    names = list(question.columns or [field.name for field in dataset.fields])
    placed = [*dict.fromkeys((*names, *dataset.key, dataset.time))]
    found: list[Batch] = []
    missing = None if question.limit is None else question.offset + question.limit
    wanted = [segment for segment in segments if _may_hold(segment, question)]
    for cluster in _in_order(clusters(wanted), question.descending):
        rows = _filtered(_settled(dataset, cluster, placed, load), question, missing)
        found.append(rows)
        if missing is not None:
            missing -= len(rows)
            if missing <= 0:
                break
    if not found:
        return empty(dataset, (series,), names)
    if question.descending:
        found.reverse()
    return _cut(joined(found), question).select(names)


def clusters(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments grouped by overlapping key ranges, in key order; inside a cluster in the order given."""
    order = sorted(range(len(segments)), key=lambda position: _range(segments[position])[0])
    grouped: list[list[int]] = []
    reach = None
    for position in order:
        first, last = _range(segments[position])
        if reach is not None and first <= reach:
            grouped[-1].append(position)
            reach = max(reach, last)
        else:
            grouped.append([position])
            reach = last
    return [[segments[position] for position in sorted(group)] for group in grouped]


def _range(segment: Segment) -> tuple[int, int]:
    if isinstance(segment, ChunkRef):
        return segment.first_key, segment.last_key
    return int(segment.key[0]), int(segment.key[-1])


def _to_settle(dataset: Dataset) -> list[str]:
    """Columns needed, besides key and time, to tell which of two rows with one key stays."""
    final = ["event_ms", "origin"] if dataset.on_conflict is Keep.FINAL else []
    return [*final, *([dataset.live] if dataset.live else [])]


def _may_hold(segment: Segment, question: Question) -> bool:
    first, last = _range(segment)
    if question.keys is not None and (last < question.keys[0] or first > question.keys[1]):
        return False
    if question.after is not None and (first >= question.after if question.descending else last <= question.after):
        return False
    if question.span is None:
        return True
    if isinstance(segment, Batch):  # its times are known at once only where they are its keys
        by_time = segment.dataset.key[0] == segment.dataset.time
        return not by_time or (last >= question.span.start_ms and first < question.span.end_ms)
    return segment.last_ms >= question.span.start_ms and segment.first_ms < question.span.end_ms


def _in_order(groups: list[list[Segment]], descending: bool) -> Iterator[list[Segment]]:
    return reversed(groups) if descending else iter(groups)


def _rows(segment: Segment, names: Sequence[str], load: Load) -> Batch:
    return load(segment, names) if isinstance(segment, ChunkRef) else segment.select(names)


def _settled(dataset: Dataset, cluster: list[Segment], names: Sequence[str], load: Load) -> Batch:
    """The named columns of a cluster's rows. One segment is settled as it is: who looks at keys reads nothing else."""
    if len(cluster) == 1:
        return _rows(cluster[0], names, load)
    needed = [*dict.fromkeys((*names, *_to_settle(dataset)))]
    return settle(joined([_rows(segment, needed, load) for segment in cluster])).select(names)


def _filtered(rows: Batch, question: Question, most: int | None) -> Batch:
    """The rows that answer the question, the first most of them in the direction of reading, in key order."""
    mask = np.ones(len(rows), np.bool_)
    if question.span is not None:
        mask &= (rows.time_ms >= question.span.start_ms) & (rows.time_ms < question.span.end_ms)
    if question.keys is not None:
        mask &= (rows.key >= question.keys[0]) & (rows.key <= question.keys[1])
    if question.after is not None:
        mask &= rows.key < question.after if question.descending else rows.key > question.after
    end = slice(None) if most is None else slice(-most, None) if question.descending else slice(0, most)
    return rows.take(end) if mask.all() else rows.take(np.flatnonzero(mask)[end])


def _cut(rows: Batch, question: Question) -> Batch:
    end = None if question.limit is None else question.offset + question.limit
    if not question.descending:
        return rows.take(slice(question.offset, end)) if question.offset or end is not None else rows
    order = np.arange(len(rows))[::-1][question.offset : end]
    return rows.take(order)
