"""Bring a metadata database to the newest schema, or back to an earlier one, one process at a time."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, connect
from data_manager.adapters.meta.failures import Locked, Refused
from data_manager.adapters.meta.predecessor import SCHEMA
from data_manager.adapters.meta.tables import REVISION
from data_manager.domain.errors import BadQuery, BadSetting, Conflict

SCRIPTS = "data_manager.adapters.meta:migrations"
"""Where Alembic finds the migrations: inside the package, so that no alembic.ini is needed."""

_PATIENCE_S = 60
_LONGEST_S = 3_600  # one statement of a migration, or the silence while it runs
_PAUSE_S = 0.02
_RUNNING = threading.Lock()  # Alembic keeps the running migration in globals: one at a time per process

_NEWER = "was written by a newer version: start that version, or name another database"
_NOTE = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY) ENGINE=InnoDB"
Step = Callable[[Config], None]


class Plan(NamedTuple):
    """The way from the schema a database has to another: revisions to undo, newest first, or to apply, oldest first."""

    undo: list[str]
    apply: list[str]


async def plan(url: str, revision: str = REVISION) -> Plan:
    """How the database would come to that revision. Changes nothing, and makes no file.

    Raises BadQuery naming the revisions there are, BadSetting when a newer version of this program was here before.
    """
    known = revisions()
    if revision not in known:
        raise BadQuery("to", revision[:32], f"must be one of {' '.join(known)}")
    database = connect(url)
    try:
        held = None if _no_file(database) else await database.revision()
    finally:
        await database.close()
    if held is not None and held not in known:
        raise BadSetting("metadata database", database.name, _NEWER)
    at, to = 0 if held is None else known.index(held) + 1, known.index(revision) + 1
    return Plan(undo=known[to:at][::-1], apply=known[at:to])


def _no_file(database: Database) -> bool:
    return database.dialect == "sqlite" and not Path(database.name).exists()


def revisions() -> list[str]:
    """Every revision this version of the program knows, oldest first."""
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    return [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][::-1]


async def migrate(url: str, revision: str = "head") -> list[str]:
    """Bring the database to the newest schema, or to an earlier one that is newer than it has.

    The revisions applied, oldest first; none when it was there already.

    SQLite: all or nothing. MySQL commits each statement: what was cut off half-way is finished by the next call.
    Raises Conflict when another process has been migrating for a minute, BadSetting when a newer version of this
    program was here before, Refused when a table is in the way or was taken away, Unavailable or Corrupt like every
    other use of the database.
    """
    return await _apply(url, lambda config: command.upgrade(config, revision), _NEWER)


async def step_back(url: str, revision: str) -> list[str]:
    """Bring the database back to the schema of an earlier version; the revisions undone, newest first.

    What only the newer schema can hold is lost, so try it on a copy. What was cut off half-way is finished by the next
    call, as migrate's is. Raises as migrate does.
    """
    unknown = f"has never been at revision {revision}: name an earlier one of `data-manager migrate`"
    return await _apply(url, lambda config: command.downgrade(config, revision), unknown)


async def _apply(url: str, step: Step, impossible: str) -> list[str]:
    database = connect(url, busy_s=_PATIENCE_S, answer_s=_LONGEST_S)
    try:
        async with _alone():
            await _write_ahead(database)
            async with _locked(database) as connection:
                return await connection.run_sync(_run, step, database.name, impossible)
    finally:
        await database.close()


def _run(connection: Connection, step: Step, name: str, impossible: str) -> list[str]:
    done: list[str] = []

    def note(*, step: Any, **_: object) -> None:
        done.extend(step.up_revision_ids)

    if connection.dialect.name == "mysql" and not sa.inspect(connection).has_table("alembic_version"):
        connection.exec_driver_sql(_NOTE)  # as Alembic would, but without a name for the key, which MySQL complains of
    config = Config(attributes={"connection": connection, "on_version_apply": note})
    config.set_main_option("script_location", SCRIPTS)
    try:
        step(config)
    except CommandError as error:
        raise BadSetting("metadata database", name, impossible) from error
    _compare(connection, name)
    return done


def _compare(connection: Connection, name: str) -> None:
    """Whether all that the revision reached has made is there, as it was made. Raises Refused naming what is not.

    An index that ought to forbid the same twice, and does not, would be worse than slow.
    """
    if connection.scalar(sa.text("SELECT version_num FROM alembic_version")) != REVISION:
        return
    look = sa.inspect(connection)
    for table in SCHEMA.sorted_tables:
        held = {column["name"] for column in look.get_columns(table.name)} if look.has_table(table.name) else set()
        lacking = [column.name for column in table.columns if column.name not in held]
        if lacking:
            what = f"the column {lacking[0]} of its table {table.name}" if held else f"its table {table.name}"
            fix = "put it back from a backup, or empty the table alembic_version and migrate again"
            raise Refused(f"metadata database {name} lost {what} after it was migrated: {fix}")
        _compare_indexes(look, table, name)


def _compare_indexes(look: sa.Inspector, table: sa.Table, name: str) -> None:
    held = {index["name"]: index for index in look.get_indexes(table.name)}
    for index in sorted(table.indexes, key=lambda one: str(one.name)):
        wanted, there = _kind(index.unique, [column.name for column in index.columns]), held.get(str(index.name))
        found = there and _kind(there["unique"], there["column_names"])
        if found != wanted:
            what = f"the index {index.name} of its table {table.name}, {wanted}"
            fix = f"drop that one ({found}) and make ours" if found else "make it"
            raise Refused(f"metadata database {name} lacks {what}: {fix}")


def _kind(unique: object, columns: Sequence[str | None]) -> str:
    return f"{'unique' if unique else 'not unique'}, on ({', '.join(map(str, columns))})"


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
    """A connection nobody else migrates beside. A writing transaction of SQLite is that already.

    MySQL lets go of the lock when the connection ends, however it ends; it knows the database by its name alone, for
    two processes may reach the same server by different names.
    """
    if database.dialect == "sqlite":
        async with database.writing() as connection:
            yield connection
        return
    async with database.bare() as connection:
        await connection.exec_driver_sql(f"SET SESSION wait_timeout = {_LONGEST_S}")
        schema = await connection.scalar(select(func.database())) or ""
        lock = f"data_manager.migrate.{hashlib.sha256(schema.encode()).hexdigest()[:32]}"
        if await connection.scalar(select(func.get_lock(lock, _PATIENCE_S))) != 1:
            raise Conflict(f"metadata database {database.name} is being migrated by another process: try again later")
        yield connection
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
