"""The composition root: the only file that knows adapters, services and routes, and introduces them to each other.

Opening order is the reverse of closing: the store's lock first (a second service on one DATA_DIR stops here), then our
own bus server, metadata, bus, and the sockets. One task group holds everything that runs; a bug in one task ends all.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from data_manager import __version__, telemetry
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.resilience import Breaker
from data_manager.domain.errors import BadSetting, DataManagerError
from data_manager.ports import Bus, BusState, DeadLetter, MetaStore, SeriesStore
from data_manager.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from data_manager.adapters.bus.connection import NatsAccess
    from data_manager.adapters.bus.nats_server import NatsServer
    from data_manager.adapters.store.embedded import EmbeddedStore
    from data_manager.api.health import Readiness
    from data_manager.services.dropping import Losses
    from data_manager.services.replay import ReplayProgress, ReplayReport

_log = structlog.get_logger(__name__)
_CLOCK = SystemClock()
_STATISTICS_S = 30.0
_STATE_S = 2.0
_STATS_LINE_S = 60.0
_WATCH_S = 1.0
_LAST_WORDS_S = 1.0  # for findings, after the last row is stored
_NOTHING_PARSES = 100  # events that all had to be rejected since the start: something is wrong with the feed or with us


async def run(settings: Settings, *, own_server: bool, say: Callable[[str], None]) -> None:
    """The whole service, until SIGINT or SIGTERM: bus, ingest, HTTP, metrics.

    own_server: start a nats-server of our own in DATA_DIR. say prints the banner's lines. Raises DataManagerError when
    something cannot be opened; on the way out everything taken from the bus is stored and acknowledged.
    """
    telemetry.configure_logging(settings.log_level, settings.log_format)
    structlog.contextvars.bind_contextvars(environment=settings.environment)
    async with AsyncExitStack() as stack:
        service = await _open(settings, stack, own_server=own_server)
        stopping = asyncio.Event()
        with _signals(stopping):
            say(_banner(settings, service))
            try:
                await service.run(stopping)
            except* DataManagerError as group:
                raise group.exceptions[0] from group
    _log.info("stopped", missing=service.tally.missing(), in_flight=service.tally.in_flight)


async def _open(settings: Settings, stack: AsyncExitStack, *, own_server: bool) -> Service:
    from data_manager.adapters.binance.wire import DATASET_OF, Decoder
    from data_manager.adapters.bus.nats_core import CoreOptions
    from data_manager.adapters.bus.nats_server import NatsServer
    from data_manager.adapters.bus.nats_stream import StreamOptions
    from data_manager.adapters.bus.opening import open_bus
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.adapters.store.embedded import EmbeddedStore
    from data_manager.services.dropping import Losses

    sockets = _listen(settings, stack)
    store = await asyncio.to_thread(EmbeddedStore, settings.data_dir, settings.store_memory_bytes)
    stack.push_async_callback(store.close)
    server = None
    if own_server:
        server = NatsServer(settings.data_dir / "nats", port=settings.nats_own_port)
        await server.start()
        stack.push_async_callback(server.stop)
    meta = await open_meta(
        settings.metadata_url,
        dead_letters_max=settings.dead_letters_max,
        dead_bytes_max=settings.dead_letters_bytes_max,
    )
    stack.push_async_callback(meta.close)
    losses = Losses(Decoder(settings.market), DATASET_OF, settings.market, _CLOCK)
    bus = open_bus(
        nats_access(settings, [server.url] if server else settings.nats_servers),
        settings.nats_consumer_subject,
        mode=settings.nats_mode,
        clock=_CLOCK,
        stream=StreamOptions(
            stream=settings.nats_stream,
            durable=settings.nats_consumer,
            max_bytes=settings.nats_stream_max_bytes,
            max_age_s=settings.nats_stream_max_age_s,
            ack_wait_s=settings.nats_ack_wait_s,
            in_flight_max=settings.message_queue_size,
        ),
        core=CoreOptions(
            queue=settings.nats_consumer, rows_max=settings.message_queue_size, show_dropped=losses.let_go
        ),
    )
    stack.push_async_callback(bus.close)
    return Service(settings, store, meta, bus, losses, sockets, server)


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
        from data_manager.services.reporting import Reporter
        from data_manager.services.status import IngestStatus
        from data_manager.services.watch import Watch

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
        self.watch = Watch(_CLOCK, self.tally, self.reporter.report)
        self.status = IngestStatus(self.tally, self.watch, _CLOCK)
        self.store_breaker = Breaker("store")
        self.meta_breaker = Breaker("metadata")
        self._statistics: dict[str, int] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Ingest and serve until stopping is set, then drain."""
        from data_manager.services.catalog import keep_statistics
        from data_manager.services.periodic import every

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
                    lambda: keep_statistics(self.store, self.meta, _CLOCK, self._statistics),
                ),
            ]
            periodic = [group.create_task(every(s, what, work, _CLOCK), name=what) for s, what, work in again]
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
        from data_manager.adapters.binance.wire import DATASET_OF, Decoder
        from data_manager.services.ingest import Buffer, Limits, Ports, ingest

        async def insist_dead(letters: Sequence[DeadLetter]) -> None:
            await self.meta_breaker.call(lambda: self.meta.keep_dead(letters))

        limits = Limits(self.settings.max_batch_size, self.settings.flush_bytes_max, self.settings.flush_age_ms)
        ports = Ports(
            self.bus,
            Decoder(self.settings.market),
            lambda batch: self.store_breaker.call(lambda: self.store.append(batch)),
            self.meta.keep_dead,
            insist_dead,
            _CLOCK,
            saw=self.watch.saw,
            let_go=self.losses.note,
        )
        await ingest(ports, Buffer(self.settings.market, DATASET_OF, self.tally, limits))

    def _servers(self) -> list[tuple[str, uvicorn.Server, socket.socket]]:
        from data_manager.api.app import Components, Limits, create_app, metrics_app

        registry = telemetry.registry(self.metrics)
        servers = [("metrics", _http(metrics_app(registry)), self.sockets["METRICS_PORT"])]
        if self.settings.enable_api:
            components = Components(
                store=self.store,
                meta=self.meta,
                clock=_CLOCK,
                market=self.settings.market,
                version=__version__,
                source=self.store.kind,
                readiness=self.readiness,
                registry=registry,
                ingest=self._ingest_facts,
                series_version=self.store.version,
            )
            api = create_app(components, Limits(rows_max=self.settings.api_max_page_size))
            servers.append(("api", _http(api), self.sockets["API_PORT"]))
        return servers

    async def readiness(self) -> Readiness:
        """Whether we take events and can keep them, component by component, and why not."""
        from data_manager.api.health import Readiness

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
        from data_manager.services.watch import left_open

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


def _listen(settings: Settings, stack: AsyncExitStack) -> dict[str, socket.socket]:
    """The sockets we serve on, bound before anything is started. Raises BadSetting naming the port that is taken."""
    wanted = {"METRICS_PORT": (settings.metrics_host, settings.metrics_port)}
    if settings.enable_api:
        wanted["API_PORT"] = (settings.api_host, settings.api_port)
    sockets = {}
    for name, (host, port) in wanted.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
            one.listen(2048)
        except OSError as error:
            raise BadSetting(
                name, port, f"cannot listen on {host}:{port} ({error.strerror}): choose another"
            ) from error
        sockets[name] = one
    return sockets


def _http(application: object) -> uvicorn.Server:
    import uvicorn

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


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    """Within, SIGINT and SIGTERM set the event."""
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stopping.set)
    try:
        yield
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(one)


def _banner(settings: Settings, service: Service) -> str:
    def at(name: str) -> str:
        host, port = service.sockets[name].getsockname()[:2]
        return f"http://{host}:{port}"

    lines = [f"Petrosa Data Manager {__version__}", ""]
    if settings.enable_api:
        lines.append(f"  API       {at('API_PORT')}   (documentation at /docs)")
    lines += [
        f"  metrics   {at('METRICS_PORT')}/metrics",
        f"  bus       {'NATS_URL' if settings.nats_url else f'nats://127.0.0.1:{settings.nats_own_port} (our own)'}",
        f"  subject   {settings.nats_consumer_subject}",
        f"  data      {settings.data_dir.resolve()}",
        "",
        "  Waiting for events on the bus. To feed it recordings:",
        "    .venv/bin/data-manager replay FILE.jsonl.gz --speed max",
        "  Ctrl-C stops it; everything received by then is stored.",
    ]
    return "\n".join(lines)


def nats_access(settings: Settings, urls: Sequence[str]) -> NatsAccess:
    """How to reach these servers with the settings' logins and patience."""
    from data_manager.adapters.bus.connection import NatsAccess

    attempts = settings.nats_max_reconnect_attempts
    return NatsAccess(
        urls=tuple(urls),
        user=settings.nats_user,
        password=settings.nats_password,
        token=settings.nats_token,
        creds_file=settings.nats_creds_file,
        tls_ca_file=settings.nats_tls_ca_file,
        tls_cert_file=settings.nats_tls_cert_file,
        tls_key_file=settings.nats_tls_key_file,
        connect_timeout_s=settings.nats_connect_timeout,
        reconnect_wait_s=settings.nats_reconnect_time_wait,
        reconnect_attempts_max=None if attempts < 0 else attempts,
    )


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[SeriesStore]:
    """What is held, for reading, whether the service runs or not. Raises Unavailable when there is nothing yet."""
    from data_manager.adapters.store.readonly import ReadOnlyStore

    store = ReadOnlyStore(settings.data_dir, settings.store_memory_bytes)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def metadata(settings: Settings) -> AsyncIterator[MetaStore]:
    """The metadata store."""
    from data_manager.adapters.meta.sql import open_meta

    meta = await open_meta(settings.metadata_url)
    try:
        yield meta
    finally:
        await meta.close()


async def replay(
    settings: Settings,
    files: Sequence[Path],
    *,
    speed: float | None,
    raw: bool,
    merge: bool,
    progress: Callable[[ReplayProgress], None],
) -> ReplayReport:
    """Publish recordings on the subject; see services/replay.py. SIGINT ends it after the messages under way."""
    from data_manager.adapters.bus.publisher import open_publisher
    from data_manager.services.replay import Replay, ReplayOptions

    options = ReplayOptions(form="raw" if raw else "envelope", speed=speed, merge=merge)
    async with open_publisher(
        nats_access(settings, settings.nats_servers), settings.nats_consumer_subject
    ) as publisher:
        work = Replay(files, publisher, clock=_CLOCK, options=options, on_progress=progress)
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, work.stop)
        return await work.run()


async def migrate(settings: Settings) -> list[str]:
    """Bring the metadata database to this version's layout; the revisions that were applied."""
    from data_manager.adapters.meta.migrate import migrate as apply

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return await apply(settings.metadata_url)
