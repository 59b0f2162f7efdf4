"""The running service: everything that goes on at once, under one task group, and how it stops.

app.py opens the parts and hands them over; a bug in one task ends all of them.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import structlog
import uvicorn

from data_manager import __version__, telemetry
from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.resilience import Breaker
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.api import app as http
from data_manager.api.health import Readiness
from data_manager.ports import Bus, BusState, DeadLetter, MetaStore
from data_manager.services.buffer import Buffer, Limits
from data_manager.services.catalog import keep_statistics
from data_manager.services.dropping import Losses
from data_manager.services.ingest import Ports, ingest
from data_manager.services.periodic import every
from data_manager.services.reporting import Reporter
from data_manager.services.status import IngestStatus
from data_manager.services.watch import Watch, left_open
from data_manager.settings import Settings

CLOCK = SystemClock()
_STATISTICS_S = 30.0
_STATE_S = 2.0
_STATS_LINE_S = 60.0
_WATCH_S = 1.0
_LAST_WORDS_S = 1.0  # for findings, after the last row is stored
_NOTHING_PARSES = 100  # events that all had to be rejected since the start: something is wrong with the feed or with us
_log = structlog.get_logger(__name__)


class Service:
    """Everything that runs, opened and introduced. run() it once."""

    def __init__(
        self,
        settings: Settings,
        store: EmbeddedStore,
        meta: MetaStore,
        bus: Bus,
        losses: Losses,
        sockets: dict[str, socket.socket],
        server: NatsServer | None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.meta = meta
        self.bus = bus
        self.losses = losses
        self.sockets = sockets
        self.server = server
        self.tally = telemetry.Tally()
        self.metrics = telemetry.TallyMetrics(self.tally)
        self.reporter = Reporter(meta.keep_findings)
        self.watch = Watch(CLOCK, self.tally, self.reporter.report)
        self.status = IngestStatus(self.tally, self.watch, CLOCK)
        self.store_breaker = Breaker("store")
        self.meta_breaker = Breaker("metadata")
        self._statistics: dict[str, int] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Ingest and serve until stopping is set, then drain."""
        tune_interpreter()
        servers = self._servers()
        async with asyncio.TaskGroup() as group:
            ingesting = group.create_task(self._ingest(), name="ingest")
            serving = [group.create_task(one.serve([at]), name=name) for name, one, at in servers]
            again: list[tuple[float, str, Callable[[], Awaitable[object]]]] = [
                (_STATE_S, "bus state", self._look_at_bus),
                (_STATS_LINE_S, "stats line", self._say_stats),
                (_WATCH_S, "watch", self._look_at_streams),
                (_WATCH_S, "findings", self.reporter.keep),
                (
                    _STATISTICS_S,
                    "statistics",
                    lambda: keep_statistics(self.store, self.meta, CLOCK, self._statistics),
                ),
            ]
            periodic = [group.create_task(every(s, what, work, CLOCK), name=what) for s, what, work in again]
            periodic.append(group.create_task(self._resume_watch(), name="resume watch"))
            if self.server is not None:
                periodic.append(group.create_task(self.server.keep(), name="nats-server"))
            await stopping.wait()
            _log.info("stopping", waiting=self.tally.in_flight)
            self.bus.stop()
            _, undone = await asyncio.wait([ingesting], timeout=self.settings.drain_timeout_s)
            if undone:
                _log.error("not drained in time: what is left comes again", seconds=self.settings.drain_timeout_s)
                ingesting.cancel()
            for task in periodic:
                task.cancel()
            for _, one, _ in servers:
                one.should_exit = True
            await self._say_last_findings()
            await asyncio.wait(serving)

    async def _ingest(self) -> None:
        async def insist_dead(letters: Sequence[DeadLetter]) -> None:
            await self.meta_breaker.call(lambda: self.meta.keep_dead(letters))

        limits = Limits(self.settings.max_batch_size, self.settings.flush_bytes_max, self.settings.flush_age_ms)
        ports = Ports(
            self.bus,
            Decoder(self.settings.market),
            lambda batch: self.store_breaker.call(lambda: self.store.append(batch)),
            self.meta.keep_dead,
            insist_dead,
            CLOCK,
            saw=self.watch.saw,
            let_go=self.losses.note,
        )
        await ingest(ports, Buffer(self.settings.market, DATASET_OF, self.tally, limits))

    def _servers(self) -> list[tuple[str, uvicorn.Server, socket.socket]]:
        registry = telemetry.registry(self.metrics)
        servers = [("metrics", _uvicorn(http.metrics_app(registry)), self.sockets["METRICS_PORT"])]
        if self.settings.enable_api:
            components = http.Components(
                store=self.store,
                meta=self.meta,
                clock=CLOCK,
                market=self.settings.market,
                version=__version__,
                source=self.store.kind,
                readiness=self.readiness,
                registry=registry,
                ingest=self._ingest_facts,
                series_version=self.store.version,
            )
            api = http.create_app(components, http.Limits(rows_max=self.settings.api_max_page_size))
            servers.append(("api", _uvicorn(api), self.sockets["API_PORT"]))
        return servers

    async def readiness(self) -> Readiness:
        """Whether we take events and can keep them, component by component, and why not."""
        state = self.metrics.bus
        if state is None or not state.connected:  # the news may be older than the connection
            state = await self._look_at_bus()
        reasons = {
            "nats": None if state.connected else state.reason or "not connected",
            "store": self.store_breaker.reason,
            "metadata": None if await self.meta.healthy() else "does not answer",
            "ingest": self._nothing_parses(),
        }
        components = {name: "healthy" if reason is None else "unhealthy" for name, reason in reasons.items()}
        components |= dict.fromkeys(("mysql", "mongodb", "auditor", "analytics"), "not_configured")
        why = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        status: Literal["healthy", "unhealthy"] = "unhealthy" if why else "healthy"
        return Readiness(ready=not why, status=status, components=components, reasons=why)

    def _nothing_parses(self) -> str | None:
        rejected = self.tally.rejected.total()
        if rejected >= _NOTHING_PARSES and rejected == self.tally.total_received():
            return f"{rejected} events arrived and none could be read: see the dead letters"
        return None

    async def _look_at_bus(self) -> BusState:
        self.metrics.bus = await self.bus.state()
        self.status.look()
        return self.metrics.bus

    async def _ingest_facts(self) -> dict[str, Any]:
        return self.status.facts(self.metrics.bus)

    async def _look_at_streams(self) -> None:
        self.reporter.report(self.losses.findings())
        self.watch.judge()

    async def _resume_watch(self) -> None:
        """Take over what an earlier run left open, as soon as the metadata store tells."""
        self.watch.adopt(await self.meta_breaker.call(lambda: left_open(self.meta)))

    async def _say_last_findings(self) -> None:
        self.reporter.report(self.losses.findings())
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.reporter.keep()
        except TimeoutError:
            _log.warning("findings are not kept: the metadata store is too slow", waiting=self.reporter.waiting)

    async def _say_stats(self) -> None:
        tally = self.tally
        _log.info(
            "stats",
            received=tally.total_received(),
            new=tally.new.total(),
            changed=tally.changed.total(),
            duplicate=tally.duplicate.total(),
            rejected=tally.rejected.total(),
            dropped=tally.dropped,
            ignored=tally.ignored.total(),
            in_flight=tally.in_flight,
            lag_ms=tally.lag_ms,
            missing=tally.missing(),
        )


def tune_interpreter() -> None:
    """Settings of the interpreter for a process that moves many small objects and must answer within milliseconds."""
    gc.collect()
    gc.freeze()  # what is loaded by now stays: the collector need not look at it again
    gc.set_threshold(100_000, 50, 100)  # a flush makes many objects that all go together
    sys.setswitchinterval(0.001)  # the event loop waits at most so long for a thread that is at work in Python


def _uvicorn(application: object) -> uvicorn.Server:
    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # stopping is decided in one place, for all servers

    config = uvicorn.Config(
        application,  # type: ignore[arg-type]  # an ASGI application by any of its types
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return Server(config)
