"""The cluster's servers come up in any order; what waiting does not mend ends the process, naming what to change."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.migrate import migrate
from tests import cluster as clusters
from tests.cluster import Cluster, is_ready
from tests.conftest import eventually
from tests.faults.streams import trade
from tests.mongo_server import AnyServer, MongoServer, mongo_server, obedient, opened, program, raw, scripted
from tests.mysql_server import PASSWORD, MySqlServer, mysql_server
from tests.servers import free_port, running_server
from tests.service import bare_environment, data_manager, feed

__all__ = ["mongo_server", "mysql_server"]  # fixtures

SECRET = "hunter2/@:?"
LETS_IN = "hunter3"
SECRETS = (SECRET, quote(SECRET, safe=""), PASSWORD, quote(PASSWORD, safe=""), LETS_IN)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


# ---- start order -----------------------------------------------------------------------------------------------------


async def test_the_bus_comes_up_last(tmp_path: Path, mongo_server: AnyServer, mysql_server: MySqlServer) -> None:
    config = f'authorization {{ user: "us", password: "{LETS_IN}" }}'
    nats = NatsServer(tmp_path / "nats", port=free_port(), config=config)
    url = nats.url.replace("nats://", f"nats://us:{LETS_IN}@")
    one = Cluster(tmp_path, url, mongo_server.access(), await mysql_server.fresh(), nats_connect_timeout=2)
    try:
        await comes_up_last(one, "nats", ("nats",), nats.start)
    finally:
        await nats.kill()


async def test_mongodb_comes_up_last(tmp_path: Path, nats: NatsServer, mysql_server: MySqlServer) -> None:
    mongo = MongoServer(tmp_path / "mongo", program())
    one = Cluster(tmp_path, nats.url, mongo.access(), await mysql_server.fresh())

    async def start() -> None:
        refused = service.get("/data/trades", pair="BTCUSDT")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert service.get("/health/databases").status_code == 503
        mongo.start()

    service = one.service("all-1")
    try:
        await comes_up_last(one, "store", ("store", "mongodb"), start)
    finally:
        mongo.kill()


async def test_the_metadata_database_comes_up_last(tmp_path: Path, nats: NatsServer, mongo_server: AnyServer) -> None:
    mysql = MySqlServer(tmp_path / "mysql")
    mysql.start()
    one = Cluster(tmp_path, nats.url, mongo_server.access(), await mysql.fresh())
    mysql.stop()

    async def start() -> None:
        assert service.get("/dead-letters").status_code == 503
        mysql.start()

    service = one.service("all-1")
    try:
        await comes_up_last(one, "metadata", ("metadata", "mysql"), start)
    finally:
        mysql.kill()


async def comes_up_last(
    cluster: Cluster, reason: str, components: tuple[str, ...], start: Callable[[], Awaitable[None]]
) -> None:
    """The service is there first, says whom it waits for, and begins to work by itself when that is there."""
    service = cluster.services.get("all-1") or cluster.service("all-1")
    service.environ["LOG_LEVEL"] = "DEBUG"  # says all that it ever says
    async with clusters.running(cluster):
        await service.start(ready=False)

        def waits() -> bool:
            body = service.get("/health/readiness").json()
            found: dict[str, str] = body["components"]
            well = {name for name in ("nats", "store", "metadata") if found[name] == "healthy"}
            return any(one.startswith(f"{reason}: ") for one in body["reasons"]) and len(well) == 2

        await eventually(waits, what=f"everything but {reason}\n{service.said()}")
        answer = service.get("/health/readiness")
        assert answer.status_code == 503
        assert {answer.json()["components"][name] for name in components} == {"unhealthy"}
        assert service.get("/health/liveness").status_code == 200
        await start()
        await eventually(lambda: is_ready(service), within_s=15, what=f"ready\n{service.said()}")
        await feed(cluster.nats_url, service, [trade("BTCUSDT", number).message for number in range(1, 51)])
        assert len(service.rows("/data/trades", pair="BTCUSDT")) == 50
        assert service.logged('"level": "debug"') > 0
        assert [service.logged(secret) for secret in SECRETS] == [0] * len(SECRETS)
        require_no_secret(service.said())
        require_no_secret(service.command("config").decode() + service.command("doctor").decode())
        assert {check["ok"] for check in json.loads(service.command("doctor", "--json"))} <= {True, None}


# ---- what waiting does not mend --------------------------------------------------------------------------------------


def refused(**settings: str) -> str:
    """What a service that ends by itself says, with exit code 2: a setting is wrong. Started twice, it says the same."""
    given = {"api_port": "0", "metrics_port": "0", "log_level": "ERROR", **settings}
    environ = {**bare_environment(), **{name.upper(): value for name, value in given.items()}}
    done = subprocess.run(
        [*data_manager(), "serve", "--role", "api"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    require_no_secret(said)
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    return error


def require_no_secret(said: str) -> None:
    assert not any(secret in said for secret in SECRETS)


async def in_thread(**settings: str) -> str:
    """The same, while this loop plays the server."""
    return await asyncio.to_thread(lambda: refused(**settings))


def test_a_wrong_login_of_mongodb(mongo_server: AnyServer, tmp_path: Path) -> None:
    url = mongo_server.url.replace("mongodb://", f"mongodb://somebody:{quote(SECRET, safe='')}@")
    said = refused(mongodb_url=url, data_dir=str(tmp_path))
    assert said.startswith("error: MONGODB_URL='mongodb://***@127.0.0.1:")
    assert "refuses the login" in said
    assert "check user, password and, in a URL, authSource" in said


async def test_missing_privileges_in_mongodb(tmp_path: Path) -> None:
    def say(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if "insert" in asked:
            return {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized on petrosa to execute"}
        return obedient(asked)

    async with scripted(say) as url:
        said = await in_thread(mongodb_url=url, mongodb_db="petrosa", data_dir=str(tmp_path))
    assert "MONGODB_DB" in said
    assert "readWrite" in said


async def test_rows_of_a_later_release_in_mongodb(mongo_server: AnyServer, tmp_path: Path) -> None:
    access = mongo_server.access()
    async with opened(access):
        pass
    with raw(access) as client:
        client[access.database]["data_manager.layout"].update_one({"_id": "rows"}, {"$set": {"format": 99}})
    said = refused(mongodb_url=access.url, mongodb_db=access.database, data_dir=str(tmp_path))
    assert "MONGODB_DB" in said
    assert "install the later release" in said


async def test_a_wrong_password_of_mysql(mysql_server: MySqlServer, tmp_path: Path) -> None:
    url = mysql_server.url("petrosa", password=SECRET)
    assert "check MYSQL_URI" in refused(mysql_uri=url, data_dir=str(tmp_path))
    by_parts = {"mysql_host": "127.0.0.1", "mysql_port": str(mysql_server.port), "mysql_user": "petrosa"}
    said = refused(**by_parts, mysql_password=SECRET, data_dir=str(tmp_path))
    assert said.startswith("error: MYSQL_HOST=")
    assert "refuses this user and password" in said


async def test_a_database_that_does_not_exist_in_mysql(mysql_server: MySqlServer, tmp_path: Path) -> None:
    said = refused(mysql_uri=mysql_server.url("nowhere"), data_dir=str(tmp_path))
    assert said.startswith("error: MYSQL_URI=")
    assert "nowhere does not exist: CREATE DATABASE it" in said


async def test_missing_privileges_in_mysql(mysql_server: MySqlServer, tmp_path: Path) -> None:
    name = (await mysql_server.fresh()).rpartition("/")[2]
    await mysql_server.say(
        f"CREATE OR REPLACE USER looker@'%' IDENTIFIED BY '{SECRET}'", f"GRANT SELECT ON {name}.* TO looker@'%'"
    )
    said = refused(mysql_uri=mysql_server.url(name, user="looker", password=SECRET), data_dir=str(tmp_path))
    assert said.startswith("error: MYSQL_URI=")
    assert "grant it SELECT, INSERT, UPDATE and DELETE" in said


async def test_a_schema_of_a_later_release_in_mysql(mysql_server: MySqlServer, tmp_path: Path) -> None:
    url = await mysql_server.fresh()
    await migrate(url)
    await mysql_server.say(f"UPDATE {url.rpartition('/')[2]}.alembic_version SET version_num = '9999'")
    said = refused(mysql_uri=url, data_dir=str(tmp_path))
    assert "was written by a newer version" in said
