"""The door to the metadata database: its engine, its transactions, and its name without secrets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, TypeVar

import stamina
from sqlalchemy import URL, column, event, make_url, select, table
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from data_manager.adapters.meta import mysql, sqlite
from data_manager.adapters.meta.failures import Contended, lost, translated
from data_manager.domain.errors import BadSetting, Outdated, Unavailable

T = TypeVar("T")
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "mysql": "mysql+asyncmy", "mariadb": "mysql+asyncmy"}
_SETTING = "metadata database"
_ATTEMPTS = 4
_SILENT_S = 1.0  # a server that answers at all does so sooner
_PATIENCE_S = 2.0  # with one that did not, last time
_RULE = "must read sqlite:////folder/meta.db or mysql://user:password@host:3306/database"


Work = Callable[[AsyncConnection], Awaitable[T]]


class Database:
    """One metadata database. Every driver error that passes one of its transactions comes out translated."""

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self.name = name
        self.schema: str | None = None  # the revision that writes want; None: whatever there is
        self.dialect = engine.dialect.name
        self._engine = engine
        self._closed = False
        # A file always answers: who waits there waits for another process's lock.
        self._heard = Hearing(name).heard if self.dialect == "mysql" else lambda: nullcontext(_nothing)
        self._turn: AbstractAsyncContextManager[None] = asyncio.Lock() if self.dialect == "sqlite" else nullcontext()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the database."""
        async with self._connection("BEGIN") as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is durable when the block is left, and did not happen when it is left by an error.

        SQLite has one writer: ours wait for each other here, so that a lock that is waited for is another process's.
        """
        async with self._turn, self._connection("BEGIN IMMEDIATE") as connection:
            yield connection

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[AsyncConnection]:
        """A connection outside any transaction: each statement is one."""
        by_driver = {} if self.dialect == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
        async with self._connection("", **by_driver) as connection:
            yield connection

    async def write(self, work: Work[T], *, idle_s: int | None = None, any_schema: bool = False) -> T:
        """work's answer; what it wrote is durable. Where another transaction got in its way it is done again, soon.

        Only what certainly did not happen is done again: a connection that broke at the commit rises as Unavailable.
        idle_s: let the server undo it when it hears nothing of us for so long, as of a process that was frozen.
        Raises Outdated where another release has migrated the database meanwhile, unless any_schema will do.
        """
        async for attempt in stamina.retry_context(
            on=Contended, attempts=_ATTEMPTS, timeout=None, wait_initial=0.02, wait_max=0.5, wait_jitter=0.1
        ):
            with attempt:
                async with self.writing() as connection:
                    if idle_s is not None and self.dialect == "mysql":
                        await connection.exec_driver_sql(f"SET SESSION wait_timeout = {idle_s}")
                    if self.schema is not None and not any_schema:
                        self._require_schema(await _revision(connection))
                    answer = await work(connection)
        return answer

    def _require_schema(self, held: str | None) -> None:
        if held != self.schema:
            fix = "replace this process by one of the release it was migrated to, or run `data-manager migrate` of ours"
            raise Outdated(f"metadata database {self.name} has schema revision {held}, and not {self.schema}: {fix}")

    @asynccontextmanager
    async def _connection(self, begin: str, **options: Any) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise Unavailable(f"metadata database {self.name} was closed")
        committing, cancels = False, _cancels()
        try:
            async with (
                self._heard() as answered,
                self._engine.execution_options(begin=begin, **options).begin() as connection,
            ):
                answered()
                yield connection
                committing = True
        except DBAPIError as error:
            _obey(cancels, error)
            raise self._ours(error, committing) from error.orig
        except (PoolTimeoutError, OSError) as error:
            _obey(cancels, error)
            raise _silent(self.name) from error
        _obey(cancels)

    def _ours(self, error: DBAPIError, committing: bool) -> BaseException:
        ours = translated(error, self.name)
        if ours is None:
            return error
        if committing and lost(error) and self.dialect == "mysql":
            return Unavailable(f"{ours} (at a commit: whether it took place is not known)")
        return ours

    async def revision(self) -> str | None:
        """The revision of its schema; None when nothing was ever migrated there."""
        async with self.reading() as connection:
            if not await connection.run_sync(lambda sync: sync.dialect.has_table(sync, "alembic_version")):
                return None
            return await _revision(connection)

    async def current(self) -> bool:
        """Whether it was ever migrated. Raises Outdated where that was by another release than ours."""
        held = await self.revision()
        if held is not None and self.schema is not None:
            self._require_schema(held)
        return held is not None

    async def close(self) -> None:
        """Let go of the connections; closing twice is fine."""
        self._closed = True
        await self._engine.dispose()


class Hearing:
    """Whether a server that takes connections says anything. One that is frozen keeps everybody waiting for long.

    While it is silent one question at a time finds out when it speaks again, and does not wait long; others are refused
    at once.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._silent = self._finding_out = False

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[Callable[[], None]]:
        """Call what it gives when the server has answered; who leaves without, and took long, has heard nothing."""
        alone = self._silent
        if alone and self._finding_out:
            raise _silent(self._name)
        self._finding_out |= alone
        started_s, spoke = time.monotonic(), False

        def answered() -> None:
            nonlocal spoke
            spoke, self._silent = True, False
            self._finding_out = False
            if not limit.expired():  # else the driver kept that to itself, and went on
                limit.reschedule(None)

        try:
            async with asyncio.timeout(_PATIENCE_S if alone else None) as limit:
                yield answered
        except TimeoutError as error:
            raise _silent(self._name) from error
        finally:
            if alone:
                self._finding_out = False
            if not spoke and time.monotonic() - started_s > _SILENT_S:
                self._silent = True


def _nothing() -> None:
    """Nobody listens."""


def _silent(name: str) -> Unavailable:
    return Unavailable(f"metadata database {name} does not answer: check that it runs")


async def _revision(connection: AsyncConnection) -> str | None:
    found: str | None = await connection.scalar(select(column("version_num")).select_from(table("alembic_version")))
    return found


def _cancels() -> int:
    """How often this task was asked to end, and did not yet."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _obey(before: int, error: Exception | None = None) -> None:
    """Raise the CancelledError that a driver kept to itself: it went on, or failed while it cleared up."""
    if _cancels() > before:
        raise asyncio.CancelledError from error


def connect(text: str, *, busy_s: float = 2.0, answer_s: float = 15.0) -> Database:
    """The database a URL names; nothing is opened yet.

    busy_s: how long SQLite waits for another process's lock. answer_s: how long MySQL may take for an answer.

    Raises BadSetting for a URL that cannot work; its message holds no password.
    """
    url = _url(text)
    options = sqlite.options(url, busy_s) if url.get_backend_name() == "sqlite" else mysql.options(answer_s)
    try:
        engine = create_async_engine(url, hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        fix = "needs the MySQL driver: pip install 'petrosa-data-manager[mysql]'"
        raise BadSetting(_SETTING, _name(url), fix) from error
    _on_connect(engine, _name(url))
    return Database(engine, _name(url))


def _url(text: str) -> URL:
    try:
        url = make_url(text)
        url = url.set(drivername=_DRIVERS[url.get_backend_name()])  # whatever driver it named
    except (ArgumentError, KeyError, ValueError):
        raise BadSetting(_SETTING, "(not shown)", _RULE) from None  # the cause would show the password
    if url.database in (None, "", ":memory:"):
        raise BadSetting(_SETTING, _name(url), f"names no database: META_URL or MYSQL_URI {_RULE}")
    if url.port is not None and not 0 < url.port < 65_536:
        raise BadSetting(
            _SETTING, _name(url), f"has port {url.port}, and ports end at 65535: META_URL or MYSQL_URI {_RULE}"
        )
    return url if url.get_backend_name() == "sqlite" else mysql.speaking(url, _name(url))


def _name(url: URL) -> str:
    """What messages call it: no user, no password, no options."""
    if url.get_backend_name() == "sqlite":
        return str(url.database).removeprefix("file:")
    return f"{url.host or 'localhost'}:{3306 if url.port is None else url.port}/{url.database or ''}"


def _on_connect(engine: AsyncEngine, name: str) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", sqlite.agree)
        event.listen(engine.sync_engine, "begin", sqlite.begin)
    else:
        # Before anything else is asked: what a server that is too old would answer to that is of no use.
        event.listen(
            engine.sync_engine,
            "do_connect",
            lambda dialect, _, given, named: mysql.connect(dialect, given, named, name),
        )
        event.listen(engine.sync_engine, "connect", lambda connection, _: mysql.agree(connection, name), insert=True)
        event.listen(engine.sync_engine, "begin", mysql.begin)
