"""What every SeriesStore promises, asked of each: the model, the embedded store, it folding all the time, and MongoDB."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from data_manager.adapters.mongo.store import open_mongo
from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.events import Event
from data_manager.domain.span import Span
from data_manager.ports import Receipt, SeriesStore
from tests.contract.rows import BASE_MS, agg_trade, batch_of, candle, depth_update, liquidation, mixed, trade
from tests.memory import MemoryStore

TRADES = Series("um", "trade", "BTCUSDT")
CANDLES = Series("um", "candle", "BTCUSDT", "1m")
LIQUIDATIONS = Series("um", "liquidation", "BTCUSDT")
FOLD_AT = {"embedded": FoldAt(), "embedded, folding at every flush": FoldAt(rows=1)}


@pytest.fixture(params=["memory", *FOLD_AT, "mongodb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SeriesStore]:
    opened: SeriesStore = MemoryStore()
    if request.param in FOLD_AT:
        opened = EmbeddedStore(tmp_path, 1 << 20, FOLD_AT[request.param])
    if request.param == "mongodb":
        opened = await open_mongo(request.getfixturevalue("mongo_access"))
    yield opened
    await opened.close()


async def ids(store: SeriesStore, **question: object) -> list[int]:
    rows = await store.scan(TRADES, **question)  # type: ignore[arg-type]  # the questions of scan, passed on
    return rows.key.tolist()


async def test_what_goes_in_comes_out_with_the_venues_text(store: SeriesStore) -> None:
    for events in (
        [trade(1, price="0.00010"), trade(2, price="12345678901234567890.5")],
        [depth_update(n) for n in range(6)],
    ):
        batch = batch_of(events)
        assert await store.append(batch) == Receipt(new=len(events))
        assert (await store.scan(batch.series[0])).rows() == batch.rows()


async def test_twice_is_once_whatever_the_order(store: SeriesStore) -> None:
    assert await store.append(batch_of([trade(n) for n in (5, 6, 9)])) == Receipt(new=3)
    assert await store.append(batch_of([trade(n) for n in (5, 6, 9)])) == Receipt(duplicate=3)
    assert await store.append(batch_of([trade(n) for n in (2, 6, 7, 10)])) == Receipt(new=3, duplicate=1)
    assert await ids(store) == [2, 5, 6, 7, 9, 10]


async def test_what_was_replaced_is_kept_as_it_was_until_what_replaced_it_goes(store: SeriesStore) -> None:
    await store.append(batch_of([candle(3, "2.1"), candle(1, "2.2"), candle(5)]))
    await store.append(batch_of([candle(3, "2.3", late_ms=5), candle(1, "2.2", late_ms=5), candle(5)]))
    await store.append(batch_of([candle(3, "2.4"), candle(1, "2.5"), candle(5)], "rest:klines"))
    old = [(row["open_ms"], row["close"], row["origin"]) for row in (await store.revisions(CANDLES)).rows()]
    opens = [BASE_MS + minute * 60_000 for minute in (1, 3)]
    assert old == [(opens[0], "2.2", "stream"), (opens[1], "2.1", "stream"), (opens[1], "2.3", "stream")]
    await store.append(batch_of([trade(1), trade(2)]))
    await store.append(batch_of([trade(1, price="7")]))
    assert len(await store.revisions(TRADES)) == 0, "a trade never changes"
    await store.drop(CANDLES, Span(opens[1], opens[1] + 60_000))
    assert (await store.revisions(CANDLES)).key.tolist() == [opens[0]]


async def test_one_batch_may_hold_many_series(store: SeriesStore) -> None:
    symbols = ["BTCUSDT", "1000PEPEUSDT", "币安人生USDT", "BTCUSDT_261225"]
    batch = batch_of([trade(number, symbol) for symbol in symbols for number in range(3)])
    assert await store.append(batch) == Receipt(new=12)
    assert {series.symbol for series in await store.series()} == set(symbols)
    for symbol in symbols:
        assert (await store.scan(Series("um", "trade", symbol))).key.tolist() == [0, 1, 2]


async def test_ids_of_different_number_spaces_do_not_meet(store: SeriesStore) -> None:
    await store.append(batch_of([trade(7)]))
    assert await store.append(batch_of([agg_trade(7)])) == Receipt(new=1)


async def test_concurrent_appends_of_many_datasets_all_count(store: SeriesStore) -> None:
    events: list[list[Event]] = [[trade(n), trade(n + 100)] for n in range(20)]
    events += [[agg_trade(n)] for n in range(20)] + [[candle(n)] for n in range(20)]
    receipts = await asyncio.gather(*(store.append(batch_of(some)) for some in events))
    assert sum(receipts, Receipt()) == Receipt(new=80)
    assert await store.count(TRADES) == 40


async def test_scan_cuts_by_time_limit_offset_and_direction(store: SeriesStore) -> None:
    await store.append(batch_of([trade(n) for n in range(10)]))
    assert await ids(store, span=Span(BASE_MS + 20, BASE_MS + 50)) == [2, 3, 4]
    assert await ids(store, limit=3) == [0, 1, 2]
    assert await ids(store, limit=3, offset=2) == [2, 3, 4]
    assert await ids(store, limit=3, descending=True) == [9, 8, 7]
    assert await ids(store, limit=3, offset=8, descending=True) == [1, 0]
    assert await ids(store, span=Span(BASE_MS + 20, BASE_MS + 50), limit=2, descending=True) == [4, 3]
    assert await ids(store, limit=2, after=4) == [5, 6]
    assert await ids(store, limit=2, after=4, descending=True) == [3, 2]
    assert await ids(store, limit=0) == []
    assert (await store.scan(TRADES, columns=["price"], limit=1)).rows() == [{"price": "1.50"}]
    assert (await store.last(TRADES, 3)).key.tolist() == [7, 8, 9]
    assert (await store.last(TRADES, 99)).key.tolist() == list(range(10))


async def test_times_need_not_follow_keys(store: SeriesStore) -> None:
    await store.append(batch_of([trade(1, jitter_ms=500), trade(2), trade(3, jitter_ms=-25), trade(4)]))
    assert await ids(store, span=Span(BASE_MS, BASE_MS + 41)) == [2, 3, 4]
    extent = await store.extent(TRADES)
    assert extent is not None
    assert (extent.rows, extent.first_key, extent.last_key) == (4, 1, 4)
    assert (extent.first_ms, extent.last_ms) == (BASE_MS + 5, BASE_MS + 510)


async def test_a_series_that_holds_nothing_answers_nothing(store: SeriesStore) -> None:
    await store.append(batch_of([trade(1)]))
    for unknown in (Series("um", "trade", "ETHUSDT"), CANDLES, LIQUIDATIONS):
        assert len(await store.scan(unknown)) == 0
        assert len(await store.last(unknown, 5)) == 0
        assert len(await store.live(unknown)) == 0
        assert await store.extent(unknown) is None
        assert await store.count(unknown) == 0
    assert await store.series() == [TRADES]


async def test_keys_reads_what_an_audit_needs(store: SeriesStore) -> None:
    await store.append(batch_of([depth_update(n) for n in (4, 5, 6)]))
    rows = await store.keys(Series("um", "depth_update", "BTCUSDT"))
    assert set(rows.columns) == {"update_id", "event_ms", "first_update_id", "previous_update_id"}
    assert [row["previous_update_id"] for row in rows.rows()] == [3, None, 5]


async def test_a_candle_from_history_replaces_the_streamed_one_and_not_the_other_way_round(store: SeriesStore) -> None:
    await store.append(batch_of([candle(0), candle(1), candle(2)]))
    assert await store.append(batch_of([candle(1, "2.00")], "rest:klines")) == Receipt(duplicate=1)
    assert await store.append(batch_of([candle(1, "3.0")], "rest:klines")) == Receipt(changed=1)
    assert await store.append(batch_of([candle(1, "2.0", late_ms=999)])) == Receipt(duplicate=1)
    rows = (await store.scan(CANDLES)).rows()
    assert [(row["close"], row["origin"]) for row in rows] == [
        ("2.0", "stream"),
        ("3.0", "rest:klines"),
        ("2.0", "stream"),
    ]
    assert await store.count(CANDLES) == 3


async def test_an_open_candle_is_live_state_and_never_a_row(store: SeriesStore) -> None:
    assert await store.append(batch_of([candle(1, "2.1", closed=False)])) == Receipt(changed=1)
    assert await store.append(batch_of([candle(1, "2.2", closed=False, late_ms=250)])) == Receipt(changed=1)
    assert await store.append(batch_of([candle(1, "2.1", closed=False)])) == Receipt(duplicate=1)
    assert [row["close"] for row in (await store.live(CANDLES)).rows()] == ["2.2"]
    assert await store.count(CANDLES) == 0
    assert await store.series() == []
    assert await store.append(batch_of([candle(1, "2.3")])) == Receipt(new=1)
    assert len(await store.live(CANDLES)) == 0
    assert await store.append(batch_of([candle(1, "2.4", closed=False, late_ms=500)])) == Receipt(duplicate=1)
    assert [row["close"] for row in (await store.scan(CANDLES)).rows()] == ["2.3"]


async def test_one_batch_may_close_a_candle_and_open_the_next(store: SeriesStore) -> None:
    batch = mixed([batch_of([candle(1)]), batch_of([candle(2, closed=False)]), batch_of([candle(3, closed=False)])])
    assert await store.append(batch) == Receipt(new=1, changed=2)
    assert (await store.live(CANDLES)).key.tolist() == [BASE_MS + 3 * 60_000]


async def test_states_of_a_candle_that_the_same_batch_closes_are_changes_the_first_time_only(
    store: SeriesStore,
) -> None:
    states = [candle(1, closed=False, late_ms=late_ms) for late_ms in (0, 250)]
    batch = mixed([batch_of(states), batch_of([candle(1)])])
    assert await store.append(batch) == Receipt(new=1, changed=2)
    assert await store.append(batch) == Receipt(duplicate=3)
    assert len(await store.live(CANDLES)) == 0


async def test_a_key_of_several_parts_is_compared_whole(store: SeriesStore) -> None:
    events = [liquidation(1), liquidation(1, "2"), liquidation(1, "1.0"), liquidation(1, side="BUY")]
    batch = batch_of(events)
    assert len(batch) == 3  # quantity 1 and 1.0 are one number
    assert await store.append(batch) == Receipt(new=3)
    assert await store.append(batch_of([liquidation(1, "2.00"), liquidation(1, "3"), liquidation(0)])) == Receipt(
        new=2, duplicate=1
    )
    assert await store.count(LIQUIDATIONS) == 5


async def test_drop_deletes_the_span_and_nothing_else(store: SeriesStore) -> None:
    await store.append(batch_of([trade(n) for n in range(10)]))
    assert await store.drop(TRADES, Span(BASE_MS + 20, BASE_MS + 50)) == 3
    assert await store.drop(TRADES, Span(BASE_MS + 20, BASE_MS + 50)) == 0
    assert await ids(store) == [0, 1, 5, 6, 7, 8, 9]
    assert await store.append(batch_of([trade(3)])) == Receipt(new=1)
    assert await store.drop(TRADES, Span(BASE_MS, BASE_MS + 1000)) == 8
    assert await store.extent(TRADES) is None


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
async def test_every_dataset_has_an_empty_answer_with_all_its_columns(store: SeriesStore, dataset: object) -> None:
    from data_manager.domain.dataset import Dataset

    assert isinstance(dataset, Dataset)
    series = Series("um", dataset.name, "BTCUSDT", "1m" if dataset.has_interval else None)
    assert list((await store.scan(series)).columns) == [field.name for field in dataset.fields]
