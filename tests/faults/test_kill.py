"""kill -9 of the service, and of the bus's server, while events pour in: nothing is lost, nothing is there twice."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.servers import free_port, own_server
from tests.service import Service, connected, drained, publish, running
from tests.truth import Line, lines_of, paths_of, rows_of

KILLS = 5
QUICKLY: dict[str, Any] = {"nats_ack_wait_s": 2, "message_queue_size": 4_000, "max_batch_size": 500}
"""What was in flight comes again after 2 s instead of 30, and there are many flushes to be killed in."""


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """2021-07-22, 2023-04-04 and 2023-04-05_part1: 44,893 messages."""
    names = ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1")
    return list(lines_of(*paths_of(recordings, "um", names)))


async def test_the_service_killed_again_and_again(tmp_path: Path, lines: list[Line]) -> None:
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
            service.figures().require_law()
            await service.require(rows_of(lines))
            assert await service.stop() < 5.0


async def test_the_buss_server_killed_again_and_again(tmp_path: Path, lines: list[Line]) -> None:
    dice = random.Random(seed := 10)
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path / "service", nats_url=server.url, **QUICKLY)
        publisher = Publisher(server, service, [line.message for line in lines])
        async with running(service):
            for _ in range(KILLS):
                enough = service.figures().of("rows_new_total") + dice.randrange(200, 5_000)
                async with publisher:
                    await eventually(
                        lambda enough=enough: service.figures().of("rows_new_total") >= enough,
                        what=f"seed {seed}",
                    )
                    await server.kill()
                await server.start()
            await publisher.finish()
            figures = service.figures()
            figures.require_law()
            assert figures.of("rows_new_total") == sum(map(len, rows_of(lines).values()))
            await eventually(lambda: service.figures().of("nats_reconnections_total") == KILLS, what="the metric")
            await service.require(rows_of(lines))
            assert await service.stop() < 5.0


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


async def test_everything_on_one_machine_killed_and_started_again_at_once(tmp_path: Path, lines: list[Line]) -> None:
    """`run` with its own nats-server: the kernel ends the server with it, and the next start finds its streams."""
    port = free_port()
    service = Service(tmp_path, command="run", nats_own_port=port, **QUICKLY)
    url = f"nats://127.0.0.1:{port}"
    async with running(service):
        async with connected(url) as client:
            await publish(client, service.subject, [line.message for line in lines[:20_000]])
        await service.kill()
        await service.start()
        async with connected(url) as client:
            await publish(client, service.subject, [line.message for line in lines[20_000:]])
            await drained(client, service)
        await service.require(rows_of(lines))
        assert await service.stop() < 5.0
