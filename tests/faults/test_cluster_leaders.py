"""Two workers of the real service: whatever happens to the leader, one leads again within two terms and never two do."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from data_manager.domain.finding import FindingKind
from tests.cluster import Cluster, all_ready
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.mongo_server import AnyServer, mongo_server
from tests.mysql_server import MySqlServer
from tests.servers import freeze, thaw
from tests.service import Service

__all__ = ["mongo_server"]  # a fixture

TERM_S = 2
BOUND_S = 2.0 * TERM_S
ROUNDS = 5 if FULL else 1


@pytest.fixture(scope="module")
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySqlServer]:
    """One that may be killed."""
    server = MySqlServer(tmp_path_factory.mktemp("mysql"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, mongo_server: AnyServer, mysql: MySqlServer) -> Iterator[Cluster]:
    """Two workers; there is no bus, which is nothing to them."""
    settings = {"leader_election_timeout": TERM_S, "leader_election_heartbeat_interval": 1}
    folder, url = tmp_path_factory.mktemp("leaders"), asyncio.run(mysql.fresh())
    one = Cluster(folder, "nats://127.0.0.1:1", mongo_server.access(), url, **settings)
    try:
        asyncio.run(one.start("work-1", "work-2"))
        yield one
    finally:
        one.close()


async def test_another_leads_when_the_leader_is_killed(cluster: Cluster, told: Told) -> None:
    takeovers: list[float] = []
    for _ in range(ROUNDS):
        leader, epoch = await led(cluster)
        await leader.kill()
        takeovers.append(await taken_over(cluster, leader, epoch))
        await leader.start()
    told(times=ROUNDS, seconds_to_recover=max(takeovers))


async def test_another_leads_when_the_leader_freezes_and_it_gives_way_when_it_wakes(
    cluster: Cluster, told: Told
) -> None:
    takeovers: list[float] = []
    for _ in range(ROUNDS):
        leader, epoch = await led(cluster)
        with frozen(leader):
            takeovers.append(await taken_over(cluster, leader, epoch))
        await knows(leader, epoch + 1)
        require_one_at_most(cluster)
        assert not lease(leader)["leading"]
    told(times=ROUNDS, seconds_to_recover=max(takeovers))


async def test_a_leader_that_stops_gives_the_lease_back(cluster: Cluster, told: Told) -> None:
    leader, epoch = await led(cluster)
    await leader.stop()
    seconds = await taken_over(cluster, leader, epoch)
    await leader.start()
    told(times=1, seconds_to_recover=seconds)


async def test_nobody_leads_without_the_metadata_and_that_is_found_and_passes(
    cluster: Cluster, mysql: MySqlServer, told: Told
) -> None:
    _, epoch = await led(cluster)
    mysql.kill()
    gone_s = time.monotonic()
    await eventually(lambda: leaders(cluster) == 0, within_s=TERM_S, what="the leader no longer believes that it leads")
    told(seconds_to_step_down=time.monotonic() - gone_s)
    workers = cluster.all("work")
    await eventually(lambda: all(leaderless(one) for one in workers), within_s=3 * BOUND_S, what="both say so")
    assert leaders(cluster) == 0
    await asyncio.to_thread(mysql.start)
    well_s = time.monotonic()
    await all_ready(workers)
    await eventually(lambda: leaders(cluster) == 1, within_s=BOUND_S + 5, what="somebody leads again")
    told(times=1, seconds_to_recover=time.monotonic() - well_s)
    assert max(lease(one)["epoch"] for one in workers) > epoch

    async def resolved() -> bool:
        found = [one for one in await cluster.findings() if one.kind is FindingKind.LEADERLESS]
        return bool(found) and not any(one.open for one in found)

    await eventually(resolved, within_s=15, what="the finding, resolved")
    for one in await cluster.findings():
        assert (one.severity, one.series) == ("critical", None)
        assert one.end_ms is not None
        assert one.end_ms - one.start_ms >= BOUND_S * 1_000


def lease(service: Service) -> dict[str, object]:
    """What a worker knows of it."""
    found: dict[str, object] = service.page("/health/connections")["lease"]
    return found


async def led(cluster: Cluster) -> tuple[Service, int]:
    """The leader and its epoch, known to both workers."""
    workers = cluster.all("work")
    await all_ready(workers)
    assert len(workers) == 2

    def agreed() -> bool:
        told = [lease(one) for one in workers]
        return leaders(cluster) == 1 and told[0]["epoch"] == told[1]["epoch"]

    await eventually(agreed, within_s=BOUND_S + 5, what="one leads and both know")
    [leader] = [one for one in workers if lease(one)["leading"]]
    epoch = lease(leader)["epoch"]
    assert isinstance(epoch, int)
    return leader, epoch


async def taken_over(cluster: Cluster, gone: Service, epoch: int) -> float:
    """Return when another leads, under the next epoch; how long that took."""
    began_s = time.monotonic()
    [other] = [one for one in cluster.services.values() if one is not gone]
    await eventually(lambda: bool(lease(other)["leading"]), within_s=BOUND_S, what=f"the other leads\n{other.said()}")
    took_s = time.monotonic() - began_s
    assert lease(other)["epoch"] == epoch + 1
    assert other.figures().of("audit_leader_status") == 1
    assert other.figures().of("lease_epoch") == epoch + 1
    return took_s


async def knows(service: Service, epoch: int) -> None:
    """Return when it was told of that epoch."""
    await eventually(lambda: lease(service)["epoch"] == epoch, what="it hears who leads now")


def leaders(cluster: Cluster) -> int:
    """The sum that an alert would look at."""
    return sum(one.figures().of("audit_leader_status") for one in cluster.all("work"))


def require_one_at_most(cluster: Cluster) -> None:
    """Over some seconds' worth of scrapes."""
    assert max(leaders(cluster) for _ in range(20)) <= 1


def leaderless(service: Service) -> bool:
    """Whether it has made a finding of it, which its log tells at once."""
    return service.logged('"kind": "leaderless"') > 0 and service.figures().of("lease_leaderless_seconds") >= BOUND_S


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """It does nothing until the end of the block."""
    freeze(service.pid)
    try:
        yield
    finally:
        thaw(service.pid)
