"""What a MySQL or MariaDB server can do to us: refuse us, be too old, lock, freeze, end and come back."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from data_manager.adapters.meta import mysql
from data_manager.adapters.meta.database import Database, connect
from data_manager.adapters.meta.failures import Contended, Refused
from data_manager.adapters.meta.migrate import migrate
from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.resilience import Breaker
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadSetting, Unavailable
from data_manager.domain.finding import FindingKind, found
from data_manager.ports import DeadLetter, SeriesStatistics
from tests.certificates import Authority
from tests.conftest import eventually
from tests.mysql_server import USER, MySqlServer

NASTY = "'; DROP TABLE findings; -- \\' \" % %s :x \x00 \\"


@pytest.fixture
async def url(mysql_server: MySqlServer) -> str:
    """An empty database of the server."""
    return await mysql_server.fresh()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Database]:
    database = connect(url)
    try:
        yield database
    finally:
        await database.close()


async def refusal(url: str, kind: type[Exception] = Refused) -> str:
    """What is said of a database that cannot be opened; no credential is in it, nor in what caused it."""
    with pytest.raises(kind) as caught:
        await open_meta(url)
    said = f"{caught.value} {caught.value!r}"
    assert not any(word in said for word in ("hunter2", "%3A", "SELECT 1", "sqlalche.me", "[SQL"))
    return str(caught.value)


# ── What an operator has to change ───────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_password(mysql_server: MySqlServer) -> None:
    said = await refusal(mysql_server.url("petrosa", password="hunter2 but wrong"))
    assert "refuses this user and password: check MYSQL_URI" in said
    assert f"127.0.0.1:{mysql_server.port}/petrosa" in said


async def test_a_database_that_does_not_exist(mysql_server: MySqlServer) -> None:
    assert "nowhere does not exist: CREATE DATABASE it" in await refusal(mysql_server.url("nowhere"))


async def test_nobody_at_the_port(mysql_server: MySqlServer) -> None:
    assert "does not answer" in await refusal(mysql_server.url("petrosa", port=1), Unavailable)


async def test_a_host_that_does_not_exist() -> None:
    assert "does not answer" in await refusal(f"mysql://{USER}:hunter2@nowhere.invalid/petrosa", Unavailable)


async def test_another_server_at_the_port() -> None:
    """One that greets otherwise, and one that waits until it is greeted."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"NDQ"}\r\n')
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await refusal(f"mysql://{USER}:hunter2@127.0.0.1:{port}/petrosa")
    assert "is no MySQL server: check MYSQL_URI, or MYSQL_HOST and MYSQL_PORT" in said


async def test_a_server_that_never_greets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a migration, which may take an hour for a statement."""
    monkeypatch.setattr(mysql, "_GREETING_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the connection, and nobody says a word
        port = silent.getsockname()[1]
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="does not answer"):
                await migrate(f"mysql://{USER}:hunter2@127.0.0.1:{port}/petrosa")


async def test_encryption(mysql_server: MySqlServer, tmp_path: Path) -> None:
    """By an authority that is named; whom it does not vouch for, and who cannot encrypt, is refused."""
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    certificate, key = ours.issue("server")
    with running(tmp_path, f"--ssl-cert={certificate}", f"--ssl-key={key}") as server:
        url = await server.fresh()
        await server.say(f"ALTER USER {USER}@'%' REQUIRE SSL")
        assert "needs MYSQL_URI with ?ssl_ca" in await refusal(url)
        assert "certificate that is not trusted (unable to get local issuer" in await refusal(
            f"{url}?ssl_ca={other.certificate}"
        )
        assert await migrate(f"{url}?ssl_ca={ours.certificate}")
    said = await refusal(f"{await mysql_server.fresh()}?ssl_ca={ours.certificate}")
    assert "does not agree to encryption" in said
    assert "leave ssl_* out of MYSQL_URI" in said


async def test_rights_that_are_missing_are_named_and_what_was_done_is_finished_later(
    mysql_server: MySqlServer, url: str
) -> None:
    name = url.rpartition("/")[2]
    await mysql_server.say(
        "CREATE OR REPLACE USER reader@'%' IDENTIFIED BY 'hunter2'", f"GRANT SELECT ON {name}.* TO reader@'%'"
    )
    theirs = mysql_server.url(name, user="reader", password="hunter2")
    assert "grant it SELECT, INSERT, UPDATE and DELETE" in await refusal(theirs)
    await mysql_server.say(f"GRANT CREATE ON {name}.* TO reader@'%'")
    assert "ALTER, INDEX and DROP" in await refusal(theirs)  # some tables were made
    await mysql_server.say(f"GRANT ALL ON {name}.* TO reader@'%'")
    await (await open_meta(theirs)).close()
    for right in ("INSERT", "UPDATE", "DELETE"):
        await mysql_server.say(f"REVOKE {right} ON {name}.* FROM reader@'%'")
        assert "grant it SELECT, INSERT, UPDATE and DELETE" in await refusal(theirs), "told before it is needed"
        await (await open_meta(theirs, migrate=False)).close()  # who only reads may
        await mysql_server.say(f"GRANT {right} ON {name}.* TO reader@'%'")
    store = await open_meta(theirs)
    await store.keep_findings([found(FindingKind.STALE, severity="info", start_ms=1, evidence={}, found_ms=1)])
    await store.close()


@pytest.mark.parametrize(
    ("version", "words"), [("10.5.29-MariaDB", "MariaDB 10.5.29-MariaDB: it needs 10.6"), ("5.7.44", "it needs 8.0.19")]
)
async def test_a_server_that_is_too_old(tmp_path: Path, version: str, words: str) -> None:
    with running(tmp_path, f"--version={version}") as server:
        assert words in await refusal(await server.fresh())


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("10.6.0-MariaDB", True), ("11.8.2-MariaDB-ubu2404", True), ("5.5.5-10.11.6-MariaDB", True),
        ("10.5.29-MariaDB-log", False), ("8.0.19", True), ("8.0.36-28", True), ("8.4.3", True), ("9.1.0", True),
        ("8.0.18", False), ("5.7.44-log", False), ("", False),
    ],
)  # fmt: skip
def test_versions_that_will_do(version: str, fine: bool) -> None:
    assert (mysql.objection(version, "STRICT_ALL_TABLES,NO_ZERO_DATE") is None) == fine


def test_a_session_that_is_not_strict_is_refused() -> None:
    assert "STRICT_ALL_TABLES" in str(mysql.objection("8.4.3", "NO_ZERO_DATE,STRICT_TRANS_TABLES"))


async def test_an_option_nobody_knows(mysql_server: MySqlServer) -> None:
    said = await refusal(f"{mysql_server.url('petrosa')}?autocommit=true", BadSetting)
    assert "option autocommit" in said
    said = await refusal(f"{mysql_server.url('petrosa')}?ssl_ca=/nowhere/ca.pem", BadSetting)
    assert "ssl_ca that is not there: /nowhere/ca.pem" in said


async def test_a_server_that_only_reads(mysql_server: MySqlServer, url: str) -> None:
    await migrate(url)
    name = url.rpartition("/")[2]
    await mysql_server.say(
        "CREATE OR REPLACE USER writer@'%' IDENTIFIED BY 'hunter2'", f"GRANT ALL ON {name}.* TO writer@'%'"
    )
    store = await open_meta(mysql_server.url(name, user="writer", password="hunter2"))
    await mysql_server.say("SET GLOBAL read_only = ON")
    try:
        with pytest.raises(Refused, match="read-only: point MYSQL_URI or MYSQL_HOST to the primary"):
            await store.keep_dead([dead(b"x")])
        assert await store.healthy()
    finally:
        await mysql_server.say("SET GLOBAL read_only = OFF")
        await store.close()


# ── What every session agrees to ─────────────────────────────────────────────────────────────────────────────────────


async def test_sessions_are_strict_in_utc_and_know_all_letters(url: str) -> None:
    asked = text("SELECT @@sql_mode, @@time_zone, @@character_set_connection, @@wait_timeout")
    async with connected(f"{url.replace('mysql://', 'mysql+pymysql://')}?charset=latin1") as database:
        for _ in range(2):  # a connection just made, and one of the pool
            async with database.writing() as connection:
                mode, zone, letters, silence_s = (await connection.execute(asked)).one()
            assert "STRICT_ALL_TABLES" in mode
            assert (zone, letters, silence_s) == ("+00:00", "utf8mb4", mysql.IDLE_S)
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE t (word VARCHAR(4), at DATETIME) ENGINE=MyISAM"))
            for bad in ("('longer', NULL)", "('', '0000-00-00')", "('', 'yesterday')"):
                with pytest.raises(DBAPIError, match="Data too long|Incorrect datetime"):
                    await connection.execute(text(f"INSERT INTO t VALUES ('ok', NULL), {bad}"))


async def test_a_reader_sees_one_state(url: str) -> None:
    await migrate(url)
    async with connected(url) as database:
        asked = text("SELECT COUNT(*) FROM findings")
        insert = (
            "INSERT INTO findings (id, kind, severity, start_ms, found_ms, evidence) VALUES ('a', 'k', 's', 1, 1, '')"
        )
        async with database.reading() as reader:
            assert await reader.scalar(asked) == 0
            async with database.writing() as writer:
                await writer.execute(text(insert))
            assert await reader.scalar(asked) == 0
        async with database.reading() as reader:
            assert await reader.scalar(asked) == 1
        async with database.writing() as writer:
            assert await writer.scalar(asked) == 1
            async with database.writing() as other:
                await other.execute(text("DELETE FROM findings"))
            assert await writer.scalar(asked) == 0, "who writes sees what is true now"


async def test_texts_are_told_apart_to_the_last_accent(url: str) -> None:
    store = await open_meta(url)
    symbols = ["BTCUSDT", "btcusdt", "BTCÜSDT", "币安人生USDT", "币安人生😀USDT", "é", "e", "ß", "ss"]
    given = [
        SeriesStatistics(
            series=Series("um", "trade", symbol), rows=i, first_ms=None, last_ms=None, updated_ms=1
        )
        for i, symbol in enumerate(symbols)
    ]  # fmt: skip
    await store.keep_statistics(given)
    assert sorted(await store.statistics(), key=lambda one: one.rows) == given
    await store.close()


async def test_nothing_that_is_stored_is_ever_understood(url: str) -> None:
    store = await open_meta(url)
    nasty = DeadLetter(
        received_ms=1,
        subject=NASTY,
        reason=NASTY,
        field=NASTY,
        message=NASTY,
        payload=NASTY.encode() + bytes(range(256)),
    )
    await store.keep_dead([nasty, nasty])
    (kept,), _ = await store.dead_letters(limit=5, reason=NASTY)
    assert (kept.subject, kept.reason, kept.field, kept.message, kept.count) == (NASTY, NASTY, NASTY, NASTY, 2)
    assert await store.dead_payload(kept.id) == nasty.payload
    assert (await store.findings(limit=1, series=NASTY)) == ([], 0)
    await store.close()


# ── Others get in the way ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tie_is_broken_and_both_writes_take_place(url: str) -> None:
    async with connected(url) as database:
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE t (i INT PRIMARY KEY, n INT) ENGINE=InnoDB"))
            await connection.execute(text("INSERT INTO t VALUES (1, 0), (2, 0)"))
        met = asyncio.Barrier(2)
        attempts = 0

        async def crossing(first: int, second: int) -> None:
            async def work(connection: Any) -> None:
                nonlocal attempts
                attempts += 1
                await connection.execute(text("UPDATE t SET n = n + 1 WHERE i = :i"), {"i": first})
                if attempts <= 2:
                    await met.wait()
                await connection.execute(text("UPDATE t SET n = n + 1 WHERE i = :i"), {"i": second})

            await database.write(work)

        await asyncio.gather(crossing(1, 2), crossing(2, 1))
        assert attempts == 3, "one of them was done again"
        async with database.reading() as connection:
            assert (await connection.execute(text("SELECT n FROM t"))).scalars().all() == [2, 2]


async def test_a_lock_that_is_kept_for_too_long(url: str) -> None:
    async with connected(url) as database, connected(url) as other:
        async with database.writing() as connection:
            await connection.execute(text("CREATE TABLE t (i INT PRIMARY KEY) ENGINE=InnoDB"))
            await connection.execute(text("INSERT INTO t VALUES (1)"))
        async with other.writing() as holder:
            await holder.execute(text("UPDATE t SET i = 1"))
            with pytest.raises(Contended, match="held by another transaction"):
                async with database.writing() as connection:
                    await connection.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
                    await connection.execute(text("UPDATE t SET i = 2"))


# ── It goes away ─────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def running(folder: Path, *options: str) -> Iterator[MySqlServer]:
    server = MySqlServer(folder / "mysql", *options)
    server.start()
    try:
        yield server
    finally:
        server.thaw()
        server.kill()


def dead(payload: bytes) -> DeadLetter:
    return DeadLetter(received_ms=1, subject="s", reason="invalid", field=None, message="m", payload=payload)


async def test_a_server_that_is_restarted_is_found_again_without_an_error(own_mysql: MySqlServer) -> None:
    store = await open_meta(await own_mysql.fresh())
    await store.keep_dead([dead(b"before")])
    own_mysql.stop()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{own_mysql.port}/.* does not answer"):
        await store.healthy()
    with pytest.raises(Unavailable, match="does not answer"):
        await store.keep_dead([dead(b"meanwhile")])
    own_mysql.start()
    await store.keep_dead([dead(b"after")])  # the pool notices that its connections are of the former life
    letters, _ = await store.dead_letters(limit=10)
    assert sorted(one.sample for one in letters) == ["after", "before"]
    await store.close()


async def test_a_server_that_froze_is_away_and_then_back(own_mysql: MySqlServer) -> None:
    url = await own_mysql.fresh()
    store = await open_meta(url)
    await store.keep_dead([dead(b"before")])
    own_mysql.freeze()
    began = time.monotonic()
    assert not await store.healthy()
    assert time.monotonic() - began < 3, "a probe does not wait for ever"
    database = connect(url, answer_s=0.5)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(10), database.reading() as connection:
            await connection.execute(text("SELECT 1"))
    await database.close()
    own_mysql.thaw()
    await store.keep_dead([dead(b"after")])
    assert await store.healthy()
    await store.close()


async def test_while_a_server_is_frozen_one_question_waits_and_the_others_are_refused_at_once(
    own_mysql: MySqlServer,
) -> None:
    store = await open_meta(await own_mysql.fresh())
    own_mysql.freeze()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await store.findings(limit=1)
    waiting = asyncio.create_task(store.findings(limit=1))
    await asyncio.sleep(0)  # it has asked
    with pytest.raises(Unavailable, match="does not answer"):
        async with asyncio.timeout(1.0):
            await store.findings(limit=1)
    assert not waiting.done()
    with pytest.raises(Unavailable, match="does not answer"):
        async with asyncio.timeout(8.0):  # two seconds, not the ten that others wait
            await waiting
    own_mysql.thaw()
    assert await Breaker("metadata", wait_max_s=0.2).call(lambda: store.findings(limit=1)) == ([], 0)
    await store.close()


async def test_killed_during_writes_nothing_is_lost_that_was_answered(own_mysql: MySqlServer) -> None:
    store = await open_meta(await own_mysql.fresh())
    breaker = Breaker("metadata", wait_max_s=0.2)
    done: list[bytes] = []
    stop = asyncio.Event()

    async def write(writer: int) -> None:
        number = 0
        while not stop.is_set():
            payload = f"{writer} {number}".encode()
            await breaker.call(lambda payload=payload: store.keep_dead([dead(payload)]))  # type: ignore[misc]
            done.append(payload)
            number += 1

    writers = [asyncio.create_task(write(one)) for one in range(4)]
    for _ in range(2):
        many = len(done) + 50
        await eventually(lambda many=many: len(done) > many, within_s=30)  # type: ignore[misc]
        await asyncio.to_thread(own_mysql.kill)
        await eventually(lambda: breaker.state == "open")
        await asyncio.to_thread(own_mysql.start)
    many = len(done) + 50
    await eventually(lambda: len(done) > many, within_s=30)
    stop.set()
    await asyncio.gather(*writers)
    letters, total = await store.dead_letters(limit=1_000_000)
    assert total == len(letters)
    assert sorted(one.sample.encode() for one in letters) == sorted(done), "each once, and nothing else"
    told_twice = sum(one.count - 1 for one in letters)
    assert told_twice <= 2 * len(writers), "only a commit that was under way may have counted without an answer"
    await store.close()


def test_a_server_that_hangs_up_before_it_greets_is_away_and_no_bug() -> None:
    """On the loop that the service runs on, where the driver takes it for one."""

    async def refused() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for _ in range(20):
                with pytest.raises(Unavailable, match="does not answer"):
                    await open_meta(f"mysql://user:secret@127.0.0.1:{port}/petrosa")

    uvloop.run(refused())
