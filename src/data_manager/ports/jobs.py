"""The port behind backfill jobs. Beside MetaStore, by the same adapters.

Writers compare and set: a job that is kept names the version it was changed from, so that of two who change it at once
one wins and the other looks again.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from data_manager.domain.job import Job, JobState


class JobStore(Protocol):
    """Jobs and where they stand. Raises Unavailable and Corrupt like the rest of the metadata."""

    async def submit_job(self, job: Job) -> Job:
        """Enter a pending job, new or reopened, and answer the one that covers what it asks for: see job.entered().

        Atomic among all who submit: open jobs of one series never overlap. Durable on return. Raises Conflict when a
        job that is there has another version than the change started from.
        """
        ...

    async def keep_job(self, job: Job) -> Job:
        """Keep a changed job, durable on return; the job as it is then. Raises Conflict as above, NotFound if gone."""
        ...

    async def job(self, job_id: str) -> Job | None:
        """The one with that id."""
        ...

    async def jobs(
        self,
        *,
        limit: int,
        offset: int = 0,
        states: Sequence[JobState] = (),
        series: str | None = None,
        by: Sequence[str] = (),
    ) -> tuple[list[Job], int]:
        """A page of jobs, the newest first, and how many there are in all. Nothing named: no matter which."""
        ...

    async def due_jobs(self, now_ms: int, limit: int) -> list[Job]:
        """Pending ones whose time has come: by priority, then the one that waits longest."""
        ...

    async def job_counts(self) -> Mapping[JobState, int]:
        """How many there are in each state."""
        ...

    async def prune_jobs(self, ended_max: int) -> int:
        """Forget the oldest of those that ended until so many are left; how many were forgotten."""
        ...
