"""A metadata store in a SQLite file of its own: copied from one that was migrated once for all tests of the process."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta

_migrated: list[tempfile.TemporaryDirectory[str]] = []


@asynccontextmanager
async def fresh_meta(folder: Path) -> AsyncIterator[SqlMetaStore]:
    """An empty store in the folder, closed at the end."""
    if not _migrated:
        made = tempfile.TemporaryDirectory()
        await (await open_meta(f"sqlite:///{made.name}/meta.db")).close()
        _migrated.append(made)
    shutil.copy(f"{_migrated[0].name}/meta.db", folder / "meta.db")
    one = await open_meta(f"sqlite:///{folder}/meta.db")
    try:
        yield one
    finally:
        await one.close()
