"""The role ingest: bus to store, the watch over what comes, and what is to be said of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from msgspec import structs

from data_manager.adapters.binance.wire import DATASET_OF, LABELLED, Decoder
from data_manager.adapters.binance.wire_paths import path_of
from data_manager.adapters.binance.wire_precise import FOREIGN
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.resilience import Breaker
from data_manager.domain.batch import Batch
from data_manager.domain.finding import FindingKind
from data_manager.ports import Bus, BusState, DeadLetter, Delivery, MetaStore, SeriesStore
from data_manager.service.again import Again
from data_manager.services.databases import Databases
from data_manager.services.dead_letters.log import DeadLetterLog
from data_manager.services.ingest import Ports, ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.services.ingesting.contradictions import Contradictions
from data_manager.services.ingesting.dropping import Losses
from data_manager.services.ingesting.labels import Labels
from data_manager.services.ingesting.screen import Screen
from data_manager.services.ingesting.shedding import Shedding
from data_manager.services.ingesting.status import IngestStatus
from data_manager.services.reporting import Reporter
from data_manager.services.watch import Watch, ask_about_silence, left_open
from data_manager.settings import Settings
from data_manager.telemetry import Tally, TallyMetrics

CLOCK = SystemClock()
_STATE_S = 2.0
_STATS_LINE_S = 60.0
_WATCH_S = 1.0
_NOTHING_PARSES = 20  # events that all had to be rejected since the start: something is wrong with the feed or with us
_log = structlog.get_logger(__name__)


class Ingesting:
    """Everything between the bus and the store. run() it once; stop() lets it drain."""

    def __init__(
        self,
        settings: Settings,
        store: SeriesStore,
        meta: MetaStore,
        bus: Bus,
        losses: Losses,
        reporter: Reporter,
        tally: Tally,
        metrics: TallyMetrics,
        databases: Databases,
        server: NatsServer | None,
    ) -> None:
        self.tally = tally
        self._settings = settings
        self._store = store
        self._meta = meta
        self._bus = bus
        self._losses = losses
        self._reporter = reporter
        self._metrics = metrics
        self._server = server
        self._watch = Watch(CLOCK, tally, reporter.report, shared=store.kind == "mongodb")
        self._labels = Labels(settings.market, LABELLED, CLOCK, tolerance=settings.book_label_tolerance_percent / 100)
        self.contradictions = Contradictions(settings.market, store, CLOCK, reporter.report)
        self._stopping = False
        self._dead_log = DeadLetterLog(lambda: tally.dead_evicted, CLOCK)
        self._databases = databases
        self._shedding = Shedding(settings.store_bytes_max, losses.shed)
        self._status = IngestStatus(tally, self._watch, CLOCK)
        self._store_breaker = Breaker("store")
        self._meta_breaker = Breaker("metadata")
        self.breakers = (self._store_breaker, self._meta_breaker)

    async def run(self) -> None:
        """Ingest until stop(), then store what was taken and return."""
        settings = self._settings
        limits = Limits(settings.max_batch_size, settings.flush_bytes_max, settings.flush_age_ms)
        ports = Ports(
            self._bus,
            Decoder(settings.market, shared=settings.subject_is_shared),
            lambda batch: self._store_breaker.call(lambda: self._store.append(batch)),
            lambda letters: self._meta_breaker.call(lambda: self._keep_dead(letters)),
            CLOCK,
            saw=self._saw,
            let_go=self._losses.note,
            screen=Screen(self._labels),
            path_of=path_of,
            shed=self._shedding.take,
            came_again=self.contradictions.came_again,
        )
        await ingest(ports, Buffer(settings.market, DATASET_OF, self.tally, limits))

    async def _keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        await self._meta.keep_dead(letters)
        self.tally.dead_evicted = self._meta.dead_evicted
        self._dead_log.kept(letters)

    def _saw(self, batch: Batch) -> None:
        self._watch.saw(batch)
        self._losses.saw(batch)

    def stop(self) -> None:
        """Take nothing more from the bus."""
        self._stopping = True
        self._bus.stop()

    @property
    def own_server(self) -> NatsServer | None:
        """The bus's server, where we run it."""
        return self._server

    def let_go(self, delivery: Delivery) -> None:
        """This never reached the bus: somebody in this process had no room for it."""
        self._losses.let_go(delivery)

    def again(self) -> Iterator[Again]:
        """What goes on beside it."""
        yield Again("bus state", _STATE_S, self.look_at_bus)
        yield Again("stats line", _STATS_LINE_S, self._say_stats)
        yield Again("watch", _WATCH_S, self._look_at_streams)
        yield Again("contradictions", _WATCH_S, self.contradictions.look)
        yield Again("silence", _WATCH_S, lambda: ask_about_silence(self._watch, self._store))

    async def beside(self) -> None:
        """What goes on beside it and is not done again: what an earlier run left open, and our own bus's server."""
        findings = await self._meta_breaker.call(lambda: left_open(self._meta))
        self._watch.adopt(findings)
        self._labels.adopt(findings)
        if self._server is not None:
            await self._server.keep()

    # ---- what it says of itself ----------------------------------------------------------------------------------

    async def reasons(self) -> dict[str, str | None]:
        """By component why we cannot take events and keep them; None where we can."""
        state = self._metrics.bus
        if state is None or not state.connected:  # the news may be older than the connection
            state = await self.look_at_bus()
        return {
            "nats": None if state.connected else state.reason or "not connected",
            "store": self._store_breaker.reason,
            "metadata": self._meta_breaker.reason,
            "ingest": self._nothing_parses(),
        }

    async def look_at_bus(self) -> BusState:
        """Ask the bus how it is, and remember that for the figures."""
        self._metrics.bus = await self._bus.state()
        self._status.look()
        return self._metrics.bus

    async def connection_facts(self) -> dict[str, Any]:
        """Its part of the body of GET /health/connections."""
        state = await self.look_at_bus()
        breakers = {one.name: one.facts() for one in self.breakers}
        return {"nats": structs.asdict(state), "breakers": breakers}

    async def facts(self) -> dict[str, Any]:
        """The body of GET /health/ingest, with what the bus holds at this moment: nobody may take old news for done."""
        self._metrics.bus = await self._bus.state()
        return self._status.facts(self._metrics.bus)

    @property
    def shed(self) -> frozenset[str]:
        """Datasets that are let go for want of room in the store."""
        return self._shedding.names

    def last_findings(self) -> None:
        """What was let go and not told yet, to the reporter."""
        self._reporter.report([*self._losses.findings(), *self._labels.findings()])
        self.tally.findings_open[FindingKind.MISLABELLED.value] = self._labels.open
        self._dead_log.tell(everything=self._stopping)

    async def _look_at_streams(self) -> None:
        self._shedding.look(self._databases.sizes)
        self.last_findings()
        bus = self._metrics.bus
        self._watch.judge(None if bus is None or bus.connected else bus.reason or "not connected")

    def _nothing_parses(self) -> str | None:
        tally = self.tally
        unread, foreign = tally.refused.total(), tally.ignored[FOREIGN.reason]
        read = tally.new.total() + tally.changed.total() + tally.duplicate.total() + tally.dropped
        if read or unread + foreign < _NOTHING_PARSES:
            return None
        if not unread:
            return f"{foreign} messages arrived, none of them market data: is NATS_CONSUMER_SUBJECT right?"
        return f"{unread} events arrived and none could be read: see the dead letters"

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
