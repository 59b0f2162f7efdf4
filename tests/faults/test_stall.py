"""The event loop stands still for seconds under load, again and again: nothing is lost, and nobody is told otherwise."""

import os
import signal
import sys
import time
from pathlib import Path

from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.health import findings, is_ready, peak_mib, require_all
from tests.faults.ticks import ticking
from tests.servers import own_server
from tests.service import Service, connected, drained, running

STALL_S = 5.0 if FULL else 3.0
STALLS = 10 if FULL else 2
SYMBOLS = 100 if FULL else 50


async def test_the_event_loop_stands_still_under_load(tmp_path: Path, told: Told) -> None:
    program = [sys.executable, "-m", "tests.faults.stalled_loop", str(STALL_S)]
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path, nats_url=server.url, program=program)
        async with running(service), connected(server.url) as client:
            slowest_s = 0.0
            async with ticking(server.url, service, SYMBOLS) as ticks:
                for _ in range(STALLS):
                    before = service.figures().of("rows_new_total")
                    await eventually(lambda before=before: stored(service) > before + 500, what="rows")
                    os.kill(service.pid, signal.SIGUSR1)
                    stood_s = time.monotonic()
                    sent = len(ticks.sent)
                    await eventually(lambda at=stood_s: time.monotonic() - at > STALL_S, within_s=STALL_S + 1)
                    assert len(ticks.sent) > sent, "the publisher goes on"
                    sent = len(ticks.sent)
                    await eventually(lambda sent=sent: stored(service) >= sent, within_s=5, what="what came meanwhile")
                    slowest_s = max(slowest_s, time.monotonic() - stood_s - STALL_S)
                    assert is_ready(service)
                    assert service.figures().of("event_loop_lag_seconds") >= STALL_S - 1
                    assert service.page("/health/ingest")["lag_ms"] < 1_000
            await drained(client, service)
            figures = service.figures()
            redelivered = figures.of("messages_received_total", event_type="raw") - len(ticks.sent)
            told(times=STALLS, published=len(ticks.sent), seconds_each=STALL_S, seconds_to_recover=slowest_s)
            told(redelivered=redelivered, peak_mib=peak_mib(service))
            assert redelivered == 0
            assert figures.of("nats_reconnections_total") == 0
            assert figures.of("findings_open") == 0
            await require_all(service, ticks.sent)
            assert await findings(service) == []
            assert await service.stop() < 5.0


def stored(service: Service) -> int:
    return service.figures().of("rows_new_total")
