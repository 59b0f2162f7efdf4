"""kill -9 of the service, and of the bus's server, while events pour in: nothing is lost, nothing is there twice."""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.servers import free_port, own_server
from tests.service import Service, connected, drained, publish, running
from tests.truth import Line, lines_of, paths_of, rows_of

KILLS = 10 if FULL else 3
ROUNDS = 5 if FULL else 1  # of both killed at once, in either order
QUICKLY: dict[str, Any] = {"nats_ack_wait_s": 2, "message_queue_size": 4_000, "max_batch_size": 500}
"""What was in flight comes again after 2 s instead of 30, and there are many flushes to be killed in."""


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """44,893 messages, and 74,654 more in the full run."""
    names = ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1", "2024-08-08_ethusdt")
    return list(lines_of(*paths_of(recordings, "um", names if FULL else names[:-1])))


async def test_the_service_killed_again_and_again(tmp_path: Path, lines: list[Line], told: Told) -> None:
    dice = random.Random(seed := 9)
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url, **QUICKLY)
        async with running(service), connected(server.url) as client:
            publishing = asyncio.create_task(publish(client, service.subject, [line.message for line in lines]))
            for _ in range(KILLS):
                enough = dice.randrange(200, 5_000)
                await eventually(
                    lambda enough=enough: service.figures().of("rows_new_total") >= enough,
                    what=f"seed {seed}",
                )
                await service.kill()
                await service.start(ready=False)
            await publishing
            await drained(client, service)
            figures = service.figures()
            told(times=KILLS, published=len(lines))
            figures.require_law()
            await service.require(rows_of(lines))
            assert await service.stop() < 5.0


async def test_the_buss_server_killed_again_and_again(tmp_path: Path, lines: list[Line], told: Told) -> None:
    dice = random.Random(seed := 10)
    recoveries = []
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url, **QUICKLY)
        publisher = Publisher(server, service, [line.message for line in lines])
        async with running(service):
            for kills in range(1, KILLS + 1):
                enough = service.figures().of("rows_new_total") + dice.randrange(200, 5_000)
                async with publisher:
                    await eventually(
                        lambda enough=enough: service.figures().of("rows_new_total") >= enough,
                        what=f"seed {seed}",
                    )
                    await server.kill()
                await server.start()
                recoveries.append(await seconds_until_ready(service, reconnections=kills))
            await publisher.finish()
            figures = service.figures()
            told(times=KILLS, published=len(lines), seconds_to_recover=max(recoveries))
            figures.require_law()
            assert figures.of("rows_new_total") == sum(map(len, rows_of(lines).values()))
            assert figures.of("nats_reconnections_total") == KILLS
            await service.require(rows_of(lines))
            assert await service.stop() < 5.0


@pytest.mark.parametrize("first", ["service", "server"])
async def test_both_killed_at_once_and_started_in_either_order(
    tmp_path: Path, lines: list[Line], told: Told, first: str
) -> None:
    """The publisher goes on as soon as there is a server. A service that starts first waits, and says for what."""
    dice = random.Random(seed := 11)
    lines = lines[: 8_000 * ROUNDS]
    recoveries = []
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url, **QUICKLY)
        publisher = Publisher(server, service, [line.message for line in lines])
        async with running(service):
            for _ in range(ROUNDS):
                enough = service.figures().of("rows_new_total") + dice.randrange(200, 3_000)
                async with publisher:
                    await eventually(
                        lambda enough=enough: service.figures().of("rows_new_total") >= enough,
                        what=f"seed {seed}",
                    )
                    await asyncio.gather(service.kill(), server.kill())
                if first == "service":
                    await service.start(ready=False)
                    require_waits_for_the_bus(service)
                    await server.start()
                else:
                    await server.start()
                    await service.start(ready=False)
                recoveries.append(await seconds_until_ready(service))
            await publisher.finish()
            figures = service.figures()
            told(times=ROUNDS, published=len(lines), seconds_to_recover=max(recoveries))
            figures.require_law()
            await service.require(rows_of(lines))
            assert await service.stop() < 5.0


async def seconds_until_ready(service: Service, *, reconnections: int = 0) -> float:
    """From now; without a human. One that is busy may call itself ready still, not having noticed yet."""
    started = time.monotonic()

    def is_back() -> bool:
        return (
            service.figures().of("nats_reconnections_total") >= reconnections
            and service.get("/health/readiness").status_code == 200
        )

    await eventually(is_back, what="ready by itself")
    return time.monotonic() - started


def require_waits_for_the_bus(service: Service) -> None:
    """It lives, is not ready, and says why."""
    assert service.get("/health/liveness").status_code == 200
    answer = service.get("/health/readiness")
    assert answer.status_code == 503
    [reason] = answer.json()["reasons"]
    assert reason.startswith("nats: ")


class Publisher:
    """Publishes within its block, at full speed, and remembers how far the server said it had got."""

    def __init__(self, server: NatsServer, service: Service, payloads: Sequence[bytes]) -> None:
        self._server = server
        self._service = service
        self._payloads = payloads
        self._at = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._publish())

    async def __aexit__(self, *_: object) -> None:
        """nats-py swallows a cancellation now and then, and waits for an answer that cannot come: insist."""
        task = self._task
        assert task is not None
        await eventually(lambda: not task.cancel(), what="the end of the publishing")
        if not task.cancelled():
            task.exception()

    async def finish(self) -> None:
        """The rest; returns when the service has acknowledged everything."""
        await self._publish()
        async with connected(self._server.url) as client:
            await drained(client, self._service)

    async def _publish(self) -> None:
        """Everything from where the server's word was last heard; once more from there when it does not answer.

        A server that has just come up takes connections before it takes messages for a stream.
        """
        while self._at < len(self._payloads):
            try:
                async with connected(self._server.url) as client:
                    while self._at < len(self._payloads):
                        await publish(client, self._service.subject, self._payloads[self._at : self._at + 500])
                        self._at += 500
            except (NatsError, OSError):
                await asyncio.sleep(0.05)


async def test_everything_on_one_machine_killed_and_started_again_at_once(
    tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """`run` with its own nats-server: the kernel ends the server with it, and the next start finds its streams."""
    port = free_port()
    service = Service(tmp_path, command="run", nats_own_port=port, **QUICKLY)
    url = f"nats://127.0.0.1:{port}"
    async with running(service):
        async with connected(url) as client:
            await publish(client, service.subject, [line.message for line in lines[:20_000]])
        await service.kill()
        started = time.monotonic()
        await service.start()
        told(times=1, published=len(lines), seconds_to_recover=time.monotonic() - started)
        async with connected(url) as client:
            await publish(client, service.subject, [line.message for line in lines[20_000:]])
            await drained(client, service)
        await service.require(rows_of(lines))
        assert await service.stop() < 5.0
