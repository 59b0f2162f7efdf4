"""Stopping is an ordinary path: what was taken is stored and acknowledged, quickly, whatever else is the matter."""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from nats.aio.client import Client

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.servers import freeze, own_server, thaw
from tests.service import Service, connected, drained, publish, running
from tests.truth import USDM, Line, lines_of, paths_of, rows_of

STOPS = 20 if FULL else 3
BURST = 9_000  # messages published while it is stopped
STOP_S = 5.0
ACK_WAIT_S = 30  # what the server thinks is with us would come again so late
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """29,975 messages; in the full run all 221,921."""
    return list(lines_of(*paths_of(recordings, "um", USDM if FULL else USDM[3:4])))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


async def stopped(service: Service, how: signal.Signals = signal.SIGTERM) -> float:
    """Seconds until it has ended, with exit code 0, by one signal."""
    started = time.monotonic()
    os.kill(service.pid, how)
    assert await service.exit_code() == 0, service.said()
    return time.monotonic() - started


async def nothing_owed(client: Client, service: Service, what: str) -> None:
    """Return when the server has read all acks; fail when it thinks that something is still with the service."""

    async def is_so() -> bool:
        info = await client.jetstream().consumer_info(service.environ["NATS_STREAM"], "petrosa-data-manager")
        return info.num_ack_pending == 0

    await eventually(is_so, within_s=ACK_WAIT_S / 10, what=f"all is acknowledged: {what}\n{service.said()}")


def has_stored(service: Service, rows: int) -> bool:
    return service.figures().of("rows_new_total") >= rows


async def test_stopped_under_load_again_and_again(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """At full speed: the publisher waits for nobody, and is in the midst of it when the signal comes."""
    dice = random.Random(seed := 12)
    service = Service(tmp_path, nats_url=server.url, nats_ack_wait_s=ACK_WAIT_S)
    seconds: list[float] = []
    async with running(service), connected(server.url) as client:
        for number in range(STOPS):
            burst = Burst(client, service, [line.message for line in lines[number * BURST : number * BURST + BURST]])
            enough = dice.randrange(1_000, 6_000)
            await eventually(lambda enough=enough, burst=burst: burst.sent >= enough)
            assert not burst.task.done()
            seconds.append(await stopped(service, SIGNALS[number % 3 // 2]))
            await burst.task
            await nothing_owed(client, service, f"seed {seed}, stop {number}")
            await service.start()
            assert service.figures().of("rows_duplicate_total") == 0
        told(times=STOPS, seconds_to_stop=sum(seconds) / STOPS, slowest=max(seconds))
        assert max(seconds) < STOP_S
        await require_once(client, service, lines[: STOPS * BURST], told)


class Burst:
    """Messages being published, as fast as they go."""

    def __init__(self, client: Client, service: Service, payloads: Sequence[bytes]) -> None:
        self.sent = 0
        self.task = asyncio.create_task(self._publish(client, service, payloads))

    async def _publish(self, client: Client, service: Service, payloads: Sequence[bytes]) -> None:
        for start in range(0, len(payloads), 500):
            await publish(client, service.subject, payloads[start : start + 500])
            self.sent = start + 500


async def test_more_signals_during_the_drain_change_nothing(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """Each commit takes a twentieth of a second, so that the drain takes a while."""
    lines = lines[:4_000]
    program = stubborn(tmp_path, 0.05)
    service = Service(tmp_path, nats_url=server.url, program=program, max_batch_size=200, nats_ack_wait_s=ACK_WAIT_S)
    async with running(service), connected(server.url) as client:
        await publish(client, service.subject, [line.message for line in lines])
        await eventually(lambda: has_stored(service, 300))
        started = time.monotonic()
        os.kill(service.pid, signal.SIGTERM)
        await eventually(lambda: says(service, "stopping"))
        for how in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            assert service.running
            os.kill(service.pid, how)
        assert await service.exit_code() == 0, service.said()
        seconds = time.monotonic() - started
        told(times=1, seconds_to_stop=seconds)
        assert 0.2 < seconds < STOP_S
        await service.start()
        await require_once(client, service, lines, told)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_stopped_while_the_buss_server_is_away(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told, how: str
) -> None:
    """What it holds is stored all the same; the acks cannot be said, so it comes again."""
    lines = lines[:10_000]
    service = Service(tmp_path, nats_url=server.url, nats_ack_wait_s=2)
    async with running(service):
        async with connected(server.url) as client:
            await publish(client, service.subject, [line.message for line in lines])
            await eventually(lambda: has_stored(service, 1_000))
        await server.kill() if how == "killed" else freeze(server.pid)
        seconds = await stopped(service)
        told(times=1, seconds_to_stop=seconds)
        assert seconds < STOP_S
        await server.start() if how == "killed" else thaw(server.pid)
        await service.start()
        async with connected(server.url) as client:
            await require_once(client, service, lines, told, twice_is_fine=True)


async def test_stopped_while_the_store_takes_no_writes(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """It ends when DRAIN_TIMEOUT_S is over, says so, and gives everything back to the bus at once."""
    lines = lines[:10_000]
    refused = tmp_path / "refused"
    program = stubborn(tmp_path, 0.0)
    service = Service(tmp_path, nats_url=server.url, program=program, drain_timeout_s=1, nats_ack_wait_s=ACK_WAIT_S)
    async with running(service), connected(server.url) as client:
        await publish(client, service.subject, [line.message for line in lines[:2_000]])
        await drained(client, service)
        refused.touch()
        await publish(client, service.subject, [line.message for line in lines[2_000:]])
        await eventually(lambda: service.get("/health/readiness").status_code == 503, what="not ready")
        seconds = await stopped(service)
        told(times=1, seconds_to_stop=seconds)
        assert 1.0 <= seconds < STOP_S
        assert says(service, UNDRAINED)
        refused.unlink()
        await service.start()
        await require_once(client, service, lines, told)


UNDRAINED = "not drained in time"


def stubborn(folder: Path, seconds: float) -> list[str]:
    """A program whose commits take so long, and fail while the file `refused` is in the folder."""
    return [sys.executable, "-m", "tests.faults.stubborn", str(seconds), str(folder / "refused")]


def says(service: Service, words: str) -> bool:
    return words in (service.folder / "service.log").read_text()


async def require_once(
    client: Client, service: Service, lines: Sequence[Line], told: Told, *, twice_is_fine: bool = False
) -> None:
    """It takes the rest without waiting for the server's patience to end; what it had stored does not come again."""
    started = time.monotonic()
    await drained(client, service)
    seconds = time.monotonic() - started
    figures = service.figures()
    figures.require_law()
    told(published=len(lines), seconds_until_drained=seconds)
    assert seconds < ACK_WAIT_S / 2
    assert twice_is_fine or figures.of("rows_duplicate_total") == 0
    await service.require(rows_of(lines))
    await stopped(service)
