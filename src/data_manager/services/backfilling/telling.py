"""A job as answers tell it, in the predecessor's words and ours."""

from __future__ import annotations

from typing import Any, Final

from data_manager.domain.dataset import parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.job import Job, JobState, expected_rows
from data_manager.domain.time import iso

ABSENT_SHOWN: Final = 100


def job_facts(job: Job) -> dict[str, Any]:
    """Everything of a job. progress is in per cent of the time wanted; records.expected is null where nobody knows."""
    series, span = parse_series(job.series, DATASETS, ""), job.span
    dataset = DATASETS[series.dataset]
    return {
        "job_id": job.id,
        "status": job.state.value,
        "request": {
            "symbol": series.symbol,
            "data_type": dataset.path,
            "timeframe": series.interval,
            "start_time": iso(span.start_ms),
            "end_time": iso(span.end_ms),
            "priority": job.priority,
            "source": job.source,
        },
        "progress": percent(job),
        "records_fetched": job.fetched,
        "records_inserted": job.new + job.changed,
        "created_at": iso(job.created_ms),
        "started_at": _iso(job.started_ms),
        "completed_at": _iso(job.completed_ms),
        "error_message": job.error,
        "series": job.series,
        "start_ms": span.start_ms,
        "end_ms": span.end_ms,
        "stretches": [{"start_ms": one.start_ms, "end_ms": one.end_ms} for one in job.wanted],
        "records": {
            "expected": expected_rows(dataset, series.interval, job.wanted),
            "fetched": job.fetched,
            "new": job.new,
            "changed": job.changed,
            "duplicate": job.duplicate,
            "refused": job.refused,
            "burned": job.burned,
        },
        "absent": [_absent(one) for one in job.absent[:ABSENT_SHOWN]],
        "absent_total": len(job.absent) + job.absent_more,
        "coarse": job.coarse,
        "requested_by": job.by,
        "attempts": job.attempts,
        "failures": job.failures,
        "next_try_at": _iso(job.run_from_ms) if job.state is JobState.PENDING else None,
        "heartbeat_at": _iso(job.heartbeat_ms),
        "taken_over_by": job.into,
    }


def percent(job: Job) -> float:
    """Of the time wanted, with two decimals, rounded down: 100.0 is said of the whole only."""
    return int(job.progress * 10_000) / 100


def _absent(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("start_ms", "end_ms", "missing", "call", "evidence", "doubt")}


def _iso(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)
