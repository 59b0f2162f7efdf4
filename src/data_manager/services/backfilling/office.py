"""Where jobs are asked for, looked at, cancelled and retried: one place for the API and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from data_manager.domain import job as jobs
from data_manager.domain.condition.partition import EVER
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Conflict, NotFound
from data_manager.domain.job import Choice, Job, JobState, Target
from data_manager.domain.span import Span
from data_manager.ports import Clock
from data_manager.ports.jobs import JobStore
from data_manager.ports.source import Source
from data_manager.services.backfilling.asking import PRIORITY, LifeOf, Names, new_job, span_asked
from data_manager.services.backfilling.offering import require_offer

_TRIES: Final = 20  # while others change the same job


class Office:
    """Takes requests. life_of: when rows of a series can exist, as far as is known."""

    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        life_of: LifeOf = lambda series: EVER,
        sources: Sequence[Source] | None = None,
    ) -> None:
        """sources: who will be asked; None: it is not known here, and a job finds out what nobody has."""
        self._store = store
        self._clock = clock
        self._life_of = life_of
        self._sources = sources

    async def ask(
        self,
        series: Series,
        start_ms: int,
        end_ms: int,
        *,
        by: str,
        priority: int = PRIORITY,
        source: Choice = "auto",
        names: Names | None = None,
    ) -> Job:
        """The job that fetches this: a new one, or the open one that covers it. Raises BadQuery as check does."""
        span, now_ms = self.check(series, start_ms, end_ms, source, names), self._clock.now_ms()
        wanted = [Target(span.start_ms, span.end_ms)]
        return await self._store.submit_job(new_job(series, wanted, now_ms, by=by, priority=priority, source=source))

    def check(
        self, series: Series, start_ms: int, end_ms: int, source: Choice = "auto", names: Names | None = None
    ) -> Span:
        """What a job would fetch. Raises BadQuery where that is not what was meant, or nobody has anything of it."""
        now_ms = self._clock.now_ms()
        span = span_asked(series, start_ms, end_ms, now_ms, self._life_of(series), names)
        if self._sources is not None:
            require_offer(self._sources, series, span, now_ms, source, names or Names())
        return span

    async def job(self, job_id: str) -> Job:
        """The job with that id. Raises NotFound."""
        found = await self._store.job(job_id)
        if found is None:
            raise NotFound(
                f"no job {job_id[:64]!r} is known: GET /backfill/jobs and `data-manager backfill-jobs list` name all"
            )
        return found

    async def jobs(
        self, *, limit: int, offset: int = 0, states: Sequence[JobState] = (), series: str | None = None
    ) -> tuple[list[Job], int]:
        """A page of jobs, the newest first, and how many there are in all."""
        return await self._store.jobs(limit=limit, offset=offset, states=states, series=series)

    async def cancel(self, job_id: str) -> Job:
        """The job, cancelled; what it fetched stays. Raises NotFound, and Conflict when it is over already."""
        for _ in range(_TRIES):
            job = await self.job(job_id)
            try:
                return await self._store.keep_job(jobs.cancelled(job, None, self._clock.now_ms()))
            except Conflict:
                if not (await self.job(job_id)).open:
                    raise
        raise Conflict(f"job {job_id} is changed by others all the time: try again")

    async def retry(self, job_id: str) -> Job:
        """A failed or cancelled job, open again: it goes on where it stopped. Or the open job that covers it by now."""
        job = await self.job(job_id)
        return await self._store.submit_job(jobs.retried(job, self._clock.now_ms()))
