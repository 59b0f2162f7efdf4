"""The role work: what is to be done now and then for all replicas together, by the one of them that leads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog
from msgspec import structs

from data_manager.adapters.clock import SystemClock
from data_manager.domain.errors import Corrupt
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import Lease, MetadataStore, SeriesStore
from data_manager.service.again import Again
from data_manager.service.auditing import Auditing
from data_manager.service.keeping import Keeping
from data_manager.service.mending import Mending, Past
from data_manager.service.release import left_behind
from data_manager.services.catalog import keep_statistics
from data_manager.services.databases import Databases
from data_manager.services.lease import Campaign, LeaseStatus
from data_manager.services.periodic import when_due
from data_manager.services.reporting import Reporter
from data_manager.settings import Settings

_log = structlog.get_logger(__name__)
CLOCK = SystemClock()
_STATISTICS_S = 30.0
_LOOK_S = 1.0
_HOUSE_S = 300.0
_FINDINGS_MAX = 1_000


class Working:
    """Campaigns to lead, and does the work while it does. run() it once."""

    def __init__(
        self,
        settings: Settings,
        store: SeriesStore,
        meta: MetadataStore,
        reporter: Reporter,
        databases: Databases,
        past: Past,
        *,
        writes: bool,
    ) -> None:
        """past: whom it can be asked of. writes: whether this process may append rows to the store."""
        self._store = store
        self._meta = meta
        self._reporter = reporter
        self._campaign = Campaign(
            meta,
            "work",
            CLOCK,
            term_s=settings.leader_election_timeout,
            every_s=settings.heartbeat_s,
        )
        self.auditing = Auditing(settings, store, meta, reporter, self._campaign)
        self.mending = Mending(
            settings, store, meta, reporter, self._campaign, databases, self.auditing.auditor, past, writes=writes
        )
        self.keeping = Keeping(settings, store, meta, reporter, self._campaign, writes=writes)
        self._statistics: dict[str, int] = {}
        self._leaderless: Finding | None = None  # as told
        self._ended_in_epoch = 0

    async def run(self) -> None:
        """Campaign until cancelled."""
        await self._campaign.run()

    def again(self) -> Iterator[Again]:
        """What is done again and again, by the leader."""
        yield Again("leadership", _LOOK_S, self._look_at_leader)
        statistics, house = self._leading(self._keep_statistics), self._leading(self._look_at_house)
        yield Again("statistics", _LOOK_S, when_due(_STATISTICS_S, statistics, CLOCK))
        yield Again("store's house", _LOOK_S, when_due(_HOUSE_S, house, CLOCK))
        yield from self.auditing.again()
        yield from self.mending.again()
        yield from self.keeping.again()

    def lease(self) -> LeaseStatus:
        """Who leads, as far as is known here."""
        return self._campaign.status()

    def lease_facts(self) -> dict[str, Any]:
        """The same for GET /health/connections."""
        return {"name": self._campaign.name, "we_are": self._campaign.holder, **structs.asdict(self.lease())}

    async def close(self) -> None:
        """Put back what is under way."""
        await self.mending.close()

    async def lead(self, work: Callable[[Lease], Awaitable[object]]) -> bool:
        """Do work if we lead; whether it was done to its end. See Campaign.lead."""
        return await self._campaign.lead(work)

    def _leading(self, work: Callable[[Lease], Awaitable[object]]) -> Callable[[], Awaitable[bool]]:
        return lambda: self._campaign.lead(work)

    async def _keep_statistics(self, lease: Lease) -> None:
        await keep_statistics(self._store, self._meta.fenced(lease), CLOCK, self._statistics)

    async def _look_at_house(self, lease: Lease) -> None:
        """A finding while the store's indexes or retention are not what they should be, whoever found it first."""
        now_ms = CLOCK.now_ms()
        self._reporter.report(left_behind(await self._open(FindingKind.OUTDATED), now_ms))
        problems = await self._store.problems(now_ms)
        standing = await self._open(FindingKind.DRIFT)
        if problems:
            news = found(
                FindingKind.DRIFT,
                severity="warning",
                start_ms=min((one.start_ms for one in standing), default=now_ms),
                evidence={"problems": len(problems), "first": problems[0]},
                found_ms=now_ms,
            )
            self._reporter.report([news])
        else:
            self._reporter.report([one.resolved(now_ms, now_ms) for one in standing])

    async def _look_at_leader(self) -> None:
        """A finding while nobody has led for two terms; who leads then ends those that killed processes left of it."""
        now_ms = CLOCK.now_ms()
        status, since_ms = self._campaign.status(), self._campaign.leaderless_since_ms()
        if since_ms is not None and self._leaderless is None:
            self._leaderless = found(
                FindingKind.LEADERLESS,
                severity="critical",
                start_ms=since_ms,
                evidence={"lease": self._campaign.name, "why": status.reason or "nobody took it"},
                found_ms=now_ms,
            )
            self._reporter.report([self._leaderless])
        elif status.leading and status.epoch != self._ended_in_epoch:
            standing = await self._open(FindingKind.LEADERLESS)
            self._reporter.report([one.resolved(now_ms, now_ms) for one in standing])
            self._ended_in_epoch = status.epoch
        if since_ms is None and self._leaderless is not None:
            self._reporter.report([self._leaderless.resolved(now_ms, now_ms)])
            self._leaderless = None

    async def _open(self, kind: FindingKind) -> list[Finding]:
        """Findings of that kind that stand, of whichever process, in the store or on their way there."""
        try:
            kept, _ = await self._meta.findings(limit=_FINDINGS_MAX, kind=kind, open_only=True)
        except Corrupt as error:
            _log.error("findings cannot be read", kind=kind.value, reason=str(error))
            kept = []
        known = {one.id for one in kept}
        return kept + [one for one in self._reporter.open_ones(kind) if one.id not in known]
