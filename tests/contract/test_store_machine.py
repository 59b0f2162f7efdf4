"""The embedded store against the model: any sequence of appends, folds, drops, reopenings and questions."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from data_manager.adapters.store import folding
from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.adapters.store.readonly import ReadOnlyStore
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from tests.contract.rows import BASE_MS, batch_of, candle, depth_update, liquidation, mixed, trade
from tests.memory import MemoryStore

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
    """Everything both stores are told, and that they answer alike."""

    @initialize(rows=st.sampled_from([1, 7, 10_000]))
    def open(self, rows: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.fold_at = FoldAt(rows=rows)
        self.model = MemoryStore()
        self.store = EmbeddedStore(Path(self.folder.name), 1 << 16, self.fold_at)

    @rule(batch=batches)
    def append(self, batch: Batch) -> None:
        assert self.loop.run_until_complete(self.store.append(batch)) == self.loop.run_until_complete(
            self.model.append(batch)
        )

    @rule(dataset=st.sampled_from(["trade", "candle", "liquidation", "depth_update"]))
    def fold(self, dataset: str) -> None:
        self.loop.run_until_complete(self.store.fold(DATASETS[dataset]))

    @rule(series=st.sampled_from(SERIES), start=numbers, length=st.integers(1, 40))
    def drop(self, series: Series, start: int, length: int) -> None:
        span = Span(BASE_MS + start * 10, BASE_MS + (start + length) * 10)
        dropped = [self.loop.run_until_complete(one.drop(series, span)) for one in (self.store, self.model)]
        assert dropped[0] == dropped[1]

    @rule()
    def reopen(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.store = EmbeddedStore(Path(self.folder.name), 1 << 16, self.fold_at)

    @rule(
        series=st.sampled_from(SERIES), start=numbers, length=st.integers(1, 700), limit=st.none() | st.integers(0, 20),
        offset=st.integers(0, 5), descending=st.booleans(), after=st.none() | st.integers(-5, 60),
    )  # fmt: skip
    def ask(self, series: Series, start: int, length: int, limit: int | None, offset: int, descending: bool, after: int | None) -> None:  # fmt: skip
        span = Span(BASE_MS + start * 10 - 300, BASE_MS + (start + length) * 10)
        answers = [
            self.loop.run_until_complete(
                one.scan(series, span, limit=limit, offset=offset, descending=descending, after=after)
            ).rows()
            for one in (self.store, self.model)
        ]
        assert answers[0] == answers[1]

    @rule()
    def another_process_reads_the_same(self) -> None:
        reader = ReadOnlyStore(Path(self.folder.name), 1 << 16)
        for series in SERIES:
            assert self.loop.run_until_complete(reader.scan(series)).rows() == self.held(series)
        assert self.loop.run_until_complete(reader.series()) == self.loop.run_until_complete(self.model.series())
        self.loop.run_until_complete(reader.close())

    @invariant()
    def both_hold_the_same(self) -> None:
        for series in SERIES:
            assert self.loop.run_until_complete(self.store.scan(series)).rows() == self.held(series)
            assert self.loop.run_until_complete(self.store.live(series)).rows() == (
                self.loop.run_until_complete(self.model.live(series)).rows()
            )
            assert self.loop.run_until_complete(self.store.extent(series)) == (
                self.loop.run_until_complete(self.model.extent(series))
            )

    def held(self, series: Series) -> list[dict[str, object]]:
        return self.loop.run_until_complete(self.model.scan(series)).rows()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
        self.folder.cleanup()


class SmallChunks(StoreMachine):
    """The same with chunks of a handful of rows, so that every boundary is met."""

    def __init__(self) -> None:
        super().__init__()
        self.before = folding.ROWS_MAX, folding.ROWS_MIN
        folding.ROWS_MAX, folding.ROWS_MIN = 5, 1

    def teardown(self) -> None:
        super().teardown()
        folding.ROWS_MAX, folding.ROWS_MIN = self.before


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestSmallChunks = SmallChunks.TestCase
TestSmallChunks.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
