"""Every store against the model: any sequence of appends, folds, drops, reopenings and questions."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from data_manager.adapters.mongo.store import open_mongo
from data_manager.adapters.store import folding
from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.adapters.store.readonly import ReadOnlyStore
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.ports import SeriesStore
from tests.contract.rows import BASE_MS, batch_of, candle, depth_update, liquidation, mixed, trade
from tests.memory import MemoryStore
from tests.mongo_server import AnyServer, forget

T = TypeVar("T")
SYMBOLS = ["BTCUSDT", "ETHUSDT", "币安人生USDT"]
numbers = st.integers(0, 60)
trades = st.lists(
    st.builds(trade, numbers, st.sampled_from(SYMBOLS), st.sampled_from(["1.5", "1.50", "-0", "1e-3", "2"])),
    min_size=1,
    max_size=30,
)
candles = st.lists(
    st.builds(candle, st.integers(0, 12), st.sampled_from(["2.0", "2.00", "3"]), closed=st.booleans(), late_ms=st.integers(0, 3)),
    min_size=1, max_size=8,
)  # fmt: skip
liquidations = st.lists(
    st.builds(liquidation, st.integers(0, 6), st.sampled_from(["1", "1.0", "2"])), min_size=1, max_size=8
)
updates = st.lists(st.builds(depth_update, numbers), min_size=1, max_size=12)
origins = st.sampled_from(["stream", "stream", "rest:klines", "reconcile:1"])
batches = st.one_of(
    trades.map(batch_of),
    updates.map(batch_of),
    liquidations.map(batch_of),
    st.builds(batch_of, candles, origins),
    st.builds(lambda one, other, origin: mixed([batch_of(one), batch_of(other, origin)]), candles, candles, origins),
)
SERIES = [
    *(Series("um", "trade", symbol) for symbol in SYMBOLS),
    Series("um", "candle", "BTCUSDT", "1m"),
    Series("um", "liquidation", "BTCUSDT"),
    Series("um", "depth_update", "BTCUSDT"),
]


class StoreMachine(RuleBasedStateMachine):
    """Everything a store and the model are told, and that they answer alike. Subclasses open the store."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model = MemoryStore()
        self.store: SeriesStore

    async def opened(self) -> SeriesStore:
        """The store that the machine writes to."""
        raise NotImplementedError

    async def reading(self) -> SeriesStore:
        """The same rows as another process reads them."""
        raise NotImplementedError

    def done(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work came to."""
        return self.loop.run_until_complete(work)

    @rule(batch=batches)
    def append(self, batch: Batch) -> None:
        assert self.done(self.store.append(batch)) == self.done(self.model.append(batch))

    @rule(series=st.sampled_from(SERIES), start=numbers, length=st.integers(1, 40))
    def drop(self, series: Series, start: int, length: int) -> None:
        span = Span(BASE_MS + start * 10, BASE_MS + (start + length) * 10)
        assert self.done(self.store.drop(series, span)) == self.done(self.model.drop(series, span))

    @rule()
    def reopen(self) -> None:
        self.done(self.store.close())
        self.store = self.done(self.opened())

    @rule(
        series=st.sampled_from(SERIES), start=numbers, length=st.integers(1, 700), limit=st.none() | st.integers(0, 20),
        offset=st.integers(0, 5), descending=st.booleans(), after=st.none() | st.integers(-5, 60),
    )  # fmt: skip
    def ask(self, series: Series, start: int, length: int, limit: int | None, offset: int, descending: bool, after: int | None) -> None:  # fmt: skip
        span = Span(BASE_MS + start * 10 - 300, BASE_MS + (start + length) * 10)
        answers = [
            self.done(one.scan(series, span, limit=limit, offset=offset, descending=descending, after=after)).rows()
            for one in (self.store, self.model)
        ]
        assert answers[0] == answers[1]

    @rule()
    def another_process_reads_the_same(self) -> None:
        reader = self.done(self.reading())
        for series in SERIES:
            assert self.done(reader.scan(series)).rows() == self.held(series)
        assert self.done(reader.series()) == self.done(self.model.series())
        self.done(reader.close())

    @invariant()
    def both_hold_the_same(self) -> None:
        for series in SERIES:
            assert self.done(self.store.scan(series)).rows() == self.held(series)
            assert self.done(self.store.live(series)).rows() == self.done(self.model.live(series)).rows()
            assert self.done(self.store.extent(series)) == self.done(self.model.extent(series))

    def held(self, series: Series) -> list[dict[str, object]]:
        return self.done(self.model.scan(series)).rows()

    def teardown(self) -> None:
        self.done(self.store.close())
        self.loop.close()


class EmbeddedMachine(StoreMachine):
    """The embedded store, folding as often as the example says."""

    @initialize(rows=st.sampled_from([1, 7, 10_000]))
    def open(self, rows: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.fold_at = FoldAt(rows=rows)
        self.store: EmbeddedStore = self.done(self.opened())

    async def opened(self) -> EmbeddedStore:
        return EmbeddedStore(Path(self.folder.name), 1 << 16, self.fold_at)

    async def reading(self) -> SeriesStore:
        return ReadOnlyStore(Path(self.folder.name), 1 << 16)

    @rule(dataset=st.sampled_from(["trade", "candle", "liquidation", "depth_update"]))
    def fold(self, dataset: str) -> None:
        self.done(self.store.fold(DATASETS[dataset]))

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class MongoMachine(StoreMachine):
    """MongoDB, each example in a database of its own."""

    def __init__(self, server: AnyServer) -> None:
        super().__init__()
        self.access = server.access()

    @initialize()
    def open(self) -> None:
        self.store = self.done(self.opened())

    async def opened(self) -> SeriesStore:
        return await open_mongo(self.access)

    async def reading(self) -> SeriesStore:
        return await open_mongo(self.access)

    def teardown(self) -> None:
        super().teardown()
        forget(self.access)


class SmallChunks(EmbeddedMachine):
    """The same with chunks of a handful of rows, so that every boundary is met."""

    def __init__(self) -> None:
        super().__init__()
        self.before = folding.ROWS_MAX, folding.ROWS_MIN
        folding.ROWS_MAX, folding.ROWS_MIN = 5, 1

    def teardown(self) -> None:
        super().teardown()
        folding.ROWS_MAX, folding.ROWS_MIN = self.before


TestEmbeddedMachine = EmbeddedMachine.TestCase
TestEmbeddedMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestSmallChunks = SmallChunks.TestCase
TestSmallChunks.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_mongo_against_the_model(mongo_server: AnyServer) -> None:
    few = settings(max_examples=10, stateful_step_count=15, deadline=None)
    run_state_machine_as_test(lambda: MongoMachine(mongo_server), settings=few)
