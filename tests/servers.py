"""Real nats-servers for tests: each on a free port of 127.0.0.1, its files in a folder given.

And what every server of the tests needs: a port that stays its own while it is away, and an end with the tests.
"""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from nats.aio.client import Client

from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_server import NatsServer

_names = count()
_FROZEN_S = 10.0
_PORTS = (12_000, 32_000)  # below what the kernel gives away by itself
_WATCH = """
import os, signal, sys

def began(pid):  # an id that another process has got meanwhile is not killed
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None

known = {}
for line in sys.stdin:
    known[int(line)] = began(int(line))
for pid, since in known.items():
    if since is not None and began(pid) == since:
        os.kill(pid, signal.SIGKILL)
"""


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
    server = NatsServer(folder, port=free_port(), jetstream=jetstream)
    asyncio.run(server.start())
    try:
        yield server
    finally:
        asyncio.run(server.stop())


@asynccontextmanager
async def own_server(folder: Path, *, jetstream: bool = True, config: str = "") -> AsyncIterator[NatsServer]:
    """A server for one test, which may kill, freeze and restart it."""
    server = NatsServer(folder, port=free_port(), jetstream=jetstream, config=config)
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
    """A port that was free a moment ago, and that nobody takes by chance: not even while its server is away.

    It is none of those that the kernel gives to clients and to whoever asks for port 0.
    """
    while True:
        port = random.SystemRandom().randrange(*_PORTS)  # other processes of the same run choose at the same time
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def freeze(pid: int) -> None:
    """SIGSTOP: sockets stay open and nobody answers. On return every thread stands: the signal reaches one of them, which
    on a busy machine has to wait for its turn before it stops the others, and meanwhile they answer.
    """
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + _FROZEN_S
    while not is_frozen(pid):
        assert time.monotonic() < until, f"process {pid} does not stop"
        time.sleep(0.001)


def is_frozen(pid: int) -> bool:
    """Whether every thread of it stands."""
    try:
        states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread ended while we looked: it was not standing
        return False
    return set(states) == {"T"}


def thaw(pid: int) -> None:
    """SIGCONT. One that has ended meanwhile stays so."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def ended_with_us(pid: int) -> None:
    """Have it killed when this process ends, however it ends: nobody has to clean up after tests that were killed."""
    told = _watcher().stdin
    assert told is not None
    told.write(b"%d\n" % pid)
    told.flush()


@cache
def _watcher() -> subprocess.Popen[bytes]:
    """A process that reads ids of processes, and kills them when there is nobody left to write more."""
    return subprocess.Popen([sys.executable, "-SEIc", _WATCH], stdin=subprocess.PIPE, start_new_session=True)


@asynccontextmanager
async def client_of(server: NatsServer) -> AsyncIterator[Client]:
    """A plain nats-py client: the other side of a test."""
    client = Client()
    await client.connect(server.url, connect_timeout=2, max_reconnect_attempts=-1, reconnect_time_wait=0)
    try:
        yield client
    finally:
        await client.close()
