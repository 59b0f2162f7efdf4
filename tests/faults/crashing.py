"""The service, killing itself with SIGKILL when it comes to a chosen point for the nth time.

    python -m tests.faults.crashing POINT NTH STORY serve

    pulled             decoded, nothing stored yet
    append written     in the append's transaction, before its commit
    append committed   durable; readers do not see it yet, and nobody was answered
    stored             every receipt is there; nothing is acknowledged
    half acknowledged  the server has read half of a flush's acks
    fold prepared      the new chunks are made, nothing of them is written
    fold written       in the fold's transaction, before its commit
    merge written      the same, when small chunks go into larger ones
    fold committed     durable; readers still look at what was before
    checkpoint         somewhere within the first 2 ms of one

Before it dies it adds a line to the file STORY: the point, and what its appends were told (new, changed, duplicate).
Folds come after a few hundred rows instead of 131,072.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection

from data_manager.adapters.bus import nats_jetstream
from data_manager.adapters.bus.connection import flush
from data_manager.adapters.store import embedded, sqlite
from data_manager.adapters.store.folding import Folded
from data_manager.adapters.store.recent import Recent
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset
from data_manager.ports import Delivery, Receipt

APPEND_POINTS = ("pulled", "append written", "append committed", "stored", "half acknowledged")
FOLD_POINTS = ("fold prepared", "fold written", "merge written", "fold committed", "checkpoint")
POINTS = (*APPEND_POINTS, *FOLD_POINTS)
FOLD_AT = embedded.FoldAt(rows=200)
_CHECKPOINT_S = 0.002


class Doom:
    """Where and when this process is to die."""

    def __init__(self, point: str, nth: int, story: Path) -> None:
        assert point in (*POINTS, "never"), point
        self._point = point
        self._left = nth
        self._story = story
        self._lock = threading.Lock()
        self.told = Receipt()

    def comes(self, point: str) -> bool:
        """Whether this arrival is the last."""
        with self._lock:
            self._left -= point == self._point
            return point == self._point and self._left == 0

    def meet(self, point: str) -> None:
        """Does not return when this arrival is the last."""
        if self.comes(point):
            self.fall()

    def fall(self) -> None:
        """Say so, and die."""
        with self._story.open("a", encoding="ascii") as story:
            story.write(f"{self._point},{self.told.new},{self.told.changed},{self.told.duplicate}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def fall_soon(self) -> None:
        """Within the next two milliseconds."""

        def wait_and_fall() -> None:
            until = time.perf_counter() + random.random() * _CHECKPOINT_S
            while time.perf_counter() < until:
                time.sleep(0)
            self.fall()

        threading.Thread(target=wait_and_fall, daemon=True).start()


def crashing_store(doom: Doom) -> type[embedded.EmbeddedStore]:
    """The embedded store with the points in it."""
    transaction = sqlite.transaction
    at_work = ""  # what the writer thread does
    merges = False

    @contextmanager
    def deadly_transaction(connection: Connection, path: Path) -> Iterator[None]:
        with transaction(connection, path):
            yield
            doom.meet(f"{at_work} written")
            if merges:
                doom.meet("merge written")
        doom.meet(f"{at_work} committed")

    class CrashingStore(embedded.EmbeddedStore):
        def __init__(self, folder: Path, cache_bytes: int) -> None:
            super().__init__(folder, cache_bytes, FOLD_AT)

        async def append(self, batch: Batch) -> Receipt:
            doom.meet("pulled")
            receipt = await super().append(batch)
            doom.told += receipt
            return receipt

        def _write(self, batches: Sequence[Batch]) -> list[Receipt]:
            nonlocal at_work, merges
            at_work, merges = "append", False
            return super()._write(batches)

        def _commit(self, dataset: Dataset, folds: Sequence[Folded], recent: Recent) -> None:
            nonlocal at_work, merges
            doom.meet("fold prepared")
            at_work, merges = "fold", any(one.gone for one in folds)
            super()._commit(dataset, folds, recent)

        def _checkpoint(self) -> None:
            if doom.comes("checkpoint"):
                doom.fall_soon()
            super()._checkpoint()

    sqlite.transaction = deadly_transaction
    return CrashingStore


class CrashingBus(nats_jetstream.NatsJetStream):
    """The durable bus with the points around its acks. Whoever uses it says what its doom is."""

    doom: Doom

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.doom.meet("stored")
        if self.doom.comes("half acknowledged"):
            await super().ack(deliveries[: len(deliveries) // 2])
            if self._connection.client is not None:
                await flush(self._connection.client, 2.0)
            self.doom.fall()
        await super().ack(deliveries)


def main() -> None:
    """Put the points into the program, and become it."""
    from data_manager import cli

    point, nth, story = sys.argv[1:4]
    del sys.argv[1:4]
    doom = Doom(point, int(nth), Path(story))
    embedded.EmbeddedStore = crashing_store(doom)  # type: ignore[misc]
    from data_manager.adapters.bus import opening

    CrashingBus.doom = doom
    opening.NatsJetStream = CrashingBus  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    main()
