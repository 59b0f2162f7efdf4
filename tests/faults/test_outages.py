"""The bus's server is gone while the publisher goes on; the store may only be read, or takes seconds for a commit.

Nothing is lost, it is said meanwhile what is wrong, and when all is well again nobody has to do anything.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.domain.finding import FindingKind
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.health import findings, is_ready, not_ready, recovered, require_alive, require_all, sick
from tests.faults.outbox import publishing
from tests.servers import own_server
from tests.service import Service, connected, feed, publish, running
from tests.truth import Line, lines_of, paths_of, rows_of

BUS_AWAY_S = 70.0 if FULL else 4.0  # longer than the silence that would be a finding for each series
ILL_S = 20.0 if FULL else 1.0
IN_HAND_MAX = 4_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """9,956 messages of ten symbols; the full suite takes 178,563."""
    few = ["2021-04-05_sand-chr-neo-ctk-bat", "2021-07-22_sushi-akro-keep-ctk"]
    many = [*few, "2024-08-08_btcusdt", "2024-08-08_ethusdt"]
    return list(lines_of(*paths_of(recordings, "um", many if FULL else few)))


# ---- the bus -----------------------------------------------------------------------------------------------------------


async def test_the_buss_server_is_away_while_the_publisher_goes_on(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    payloads = [line.enveloped for line in lines]
    service = Service(tmp_path, nats_url=server.url, nats_reconnect_time_wait=2, nats_ack_wait_s=30 if FULL else 2)
    async with running(service):
        async with publishing(server.url, service, payloads, len(payloads) / (BUS_AWAY_S * 1.3)) as outbox:
            await eventually(lambda: service.figures().of("rows_new_total") >= 500, what="rows before the outage")
            await server.kill()
            gone_s = time.monotonic()
            await eventually(lambda: not_ready(service, "nats"), within_s=5, what="not ready")
            told(times=1, seconds_to_notice=time.monotonic() - gone_s)
            await eventually(lambda: service.figures().of("findings_open") == 1, what="the finding")
            await eventually(lambda: time.monotonic() - gone_s >= BUS_AWAY_S, within_s=BUS_AWAY_S + 1)
            require_alive(service, rows_of(lines[:100]))
            assert service.figures().of("nats_connection_status") == 0
            assert {one["state"] for one in service.page("/health/ingest")["series"]} == {"live"}
            assert service.figures().of("findings_open") == 1, "the bus is away, and no series is silent for it"
            told(published=len(payloads), published_afterwards=outbox.waiting, seconds_away=BUS_AWAY_S)
            assert outbox.waiting > len(payloads) / 4, "the publisher went on"
            await server.start()
            back_s = time.monotonic()
            await eventually(lambda: is_ready(service), within_s=10, what="ready again")
            recovered_s = time.monotonic() - back_s
        async with connected(server.url) as client:
            await recovered(service, client, told)
        told(seconds_to_recover=recovered_s)
        await eventually(lambda: service.figures().of("findings_open") == 0, what="the end of the finding")
        told(redelivered=service.figures().of("messages_received_total", event_type="raw") - len(payloads))
        await require_all(service, lines)
        [away] = await findings(service, resolved=1)
        assert (away.kind, away.series, away.stream, away.open) == (FindingKind.SILENCE, None, None, False)
        assert away.end_ms is not None
        assert away.end_ms - away.start_ms == pytest.approx(BUS_AWAY_S * 1_000, abs=7_000)
        assert await service.stop() < 5.0


# ---- the time series ---------------------------------------------------------------------------------------------------


async def test_a_store_that_may_only_be_read_holds_everything_back_and_still_answers(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    illness = tmp_path / "illness"
    first, second = lines[:500], lines[500:]
    async with (
        running(sick(tmp_path, server, message_queue_size=IN_HAND_MAX)) as service,
        connected(server.url) as client,
    ):
        await feed(server.url, service, [line.enveloped for line in first])
        stored = service.figures().of("rows_new_total")
        assert stored == sum(map(len, rows_of(first).values()))
        illness.write_text("series read-only")
        since_s = time.monotonic()
        await publish(client, service.subject, [line.enveloped for line in second])
        await eventually(lambda: not_ready(service, "DATA_DIR writable"), what="not ready")
        await eventually(lambda: time.monotonic() - since_s >= ILL_S, within_s=ILL_S + 1)
        require_alive(service, rows_of(first))
        figures = service.figures()
        figures.require_law()
        assert figures.of("rows_new_total") == stored
        assert figures.of("messages_received_total", event_type="raw") <= len(first) + IN_HAND_MAX
        assert service.page("/health/ingest")["oldest_unflushed_ms"] > 500
        illness.unlink()
        await recovered(service, client, told)
        told(times=1, published=len(lines), seconds_away=ILL_S)
        await require_all(service, lines)
        assert await findings(service) == []
        assert await service.stop() < 5.0


async def test_a_store_that_takes_seconds_for_a_commit_falls_behind_and_catches_up(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    """What is in hand longer than NATS_ACK_WAIT_S is not delivered again meanwhile."""
    illness = tmp_path / "illness"
    async with (
        running(sick(tmp_path, server, message_queue_size=IN_HAND_MAX, nats_ack_wait_s=1)) as service,
        connected(server.url) as client,
    ):
        await feed(server.url, service, [line.enveloped for line in lines[:500]])
        illness.write_text("series slow 2")
        since_s = time.monotonic()
        await publish(client, service.subject, [line.enveloped for line in lines[500:]])
        await eventually(lambda: service.page("/health/ingest")["oldest_unflushed_ms"] > 1_500, what="what shows it")
        await eventually(lambda: time.monotonic() - since_s >= ILL_S, within_s=ILL_S + 1)
        asked_s = time.monotonic()
        require_alive(service, rows_of(lines[:500]))
        told(seconds_to_answer=time.monotonic() - asked_s)
        figures = service.figures()
        figures.require_law()
        assert figures.of("events_in_flight") > 0
        illness.unlink()
        await recovered(service, client, told)
        redelivered = service.figures().of("messages_received_total", event_type="raw") - len(lines)
        told(times=1, published=len(lines), seconds_slow=ILL_S, redelivered=redelivered)
        assert redelivered == 0
        await require_all(service, lines)
        assert await findings(service) == []
        assert await service.stop() < 5.0
