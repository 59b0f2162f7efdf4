"""The audit of a running service: its turn every AUDIT_INTERVAL by the replica that leads, and audits on demand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import structlog

from data_manager.adapters.clock import SystemClock
from data_manager.domain.errors import Conflict, Corrupt, Unavailable
from data_manager.domain.time import SECOND_MS
from data_manager.ports import Lease, MetadataStore, SeriesStore
from data_manager.ports.truth import TruthStore
from data_manager.service.again import Again
from data_manager.services.audit import Auditor
from data_manager.services.auditing.desk import Desk
from data_manager.services.conditions import LATE_MS, Conditions
from data_manager.services.lease import Campaign
from data_manager.services.periodic import when_due
from data_manager.services.reporting import Reporter
from data_manager.settings import Settings

CLOCK = SystemClock()
_LOOK_S: Final = 1.0
_LATE_TURNS: Final = 3  # audits may be so many turns behind before that is a reason
_log = structlog.get_logger(__name__)

Lead = Callable[[Callable[[Lease], Awaitable[object]]], Awaitable[bool]]


def conditions_of(settings: Settings, truth: TruthStore) -> Conditions:
    """Conditions as these settings have it: how long rows may be on their way, and an audit may be late."""
    late_ms = max(LATE_MS, _LATE_TURNS * settings.audit_interval * SECOND_MS)
    return Conditions(truth, CLOCK, grace_ms=settings.gap_tolerance_seconds * SECOND_MS, late_ms=late_ms)


def auditor_of(settings: Settings, store: SeriesStore, meta: MetadataStore, reporter: Reporter) -> Auditor:
    """Whoever audits, by these settings."""
    return Auditor(
        store,
        meta,
        meta,
        CLOCK,
        reporter.report,
        grace_ms=settings.gap_tolerance_seconds * SECOND_MS,
        told_from_ms=settings.min_gap_size_seconds * SECOND_MS,
    )


class Auditing:
    """Audits what changed while we lead, and whatever is asked for. on: whether it has its turns."""

    def __init__(
        self, settings: Settings, store: SeriesStore, meta: MetadataStore, reporter: Reporter, campaign: Campaign
    ) -> None:
        self.on = settings.enable_auditor
        self.auditor = auditor_of(settings, store, meta, reporter)
        self.desk = Desk(self.auditor, keep=reporter.keep)
        self._meta = meta
        self._campaign = campaign
        self._interval_s = settings.audit_interval
        self._audited_s = CLOCK.monotonic_s()  # when the last turn was done
        self._failure: str | None = None

    def again(self) -> Iterator[Again]:
        """Its turns."""
        if self.on:
            yield Again("audit", _LOOK_S, when_due(self._interval_s, self._turn, CLOCK))

    def reason(self) -> str | None:
        """Why the audit is not what it should be; None where it is, or where somebody else does it."""
        if not self.on or self._campaign.held() is None:
            return None
        late_s = CLOCK.monotonic_s() - self._audited_s
        if self._failure is None and late_s > _LATE_TURNS * self._interval_s:
            return f"the last audit was done {late_s:.0f} s ago"
        return self._failure

    async def _turn(self) -> bool:
        """Audit if we lead; whether that was done. What keeps an audit from being done is the next turn's again."""
        try:
            done = await self._campaign.lead(self._audit)
        except (Conflict, Corrupt, Unavailable) as error:
            self.auditor.failures[type(error).__name__] += 1
            self._failure = str(error)
            raise Unavailable(f"the audit was not done: {error}") from error  # logged by every(), and tried again
        if not done:
            self._audited_s = CLOCK.monotonic_s()  # it is ours to be late from the moment we lead
        return done

    async def _audit(self, lease: Lease) -> None:
        done = await self.auditor.run(truth=self._meta.fenced(lease))
        self._audited_s = CLOCK.monotonic_s()
        first = done.failed[0] if done.failed else None
        self._failure = None if first is None else f"{len(done.failed)} series could not be audited, such as {first}"
        _log.info(
            "audited",
            series=done.audited,
            failed=len(done.failed),
            rows=done.rows,
            findings=done.findings,
            changed=done.changed,
            holes=len(done.holes),
            seconds=round(done.seconds, 3),
        )
