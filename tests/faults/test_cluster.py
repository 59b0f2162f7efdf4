"""The cluster under fire: MongoDB, MariaDB and NATS killed under load, replicas killed and frozen, all of it twice."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import all_ready
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.outbox import publishing
from tests.faults.stage import SERVERS, Stage, few_books
from tests.faults.test_replicas import ACK_WAIT_S, busy
from tests.mongo_server import program
from tests.servers import freeze, thaw
from tests.service import Service
from tests.truth import Line, lines_of, paths_of

ROUNDS = 2 if FULL else 1
RATE = 400.0  # messages a second
SLICE = 400  # messages of a round
REPLICAS = ("ingest-1", "ingest-2", "ingest-3")
RECORDINGS = ("2021-04-05_sand-chr-neo-ctk-bat", "2021-07-22_sushi-akro-keep-ctk")
AGAIN = 500  # messages published a second time in one go


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    return few_books(lines_of(*paths_of(recordings, "um", RECORDINGS)))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, lines: list[Line]) -> Iterator[Stage]:
    """Three ingest replicas with little in hand each, and an API."""
    settings = {"nats_ack_wait_s": ACK_WAIT_S, "message_queue_size": 100, "max_batch_size": 200}
    one = Stage(tmp_path_factory.mktemp("stage"), program(), lines, **settings)
    try:
        asyncio.run(one.open(*REPLICAS, "api-1"))
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("server", SERVERS)
async def test_a_server_of_the_cluster_is_killed_under_load(stage: Stage, server: str, told: Told) -> None:
    cluster, before, rows_before = stage.cluster, stage.cluster.sum_of("rows_new_total"), stage.rows
    recoveries: list[float] = []
    for _ in range(ROUNDS):
        async with publishing(stage.nats.url, stage.some_replica, stage.next(SLICE, garbage=5), RATE) as outbox:
            await eventually(lambda outbox=outbox: outbox.due >= SLICE // 4, within_s=30, what="the load of this round")
            await eventually(lambda: cluster.sum_of("events_in_flight") > 0, within_s=30, what="something in flight")
            await stage.kill(server)
            await eventually(lambda: stage.refuses(stage.some_replica, server), what="it is noticed")
            await stage.start(server)
            well_s = time.monotonic()
            await all_ready(cluster.services.values())
            recoveries.append(time.monotonic() - well_s)
    told(times=ROUNDS, seconds_to_recover=max(recoveries))
    await stage.settled(told)
    new = cluster.sum_of("rows_new_total") - before
    if server == "mongo":  # what it wrote and could not say any more is a duplicate at the next attempt
        assert new <= stage.rows - rows_before
    else:
        assert new == stage.rows - rows_before


async def test_a_frozen_replica_neither_loses_nor_doubles_anything(stage: Stage, told: Told) -> None:
    cluster, before, rows_before = stage.cluster, stage.cluster.sum_of("rows_new_total"), stage.rows
    duplicates = cluster.sum_of("rows_duplicate_total")
    dice = random.Random(4)
    for _ in range(ROUNDS):
        async with publishing(stage.nats.url, stage.some_replica, stage.next(SLICE), RATE / 2):
            frozen = dice.choice(cluster.all("ingest"))
            await busy(frozen)
            await rest(frozen, 1.5 * ACK_WAIT_S)
    await stage.settled(told)
    assert cluster.sum_of("rows_new_total") - before == stage.rows - rows_before, "each row is new in one replica, once"
    told(times=ROUNDS, duplicates_of_it=cluster.sum_of("rows_duplicate_total") - duplicates)


async def rest(service: Service, seconds: float) -> None:
    """Frozen for so long; it is ready again and has the same pid."""
    pid, until_s = service.pid, time.monotonic() + seconds
    freeze(pid)
    try:
        await eventually(lambda: time.monotonic() > until_s, within_s=seconds + 1)
    finally:
        thaw(pid)
    await all_ready([service])
    assert service.pid == pid


async def test_a_killed_replica_loses_nothing(stage: Stage, told: Told) -> None:
    cluster = stage.cluster
    dice = random.Random(5)
    for _ in range(ROUNDS):
        payloads, killed = stage.next(SLICE, garbage=3), dice.choice(cluster.all("ingest"))
        async with publishing(stage.nats.url, stage.some_replica, payloads, RATE / 2):
            await busy(killed)
            await killed.kill()
            await killed.start()
    await stage.settled(told)
    told(times=ROUNDS)


async def test_everything_again_is_nothing_new(stage: Stage, told: Told) -> None:
    cluster, before = stage.cluster, stage.cluster.sum_of("rows_new_total")
    duplicates = cluster.sum_of("rows_duplicate_total")
    payloads = [line.enveloped for line in stage.published]
    began_s = time.monotonic()
    for start in range(0, len(payloads), AGAIN):
        await stage.publish(payloads[start : start + AGAIN])
        await cluster.drained()
    await stage.settled(told)
    assert cluster.sum_of("rows_new_total") == before
    assert cluster.sum_of("rows_duplicate_total") - duplicates >= stage.rows
    told(times=1, messages=len(payloads), seconds=time.monotonic() - began_s)
