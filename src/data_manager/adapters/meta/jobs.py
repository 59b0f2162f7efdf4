"""Backfill jobs in SQL: what SqlMetaStore has of the port JobStore, in the predecessor's table.

A job is one row: its body in one column, beside it what is asked for by, and what readers of the predecessor's columns
expect. Rows that the predecessor left behind have no body: they stay, and nobody takes them for jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import ValidationError, json
from msgspec.structs import replace
from sqlalchemy import ColumnElement, and_, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.predecessor import backfill_jobs as jobs
from data_manager.adapters.meta.room import turn
from data_manager.domain.dataset import parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Conflict, Corrupt, NotFound
from data_manager.domain.job import OPEN, Job, JobState, entered
from data_manager.domain.time import datetime_of

_JOB = json.Decoder(Job)
_OURS: Final = jobs.c.body.is_not(None)
_NEWEST_FIRST: Final = (jobs.c.created_ms.desc(), jobs.c.job_id.desc())
_DUE_FIRST: Final = (jobs.c.priority, jobs.c.created_ms, jobs.c.job_id)
_INT_MAX: Final = 2**31 - 1
_FORGET_AT_ONCE: Final = 1_000


class JobsInSql:
    """See JobStore. Mixed into SqlMetaStore, whose writes may be under a lease."""

    _database: Database

    async def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    async def submit_job(self, job: Job) -> Job:
        """See JobStore.submit_job."""

        async def submit(connection: AsyncConnection) -> Job:
            await turn(connection)
            wanted = and_(_OURS, jobs.c.series == job.series, _in(OPEN))
            held = [_job(row) for row in (await connection.execute(select(jobs).where(wanted))).mappings()]
            outcome = entered(held, job, job.updated_ms)
            for one in sorted(outcome.changes, key=lambda it: (it.open, it.id)):  # those that end make way first
                await _put(connection, one)
            changed = any(one.id == outcome.job.id for one in outcome.changes)
            return replace(outcome.job, version=outcome.job.version + 1) if changed else outcome.job

        return await self._write(submit)

    async def keep_job(self, job: Job) -> Job:
        """See JobStore.keep_job."""
        await self._write(lambda connection: _put(connection, job))
        return replace(job, version=job.version + 1)

    async def job(self, job_id: str) -> Job | None:
        """See JobStore.job."""
        async with self._database.reading() as connection:
            row = (
                (await connection.execute(select(jobs).where(_OURS, jobs.c.job_id == job_id))).mappings().one_or_none()
            )
        return None if row is None else _job(row)

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
        wanted: ColumnElement[bool] = and_(
            _OURS,
            _in(states) if states else true(),
            jobs.c.series == series if series is not None else true(),
            jobs.c.requested_by.in_(list(by)) if by else true(),
        )
        page = select(jobs).where(wanted).order_by(*_NEWEST_FIRST)
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(jobs).where(wanted))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_job(row) for row in rows.mappings()], total or 0

    async def due_jobs(self, now_ms: int, limit: int) -> list[Job]:
        """See JobStore.due_jobs."""
        wanted = and_(_OURS, _in([JobState.PENDING]), jobs.c.run_from_ms <= now_ms)
        page = select(jobs).where(wanted).order_by(*_DUE_FIRST).limit(_whole(limit, "limit"))
        async with self._database.reading() as connection:
            return [_job(row) for row in (await connection.execute(page)).mappings()]

    async def job_counts(self) -> Mapping[JobState, int]:
        """See JobStore.job_counts."""
        asked = select(jobs.c.status, func.count().label("held")).where(_OURS).group_by(jobs.c.status)
        async with self._database.reading() as connection:
            found = {row.status: row.held for row in (await connection.execute(asked)).all()}
        return {state: found.get(state.value, 0) for state in JobState}

    async def prune_jobs(self, ended_max: int) -> int:
        """See JobStore.prune_jobs."""
        ended = and_(_OURS, jobs.c.status.not_in([state.value for state in OPEN]))
        beyond = select(jobs.c.job_id).where(ended).order_by(*_NEWEST_FIRST).limit(_FORGET_AT_ONCE).offset(ended_max)
        async with self._database.reading() as connection:
            leaving = (await connection.scalars(beyond)).all()
        if not leaving:
            return 0
        forget = delete(jobs).where(jobs.c.job_id.in_(leaving), ended)
        await self._write(lambda connection: connection.execute(forget))
        return len(leaving)


def _in(states: Sequence[JobState]) -> ColumnElement[bool]:
    return jobs.c.status.in_([state.value for state in states])


async def _put(connection: AsyncConnection, job: Job) -> None:
    """The job, one version on; Conflict where another is held than it was changed from."""
    row = _row(replace(job, version=job.version + 1))
    if job.version == 0:
        try:
            await connection.execute(insert(jobs), row)
        except IntegrityError as error:
            raise Conflict(f"job {job.id} of {job.series} was entered by somebody else: nothing was kept") from error
        return
    mine = and_(jobs.c.job_id == job.id, jobs.c.version == job.version)
    changed = await connection.execute(update(jobs).where(mine).values(row))
    if changed.rowcount == 0:
        if await connection.scalar(select(jobs.c.version).where(jobs.c.job_id == job.id)) is None:
            raise NotFound(f"no job {job.id} is held any more")
        raise Conflict(f"job {job.id} was changed by somebody else meanwhile: nothing was kept")


def _row(job: Job) -> dict[str, Any]:
    series, span = parse_series(job.series, DATASETS, ""), job.span
    named = f"{job.series}\0{span.start_ms}\0{span.end_ms}"
    return {
        "job_id": job.id,
        "symbol": series.symbol,
        "data_type": series.dataset,
        "timeframe": series.interval,
        "start_time": datetime_of(span.start_ms),
        "end_time": datetime_of(span.end_ms),
        "status": job.state.value,
        "progress": int(job.progress * 10_000) / 100,
        "records_fetched": min(job.fetched, _INT_MAX),
        "records_inserted": min(job.new + job.changed, _INT_MAX),
        "error_message": job.error,
        "created_at": datetime_of(job.created_ms),
        "started_at": None if job.started_ms is None else datetime_of(job.started_ms),
        "completed_at": None if job.completed_ms is None else datetime_of(job.completed_ms),
        "series": job.series,
        "start_ms": span.start_ms,
        "end_ms": span.end_ms,
        "priority": job.priority,
        "attempts": job.attempts,
        "cursor_ms": job.cursor_ms,
        "owner": job.owner[:128] or None,
        "heartbeat_ms": job.heartbeat_ms,
        "open_key": hashlib.sha256(named.encode()).hexdigest() if job.open else None,
        "created_ms": job.created_ms,
        "updated_ms": job.updated_ms,
        "version": job.version,
        "run_from_ms": job.run_from_ms,
        "requested_by": job.by,
        "body": json.encode(job),
    }


def _job(row: Mapping[Any, Any]) -> Job:
    try:
        return _JOB.decode(row["body"])
    except (ValidationError, ValueError) as error:
        raise Corrupt(f"job {row['job_id']} cannot be read: {error}") from error


def _whole(number: int, field: str) -> int:
    if not 0 <= number < 2**63:
        raise BadQuery(field, number, "must be a whole number, 0 or more")
    return number
