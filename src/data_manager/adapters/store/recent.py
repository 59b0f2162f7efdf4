"""Recent rows: what the journal holds, decoded, until a fold moves it into chunks.

One Recent per dataset: an immutable list of settled batches, oldest first. Readers take the list as it stands and
never wait; the writer replaces it. Small flushes are merged by sixteens, so that a reader never looks through
thousands of three-row batches; nobody waits for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np

from data_manager.domain.batch import Batch, joined, settle
from data_manager.domain.dataset import Series

_FAN_IN = 16
_SMALL_ROWS = 4096
_SLICES_MAX = 1024
"""Slices of a piece are kept for those who ask again; each is 2 kB, and an audit asks for every series there is."""
_THIN_ROWS = 256
"""Per series: below this, cutting a piece apart costs more than joining it with its neighbours before."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One settled batch and how often it was merged. until: the last journal entry it holds rows of."""

    batch: Batch
    until: int
    level: int = 0

    @cached_property
    def position(self) -> dict[Series, int]:
        """Where each series stands in the batch."""
        return {series: position for position, series in enumerate(self.batch.series)}

    @cached_property
    def series(self) -> frozenset[Series]:
        """Those that it holds rows of."""
        return frozenset(self.batch.series[at] for at in np.flatnonzero(np.diff(self.batch.offsets)).tolist())

    @cached_property
    def size_bytes(self) -> int:
        """See Batch.size_bytes."""
        return self.batch.size_bytes

    @property
    def thin(self) -> bool:
        """Whether it holds few rows of each series."""
        return len(self.batch) < _THIN_ROWS * len(self.batch.series)

    @cached_property
    def _slices(self) -> dict[int, Batch]:
        return {}

    def rows_of(self, series: Series) -> Batch | None:
        """The rows of one series, None when there are none."""
        position = self.position.get(series)
        if position is None:
            return None
        rows = self._slices.get(position)
        if rows is None:
            if len(self._slices) >= _SLICES_MAX:
                self._slices.clear()
            rows = self._slices[position] = self.batch.of(position)
        return rows if len(rows) else None


@dataclass(frozen=True, eq=False)
class Recent:
    """The pieces of one dataset that are in the journal and not yet in chunks."""

    pieces: tuple[Piece, ...] = ()
    entries: int = 0  # journal entries behind them
    sealed: int = 0  # a fold has taken the entries up to this one: their pieces stay as they are
    rows: int = field(init=False)
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", sum(len(piece.batch) for piece in self.pieces))
        object.__setattr__(self, "size_bytes", sum(piece.size_bytes for piece in self.pieces))

    @property
    def until(self) -> int:
        """The last journal entry, 0 when there is none."""
        return self.pieces[-1].until if self.pieces else 0

    def of(self, series: Series) -> list[Batch]:
        """The rows of one series, piece by piece, oldest piece first."""
        return [rows for piece in self.pieces if (rows := piece.rows_of(series)) is not None]

    def series(self) -> set[Series]:
        """Those that it holds rows of."""
        return set().union(*(piece.series for piece in self.pieces))

    def gathered(self) -> Recent:
        """The same rows with neighbouring thin pieces as one: for a fold, which takes every piece apart by series."""
        pieces: list[Piece] = []
        for thin, run in groupby(self.pieces, key=lambda piece: piece.thin):
            some = [*run]
            if thin and len(some) > 1:
                some = [Piece(settle(joined([piece.batch for piece in some])), some[-1].until)]
            pieces += some
        return Recent(tuple(pieces), self.entries, self.sealed)

    def with_entry(self, batch: Batch, entry: int) -> Recent:
        """The same and one more journal entry."""
        return Recent((*self.pieces, Piece(batch, entry)), self.entries + 1, self.sealed)

    def untidy(self) -> bool:
        """Whether there are small pieces to merge."""
        return len(_tail_run(self.pieces, self.sealed)) >= _FAN_IN

    def tidied(self) -> Recent:
        """The same rows with small pieces merged."""
        pieces = [*self.pieces]
        while len(run := _tail_run(pieces, self.sealed)) >= _FAN_IN:
            merged = settle(joined([piece.batch for piece in run]))
            pieces[-len(run) :] = [Piece(merged, run[-1].until, run[0].level + 1)]
        return Recent(tuple(pieces), self.entries, self.sealed)

    def seal(self) -> Recent:
        """The same, about to be folded."""
        return Recent(self.pieces, self.entries, self.until)

    def without(self, folded: Recent) -> Recent:
        """What came after `folded` was taken: a fold has moved those rows into chunks."""
        rest = tuple(piece for piece in self.pieces if piece.until > folded.until)
        return Recent(rest, self.entries - folded.entries, self.sealed)


def _tail_run(pieces: Sequence[Piece], sealed: int) -> list[Piece]:
    """The small pieces of one level at the end of the list that no fold has taken."""
    run: list[Piece] = []
    for piece in reversed(pieces):
        if piece.until <= sealed or piece.level != pieces[-1].level or len(piece.batch) >= _SMALL_ROWS:
            break
        run.append(piece)
    return run[::-1]
