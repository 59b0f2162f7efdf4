"""Shedding: when the store is about to be full, the least valuable streams are let go, loudly, so that the rest fits.

What can be had again from the venue, or is a view of something else we keep, goes first. Candles, settled funding and
liquidations are never shed: they are small, and strategies stand on them. A stream that is shed comes back when there
is clearly room again, so that it does not flutter.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Final

import structlog

from data_manager.domain.dataset import Dataset
from data_manager.domain.datasets import DATASETS
from data_manager.ports import StoreSizes
from data_manager.services.ingesting.buffer import Rows

ORDER: Final = {one.name: one.shed_from for one in DATASETS.values() if one.shed_from is not None}
"""The share of the bound from which each dataset is shed, by the table of datasets."""

_ROOM: Final = 0.05  # so much further down it is kept again
_log = structlog.get_logger(__name__)

LetGo = Callable[[Dataset, Rows], None]


def nearly_shed(sizes: StoreSizes | None, bytes_max: int) -> frozenset[str]:
    """Datasets that are shed at that size, or would be soon: no room for what was let go. Unknown: all that may be."""
    if not bytes_max:
        return frozenset()
    return frozenset(
        name for name, limit in ORDER.items() if sizes is None or sizes.used_bytes / bytes_max >= limit - _ROOM
    )


class Shedding:
    """Knows what is shed now. look() at the sizes now and then; take() from each flush what must not be stored."""

    def __init__(self, bytes_max: int, let_go: LetGo) -> None:
        """bytes_max: 0 for no bound. let_go is told of every event that is shed."""
        self.names: frozenset[str] = frozenset()
        self._bytes_max = bytes_max
        self._let_go = let_go

    def look(self, sizes: StoreSizes | None) -> None:
        """Decide anew. While the size is not known, what was decided last holds."""
        if not self._bytes_max or sizes is None:
            return
        share = sizes.used_bytes / self._bytes_max
        names = frozenset(
            name for name, limit in ORDER.items() if share >= limit - (_ROOM if name in self.names else 0.0)
        )
        if names != self.names:
            say = _log.error if names > self.names else _log.warning
            say("shedding", streams=sorted(names), used_bytes=sizes.used_bytes, bytes_max=self._bytes_max)
        self.names = names

    def take(self, held: MutableMapping[Dataset, Rows]) -> list[tuple[Dataset, Rows]]:
        """Remove what is shed from what is about to be stored, and tell of it."""
        if not self.names:
            return []
        shed = [(dataset, held.pop(dataset)) for dataset in list(held) if dataset.name in self.names]
        for dataset, rows in shed:
            self._let_go(dataset, rows)
        return shed
