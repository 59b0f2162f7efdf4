"""The metadata store is away: locked by another process, read-only, slow. Rows go on, dead letters and findings wait."""

import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.domain.finding import FindingKind
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.faults.health import findings, is_ready, not_ready, recovered, require_alive, require_all, sick
from tests.faults.outbox import publishing
from tests.servers import own_server
from tests.service import Service, connected, dead_letters, drained, feed, publish, running
from tests.truth import Line, lines_of, path_of, rows_of

META_AWAY_S = 20.0 if FULL else 3.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


@pytest.fixture(scope="module")
def lines(recordings: Path) -> list[Line]:
    """8,421 messages of five symbols."""
    return list(lines_of(path_of(recordings, "um", "2021-04-05_sand-chr-neo-ctk-bat")))


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[None]:
    """Another process writes to the metadata, and does not finish."""
    with closing(sqlite3.connect(folder / "metadata.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@asynccontextmanager
async def read_only(folder: Path) -> AsyncIterator[None]:
    """The metadata may only be read."""
    illness = folder.with_name("illness")
    illness.write_text("metadata read-only")
    yield
    illness.unlink()


@asynccontextmanager
async def slow(folder: Path) -> AsyncIterator[None]:
    """Every commit takes two seconds."""
    illness = folder.with_name("illness")
    illness.write_text("metadata slow 2")
    yield
    illness.unlink()


@pytest.mark.parametrize("away", [locked, read_only, slow] if FULL else [locked])
async def test_rows_do_not_wait_for_the_metadata_and_dead_letters_do(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told, away: Any
) -> None:
    (tmp_path / "meta").mkdir()
    payloads = with_garbage([line.enveloped for line in lines])
    service = sick(tmp_path, server, meta_url=f"sqlite:///{tmp_path}/meta/metadata.db", nats_ack_wait_s=300)
    rows, failed = sum(map(len, rows_of(lines).values())), len(payloads) - len(lines)
    async with running(service), connected(server.url) as client:
        await feed(server.url, service, [line.enveloped for line in lines[:500]])
        async with away(tmp_path / "meta"):
            async with publishing(server.url, service, payloads, len(payloads) / (META_AWAY_S - 2)):
                gone_s = time.monotonic()
            await eventually(lambda: service.figures().of("rows_new_total") == rows, within_s=1.5, what="all rows")
            require_alive(service, rows_of(lines[:500]))
            told(seconds_to_say_so=await said_so(service, "" if away is slow else "metadata"))
            await eventually(lambda: service.figures().of("findings_open") == 1, what="garbage is a finding")
            await eventually(lambda: time.monotonic() - gone_s >= META_AWAY_S, within_s=META_AWAY_S + 1)
            service.figures().require_law()
        await recovered(service, client, told)
        await require_all(service, lines, failed=failed)
        told(times=1, dead_letters=failed, seconds_away=META_AWAY_S)
        assert len(dead_letters(service)) == failed
        [garbage] = await findings(service, at_least=1)
        assert garbage.kind is FindingKind.PARSE_ERRORS
        assert await service.stop() < 5.0


async def test_a_stop_does_not_wait_for_the_metadata(
    server: NatsServer, tmp_path: Path, lines: list[Line], told: Told
) -> None:
    (tmp_path / "meta").mkdir()
    service = sick(tmp_path, server, meta_url=f"sqlite:///{tmp_path}/meta/metadata.db", nats_ack_wait_s=2)
    payloads = with_garbage([line.enveloped for line in lines[:1_000]])
    async with running(service), connected(server.url) as client:
        async with locked(tmp_path / "meta"):
            await publish(client, service.subject, payloads)
            await eventually(lambda: service.figures().of("rows_new_total") == 1_000)
            await eventually(lambda: service.figures().of("events_in_flight") == len(payloads) - 1_000)
            assert service.figures().of("messages_failed_total") == 0, "no dead letter is kept yet"
            told(times=1, seconds_to_stop=await service.stop())
        await service.start()
        await drained(client, service)
        await service.require(rows_of(lines[:1_000]))
        assert len(dead_letters(service)) == len(payloads) - 1_000


async def said_so(service: Service, why: str) -> float:
    """How long readiness takes to tell why not (nothing: that all is well), which is no longer than a probe waits."""
    says = (lambda: not_ready(service, why)) if why else (lambda: is_ready(service))
    await eventually(says, within_s=3, what=why or "ready")
    asked_s = time.monotonic()
    assert says()
    took_s = time.monotonic() - asked_s
    assert took_s < 1.0
    return took_s


def with_garbage(payloads: Sequence[bytes]) -> list[bytes]:
    """After every hundredth message one that nobody can read, each another."""
    garbage = [f"this is no market data, number {at}".encode() for at in range(0, len(payloads), 100)]
    return [
        one for at, payload in enumerate(payloads) for one in ([payload] if at % 100 else [payload, garbage[at // 100]])
    ]
