"""The door to the metadata database: its engine, its transactions, and its name without secrets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
from sqlalchemy import URL, Connection, column, event, make_url, select, table
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from data_manager.adapters.meta.failures import translated
from data_manager.domain.errors import BadSetting, Unavailable

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite", "sqlite+aiosqlite": "sqlite+aiosqlite", "mysql": "mysql+asyncmy",
    "mysql+asyncmy": "mysql+asyncmy", "mysql+pymysql": "mysql+asyncmy", "mariadb": "mysql+asyncmy",
}  # fmt: skip
_SETTING = "metadata database"
_RULE = "must read sqlite:////folder/meta.db or mysql://user:password@host:3306/database"


class Database:
    """One metadata database. Every driver error that passes one of its transactions comes out translated."""

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self.name = name
        self.dialect = engine.dialect.name
        self._engine = engine
        self._closed = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the database."""
        async with self._connection("BEGIN") as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is durable when the block is left, and did not happen when it is left by an error."""
        async with self._connection("BEGIN IMMEDIATE") as connection:
            yield connection

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[AsyncConnection]:
        """A connection of SQLite outside any transaction, for what cannot be done inside one."""
        async with self._connection("") as connection:
            yield connection

    @asynccontextmanager
    async def _connection(self, begin: str) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise Unavailable(f"metadata database {self.name} was closed")
        try:
            async with self._engine.execution_options(begin=begin).begin() as connection:
                yield connection
        except DBAPIError as error:
            ours = translated(error, self.name)
            if ours is None:
                raise
            raise ours from error.orig
        except (PoolTimeoutError, OSError) as error:
            raise Unavailable(f"metadata database {self.name} does not answer: check that it runs") from error

    async def revision(self) -> str | None:
        """The revision of its schema; None when nothing was ever migrated there."""
        async with self.reading() as connection:
            if not await connection.run_sync(lambda sync: sync.dialect.has_table(sync, "alembic_version")):
                return None
            found: str | None = await connection.scalar(
                select(column("version_num")).select_from(table("alembic_version"))
            )
            return found

    async def close(self) -> None:
        """Let go of the connections; closing twice is fine."""
        self._closed = True
        await self._engine.dispose()


def connect(text: str, *, busy_s: float = 10.0) -> Database:
    """The database a URL names; nothing is opened yet. SQLite waits busy_s seconds for a lock.

    Raises BadSetting for a URL that cannot work; its message holds no password.
    """
    url = _url(text)
    options = _sqlite_options(url, busy_s) if url.get_backend_name() == "sqlite" else _MYSQL_OPTIONS
    try:
        engine = create_async_engine(url, hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        fix = "needs the MySQL driver: pip install 'petrosa-data-manager[mysql]'"
        raise BadSetting(_SETTING, _name(url), fix) from error
    _on_connect(engine)
    return Database(engine, _name(url))


def _url(text: str) -> URL:
    try:
        url = make_url(text)
        url = url.set(drivername=_DRIVERS[url.drivername])
    except (ArgumentError, KeyError, ValueError):
        raise BadSetting(_SETTING, "(not shown)", _RULE) from None  # the cause would show the password
    if url.database in (None, "", ":memory:"):
        raise BadSetting(_SETTING, _name(url), f"names no database: it {_RULE}")
    return url


def _name(url: URL) -> str:
    """What messages call it: no user, no password, no options."""
    if url.get_backend_name() == "sqlite":
        return str(url.database).removeprefix("file:")
    return f"{url.host or 'localhost'}:{url.port or 3306}/{url.database}"


def _sqlite_options(url: URL, busy_s: float) -> dict[str, Any]:
    # The driver must not begin transactions of its own: _begin_sqlite does, so that a writer locks before it reads.
    given: dict[str, Any] = {"isolation_level": None, "async_creator_fn": _open_sqlite}
    return {"connect_args": given if "timeout" in url.query else {**given, "timeout": busy_s}}


async def _open_sqlite(*file: Any, **options: Any) -> aiosqlite.Connection:
    """Open the file; if that fails, leave no thread behind that would answer a loop which is closed by then."""
    connection = aiosqlite.connect(*file, **options)
    connection._thread.daemon = True  # a process that crashed must not wait for it
    try:
        return await connection
    except BaseException:
        connection._thread.join(1.0)  # it was told to stop, and has nothing else to do
        raise


_MYSQL_OPTIONS: dict[str, Any] = {"pool_pre_ping": True, "pool_recycle": 1_800, "pool_size": 5, "max_overflow": 10}


def _on_connect(engine: AsyncEngine) -> None:
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    else:
        event.listen(engine.sync_engine, "connect", _prepare_mysql)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("foreign_keys = ON", "synchronous = FULL"):  # FULL: a commit is on the disk when it returns
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    statement = connection.get_execution_options()["begin"]
    if statement:
        connection.exec_driver_sql(statement)


def _prepare_mysql(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO'")
    cursor.execute("SET SESSION time_zone = '+00:00'")
    cursor.close()
