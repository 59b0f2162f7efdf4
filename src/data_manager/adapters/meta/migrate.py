"""Bring a metadata database to the newest schema, one process at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, connect
from data_manager.adapters.meta.failures import Locked
from data_manager.domain.errors import BadSetting, Conflict

SCRIPTS = "data_manager.adapters.meta:migrations"
"""Where Alembic finds the migrations: inside the package, so that no alembic.ini is needed."""

_PATIENCE_S = 60.0
_PAUSE_S = 0.02
_RUNNING = threading.Lock()  # Alembic keeps the running migration in globals: one at a time per process


async def migrate(url: str) -> list[str]:
    """Bring the database to the newest schema; the revisions applied, oldest first, none when it was there already.

    SQLite: all or nothing. MySQL commits each statement; a revision that failed half-way is named by the error.
    Raises Conflict when another process has been migrating for a minute, BadSetting when a newer version of this
    program was here before, Unavailable or Corrupt like every other use of the database.
    """
    database = connect(url, busy_s=_PATIENCE_S)
    try:
        async with _alone():
            await _write_ahead(database)
            async with _locked(database) as connection:
                return await connection.run_sync(_upgrade, database.name)
    finally:
        await database.close()


def _upgrade(connection: Connection, name: str) -> list[str]:
    applied: list[str] = []

    def note(*, step: Any, **_: object) -> None:
        applied.extend(step.up_revision_ids)

    config = Config(attributes={"connection": connection, "on_version_apply": note})
    config.set_main_option("script_location", SCRIPTS)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        rule = "was written by a newer version: start that version, or name another database"
        raise BadSetting("metadata database", name, rule) from error
    return applied


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    while not _RUNNING.acquire(blocking=False):  # noqa: ASYNC110 - an Event belongs to one loop, Alembic to the process
        await asyncio.sleep(_PAUSE_S)
    try:
        yield
    finally:
        _RUNNING.release()


@asynccontextmanager
async def _locked(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction nobody else migrates beside. A writing transaction of SQLite is that already."""
    async with database.writing() as connection:
        if database.dialect == "sqlite":
            yield connection
            return
        lock = f"data_manager.migrate.{database.name}"[-64:]
        if await connection.scalar(select(func.get_lock(lock, int(_PATIENCE_S)))) != 1:
            raise Conflict(f"metadata database {database.name} is being migrated by another process: try again later")
        try:
            yield connection
        finally:
            await connection.execute(select(func.release_lock(lock)))


async def _write_ahead(database: Database) -> None:
    """Let readers and the writer of a SQLite file work side by side; the file remembers it.

    Here alone SQLite does not wait for a lock that another process holds.
    """
    if database.dialect != "sqlite":
        return
    for attempt in count():
        try:
            async with database.bare() as connection:
                await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except Locked:
            if attempt * _PAUSE_S > _PATIENCE_S:
                raise
            await asyncio.sleep(_PAUSE_S)
