"""The service on a sick disk: `python -m tests.faults.sick_store FILE COMMAND…` becomes `data-manager COMMAND…`.

FILE says at every transaction how ill a store is, as words: "series read-only", or "metadata slow 2.5" for so many
seconds before each commit; each on a line of its own. No file, or nothing in it: all is well.
"""

import asyncio
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database
from data_manager.adapters.store import sqlite
from data_manager.cli import main

_well_transaction = sqlite.transaction
_well_writing = Database.writing


class Illness:
    """What the file says now."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def of(self, store: str) -> tuple[bool, float]:
        """Whether the store may only be read, and how many seconds a commit takes longer."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        words = [line.split()[1:] for line in lines if line.split()[0] == store]
        slow_s = [float(rest[0]) for kind, *rest in words if kind == "slow"]
        return ["read-only"] in words, max(slow_s, default=0.0)


def fall_ill(illness: Illness) -> None:
    """Both stores ask the illness at every transaction."""

    @contextmanager
    def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
        read_only, slow_s = illness.of("series")
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
        with _well_transaction(connection, path):
            yield
            time.sleep(slow_s)  # the store's own thread

    @asynccontextmanager
    async def writing(database: Database) -> AsyncIterator[AsyncConnection]:
        read_only, slow_s = illness.of("metadata")
        async with _well_writing(database) as connection:
            await connection.exec_driver_sql(f"PRAGMA query_only = {int(read_only)}")
            try:
                yield connection
            finally:
                await connection.exec_driver_sql("PRAGMA query_only = 0")
            await asyncio.sleep(slow_s)

    sqlite.transaction = transaction
    Database.writing = writing  # type: ignore[method-assign]


if __name__ == "__main__":
    fall_ill(Illness(Path(sys.argv.pop(1))))
    main()
