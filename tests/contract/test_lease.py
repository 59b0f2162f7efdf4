"""What every store of leases promises, and what a campaign makes of it: on SQLite, MySQL and MariaDB."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import text

from data_manager.adapters.meta import leases
from data_manager.adapters.meta.database import connect
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain.errors import Unavailable
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import Lease, LeaseLost, Leases, LeaseState, MetaStore
from data_manager.services.lease import Campaign, new_holder
from tests.conftest import eventually
from tests.mysql_server import FreshDatabase, MySqlServer
from tests.servers import WallClock

LONG_S, SHORT_S, TERM_S = 60.0, 0.3, 2.0


@pytest.fixture
async def url(fresh_database: FreshDatabase) -> str:
    """An empty database."""
    return await fresh_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlMetaStore]:
    opened = await open_meta(url)
    yield opened
    await opened.close()


async def moved(url: str, by_ms: int) -> None:
    """The end of every lease is moved."""
    database = connect(url)
    async with database.writing() as connection:
        await connection.execute(text("UPDATE leases SET expires_ms = expires_ms + :by_ms"), {"by_ms": by_ms})
    await database.close()


def finding(at: int = 0) -> Finding:
    return found(FindingKind.SILENCE, stream="trade", severity="warning", start_ms=at, evidence={}, found_ms=at)


# ── The lease ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_comes_first_has_it_and_nobody_else(store: SqlMetaStore) -> None:
    first = await store.take_lease("audit", "a", LONG_S)
    assert first.lease == Lease(name="audit", holder="a", epoch=1, term_s=LONG_S)
    assert first.expires_in_s == pytest.approx(LONG_S, abs=1)
    other = await store.take_lease("audit", "b", 2 * LONG_S)
    assert other.lease == first.lease
    assert 0 < other.expires_in_s <= first.expires_in_s


async def test_each_name_is_a_lease_of_its_own(store: SqlMetaStore) -> None:
    names = ["audit", "Audit", "audít", "retain"]
    for name in names:
        assert (await store.take_lease(name, name, LONG_S)).lease.holder == name
        assert (await store.take_lease(name, "other", LONG_S)).lease == Lease(
            name=name, holder=name, epoch=1, term_s=LONG_S
        )


async def test_renewing_moves_the_end_and_keeps_the_epoch(store: SqlMetaStore, url: str) -> None:
    first = await store.take_lease("audit", "a", LONG_S)
    await moved(url, -30_000)
    assert (await store.take_lease("audit", "b", LONG_S)).expires_in_s == pytest.approx(LONG_S - 30, abs=1)
    again = await store.take_lease("audit", "a", LONG_S)
    assert again.lease == first.lease
    assert again.expires_in_s == pytest.approx(LONG_S, abs=1)


async def test_when_it_is_over_anybody_may_take_it_and_the_epoch_rises(store: SqlMetaStore, url: str) -> None:
    await store.take_lease("audit", "a", LONG_S)
    for epoch, holder in enumerate(["b", "a", "a", "c"], 2):
        await moved(url, -61_000)
        assert (await store.take_lease("audit", holder, LONG_S)).lease.epoch == epoch
        assert (await store.take_lease("audit", "z", LONG_S)).lease.holder == holder


async def test_a_term_that_ends_too_far_ahead_is_over(store: SqlMetaStore, url: str) -> None:
    """The clock of the database was put back by an hour: nobody shall wait for that hour to pass again."""
    await store.take_lease("audit", "a", LONG_S)
    await moved(url, 30_000)
    assert (await store.take_lease("audit", "b", LONG_S)).lease.holder == "a"
    await moved(url, 3_600_000)
    taken = await store.take_lease("audit", "b", LONG_S)
    assert (taken.lease.holder, taken.lease.epoch) == ("b", 2)
    assert taken.expires_in_s == pytest.approx(LONG_S, abs=1)


async def test_what_is_given_back_can_be_taken_at_once(store: SqlMetaStore) -> None:
    first = await store.take_lease("audit", "a", LONG_S)
    await store.give_back_lease(first.lease)
    second = await store.take_lease("audit", "b", LONG_S)
    assert (second.lease.holder, second.lease.epoch) == ("b", 2)
    await store.give_back_lease(first.lease)
    assert (await store.take_lease("audit", "c", LONG_S)).lease == second.lease, "it was not theirs to give back"


async def test_of_many_at_once_one_has_it(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = [await open_meta(url) for _ in range(3)]
        for one in stores:
            stack.push_async_callback(one.close)
        for epoch in range(1, 6):
            asked = [one.take_lease("audit", f"{i} {epoch}", LONG_S) for i in range(5) for one in stores]
            answers = await asyncio.gather(*asked)
            assert len({one.lease for one in answers}) == 1
            assert answers[0].lease.epoch == epoch
            await moved(url, -61_000)


# ── What is written under it ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_write_under_the_lease_is_kept(store: SqlMetaStore) -> None:
    lease = (await store.take_lease("audit", "a", LONG_S)).lease
    fenced: MetaStore = store.fenced(lease)
    await fenced.keep_findings([finding()])
    assert await fenced.findings(limit=5) == await store.findings(limit=5) == ([finding()], 1)


async def test_a_write_under_an_older_epoch_is_refused_whoever_holds_it(store: SqlMetaStore, url: str) -> None:
    old = (await store.take_lease("audit", "a", LONG_S)).lease
    await moved(url, -61_000)
    for holder in ("b", "a"):  # even himself: what was begun in another reign belongs to that
        await store.take_lease("audit", holder, LONG_S)
        with pytest.raises(LeaseLost, match=rf"epoch 1 of a is over: {holder} holds epoch"):
            await store.fenced(old).keep_findings([finding()])
        await moved(url, -61_000)
    assert await store.findings(limit=5) == ([], 0)


@pytest.mark.parametrize("by", ["given back", "never taken"])
async def test_without_the_lease_nothing_is_written(store: SqlMetaStore, by: str) -> None:
    lease = Lease(name="audit", holder="a", epoch=1, term_s=LONG_S)
    if by == "given back":
        lease = (await store.take_lease("audit", "a", LONG_S)).lease
        await store.give_back_lease(lease)
    with pytest.raises(LeaseLost, match=r"nobody|never taken"):
        await store.fenced(lease).keep_findings([finding()])
    assert await store.findings(limit=5) == ([], 0)


async def test_nobody_takes_it_between_the_check_and_the_commit(url: str) -> None:
    async with both(url) as (one, other):
        lease = (await one.take_lease("audit", "a", SHORT_S)).lease
        checked, go = asyncio.Event(), asyncio.Event()
        database = connect(url)

        async def slow(connection: object) -> str:
            checked.set()
            await go.wait()
            return "written"

        writing = asyncio.create_task(leases.write(database, lease, slow))
        await checked.wait()
        await asyncio.sleep(2 * SHORT_S)  # the term passes
        taking = asyncio.create_task(other.take_lease("audit", "b", LONG_S))
        _, waiting = await asyncio.wait([taking], timeout=0.3)
        assert waiting, "it was taken before the write under it was done"
        go.set()
        assert await writing == "written"
        await taking
        assert (await other.take_lease("audit", "b", LONG_S)).lease.epoch == 2
        await database.close()


async def test_who_falls_silent_amid_a_write_does_not_keep_the_lease(mysql_server: MySqlServer) -> None:
    """On MySQL, whose server ends the silent session and so lets go of its locks."""
    url, term_s = await mysql_server.fresh(), 2.0
    async with both(url) as (one, other):
        lease = (await one.take_lease("audit", "a", term_s)).lease
        database = connect(url)
        checked, go = asyncio.Event(), asyncio.Event()

        async def silent(connection: object) -> None:
            checked.set()
            await go.wait()

        writing = asyncio.create_task(leases.write(database, lease, silent))
        await checked.wait()

        async def taken() -> bool:
            return (await other.take_lease("audit", "b", term_s)).lease.holder == "b"

        await eventually(taken, within_s=2 * term_s)
        go.set()
        with pytest.raises((Unavailable, LeaseLost)):
            await writing
        await database.close()


@asynccontextmanager
async def both(url: str) -> AsyncIterator[tuple[SqlMetaStore, SqlMetaStore]]:
    """Two replicas of one database."""
    one, other = await open_meta(url), await open_meta(url)
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


async def test_who_is_cancelled_ends_and_leaves_nothing_behind(store: SqlMetaStore) -> None:
    """Wherever it was: clearing up after a cancelled statement fails in many ways, and none may hide the cancelling."""
    for i in range(100):
        asking = asyncio.create_task(store.take_lease("audit", "a", LONG_S))
        await asyncio.sleep((i % 50) * 0.0002)
        if asking.cancel():
            await asyncio.wait([asking], timeout=10)
            assert asking.cancelled(), asking
    await eventually(lambda: len(asyncio.all_tasks()) == 1, what=f"the end of {asyncio.all_tasks()}")
    assert (await store.take_lease("audit", "a", LONG_S)).lease.holder == "a"


# ── The campaign ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Wire:
    """Leases behind a wire that can be cut; asked counts the questions that came through."""

    def __init__(self, leases: Leases) -> None:
        self.cut = False
        self.asked = 0
        self._leases = leases

    async def take_lease(self, name: str, holder: str, term_s: float) -> LeaseState:
        if self.cut:
            raise Unavailable("the wire is cut")
        self.asked += 1
        return await self._leases.take_lease(name, holder, term_s)

    async def give_back_lease(self, lease: Lease) -> None:
        if self.cut:
            raise Unavailable("the wire is cut")
        await self._leases.give_back_lease(lease)

    def fenced(self, lease: Lease) -> MetaStore:
        return self._leases.fenced(lease)


class Replica:
    """A campaign that runs, with the wire to its database."""

    def __init__(self, store: SqlMetaStore, term_s: float = TERM_S) -> None:
        self.wire = Wire(store)
        self.campaign = Campaign(self.wire, "audit", WallClock(), term_s=term_s, every_s=term_s / 4)
        self._task = asyncio.create_task(self.campaign.run())

    @property
    def leads(self) -> bool:
        return self.campaign.held() is not None

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled()


@pytest.fixture
async def replicas(store: SqlMetaStore) -> AsyncIterator[list[Replica]]:
    three = [Replica(store) for _ in range(3)]
    yield three
    for one in three:
        if not one._task.done():
            await one.stop()


def leader_of(replicas: list[Replica]) -> Replica | None:
    leading = [one for one in replicas if one.leads]
    assert len(leading) <= 1
    return leading[0] if leading else None


async def test_one_of_three_leads_and_goes_on_leading(replicas: list[Replica]) -> None:
    await eventually(lambda: leader_of(replicas) is not None)
    leader = leader_of(replicas)
    assert leader is not None
    asked = leader.wire.asked
    await eventually(lambda: leader.wire.asked > asked + 5 and leader_of(replicas) is leader)
    for one in replicas:
        await eventually(lambda one=one: one.campaign.status().epoch == 1)  # type: ignore[misc]
        status = one.campaign.status()
        assert (status.leading, status.holder) == (one is leader, leader.campaign.holder)
        assert (status.taken, status.lost, status.leaderless_s, status.reason) == (one is leader, 0, None, None)


async def test_who_stops_hands_over_before_the_term_ends(replicas: list[Replica]) -> None:
    await eventually(lambda: leader_of(replicas) is not None)
    leader = leader_of(replicas)
    assert leader is not None
    await leader.stop()
    assert not leader.leads
    rest = [one for one in replicas if one is not leader]
    began = WallClock().monotonic_s()
    await eventually(lambda: leader_of(rest) is not None)
    assert WallClock().monotonic_s() - began < TERM_S, "nobody had to wait for the end of the term"
    assert leader.campaign.status().lost == 0, "it gave it back"


async def test_who_is_cut_off_stops_believing_before_another_leads(replicas: list[Replica]) -> None:
    await eventually(lambda: leader_of(replicas) is not None)
    leader = leader_of(replicas)
    assert leader is not None
    leader.wire.cut = True
    await eventually(lambda: leader_of(replicas) not in (leader, None), within_s=2 * TERM_S)  # leader_of: never two
    await eventually(lambda: leader.campaign.status().lost == 1)
    assert leader.campaign.status().reason == "the wire is cut"
    leader.wire.cut = False
    await eventually(lambda: leader.campaign.status().epoch > 1)
    assert not leader.leads


async def test_when_nobody_can_lead_each_replica_knows_since_when(replicas: list[Replica]) -> None:
    await eventually(lambda: leader_of(replicas) is not None)
    assert all(one.campaign.leaderless_since_ms() is None for one in replicas)
    began_ms = WallClock().now_ms()
    for one in replicas:
        one.wire.cut = True
    await eventually(lambda: all(one.campaign.leaderless_since_ms() is not None for one in replicas), within_s=15)
    assert all(
        began_ms - 100 <= (one.campaign.leaderless_since_ms() or 0) <= began_ms + 1_500 * TERM_S for one in replicas
    )
    for one in replicas:
        one.wire.cut = False
    await eventually(lambda: leader_of(replicas) is not None)
    await eventually(lambda: all(one.campaign.leaderless_since_ms() is None for one in replicas))


async def test_work_is_done_by_the_leader_alone(replicas: list[Replica], store: SqlMetaStore) -> None:
    await eventually(lambda: leader_of(replicas) is not None)
    done: list[int] = []

    async def work(lease: Lease) -> None:
        await store.fenced(lease).keep_findings([finding(len(done))])
        done.append(lease.epoch)

    assert sorted([await one.campaign.lead(work) for one in replicas]) == [False, False, True]
    assert done == [1]


async def test_work_is_cut_short_when_the_lease_is_lost(replicas: list[Replica]) -> None:
    await eventually(lambda: leader_of(replicas) is not None)
    leader = leader_of(replicas)
    assert leader is not None

    async def endless(_lease: Lease) -> None:
        asked = leader.wire.asked
        await eventually(lambda: leader.wire.asked > asked + 5)  # more than a term: renewals keep it going
        leader.wire.cut = True
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        assert not await leader.campaign.lead(endless)
    assert not leader.leads


async def test_work_that_writes_too_late_gives_way(store: SqlMetaStore, url: str) -> None:
    replica = Replica(store, term_s=30)
    await eventually(lambda: replica.leads)

    async def late(lease: Lease) -> None:
        await moved(url, -31_000)
        await store.take_lease("audit", "other", 30)
        await store.fenced(lease).keep_findings([finding()])

    assert not await replica.campaign.lead(late)
    assert await store.findings(limit=1) == ([], 0)
    await replica.stop()


async def test_errors_of_the_work_rise(store: SqlMetaStore) -> None:
    replica = Replica(store)
    await eventually(lambda: replica.leads)

    async def too_slow(_lease: Lease) -> None:
        raise TimeoutError("something of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await replica.campaign.lead(too_slow)
    await replica.stop()


def test_every_life_of_a_process_is_another_holder() -> None:
    assert len({new_holder() for _ in range(100)}) == 100
    assert len(new_holder()) <= 128
