"""The fold: recent rows of one dataset become chunks, series by series.

A series' recent rows join the chunks they overlap, and the last chunk as long as that is not much larger than they
are: so small chunks grow by doubling, and a row is rewritten a few times in all, not at every fold. What results is
cut into chunks of bounded size. No two chunks of a series overlap, but where one is damaged: it joins nothing and
stays as it is, and what comes after it is kept apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import structlog
from msgspec import Struct

from data_manager.adapters.store.chunks import encode
from data_manager.adapters.store.reading import ChunkRef, Load
from data_manager.domain.batch import Batch, joined, settle
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Corrupt

_log = structlog.get_logger(__name__)
ROWS_MAX = 16_384
ROWS_MIN = 64
BYTES_MAX = 4 * 1024 * 1024  # decoded; books have many numbers per row


class NewChunk(Struct, frozen=True):
    """A chunk about to be written: its directory entry (id 0 until it has one) and its two blobs."""

    ref: ChunkRef
    keys: bytes
    rest: bytes


class Folded(Struct, frozen=True):
    """What a fold does to one series: these chunks go, those come."""

    series: Series
    gone: Sequence[ChunkRef]
    new: Sequence[NewChunk]


def fold(series: Series, recent: Sequence[Batch], refs: Sequence[ChunkRef], load: Load) -> Folded:
    """Recent rows of one series, oldest piece first, as chunks. refs: all its chunks, ascending.

    Rows are parted at the chunks' first keys: one late row must not drag in every chunk after it. A part may join the
    chunk whose keys it is among. Only the newest part may join more than that, and then it takes the late rows of
    those with it: a chunk is rewritten by one part alone.
    """
    rows = settle(joined(recent)) if len(recent) > 1 else recent[0]
    starts = np.array([ref.first_key for ref in refs], np.int64)
    slots = np.searchsorted(starts, rows.key, side="right") - 1
    newest = rows.take(slots >= len(refs) - 1)
    merged = _absorbed(newest, refs, load) if len(newest) else {}
    tail = len(refs) - max(1, len(merged))
    gone = list(merged)
    new: list[NewChunk] = []
    for slot in np.unique(slots[slots < tail]).tolist():
        part = rows.take(slots == slot)
        absorbed = _absorbed(part, refs[slot : slot + 1] if slot >= 0 else (), load)
        gone.extend(absorbed)
        new.extend(_together(absorbed, part))
    new.extend(_together(merged, rows.take(slots >= tail)))
    return Folded(series, gone, new)


def _together(absorbed: Mapping[ChunkRef, Batch], part: Batch) -> Iterator[NewChunk]:
    return cut(settle(joined([*absorbed.values(), part])) if absorbed else part)


def _absorbed(part: Batch, before: Sequence[ChunkRef], load: Load) -> dict[ChunkRef, Batch]:
    """The chunks at the end of `before` that these rows join, ascending, with their rows: the one they overlap, and
    small ones. A damaged one, and what lies before it, joins nothing.
    """
    joins: dict[ChunkRef, Batch] = {}
    size = len(part)
    for ref in reversed(before):
        overlaps = ref.last_key >= int(part.key[0])
        if not overlaps and (ref.rows > 2 * size or size + ref.rows > ROWS_MAX):
            break
        try:
            joins[ref] = load(ref, list(part.columns))
        except Corrupt as error:
            _log.error("a damaged chunk is left as it is", reason=str(error))
            break
        size += ref.rows
    return dict(reversed(joins.items()))


def cut(rows: Batch) -> Iterator[NewChunk]:
    """Chunks of bounded size; rows that share a first key stay together."""
    per_row = max(1, rows.size_bytes // max(1, len(rows)))
    step = max(ROWS_MIN, min(ROWS_MAX, BYTES_MAX // per_row))
    start = 0
    while start < len(rows):
        end = min(start + step, len(rows))
        while end < len(rows) and rows.key[end] == rows.key[end - 1]:
            end += 1
        yield _chunk(rows.take(slice(start, end)))
        start = end


def _chunk(rows: Batch) -> NewChunk:
    dataset: Dataset = rows.dataset
    keys = set(dataset.audited_columns)
    ref = ChunkRef(0, int(rows.key[0]), int(rows.key[-1]), int(rows.time_ms.min()), int(rows.time_ms.max()), len(rows))
    return NewChunk(
        ref,
        encode({name: column for name, column in rows.columns.items() if name in keys}, "zstd"),
        encode({name: column for name, column in rows.columns.items() if name not in keys}, "zstd"),
    )
