"""Keeping in a running service: days that are over are certified, what is too old goes, by the replica that leads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from data_manager.adapters.clock import SystemClock
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Conflict, Corrupt, Unavailable
from data_manager.domain.retention import parse_days
from data_manager.ports import Lease, MetadataStore, Records, SeriesStore
from data_manager.service.again import Again
from data_manager.service.auditing import conditions_of
from data_manager.service.errand import LEASE
from data_manager.services.ending import ended
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.days import CertifyDays
from data_manager.services.keeping.retain import Progress, Retained, Retention
from data_manager.services.keeping.steady import ClockJumped
from data_manager.services.lease import Campaign
from data_manager.services.periodic import when_due
from data_manager.services.reporting import Reporter
from data_manager.settings import Settings

CLOCK = SystemClock()
_LOOK_S: Final = 1.0
_ASK_S: Final = 0.1
_CERTIFY_S: Final = 60.0
_REST: Final = 1.0  # so many times as long as it worked it leaves others their turn
_log = structlog.get_logger(__name__)


class Keeping:
    """Certifies days and lets old rows go while we lead. retention is None where this process may not delete rows."""

    def __init__(
        self,
        settings: Settings,
        store: SeriesStore,
        meta: MetadataStore,
        reporter: Reporter,
        campaign: Campaign,
        *,
        writes: bool,
    ) -> None:
        """writes: whether this process may delete rows."""
        conditions = conditions_of(settings, meta)
        self._certifier = Certifier(store, meta, conditions, CLOCK, rest=_REST)
        self.days = CertifyDays(store, meta, self._certifier, conditions, CLOCK)
        made = retention_of(settings, store, meta, self._certifier, reporter, campaign.holder)
        self.retention = made if writes else None
        self._certifies = settings.enable_certifier
        self._retains = settings.enable_retention
        self._interval_s = settings.retention_interval
        self._retains_from_s = (
            CLOCK.monotonic_s() + self._interval_s
        )  # so that the audit may look first, and people too
        self._meta = meta
        self._campaign = campaign

    def again(self) -> Iterator[Again]:
        """Their turns."""
        if self._certifies:
            yield Again("certify", _LOOK_S, when_due(_CERTIFY_S, self._certify, CLOCK))
        if self._retains and self.retention is not None:
            yield Again("retention", _LOOK_S, when_due(self._interval_s, self._retain, CLOCK))

    def figures(self) -> Iterator[Metric]:
        """Certificates issued and rows let go by this process."""
        text = "Certificates issued by this process for days that were over, or before rows went."
        yield CounterMetricFamily("data_manager_certificates_issued", text, self._certifier.issued)
        if self.retention is None:
            return
        rows = CounterMetricFamily("data_manager_retention_rows", "Rows that went by retention.", labels=["dataset"])
        for dataset, count in self.retention.rows.items():
            rows.add_metric([dataset], count)
        yield rows
        failed = 0 if self.retention.last is None else len(self.retention.last.failed)
        text = "Series of which rows are overdue that cannot be certified, at the last look."
        yield GaugeMetricFamily("data_manager_retention_stuck", text, failed)

    def last_run(self) -> Retained | None:
        """The last run of retention over all series."""
        return None if self.retention is None else self.retention.last

    async def retain_now(
        self, series: Sequence[Series] | None, *, dry_run: bool, force: bool, tell: Progress
    ) -> Retained:
        """Retention because somebody asked. Raises Conflict where another replica leads, or this one may not delete."""
        if self.retention is None:
            raise Conflict("this process may not delete rows: ask the one that stores them")
        if dry_run:
            return await self.retention.run(series, dry_run=True, force=force, progress=tell)
        retention, done = self.retention, list[Retained]()

        async def retain(lease: Lease) -> None:
            records: Records = self._meta.fenced(lease)
            done.append(await retention.run(series, force=force, records=records, progress=tell))

        if not await self._campaign.lead(retain) or not done:
            raise Conflict(f"{self._campaign.status().holder or 'another replica'} leads: ask that one")
        return done[0]

    async def _certify(self) -> bool:
        try:
            return await self._campaign.lead(self._certify_as)
        except (Conflict, Corrupt) as error:
            raise Unavailable(f"days could not be certified: {error}") from error

    async def _certify_as(self, lease: Lease) -> None:
        done = await self.days.run(self._meta.fenced(lease))
        if done.issued:
            _log.info("certified", days=done.issued, waiting=done.waiting)

    async def _retain(self) -> bool:
        if CLOCK.monotonic_s() < self._retains_from_s:
            return False
        try:
            return await self._campaign.lead(self._retain_as)
        except ClockJumped:
            return True  # it was said; the next turn asks again
        except (Conflict, Corrupt) as error:
            raise Unavailable(f"retention could not be done: {error}") from error

    async def _retain_as(self, lease: Lease) -> None:
        records: Records = self._meta.fenced(lease)
        assert self.retention is not None
        done = await self.retention.run(records=records)
        if done.pieces or done.failed:
            _log.info("retention", pieces=len(done.pieces), rows=done.dropped, waiting=done.waiting, failed=done.failed)


async def retain_alone(
    settings: Settings,
    store: SeriesStore,
    meta: MetadataStore,
    series: Sequence[Series] | None,
    *,
    force: bool,
    tell: Progress,
) -> Retained:
    """One run by a command, where no service does it: it leads for as long as that takes.

    Raises Conflict while somebody else leads: then that one does it.
    """
    campaign = Campaign(
        meta,
        LEASE,
        CLOCK,
        term_s=settings.leader_election_timeout,
        every_s=settings.heartbeat_s,
    )
    reporter = Reporter(meta.keep_findings, waiting_max=100_000)
    certifier = Certifier(store, meta, conditions_of(settings, meta), CLOCK)
    retention, done = retention_of(settings, store, meta, certifier, reporter, "data-manager retain"), list[Retained]()

    async def retain(lease: Lease) -> None:
        done.append(await retention.run(series, force=force, records=meta.fenced(lease), progress=tell))

    leading = asyncio.create_task(campaign.run(), name="campaign")
    try:
        until_s = CLOCK.monotonic_s() + 2 * settings.leader_election_timeout
        while campaign.held() is None and not leading.done() and CLOCK.monotonic_s() < until_s:
            tell(0, 1, f"waiting for {campaign.status().holder or 'the lease'}")
            await CLOCK.sleep(_ASK_S)
        if not await campaign.lead(retain) or not done:
            raise Conflict(f"{campaign.status().holder or 'another'} leads, and lets rows go itself: ask it with --at")
    finally:
        await ended(leading)
        await reporter.keep()
    return done[0]


def retention_of(
    settings: Settings, store: SeriesStore, meta: Records, certifier: Certifier, reporter: Reporter, by: str
) -> Retention:
    """The retention that the settings ask for."""
    return Retention(
        store,
        meta,
        certifier,
        reporter,
        CLOCK,
        days=parse_days(settings.retention_days or "", DATASETS),
        by=by,
        rows_max=settings.retention_rows_max,
    )
