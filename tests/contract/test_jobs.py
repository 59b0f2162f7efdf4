"""What every metadata store promises of backfill jobs: SQLite, and MySQL or MariaDB."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain import job as jobs
from data_manager.domain.errors import Conflict, Corrupt, NotFound
from data_manager.domain.job import Absent, Job, JobState, Piece, Target
from data_manager.domain.span import Span, union
from data_manager.ports import LeaseLost
from tests.mysql_server import FreshDatabase

NOW_MS = 1_700_000_000_000
MINUTE, TRADES = "um.candle.BTCUSDT.1m", "um.trade.币安人生USDT"


@pytest.fixture
async def url(fresh_database: FreshDatabase) -> str:
    return await fresh_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(url)
    try:
        yield one
    finally:
        await one.close()


def job(name: str, start: int = 0, end: int = 100, series: str = MINUTE, **other: Any) -> Job:
    wanted = (Target(NOW_MS + start, NOW_MS + end),)
    usual: dict[str, Any] = {"id": name, "series": series, "wanted": wanted, "created_ms": NOW_MS, "updated_ms": NOW_MS}
    return Job(**{**usual, **other})


async def test_a_job_comes_back_letter_for_letter_through_its_whole_life(store: SqlMetaStore) -> None:
    lack = Absent(NOW_MS, NOW_MS + 5, None, "rest:trades", {"request": "GET /…", "rows": 0})
    asked = job(
        "a", series=TRADES, wanted=(Target(NOW_MS, NOW_MS + 9, 3, 7), Target(NOW_MS + 20, NOW_MS + 30)), source="rest"
    )
    one = await store.submit_job(asked)
    assert one == replace(asked, version=1)
    one = await store.keep_job(jobs.started(one, "me", NOW_MS + 1))
    one = await store.keep_job(
        jobs.advanced(one, Piece(span=Span(NOW_MS, NOW_MS + 9), fetched=2**40, new=3, absent=(lack,)), NOW_MS + 2)
    )
    assert await store.job("a") == one
    one = await store.keep_job(jobs.advanced(one, Piece(span=Span(NOW_MS + 20, NOW_MS + 30)), NOW_MS + 3))
    one = await store.keep_job(jobs.completed(one, NOW_MS + 4))
    assert await store.job("a") == one
    assert one.version == 5
    assert await store.job("b") is None


async def test_of_two_who_change_a_job_one_wins(store: SqlMetaStore) -> None:
    one = await store.submit_job(job("a"))
    await store.keep_job(jobs.started(one, "me", NOW_MS))
    with pytest.raises(Conflict, match="by somebody else"):
        await store.keep_job(jobs.cancelled(one, None, NOW_MS))
    with pytest.raises(NotFound):
        await store.keep_job(replace(one, id="b"))


async def test_whoever_submits_at_once_no_two_open_jobs_overlap(store: SqlMetaStore) -> None:
    asked = [job(f"{number}", 10 * number, 10 * number + 25, created_ms=NOW_MS + number) for number in range(12)]
    answers = await asyncio.gather(*(store.submit_job(one) for one in asked))
    held, total = await store.jobs(limit=99, states=jobs.OPEN)
    assert total == len(held)
    wanted = [one.span for it in held for one in it.wanted]
    assert len(union(wanted)) == 1
    assert sum(one.end_ms - one.start_ms for one in wanted) == 135
    for one, answer in zip(asked, answers, strict=True):
        covering = await store.job(answer.id)
        while covering is not None and covering.into is not None:
            covering = await store.job(covering.into)
        assert covering is not None
        assert covering.open
        assert covering.span.start_ms <= one.span.start_ms < one.span.end_ms <= covering.span.end_ms
    other = await store.submit_job(job("other", series=TRADES))
    assert other.id == "other", "another series is another matter"


async def test_pages_states_and_what_is_due(store: SqlMetaStore) -> None:
    for number in range(6):
        one = job(
            f"{number}",
            200 * number,
            200 * number + 100,
            created_ms=NOW_MS + number,
            priority=1 + number % 2 * 4,
            by="cli" if number else "audit",
        )
        await store.submit_job(one)
    later = await store.job("2")
    assert later is not None
    ended = await store.job("4")
    assert ended is not None
    await store.keep_job(replace(later, run_from_ms=NOW_MS + 50))
    await store.keep_job(jobs.cancelled(ended, "enough", NOW_MS))
    page, total = await store.jobs(limit=2, offset=1)
    assert ([one.id for one in page], total) == (["4", "3"], 6)
    assert [one.id for one in (await store.jobs(limit=9, by=["audit"]))[0]] == ["0"]
    assert [one.id for one in (await store.jobs(limit=9, states=[JobState.CANCELLED], series=MINUTE))[0]] == ["4"]
    assert [one.id for one in await store.due_jobs(NOW_MS, 9)] == ["0", "1", "3", "5"]
    assert [one.id for one in await store.due_jobs(NOW_MS + 50, 2)] == ["0", "2"]
    counts = await store.job_counts()
    assert (counts[JobState.PENDING], counts[JobState.CANCELLED], counts[JobState.RUNNING]) == (5, 1, 0)


async def test_a_job_that_is_retried_must_not_overlap_either(store: SqlMetaStore) -> None:
    one = await store.submit_job(job("a"))
    one = await store.keep_job(jobs.cancelled(one, None, NOW_MS))
    again = await store.submit_job(jobs.retried(one, NOW_MS + 1))
    assert (again.id, again.state, again.version) == ("a", JobState.PENDING, 3)
    one = await store.keep_job(jobs.cancelled(again, None, NOW_MS + 2))
    await store.submit_job(job("b", 0, 50))
    covering = await store.submit_job(jobs.retried(one, NOW_MS + 3))
    assert (covering.id, covering.span) == ("b", one.span)
    left = await store.job("a")
    assert left is not None
    assert left.state is JobState.CANCELLED


async def test_the_table_stays_bounded_and_what_is_open_stays(store: SqlMetaStore) -> None:
    for number in range(7):
        one = await store.submit_job(job(f"{number}", 200 * number, 200 * number + 100, created_ms=NOW_MS + number))
        if number > 1:
            await store.keep_job(jobs.cancelled(one, None, NOW_MS))
    assert await store.prune_jobs(2) == 3
    assert [one.id for one in (await store.jobs(limit=9))[0]] == ["6", "5", "1", "0"]
    assert await store.prune_jobs(2) == 0


async def test_under_a_lease_that_is_over_nothing_is_kept(store: SqlMetaStore) -> None:
    one = await store.submit_job(job("a"))
    lease = (await store.take_lease("work", "me", 30)).lease
    one = await store.fenced(lease).keep_job(jobs.started(one, "me", NOW_MS))
    await store.give_back_lease(lease)
    await store.take_lease("work", "you", 30)
    with pytest.raises(LeaseLost):
        await store.fenced(lease).keep_job(jobs.beaten(one, NOW_MS + 1))
    assert await store.job("a") == one


async def test_rows_of_the_predecessor_are_no_jobs_and_stay(url: str, store: SqlMetaStore) -> None:
    statement = (
        "INSERT INTO backfill_jobs (job_id, symbol, data_type, start_time, end_time, status, created_at) "
        "VALUES ('old', 'BTCUSDT', 'candles', '2025-10-01 00:00:00', '2025-10-02 00:00:00', 'pending', '2025-10-03 00:00:00')"
    )
    async with store._database.writing() as connection:
        await connection.execute(text(statement))
    await store.submit_job(job("a"))
    assert [one.id for one in (await store.jobs(limit=9))[0]] == ["a"]
    assert await store.due_jobs(NOW_MS, 9) == [await store.job("a")]
    assert await store.job("old") is None
    await store.prune_jobs(0)
    async with store._database.writing() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM backfill_jobs")) == 2
        await connection.execute(text("UPDATE backfill_jobs SET body = '{' WHERE job_id = 'a'"))
    with pytest.raises(Corrupt, match="job a"):
        await store.job("a")
