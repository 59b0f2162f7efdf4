"""The running service: everything that goes on at once, under one task group, and how it stops.

    role ingest   bus ──> store, the watch over the streams          any number of replicas
    role work     what one replica does for all, under a lease       one leads, the others wait
    role api      the routes that read                               any number of replicas
    role all      the three in one process

Every role serves liveness, readiness and metrics. app.py opens the parts and hands them over; a bug in one task ends
all of them.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import structlog
import uvicorn
from prometheus_client.core import Metric

from data_manager import __version__, telemetry
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.late import Late
from data_manager.api import app as http
from data_manager.api.health import Readiness
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import NotFound
from data_manager.domain.retention import parse_days
from data_manager.ports import MetadataStore, SeriesStore
from data_manager.ports.alerts import Channel
from data_manager.ports.source import Source
from data_manager.service import figures
from data_manager.service.again import Again
from data_manager.service.auditing import auditor_of, conditions_of
from data_manager.service.feeding import Feeder
from data_manager.service.ingesting import Ingesting
from data_manager.service.overseeing import Overseeing
from data_manager.service.release import Release
from data_manager.service.working import Working
from data_manager.services.auditing.desk import Desk
from data_manager.services.databases import Databases, reason_against
from data_manager.services.ending import ended, waited_for
from data_manager.services.health import HealthBook
from data_manager.services.periodic import LoopLag, every
from data_manager.services.reporting import Reporter
from data_manager.services.runs import Runs
from data_manager.settings import Settings

CLOCK = SystemClock()
Role = Literal["all", "ingest", "work", "api"]
_FINDINGS_S = 1.0
_SIZES_S = 10.0
_RELEASE_S = 2.0
_CONDITIONS_S = 1.0
_LAST_WORDS_S = 1.0  # for findings, after the last row is stored
_log = structlog.get_logger(__name__)


class Parts(NamedTuple):
    """What a role is made of. ingesting, working and feeding are None where the role has no such part."""

    role: Role
    store: SeriesStore
    meta: MetadataStore
    reporter: Reporter
    tally: telemetry.Tally
    metrics: telemetry.TallyMetrics
    databases: Databases
    ingesting: Ingesting | None
    working: Working | None
    feeding: Feeder | None = None
    channels: Sequence[Channel] = ()  # by which alerts leave
    sources: Sequence[Source] | None = None  # of the past; None where the role takes no requests for it


class Service:
    """Everything that runs, opened and introduced. run() it once."""

    def __init__(self, settings: Settings, parts: Parts, sockets: dict[str, socket.socket]) -> None:
        self.settings = settings
        self.parts = parts
        self.sockets = sockets
        self._loop_lag = LoopLag(CLOCK)
        self._release = Release(parts.store, parts.meta, parts.reporter, CLOCK)
        self._conditions = conditions_of(settings, parts.meta)
        self._book = HealthBook(
            parts.store, self._conditions, CLOCK, promised=settings.completeness_target_percent / 100
        )
        self._runs = Runs[Any]("run")
        self._desk = None if parts.working is None else parts.working.auditing.desk
        if parts.role == "api":  # who reaches nobody else asks it for audits
            auditor = auditor_of(settings, parts.store, parts.meta, parts.reporter)
            self._desk = Desk(auditor, keep=parts.reporter.keep)
        self._overseeing: Overseeing | None = None
        if parts.working is not None:
            self._overseeing = Overseeing(
                settings, parts.meta, self._book, self._conditions, parts.channels, parts.working.lead
            )
        parts.metrics.more = list(self._figures())

    def _figures(self) -> Iterator[Callable[[], Iterable[Metric]]]:
        parts = self.parts
        yield partial(figures.of_loop, self._loop_lag)
        yield partial(figures.of_databases, parts.databases)
        ours = () if parts.ingesting is None else parts.ingesting.breakers
        yield partial(figures.of_breakers, ours if parts.working is None else (*ours, parts.working.mending.breaker))
        if parts.ingesting is not None:
            yield partial(figures.of_shedding, parts.ingesting)
            yield partial(figures.of_contradictions, parts.ingesting.contradictions)
        if parts.working is not None:
            yield partial(figures.of_lease, parts.working.lease)
            yield partial(figures.of_auditor, parts.working.auditing.auditor)
            yield partial(figures.of_mending, parts.working.mending)
            yield partial(figures.of_sources, parts.working.mending.source_facts)
            yield parts.working.keeping.figures

        if self._overseeing is not None:
            yield self._overseeing.figures
        if parts.feeding is not None:
            yield parts.feeding.figures

    async def run(self, stopping: asyncio.Event) -> None:
        """Do what the role does until stopping is set, then drain."""
        tune_interpreter()
        servers = self._servers()
        ingesting = self.parts.ingesting
        async with asyncio.TaskGroup() as group:
            draining = None if ingesting is None else group.create_task(ingesting.run(), name="ingest")
            serving = [group.create_task(one.serve([at]), name=name) for name, one, at in servers]
            beside = [group.create_task(work, name=what) for what, work in self._beside()]
            await stopping.wait()
            _log.info("stopping", waiting=self.parts.tally.in_flight)
            if self.parts.feeding is not None:
                await _step("what the feed heard", self.parts.feeding.stop())
            if ingesting is not None and draining is not None:
                await _step("what was pulled", self._drain(ingesting, draining))
            await _step("work under way", self._put_back())
            for _, one, _ in servers:
                one.should_exit = True
            await asyncio.gather(
                _step("what goes on beside it", ended(*beside)),
                _step("the last findings", self._say_last_findings()),
                _step("requests under way", asyncio.wait(serving)),
            )

    async def _put_back(self) -> None:
        """What was asked for ends, and jobs go back to whoever leads next."""
        await self._runs.close()
        if self._desk is not None:
            await self._desk.close()
        if self.parts.working is not None:
            await self.parts.working.close()

    async def _drain(self, ingesting: Ingesting, task: asyncio.Task[None]) -> None:
        ingesting.stop()
        _, undone = await asyncio.wait([task], timeout=self.settings.drain_timeout_s)
        if undone:
            _log.error("not drained in time: what is left comes again", seconds=self.settings.drain_timeout_s)
            task.cancel()

    def _beside(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Everything that goes on until the stop."""
        yield "loop lag", self._loop_lag.measure()
        for late in (self.parts.store, self.parts.meta):
            if isinstance(late, Late):
                yield "opening", late.appear(CLOCK)
        if self.parts.ingesting is not None:
            yield "beside ingest", self.parts.ingesting.beside()
        if self.parts.working is not None:
            yield "campaign", self.parts.working.run()
        if self.parts.feeding is not None:
            yield "feed", self.parts.feeding.run()
        for one in self._again():
            yield one.what, every(one.seconds, one.what, one.work, CLOCK)

    def _again(self) -> Iterator[Again]:
        yield Again("findings", _FINDINGS_S, self.parts.reporter.keep)
        yield Again("sizes", _SIZES_S, self.parts.databases.look)
        yield Again("release", _RELEASE_S, self._release.look)
        if "API_PORT" in self.sockets:
            yield Again("conditions", _CONDITIONS_S, self._conditions.keep_up)
        if self.parts.ingesting is not None:
            yield from self.parts.ingesting.again()
        if self.parts.working is not None:
            yield from self.parts.working.again()
        if self._overseeing is not None:
            yield from self._overseeing.again()
        if self.parts.feeding is not None:
            yield from self.parts.feeding.again()

    # ---- what it says of itself ----------------------------------------------------------------------------------

    def _servers(self) -> list[tuple[str, uvicorn.Server, socket.socket]]:
        registry = telemetry.registry(self.parts.metrics)
        servers = [("metrics", server_of(http.metrics_app(registry)), self.sockets["METRICS_PORT"])]
        if "API_PORT" in self.sockets:
            components = http.Components(
                store=self.parts.store,
                meta=self.parts.meta,
                clock=CLOCK,
                market=self.settings.market,
                version=__version__,
                readiness=self.readiness,
                registry=registry,
                conditions=self._conditions,
                book=self._book,
                channels={one.name: one.shown for one in self.parts.channels},
                desk=self._desk,
                retention=http.Retention(
                    retains=None if self.parts.working is None else self.parts.working.keeping,
                    days=parse_days(self.settings.retention_days or "", DATASETS),
                    enabled=self.settings.enable_retention,
                    interval_s=self.settings.retention_interval,
                    rows_max=self.settings.retention_rows_max,
                ),
                runs=self._runs,
                role=self.parts.role,
                backfills=self.settings.enable_backfiller,
                sources=self.parts.sources,
                ingest=self._ingest_facts,
                databases=self._database_facts,
                connections=self._connection_facts,
                reads=self.settings.enable_api and self.parts.role in ("all", "api"),
            )
            api = http.create_app(components, http.Limits(rows_max=self.settings.api_max_page_size))
            servers.append(("api", server_of(api), self.sockets["API_PORT"]))
        return servers

    async def readiness(self) -> Readiness:
        """Whether we can do what our role does, component by component, and why not."""
        parts, reasons = self.parts, await self._refused()
        away, metadata = await asyncio.gather(reason_against(parts.store.healthy), reason_against(parts.meta.healthy))
        reasons["store"] = reasons["store"] or away
        reads_on = parts.role == "api" and "metadata" in self._release.reasons  # and only what it writes is refused
        reasons["metadata"] = None if reads_on else reasons["metadata"] or metadata
        components = {name: "healthy" if reason is None else "unhealthy" for name, reason in reasons.items()}
        for kind, name in self._cluster().items():
            components[kind] = "not_configured" if name is None else components[name]
        components |= {"analytics": "not_configured", "nats": components.get("nats", "not_configured")}
        feeding = parts.feeding  # an exchange that is away takes nothing from what we are asked for
        components["feed"] = "not_configured" if feeding is None else "unhealthy" if feeding.reason else "healthy"
        why = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        status: Literal["healthy", "degraded", "unhealthy"] = "unhealthy" if why else "healthy"
        beside = self._beside_readiness(components)
        if reads_on:
            components["metadata"] = "degraded"
            beside = [*beside, f"metadata: {self._release.reasons['metadata']}"]
        if beside and not why:
            status = "degraded"
        untold = self._untold(components)
        return Readiness(
            ready=not why, status=status, components=components, reasons=[*why, *beside, *(() if why else untold)]
        )

    async def _refused(self) -> dict[str, str | None]:
        """Why what we write is refused, by whom; without ingest there is nothing to be said of the bus."""
        ingesting = self.parts.ingesting
        reasons = {} if ingesting is None else await ingesting.reasons()
        metadata = reasons.get("metadata") or self.parts.reporter.reason
        return {**reasons, "store": reasons.get("store"), "metadata": metadata}

    def _untold(self, components: dict[str, str]) -> list[str]:
        """Fill in the alerts: that they do not arrive takes nothing from what we are asked for."""
        if self._overseeing is None:
            components["alerts"] = "not_configured"
            return []
        reason = self._overseeing.reason()
        components["alerts"] = "healthy" if reason is None else "degraded"
        return [] if reason is None else [f"alerts: {reason}"]

    def _beside_readiness(self, components: dict[str, str]) -> list[str]:
        """Fill in the parts without which requests are answered all the same; what is wrong with them, in words."""
        working = self.parts.working
        if working is None:
            components["auditor"] = "not_configured"
            return []
        waits = working.mending.reason()
        reasons = [] if waits is None else [f"backfill: {waits}"]
        if not working.auditing.on:
            components["auditor"] = "not_configured"
            return reasons
        reason = working.auditing.reason()
        components["auditor"] = "healthy" if reason is None else "unhealthy"
        return reasons if reason is None else [f"auditor: {reason}", *reasons]

    def _cluster(self) -> dict[str, str | None]:
        """The predecessor's names of the databases: which of ours it is, None where the embedded one stands for it."""
        kinds = self.parts.databases.kinds
        return {
            "mongodb": "store" if kinds["rows"] == "mongodb" else None,
            "mysql": "metadata" if kinds["metadata"] == "mysql" else None,
        }

    async def _ingest_facts(self) -> dict[str, Any]:
        if self.parts.ingesting is None:
            raise NotFound(f"this process does not ingest: its role is {self.parts.role}")
        return await self.parts.ingesting.facts()

    async def _database_facts(self) -> dict[str, Any]:
        """The body of GET /health/databases, but for its time."""
        refused = await self._refused()
        facts = await self.parts.databases.facts(rows_refused=refused["store"], metadata_refused=refused["metadata"])
        ingesting = self.parts.ingesting
        facts["databases"]["rows"]["shed"] = None if ingesting is None else sorted(ingesting.shed)
        return facts

    async def _connection_facts(self) -> dict[str, Any]:
        """The body of GET /health/connections, but for its time."""
        feeding = self.parts.feeding
        facts: dict[str, Any] = {"nats": None, "breakers": {}, "lease": None, "sources": {}}
        facts["feed"] = None if feeding is None else feeding.facts()
        if self.parts.ingesting is not None:
            facts |= await self.parts.ingesting.connection_facts()
        if self.parts.working is not None:
            facts["lease"] = self.parts.working.lease_facts()
            facts["sources"] = self.parts.working.mending.source_facts()
        return facts

    async def _say_last_findings(self) -> None:
        self._release.end()
        if self.parts.ingesting is not None:
            self.parts.ingesting.last_findings()
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.parts.reporter.keep()
        except TimeoutError:
            waiting = self.parts.reporter.waiting
            _log.warning("findings are not kept: the metadata store is too slow", waiting=waiting)


async def _step(what: str, work: Awaitable[object]) -> None:
    """Of a stop."""
    with waited_for(what):
        await work


def tune_interpreter() -> None:
    """Settings of the interpreter for a process that moves many small objects and must answer within milliseconds."""
    gc.collect()
    gc.freeze()  # what is loaded by now stays: the collector need not look at it again
    gc.set_threshold(100_000, 50, 100)  # a flush makes many objects that all go together
    gc.enable()
    sys.setswitchinterval(0.001)  # the event loop waits at most so long for a thread that is at work in Python


def server_of(application: object) -> uvicorn.Server:
    """An HTTP server of the application that leaves the process's signals alone."""

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
