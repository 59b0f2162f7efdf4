"""What is special about SQLite: how its file is opened, and how its transactions begin."""

import asyncio
import sqlite3
from typing import Any, Final

import aiosqlite
from sqlalchemy import URL, Connection

_ROWS_AT_ONCE: Final = 64


def options(url: URL, busy_s: float) -> dict[str, Any]:
    """For the engine. The driver must begin no transactions of its own: begin does, so that a writer locks first."""
    given: dict[str, Any] = {"isolation_level": None, "async_creator_fn": _open}
    return {"connect_args": given if "timeout" in url.query else {**given, "timeout": busy_s}}


def agree(connection: Any, _record: object) -> None:
    """Set what a connection needs."""
    cursor = connection.cursor()
    for pragma in ("foreign_keys = ON", "synchronous = FULL"):  # FULL: a commit is on the disk when it returns
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def begin(connection: Connection) -> None:
    """As the options of the connection say; without a word of theirs each statement is a transaction."""
    statement = connection.get_execution_options()["begin"]
    if statement:
        connection.exec_driver_sql(statement)


async def _open(*file: Any, **options: Any) -> aiosqlite.Connection:
    """Open the file; if that fails, leave no thread behind that would answer a loop which is closed by then."""
    connection = _StopsOnce(lambda: sqlite3.connect(*file, **options), _ROWS_AT_ONCE)
    connection._thread.daemon = True  # a process that crashed must not wait for it
    try:
        return await connection
    except BaseException:
        connection._thread.join(1.0)  # it was told to stop, and has nothing else to do
        raise


class _StopsOnce(aiosqlite.Connection):
    """A connection that ends well however often its user is cancelled, amid a statement or while he closes it.

    Its thread is told to stop once: one that has stopped answers nothing any more, and who told it again would wait for
    ever. And it rolls back before it closes: SQLite keeps the locks of a closed connection while somebody still holds
    the cursor of a statement that was not read to its end, such as the traceback of the cancellation.
    """

    _ended: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        if self._running:
            self._roll_back()
            self._ended = super().stop()
        return None if self._ended is None else asyncio.shield(self._ended)

    async def close(self) -> None:
        if self._running:
            self._roll_back()
            await super().close()
        elif self._ended is not None:
            await asyncio.shield(self._ended)

    def _roll_back(self) -> None:
        if self._connection is not None:
            self._tx.put_nowait((None, self._connection.rollback))  # nobody waits for it; what follows comes after it
