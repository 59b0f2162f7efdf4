"""Three replicas share one durable consumer under load; one is killed, one is frozen for longer than acks may take."""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count, islice
from pathlib import Path

import pytest
from nats.aio.client import Client

from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.replicas import STORES, Replicas
from tests.faults.streams import payloads, recorded, trade
from tests.servers import freeze, own_server, thaw
from tests.service import Service, connected, drained, publish
from tests.truth import Line, paths_of, rows_of

NAMES = ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1")
ACK_WAIT_S = 2.0
ROUNDS = 5 if FULL else 1
ROUND_S = 12.0  # one mostly takes no longer
STEP = 100
SLOWLY = [sys.executable, "-m", "tests.faults.slow_store", "0.05"]
SETTINGS = {"program": SLOWLY, "nats_ack_wait_s": ACK_WAIT_S, "message_queue_size": 2_000, "max_batch_size": 500}
"""Small shares and a store that takes its time: each has some of the load, and a flush under way, at every moment."""


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    return recorded(*paths_of(recordings, "um", NAMES))


@pytest.mark.parametrize("store", STORES)
async def test_one_killed_and_one_frozen(tmp_path: Path, lines: list[Line], store: str, told: Told) -> None:
    dice = random.Random(seed := 3)
    async with own_server(tmp_path / "nats") as server:
        replicas = Replicas(tmp_path, server.url, 3, store, **SETTINGS)
        async with replicas.running() as services, connected(server.url) as client:
            redelivered = 0
            async with Load(client, services[0].subject, lines) as load:
                for turn in range(ROUNDS):
                    killed, frozen, _ = dice.sample(services, 3)
                    await at_work(services, f"seed {seed}, round {turn}")
                    await busy(killed)
                    await killed.kill()
                    await busy(frozen)
                    again = await rest(frozen, client)
                    assert again > 0, "nobody held anything"
                    redelivered += again
                    await killed.start()
            for service in services:
                await drained(client, service)
            for service in services:
                assert service.get("/health/readiness").status_code == 200
                service.figures().require_law()
                assert service.figures().of("events_dropped_total") == 0
            twice = await replicas.require(rows_of(load.published))
            assert [await service.stop() < 5.0 for service in services] == [True] * 3
    told(times=2 * ROUNDS, published=len(load.published), redelivered=redelivered, held_by_more_than_one=twice)


class Load:
    """Publishes as long as its block lasts: a recording at a pace that mostly outlasts it, then trades without end."""

    def __init__(self, client: Client, subject: str, lines: Sequence[Line]) -> None:
        self.published: list[Line] = []
        self._client = client
        self._subject = subject
        self._recorded = len(lines)
        self._more = chain(lines, (trade("ETHUSDT", number) for number in count()))
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Load":
        self._task = asyncio.create_task(self._publish())
        return self

    async def __aexit__(self, *_: object) -> None:
        """The rest of the recording comes at full speed."""
        assert self._task is not None
        self._over.set()
        await self._task

    async def _publish(self) -> None:
        pause_s = STEP / self._recorded * ROUND_S * (ROUNDS + 1)
        while len(self.published) < self._recorded or not self._over.is_set():
            some = list(islice(self._more, STEP))
            await publish(self._client, self._subject, payloads(some))
            self.published += some
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if self._over.is_set() else pause_s):
                    await self._over.wait()


async def at_work(services: Sequence[Service], what: str) -> None:
    """Return when each of them has stored something more."""
    before = [service.figures().of("rows_new_total") for service in services]

    def all_did() -> bool:
        now = [service.figures().of("rows_new_total") for service in services]
        return all(later > earlier + 20 for earlier, later in zip(before, now, strict=True))

    await eventually(all_did, within_s=30, what=f"each of them at work: {what}")


async def busy(service: Service) -> None:
    """Return when it has taken what it has not stored yet. They take turns: at a given moment one may be idle."""
    await eventually(lambda: service.figures().of("events_in_flight") > 0, what="something in flight")


async def rest(service: Service, client: Client) -> int:
    """Stop the process in mid-work for longer than its acks may take, then let it go on; it takes no harm.

    Returns how many messages that were on their way to somebody were given out again meanwhile.
    """
    js, names = client.jetstream(timeout=5), (service.environ["NATS_STREAM"], "petrosa-data-manager")
    pid, until = service.pid, time.monotonic() + 2 * ACK_WAIT_S
    again = 0

    async def long_enough() -> bool:
        nonlocal again
        again = max(again, (await js.consumer_info(*names)).num_redelivered or 0)
        return time.monotonic() > until

    freeze(pid)
    try:
        await eventually(long_enough, within_s=30)
    finally:
        thaw(pid)
    await eventually(lambda: service.get("/health/readiness").status_code == 200, what="ready again")
    assert service.pid == pid
    return again
