"""Somebody sets the machine's clock while the service runs: no row is lost, doubled or misplaced, nobody cries wolf."""

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.sql import open_meta
from data_manager.domain.datasets import DATASETS
from data_manager.services.catalog import keep_statistics
from tests.conftest import eventually
from tests.contract.rows import batch_of, trade
from tests.faults.conftest import FULL, Told
from tests.faults.health import findings, is_ready, peak_mib, require_all
from tests.faults.shifted_clock import HOUR_MS
from tests.faults.ticks import ticking
from tests.memory import MemoryStore
from tests.servers import SteppingClock, own_server
from tests.service import Service, connected, dead_letters, drained, feed, publish, running
from tests.truth import lines_of, path_of

SYMBOLS = 100 if FULL else 20
WRONG_S, RIGHT_S = (30.0, 10.0) if FULL else (4.0, 1.0)  # wrong for more than the three judgements a finding takes
AHEAD, BEHIND = signal.SIGUSR1, signal.SIGUSR2
JUMPS = [(AHEAD, HOUR_MS), (BEHIND, 0), (BEHIND, -HOUR_MS), (AHEAD, 0)]
"""Which way the clock is set, and how far off it is then."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


def set_clocks(folder: Path, server: NatsServer, **settings: object) -> Service:
    """A service whose clock can be set."""
    return Service(
        folder, nats_url=server.url, program=[sys.executable, "-m", "tests.faults.shifted_clock"], **settings
    )


async def test_the_clock_jumps_an_hour_on_and_back_under_load(server: NatsServer, tmp_path: Path, told: Told) -> None:
    """Rows may wait half a second for company: long enough for a jump to meet some that wait."""
    async with running(set_clocks(tmp_path, server, flush_age_ms=500)) as service, connected(server.url) as client:
        slowest_s = 0.0
        async with ticking(server.url, service, SYMBOLS) as ticks:
            await eventually(lambda: lag_s(service) == 0, what="rows")
            for number, (way, off_ms) in enumerate(JUMPS):
                os.kill(service.pid, way)
                jumped_s = time.monotonic()
                await publish(client, service.subject, [b"garbage %d" % number])
                await eventually(lambda off_ms=off_ms: lag_s(service) == off_ms // 1_000, what="rows after the jump")
                sent = len(ticks.sent)
                await eventually(lambda sent=sent: stored(service) >= sent, within_s=3, what="what was sent is stored")
                slowest_s = max(slowest_s, time.monotonic() - jumped_s)
                until_s = jumped_s + (WRONG_S if off_ms else RIGHT_S)
                await eventually(lambda until_s=until_s: time.monotonic() >= until_s, within_s=WRONG_S + 1)
                assert service.figures().of("findings_open") == 0
                assert {one["state"] for one in service.page("/health/ingest")["series"]} == {"live"}
                assert is_ready(service)
        await drained(client, service)
        told(times=len(JUMPS), published=len(ticks.sent), seconds_to_recover=slowest_s, peak_mib=peak_mib(service))
        await require_all(service, ticks.sent, failed=len(JUMPS))
        assert service.logged("our clock was set") == len(JUMPS)
        assert await findings(service) == []
        times = [time.time_ns() // 1_000_000 - one["received_ms"] for one in dead_letters(service)]
        assert sorted(round(ms / HOUR_MS) for ms in times) == [-1, 0, 0, 1], "by the clock as it was"
        assert await service.stop() < 5.0


async def test_no_row_is_keyed_by_our_clock(server: NatsServer, tmp_path: Path, recordings: Path, told: Told) -> None:
    """Spot names no time for its book tickers: the publisher's stands in, and the key is the venue's number."""
    lines = [line for line in lines_of(path_of(recordings, "spot", "2021-10-12_nkn-blz-lrc-rune")) if line.data][:200]
    payloads = [line.enveloped for line in lines]
    async with running(set_clocks(tmp_path, server, market="spot")) as service:
        await feed(server.url, service, payloads[:120])
        for way in (AHEAD, BEHIND, BEHIND):
            os.kill(service.pid, way)
            await feed(server.url, service, payloads[60:])
        told(times=3)
        await require_all(service, lines, "spot")
        assert await service.stop() < 5.0


def test_what_names_a_row_is_the_venues() -> None:
    ours = {"received_ms", "origin"}
    assert [name for name, dataset in DATASETS.items() if ours & {*dataset.key, dataset.time}] == []


async def test_statistics_go_on_when_the_clock_was_set_back(tmp_path: Path) -> None:
    """The catalogue keeps the newest by our clock: what is entered after a jump back must not count as older."""
    clock, store, held = SteppingClock(), MemoryStore(), dict[str, int]()
    meta = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    for offset_ms in (HOUR_MS, -HOUR_MS, -HOUR_MS, HOUR_MS):
        clock.at_ms += offset_ms
        await store.append(batch_of([trade(clock.at_ms)]))
        await keep_statistics(store, meta, clock, held)
        [kept] = await meta.statistics()
        assert kept.rows == len(rows_held := (await store.scan(kept.series)).rows()), rows_held
    held.clear()  # a restart, with a clock that is behind
    clock.at_ms -= 2 * HOUR_MS
    await store.append(batch_of([trade(7)]))
    await keep_statistics(store, meta, clock, held)
    [kept] = await meta.statistics()
    assert (kept.rows, kept.storage) == (5, store.kind)
    await meta.close()


def lag_s(service: Service) -> int | None:
    """Of the row stored last."""
    lag_ms = service.page("/health/ingest")["lag_ms"]
    return None if lag_ms is None else round(lag_ms / 1_000)


def stored(service: Service) -> int:
    return service.figures().of("rows_new_total")
