"""Real MariaDB servers for tests: each on a free port of 127.0.0.1, its files in a folder given.

The fixture fresh_database gives new databases, in turn of SQLite and of MySQL or MariaDB. TEST_MYSQL_URL names a
database of a server that runs, which is emptied; otherwise mariadbd is started. Where there is neither, these tests are
left out and one line says so; with CI=true they fail.
"""

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncmy
import pytest
from sqlalchemy import MetaData

from data_manager.adapters.meta.database import connect
from data_manager.adapters.meta.migrate import migrate
from tests.servers import ended_with_us, free_port, freeze, thaw
from tests.summary import left_out

USER, PASSWORD = "petrosa", "hunter2@:/?#[]%"
_PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_START_S = 30.0
_numbers = count()
FreshDatabase = Callable[[], Awaitable[str]]


class MySqlServer:
    """A mariadbd with a data folder of its own. start() again after kill() or stop() is a restart on the same port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self._options = options
        self._template: str | None = None  # a database, once it was migrated
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _common(self) -> list[str]:
        user = ["--user=root"] if os.geteuid() == 0 else []
        # A tmpdir of its own: a server that starts removes the temporary tables of all others there.
        own = [f"--datadir={self.folder / 'data'}", f"--tmpdir={self.folder / 'tmp'}"]
        return ["--no-defaults", *own, "--innodb-log-file-size=8M", *user]

    def start(self) -> None:
        """Start it, and wait until it greets. The first start makes the data folder and our user."""
        server = _program("mariadbd")
        if not (self.folder / "data").exists():
            self._make()
        with (self.folder / "mariadbd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    server, *self._common, f"--port={self.port}", "--bind-address=127.0.0.1",
                    "--socket=mariadbd.sock", f"--init-file={self.folder / 'init.sql'}", "--skip-name-resolve",
                    "--innodb-buffer-pool-size=32M", "--performance-schema=OFF", *self._options,
                ],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        ended_with_us(self._process.pid)
        deadline = time.monotonic() + _START_S
        while not self._greets():
            said = (self.folder / "mariadbd.log").read_text(errors="replace")[-3_000:]
            assert self._process.poll() is None, f"mariadbd ended\n{said}"
            assert time.monotonic() < deadline, f"mariadbd does not start\n{said}"
            time.sleep(0.02)

    def _make(self) -> None:
        (self.folder / "tmp").mkdir(parents=True)
        grants = f"CREATE OR REPLACE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"
        (self.folder / "init.sql").write_text(grants, encoding="utf-8")
        make = [_program("mariadb-install-db"), *self._common, "--auth-root-authentication-method=normal"]
        made = subprocess.run([*make, "--skip-test-db"], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return b"mysql_native_password" in connection.recv(256)
        except OSError:
            return False

    def freeze(self) -> None:
        """It stays and answers nothing."""
        assert self._process is not None
        freeze(self._process.pid)

    def thaw(self) -> None:
        """It goes on."""
        if self._process is not None:
            thaw(self._process.pid)

    def kill(self) -> None:
        """SIGKILL: what was not committed is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD, port: int | None = None) -> str:
        """How our code is told of a database there."""
        return f"mysql://{user}:{quote(password, safe='')}@127.0.0.1:{port or self.port}/{database}"

    async def fresh(self) -> str:
        """The URL of a new, empty database."""
        name = f"petrosa_{next(_numbers)}"
        await self.say(f"CREATE DATABASE {name}")
        return self.url(name)

    async def migrated(self) -> str:
        """The URL of a new database that was migrated and holds nothing."""
        if self._template is None:
            url = await self.fresh()
            await migrate(url)
            self._template = url.rpartition("/")[2]
        copy = await self.fresh()
        name, template = copy.rpartition("/")[2], self._template
        asked = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{template}'"
        tables = [row[0] for row in await self.say(asked)]
        likenesses = (f"CREATE TABLE {name}.{table} LIKE {template}.{table}" for table in tables)
        await self.say(*likenesses, f"INSERT INTO {name}.alembic_version SELECT * FROM {template}.alembic_version")
        return copy

    async def say(self, *statements: str) -> list[tuple[Any, ...]]:
        """Whatever an administrator may say; the rows of the last answer."""
        rows: list[tuple[Any, ...]] = []
        connection = await asyncmy.connect(host="127.0.0.1", port=self.port, user=USER, password=PASSWORD)
        try:
            async with connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)
                rows = list(await cursor.fetchall()) if cursor.description else []
            await connection.commit()
        finally:
            await connection.ensure_closed()
        return rows


def _program(name: str) -> str:
    found = shutil.which(name, path=_PLACES)
    if found is None:
        left_out("no MariaDB: ")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def mysql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySqlServer]:
    """A server for many tests, none of which may harm it."""
    server = MySqlServer(tmp_path_factory.mktemp("mysql"), "--debug-no-sync", "--skip-ssl")  # neither is what it tests
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_mysql(tmp_path: Path) -> Iterator[MySqlServer]:
    """A server for one test, which may kill, freeze and restart it."""
    server = MySqlServer(tmp_path / "mysql")
    server.start()
    yield server
    server.thaw()
    server.kill()


KINDS = ["sqlite", "mysql"]


@pytest.fixture(params=KINDS)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshDatabase]:
    """Await it for the URL of a database without a table: of each kind there is."""
    given = os.environ.get("TEST_MYSQL_URL")
    if request.param == "sqlite":
        yield lambda: beside(tmp_path)
    elif given is None:
        server: MySqlServer = request.getfixturevalue("mysql_server")
        yield server.fresh
    else:
        with _alone():
            yield lambda: emptied(given)


@pytest.fixture(params=KINDS)
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshDatabase]:
    """Await it for the URL of a database that was migrated and holds nothing: of each kind there is.

    It is a copy. Every test that migrated its own would spend more time on that than on anything else.
    """
    given = os.environ.get("TEST_MYSQL_URL")
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("migrated_file")
        yield lambda: copied(template, tmp_path)
    elif given is None:
        server: MySqlServer = request.getfixturevalue("mysql_server")
        yield server.migrated
    else:
        with _alone():
            yield lambda: emptied(given)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file, to be copied."""
    file = tmp_path_factory.mktemp("migrated") / "meta.db"
    asyncio.run(migrate(f"sqlite:///{file}"))
    return file


async def copied(file: Path, folder: Path) -> str:
    """A copy of it."""
    shutil.copy(file, folder / "meta.db")
    return await beside(folder)


@contextmanager
def _alone() -> Iterator[None]:
    """Tests of other processes wait: all of them empty the same database."""
    with (Path(tempfile.gettempdir()) / "petrosa-test-mysql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def beside(folder: Path) -> str:
    """A SQLite file that is not there yet."""
    return f"sqlite:///{folder}/meta.db"


async def emptied(url: str) -> str:
    """The same URL, with every table gone."""
    database = connect(url)
    async with database.writing() as connection:
        held = MetaData()
        await connection.run_sync(held.reflect)
        await connection.run_sync(held.drop_all)
    await database.close()
    return url
