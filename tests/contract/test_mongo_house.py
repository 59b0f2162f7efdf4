"""MongoDB kept in order: indexes as they should be or said aloud, retention counted, room measured."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from bson.objectid import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.mongo import store as store_module
from data_manager.adapters.mongo.access import Abilities, MongoAccess, connect
from data_manager.adapters.mongo.indexes import TTL_SLACK_MS, Index, desired, differences, migrate, retention_s
from data_manager.adapters.mongo.layout import collection_of, rows_of
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.events import Event
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS
from data_manager.ports import Receipt, StoreSizes
from data_manager.services.databases import Growth
from tests.contract.rows import BASE_MS, batch_of, candle, liquidation, trade
from tests.mongo_server import Keeper, opened, raw, scripted

TRADES = Series("um", "trade", "BTCUSDT")
CANDLES = Series("um", "candle", "BTCUSDT", "1m")
FUNDING = Series("um", "funding_rate", "BTCUSDT")
ABLE = Abilities(server="MongoDB 8", exact_decimals=True, expires_by_index=True, replicated=False)
PLAIN = Abilities(server="other", exact_decimals=False, expires_by_index=False, replicated=False)
BY_TIME = Index("dm_time", (("traded_ms", 1),))


def test_each_series_asks_for_no_index_it_does_not_need() -> None:
    assert desired(TRADES, PLAIN) == (BY_TIME,)
    assert desired(CANDLES, PLAIN) == ()  # _id is the time
    assert desired(TRADES, ABLE) == (Index("dm_time", (("traded_ms", 1),), 7 * 86_400),)
    assert desired(CANDLES, ABLE) == (Index("dm_time", (("open_ms", 1),), 7 * 86_400),)
    assert desired(FUNDING, ABLE) == ()  # kept for ever
    assert retention_s(Series("um", "candle", "BTCUSDT", "1M")) == 730 * 86_400


def test_differences_name_what_is_there_and_what_to_do() -> None:
    (wanted,) = desired(TRADES, ABLE)
    assert differences("trades_X", [wanted], [wanted]) == []
    (missing,) = differences("trades_X", [wanted], [])
    assert "migrate" in missing.fix
    twin = Index("timestamp_1", wanted.keys)
    assert ["timestamp_1" in str(one) for one in differences("trades_X", [wanted], [twin])] == [True, True]
    (other,) = differences("trades_X", [wanted], [Index("dm_time", wanted.keys, 60)])
    assert "60 s" in other.problem
    assert str(7 * 86_400) in other.problem
    (stranger,) = differences("trades_X", [wanted], [wanted, Index("symbol_1", (("symbol", 1),))])
    assert "none of ours" in stranger.problem


SERIES = [Series("um", one.name, "BTCUSDT", "1m" if one.has_interval else None) for one in DATASETS.values()]
QUESTIONS = [
    (None, None, False), (Span(BASE_MS, BASE_MS + HOUR_MS), None, False), (None, 5, False), (None, 5, True),
    (Span(BASE_MS, BASE_MS + HOUR_MS), BASE_MS + 5, True),
]  # fmt: skip


@pytest.mark.parametrize("series", SERIES, ids=lambda one: one.dataset)
def test_every_question_is_about_what_leads_an_index(series: Series) -> None:
    leads = {"_id", *(index.keys[0][0] for index in desired(series, PLAIN))}
    for span, after, descending in QUESTIONS:
        assert set(rows_of(DATASETS[series.dataset], span, after, descending=descending)) <= leads


async def test_the_server_answers_every_question_by_an_index(mongo_access: MongoAccess) -> None:
    """As it explains itself. The stand-in explains that it has no plans, see docs/testing.md."""
    async with opened(mongo_access) as store:
        await store.append(batch_of([trade(number) for number in range(50)]))
        stand_in = "MongoDB" not in store.abilities.server.partition(",")[0]
    with raw(mongo_access) as client:
        for span, after, descending in QUESTIONS[1:]:
            wanted = rows_of(DATASETS["trade"], span, after, descending=descending)
            find = {"find": collection_of(TRADES), "filter": wanted, "sort": {"_id": -1 if descending else 1}}
            planner = client[mongo_access.database].command({"explain": find})["queryPlanner"]
            stages = set(re.findall(r"'stage': '(\w+)'", str(planner.get("winningPlan", {}))))
            assert "COLLSCAN" not in stages
            assert stages & {"IXSCAN", "CLUSTERED_IXSCAN"} or (stand_in and "SCAN" in str(planner))


async def test_a_new_series_has_its_index_before_its_first_row(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access) as store:
        await store.append(batch_of([trade(1)]))
        await store.append(batch_of([candle(1)]))
        assert await store.drift() == []
        assert await store.migrate() == []
    with raw(mongo_access) as client:
        assert "dm_time" in client[mongo_access.database]["trades_BTCUSDT"].index_information()


async def test_migrate_makes_what_is_missing_and_can_be_repeated(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access) as store:
        await store.append(batch_of([trade(1), trade(1, "ETHUSDT")]))
        with raw(mongo_access) as client:  # as a release without that index, or a migration that was killed, leaves it
            client[mongo_access.database]["trades_BTCUSDT"].drop_index("dm_time")
        assert [(one.collection, one.index, one.problem) for one in await store.drift()] == [
            ("trades_BTCUSDT", "dm_time", "is missing")
        ]
        assert await store.migrate() == ["trades_BTCUSDT: created dm_time"]
        assert await store.migrate() == []
        assert await store.drift() == []


async def test_an_index_in_the_way_is_said_and_left_and_rows_are_kept_all_the_same(mongo_access: MongoAccess) -> None:
    with raw(mongo_access) as client:
        collection = client[mongo_access.database]["trades_BTCUSDT"]
        collection.create_index([("traded_ms", 1)], name="timestamp_1")
        async with opened(mongo_access) as store:
            assert await store.append(batch_of([trade(1)])) == Receipt(new=1)
            assert await store.migrate() == []
            drifts = await store.drift()
        assert [one.index for one in drifts] == ["dm_time", "timestamp_1"]
        assert "drop timestamp_1" in drifts[0].fix
        assert set(collection.index_information()) == {"_id_", "timestamp_1"}


async def test_an_index_of_our_name_with_other_keys_is_said(mongo_access: MongoAccess) -> None:
    with raw(mongo_access) as client:
        client[mongo_access.database]["trades_BTCUSDT"].create_index([("price", -1)], name="dm_time")
    async with opened(mongo_access) as store:
        assert await store.append(batch_of([trade(1)])) == Receipt(new=1)
        (drift,) = await store.drift()
    assert "keys price -1" in drift.problem
    assert "keys traded_ms 1" in drift.problem


@pytest.mark.parametrize("held", ["BTCUSDT_1700000040000", ObjectId(b"petrosa12345")])
async def test_rows_of_the_predecessor_are_found_by_their_ids(mongo_access: MongoAccess, held: object) -> None:
    async with opened(mongo_access) as store:
        await store.append(batch_of([candle(1)]))
        with raw(mongo_access) as client:
            client[mongo_access.database]["candles_BTCUSDT_1m"].insert_one({"_id": held, "open": 1.0})
        (drift,) = [one for one in await store.drift() if one.index == "_id_"]
        assert repr(held) in drift.problem
        assert "MONGODB_DB" in drift.fix


@pytest.mark.parametrize("held", ["BTCUSDT_1700000040000", ObjectId(b"petrosa12345")])
@pytest.mark.parametrize("events", [[trade(1), trade(2)], [candle(1), candle(2)], [liquidation(1), liquidation(2)]])
async def test_rows_beside_those_of_the_predecessor_are_rows_like_any(
    mongo_access: MongoAccess, held: object, events: list[Event]
) -> None:
    batch = batch_of(events)
    [series] = batch.series
    with raw(mongo_access) as client:
        theirs = client[mongo_access.database][collection_of(series)]
        theirs.insert_one({"_id": held, "timestamp": "2023-11-14T22:14:00", "open": 1.0})
        async with opened(mongo_access) as store:
            assert await store.series() == []
            assert await store.extent(series) is None
            assert await store.append(batch) == Receipt(new=2)
            assert await store.append(batch) == Receipt(duplicate=2)
            assert await store.series() == [series]
            assert (await store.scan(series)).rows() == (await store.last(series, 5)).rows() == batch.rows()
            assert await store.count(series) == 2
            first, last = batch.key.tolist()
            extent = await store.extent(series)
            assert extent is not None
            assert (extent.first_key, extent.last_key) == (first, last)
            assert len(await store.scan(series, after=last)) == 0
            assert len(await store.scan(series, after=last, descending=True)) == 1
            assert await store.drop(series, Span(0, 2 * BASE_MS)) == 2
        assert theirs.count_documents({}) == 1


async def test_other_collections_are_left_alone(mongo_access: MongoAccess) -> None:
    with raw(mongo_access) as client:
        database = client[mongo_access.database]
        database["klines_1h"].create_index([("symbol", 1)], name="symbol_1")
        async with opened(mongo_access) as store:
            assert await store.migrate() == []
            assert await store.drift() == []
            assert await store.series() == []
        assert set(database["klines_1h"].index_information()) == {"_id_", "symbol_1"}


class Indexed(Keeper):
    """A server that holds trades whose rows expire after an hour."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: list[Mapping[str, Any]] = []
        self.indexes = [{"name": "dm_time", "key": {"traded_ms": 1}, "expireAfterSeconds": 3600}]

    def listcollections(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ok": 1.0, "cursor": {"id": 0, "ns": "x.y", "firstBatch": [{"name": "trades_BTCUSDT"}]}}

    def dropindexes(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        self.indexes = [one for one in self.indexes if one["name"] != command["index"]]
        return {"ok": 1.0}

    def collmod(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        self.changed.append(command["index"])
        return {"ok": 1.0}


async def test_migrate_brings_retention_up_to_date_in_place() -> None:
    server = Indexed()
    async with scripted(server) as url:
        client, database, abilities = await connect(MongoAccess(url=url, database="petrosa", expire_by_index=True))
        done = await migrate(database, abilities)
        await client.close()
    assert server.changed == [{"name": "dm_time", "expireAfterSeconds": 7 * 86_400}]
    assert done == ["trades_BTCUSDT: rows now expire after 604800 s instead of 3600 s"]


async def test_migrate_ends_an_expiry_that_nobody_wishes() -> None:
    server = Indexed()
    async with scripted(server) as url:
        client, database, abilities = await connect(MongoAccess(url=url, database="petrosa"))
        done = await migrate(database, abilities)
        again = await migrate(database, abilities)
        await client.close()
    assert done == ["trades_BTCUSDT: rows no longer expire after 3600 s", "trades_BTCUSDT: created dm_time"]
    assert again == []
    assert [one.get("expireAfterSeconds") for one in server.indexes if one["name"] == "dm_time"] == [None]


async def test_rows_that_outlived_their_retention_are_counted(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access) as store:
        await store.append(batch_of([trade(n) for n in range(10)]))
        await store.append(batch_of([candle(0, interval="1d")]))
        over = BASE_MS + 7 * DAY_MS + TTL_SLACK_MS
        assert await store.overdue(over) == {}
        assert await store.overdue(over + 45) == {TRADES: 5}


async def test_a_long_drop_goes_in_pieces(mongo_access: MongoAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_ROWS_A_BATCH", 7)
    async with opened(mongo_access) as store:
        await store.append(batch_of([trade(n) for n in range(40)]))
        assert await store.drop(TRADES, Span(BASE_MS + 50, BASE_MS + 260)) == 21
        assert (await store.scan(TRADES)).key.tolist() == [*range(5), *range(26, 40)]
        await store.append(batch_of([candle(n) for n in range(20)]))
        assert await store.drop(CANDLES, Span(BASE_MS, BASE_MS + 16 * 60_000)) == 16
        assert await store.count(CANDLES) == 4


async def test_room_is_measured_in_three_figures(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access) as store:
        await store.append(batch_of([trade(1)]))
        before = await store.sizes()
        assert before.rows == 1, "what is kept of the house itself is no row"
        await store.append(batch_of([trade(n) for n in range(2, 2_000)]))
        after = await store.sizes()
    assert (after.rows or 0) - (before.rows or 0) == 1_998
    assert (after.data_bytes or 0) > (before.data_bytes or 0)
    assert min(after.data_bytes or 0, after.storage_bytes, after.index_bytes or 0) > 0


def test_a_budget_is_compared_with_what_is_larger() -> None:
    assert StoreSizes(rows=1, data_bytes=9, storage_bytes=4, index_bytes=2).used_bytes == 11
    assert StoreSizes(rows=1, data_bytes=3, storage_bytes=4, index_bytes=2).used_bytes == 6


def test_days_to_full_are_projected_from_growth_and_else_unknown() -> None:
    growth = Growth()
    assert growth.days_to_full(100) is None
    growth.saw(BASE_MS, 1_000)
    assert growth.days_to_full(2_000) is None
    assert growth.days_to_full(1_000) == 0.0
    growth.saw(BASE_MS + HOUR_MS - 1, 1_010)
    assert growth.days_to_full(2_000) is None  # too short to call it a trend
    growth.saw(BASE_MS + DAY_MS, 1_100)
    assert growth.days_to_full(2_000) == pytest.approx(9.0)
    growth.saw(BASE_MS + 2 * DAY_MS, 900)
    assert growth.days_to_full(2_000) is None  # it shrinks
    growth.saw(BASE_MS + 10 * DAY_MS, 5_000)  # a week later nothing of that counts
    assert growth.days_to_full(6_000) is None


@given(st.lists(st.tuples(st.integers(0, 30 * DAY_MS), st.integers(0, 10**12)), max_size=40), st.integers(1, 10**12))
def test_a_projection_is_never_negative_whatever_the_clock_does(samples: list[tuple[int, int]], budget: int) -> None:
    growth = Growth()
    for at_ms, used in samples:
        growth.saw(at_ms, used)
        days = growth.days_to_full(budget)
        assert days is None or days >= 0
