"""A fold rewrites each row once, and leaves no two chunks that overlap, in whatever order the rows came."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.store import folding
from data_manager.adapters.store.answering import chunk_batch
from data_manager.adapters.store.chunks import decode
from data_manager.adapters.store.reading import ChunkRef
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt
from tests.contract.rows import batch_of, trade

SERIES = Series("um", "trade", "BTCUSDT")


class Directory:
    """The chunks of one series as folds leave them, in memory."""

    def __init__(self) -> None:
        self.refs: list[ChunkRef] = []
        self.damaged: set[int] = set()
        self._held: dict[int, folding.NewChunk] = {}

    def fold(self, flushes: Sequence[Batch]) -> folding.Folded:
        """Take these in."""
        done = folding.fold(SERIES, flushes, self.refs, self.load)
        gone = {ref.id for ref in done.gone}
        assert len(gone) == len(done.gone), "a chunk is rewritten twice"
        kept = [ref for ref in self.refs if ref.id not in gone]
        for chunk in done.new:
            ref = ChunkRef(len(self._held), *list(as_tuple(chunk.ref))[1:])
            self._held[ref.id] = chunk
            kept.append(ref)
        self.refs = sorted(kept, key=lambda ref: ref.first_key)
        return done

    def load(self, ref: ChunkRef, names: Collection[str]) -> Batch:
        """See Load."""
        if ref.id in self.damaged:
            raise Corrupt(f"chunk {ref.id}")
        chunk = self._held[ref.id]
        return chunk_batch(DATASETS["trade"], SERIES, ref, {**decode(chunk.keys), **decode(chunk.rest)})

    def ids(self) -> list[int]:
        """Of every row in a sound chunk, chunk by chunk."""
        return [key for ref in self.refs if ref.id not in self.damaged for key in self.load(ref, ()).key.tolist()]

    def require_apart(self, refs: Iterable[ChunkRef]) -> None:
        """Fails when one begins before the one before it ends."""
        for before, ref in pairwise(refs):
            assert before.last_key < ref.first_key, (before, ref)


def as_tuple(ref: ChunkRef) -> Iterator[int]:
    return (getattr(ref, name) for name in ref.__struct_fields__)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "ROWS_MAX", 32)
    monkeypatch.setattr(folding, "ROWS_MIN", 1)


def flushes_of(sizes: Sequence[Sequence[int]], order: Sequence[int]) -> list[list[Batch]]:
    """The trades 0, 1, 2, … in the order given, dealt out: folds of flushes of so many each."""
    numbers = iter(order)
    dealt = [[[next(numbers) for _ in range(size)] for size in fold] for fold in sizes]
    return [[batch_of([trade(number) for number in flush]) for flush in fold] for fold in dealt]


sizes = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=2, max_size=10)


@st.composite
def orders(draw: st.DrawFn) -> list[list[Batch]]:
    """Mostly ascending, with some that are late: what a redelivery looks like."""
    dealt = draw(sizes)
    order = list(range(sum(map(sum, dealt))))
    for _ in range(draw(st.integers(0, 8))):
        number = order.pop(draw(st.integers(0, len(order) - 1)))
        order.insert(draw(st.integers(0, len(order))), number)
    return flushes_of(dealt, order)


@given(folds=orders())
def test_every_row_once_and_no_chunk_in_another(folds: list[list[Batch]]) -> None:
    directory = Directory()
    ids: list[int] = []
    for flushes in folds:
        directory.fold(flushes)
        ids += [key for flush in flushes for key in flush.key.tolist()]
        assert directory.ids() == sorted(ids)
        directory.require_apart(directory.refs)


def test_late_rows_go_with_the_chunk_that_the_newest_rows_take_along() -> None:
    directory = Directory()
    for numbers in ([0, 1, 3, 4, 6], [10, 12]):
        directory.fold([batch_of([trade(number) for number in numbers])])
    assert [ref.rows for ref in directory.refs] == [5, 2]
    directory.fold([batch_of([trade(20)]), batch_of([trade(2), trade(8)])])
    assert directory.ids() == [0, 1, 2, 3, 4, 6, 8, 10, 12, 20]
    directory.require_apart(directory.refs)


@given(folds=orders(), at=st.integers(0, 7), which=st.integers(0, 7))
def test_a_damaged_chunk_stays_and_nothing_is_drawn_across_it(folds: list[list[Batch]], at: int, which: int) -> None:
    directory = Directory()
    ids: list[int] = []
    for turn, flushes in enumerate(folds):
        before = {ref.id: ref for ref in directory.refs}
        done = directory.fold(flushes)
        ids += [key for flush in flushes for key in flush.key.tolist()]
        assert not directory.damaged.intersection(ref.id for ref in done.gone)
        assert directory.ids() == sorted(ids)
        directory.require_apart(ref for ref in directory.refs if ref.id not in directory.damaged)
        for ref in (before[number] for number in directory.damaged if number in before):
            crossed = [one for one in directory.refs if one.first_key < ref.first_key and one.last_key > ref.last_key]
            assert not crossed, (ref, crossed)
        if turn == at:
            ref = directory.refs[which % len(directory.refs)]
            directory.damaged.add(ref.id)
            held = {key for one in directory.refs if one.id == ref.id for key in range(one.first_key, one.last_key + 1)}
            ids = [key for key in ids if key not in held]
