"""Digests of the archive files that were taken in: what SqlMetaStore has of the port Digests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import case, select

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.tables import archive_files, upsert


class DigestsInSql:
    """See Digests. Mixed into SqlMetaStore, whose writes may be under a lease."""

    _database: Database

    async def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    async def digest_of(self, path: str) -> str | None:
        """See Digests.digest_of."""
        asked = select(archive_files.c.sha256).where(archive_files.c.path == path)
        async with self._database.reading() as connection:
            found: str | None = await connection.scalar(asked)
        return found

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        """See Digests.keep_digest. What was taken in earlier changes nothing."""
        put = upsert(self._database.dialect, archive_files, _later)
        row = {"path": path, "sha256": sha256, "taken_ms": at_ms}
        await self._write(lambda connection: connection.execute(put, row))


def _later(held: Any, new: Any) -> Mapping[str, Any]:
    is_later = new["taken_ms"] >= held["taken_ms"]
    return {name: case((is_later, new[name]), else_=held[name]) for name in ("sha256", "taken_ms")}
