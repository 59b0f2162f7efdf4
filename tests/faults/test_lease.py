"""Three replicas, real processes and a real database: whatever breaks, two of them never lead.

Each writes its epoch into the table `led` while it believes it leads. What counts is what the database accepted: read
in the order of writing, epochs never go back, and no epoch has two holders.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, pairwise
from pathlib import Path

import pytest
from sqlalchemy import text

from data_manager.adapters.meta.database import Database, connect
from data_manager.adapters.meta.migrate import migrate
from data_manager.domain.errors import Unavailable
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.mysql_server import MySqlServer, mysql_server, own_mysql
from tests.servers import is_frozen
from tests.warm import started

__all__ = ["mysql_server", "own_mysql"]  # fixtures

TERM_S = 1.5
BOUND_S = 2 * TERM_S
ROUNDS = 10 if FULL else 1
_TABLE = {
    "sqlite": "CREATE TABLE led (seq INTEGER PRIMARY KEY AUTOINCREMENT, epoch BIGINT, holder VARCHAR(64))",
    "mysql": "CREATE TABLE led (seq BIGINT AUTO_INCREMENT PRIMARY KEY, epoch BIGINT, holder VARCHAR(64)) ENGINE=InnoDB",
}


class Replica:
    """A process that campaigns; start() again is another life with another name."""

    _lives = count(1)

    def __init__(self, url: str, folder: Path, *clock: str) -> None:
        self._url, self._folder, self._clock = url, folder, clock
        self.holder = ""
        self.start()

    def start(self) -> None:
        self.holder = f"life {next(self._lives)}"
        self._out = self._folder / f"{self.holder}.out"
        program = [sys.executable, "-m", "tests.faults.lease_worker", self._url, self.holder, str(TERM_S), *self._clock]
        self.process = started(program, os.environ, self._out, self._out)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> list[str]:
        return self._out.read_text().splitlines()


class Replicas:
    """Three of them, and what the database accepted."""

    def __init__(self, database: Database, three: list[Replica]) -> None:
        self.three = three
        self.takeovers_s: list[float] = []
        self._database = database

    async def accepted(self, after: int = 0) -> list[tuple[int, int, str]]:
        """Place, epoch, holder, in order."""
        asked = text("SELECT seq, epoch, holder FROM led WHERE seq > :after ORDER BY seq")
        async with self._database.reading() as connection:
            return [(row.seq, row.epoch, row.holder) for row in await connection.execute(asked, {"after": after})]

    async def leader(self, *, other_than: str = "", within_s: float = BOUND_S) -> Replica:
        """Whose write was accepted last, of those made from now on; fails when nobody leads in time."""
        began, mark, found = time.monotonic(), await self._mark(), ""

        async def somebody() -> bool:
            nonlocal found
            try:
                news = await self.accepted(mark)
            except Unavailable:
                return False
            found = next((holder for _, _, holder in reversed(news) if holder != other_than), "")
            return bool(found)

        await eventually(somebody, within_s=within_s, what=f"somebody other than {other_than!r} leads\n{self._told()}")
        self.takeovers_s.append(time.monotonic() - began)
        return next(one for one in self.three if one.holder == found)

    async def _mark(self) -> int:
        try:
            rows = await self.accepted()
        except Unavailable:
            return 0
        return rows[-1][0] if rows else 0

    def _told(self) -> str:
        return "\n".join(f"{one.holder}: {one.said[-5:]}" for one in self.three)

    async def judge(self) -> int:
        """Fails unless the leaders followed one another; how many reigns there were."""
        rows = await self.accepted()
        assert all(earlier[1] <= later[1] for earlier, later in pairwise(rows)), "a stale epoch was accepted"
        reigns = {(epoch, holder) for _, epoch, holder in rows}
        assert len(reigns) == len({epoch for epoch, _ in reigns}), "an epoch had two holders"
        return len(reigns)


@asynccontextmanager
async def three_replicas(
    url: str, folder: Path, *, of_first: tuple[str, ...] = (), first_url: str = ""
) -> AsyncIterator[Replicas]:
    await migrate(url)
    database = connect(url, answer_s=TERM_S)
    async with database.writing() as connection:
        await connection.execute(text(_TABLE[database.dialect]))
    three = [Replica(first_url or url, folder, *of_first)]
    replicas = Replicas(database, three)
    try:
        if of_first or first_url:
            assert await replicas.leader(within_s=30) is three[0]
        three += [Replica(url, folder), Replica(url, folder)]
        await replicas.leader(within_s=30)
        await eventually(lambda: all("campaigning" in one.said for one in three), within_s=30)
        replicas.takeovers_s.clear()
        yield replicas
    finally:
        for one in three:
            one.kill()
        await database.close()


def figures(replicas: Replicas, reigns: int) -> dict[str, object]:
    taken = replicas.takeovers_s
    return {
        "reigns": reigns,
        "term_s": TERM_S,
        "seconds_to_recover": max(taken),
        "takeover_mean_s": sum(taken) / len(taken),
    }


@pytest.mark.parametrize("kind", ["sqlite", "mysql"])
async def test_leaders_killed(kind: str, request: pytest.FixtureRequest, tmp_path: Path, told: Told) -> None:
    url = f"sqlite:///{tmp_path}/meta.db"
    if kind == "mysql":
        url = await request.getfixturevalue("mysql_server").fresh()
    async with three_replicas(url, tmp_path) as replicas:
        for _ in range(ROUNDS):
            leader = await replicas.leader()
            replicas.takeovers_s.pop()
            leader.kill()
            await replicas.leader(other_than=leader.holder)
            leader.start()
            await eventually(lambda leader=leader: "campaigning" in leader.said, within_s=30)  # type: ignore[misc]
        told(times=ROUNDS, **figures(replicas, await replicas.judge()))


@pytest.mark.parametrize(
    "amid", [True, False] if FULL else [True], ids=lambda amid: "amid a write" if amid else "anywhere"
)
async def test_leaders_frozen(mysql_server: MySqlServer, tmp_path: Path, told: Told, amid: bool) -> None:
    async with three_replicas(await mysql_server.fresh(), tmp_path) as replicas:
        for _ in range(ROUNDS):
            leader = await replicas.leader()
            replicas.takeovers_s.pop()
            leader.send(signal.SIGUSR1 if amid else signal.SIGSTOP)
            await eventually(lambda leader=leader: is_frozen(leader.process.pid))  # type: ignore[misc]
            await replicas.leader(other_than=leader.holder)
            before = await replicas.accepted()
            leader.send(signal.SIGCONT)
            await replicas.leader()  # whoever it is, writes go on
            replicas.takeovers_s.pop()
            assert len(await replicas.accepted()) > len(before)
        told(times=ROUNDS, **figures(replicas, await replicas.judge()))


async def test_a_leader_cut_off_whose_clock_is_wrong_is_refused(
    mysql_server: MySqlServer, tmp_path: Path, told: Told
) -> None:
    """A day ahead, and two and a half times too slow: it believes long after its term, and the database does not."""
    url = await mysql_server.fresh()
    async with Wire(mysql_server.port) as wire:
        through = url.replace(f":{mysql_server.port}/", f":{wire.port}/")
        async with three_replicas(url, tmp_path, of_first=("86400000", "0.4"), first_url=through) as replicas:
            crooked = replicas.three[0]
            await wire.cut()
            await replicas.leader(other_than=crooked.holder)
            wire.mend()
            await eventually(lambda: "refused" in crooked.said, within_s=BOUND_S)
            await replicas.leader(other_than=crooked.holder)
            replicas.takeovers_s.pop()
            told(times=1, refused=crooked.said.count("refused"), **figures(replicas, await replicas.judge()))


@pytest.mark.parametrize("how", ["killed", "frozen"] if FULL else ["killed"])
async def test_the_database_away(own_mysql: MySqlServer, tmp_path: Path, told: Told, how: str) -> None:
    async with three_replicas(await own_mysql.fresh(), tmp_path) as replicas:
        for _ in range(ROUNDS):
            if how == "killed":
                await asyncio.to_thread(own_mysql.kill)
            else:
                own_mysql.freeze()
            away = time.monotonic() + 1.2 * TERM_S
            await eventually(lambda away=away: time.monotonic() > away)  # type: ignore[misc]  # the term passes
            if how == "killed":
                await asyncio.to_thread(own_mysql.start)
            else:
                own_mysql.thaw()
            await replicas.leader()
        told(times=ROUNDS, **figures(replicas, await replicas.judge()))


class Wire:
    """A way to a port of 127.0.0.1 that can be cut and mended."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._whole = True
        self._ends: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        self._server.close()
        await self._server.wait_closed()

    async def cut(self) -> None:
        self._whole = False
        ends, self._ends = self._ends, []
        for end in ends:
            end.transport.abort()

    def mend(self) -> None:
        self._whole = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends += [writer, there_writer]
        await asyncio.gather(one_way(reader, there_writer), one_way(there_reader, writer))


async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()
