"""Real nats-servers for tests: each on a free port of 127.0.0.1, its files in a folder given."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

from nats.aio.client import Client

from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_server import NatsServer

_names = count()


class WallClock:
    """The real time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SteppingClock:
    """Each look at the time of day is one millisecond later; sleeping moves both clocks on at once."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self.at_ms = start_ms
        self.slept_s = 0.0

    def now_ms(self) -> int:
        self.at_ms += 1
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.slept_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.at_ms += round(seconds * 1_000)


@contextmanager
def running_server(folder: Path, *, jetstream: bool = True) -> Iterator[NatsServer]:
    """A server for many tests: for session fixtures, outside of any event loop."""
    server = NatsServer(folder, port=0, jetstream=jetstream)
    asyncio.run(server.start())
    try:
        yield server
    finally:
        asyncio.run(server.stop())


@asynccontextmanager
async def own_server(folder: Path, *, jetstream: bool = True, config: str = "") -> AsyncIterator[NatsServer]:
    """A server for one test, which may kill, freeze and restart it."""
    server = NatsServer(folder, port=0, jetstream=jetstream, config=config)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


def access_to(server: NatsServer) -> NatsAccess:
    """How to reach it, with short pauses between attempts."""
    return NatsAccess(urls=(server.url,), connect_timeout_s=2.0, reconnect_wait_s=0.1)


def fresh(word: str) -> str:
    """A name that no other test of this run uses: for subjects, streams, consumers."""
    return f"{word}-{next(_names)}"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def client_of(server: NatsServer) -> AsyncIterator[Client]:
    """A plain nats-py client: the other side of a test."""
    client = Client()
    await client.connect(server.url, connect_timeout=2, max_reconnect_attempts=-1, reconnect_time_wait=0)
    try:
        yield client
    finally:
        await client.close()
