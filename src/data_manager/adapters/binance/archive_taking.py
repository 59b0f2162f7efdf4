"""Brings files of the archive to the disk: as published, or not at all.

The checksum is asked for first: it says whether the file is there, and what has to arrive. An answer of 404 is proof of
absence only in the words of the archive's own store; anybody else's 404 means that the address is wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from msgspec import Struct

from data_manager.adapters.binance.archive_files import File
from data_manager.adapters.binance.archive_rows import LAYOUTS
from data_manager.adapters.binance.archive_table import Survey, Table
from data_manager.adapters.binance.http import Answer, Http
from data_manager.adapters.resilience import Breaker, patiently
from data_manager.domain.errors import BadSetting, Corrupt, Unavailable
from data_manager.domain.finding import Evidence
from data_manager.ports import Clock
from data_manager.ports.source import Digests

SETTING: Final = "BINANCE_ARCHIVE_BASE_URL"
R = TypeVar("R")

_WORKERS: Final = 2  # for all that is asked at a time: each thread keeps the memory it once needed
_ATTEMPTS: Final = 6
_PATIENCE_S: Final = 30.0
_LONG_S: Final = 300.0
_CHECKSUM = re.compile(rb"([0-9a-fA-F]{64})\s+\*?([^\r\n]+)")


class Absent(Struct, frozen=True):
    """There is no such file, with the proof."""

    evidence: Evidence


class Taken(Struct, frozen=True):
    """A file on the disk whose checksum fits. answered_ms: by our clock. survey: of one that is read in pieces."""

    file: File
    table: Table
    survey: Survey | None
    answered_ms: int
    evidence: Evidence


class Taker:
    """Asks one archive."""

    def __init__(self, http: Http, address: str, clock: Clock, digests: Digests) -> None:
        self.breaker = Breaker("binance archive")
        self._http = http
        self._address = address.rstrip("/")
        self._clock = clock
        self._digests = digests
        self._workers = ThreadPoolExecutor(_WORKERS, "archive")

    async def work(self, function: Callable[..., R], *arguments: Any) -> R:
        """Blocking work on files, done by a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    def close(self) -> None:
        """Take no more work."""
        self._workers.shutdown(wait=False)

    async def take(self, file: File, folder: Path) -> Taken | Absent:
        """The file, put into folder and looked through. Raises Unavailable, Corrupt or BadSetting."""
        return await self.breaker.call(lambda: self._take(file, folder), attempts=_ATTEMPTS, wait_for=_wait_for)

    async def is_there(self, file: File) -> bool:
        """Whether the archive has the file."""
        answer = await self.breaker.call(lambda: self._checksum(file), attempts=_ATTEMPTS, wait_for=_wait_for)
        return answer.status == 200

    async def keep(self, taken: Taken) -> None:
        """Remember which version of the file was taken in."""
        await self._digests.keep_digest(taken.file.path, str(taken.evidence["sha256"]), taken.answered_ms)

    async def _take(self, file: File, folder: Path) -> Taken | Absent:
        answer = await self._checksum(file)
        asked: Evidence = {"request": f"{file.path}.CHECKSUM", "status": answer.status, "file": file.name}
        if answer.status == 404:
            sha256 = hashlib.sha256(answer.body).hexdigest()
            return Absent(asked | {"answered_ms": self._clock.now_ms(), "sha256": sha256, "rows": 0, "refused": 0})
        promised = _promised(answer, file)
        path = folder / f"{'day' if file.is_day else 'month'}-{file.name}"
        got = await self._http.download(self._url(file), path)
        if got.answer.status != 200:
            raise _error(got.answer, file) or Unavailable(f"{file.name}: its checksum is there, it is not")
        answered_ms = self._clock.now_ms()
        evidence: Evidence = {
            "request": file.path, "status": 200, "file": file.name, "sha256": got.sha256, "answered_ms": answered_ms,
        }  # fmt: skip
        if got.sha256 != promised:
            raise Corrupt(
                f"{file.name}: its SHA-256 is {got.sha256}, the published one {promised}",
                evidence=evidence | {"promised": promised, "size_bytes": got.size_bytes},
            )
        known = await self._digests.digest_of(file.path)
        if known not in (None, got.sha256):
            evidence["republished"] = known
        table = await self.work(Table, path, file.name, LAYOUTS[file.kind.folder])
        survey = await self.work(table.survey, file.accepts) if file.kind.fine else None
        return Taken(file, table, survey, answered_ms, evidence)

    async def _checksum(self, file: File) -> Answer:
        """The answer for the checksum, 200 or 404."""
        answer = await self._http.get(f"{self._url(file)}.CHECKSUM")
        if answer.status == 404 and b"NoSuchKey" not in answer.body:
            rule = f"must be the address of the archive: it answers 404 to {file.path}, not as the archive does"
            raise BadSetting(SETTING, self._address, rule)
        error = _error(answer, file)
        if error is not None and answer.status != 404:
            raise error
        return answer

    def _url(self, file: File) -> str:
        return self._address + quote(file.path)


def _promised(answer: Answer, file: File) -> str:
    """The digest in a checksum file; it names the file it is of."""
    found = _CHECKSUM.match(answer.body)
    if found is None or found[2].strip().decode("utf-8", "replace") != file.name:
        raise Unavailable(f"{file.name}: what came instead of its checksum begins {answer.body[:60]!r}")
    return found[1].decode().lower()


def _error(answer: Answer, file: File) -> Unavailable | None:
    if answer.is_page and answer.status != 404:
        return Unavailable(f"{file.name}: a page instead of a file ({answer.status})", retry_after_s=_LONG_S)
    if answer.status == 200:
        return None
    long = answer.status in (403, 451)
    return Unavailable(f"{file.name}: status {answer.status}", retry_after_s=_LONG_S if long else 1.0)


def _wait_for(error: Exception) -> bool | timedelta:
    if isinstance(error, Unavailable) and error.retry_after_s > _PATIENCE_S:
        return False
    return patiently(error)
