"""The cluster, all well: replicas of every role on NATS, MongoDB's protocol and MariaDB are one service."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from msgspec.structs import replace

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.mongo.access import MongoAccess
from data_manager.domain.finding import FindingKind
from tests import cluster as clusters
from tests.cluster import Cluster
from tests.conftest import eventually
from tests.faults.streams import trade
from tests.mongo_server import AnyServer, fresh_name, mongo_server, raw
from tests.mysql_server import MySqlServer, mysql_server
from tests.servers import fresh, running_server
from tests.service import (
    Service,
    asked,
    bare_environment,
    command,
    connected,
    data_manager,
    feed,
    publish,
    running,
)
from tests.truth import lines_of, path_of, rows_of

__all__ = ["mongo_server", "mysql_server"]  # fixtures

RECORDING = "2021-07-22_sushi-akro-keep-ctk"
OTHER = "2021-04-05_sand-chr-neo-ctk-bat"
GARBAGE = [b"no json %d" % number for number in range(60)]
MOVED = 2_000  # messages
TURNS = 5
IMPATIENT = [sys.executable, "-m", "tests.flow.impatient"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, server: NatsServer, mongo_server: AnyServer, mysql_server: MySqlServer
) -> Iterator[Cluster]:
    """Three ingest replicas that have little in hand each, a worker and an API, started."""
    folder = tmp_path_factory.mktemp("cluster")
    one = clusters.of(folder, server.url, mongo_server, mysql_server, message_queue_size=200)
    try:
        asyncio.run(one.start("ingest-1", "ingest-2", "ingest-3", "work-1", "api-1"))
        yield one
    finally:
        one.close()


# ---- first light -----------------------------------------------------------------------------------------------------


async def test_a_recording_travels_through_three_replicas_to_the_api(cluster: Cluster, recordings: Path) -> None:
    file = path_of(recordings, "um", RECORDING)
    expected = rows_of(lines_of(file))
    first = cluster.services["ingest-1"]
    said = json.loads(first.command("replay", file, "--speed", "max", "--json"))
    async with connected(cluster.nats_url) as client:
        await publish(client, first.subject, GARBAGE)
    await cluster.drained()
    await cluster.require(expected)
    cluster.require_law()
    shares = [one.figures().of("rows_new_total") for one in cluster.all("ingest")]
    assert sum(shares) == sum(map(len, expected.values())), "each row is new in exactly one replica"
    assert min(shares) > 0, "each of them had its share"
    assert cluster.sum_of("messages_received_total", event_type="raw") == said["messages"] + len(GARBAGE)
    assert cluster.sum_of("messages_failed_total") == len(GARBAGE)


async def test_what_could_not_be_read_is_seen_by_every_role(cluster: Cluster) -> None:
    letters = cluster.api.page("/dead-letters", limit=1_000, reason="undecodable")
    assert letters["pagination"]["total"] == len(GARBAGE)
    assert {one["sample"].encode() for one in letters["data"]} == set(GARBAGE)
    assert cluster.all("work")[0].page("/dead-letters")["pagination"] == {
        "limit": 100, "offset": 0, "total": len(GARBAGE), "has_more": False,
    }  # fmt: skip

    async def found() -> bool:
        return FindingKind.PARSE_ERRORS in {one.kind for one in await cluster.findings()}

    await eventually(found, what="the finding of the replica that met most of them")


async def test_every_role_is_ready_and_names_what_it_stands_on(cluster: Cluster) -> None:
    for one in cluster.services.values():
        components = one.page("/health/readiness")["components"]
        assert (components["mongodb"], components["mysql"]) == ("healthy", "healthy")
        assert components["nats"] == ("healthy" if one in cluster.all("ingest") else "not_configured")
        databases = one.page("/health/databases")
        rows, metadata = databases["databases"]["rows"], databases["databases"]["metadata"]
        assert (databases["status"], rows["kind"], metadata["kind"]) == ("healthy", "mongodb", "mysql")
        assert 0 <= rows["latency_ms"] < 2_000
        assert 0 <= metadata["latency_ms"] < 2_000
    assert cluster.api.page("/health/connections")["nats"] is None
    lease = cluster.all("work")[0].page("/health/connections")["lease"]
    assert (lease["leading"], lease["epoch"]) == (True, 1)


async def test_drift_is_found_by_who_leads_and_ends_when_it_is_mended(
    cluster: Cluster, mysql_server: MySqlServer, tmp_path: Path
) -> None:
    access = replace(cluster.mongo, database=fresh_name())
    with raw(access) as client:
        trades = client[access.database]["trades_BTCUSDT"]
        trades.create_index([("symbol", 1)], name="somebodys")
        own = Cluster(tmp_path, cluster.nats_url, access, await mysql_server.fresh())
        async with clusters.running(own):
            await own.start("work-1")
            drifts = partial(own.services["work-1"].page, "/findings", kind="drift")
            await eventually(lambda: bool(drifts(open="true")["data"]), what="the finding")
            [drift] = drifts()["data"]
            assert (drift["evidence"]["problems"], "dm_time: is missing" in drift["evidence"]["first"]) == (2, True)
            trades.drop_index("somebodys")
            assert "created dm_time" in own.services["work-1"].command("migrate").decode()
            await own.services["work-1"].stop()
            await own.start("work-2")  # who leads next looks at once
            await eventually(lambda: not own.services["work-2"].page("/findings", open="true")["data"], what="its end")


# ---- what one replica does not hear ----------------------------------------------------------------------------------


async def test_a_replica_is_not_alarmed_by_what_another_stores(
    cluster: Cluster, mysql_server: MySqlServer, tmp_path: Path
) -> None:
    """One of two hears a series once, on a bus of its own; all that comes of it then goes to the other.

    Their metadata is their own too: a silence that another test left open there would be theirs to watch.
    """
    deaf_settings = {"nats_stream": fresh("DEAF"), "nats_consumer_subject": fresh("deaf.data")}
    access = replace(cluster.mongo, database=fresh_name())
    both = Cluster(tmp_path, cluster.nats_url, access, await mysql_server.fresh(), program=IMPATIENT)
    async with clusters.running(both):
        hears, deaf = both.service("ingest-hears"), both.service("ingest-deaf", **deaf_settings)
        await asyncio.gather(hears.start(), deaf.start())
        await feed(both.nats_url, deaf, [trade("BTCUSDT", 1).message])
        async with trades(hears, range(2, 1_000)):
            for _ in range(TURNS):  # a machine that stands still for seconds alarms both, and is right
                if await learns_in_peace(deaf, both):
                    break
                await eventually(lambda: all_silent(both, 0), within_s=60, what="heard again")
            else:
                raise AssertionError("alarmed again and again, although rows come all the time")
        await eventually(lambda: all_silent(both, 2), within_s=60, what="the series and its stream are silent")
        async with trades(hears, range(1_000, 2_000)):
            await eventually(lambda: all_silent(both, 0), within_s=60, what="heard again, by both")


async def learns_in_peace(deaf: Service, both: Cluster) -> bool:
    """Whether it has two news from the store, and nobody was alarmed meanwhile."""
    calm, known = True, {last_event_ms(deaf)}

    def over() -> bool:
        nonlocal calm
        known.add(last_event_ms(deaf))
        calm = all_silent(both, 0)
        return not calm or len(known) > 2

    await eventually(over, within_s=60, what="news from the store")
    return calm


def all_silent(both: Cluster, subjects: int) -> bool:
    """Whether each replica says that so many are."""
    return {silences(one) for one in both.services.values()} == {subjects}


@asynccontextmanager
async def trades(service: Service, numbers: range) -> AsyncIterator[None]:
    """Beside the block the service gets a trade every fifth of a second."""

    async def publish_all() -> None:
        async with connected(service.environ["NATS_URL"]) as client:
            for number in numbers:
                await publish(client, service.subject, [trade("BTCUSDT", number).message])
                await asyncio.sleep(0.2)

    task = asyncio.create_task(publish_all())
    try:
        yield
        assert not task.done(), "it ended before the block did"
    finally:
        task.cancel()
        await asyncio.wait([task])


def last_event_ms(service: Service) -> int:
    """Of the one series."""
    [fact] = service.page("/health/ingest")["series"]
    return int(fact["last_event_ms"])


def silences(service: Service) -> int:
    """How many it finds now."""
    return service.figures().of("findings_open", kind="silence")


# ---- moving house ----------------------------------------------------------------------------------------------------


async def test_the_history_of_one_machine_moves_into_the_cluster_and_back(
    cluster: Cluster, tmp_path: Path, recordings: Path
) -> None:
    rows = rows_of(lines := list(islice(lines_of(path_of(recordings, "um", OTHER)), MOVED)))
    alone = Service(tmp_path / "alone", nats_url=cluster.nats_url)
    async with running(alone):
        await feed(cluster.nats_url, alone, [line.enveloped for line in lines])
        answered = {series: alone.lines(path, **query) for series in rows for path, query in [asked(series)]}
        assert answered == rows
        exported = json.loads(alone.command("export", tmp_path / "box", "--json"))
        assert exported["rows"] == sum(map(len, rows.values()))
    there = {"MONGODB_URL": cluster.mongo.url, "MONGODB_DB": fresh_name(), "MYSQL_URI": cluster.mysql_url}
    environ = {**bare_environment(), **there}
    access = replace(cluster.mongo, database=there["MONGODB_DB"])
    await killed_amid_import(environ, tmp_path / "box", access, len(rows))
    arrived = json.loads(command(environ, "import", tmp_path / "box", "--json"))["series"]
    assert all(one["verified"] for one in arrived)
    assert len(arrived) == len(rows)
    assert sum(one["duplicate"] for one in arrived), "what had arrived is not sent again"
    assert all(one["new"] + one["duplicate"] == one["rows"] for one in arrived)
    again = json.loads(command(environ, "import", tmp_path / "box", "--json"))["series"]
    assert sum(one["duplicate"] for one in again) == exported["rows"]

    moved = Cluster(tmp_path / "moved", cluster.nats_url, access, cluster.mysql_url)
    async with clusters.running(moved):
        await moved.start("api-1")
        await moved.require(answered)

    command(environ, "export", tmp_path / "back")
    home = {**bare_environment(), "DATA_DIR": str(tmp_path / "home")}
    returned = json.loads(command(home, "import", tmp_path / "back", "--json"))["series"]
    assert sum(one["new"] for one in returned) == exported["rows"]
    assert all(one["verified"] for one in returned)
    assert contents(tmp_path / "back") == contents(tmp_path / "box")


async def killed_amid_import(environ: Mapping[str, str], box: Path, access: MongoAccess, series: int) -> None:
    """Begin an import, and kill it when some series have arrived."""
    with subprocess.Popen([*data_manager(), "import", str(box)], env=environ, stdout=subprocess.DEVNULL) as process:
        await eventually(lambda: arrivals(access) > 1, within_s=30, what="the first series in the target")
        process.kill()
    assert 1 < arrivals(access) < series, "killed amid the import"


def arrivals(access: MongoAccess) -> int:
    """Series of which something is there."""
    with raw(access) as client:
        return sum(not name.startswith("data_manager.") for name in client[access.database].list_collection_names())


def contents(box: Path) -> dict[str, str]:
    """By series, the hash of what was exported of it: one file each, as there are few rows."""
    manifest = [json.loads(line) for line in (box / "manifest.jsonl").read_text().splitlines()]
    assert len({one["series"] for one in manifest}) == len(manifest)
    return {one["series"]: one["content"] for one in manifest}


# ---- later, when sizes have been asked for ---------------------------------------------------------------------------


async def test_how_full_the_store_is(cluster: Cluster) -> None:
    def sizes() -> dict[str, Any]:
        found: dict[str, Any] = cluster.api.page("/health/databases")["databases"]["rows"]
        return found

    await eventually(lambda: sizes()["rows"] is not None, within_s=40, what="sizes, which are asked for now and then")
    found = sizes()
    assert found["rows"] > 0
    assert found["storage_bytes"] > found["data_bytes"] / 10 > 0
    assert found["used_bytes"] == found["storage_bytes"] + found["index_bytes"]
    assert found["retention"] == "engine"
    assert cluster.api.figures().of("mongo_data_size_bytes", database=cluster.mongo.database) == found["data_bytes"]


async def test_every_figure_that_the_cluster_s_page_names_is_exported(cluster: Cluster) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    scrapes = [urlopen(f"{one.metrics_url}/metrics").read().decode() for one in cluster.services.values()]
    exported = {name for one in scrapes for name in re.findall(r"^(\w+)[ {]", one, re.MULTILINE)}
    named = set(re.findall(r"\bdata_manager_\w+", page))
    assert len(named) > 4
    assert named <= exported
