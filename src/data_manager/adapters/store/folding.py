"""The fold: recent rows of one dataset become chunks, series by series.

A series' recent rows join the chunks they overlap, and the last chunk as long as that is not much larger than they
are: so small chunks grow by doubling, and a row is rewritten a few times in all, not at every fold. What results is
cut into chunks of bounded size. A damaged chunk joins nothing: it stays as it is, and what comes
after it is kept apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    """Recent rows of one series, oldest piece first, as chunks. refs: all its chunks, ascending."""
    rows = settle(joined(recent)) if len(recent) > 1 else recent[0]
    gone: list[ChunkRef] = []
    new: list[NewChunk] = []
    for part, before in _by_chunk(rows, refs):
        absorbed = dict(_readable(_absorbed(part, before), list(part.columns), load))
        gone.extend(absorbed)
        new.extend(cut(settle(joined([*absorbed.values(), part])) if absorbed else part))
    return Folded(series, gone, new)


def _readable(refs: Sequence[ChunkRef], names: Sequence[str], load: Load) -> Iterator[tuple[ChunkRef, Batch]]:
    """The chunks' rows; of those that can be read."""
    for ref in refs:
        try:
            yield ref, load(ref, names)
        except Corrupt as error:
            _log.error("a damaged chunk is left as it is", reason=str(error))


def _by_chunk(rows: Batch, refs: Sequence[ChunkRef]) -> Iterator[tuple[Batch, Sequence[ChunkRef]]]:
    """Rows parted at the chunks' first keys: one late row must not drag in every chunk after it.

    Each part comes with the chunks it may join, the nearest last; only the newest part may join more than one.
    """
    starts = np.array([ref.first_key for ref in refs], np.int64)
    slots = np.searchsorted(starts, rows.key, side="right") - 1
    for slot in np.unique(slots).tolist():
        part = rows.take(slots == slot)
        newest = slot == len(refs) - 1
        yield part, refs[: slot + 1] if newest else refs[max(slot, 0) : slot + 1]


def _absorbed(rows: Batch, before: Sequence[ChunkRef]) -> list[ChunkRef]:
    """The chunks among `before` that these rows join: the one they overlap, and small ones."""
    joins: list[ChunkRef] = []
    size = len(rows)
    for ref in reversed(before):
        overlaps = ref.last_key >= int(rows.key[0])
        if not overlaps and (ref.rows > 2 * size or size + ref.rows > ROWS_MAX):
            break
        joins.append(ref)
        size += ref.rows
    return joins[::-1]


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
