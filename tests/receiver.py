"""A small true webhook receiver: it keeps what is posted, and answers as it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

SECRET = "/services/T000/B000/very-secret-path"


class Posted(NamedTuple):
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: Any


class Receiver:
    """answers: (status, headers) of the next requests, in order; 200 when there are none left. silent: never answers."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.silent = False
        self.port = 0
        self.over = asyncio.Event()
        self._serving: set[asyncio.Task[None] | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{SECRET}"

    def said(self, event: str, kind: str | None = None) -> list[dict[str, Any]]:
        """The alerts that arrived with that event, as the receiver reads them."""
        found = [one.body["alert"] for one in self.posted]
        return [one for one in found if one["event"] == event and kind in (None, one["kind"])]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            status, more = self.answers.pop(0) if self.answers else (200, {})
            if status == 200:
                self.posted.append(Posted(head[0].split()[1], headers, json.loads(body)))
            if self.silent:
                await self.over.wait()
            lines = [
                f"HTTP/1.1 {status} Said",
                "Content-Length: 7",
                "Connection: close",
                *(f"{k}: {v}" for k, v in more.items()),
            ]
            writer.write("\r\n".join([*lines, "", "said so"]).encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._serving.discard(asyncio.current_task())

    async def end(self) -> None:
        """Let go of who waits for an answer."""
        self.over.set()
        while self._serving:
            await asyncio.sleep(0)


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver on 127.0.0.1, for as long as the block lasts."""
    one = Receiver()
    server = await asyncio.start_server(one.serve, "127.0.0.1", port)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await one.end()
