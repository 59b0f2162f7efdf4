"""Ids that the venue burned: a stream tells of them by rows of their own, history leaves them out.

Two rows that came in one answer of a source stand side by side there, so what few ids lie between them were burned,
unless it leaves out more than the venue ever burns. Rows of different answers, or of the stream, say nothing of what
lies between.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from data_manager.domain.batch import STREAM, Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.holes.continuity import Hole, Numbered
from data_manager.domain.values.columns import Texts
from data_manager.ports import SeriesStore

_ROWS_AT_ONCE: Final = 200_000


async def less_burned(store: SeriesStore, series: Series, holes: Sequence[Hole]) -> list[Hole]:
    """The holes without those that are burned ids. Looks at rows only where some may be; holes in order of key."""
    dataset = DATASETS[series.dataset]
    if not isinstance(dataset.continuity, Numbered) or not dataset.continuity.burned:
        return list(holes)
    most = dataset.continuity.burned
    few = {one.after: one for one in holes if one.after is not None and one.missing is not None and one.missing <= most}
    at, last = min(few, default=0) - 1, max(few, default=-1)
    burned: dict[str, list[Hole]] = defaultdict(list)
    held: Counter[str] = Counter()
    while few and at < last:
        rows = await store.scan(series, None, columns=(*dataset.key, "origin"), limit=_ROWS_AT_ONCE, after=at)
        _side_by_side(rows, few, burned, held)
        if len(rows) < _ROWS_AT_ONCE:
            break
        at = int(rows.key[-2])  # the last one's neighbour is in the next part
    rule = dataset.continuity
    gone = {one.after for word, some in burned.items() if rule.may_be_burned(_ids(some), held[word]) for one in some}
    return [one for one in holes if one.after not in gone]


def _ids(holes: Sequence[Hole]) -> int:
    return sum(one.missing or 0 for one in holes)


def _side_by_side(rows: Batch, few: dict[int, Hole], burned: dict[str, list[Hole]], held: Counter[str]) -> None:
    """Holes between two rows of one answer into burned, and its rows counted into held, by the name of the answer."""
    origin = rows.columns["origin"]
    assert isinstance(origin, Texts)
    history = np.array([word != STREAM for word in origin.words], np.bool_)
    if len(rows) < 2 or not history.any():
        return
    for code, count in enumerate(np.bincount(origin.codes[origin.codes >= 0]).tolist()):
        held[origin.words[code]] += count
    one, other = origin.codes[:-1], origin.codes[1:]
    beside = np.flatnonzero((one == other) & history[one] & (np.diff(rows.key) > 1))
    for key, code in zip(rows.key[beside].tolist(), one[beside].tolist(), strict=True):
        if key in few:
            burned[origin.words[code]].append(few[key])
