"""Everything comes again, twice, in any order or an hour late, while the store folds: what is held does not show it."""

import random
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerInfo

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.streams import later, payloads, recorded, without_candles
from tests.servers import own_server
from tests.service import Figures, Service, connected, drained, publish, running
from tests.truth import Line, paths_of, rows_of

NAMES = ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1")
FOLDING_OFTEN = [sys.executable, "-m", "tests.faults.folding_often"]


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """44,893 messages within minutes of event time; 14,918 of them when shortened."""
    return recorded(*paths_of(recordings, "um", NAMES if FULL else NAMES[:2]))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


@pytest.fixture
async def service(server: NatsServer, tmp_path: Path) -> AsyncIterator[Service]:
    """Running, with a store that folds every thousand rows."""
    async with running(Service(tmp_path / "service", nats_url=server.url, program=FOLDING_OFTEN)) as one:
        yield one


async def test_everything_redelivered(server: NatsServer, service: Service, lines: list[Line], told: Told) -> None:
    """The consumer is deleted: the one that takes its place begins at the start of the stream."""
    async with connected(server.url) as client:
        await publish(client, service.subject, payloads(lines))
        await drained(client, service)
        first = service.figures()
        require_new(first, lines)
        await eventually(lambda: chunks(service) > 5, what="folds")
        await forget_consumer(client, service)
        await drained(client, service)
        await eventually(lambda: taken(service) == 2 * len(lines), what="everything once more")
    again = service.figures()
    for name in ("rows_new_total", "rows_changed_total"):
        assert again.of(name) == first.of(name), name
    assert again.of("rows_duplicate_total") - first.of("rows_duplicate_total") == len(lines)
    await require_all(service, lines)
    told(times=1, redelivered=len(lines), chunks=chunks(service))


async def test_redelivered_while_new_ones_come(
    server: NatsServer, service: Service, lines: list[Line], told: Told
) -> None:
    """The consumer is deleted in the middle of it, twice."""
    thirds = [lines[at::3] for at in range(3)]
    async with connected(server.url) as client:
        for third in thirds:
            await publish(client, service.subject, payloads(third))
            await eventually(lambda: service.figures().of("rows_new_total") > 500, what="some rows")
            await forget_consumer(client, service)
        await drained(client, service)
    figures, received = service.figures(), taken(service)
    assert received > len(lines)
    assert figures.of("rows_new_total") == sum(map(len, rows_of(lines).values()))
    await require_all(service, lines)
    told(times=3, redelivered=received - len(lines), chunks=chunks(service))


async def test_every_message_twice(server: NatsServer, service: Service, lines: list[Line], told: Told) -> None:
    """Half of them at once, in one flush; the other half some hundred messages later."""
    doubled = [one for line in lines[: len(lines) // 2] for one in (line, line)]
    rest = lines[len(lines) // 2 :]
    for at in range(0, len(rest), 700):
        doubled += rest[at : at + 700] * 2
    async with connected(server.url) as client:
        await publish(client, service.subject, payloads(doubled))
        await drained(client, service)
    figures = service.figures()
    require_new(figures, lines)
    for label in counts_of(lines):
        assert figures.of("rows_duplicate_total", event_type=label) == counts_of(lines)[label], label
    await require_all(service, lines)
    told(times=len(lines), chunks=chunks(service))


@pytest.mark.parametrize("seed", range(4 if FULL else 1))
async def test_shuffled_within_ten_minutes(
    server: NatsServer, service: Service, lines: list[Line], seed: int, told: Told
) -> None:
    """No two messages of one market are further apart than ten minutes: any order of them is such a shuffle."""
    shuffled = lines.copy()
    random.Random(seed).shuffle(shuffled)
    async with connected(server.url) as client:
        await publish(client, service.subject, payloads(shuffled))
        await drained(client, service)
    figures = service.figures()
    require_new(figures, lines)
    assert figures.of("rows_duplicate_total") == figures.of("rows_duplicate_total", event_type="kline")
    await require_all(service, lines)
    told(times=1, seed=seed, chunks=chunks(service))


async def test_one_part_an_hour_late(server: NatsServer, service: Service, lines: list[Line], told: Told) -> None:
    """The middle of an hour comes when the whole next hour is stored and both are folded; then it comes again."""
    hour = without_candles(lines)[: None if FULL else 6_000]
    third = len(hour) // 3
    late = hour[third : 2 * third]
    in_time = hour[:third] + hour[2 * third :] + later(hour, 1)
    async with connected(server.url) as client:
        await publish(client, service.subject, payloads(in_time))
        await drained(client, service)
        before = service.figures()
        assert before.of("rows_new_total") == len(in_time)
        await eventually(lambda: chunks(service) > 3, what="folds")
        await publish(client, service.subject, payloads([*late, *late]))
        await drained(client, service)
    figures = service.figures()
    assert figures.of("rows_new_total") - before.of("rows_new_total") == len(late)
    assert figures.of("rows_duplicate_total") == len(late)
    assert figures.of("rows_changed_total") == 0
    await require_all(service, [*in_time, *late])
    told(times=1, late=len(late), chunks=chunks(service))


# ---- what each of them asks ------------------------------------------------------------------------------------------


def require_new(figures: Figures, lines: list[Line]) -> None:
    """Every row was new exactly once, and nothing but an open candle changed."""
    for label, count in counts_of(lines).items():
        assert figures.of("rows_new_total", event_type=label) == count, label
    closed = sum(len(rows) for series, rows in rows_of(lines).items() if ".candle." in series)
    assert figures.of("rows_new_total", event_type="kline") == closed
    assert figures.of("rows_changed_total") == figures.of("rows_changed_total", event_type="kline")


async def require_all(service: Service, lines: list[Line]) -> None:
    """The law, the content, nothing refused, nothing dropped; and the same after a restart."""
    figures = service.figures()
    figures.require_law()
    assert figures.of("messages_failed_total") == figures.of("events_dropped_total") == 0
    await service.require(rows_of(lines))
    assert await service.stop() < 5.0
    await service.start()
    await service.require(rows_of(lines))


def counts_of(lines: list[Line]) -> dict[str, int]:
    """Messages by event type, of those of which each is a row."""
    counts: dict[str, int] = {}
    for line in without_candles(lines):
        label = LABELS[line.data["e"]]
        counts[label] = counts.get(label, 0) + 1
    return counts


LABELS = {
    "trade": "trade", "aggTrade": "aggTrade", "depthUpdate": "depth", "bookTicker": "bookTicker",
    "markPriceUpdate": "markPrice",
}  # fmt: skip


def taken(service: Service) -> int:
    """Messages taken from the bus since the start."""
    return service.figures().of("messages_received_total", event_type="raw")


def chunks(service: Service) -> int:
    """How many chunks there are: none before the first fold."""
    file = service.data_dir / "series.db"
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM chunk").fetchone()[0])
    finally:
        connection.close()


async def forget_consumer(client: Client, service: Service) -> None:
    """Delete it; return when another one has taken its place and has delivered something."""
    js, stream = client.jetstream(timeout=5), service.environ["NATS_STREAM"]
    [consumer] = await js.consumers_info(stream)
    assert await js.delete_consumer(stream, consumer.name)

    async def is_another() -> bool:
        found: list[ConsumerInfo] = await js.consumers_info(stream)
        return any(one.created != consumer.created and one.delivered.consumer_seq > 0 for one in found if one.delivered)

    await eventually(is_another, within_s=20, what="another consumer")
