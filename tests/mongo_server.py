"""Real MongoDB-protocol servers for tests: on a free port of 127.0.0.1, their files in a folder given.

TEST_MONGODB_URL names a server that runs: every test takes a new database there and drops it at its end. Otherwise
mongod is started, and where there is none FerretDB, which the first run builds (scripts/ferretdb; it needs Go). Where
there is neither, these tests are left out and one line says so; with CI=true they fail. docs/testing.md lists what
FerretDB does not show.

scripted() is a server of another kind: it says what a test tells it to, so that refusals can be seen that no server
here gives.
"""

import asyncio
import gc
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion

from data_manager.adapters.mongo.access import MongoAccess
from data_manager.adapters.mongo.store import MongoStore, open_mongo
from tests.servers import ended_with_us, free_port, freeze, thaw
from tests.summary import left_out

_BUILD = Path(__file__).resolve().parents[1] / "scripts" / "ferretdb" / "build.sh"
_START_S = 30.0
_numbers = count()


class AnyServer:
    """A server at a URL, such as that of TEST_MONGODB_URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def access(self, database: str | None = None, **more: Any) -> MongoAccess:
        """How to reach a database there, a new one unless it is named."""
        return MongoAccess(url=self.url, database=database or fresh_name(), **more)


class MongoServer(AnyServer):
    """A server of ours with a data folder of its own. start() again after kill() is a restart on the same port."""

    def __init__(self, folder: Path, program: str) -> None:
        self.port = free_port()
        super().__init__(f"mongodb://127.0.0.1:{self.port}/")
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        ended_with_us(self._process.pid)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            said = (self._folder / "server.log").read_text(errors="replace")[-3_000:]
            assert self._process.poll() is None, f"{self._program} ended\n{said}"
            assert time.monotonic() < deadline, f"{self._program} does not start\n{said}"

    @property
    def _command(self) -> list[str]:
        data = str(self._folder / "data")
        if Path(self._program).name == "mongod":
            return [self._program, "--dbpath", data, "--bind_ip", "127.0.0.1", "--port", str(self.port)]
        return [self._program, data, f"127.0.0.1:{self.port}"]

    def _answers(self) -> bool:
        with pymongo.MongoClient[dict[str, Any]](self.url, serverSelectionTimeoutMS=100) as client:
            try:
                return bool(client.admin.command("ping")["ok"])
            except pymongo.errors.PyMongoError:
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
        """SIGKILL: what was not durable is gone."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process = None


def fresh_name() -> str:
    """A database that no other test uses, also not one of another run."""
    return f"petrosa_test_{os.getpid()}_{time.time_ns() % 10**9}_{next(_numbers)}"


@asynccontextmanager
async def opened(access: MongoAccess) -> AsyncIterator[MongoStore]:
    """A store there, closed again at the end; its database stays."""
    store = await open_mongo(access)
    try:
        yield store
    finally:
        await store.close()


def raw(access: MongoAccess) -> pymongo.MongoClient[dict[str, Any]]:
    """A plain client: whatever else reads and writes there."""
    return pymongo.MongoClient(access.url, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_MS)


def forget(access: MongoAccess) -> None:
    """Drop the database."""
    with raw(access) as client:
        client.drop_database(access.database)


@pytest.fixture(scope="session")
def mongo_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyServer]:
    """A server for many tests, none of which may harm it."""
    given = os.environ.get("TEST_MONGODB_URL")
    if given:
        yield AnyServer(given)
        return
    server = MongoServer(tmp_path_factory.mktemp("mongo"), program())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_mongo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MongoServer]:
    """A server for one test, which may kill, freeze and restart it."""
    server = MongoServer(tmp_path / "mongo", program())
    server.start()
    yield server
    server.kill()
    with warnings.catch_warnings():  # the driver forgets a socket when it is closed amid reconnecting
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def mongo_access(mongo_server: AnyServer) -> Iterator[MongoAccess]:
    """A new database on the server for many, dropped at the end."""
    access = mongo_server.access()
    yield access
    forget(access)


def program() -> str:
    """mongod, or the stand-in, which is built if it has to be; without either the test is left out, or fails."""
    found = shutil.which("mongod")
    if found is None:
        built = subprocess.run([_BUILD], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        found = built.stdout.strip()
        if built.returncode:
            left_out("no MongoDB: ", built.stderr.strip()[-300:])
    return found


# ---- a server that says what it is told ------------------------------------------------------------------------------

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_MS)
_OP_MSG = 2013
Say = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
HELLO = {"ok": 1.0, "isWritablePrimary": True, "ismaster": True, "minWireVersion": 0, "maxWireVersion": 21}


@asynccontextmanager
async def scripted(say: Say) -> AsyncIterator[str]:
    """The URL of a server that answers each command document with what say returns; None hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(16)
                size, request, _, code = (_number(head, at) for at in range(0, 16, 4))
                answer = say(_document(code, await reader.readexactly(size - 16)))
                if answer is None:
                    break
                writer.write(_reply(code, request, bson.encode(answer)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client hung up
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def obedient(command: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Answers everything that opening asks, and keeps no document."""
    match next(iter(command)).lower():
        case "hello" | "ismaster":
            return HELLO
        case "buildinfo":
            return {"ok": 1.0, "version": "8.0.1"}
        case "dbstats":
            return {"ok": 1.0, "objects": 0, "dataSize": 0, "storageSize": 0, "indexSize": 0}
        case "find" | "listindexes" | "listcollections":
            return {"ok": 1.0, "cursor": {"id": 0, "ns": "x.y", "firstBatch": []}}
        case _:
            return {"ok": 1.0, "n": 1}


class Keeper:
    """A server that keeps what it is given; a method named as a command says it otherwise."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.indexes: list[dict[str, Any]] = []

    def __call__(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        name = next(iter(command))
        answer: Mapping[str, Any] | None = getattr(self, name.lower(), obedient)(command)
        return answer

    def insert(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        self.documents += command["documents"]
        return {"ok": 1.0, "n": len(command["documents"])}

    def find(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        found = [one for one in self.documents if one["_id"] == command["filter"]["_id"]]
        return {"ok": 1.0, "cursor": {"id": 0, "ns": "x.y", "firstBatch": found}}

    def createindexes(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        self.indexes += command["indexes"]
        return {"ok": 1.0}

    def listindexes(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ok": 1.0, "cursor": {"id": 0, "ns": "x.y", "firstBatch": self.indexes}}


def _document(code: int, body: bytes) -> dict[str, Any]:
    """The command document, with the documents that travel beside it: as a message, or in the old form of a query."""
    start = 5 if code == _OP_MSG else body.index(b"\0", 4) + 9  # behind flags and kind; behind flags, name, skip, limit
    end = start + _number(body, start)
    command = bson.decode(body[start:end], _CODEC)
    if code == _OP_MSG and end < len(body):  # one section more: kind, size, name, documents
        name = body.index(b"\0", end + 5)
        beside = body[name + 1 : end + 1 + _number(body, end + 1)]
        command[body[end + 5 : name].decode()] = bson.decode_all(beside, _CODEC)
    return command


def _reply(code: int, request: int, document: bytes) -> bytes:
    body = bytes(5) + document if code == _OP_MSG else bytes(16) + (1).to_bytes(4, "little") + document
    head = (len(body) + 16, 0, request, _OP_MSG if code == _OP_MSG else 1)
    return b"".join(number.to_bytes(4, "little") for number in head) + body


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")
