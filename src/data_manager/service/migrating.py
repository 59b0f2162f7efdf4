"""Bringing both databases to the layout of this version, saying what that would be, and going back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from data_manager.adapters.meta.migrate import migrate as apply
from data_manager.adapters.meta.migrate import plan, step_back
from data_manager.domain.errors import BadQuery
from data_manager.service.access import mongo_access
from data_manager.settings import Settings

if TYPE_CHECKING:
    from data_manager.adapters.mongo.store import MongoStore


async def migrate(settings: Settings) -> list[str]:
    """Do it; what was done, one line each."""
    _make_home(settings)
    done = [f"metadata: applied {revision}" for revision in await apply(settings.metadata_url)]
    async with _rows(settings) as store:
        if store is not None:
            done += [f"rows: {line}" for line in await store.migrate()]
            done += [f"rows: left as it is: {drift}" for drift in await store.drift()]
    return done


async def check(settings: Settings) -> list[str]:
    """What migrate would do, and what it could not mend, one line each; none: there is nothing to do."""
    lines = [f"metadata: {revision} is to be applied" for revision in (await plan(settings.metadata_url)).apply]
    async with _rows(settings) as store:
        return lines if store is None else [*lines, *(f"rows: {drift}" for drift in await store.drift())]


async def move_to(settings: Settings, revision: str, *, undo: bool) -> list[str]:
    """Bring the metadata to that revision; what was done, one line each. A way back raises BadQuery without undo."""
    url = settings.metadata_url
    way = await plan(url, revision)
    if not way.undo:
        _make_home(settings)
        return [f"metadata: applied {one}" for one in (await apply(url, revision) if way.apply else ())]
    if not undo:
        lost = f"{' '.join(way.undo)} would be undone, and what only they can hold would be lost"
        fix = "try it on a copy, stop every process that uses the database, and add --yes"
        raise BadQuery("yes", False, f"{lost}: {fix}")
    return [f"metadata: undid {one}" for one in await step_back(url, revision)]


def _make_home(settings: Settings) -> None:
    """The folder of the metadata's file. A cluster needs none, and where it cannot be made opening the file says so."""
    with suppress(OSError):
        settings.data_dir.mkdir(parents=True, exist_ok=True)


@asynccontextmanager
async def _rows(settings: Settings) -> AsyncIterator[MongoStore | None]:
    """The store of the rows where it has indexes to look after."""
    if settings.rows_url is None:
        yield None
        return
    from data_manager.adapters.mongo.store import open_mongo  # noqa: PLC0415 - its driver is an extra

    store = await open_mongo(mongo_access(settings))
    try:
        yield store
    finally:
        await store.close()
