"""kill -9 of a process that appends and folds all the time: what was acknowledged is there, once, as it was.

This file is also that process: one that has imported everything and forks a fresh appender for every line it reads, so
that a round costs a tenth of a second.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.batch import STREAM, Batch
from data_manager.domain.dataset import Series
from data_manager.domain.events import Event
from data_manager.ports import Receipt
from tests.contract.rows import batch_of, candle, depth_update, trade
from tests.memory import MemoryStore

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 16
AT_ONCE = 3  # appends under way together: they may share a transaction
FOLD_AT = FoldAt(rows=250)

# ---- what is appended ------------------------------------------------------------------------------------------------


@cache
def batch(number: int) -> Batch:
    """Batch number n, always the same: new rows, rows of earlier batches again, and late ones that fill holes."""
    dice = random.Random(number)
    turn, kind = divmod(number, AT_ONCE)
    late = [dice.randrange(max(1, turn * 20)) for _ in range(8)]
    if kind == 0:
        symbols = ("BTCUSDT", "1000PEPEUSDT")
        return _batch(
            [
                trade(n, symbol)
                for symbol in symbols
                for n in {*range(turn * 20, turn * 20 + 20), *late}
                if n % 7 or n in late
            ]
        )
    if kind == 1:
        return _batch([depth_update(n) for n in {*range(turn * 10, turn * 10 + 10), *late}])
    minutes = {turn, *(n // 20 for n in late)}
    if turn % 4 == 3:  # history corrects what the stream said
        return _batch([candle(minute, "3.0") for minute in minutes], "rest:klines")
    return _batch([candle(minute) for minute in minutes])


def _batch(events: Sequence[Event], origin: str = STREAM) -> Batch:
    return batch_of(events, origin)


# ---- the process that is killed --------------------------------------------------------------------------------------


def main() -> None:
    """For every line read (folder, first batch): fork an appender, say its pid, and say when it has ended."""
    for line in sys.stdin:
        folder, first = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(_append_forever(Path(folder), int(first)))
        _say(f"pid {child}")
        os.waitpid(child, 0)
        _say("ended")


async def _append_forever(folder: Path, number: int) -> None:
    _say("opening")
    store = EmbeddedStore(folder, 1 << 20, FOLD_AT)
    _say("opened")

    async def append(number: int) -> None:
        await store.append(batch(number))
        _say(f"acknowledged {number}")

    while True:
        await asyncio.gather(*(append(number + more) for more in range(AT_ONCE)))
        number += AT_ONCE


def _say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


# ---- the test --------------------------------------------------------------------------------------------------------


def test_what_was_acknowledged_survives_kill_9_once_and_exactly(tmp_path: Path) -> None:
    seed = 20_261_122
    dice = random.Random(seed)
    story = Story()
    with appenders() as child:
        for round_number in range(ROUNDS):
            told = child.killed_after(dice, f"{tmp_path} {story.unacknowledged}")
            asyncio.run(story.require(tmp_path, told, f"seed {seed}, round {round_number}"))
    assert len(story.acknowledged) > 20 * AT_ONCE
    asyncio.run(story.require_known(tmp_path))


class Story:
    """What the appenders have said so far, and what must, and may, be held because of it."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self._begun = 0
        self._sure, self._possible = MemoryStore(), MemoryStore()
        self._given: dict[tuple[Series, int], list[dict[str, Any]]] = {}  # every state a row was given in

    @property
    def unacknowledged(self) -> int:
        """Where the next appender begins."""
        return next(number for number in count() if number not in self.acknowledged) // AT_ONCE * AT_ONCE

    async def require(self, folder: Path, told: set[int], when: str) -> None:
        """Acknowledged rows are held as they are; others only as far as they had been begun."""
        await self._note(told)
        store = EmbeddedStore(folder, 1 << 20, FOLD_AT)
        try:
            assert {*await self._sure.series()} <= {*await store.series()} <= {*await self._possible.series()}
            for series in await self._possible.series():
                held, least, most = [
                    _by_key(await one.scan(series), when) for one in (store, self._sure, self._possible)
                ]
                assert least.keys() <= held.keys() <= most.keys(), (series, when)
                for key, row in held.items():
                    assert row in ((least[key], most[key]) if key in least else self._given[series, key]), (key, when)
        finally:
            await store.close()

    async def _note(self, told: set[int]) -> None:
        for number in sorted(told - self.acknowledged):
            await self._sure.append(batch(number))
        self.acknowledged |= told
        begun = (max(self.acknowledged, default=0) // AT_ONCE + 2) * AT_ONCE  # the turn after the last acknowledged one
        for number in range(self._begun, begun):
            await self._possible.append(batch(number))
            for rows in batch(number).split():
                for key, row in zip(rows.key.tolist(), rows.rows(), strict=True):
                    self._given.setdefault((rows.series[0], key), []).append(row)
        self._begun = begun

    async def require_known(self, folder: Path) -> None:
        """All of it again: everything is known, and nothing has changed."""
        store = EmbeddedStore(folder, 1 << 20, FOLD_AT)
        try:
            for number in sorted(self.acknowledged):
                rows = batch(number)
                assert await store.append(rows) == Receipt(duplicate=len(rows)), number
            assert Series("um", "trade", "1000PEPEUSDT") in await store.series()
        finally:
            await store.close()


class Appenders:
    """The forking process, seen from here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def killed_after(self, dice: random.Random, order: str) -> set[int]:
        """Start an appender, kill it at some moment; the batches it acknowledged."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words, spin_s = dice.choice((1, 2, dice.randrange(3, 12), dice.randrange(12, 120))), dice.random() * 0.004
        self._process.stdin.write(f"{order}\n".encode())
        self._process.stdin.flush()
        told: set[int] = set()
        pid, heard, killed = 0, 0, False
        for line in self._process.stdout:
            word, _, number = line.decode().strip().partition(" ")
            if word == "pid":
                pid = int(number)
            elif word == "ended":
                assert killed, "it ended by itself"
                return told
            else:
                heard += 1
            if word == "acknowledged":
                told.add(int(number))
            if pid and heard >= words and not killed:
                killed = True
                _spin(spin_s)
                os.kill(pid, signal.SIGKILL)
        raise AssertionError("the process that forks has ended")


def _spin(seconds: float) -> None:
    """Let so much time pass that the kill falls anywhere in a batch."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@contextmanager
def appenders() -> Iterator[Appenders]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.test_store_kill"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Appenders(process)
        finally:
            process.kill()


def _by_key(rows: Batch, when: str) -> dict[int, dict[str, Any]]:
    keys: list[int] = rows.key.tolist()
    assert keys == sorted(set(keys)), f"a key twice, or out of order: {when}"
    return dict(zip(keys, rows.rows(), strict=True))


if __name__ == "__main__":
    main()
