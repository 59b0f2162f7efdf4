"""Mending in a running service: backfill jobs, auto-heal and the lives of symbols, by the replica that leads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import structlog

from data_manager.adapters.clock import SystemClock
from data_manager.adapters.resilience import Breaker
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Conflict, Corrupt, DataManagerError, Unavailable
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.holes.mending import Patience
from data_manager.domain.job import JobState
from data_manager.domain.time import SECOND_MS
from data_manager.ports import Lease, MetadataStore, Records, SeriesStore
from data_manager.ports.source import Source
from data_manager.service.again import Again
from data_manager.service.auditing import conditions_of
from data_manager.services.backfill import Backfiller
from data_manager.services.backfilling.losses import Losses
from data_manager.services.databases import Databases
from data_manager.services.healing import Audits, Healing
from data_manager.services.ingesting.shedding import nearly_shed
from data_manager.services.keeping.certify import Certifier
from data_manager.services.lease import Campaign
from data_manager.services.planning import by_cost
from data_manager.services.reporting import Reporter
from data_manager.settings import Settings

CLOCK = SystemClock()
_JOBS_S: Final = 0.5
_HEAL_S: Final = 1.0
_COUNT_S: Final = 5.0
_LIVES_S: Final = 3_600.0
_LOOK_S: Final = 10.0
_ONE_WRITER: Final = "another process writes the embedded store; serve --role all, or MongoDB, runs them"
_log = structlog.get_logger(__name__)

LifeOf = Callable[[Series], Awaitable[SymbolLife | None]]
SourceFacts = dict[str, Any]


class Past(NamedTuple):
    """Whom the past can be asked of. life_of: when a symbol was listed and delisted, where anybody tells.

    facts: by name of what is asked, what was asked of it, what that used of its budget, and what holds us up.
    """

    sources: Sequence[Source] = ()
    life_of: LifeOf | None = None
    facts: Callable[[], Mapping[str, SourceFacts]] = dict


class Mending:
    """Runs jobs and heals while we lead. counts: jobs by state, as last looked; None before that."""

    def __init__(
        self,
        settings: Settings,
        store: SeriesStore,
        meta: MetadataStore,
        reporter: Reporter,
        campaign: Campaign,
        databases: Databases,
        audits: Audits,
        past: Past,
        *,
        writes: bool,
    ) -> None:
        """writes: whether this process may append rows to the store."""
        self.counts: Mapping[JobState, int] | None = None
        self.breaker = Breaker("store for backfill")
        self._meta = meta
        self._store = store
        self._campaign = campaign
        self._databases = databases
        self._past = past
        self.source_facts = past.facts
        self._asked_s: dict[tuple[str, str], float] = {}  # when the life of a symbol was asked for
        self._jobs_on = settings.enable_backfiller and writes
        self._heals_on = self._jobs_on and settings.enable_auto_backfill
        self.backfiller = Backfiller(
            past.sources,
            lambda batch: self.breaker.call(lambda: store.append(batch)),
            CLOCK,
            owner=campaign.holder,
            at_once=settings.max_concurrent_tasks,
            report=reporter.report,
            plan=by_cost,
        )
        self.healing = Healing(
            audits,
            Losses(CLOCK, reporter.report, self._near_full),
            CLOCK,
            jobs_max=settings.max_auto_backfill_jobs,
            patience=Patience(
                ask_again_ms=round(settings.auto_backfill_ask_again_s * SECOND_MS),
                least_ms=settings.min_auto_backfill_gap * SECOND_MS,
            ),
            certifier=Certifier(store, meta, conditions_of(settings, meta), CLOCK, rest=1.0),
        )
        self._jobs_wait = settings.enable_backfiller and not writes

    def again(self) -> Iterator[Again]:
        """Its turns."""
        yield Again("count jobs", _COUNT_S, self._count)
        if self._jobs_on:
            yield Again("backfill", _JOBS_S, lambda: self._lead(self.backfiller.turn))
        if self._heals_on:
            yield Again("heal", _HEAL_S, lambda: self._lead(self.healing.turn))
        if self._past.life_of is not None:
            yield Again("lives of symbols", _LOOK_S, lambda: self._lead(self._learn_lives))

    def reason(self) -> str | None:
        """Why jobs wait that are for us to run; None where they do not, or where somebody else runs them."""
        if not self._jobs_wait or self._campaign.held() is None or not self.counts:
            return None
        waiting = self.counts.get(JobState.PENDING, 0)
        return f"{waiting} jobs wait: {_ONE_WRITER}" if waiting else None

    async def close(self) -> None:
        """Put the jobs at work back, so that whoever leads next goes on at once."""
        await self.backfiller.close()

    async def _lead(self, work: Callable[[Records], Awaitable[object]]) -> bool:
        """Do it if we lead. What somebody else changed, or cannot be read, is looked at again at the next turn."""

        async def under(lease: Lease) -> None:
            await work(self._meta.fenced(lease))

        try:
            return await self._campaign.lead(under)
        except (Conflict, Corrupt) as error:
            raise Unavailable(str(error)) from error

    async def _count(self) -> None:
        self.counts = await self._meta.job_counts()

    def _near_full(self) -> frozenset[str]:
        return nearly_shed(self._databases.sizes, self._databases.bytes_max)

    async def _learn_lives(self, records: Records) -> None:
        """When the symbols that are held were listed and delisted, as the venue tells: each now and then."""
        life_of, now_s = self._past.life_of, CLOCK.monotonic_s()
        assert life_of is not None, "somebody tells"
        held = {(one.market, one.symbol): one for one in await self._store.series()}
        told, away = list[SymbolLife](), dict[str, str]()  # markets that do not answer, and why
        for whose, series in held.items():
            if now_s - self._asked_s.get(whose, float("-inf")) < _LIVES_S or series.market in away:
                continue
            try:
                life = await life_of(series)
            except DataManagerError as error:  # one market that is away says nothing of the others
                away[series.market] = str(error)
                continue
            self._asked_s[whose] = now_s
            if life is not None:
                told.append(life)
        for market, reason in away.items():
            _log.warning("the life of symbols is not known", market=market, reason=reason)
        if told:
            await records.keep_lives(told)
