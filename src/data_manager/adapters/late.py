"""Servers may come up in any order: a store that is not there yet, and is asked for again and again until it is.

not there ── open: Unavailable ──> not there (every question raises Unavailable, with the reason)
    │
    └────── open: a store ──────> there: every question goes to it
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog

from data_manager.domain.alert import Alert, Message
from data_manager.domain.batch import Batch
from data_manager.domain.certificate import Certificate, Ref
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Unavailable
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.job import Job, JobState
from data_manager.domain.ledger import HoleState, LedgerEntry
from data_manager.domain.life import SymbolLife
from data_manager.domain.lineage import LineageRecord
from data_manager.domain.span import Span
from data_manager.domain.truth import SeriesTruth, TruthChange
from data_manager.ports import (
    Clock,
    DeadLetter,
    Extent,
    KeptDeadLetter,
    Lease,
    LeaseState,
    MetadataStore,
    Receipt,
    Records,
    SeriesStatistics,
    SeriesStore,
    StoreSizes,
)
from data_manager.ports.alerts import LiveHoles, OpenFindings
from data_manager.ports.health import AuditNote, Grain, HealthRow

_log = structlog.get_logger(__name__)
_WAIT_S, _WAIT_MAX_S = 0.2, 5.0


class _Closes(Protocol):
    async def close(self) -> None: ...


T = TypeVar("T", bound=_Closes)


class Late(Generic[T]):
    """Something that is opened as soon as it can be."""

    def __init__(self, what: str, open_it: Callable[[], Awaitable[T]]) -> None:
        self._what = what
        self._open = open_it
        self._there: T | None = None
        self._first: list[Callable[[T], Awaitable[None]]] = []
        self._reason = "not opened yet"

    def before_others(self, use: Callable[[T], Awaitable[None]]) -> None:
        """use has it to itself as soon as it is opened. When that raises Unavailable, it is opened again."""
        self._first.append(use)

    async def appear(self, clock: Clock) -> None:
        """Return when it is there. Raises what opening raises, but for Unavailable: then it is tried again."""
        wait_s = _WAIT_S
        while self._there is None:
            try:
                self._there = await self._opened()
            except Unavailable as error:
                if self._reason != str(error):
                    _log.warning("not there yet", what=self._what, reason=str(error))
                self._reason = str(error)
                await clock.sleep(wait_s)
                wait_s = min(2 * wait_s, _WAIT_MAX_S)

    async def _opened(self) -> T:
        it = await self._open()
        try:
            for use in self._first:
                await use(it)
        except BaseException:
            await it.close()
            raise
        return it

    @property
    def it(self) -> T:
        """It. Raises Unavailable while it is not there."""
        if self._there is None:
            raise Unavailable(f"{self._what} is not there yet: {self._reason}")
        return self._there

    async def close(self) -> None:
        """Close it, if it ever came."""
        if self._there is not None:
            await self._there.close()


class LateSeriesStore(Late[SeriesStore]):
    """SeriesStore that may come up after us."""

    def __init__(self, kind: str, open_it: Callable[[], Awaitable[SeriesStore]]) -> None:
        super().__init__(kind, open_it)
        self.kind = kind

    @property
    def deletes_by_itself(self) -> bool | None:
        """See SeriesStore.deletes_by_itself."""
        return None if self._there is None else self._there.deletes_by_itself

    async def append(self, batch: Batch) -> Receipt:
        """See SeriesStore.append."""
        return await self.it.append(batch)

    async def scan(self, series: Series, span: Span | None = None, **how: Any) -> Batch:
        """See SeriesStore.scan."""
        return await self.it.scan(series, span, **how)

    async def last(self, series: Series, n: int) -> Batch:
        """See SeriesStore.last."""
        return await self.it.last(series, n)

    async def live(self, series: Series) -> Batch:
        """See SeriesStore.live."""
        return await self.it.live(series)

    async def extent(self, series: Series) -> Extent | None:
        """See SeriesStore.extent."""
        return await self.it.extent(series)

    async def count(self, series: Series, span: Span | None = None) -> int:
        """See SeriesStore.count."""
        return await self.it.count(series, span)

    async def keys(self, series: Series, span: Span | None = None) -> Batch:
        """See SeriesStore.keys."""
        return await self.it.keys(series, span)

    async def drop(self, series: Series, span: Span) -> int:
        """See SeriesStore.drop."""
        return await self.it.drop(series, span)

    async def series(self) -> list[Series]:
        """See SeriesStore.series."""
        return await self.it.series()

    def version(self, series: Series) -> int | None:
        """See SeriesStore.version."""
        return self.it.version(series)

    async def sizes(self) -> StoreSizes:
        """See SeriesStore.sizes."""
        return await self.it.sizes()

    async def problems(self, now_ms: int) -> list[str]:
        """See SeriesStore.problems."""
        return await self.it.problems(now_ms)

    async def healthy(self) -> bool:
        """See SeriesStore.healthy."""
        return await self.it.healthy()


class LateMetadataStore(Late[MetadataStore]):
    """MetaStore and Leases that may come up after us."""

    @property
    def dead_evicted(self) -> int:
        """See MetaStore.dead_evicted."""
        return 0 if self._there is None else self._there.dead_evicted

    async def keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        """See MetaStore.keep_dead."""
        await self.it.keep_dead(letters)

    async def dead_letters(
        self, *, limit: int, offset: int = 0, reason: str | None = None
    ) -> tuple[list[KeptDeadLetter], int]:
        """See MetaStore.dead_letters."""
        return await self.it.dead_letters(limit=limit, offset=offset, reason=reason)

    async def dead_payload(self, letter_id: str) -> bytes | None:
        """See MetaStore.dead_payload."""
        return await self.it.dead_payload(letter_id)

    async def forget_dead(self, seen: Mapping[str, int]) -> int:
        """See MetaStore.forget_dead."""
        return await self.it.forget_dead(seen)

    async def keep_statistics(self, rows: Sequence[SeriesStatistics]) -> None:
        """See MetaStore.keep_statistics."""
        await self.it.keep_statistics(rows)

    async def statistics(self) -> list[SeriesStatistics]:
        """See MetaStore.statistics."""
        return await self.it.statistics()

    async def keep_findings(self, findings: Sequence[Finding]) -> None:
        """See MetaStore.keep_findings."""
        await self.it.keep_findings(findings)

    async def findings(
        self,
        *,
        limit: int,
        offset: int = 0,
        kind: FindingKind | None = None,
        series: str | None = None,
        open_only: bool = False,
        resolved_only: bool = False,
    ) -> tuple[list[Finding], int]:
        """See MetaStore.findings."""
        return await self.it.findings(
            limit=limit, offset=offset, kind=kind, series=series, open_only=open_only, resolved_only=resolved_only
        )

    async def truth_versions(self) -> Mapping[str, int]:
        """See TruthStore.truth_versions."""
        return await self.it.truth_versions()

    async def truth_state(self) -> int:
        """See TruthStore.truth_state."""
        return await self.it.truth_state()

    async def truths(self, series: Sequence[str] | None = None) -> list[SeriesTruth]:
        """See TruthStore.truths."""
        return await self.it.truths(series)

    async def keep_truths(self, changes: Sequence[TruthChange]) -> None:
        """See TruthStore.keep_truths."""
        await self.it.keep_truths(changes)

    async def holes(
        self,
        *,
        limit: int,
        offset: int = 0,
        series: str | None = None,
        states: Sequence[HoleState] = (),
        span: Span | None = None,
    ) -> tuple[list[LedgerEntry], int]:
        """See TruthStore.holes."""
        return await self.it.holes(limit=limit, offset=offset, series=series, states=states, span=span)

    async def lives(self) -> list[SymbolLife]:
        """See TruthStore.lives."""
        return await self.it.lives()

    async def keep_lives(self, told: Sequence[SymbolLife]) -> None:
        """See TruthStore.keep_lives."""
        await self.it.keep_lives(told)

    async def keep_lineage(self, records: Sequence[LineageRecord]) -> None:
        """See LineageStore.keep_lineage."""
        await self.it.keep_lineage(records)

    async def lineage(self, **which: Any) -> tuple[list[LineageRecord], int]:
        """See LineageStore.lineage."""
        return await self.it.lineage(**which)

    async def digest_of(self, path: str) -> str | None:
        """See Digests.digest_of."""
        return await self.it.digest_of(path)

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        """See Digests.keep_digest."""
        await self.it.keep_digest(path, sha256, at_ms)

    async def keep_certificate(self, certificate: Certificate) -> None:
        """See TruthStore.keep_certificate."""
        await self.it.keep_certificate(certificate)

    async def certificates(
        self, *, limit: int, offset: int = 0, series: str | None = None, span: Span | None = None
    ) -> tuple[list[Certificate], int]:
        """See TruthStore.certificates."""
        return await self.it.certificates(limit=limit, offset=offset, series=series, span=span)

    async def certificate_refs(self, *, series: str | None = None, from_ms: int = 0) -> list[Ref]:
        """See TruthStore.certificate_refs."""
        return await self.it.certificate_refs(series=series, from_ms=from_ms)

    async def certificate(self, certificate_id: str) -> Certificate | None:
        """See TruthStore.certificate."""
        return await self.it.certificate(certificate_id)

    async def submit_job(self, job: Job) -> Job:
        """See JobStore.submit_job."""
        return await self.it.submit_job(job)

    async def keep_job(self, job: Job) -> Job:
        """See JobStore.keep_job."""
        return await self.it.keep_job(job)

    async def job(self, job_id: str) -> Job | None:
        """See JobStore.job."""
        return await self.it.job(job_id)

    async def jobs(
        self,
        *,
        limit: int,
        offset: int = 0,
        states: Sequence[JobState] = (),
        series: str | None = None,
        by: Sequence[str] = (),
    ) -> tuple[list[Job], int]:
        """See JobStore.jobs."""
        return await self.it.jobs(limit=limit, offset=offset, states=states, series=series, by=by)

    async def due_jobs(self, now_ms: int, limit: int) -> list[Job]:
        """See JobStore.due_jobs."""
        return await self.it.due_jobs(now_ms, limit)

    async def job_counts(self) -> Mapping[JobState, int]:
        """See JobStore.job_counts."""
        return await self.it.job_counts()

    async def prune_jobs(self, ended_max: int) -> int:
        """See JobStore.prune_jobs."""
        return await self.it.prune_jobs(ended_max)

    async def keep_health(self, rows: Sequence[HealthRow]) -> None:
        """See HealthLog.keep_health."""
        await self.it.keep_health(rows)

    async def health_rows(self, series: str, grain: Grain, span: Span) -> list[HealthRow]:
        """See HealthLog.health_rows."""
        return await self.it.health_rows(series, grain, span)

    async def keep_notes(self, notes: Sequence[AuditNote]) -> None:
        """See HealthLog.keep_notes."""
        await self.it.keep_notes(notes)

    async def notes(self, **which: Any) -> tuple[list[AuditNote], int]:
        """See HealthLog.notes."""
        return await self.it.notes(**which)

    async def checked_slots(self, span: Span) -> list[int]:
        """See HealthLog.checked_slots."""
        return await self.it.checked_slots(span)

    async def newest_note_ms(self, kind: str) -> int | None:
        """See HealthLog.newest_note_ms."""
        return await self.it.newest_note_ms(kind)

    async def forget_health(self, *, hours_before_ms: int, before_ms: int, rows_max: int) -> int:
        """See HealthLog.forget_health."""
        return await self.it.forget_health(hours_before_ms=hours_before_ms, before_ms=before_ms, rows_max=rows_max)

    async def open_findings(self) -> list[OpenFindings]:
        """See AlertStore.open_findings."""
        return await self.it.open_findings()

    async def live_holes(self) -> list[LiveHoles]:
        """See AlertStore.live_holes."""
        return await self.it.live_holes()

    async def keep_alerts(self, alerts: Sequence[Alert], messages: Sequence[Message]) -> None:
        """See AlertStore.keep_alerts."""
        await self.it.keep_alerts(alerts, messages)

    async def alerts(self, **which: Any) -> tuple[list[Alert], int]:
        """See AlertStore.alerts."""
        return await self.it.alerts(**which)

    async def alerts_to_judge(self, also: Sequence[str]) -> list[Alert]:
        """See AlertStore.alerts_to_judge."""
        return await self.it.alerts_to_judge(also)

    async def messages(self, *, limit: int, offset: int = 0) -> tuple[list[Message], int]:
        """See AlertStore.messages."""
        return await self.it.messages(limit=limit, offset=offset)

    async def messages_due(self, now_ms: int, limit: int) -> list[Message]:
        """See AlertStore.messages_due."""
        return await self.it.messages_due(now_ms, limit)

    async def messages_made(self, since_ms: int) -> Mapping[str, int]:
        """See AlertStore.messages_made."""
        return await self.it.messages_made(since_ms)

    async def forget_alerts(self, before_ms: int, messages_max: int) -> int:
        """See AlertStore.forget_alerts."""
        return await self.it.forget_alerts(before_ms, messages_max)

    async def healthy(self) -> bool:
        """See MetaStore.healthy. False while it is not there."""
        return self._there is not None and await self._there.healthy()

    async def take_lease(self, name: str, holder: str, term_s: float) -> LeaseState:
        """See Leases.take_lease."""
        return await self.it.take_lease(name, holder, term_s)

    async def give_back_lease(self, lease: Lease) -> None:
        """See Leases.give_back_lease."""
        await self.it.give_back_lease(lease)

    def fenced(self, lease: Lease) -> Records:
        """See Leases.fenced."""
        return self.it.fenced(lease)
