"""A bus without memory, and a store that comes up after the service: what an earlier run missed is told all the same.

The store alone remembers where every series ended, so it is asked before anything is stored; what came meanwhile waits.
"""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.faults.conftest import Told
from tests.faults.losses import absences, gaps, losses_of
from tests.faults.streams import trade
from tests.faults.test_core_overflow import send
from tests.mongo_server import MongoServer, program
from tests.servers import fresh, own_server
from tests.service import Service, connected, running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Without JetStream."""
    async with own_server(tmp_path / "nats", jetstream=False) as one:
        yield one


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    one = MongoServer(tmp_path / "mongo", program())
    one.start()
    try:
        yield one
    finally:
        one.kill()


async def test_what_passed_between_two_runs_is_told_when_the_store_comes_up_last(
    server: NatsServer, mongo: MongoServer, tmp_path: Path, told: Told
) -> None:
    before, unseen, after = ([trade("GONEUSDT", n) for n in range(at, at + 10)] for at in (0, 10, 20))
    service = Service(tmp_path / "service", nats_url=server.url, mongodb_url=mongo.url, mongodb_db=fresh("late"))
    async with running(service), connected(server.url) as client:
        await send(client, service, before)
        await eventually(lambda: service.figures().of("rows_new_total") == 10, what="rows of the first run")
        await service.kill()
        mongo.kill()
        gone_ms = time.time_ns() // 1_000_000
        await send(client, service, unseen)
        await service.start(ready=False)
        await eventually(lambda: service.figures().of("nats_connection_status") == 1, what="it listens")
        listens_ms = time.time_ns() // 1_000_000
        await send(client, service, after)
        await eventually(lambda: service.figures().of("events_in_flight") == 10, what="they wait for the store")
        mongo.start()
        await eventually(lambda: service.figures().of("rows_new_total") == 10, within_s=20, what="what came meanwhile")
        service.figures().require_law()
        assert await service.stop() < 5.0
    findings = await losses_of(service)
    [absence], [gap] = absences(findings), gaps(findings)
    assert absence.end_ms is not None
    assert absence.start_ms <= gone_ms < absence.end_ms <= listens_ms
    assert (gap.series, gap.evidence["after_key"], gap.evidence["before_key"]) == ("um.trade.GONEUSDT", 9, 20)
    assert gap.evidence["absent"] == 10
    told(times=1, unseen=10, findings=len(findings))
