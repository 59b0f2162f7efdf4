"""What only a store with replicas must show: versions that race, watermarks that are out of date, servers that go away."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pymongo import monitoring
from pymongo.monitoring import CommandListener, CommandStartedEvent

from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.mongo.access import MongoAccess
from data_manager.adapters.mongo.layout import LIVE, REVISIONS
from data_manager.adapters.mongo.store import MongoStore, open_mongo
from data_manager.adapters.mongo.writing import revision
from data_manager.domain.batch import Batch
from data_manager.domain.condition.coverage import Result
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.finding import FindingKind
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS
from data_manager.ports import Receipt
from tests.conftest import eventually
from tests.contract.rows import BASE_MS, batch_of, candle, liquidation, mixed, trade
from tests.flow.test_audit import House
from tests.memory import MemoryStore
from tests.mongo_server import MongoServer, opened, raw

TRADES = Series("um", "trade", "BTCUSDT")
CANDLES = Series("um", "candle", "BTCUSDT", "1m")
ORIGINS = ["stream", "rest:klines", "reconcile:7"]


@pytest.fixture
async def replicas(mongo_access: MongoAccess) -> AsyncIterator[list[MongoStore]]:
    """Three stores on one database, each with its own connections, as three processes would have."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(mongo_access)) for _ in range(3)]


def versions(minute: int) -> list[Batch]:
    """Versions of one candle, no two alike, of every rank and several times each."""
    return [
        batch_of([candle(minute, f"{2 + number / 100:.2f}", late_ms=late_ms)], origin, BASE_MS + number)
        for number, (origin, late_ms) in enumerate((origin, late_ms) for origin in ORIGINS for late_ms in (0, 5, 9))
    ]


def shuffled_batches(seed: int, minutes: int) -> list[Batch]:
    """Every version three times, in batches of random sizes, in random order: late, early, repeated, out of order."""
    dice = random.Random(seed)
    rows = [row for minute in range(minutes) for row in versions(minute)] * 3
    dice.shuffle(rows)
    batches = []
    while rows:
        size = dice.randint(1, 8)
        batches.append(mixed(rows[:size]))
        del rows[:size]
    return batches


def said(rows: Batch) -> list[tuple[int, str, str]]:
    return [(row["open_ms"], row["close"], row["origin"]) for row in rows.rows()]


@pytest.mark.parametrize("seed", range(4))
async def test_versions_that_race_end_as_if_they_had_come_one_by_one(replicas: list[MongoStore], seed: int) -> None:
    batches = shuffled_batches(seed, minutes=4)
    dice = random.Random(seed)
    receipts = await asyncio.gather(*(dice.choice(replicas).append(batch) for batch in batches))
    model = MemoryStore()
    for batch in batches:
        await model.append(batch)

    held, old = await replicas[0].scan(CANDLES), await replicas[1].revisions(CANDLES)
    assert held.rows() == (await model.scan(CANDLES)).rows()
    total = sum(receipts, Receipt())
    assert total.new == 4
    assert total.changed == len(old)
    assert total.new + total.changed + total.duplicate == sum(map(len, batches))
    kept = said(held) + said(old)
    assert len(set(kept)) == len(kept), "a version is held, or was replaced, once"
    for receipt, batch in zip(receipts, batches, strict=True):
        if receipt.duplicate == 0:  # then each of its rows was held for a while
            assert set(said(batch)) <= set(kept)


async def test_every_version_that_was_replaced_is_kept_in_the_order_it_was_held(replicas: list[MongoStore]) -> None:
    store = replicas[0]
    for batch in versions(1):
        await store.append(batch)
    assert [close for _, close, _ in said(await store.revisions(CANDLES))] == [f"{2 + n / 100:.2f}" for n in range(8)]
    assert [close for _, close, _ in said(await store.scan(CANDLES))] == ["2.08"]
    assert len(await store.revisions(Series("um", "candle", "ETHUSDT", "1m"))) == 0
    await store.drop(CANDLES, Span(BASE_MS + 60_001, BASE_MS + 10**9))
    assert len(await store.revisions(CANDLES)) == 8
    await store.drop(CANDLES, Span(BASE_MS + 60_000, BASE_MS + 60_001))
    assert len(await store.revisions(CANDLES)) == 0, "they go with what replaced them"


async def test_a_crash_before_the_replacement_leaves_no_false_revision(
    replicas: list[MongoStore], mongo_access: MongoAccess
) -> None:
    first, better = versions(1)[0], versions(1)[4]
    await replicas[0].append(first)
    with raw(mongo_access) as client:  # what a process has done when it dies between the two writes
        database = client[mongo_access.database]
        document = database["candles_BTCUSDT_1m"].find_one()
        assert document is not None
        database[REVISIONS].insert_one(revision(CANDLES, document))
    assert len(await replicas[1].revisions(CANDLES)) == 0
    assert await replicas[1].append(better) == Receipt(changed=1)
    assert said(await replicas[1].revisions(CANDLES)) == said(first)


async def test_rows_that_race_are_new_once(replicas: list[MongoStore]) -> None:
    dice = random.Random(5)
    batches = [batch_of([trade(n) for n in sorted(dice.sample(range(200), 40))]) for _ in range(40)]
    receipts = await asyncio.gather(*(dice.choice(replicas).append(batch) for batch in batches))
    distinct = {int(key) for batch in batches for key in batch.key}
    assert sum(receipts, Receipt()) == Receipt(new=len(distinct), duplicate=40 * 40 - len(distinct))
    assert (await replicas[2].scan(TRADES)).key.tolist() == sorted(distinct)


async def test_a_replica_whose_watermark_is_behind_finds_out_from_the_server(replicas: list[MongoStore]) -> None:
    one, other, _ = replicas
    assert await one.append(batch_of([trade(1)])) == Receipt(new=1)
    assert await other.append(batch_of([trade(n) for n in range(1, 9)])) == Receipt(new=7, duplicate=1)
    assert await one.append(batch_of([trade(n) for n in range(5, 12)])) == Receipt(new=3, duplicate=4)
    assert await one.append(batch_of([candle(1)])) == Receipt(new=1)
    assert await other.append(batch_of([candle(2), candle(3)])) == Receipt(new=2)
    assert await one.append(batch_of([candle(2, "3"), candle(4)], "rest:klines")) == Receipt(new=1, changed=1)


async def test_a_replica_whose_watermark_is_ahead_of_what_is_held_loses_nothing(replicas: list[MongoStore]) -> None:
    one, other, _ = replicas
    await one.append(batch_of([trade(n) for n in range(10)]))
    await other.drop(TRADES, Span(BASE_MS, BASE_MS + 1_000))
    assert await one.append(batch_of([trade(n) for n in range(10)])) == Receipt(new=10)


async def test_far_apart_and_dense_keys_are_looked_up_alike(replicas: list[MongoStore]) -> None:
    store = replicas[0]
    dense, sparse = batch_of([trade(n) for n in range(100)]), batch_of([trade(n * 10**6) for n in range(1, 60)])
    await store.append(dense)
    await store.append(sparse)
    assert await store.append(dense) == Receipt(duplicate=100)
    assert await store.append(sparse) == Receipt(duplicate=59)
    between = batch_of([trade(n * 10**6 + 1) for n in range(1, 60)])
    assert await store.append(between) == Receipt(new=59)
    liquidations = batch_of([liquidation(n, str(n % 7 + 1)) for n in range(1_200)])
    assert await store.append(liquidations) == Receipt(new=1_200)
    assert await replicas[1].append(liquidations) == Receipt(duplicate=1_200)


class Inserts(CommandListener):
    """Counts the documents that clients opened after its registration insert, by collection."""

    def __init__(self) -> None:
        self.documents: Counter[str] = Counter()

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "insert":
            self.documents[event.command["insert"]] += len(event.command["documents"])

    def succeeded(self, event: object) -> None: ...

    def failed(self, event: object) -> None: ...


async def test_what_is_known_to_be_held_is_not_sent_again(mongo_access: MongoAccess) -> None:
    batches = [
        batch_of([trade(n) for n in range(300)]),
        batch_of([trade(n * 10**6, "ETHUSDT") for n in range(1_200)]),
        batch_of([candle(n) for n in range(40)]),
        batch_of([liquidation(n, str(n % 7 + 1)) for n in range(1_200)]),
    ]
    async with opened(mongo_access) as store:
        for batch in batches:
            await store.append(batch)
    inserts = Inserts()
    monitoring.register(inserts)  # for good, but nobody asks it after this test
    async with opened(mongo_access) as store:  # as after a restart, when everything is delivered again
        inserts.documents.clear()
        for batch in batches:
            assert await store.append(batch) == Receipt(duplicate=len(batch))
        assert inserts.documents == {}
        await store.append(batch_of([trade(n) for n in range(290, 310)]))
        assert inserts.documents == {"trades_BTCUSDT": 10}


async def test_live_states_that_race_leave_the_newest(replicas: list[MongoStore], mongo_access: MongoAccess) -> None:
    dice = random.Random(3)
    states = [batch_of([candle(minute, closed=False, late_ms=ms)]) for minute in (1, 2) for ms in range(30)]
    states += [batch_of([candle(3, closed=False, late_ms=ms, symbol="ETHUSDT")]) for ms in range(30)]
    dice.shuffle(states)
    groups: list[Sequence[Batch]] = [states[at : at + 3] for at in range(0, len(states), 3)]
    receipts = await asyncio.gather(*(dice.choice(replicas).append(mixed(group)) for group in groups))
    total = sum(receipts, Receipt())
    assert total.new == 0
    assert 2 <= total.changed <= 90
    assert total.changed + total.duplicate == 90
    (row,) = (await replicas[0].live(CANDLES)).rows()
    assert (row["open_ms"], row["event_ms"]) == (BASE_MS + 120_000, BASE_MS + 120_000 + 30_029)
    await asyncio.gather(replicas[1].append(batch_of([candle(2)])), replicas[2].append(batch_of([candle(2)])))
    assert len(await replicas[0].live(CANDLES)) == 0
    with raw(mongo_access) as client:
        assert [one["_id"] for one in client[mongo_access.database][LIVE].find()] == ["um.candle.ETHUSDT.1m"]


async def test_of_two_live_states_at_once_the_newer_stays_every_time(replicas: list[MongoStore]) -> None:
    for late_ms in range(0, 120, 3):
        states = [batch_of([candle(1, closed=False, late_ms=late_ms + step)]) for step in (2, 1, 0)]
        await asyncio.gather(*(one.append(state) for one, state in zip(replicas, states, strict=True)))
        (row,) = (await replicas[0].live(CANDLES)).rows()
        assert row["event_ms"] == BASE_MS + 60_000 + 30_000 + late_ms + 2


async def test_a_late_state_of_a_candle_that_another_replica_closed_is_not_shown(replicas: list[MongoStore]) -> None:
    one, other, _ = replicas
    await one.append(batch_of([candle(1)]))
    await other.append(batch_of([candle(2)]))
    await one.append(batch_of([candle(2, closed=False)]))  # it does not know that minute 2 is closed
    assert len(await one.live(CANDLES)) == 0
    assert len(await other.live(CANDLES)) == 0
    await one.append(batch_of([candle(3, closed=False)]))
    assert (await other.live(CANDLES)).key.tolist() == [BASE_MS + 180_000]


async def test_minutes_and_months_are_two_series(replicas: list[MongoStore]) -> None:
    store = replicas[0]
    await store.append(batch_of([candle(0, interval="1m")]))
    await store.append(batch_of([candle(0, interval="1M"), candle(1, interval="1M")]))
    assert [(one.interval, await store.count(one)) for one in await store.series()] == [("1M", 2), ("1m", 1)]


async def test_a_document_that_is_not_ours_is_said_and_not_served(
    replicas: list[MongoStore], mongo_access: MongoAccess
) -> None:
    await replicas[0].append(batch_of([trade(1)]))
    with raw(mongo_access) as client:
        client[mongo_access.database]["trades_BTCUSDT"].insert_one({"_id": 7, "price": 1.5})
    with pytest.raises(Corrupt, match=r"trades_BTCUSDT.*7"):
        await replicas[0].scan(TRADES)
    assert (await replicas[0].scan(TRADES, Span(BASE_MS, BASE_MS + 100))).key.tolist() == [1]


async def test_an_audit_quarantines_a_damaged_document_and_judges_all_around_it(
    replicas: list[MongoStore], mongo_access: MongoAccess, tmp_path: Path
) -> None:
    meta = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    house = House(replicas[0], meta, BASE_MS + HOUR_MS)
    await house.hold([trade(n) for n in range(1, 300) if n not in (40, 200)])
    with raw(mongo_access) as client:
        client[mongo_access.database]["trades_BTCUSDT"].update_one({"_id": 100}, {"$set": {"price": "1.x"}})
    done = await house.auditor.run([TRADES], full=True)
    assert ([(one.after, one.before) for one in done.holes], done.failed) == ([(39, 41), (199, 201)], (TRADES.id,))
    unknown = [one for one in (await house.truth(TRADES)).coverage if one.result is Result.UNKNOWN]
    assert [(one.start_ms, one.end_ms) for one in unknown] == [(BASE_MS + 1_000, BASE_MS + 1_001)]
    [told] = [one for one in house.told if one.kind is FindingKind.CORRUPT]
    assert (told.start_ms, told.open) == (BASE_MS + 1_000, True)
    with raw(mongo_access) as client:
        client[mongo_access.database]["trades_BTCUSDT"].update_one({"_id": 100}, {"$set": {"price": "1.5"}})
    house.clock.now += 1
    assert (await house.auditor.run([TRADES], full=True)).failed == ()
    assert not house.told[-1].open
    await meta.close()


async def test_what_was_stored_outlives_a_kill_and_the_store_goes_on(own_mongo: MongoServer) -> None:
    access = own_mongo.access(patience_s=0.5)
    async with opened(access) as store:
        await store.append(batch_of([trade(n) for n in range(50)]))
        own_mongo.kill()
        with pytest.raises(Unavailable, match=rf"{access.database} on 127.0.0.1:{own_mongo.port}"):
            await store.append(batch_of([trade(n) for n in range(60)]))
        with pytest.raises(Unavailable):
            await store.scan(TRADES)
        with pytest.raises(Unavailable):
            await store.healthy()
        own_mongo.start()
        await eventually(lambda: _answers(store), what="the server is found again")
        assert await store.append(batch_of([trade(n) for n in range(60)])) == Receipt(new=10, duplicate=50)


async def _answers(store: MongoStore) -> bool:
    try:
        return await store.healthy()
    except Unavailable:
        return False


async def test_a_frozen_server_is_given_up_after_the_time_an_operation_may_take(own_mongo: MongoServer) -> None:
    async with opened(own_mongo.access(patience_s=0.5, operation_s=1.0)) as store:
        await store.append(batch_of([trade(1)]))
        own_mongo.freeze()
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await store.append(batch_of([trade(2)]))
        assert time.monotonic() - started < 5
        own_mongo.thaw()
        await eventually(lambda: _answers(store), what="the server is found again")
        receipt = await store.append(batch_of([trade(1), trade(2)]))
        assert receipt.new + receipt.duplicate == 2
        assert await store.count(TRADES) == 2


async def test_a_server_that_is_not_there_is_unavailable_and_not_a_wrong_setting(own_mongo: MongoServer) -> None:
    own_mongo.kill()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{own_mongo.port}"):
        await open_mongo(own_mongo.access(patience_s=0.3))


async def test_a_closed_store_is_unavailable(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access) as store:
        pass
    with pytest.raises(Unavailable):
        await store.append(batch_of([trade(1)]))
