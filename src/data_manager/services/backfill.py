"""Backfill: the jobs that are due, a few at a time, by the one process that leads.

pending ── started ──> Run ──> completed
                        ├── source away ──> pending again, later and later; failed when that did not help
                        ├── source refuses, damaged, a bug ──> failed, with the reason
                        ├── cancelled or taken over by somebody ──> laid down
                        └── we stop, or lead no more ──> pending again, or taken back by who leads next
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from data_manager.domain import job as jobs
from data_manager.domain.errors import Conflict, DataManagerError, NotFound, Throttled, Unavailable
from data_manager.domain.finding import Finding, FindingKind, finding_id
from data_manager.domain.job import OWN, Job, JobState
from data_manager.ports import Clock, LeaseLost, Records
from data_manager.ports.jobs import JobStore
from data_manager.ports.source import Source
from data_manager.services.backfilling.choosing import Plan
from data_manager.services.backfilling.running import Append, NotOffered, Run, SourceFailed
from data_manager.services.ending import ended
from data_manager.services.planning import by_cost

ENDED_MAX: Final = 10_000
"""Jobs that ended and are remembered."""

_LOOK_S: Final = 0.5  # new ones are taken up within
_PAUSE_S, _PAUSE_GROWS, _PAUSE_MAX_S = 2.0, 3.0, 900.0  # after a failure
_LAST_WORDS_S: Final = 1.0
_PRUNE_S: Final = 600.0
_LISTED_MAX: Final = 1_000
_log = structlog.get_logger(__name__)
Change = Callable[[Job], Job]
Report = Callable[[Sequence[Finding]], None]


class Backfiller:
    """Runs jobs. figures: rows by what became of them, and jobs by how they ended, since the start."""

    def __init__(
        self,
        sources: Sequence[Source],
        append: Append,
        clock: Clock,
        *,
        owner: str,
        at_once: int,
        plan: Plan = by_cost,
        report: Report | None = None,
    ) -> None:
        """owner: a name for this process that no other has. at_once: jobs that run at the same time.

        report takes a finding of each job that somebody asked for and that failed for good, and its end.
        """
        self.rows: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._sources = sources
        self._plan = plan
        self._report = report or _nobody
        self._append = append
        self._clock = clock
        self._owner = owner
        self._at_once = at_once
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._pruned_s: float | None = None
        self._closing = False

    async def turn(self, records: Records) -> None:
        """Run everything that is due, and what becomes due meanwhile; returns when nothing is.

        records: the metadata, whose writes are under our lease. Raises LeaseLost and Unavailable; then nothing of ours
        is at work any more. Cancelled, it puts its jobs back first.
        """
        try:
            await self._take_back(records)
            await self._prune(records)
            while not self._closing:
                await self._start_due(records)
                if not self._tasks:
                    return
                done, _ = await asyncio.wait(self._tasks, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._tasks.pop(task, None)
                    if not task.cancelled():
                        task.result()
        finally:
            await self._stop()

    async def close(self) -> None:
        """Put the jobs at work back and take up no more; before the lease is given back."""
        self._closing = True
        await self._stop()

    async def _start_due(self, records: Records) -> None:
        free = self._at_once - len(self._tasks)
        for job in await records.due_jobs(self._clock.now_ms(), free) if free else ():
            try:
                mine = await records.keep_job(jobs.started(job, self._owner, self._clock.now_ms()))
            except LeaseLost:
                raise
            except (Conflict, NotFound):
                continue  # cancelled or grown a moment ago
            self._tasks[asyncio.create_task(self._work(mine, records), name=f"job {mine.id}")] = mine.id

    async def _take_back(self, records: JobStore) -> None:
        """Nobody but who leads runs jobs: what runs and is not ours was left behind."""
        running, _ = await records.jobs(limit=_LISTED_MAX, states=[JobState.RUNNING])
        for job in running:
            if job.id not in self._tasks.values():
                now_ms = self._clock.now_ms()
                await _keep_quietly(records, jobs.released(job, now_ms, now_ms, job.error))
                _log.warning("a job goes on that was left behind", job=job.id, series=job.series, owner=job.owner)

    async def _prune(self, records: JobStore) -> None:
        now_s = self._clock.monotonic_s()
        if self._pruned_s is None or now_s - self._pruned_s >= _PRUNE_S:
            self._pruned_s = now_s
            await records.prune_jobs(ENDED_MAX)

    async def _stop(self) -> None:
        tasks, self._tasks = list(self._tasks), {}
        await ended(*tasks)

    # ---- one job -------------------------------------------------------------------------------------------------

    async def _work(self, job: Job, records: Records) -> None:
        run = Run(job, records, self._sources, self._plan, self._append, records.keep_dead, self._clock)
        working = asyncio.create_task(self._run(run, records), name=f"work at job {job.id}")
        beating = asyncio.create_task(run.beat(), name=f"heartbeat of job {job.id}")
        try:
            done, _ = await asyncio.wait((working, beating), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except asyncio.CancelledError:
            await ended(working, beating)
            await self._lay_down(run)
            raise
        except LeaseLost:
            raise
        except (Conflict, NotFound) as error:
            _log.info("a job was taken from us", job=job.id, series=job.series, reason=str(error))
        finally:
            await ended(working, beating)
            self._count(job, run.job)

    async def _run(self, run: Run, records: Records) -> None:
        """Run it, and keep how that ended. The job boundary: what goes wrong with a job ends that job alone."""
        try:
            await run.all()
        except (SourceFailed, NotOffered) as error:
            await run.keep(self._after(error))
        except (Conflict, NotFound, Unavailable):
            raise
        except DataManagerError as error:
            await run.keep(self._failed(str(error)))
        except Exception as error:  # noqa: BLE001 - a bug met by one job must not end the others, and is told in its row
            _log.error("a job met a bug", job=run.job.id, series=run.job.series, exc_info=error)
            await run.keep(self._failed(f"a bug: {type(error).__name__}: {error}"))
        self._tell(run.job)
        await self._find(run.job, records)

    async def _find(self, job: Job, records: Records) -> None:
        """Somebody asked for it and has to be told that it failed; holes that stay open are told by the audit."""
        if job.by in OWN or job.open:
            return
        now_ms = self._clock.now_ms()
        failure = abandoned(job, now_ms)
        if job.state is JobState.FAILED:
            self._report([failure])
        elif job.attempts > 1:
            standing, _ = await records.findings(
                limit=_LISTED_MAX, kind=FindingKind.ABANDONED, series=job.series, open_only=True
            )
            self._report([one.resolved(now_ms, now_ms) for one in standing if one.id == failure.id])

    def _after(self, error: SourceFailed | NotOffered) -> Change:
        """What becomes of a job whose source cannot be asked, or not now."""
        why, cause, now_ms = str(error), error.__cause__, self._clock.now_ms()
        if isinstance(cause, Throttled):  # it will be let in again: no failure
            until_ms = now_ms + round(1_000 * max(cause.retry_after_s, 1.0))
            return lambda job: jobs.released(job, until_ms, now_ms, why)
        if isinstance(cause, Unavailable):
            least_s = cause.retry_after_s
            return lambda job: jobs.stumbled(job, why, now_ms + _pause_ms(job, least_s), now_ms)
        return self._failed(why)

    def _failed(self, why: str) -> Change:
        return lambda job: jobs.failed(job, why, self._clock.now_ms())

    async def _lay_down(self, run: Run) -> None:
        """We stop: the next one goes on where we are. If that cannot be said in time, it is found out."""
        now_ms = self._clock.now_ms()
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await run.keep(lambda one: jobs.released(one, now_ms, now_ms))
        except (Conflict, NotFound, Unavailable, TimeoutError) as error:
            _log.warning("a job is left behind", job=run.job.id, reason=str(error) or "the metadata store is too slow")

    def _count(self, before: Job, after: Job) -> None:
        for name in ("new", "changed", "duplicate", "refused"):
            self.rows[name] += getattr(after, name) - getattr(before, name)
        if not after.open:
            self.ended[after.state.value] += 1

    def _tell(self, job: Job) -> None:
        say = _log.error if job.state is JobState.FAILED else _log.info
        say(
            "job",
            job=job.id,
            series=job.series,
            state=job.state.value,
            progress=round(job.progress, 4),
            fetched=job.fetched,
            new=job.new,
            changed=job.changed,
            absent=len(job.absent) + job.absent_more,
            reason=job.error,
        )


def abandoned(job: Job, now_ms: int) -> Finding:
    """A job that failed for good."""
    span = job.span
    return Finding(
        id=finding_id(FindingKind.ABANDONED, job.series, job.id, span.start_ms),
        kind=FindingKind.ABANDONED,
        series=job.series,
        stream=None,
        severity="warning",
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        evidence={"job": job.id, "why": (job.error or "")[:200], "asked_by": job.by},
        found_ms=now_ms,
    )


def _nobody(findings: Sequence[Finding]) -> None:
    """Findings that nobody takes."""


def _pause_ms(job: Job, least_s: float) -> int:
    return round(1_000 * max(min(_PAUSE_S * _PAUSE_GROWS**job.failures, _PAUSE_MAX_S), least_s))


async def _keep_quietly(store: JobStore, job: Job) -> None:
    """Where somebody else was first, he knows better."""
    try:
        await store.keep_job(job)
    except LeaseLost:
        raise
    except (Conflict, NotFound):
        _log.info("a job was changed by somebody else", job=job.id)
