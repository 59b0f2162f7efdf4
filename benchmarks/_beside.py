"""What the machine itself did while a latency was measured: its disk, its processor, and whom else it served.

A process of its own beside the measured ones: it overwrites one block of a file again and again and syncs it (what no
commit can beat), and takes the same messages as a plain core subscriber (what no bus can beat). Where these stand still
too, it was the machine.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvloop

_BLOCK_BYTES, _BLOCKS, _EACH_S = 4_096, 256, 0.01
_STEAL_MAX, _OTHERS_MAX = 2.0, 20.0  # percent of all processors, of one processor


class Beside(NamedTuple):
    """fdatasync_ms, seen_ms: p99. steal: percent of the processors' time. others: percent of one, for other programs.

    fdatasync_ms is of messages, one a millisecond, not of syncs: one sync of 100 ms holds up a hundred of them.
    """

    fdatasync_ms: float
    seen_ms: float
    steal: float
    others: float

    @property
    def verdict(self) -> str:
        """What is to be thought of figures taken meanwhile."""
        if self.steal > _STEAL_MAX:
            return "void: steal"
        return "not alone" if self.others > _OTHERS_MAX else ""


@contextmanager
def watched(folder: Path, port: int, subject: str) -> Iterator[list[Beside]]:
    """Watch the machine within the block; one Beside is in the list afterwards. port: of the nats-server."""
    found: list[Beside] = []
    command = [sys.executable, __file__, str(folder), str(port), subject]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    machine, ours, began = _machine(), _ours(), time.perf_counter()
    yield found
    busy, stolen, total = (after - before for after, before in zip(_machine(), machine, strict=True))
    others = busy - (_ours() - ours)
    seconds = time.perf_counter() - began
    out, _ = child.communicate()
    fdatasync_ms, seen_ms = json.loads(out)
    percent = 100 / seconds / os.sysconf("SC_CLK_TCK")
    found.append(
        Beside(_p99(_held_up(fdatasync_ms)), _p99(seen_ms), 100 * stolen / max(total, 1), max(others * percent, 0.0))
    )


def _held_up(syncs_ms: list[float]) -> list[float]:
    """What each message waited: those that came in the pause before a sync for all of it, the others for its rest."""
    pause_ms = round(_EACH_S * 1e3)
    return [sync_ms - max(0, at) for sync_ms in syncs_ms for at in range(-pause_ms, int(sync_ms))]


def _p99(values: list[float]) -> float:
    return float(np.quantile(values, 0.99)) if values else float("nan")


def _machine() -> tuple[int, int, int]:
    """Ticks of all processors: busy, stolen, all."""
    words = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, stolen = words[3] + words[4], words[7]
    return sum(words) - idle - stolen, stolen, sum(words)


def _ours() -> int:
    """Ticks of this process, of all that it started, and of those of them that have ended."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(words[1]), sum(map(int, words[11:15]))
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(pid, 0) for pid in family)


# ---- the process beside


class _Plain(asyncio.Protocol):
    """A core subscriber that only looks when a trade was published: its id."""

    def __init__(self, subject: str, seen_ms: list[float]) -> None:
        self._subject = subject
        self._seen_ms = seen_ms

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b'CONNECT {"verbose":false}\r\nSUB %s 1\r\nPING\r\n' % self._subject.encode())

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        if b"PING\r\n" in data:
            self._transport.write(b"PONG\r\n")
        self._seen_ms += [(now - int(number)) / 1e6 for number in re.findall(rb'"t":(\d{19})', data)]


def _sync(folder: str, ended: threading.Event, took_ms: list[float]) -> None:
    block = bytes(_BLOCK_BYTES)
    with (Path(folder) / "block").open("wb", buffering=0) as file:
        file.write(bytes(_BLOCK_BYTES * _BLOCKS))
        os.fsync(file.fileno())
        for number in range(1_000_000):
            if ended.wait(_EACH_S):
                break
            os.pwrite(file.fileno(), block, number % _BLOCKS * _BLOCK_BYTES)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - began) * 1e3)


async def _beside(folder: str, port: str, subject: str) -> None:
    ended, fdatasync_ms, seen_ms = threading.Event(), list[float](), list[float]()
    syncing = asyncio.create_task(asyncio.to_thread(_sync, folder, ended, fdatasync_ms))
    await asyncio.get_running_loop().create_connection(lambda: _Plain(subject, seen_ms), "127.0.0.1", int(port))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    ended.set()
    await syncing
    print(json.dumps((fdatasync_ms, seen_ms)))


if __name__ == "__main__":
    uvloop.run(_beside(*sys.argv[1:]))
