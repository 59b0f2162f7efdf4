"""Publishers that repeat themselves, come in pairs or flood: everything once, and no more memory than there may be."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js import api

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.domain.finding import FindingKind
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.losses import losses_of, missing
from tests.faults.process import MIB, peak_bytes
from tests.faults.replicas import held_by
from tests.faults.streams import many_symbols, payloads, recorded, trade, without_candles
from tests.servers import own_server
from tests.service import Figures, Service, asked, connected, dead_letters, drained, publish, running
from tests.truth import USDM, Line, paths_of, rows_of

NAMES = USDM[:4] if FULL else ("2021-07-22_sushi-akro-keep-ctk", "2023-04-04_btcusdt")
SLOW = [sys.executable, "-m", "tests.faults.slow_store", "0.3"]
MEMORY_MAX = 400 * MIB
REPEATED = 500
FLUSH = 1_000  # deliveries are decoded by so many, and a small MAX_BATCH_SIZE is looked at after each


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """53,245 messages of which each is one row; 14,851 when shortened."""
    return without_candles(recorded(*paths_of(recordings, "um", NAMES)))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


# ---- publishers that say things again --------------------------------------------------------------------------------


async def test_a_publisher_that_restarts_in_mid_stream(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """Three times it comes back on a new connection and repeats its last five hundred messages."""
    quarter = len(lines) // 4
    async with running(Service(tmp_path / "service", nats_url=server.url)) as service:
        for at in range(0, len(lines), quarter):
            async with connected(server.url) as client:
                await publish(client, service.subject, payloads(lines[max(at - REPEATED, 0) : at + quarter]))
        restarts = len(range(0, len(lines), quarter)) - 1
        async with connected(server.url) as client:
            await drained(client, service)
        figures = await require_once(service, lines)
        assert figures.of("rows_duplicate_total") == restarts * REPEATED
    told(times=restarts)


async def test_two_publishers_at_once(server: NatsServer, tmp_path: Path, lines: list[Line], told: Told) -> None:
    """The same recording from two connections, one a little ahead of the other."""

    async def instance(service: Service) -> None:
        async with connected(server.url) as client:
            for at in range(0, len(lines), 300):
                await publish(client, service.subject, payloads(lines[at : at + 300]))

    async with running(Service(tmp_path / "service", nats_url=server.url)) as service:
        await asyncio.gather(instance(service), instance(service))
        async with connected(server.url) as client:
            await drained(client, service)
        figures = await require_once(service, lines)
        assert figures.of("rows_duplicate_total") == len(lines)
    told(times=1)


# ---- floods ----------------------------------------------------------------------------------------------------------


async def test_ten_times_as_much_as_is_taken(server: NatsServer, tmp_path: Path, lines: list[Line], told: Told) -> None:
    """The store is slow: the flood waits in the stream, and in the service no more than may."""
    queue, lines = 2_000, lines if FULL else lines[:6_000]
    service = Service(
        tmp_path / "service", nats_url=server.url, program=SLOW, message_queue_size=queue, max_batch_size=300
    )
    async with running(service), connected(server.url) as client:
        started = time.monotonic()
        await publish(client, service.subject, payloads(lines))
        seconds = time.monotonic() - started
        stored = service.figures().of("rows_new_total")
        owed = 0

        async def all_acknowledged() -> bool:
            nonlocal owed
            consumer = await consumer_of(client, service)
            owed = max(owed, consumer.num_ack_pending or 0)
            assert owed <= queue + FLUSH, "what we hold, and the acks of a flush that the server has not got to yet"
            return consumer.num_ack_pending == consumer.num_pending == 0

        await eventually(all_acknowledged, within_s=120, what="all of it acknowledged")
        took = time.monotonic() - started
        peak = peak_bytes(service)
        assert peak <= MEMORY_MAX
        await require_once(service, lines)
        rates = len(lines) / seconds, len(lines) / took
        assert stored < len(lines) / 10, "no flood"
    told(published_per_s=round(rates[0]), stored_per_s=round(rates[1]), owed=owed, peak_mib=peak // MIB)


async def test_more_than_the_stream_holds(server: NatsServer, tmp_path: Path, lines: list[Line], told: Told) -> None:
    """The stream lets its oldest messages go unread, and the service says how many."""
    lines = lines if FULL else lines[:8_000]
    settings = {"nats_stream_max_bytes": MIB, "message_queue_size": 500, "max_batch_size": 300}
    service = Service(tmp_path / "service", nats_url=server.url, program=SLOW, **settings)
    async with running(service), connected(server.url) as client:
        js = client.jetstream(timeout=5)
        for at in range(0, len(lines), 1_000):
            await publish(client, service.subject, payloads(lines[at : at + 1_000]))
            assert (await js.stream_info(service.environ["NATS_STREAM"])).state.bytes <= MIB
        await drained(client, service)
        figures = service.figures()
        figures.require_law()
        assert service.get("/health/readiness").status_code == 200
        lost = sum(map(len, missing(rows_of(lines), await held_by(service)).values()))
        assert lost > 0
        assert await service.stop() < 5.0
        findings = await losses_of(service, FindingKind.DISCARDED)
        assert sum(int(one.evidence["events"] or 0) for one in findings) == lost
        assert figures.of("events_dropped_total") == lost
    told(published=len(lines), findings=len(findings))


async def test_huge_messages(server: NatsServer, tmp_path: Path, lines: list[Line], told: Told) -> None:
    """As large as the server takes: some are nonsense, some are thousands of good rows."""
    some, rows_each, count = lines[:2_000], 4_000, 40 if FULL else 10
    async with running(Service(tmp_path / "service", nats_url=server.url)) as service, connected(server.url) as client:
        nonsense = b'{"e":"trade","x":"' + b"x" * (client.max_payload - 20) + b'"}'
        good = [array_of(n * rows_each, rows_each) for n in range(count)]
        sent = [payload for n in range(count) for payload in (nonsense, good[n], payloads(some)[n])]
        assert max(map(len, sent)) == client.max_payload
        await publish(client, service.subject, [*sent, *payloads(some)])
        await drained(client, service)
        peak = peak_bytes(service)
        assert peak <= MEMORY_MAX
        figures = service.figures()
        figures.require_law()
        assert figures.of("rows_new_total") == len(some) + count * rows_each
        assert figures.of("messages_failed_total") == count
        [letter] = dead_letters(service)
        assert (letter["count"], letter["payload_bytes"], letter["whole"]) == (count, client.max_payload, False)
        expected = rows_of([*some, *(trade("HUGEUSDT", number) for number in range(count * rows_each))])
        await service.require(expected)
    told(messages=len(sent), bytes_each=client.max_payload, rows=count * rows_each, peak_mib=peak // MIB)


# ---- symbols ---------------------------------------------------------------------------------------------------------


async def test_five_hundred_symbols(server: NatsServer, tmp_path: Path, told: Told) -> None:
    """Trades and candles of each, interleaved."""
    lines = list(many_symbols(500, trades=100 if FULL else 30, candles=4))
    async with running(Service(tmp_path / "service", nats_url=server.url)) as service, connected(server.url) as client:
        started = time.monotonic()
        await publish(client, service.subject, payloads(lines))
        await drained(client, service)
        rate = len(lines) / (time.monotonic() - started)
        peak = peak_bytes(service)
        assert peak <= MEMORY_MAX
        service.figures().require_law()
        assert service.figures().of("rows_new_total") == len(lines)
        await service.require(rows_of(lines))
    told(series=1_000, rows=len(lines), per_s=round(rate), peak_mib=peak // MIB)


async def test_symbols_nobody_ever_heard_of(server: NatsServer, tmp_path: Path, lines: list[Line], told: Told) -> None:
    """Each message names another one: memory stays bounded, and so does what is watched."""
    count = 100_000 if FULL else 25_000
    strangers = [trade(f"X{number:07}USDT", number) for number in range(count)]
    async with running(Service(tmp_path / "service", nats_url=server.url)) as service, connected(server.url) as client:
        await publish(client, service.subject, payloads(lines[:1_000]))
        await drained(client, service)
        before = peak_bytes(service)
        started = time.monotonic()
        await publish(client, service.subject, payloads(strangers))
        await drained(client, service)
        rate = count / (time.monotonic() - started)
        peak = peak_bytes(service)
        assert peak <= MEMORY_MAX
        figures = service.figures()
        figures.require_law()
        assert len(service.page("/health/ingest")["series"]) <= 20_000
        await publish(client, service.subject, payloads(lines[1_000:2_000]))
        await drained(client, service)
        expected = rows_of(lines[:2_000])
        for series, rows in expected.items():
            assert lines_of(service, series) == rows, series
        for number in (0, count // 2, count - 1):
            stranger = strangers[number]
            assert lines_of(service, f"um.trade.{stranger.data['s']}") == rows_of([stranger]).popitem()[1]
    told(symbols=count, per_s=round(rate), peak_mib=peak // MIB, bytes_per_symbol=(peak - before) // count)


# ---- what each of them does ------------------------------------------------------------------------------------------


async def require_once(service: Service, lines: Sequence[Line]) -> Figures:
    """Each row was new once; the law; the content."""
    figures = service.figures()
    figures.require_law()
    assert figures.of("rows_new_total") == len(lines)
    assert figures.of("messages_failed_total") == figures.of("events_dropped_total") == 0
    await service.require(rows_of(lines))
    return figures


async def consumer_of(client: Client, service: Service) -> api.ConsumerInfo:
    """How the durable consumer stands."""
    info: api.ConsumerInfo = await client.jetstream(timeout=5).consumer_info(
        service.environ["NATS_STREAM"], "petrosa-data-manager"
    )
    return info


def array_of(start: int, rows: int) -> bytes:
    """One message that holds so many trades."""
    return json.dumps([trade("HUGEUSDT", number).data for number in range(start, start + rows)]).encode()


def lines_of(service: Service, series: str) -> list[str]:
    """All rows of a series, as it answers."""
    path, query = asked(series)
    return service.lines(path, **query)
