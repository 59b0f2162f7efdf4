"""The running service: everything that goes on at once, under one task group, and how it stops.

app.py opens the parts and hands them over; a bug in one task ends all of them.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import structlog
import uvicorn

from data_manager import __version__, telemetry
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.api import app as http
from data_manager.api.health import Readiness
from data_manager.ports import Bus, MetaStore
from data_manager.service.again import Again
from data_manager.service.ingesting import Ingesting
from data_manager.services.catalog import keep_statistics
from data_manager.services.dropping import Losses
from data_manager.services.periodic import every
from data_manager.services.reporting import Reporter
from data_manager.settings import Settings

CLOCK = SystemClock()
_STATISTICS_S = 30.0
_FINDINGS_S = 1.0
_LAST_WORDS_S = 1.0  # for findings, after the last row is stored
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
        self.sockets = sockets
        self.tally = telemetry.Tally()
        self.metrics = telemetry.TallyMetrics(self.tally)
        self.reporter = Reporter(meta.keep_findings)
        self.ingesting = Ingesting(settings, store, meta, bus, losses, self.reporter, self.tally, self.metrics, server)
        self._statistics: dict[str, int] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Ingest and serve until stopping is set, then drain."""
        tune_interpreter()
        servers = self._servers()
        async with asyncio.TaskGroup() as group:
            ingesting = group.create_task(self.ingesting.run(), name="ingest")
            serving = [group.create_task(one.serve([at]), name=name) for name, one, at in servers]
            beside = [
                group.create_task(every(one.seconds, one.what, one.work, CLOCK), name=one.what) for one in self._again()
            ]
            beside.append(group.create_task(self.ingesting.beside(), name="beside ingest"))
            await stopping.wait()
            await self._drain(ingesting)
            for task in beside:
                task.cancel()
            for _, one, _ in servers:
                one.should_exit = True
            await self._say_last_findings()
            await asyncio.wait(serving)

    async def _drain(self, ingesting: asyncio.Task[None]) -> None:
        _log.info("stopping", waiting=self.tally.in_flight)
        self.ingesting.stop()
        _, undone = await asyncio.wait([ingesting], timeout=self.settings.drain_timeout_s)
        if undone:
            _log.error("not drained in time: what is left comes again", seconds=self.settings.drain_timeout_s)
            ingesting.cancel()

    def _again(self) -> Iterator[Again]:
        yield from self.ingesting.again()
        yield Again("findings", _FINDINGS_S, self.reporter.keep)
        yield Again(
            "statistics", _STATISTICS_S, lambda: keep_statistics(self.store, self.meta, CLOCK, self._statistics)
        )

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
                ingest=self.ingesting.facts,
                series_version=self.store.version,
            )
            api = http.create_app(components, http.Limits(rows_max=self.settings.api_max_page_size))
            servers.append(("api", _uvicorn(api), self.sockets["API_PORT"]))
        return servers

    async def readiness(self) -> Readiness:
        """Whether we take events and can keep them, component by component, and why not."""
        reasons: dict[str, Any] = await self.ingesting.reasons()
        reasons["metadata"] = None if await self.meta.healthy() else "does not answer"
        components = {name: "healthy" if reason is None else "unhealthy" for name, reason in reasons.items()}
        components |= dict.fromkeys(("mysql", "mongodb", "auditor", "analytics"), "not_configured")
        why = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        status: Literal["healthy", "unhealthy"] = "unhealthy" if why else "healthy"
        return Readiness(ready=not why, status=status, components=components, reasons=why)

    async def _say_last_findings(self) -> None:
        self.ingesting.last_findings()
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.reporter.keep()
        except TimeoutError:
            _log.warning("findings are not kept: the metadata store is too slow", waiting=self.reporter.waiting)


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
