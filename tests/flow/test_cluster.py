"""The cluster, all well: three ingest replicas, a worker and an API on NATS, MongoDB's protocol and MariaDB."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from tests import cluster as clusters
from tests.cluster import Cluster
from tests.conftest import eventually
from tests.mongo_server import AnyServer, mongo_server
from tests.mysql_server import MySqlServer, mysql_server
from tests.servers import running_server
from tests.service import connected, publish
from tests.truth import Line, lines_of, path_of, rows_of

__all__ = ["mongo_server", "mysql_server"]  # fixtures

REPLICAS = ("ingest-1", "ingest-2", "ingest-3")
GARBAGE = [b'{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT"}}', b"no json %d"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    return list(lines_of(path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")))


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, server: NatsServer, mongo_server: AnyServer, mysql_server: MySqlServer
) -> Iterator[Cluster]:
    """Five services, started."""
    one = clusters.of(tmp_path_factory.mktemp("cluster"), server.url, mongo_server, mysql_server, message_queue_size=200)
    try:
        asyncio.run(one.start(*REPLICAS, "work-1", "api-1"))
        yield one
    finally:
        one.close()


async def test_a_recording_travels_through_the_cluster(cluster: Cluster, lines: list[Line]) -> None:
    import time
    expected = rows_of(lines)
    t=time.monotonic()
    async with connected(cluster.nats_url) as client:
        await publish(client, cluster.services["ingest-1"].subject, [line.enveloped for line in lines])
    await cluster.drained()
    print("drained", time.monotonic()-t, len(lines)); t=time.monotonic()
    await cluster.require(expected)
    print("required", time.monotonic()-t)
    cluster.require_law()
    assert cluster.sum_of("rows_new_total") == sum(map(len, expected.values()))
    print([one.figures().of("rows_new_total") for one in cluster.all("ingest")])
    for s in cluster.services.values():
        print(s.page("/health/readiness"))
    print(cluster.api.get("/health/databases").text)
