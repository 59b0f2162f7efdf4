"""HTTP to the venue: bytes and status, nothing of their meaning. The only file that knows the client library."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
from msgspec import Struct

from data_manager import __version__
from data_manager.domain.errors import BadSetting, Unavailable

TIMEOUT_S: Final = 20.0
"""For connecting, and for each read after it: exchangeInfo and long pages take their seconds."""

_BODY_MAX: Final = 64 * 1024 * 1024  # of an answer kept in memory: the venue's largest has 2 MB
_FILE_MAX: Final = 16 * 1024 * 1024 * 1024  # of a download: the venue's largest month has 2 GB
_WRITE_BYTES: Final = 1024 * 1024
_USER_AGENT: Final = f"petrosa-data-manager/{__version__}"

Params = Mapping[str, str | int]


class Answer(Struct, frozen=True):
    """What came back. Names of headers are in small letters; the body is decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_page(self) -> bool:
        """Whether it is made for people: a firewall's refusal, a challenge, somebody else's server."""
        return "html" in self.headers.get("content-type", "") or self.body[:1] == b"<"


class Downloaded(Struct, frozen=True):
    """What a download left in the file; of an answer that was not good, what it said. sha256 in hexadecimal."""

    answer: Answer
    sha256: str
    size_bytes: int


class Http:
    """One pool of connections. HTTPS_PROXY and its like are obeyed. Whatever goes wrong on the way is Unavailable."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, connections_max: int = 16) -> None:
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(timeout_s),
            limits=httpx2.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
            headers={"user-agent": _USER_AGENT},
        )

    async def get(self, url: str, params: Params | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to one GET, whatever its status. Raises Unavailable when there is none."""
        async with self._stream(url, params, headers or {}) as stream:
            return await _whole(stream, url)

    async def download(self, url: str, into: Path) -> Downloaded:
        """The answer to one GET as a file, not held in memory. Only a status of 200 is written."""
        async with self._stream(url, None, {"accept-encoding": "identity"}) as stream:
            if stream.status_code != 200:
                return Downloaded(await _whole(stream, url), "", 0)
            answer = Answer(200, dict(stream.headers), b"")
            try:
                sha256, size_bytes = await _written(stream, into)
            except OSError as error:
                raise Unavailable(f"{into.parent} cannot take {url}: {error.strerror or error}") from error
            return Downloaded(answer, sha256, size_bytes)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def _stream(
        self, url: str, params: Params | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        try:
            async with self._client.stream("GET", url, params=params, headers=dict(headers)) as stream:
                yield stream
        except httpx2.InvalidURL as error:
            raise BadSetting("BINANCE_*_BASE_URL", url, f"must be an address: {error}") from error
        except httpx2.HTTPError as error:
            raise Unavailable(f"{_shown(url)}: {_said(error)}") from error


async def _whole(stream: httpx2.Response, url: str) -> Answer:
    body = bytearray()
    async for piece in stream.aiter_bytes():
        body += piece
        if len(body) > _BODY_MAX:
            raise Unavailable(f"{_shown(url)}: an answer of more than {_BODY_MAX} bytes")
    return Answer(stream.status_code, dict(stream.headers), bytes(body))


async def _written(stream: httpx2.Response, into: Path) -> tuple[str, int]:
    """Write the body to the file; its SHA-256 and size. Disk and digest are worked on off the event loop."""
    digest = hashlib.sha256()
    size_bytes = 0
    waiting = bytearray()
    with await asyncio.to_thread(into.open, "wb") as file:

        def write(some: bytes) -> None:
            digest.update(some)
            file.write(some)

        async for piece in stream.aiter_raw():
            waiting += piece
            size_bytes += len(piece)
            if size_bytes > _FILE_MAX:
                raise Unavailable(f"{_shown(str(stream.url))}: a file of more than {_FILE_MAX} bytes")
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(write, bytes(waiting))
    return digest.hexdigest(), size_bytes


def _shown(url: Any) -> str:
    return str(url).partition("?")[0]


def _said(error: httpx2.HTTPError) -> str:
    """What went wrong, for timeouts too, which say nothing of themselves."""
    return str(error) or type(error).__name__
