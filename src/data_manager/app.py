"""The composition root: opens adapters, introduces them to services and routes (service/), and closes them again.

Opening order is the reverse of closing: the sockets and the store's lock first (a second service on one DATA_DIR stops
here), then our own bus server, metadata and bus. What a command composes is imported when it runs.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from data_manager import telemetry
from data_manager.adapters.clock import SystemClock
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadSetting, Corrupt, DataManagerError
from data_manager.ports import Bus, Extent, MetadataStore, SeriesStore
from data_manager.service.access import mongo_access, nats_access
from data_manager.service.front import announcing, banner, bound, listen, signals, whereabouts
from data_manager.settings import Settings

if TYPE_CHECKING:
    from data_manager.adapters.bus.nats_server import NatsServer
    from data_manager.domain.job import Choice, Job
    from data_manager.domain.span import Span
    from data_manager.ports.source import Source
    from data_manager.service.errand import Asked, Tell
    from data_manager.service.feeding import Feeder
    from data_manager.service.ingesting import Ingesting
    from data_manager.service.mending import Past
    from data_manager.service.running import Parts, Role
    from data_manager.services.databases import Databases
    from data_manager.services.ingesting.dropping import Losses
    from data_manager.services.keeping.retain import Retained
    from data_manager.services.reconciling import Reconciled
    from data_manager.services.replay import ReplayProgress, ReplayReport
    from data_manager.services.reporting import Reporter

_log = structlog.get_logger(__name__)
_CLOCK = SystemClock()
_AT_ONCE = 16  # series that the store is asked about at the same time


async def run(
    settings: Settings, *, role: Role, own_server: bool, say: Callable[[str, dict[str, str]], None], feeds: bool = False
) -> None:
    """The service in that role, until SIGINT or SIGTERM.

    own_server: start a nats-server of our own in DATA_DIR. feeds: take live data from the exchange too. say is told
    when it is up, in words for people, and where everything is. Raises DataManagerError when something cannot be
    opened; on the way out everything taken from the bus is stored and acknowledged.
    """
    from data_manager.service.running import Service

    telemetry.configure_logging(settings.log_level, settings.log_format)
    structlog.contextvars.bind_contextvars(environment=settings.environment)
    async with AsyncExitStack() as stack:
        sockets = listen(settings, stack, role)
        parts = await _open(settings, stack, role, own_server=own_server)
        if feeds:
            parts = parts._replace(feeding=_open_feed(settings, stack, parts))
        service = Service(settings, parts, sockets)
        stopping = asyncio.Event()
        with signals(stopping), announcing(settings, role, sockets):
            say(banner(settings, service), whereabouts(settings, service))
            try:
                await service.run(stopping)
            except* DataManagerError as group:
                raise group.exceptions[0] from group
    _log.info("stopped", missing=parts.tally.missing(), in_flight=parts.tally.in_flight)


async def _open(settings: Settings, stack: AsyncExitStack, role: Role, *, own_server: bool) -> Parts:
    from data_manager.adapters.counting import count_calls
    from data_manager.service.channels import alert_channels
    from data_manager.service.running import Parts
    from data_manager.service.working import Working
    from data_manager.services.databases import Databases
    from data_manager.services.reporting import Reporter

    ingests = role in ("all", "ingest")
    store = await _open_rows(settings, writes=ingests)
    _close_with(stack, "the store", store.close)
    server = await _own_server(settings, stack) if own_server else None
    meta = await _open_metadata(settings)
    _close_with(stack, "the metadata store", meta.close)
    tally = telemetry.Tally()
    metrics = telemetry.TallyMetrics(tally)
    count_calls(metrics.calls, store.kind, store, SeriesStore)
    count_calls(metrics.calls, settings.metadata_kind, meta, MetadataStore)
    reporter = Reporter(meta.keep_findings)
    name, bytes_max = settings.mongodb_db, settings.store_bytes_max
    databases = Databases(store, meta, settings.metadata_kind, _CLOCK, name=name, bytes_max=bytes_max)
    working = None
    past = None if role == "ingest" else _open_past(settings, stack, meta)
    if past is not None and role != "api":
        writes = ingests or settings.rows_url is not None  # the embedded store has one writer
        working = Working(settings, store, meta, reporter, databases, past, writes=writes)
    ingesting = None
    if ingests:
        ingesting = await _open_ingesting(settings, stack, store, meta, reporter, tally, metrics, databases, server)
    knows_a_bus = ingests or server is not None or settings.nats_url is not None
    urls = [server.url] if server else settings.nats_servers
    channels = alert_channels(settings, nats_access(settings, urls) if knows_a_bus else None)
    sources = None if past is None else past.sources
    return Parts(
        role, store, meta, reporter, tally, metrics, databases, ingesting, working, channels=channels, sources=sources
    )


def _close_with(stack: AsyncExitStack, what: str, close: Callable[[], Awaitable[None]]) -> None:
    """Close it with the stack, and name it in the log if that takes long."""
    from data_manager.services.ending import waited_for

    async def close_it() -> None:
        with waited_for(what):
            await close()

    stack.push_async_callback(close_it)


def _open_past(settings: Settings, stack: AsyncExitStack, meta: MetadataStore) -> Past:
    """Whom the past can be asked of."""
    from data_manager.service.past import open_past

    past = open_past(settings, meta, _CLOCK)
    for source in past.sources:
        _close_with(stack, source.name, source.close)
    return past


async def _open_rows(settings: Settings, *, writes: bool) -> SeriesStore:
    """The store of the rows. MongoDB, and a file that another process is to make, may come up after us."""
    from data_manager.adapters.late import late_rows

    if settings.rows_url is not None:
        from data_manager.adapters.mongo.store import open_mongo

        access = mongo_access(settings)
        return late_rows("mongodb", lambda: open_mongo(access))
    if writes:
        from data_manager.adapters.store.embedded import EmbeddedStore

        return await asyncio.to_thread(EmbeddedStore, settings.data_dir, settings.store_memory_bytes)
    from data_manager.adapters.store.readonly import ReadOnlyStore

    async def open_file() -> SeriesStore:
        return ReadOnlyStore(settings.data_dir, settings.store_memory_bytes)

    return late_rows("embedded", open_file)


async def _open_metadata(settings: Settings) -> MetadataStore:
    """The metadata store. A server may come up after us; a file has to be there."""
    from data_manager.adapters.late import late_metadata
    from data_manager.adapters.meta.failures import Refused
    from data_manager.adapters.meta.sql import open_meta

    async def open_it() -> MetadataStore:
        try:
            return await open_meta(
                settings.metadata_url,
                dead_letters_max=settings.dead_letters_max,
                dead_bytes_max=settings.dead_letters_bytes_max,
            )
        except Refused as error:  # it answers, and says no: to wait for it would mend nothing
            name = "META_URL" if settings.meta_url else "MYSQL_URI" if settings.mysql_uri else "MYSQL_HOST"
            raise BadSetting(name, "***", str(error)) from error

    if settings.metadata_kind != "sqlite":
        return late_metadata("metadata database", open_it)
    with suppress(OSError):  # opening the file says what is wrong
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return await open_it()


async def _own_server(settings: Settings, stack: AsyncExitStack) -> NatsServer:
    from data_manager.adapters.bus.nats_server import NatsServer

    server = NatsServer(settings.data_dir / "nats", port=settings.nats_own_port)
    await server.start()
    _close_with(stack, "nats-server", server.stop)
    return server


async def _open_ingesting(
    settings: Settings,
    stack: AsyncExitStack,
    store: SeriesStore,
    meta: MetadataStore,
    reporter: Reporter,
    tally: telemetry.Tally,
    metrics: telemetry.TallyMetrics,
    databases: Databases,
    server: NatsServer | None,
) -> Ingesting:
    from data_manager.adapters.binance.wire import DATASET_OF, Decoder
    from data_manager.adapters.bus.nats_core import CoreOptions
    from data_manager.adapters.bus.nats_stream import StreamOptions
    from data_manager.adapters.bus.opening import open_bus
    from data_manager.service.ingesting import Ingesting
    from data_manager.services.ingesting.dropping import Losses

    decode = Decoder(settings.market, shared=settings.subject_is_shared)
    losses = Losses(decode, DATASET_OF, settings.market, _CLOCK)
    bus = open_bus(
        nats_access(settings, [server.url] if server else settings.nats_servers),
        settings.nats_consumer_subject,
        mode=settings.nats_mode,
        clock=_CLOCK,
        stream=StreamOptions(
            stream=settings.nats_stream,
            durable=settings.nats_consumer,
            max_bytes=settings.stream_bytes,
            or_less=settings.nats_stream_max_bytes is None,
            max_age_s=settings.nats_stream_max_age_s,
            ack_wait_s=settings.nats_ack_wait_s,
            in_flight_max=settings.message_queue_size,
        ),
        core=CoreOptions(
            queue=settings.nats_consumer,
            rows_max=settings.message_queue_size,
            show_dropped=losses.let_go,
            show_away=losses.away,
        ),
    )
    _close_with(stack, "the bus", bus.close)
    if settings.nats_mode != "jetstream":
        await _resume(store, losses, bus)
    return Ingesting(settings, store, meta, bus, losses, reporter, tally, metrics, databases, server)


def _open_feed(settings: Settings, stack: AsyncExitStack, parts: Parts) -> Feeder:
    """The feed beside ingest. What its queue lets go has findings with series and span, like all that is let go."""
    from data_manager.service.feeding import open_feeder

    ingesting = parts.ingesting
    assert ingesting is not None, "who feeds a bus also takes from it"
    urls = [ingesting.own_server.url] if ingesting.own_server else settings.nats_servers
    work = open_feeder(settings, nats_access(settings, urls), _CLOCK, ingesting.let_go)
    _close_with(stack, "the feed's outbox", work.outbox.close)
    return work


async def feed(
    settings: Settings, *, seconds: float | None, metrics_port: int | None, say: Callable[[Feeder], None]
) -> Feeder:
    """The feed alone, until SIGINT, SIGTERM or for so many seconds; how it stood at the end.

    metrics_port: where metrics are served, at METRICS_HOST. say is called when it begins, and then every second.
    """
    from data_manager.service.feeding import open_feeder
    from data_manager.service.standalone import run_feeder

    telemetry.configure_logging(settings.log_level, settings.log_format)
    work = open_feeder(settings, nats_access(settings, settings.nats_servers), _CLOCK, None)
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(work.outbox.close)
        at = None if metrics_port is None else bound(stack, "metrics-port", settings.metrics_host, metrics_port)
        if seconds is not None:
            stack.callback(asyncio.get_running_loop().call_later(seconds, stopping.set).cancel)
        with signals(stopping):
            await run_feeder(work, stopping, at, say, _CLOCK)
    return work


async def _resume(store: SeriesStore, losses: Losses, bus: Bus) -> None:
    """Tell losses what passed between an earlier run and this one, before anything is stored: now, or when a store that
    comes up late is there."""
    from data_manager.adapters.late import Late

    async def resume(there: SeriesStore) -> None:
        held, since_ms = await _ends(there)
        losses.resume(held, None if since_ms is None else bus.missed_since(since_ms))

    if isinstance(store, Late):
        store.before_others(resume)
    else:
        await resume(store)


async def _ends(store: SeriesStore) -> tuple[dict[Series, Extent], int | None]:
    """How every series ends, and when the newest of their rows was received; None when nothing is known."""
    held: dict[Series, Extent] = {}
    received_ms: list[int] = []

    async def look(series: Series) -> None:
        with suppress(Corrupt):  # the statistics tell of the damage
            extent = await store.extent(series)
            if extent is not None:
                held[series] = extent

    every = await store.series()
    for at in range(0, len(every), _AT_ONCE):
        await asyncio.gather(*(look(one) for one in every[at : at + _AT_ONCE]))
    for series in sorted(held, key=lambda one: held[one].last_ms)[-1:]:
        with suppress(Corrupt):
            received_ms = (await store.last(series, 1)).columns["received_ms"].values_list()
    return held, max(received_ms, default=None)


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[SeriesStore]:
    """What is held, for reading, whether the service runs or not. Raises Unavailable when there is nothing yet."""
    if settings.rows_url is not None:
        from data_manager.adapters.mongo.store import open_mongo

        store: SeriesStore = await open_mongo(mongo_access(settings))
    else:
        from data_manager.adapters.store.readonly import ReadOnlyStore

        store = ReadOnlyStore(settings.data_dir, settings.store_memory_bytes)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def writer(settings: Settings) -> AsyncIterator[SeriesStore]:
    """The store that the settings name, for writing. Raises StoreLocked while a service writes."""
    if settings.rows_url is not None:
        async with reader(settings) as store:
            yield store
        return
    from data_manager.adapters.store.embedded import EmbeddedStore

    embedded = await asyncio.to_thread(EmbeddedStore, settings.data_dir, settings.store_memory_bytes)
    try:
        yield embedded
    finally:
        await embedded.close()


@asynccontextmanager
async def metadata(settings: Settings) -> AsyncIterator[MetadataStore]:
    """The metadata store."""
    from data_manager.adapters.meta.sql import open_meta

    meta = await open_meta(settings.metadata_url)
    try:
        yield meta
    finally:
        await meta.close()


async def backfill(settings: Settings, asked: Asked, *, wait: bool, tell: Tell) -> list[Job]:
    """Enter backfill jobs, and run them where no service does; see service/errand.py."""
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.service.errand import errand

    async with AsyncExitStack() as stack:
        with suppress(OSError):  # opening the file says what is wrong
            settings.data_dir.mkdir(parents=True, exist_ok=True)
        meta = await open_meta(settings.metadata_url)
        stack.push_async_callback(meta.close)

        async def open_store() -> SeriesStore:
            return await stack.enter_async_context(writer(settings))

        def open_sources() -> Sequence[Source]:
            return _open_past(settings, stack, meta).sources

        return await errand(settings, meta, open_store, open_sources, asked, wait=wait, tell=tell)


async def retain(
    settings: Settings,
    series: Sequence[Series] | None,
    *,
    dry_run: bool,
    force: bool,
    tell: Callable[[int, int, str], None],
) -> Retained:
    """Let go of what is older than its retention, where no service does it; see service/keeping.py."""
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.service.auditing import conditions_of
    from data_manager.service.keeping import retain_alone, retention_of
    from data_manager.services.keeping.certify import Certifier
    from data_manager.services.reporting import Reporter

    async with AsyncExitStack() as stack:
        meta = await open_meta(settings.metadata_url)
        stack.push_async_callback(meta.close)
        if dry_run:
            store = await stack.enter_async_context(reader(settings))
            certifier = Certifier(store, meta, conditions_of(settings, meta), _CLOCK)
            retention = retention_of(settings, store, meta, certifier, Reporter(meta.keep_findings), "")
            return await retention.run(series, dry_run=True, force=force, progress=tell)
        store = await stack.enter_async_context(writer(settings))
        return await retain_alone(settings, store, meta, series, force=force, tell=tell)


async def reconcile(
    settings: Settings, series: Series, span: Span, *, source: Choice, progress: Callable[[int, int, str], None]
) -> Reconciled:
    """Compare what is held with what the sources say; differences are findings. See services/reconciling.py."""
    from data_manager.service.past import open_past
    from data_manager.services.reconciling import NotTakenIn, Reconciler
    from data_manager.services.reporting import Reporter

    async with reader(settings) as store, metadata(settings) as meta, AsyncExitStack() as stack:
        past = open_past(settings, NotTakenIn(meta), _CLOCK)
        for one in past.sources:
            stack.push_async_callback(one.close)
        reporter = Reporter(meta.keep_findings, waiting_max=100_000)
        reconciler = Reconciler(store, meta, past.sources, _CLOCK, reporter.report)
        done = await reconciler.run(series, span, choice=source, progress=progress)
        await reporter.keep()
        return done


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
