"""How a service is: what it says of itself, whether it answers, what it holds in the end, and what that cost."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nats.aio.client import Client

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.sql import open_meta
from data_manager.domain.finding import Finding
from tests.conftest import eventually
from tests.faults.conftest import Told
from tests.service import Service, asked, drained
from tests.truth import Line, rows_of

MEMORY_MAX_MIB = 400


def sick(folder: Path, server: NatsServer, **settings: object) -> Service:
    """A service whose stores fall ill when folder/illness says so: see sick_store.py."""
    program = [sys.executable, "-m", "tests.faults.sick_store", str(folder / "illness")]
    return Service(folder, nats_url=server.url, program=program, **settings)


def is_ready(service: Service) -> bool:
    """Whether it says so."""
    return service.get("/health/readiness").status_code == 200


def not_ready(service: Service, why: str) -> bool:
    """Whether it says so, and why."""
    answer = service.get("/health/readiness")
    return answer.status_code == 503 and any(why in reason for reason in answer.json()["reasons"])


def require_alive(service: Service, held: dict[str, list[str]]) -> None:
    """It lives, and answers a question about what it holds."""
    assert service.get("/health/liveness").status_code == 200
    path, query = asked(next(series for series in held if "trade." in series))
    assert service.page(path, **query, limit=5)["values"]


async def recovered(service: Service, client: Client, told: Told) -> None:
    """What was broken is whole: ready within seconds, and everything taken from the bus soon. Tells how soon."""
    well_s = time.monotonic()
    await eventually(lambda: is_ready(service), within_s=10, what="ready again")
    told(seconds_to_recover=time.monotonic() - well_s)
    await drained(client, service)
    told(seconds_to_catch_up=time.monotonic() - well_s, peak_mib=peak_mib(service))


async def require_all(service: Service, lines: Sequence[Line], market: str = "um", *, failed: int = 0) -> None:
    """The law holds, each fact is there once and as it was, and memory was bounded."""
    figures, expected = service.figures(), rows_of(lines, market)
    figures.require_law()
    assert figures.of("rows_new_total") == sum(map(len, expected.values()))
    assert figures.of("messages_failed_total") == failed
    assert figures.of("events_in_flight") == 0
    assert service.page("/health/ingest")["oldest_unflushed_ms"] is None
    assert peak_mib(service) < MEMORY_MAX_MIB
    await service.require(expected)


async def findings(service: Service, *, at_least: int = 0, resolved: int = 0) -> list[Finding]:
    """All that are kept, once there are so many."""
    meta = await open_meta(service.environ.get("META_URL", f"sqlite:///{service.data_dir}/metadata.sqlite"))
    try:

        async def enough() -> bool:
            kept, _ = await meta.findings(limit=1_000)
            return len(kept) >= at_least and sum(not one.open for one in kept) >= resolved

        await eventually(enough, what="findings in the store")
        return (await meta.findings(limit=1_000))[0]
    finally:
        await meta.close()


def peak_mib(service: Service) -> int:
    """The most memory the process ever held."""
    [line] = [one for one in Path(f"/proc/{service.pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) // 1_024
