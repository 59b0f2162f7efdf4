"""The role work: what is to be done now and then for all replicas together, by the one of them that leads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from msgspec import structs

from data_manager.adapters.clock import SystemClock
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import Lease, MetadataStore, SeriesStore
from data_manager.service.again import Again
from data_manager.services.catalog import keep_statistics
from data_manager.services.lease import Campaign, LeaseStatus
from data_manager.services.reporting import Reporter
from data_manager.settings import Settings

CLOCK = SystemClock()
_STATISTICS_S = 30.0
_LOOK_S = 1.0
_HOUSE_S = 300.0


class Working:
    """Campaigns to lead, and does the work while it does. run() it once."""

    def __init__(self, settings: Settings, store: SeriesStore, meta: MetadataStore, reporter: Reporter) -> None:
        self._store = store
        self._meta = meta
        self._reporter = reporter
        self._campaign = Campaign(
            meta,
            "work",
            CLOCK,
            term_s=settings.leader_election_timeout,
            every_s=settings.leader_election_heartbeat_interval,
        )
        self._statistics: dict[str, int] = {}
        self._leaderless: Finding | None = None
        self._drift: Finding | None = None

    async def run(self) -> None:
        """Campaign until cancelled."""
        await self._campaign.run()

    def again(self) -> Iterator[Again]:
        """What is done again and again, by the leader."""
        yield Again("leadership", _LOOK_S, self._look_at_leader)
        yield Again("statistics", _STATISTICS_S, self._leading(self._keep_statistics))
        yield Again("store's house", _HOUSE_S, self._leading(self._look_at_house))

    def lease(self) -> LeaseStatus:
        """Who leads, as far as is known here."""
        return self._campaign.status()

    def lease_facts(self) -> dict[str, Any]:
        """The same for GET /health/connections."""
        return {"name": self._campaign.name, "we_are": self._campaign.holder, **structs.asdict(self.lease())}

    def _leading(self, work: Callable[[Lease], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        return lambda: self._campaign.lead(work)

    async def _keep_statistics(self, lease: Lease) -> None:
        await keep_statistics(self._store, self._meta.fenced(lease), CLOCK, self._statistics)

    async def _look_at_house(self, lease: Lease) -> None:
        """A finding while the store's indexes or retention are not what they should be."""
        now_ms = CLOCK.now_ms()
        problems = await self._store.problems(now_ms)
        if problems:
            self._drift = found(
                FindingKind.DRIFT,
                severity="warning",
                start_ms=now_ms if self._drift is None else self._drift.start_ms,
                evidence={"problems": len(problems), "first": problems[0]},
                found_ms=now_ms,
            )
            self._reporter.report([self._drift])
        elif self._drift is not None:
            self._reporter.report([self._drift.resolved(now_ms, now_ms)])
            self._drift = None

    async def _look_at_leader(self) -> None:
        """A finding while nobody has led for two terms."""
        since_ms, now_ms = self._campaign.leaderless_since_ms(), CLOCK.now_ms()
        if since_ms is not None and self._leaderless is None:
            self._leaderless = found(
                FindingKind.LEADERLESS,
                severity="critical",
                start_ms=since_ms,
                evidence={"lease": self._campaign.name, "why": self._campaign.status().reason or "nobody took it"},
                found_ms=now_ms,
            )
            self._reporter.report([self._leaderless])
        elif since_ms is None and self._leaderless is not None:
            self._reporter.report([self._leaderless.resolved(now_ms, now_ms)])
            self._leaderless = None
