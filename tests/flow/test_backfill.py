"""Jobs at work: what is fetched, what is noted, and what becomes of a job when something goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.meta.sql import SqlMetaStore
from data_manager.domain import job as jobs
from data_manager.domain.batch import STREAM, Batch, pack
from data_manager.domain.condition.partition import EVER
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Corrupt, Throttled, Unavailable
from data_manager.domain.events import AggTrade, Candle, Event, Number
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.job import FAILURES_MAX, Job, JobState, Target
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, parse_time
from data_manager.ports import LeaseLost, Receipt
from data_manager.ports.source import Offer, Wanted
from data_manager.services.backfill import Backfiller
from data_manager.services.backfilling.asking import new_job, series_asked, span_asked, whole
from tests.conftest import eventually
from tests.fresh_meta import fresh_meta
from tests.memory import MemoryStore
from tests.servers import WallClock
from tests.source import PastSource, SetClock

START_MS = parse_time("2023-04-04T00:00:00Z")
NOW_MS = START_MS + 30 * DAY_MS
MINUTE = Series("um", "candle", "BTCUSDT", "1m")
TRADES = Series("um", "agg_trade", "BTCUSDT")


def candle(minute: int, close: str = "2.0") -> Candle:
    open_ms = START_MS + minute * MINUTE_MS
    return Candle(
        symbol="BTCUSDT", interval="1m", open_ms=open_ms, open=Number("2"), high=Number("9.00"), low=Number("1"), close=Number(close),
        volume=Number("10.5"), quote_volume=Number("21"), trades=7, close_ms=open_ms + 59_999, closed=True, event_ms=None,
    )  # fmt: skip


def trade(number: int, step_ms: int = 1_000) -> AggTrade:
    return AggTrade(
        symbol="BTCUSDT", agg_id=number, price=Number("1.5"), quantity=Number("3"), first_trade_id=number, last_trade_id=number + 1,
        traded_ms=START_MS + number * step_ms, buyer_is_maker=False,
    )  # fmt: skip


def candles(first: int, end: int) -> list[Event]:
    return [candle(minute) for minute in range(first, end)]


def span(first: int, end: int) -> Span:
    return Span(START_MS + first * MINUTE_MS, START_MS + end * MINUTE_MS)


def rows(events: Sequence[Event], origin: str = STREAM) -> Batch:
    dataset = DATASETS["candle" if isinstance(events[0], Candle) else "agg_trade"]
    return pack(dataset, "um", events, [NOW_MS] * len(events), origin).batch


class Stage:
    """A store, metadata, a source and a backfiller over them."""

    def __init__(
        self, meta: SqlMetaStore, source: PastSource, store: MemoryStore, clock: Any, at_once: int = 2
    ) -> None:
        self.meta, self.source, self.store, self.clock = meta, source, store, clock
        self.backfiller = self.another("me", at_once)

    def another(self, owner: str, at_once: int = 2, append: Callable[[Batch], Any] | None = None) -> Backfiller:
        return Backfiller([self.source], append or self.store.append, self.clock, owner=owner, at_once=at_once)

    async def ask(self, wanted: Span, series: Series = MINUTE, **other: Any) -> Job:
        targets = [Target(wanted.start_ms, wanted.end_ms)]
        return await self.meta.submit_job(new_job(series, targets, self.clock.now_ms(), by="api", **other))

    async def run(self) -> None:
        await self.backfiller.turn(self.meta)

    async def job(self, job: Job) -> Job:
        found = await self.meta.job(job.id)
        assert found is not None
        return found

    async def held(self, series: Series = MINUTE) -> list[int]:
        found = await self.store.scan(series)
        return [(key - START_MS) // MINUTE_MS if series is MINUTE else key for key in found.key.tolist()]


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    async with fresh_meta(tmp_path) as one:
        yield one


@pytest.fixture
def stage(meta: SqlMetaStore) -> Stage:
    source = PastSource({MINUTE: candles(0, 1_440), TRADES: [trade(number) for number in range(10, 4_000)]})
    return Stage(meta, source, MemoryStore(), SetClock(NOW_MS))


# ── A job that works ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_fetches_what_is_wanted_and_counts_what_became_of_it(stage: Stage) -> None:
    await stage.store.append(rows([candle(70), candle(71)]))
    await stage.store.append(rows([candle(72, close="3")]))
    job = await stage.ask(span(60, 180))
    await stage.run()
    job = await stage.job(job)
    assert (job.state, job.progress, job.error) == (JobState.COMPLETED, 1.0, None)
    assert (job.fetched, job.new, job.changed, job.duplicate) == (120, 117, 1, 2), "history beats the stream"
    assert job.started_ms is not None
    assert job.completed_ms is not None
    assert await stage.held() == [*range(60, 180)]
    origins = set((await stage.store.scan(MINUTE)).columns["origin"].values_list())
    assert origins == {STREAM, f"job:{job.id} rest:klines"}
    assert +stage.backfiller.rows == {"new": 117, "changed": 1, "duplicate": 2}
    assert stage.backfiller.ended == {"completed": 1}


async def test_what_the_source_lacks_is_named_with_its_evidence(stage: Stage) -> None:
    stage.source.lacks = lambda event: (
        isinstance(event, Candle) and event.open_ms in {candle(65).open_ms, candle(66).open_ms, candle(150).open_ms}
    )
    job = await stage.ask(span(60, 180))
    await stage.run()
    job = await stage.job(job)
    assert job.state is JobState.COMPLETED
    assert [(one.start_ms, one.end_ms, one.missing) for one in job.absent] == [
        (span(65, 67).start_ms, span(65, 67).end_ms, 2),
        (span(150, 151).start_ms, span(150, 151).end_ms, 1),
    ]
    assert {"request", "digest", "at_ms"} <= job.absent[0].evidence.keys()


async def test_ids_that_the_source_jumps_over_are_named_also_across_its_pieces_and_at_the_edges(stage: Stage) -> None:
    lost = {5, *range(3_595, 3_605), 3_999}
    stage.source.lacks = lambda event: isinstance(event, AggTrade) and event.agg_id in lost
    stage.source.past[TRADES] = [trade(number) for number in range(4_000)]
    wanted = Target(START_MS, START_MS + 4_001_000, 1, 4_000)
    job = await stage.meta.submit_job(new_job(TRADES, [wanted], NOW_MS, by="audit"))
    await stage.run()
    job = await stage.job(job)
    assert [one.missing for one in job.absent] == [1, 10, 1]
    assert await stage.held(TRADES) == [number for number in range(4_000) if number not in lost]


async def test_holes_with_one_row_between_them_are_each_fetched_between_their_own_rows(stage: Stage) -> None:
    def between(after: int, before: int) -> Target:
        return Target(trade(after).traded_ms, trade(before).traded_ms, after, before)

    asked = list[tuple[int | None, int | None]]()
    offers = stage.source.offers

    def noting(wanted: Wanted, now_ms: int) -> list[Offer]:
        asked.append((wanted.after, wanted.before))
        return offers(wanted, now_ms)

    stage.source.offers = noting  # type: ignore[method-assign]  # what the source is asked for is the point
    job = new_job(TRADES, [between(19, 22), between(22, 25), between(25, 27), between(40, 43)], NOW_MS, by="audit")
    job = await stage.meta.submit_job(job)
    await stage.run()
    job = await stage.job(job)
    assert (job.state, job.error, job.remaining) == (JobState.COMPLETED, None, [])
    assert asked == [(19, 22), (22, 25), (25, 27), (40, 43)]
    assert await stage.held(TRADES) == [*range(19, 27), *range(40, 43)]


async def test_a_source_without_any_row_says_so(stage: Stage) -> None:
    stage.source.past = {}
    for series in (MINUTE, TRADES):
        job = await stage.ask(span(0, 60), series)
        await stage.run()
        job = await stage.job(job)
        assert job.state is JobState.COMPLETED
        assert [(one.start_ms, one.end_ms) for one in job.absent] == [(span(0, 60).start_ms, span(0, 60).end_ms)]
        assert await stage.held(series) == []


async def test_rows_that_break_a_rule_go_to_the_dead_letters(stage: Stage) -> None:
    bad = candle(61)
    stage.source.past[MINUTE] = [
        candle(60),
        Candle(**{**{name: getattr(bad, name) for name in bad.__struct_fields__}, "high": Number("0.5")}),
    ]
    job = await stage.ask(span(60, 62))
    await stage.run()
    job = await stage.job(job)
    assert (job.state, job.new, job.refused, [one.missing for one in job.absent]) == (JobState.COMPLETED, 1, 1, [1])
    [letter], _ = await stage.meta.dead_letters(limit=5)
    assert (letter.reason, letter.field, letter.subject) == ("invalid", "high", f"job.{job.id}")


async def test_urgent_jobs_go_first_and_so_many_at_once(stage: Stage) -> None:
    stage.source.gate.clear()
    slow = [await stage.ask(span(at, at + 10), priority=priority) for at, priority in ((0, 5), (20, 9), (40, 1))]
    running = asyncio.create_task(stage.run())
    await eventually(lambda: len(stage.source.asked) == 2)
    states = [(await stage.job(one)).state for one in slow]
    assert states == [JobState.RUNNING, JobState.PENDING, JobState.RUNNING]
    stage.source.gate.set()
    await running
    assert [(await stage.job(one)).state for one in slow] == [JobState.COMPLETED] * 3


# ── Overlaps and changes of mind ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_running_job_does_also_what_is_added_to_it(stage: Stage) -> None:
    stage.source.gate.clear()
    job = await stage.ask(span(60, 180))
    running = asyncio.create_task(stage.run())
    await eventually(lambda: len(stage.source.asked) == 1)
    assert (await stage.ask(span(100, 300))).id == job.id
    stage.source.gate.set()
    await running
    assert (await stage.job(job)).state is JobState.COMPLETED
    assert await stage.held() == [*range(60, 300)]
    assert len(stage.source.asked) == len(set(stage.source.asked)), "nothing is asked for twice"


async def test_what_is_added_in_the_moment_of_its_end_is_done_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, added = stage.meta.keep_job, list[Job]()

    async def keep_later(job: Job) -> Job:
        if job.state is JobState.COMPLETED and not added:
            added.append(await stage.ask(span(100, 300)))
        return await keep(job)

    monkeypatch.setattr(stage.meta, "keep_job", keep_later)
    job = await stage.ask(span(60, 180))
    await stage.run()
    job = await stage.job(job)
    assert [one.id for one in added] == [job.id]
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert await stage.held() == [*range(60, 300)]


async def test_a_running_job_of_one_source_asks_others_once_it_does_the_work_of_another_choice(stage: Stage) -> None:
    archive = PastSource({MINUTE: candles(0, 1_440)}, name="archive")
    archive.reach = span(0, 180)
    archive.gate.clear()
    backfiller = Backfiller([stage.source, archive], stage.store.append, stage.clock, owner="me", at_once=2)
    job = await stage.ask(span(60, 180), source="archive")
    running = asyncio.create_task(backfiller.turn(stage.meta))
    await eventually(lambda: len(archive.asked) == 1)
    assert (await stage.ask(span(100, 300))).id == job.id
    archive.gate.set()
    await running
    job = await stage.job(job)
    assert (job.state, job.source, job.error) == (JobState.COMPLETED, "auto", None)
    assert await stage.held() == [*range(60, 300)]


async def test_a_job_that_is_cancelled_stops_and_can_be_retried(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_manager.services.backfilling.running._NOTE_S", 0.0)
    stage = Stage(stage.meta, stage.source, stage.store, WallClock())
    stage.source.troubles = [None, Unavailable("for a moment")]
    job = await stage.ask(span(0, 240))
    await stage.run()
    waiting = await stage.job(job)
    assert (waiting.state, waiting.done) == (JobState.PENDING, (span(0, 60),))
    await stage.meta.keep_job(jobs.cancelled(waiting, None, NOW_MS))
    await stage.run()
    assert await stage.held() == [*range(60)]
    await stage.meta.submit_job(jobs.retried(await stage.job(job), 0))
    stage.source.asked.clear()
    await stage.run()
    assert (await stage.job(job)).state is JobState.COMPLETED
    assert stage.source.asked[0].start_ms == span(60, 61).start_ms, "what was finished is not asked for again"
    assert await stage.held() == [*range(240)]


async def test_a_job_cancelled_while_its_source_keeps_us_waiting_is_laid_down(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_manager.services.backfilling.running._BEAT_S", 0.02)
    stage = Stage(stage.meta, stage.source, stage.store, WallClock())
    stage.source.gate.clear()
    job = await stage.ask(span(0, 60))
    running = asyncio.create_task(stage.run())
    await eventually(lambda: len(stage.source.asked) == 1)
    while True:
        try:
            await stage.meta.keep_job(jobs.cancelled(await stage.job(job), "enough", stage.clock.now_ms()))
            break
        except jobs.Conflict:
            continue  # its heart beats
    await asyncio.wait_for(running, 5)
    assert (await stage.job(job)).state is JobState.CANCELLED
    assert await stage.held() == []


# ── What goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_source_that_is_away_is_asked_again_later_and_later_and_then_the_job_fails(stage: Stage) -> None:
    stage.source.troubles = [Unavailable(f"away {number}") for number in range(FAILURES_MAX)]
    job = await stage.ask(span(0, 60))
    waits = []
    for _ in range(FAILURES_MAX):
        await stage.run()
        job = await stage.job(job)
        waits.append(job.run_from_ms - stage.clock.now_ms())
        stage.clock.at_ms = max(stage.clock.at_ms, job.run_from_ms)
    assert job.state is JobState.FAILED
    assert "away 5 (6 times in a row)" in str(job.error)
    assert waits[:4] == sorted(waits[:4])
    assert waits[3] > 20 * waits[0] > 0
    assert await stage.held() == []


async def test_a_source_that_asks_us_to_wait_is_obeyed_and_no_failure(stage: Stage) -> None:
    stage.source.troubles = [None, Throttled("banned", retry_after_s=120.0)]
    job = await stage.ask(span(0, 120))
    await stage.run()
    job = await stage.job(job)
    assert (job.state, job.failures, job.progress) == (JobState.PENDING, 0, 0.5)
    assert 119_000 < job.run_from_ms - stage.clock.now_ms() <= 120_000
    await stage.run()
    assert (await stage.job(job)).state is JobState.PENDING, "not before then"
    stage.clock.at_ms = job.run_from_ms
    await stage.run()
    assert (await stage.job(job)).state is JobState.COMPLETED


@pytest.mark.parametrize(
    "trouble", [BadQuery("symbol", "XUSDT", "Invalid symbol."), Corrupt("the archive does not match its checksum")]
)
async def test_what_will_not_change_fails_at_once_and_keeps_what_came_before(stage: Stage, trouble: Any) -> None:
    stage.source.troubles = [None, trouble]
    stage.backfiller = stage.another("me", at_once=1)
    job = await stage.ask(span(0, 180), priority=1)
    other = await stage.ask(span(300, 310))
    await stage.run()
    job = await stage.job(job)
    assert (job.state, job.error) == (JobState.FAILED, str(trouble))
    assert job.remaining == [span(60, 180)]
    assert (await stage.job(other)).state is JobState.COMPLETED
    assert await stage.held() == [*range(60), *range(300, 310)]


async def test_a_job_of_which_a_part_is_offered_by_nobody_is_never_called_completed(stage: Stage) -> None:
    stage.source.reach = span(0, 100)
    job = await stage.ask(span(60, 180))
    await stage.run()
    job = await stage.job(job)
    assert job.state is JobState.FAILED
    assert "no source offers um.candle.BTCUSDT.1m from 2023-04-04T01:40:00.000Z to 2023-04-04T03:00:00.000Z" in str(
        job.error
    )
    assert await stage.held() == [*range(60, 100)]
    archive = await stage.ask(span(0, 10), source="archive")
    await stage.run()
    assert "source archive" in str((await stage.job(archive)).error)


async def test_who_asked_for_a_job_that_failed_is_told_until_it_is_done(stage: Stage) -> None:
    told: list[Finding] = []
    stage.backfiller = Backfiller(
        [stage.source], stage.store.append, stage.clock, owner="me", at_once=1, report=told.extend
    )
    stage.source.troubles = [
        BadQuery("symbol", "XUSDT", "Invalid symbol."),
        BadQuery("symbol", "XUSDT", "Invalid symbol."),
    ]
    job = await stage.ask(span(0, 60))
    await stage.meta.submit_job(new_job(TRADES, [Target(START_MS, START_MS + 5)], NOW_MS, by="audit", priority=9))
    await stage.run()
    [failure] = told
    assert (failure.kind, failure.series, failure.open, failure.evidence["job"]) == (
        FindingKind.ABANDONED,
        MINUTE.id,
        True,
        job.id,
    )
    await stage.meta.keep_findings(told)
    await stage.meta.submit_job(jobs.retried(await stage.job(job), NOW_MS))
    await stage.run()
    assert [(one.id, one.open) for one in told] == [(failure.id, True), (failure.id, False)]


async def test_a_bug_ends_the_job_and_no_other(stage: Stage) -> None:
    async def append(batch: Batch) -> Receipt:
        if batch.key[0] == candle(0).open_ms:
            raise ZeroDivisionError("a bug of ours")
        return await stage.store.append(batch)

    stage.backfiller = stage.another("me", append=append)
    job, other = await stage.ask(span(0, 60)), await stage.ask(span(300, 310))
    await stage.run()
    assert "ZeroDivisionError: a bug of ours" in str((await stage.job(job)).error)
    assert (await stage.job(other)).state is JobState.COMPLETED


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_who_stops_lays_his_jobs_down_and_the_next_one_goes_on(stage: Stage, how: str) -> None:
    stage.source.gate.clear()
    job = await stage.ask(span(0, 60))
    running = asyncio.create_task(stage.run())
    await eventually(lambda: len(stage.source.asked) == 1)
    if how == "close":
        await stage.backfiller.close()
        await running
        await stage.run()
    else:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (await stage.job(job)).state is JobState.PENDING
    stage.source.gate.set()
    await stage.another("you").turn(stage.meta)
    assert (await stage.job(job)).state is JobState.COMPLETED
    assert await stage.held() == [*range(60)]


async def test_metadata_that_goes_away_amid_a_job_costs_nothing_but_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_manager.services.backfilling.running._NOTE_S", 0.0)
    keep, kept = stage.meta.keep_job, 0

    async def keep_now_and_then(job: Job) -> Job:
        nonlocal kept
        kept += 1
        if kept in (3, 4, 6):
            raise Unavailable("the metadata store is away")
        return await keep(job)

    monkeypatch.setattr(stage.meta, "keep_job", keep_now_and_then)
    job = await stage.ask(span(0, 240))
    away = 0
    while (await stage.job(job)).state is not JobState.COMPLETED:
        try:
            await stage.run()
        except Unavailable:
            away += 1
    job = await stage.job(job)
    assert (away > 0, job.failures, job.fetched >= 240) == (True, 0, True)
    assert await stage.held() == [*range(240)]


async def test_a_job_left_running_by_a_dead_process_goes_on_and_one_who_lost_his_lease_writes_nothing(
    stage: Stage,
) -> None:
    stage.source.gate.clear()
    first = (await stage.meta.take_lease("work", "me", 30)).lease
    job = await stage.ask(span(0, 60))
    late = asyncio.create_task(stage.backfiller.turn(stage.meta.fenced(first)))
    await eventually(lambda: len(stage.source.asked) == 1)
    await stage.meta.give_back_lease(first)
    second = (await stage.meta.take_lease("work", "you", 30)).lease
    stage.source.gate.set()
    await stage.another("you").turn(stage.meta.fenced(second))
    with pytest.raises(LeaseLost):
        await late
    job = await stage.job(job)
    assert (job.state, job.attempts, job.fetched) == (JobState.COMPLETED, 2, 60)
    assert await stage.held() == [*range(60)]


# ── What may be asked for ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["candle", "candles", "kline"])
def test_datasets_by_any_of_their_names(word: str) -> None:
    assert series_asked("um", word, "BTCUSDT", "1m") == MINUTE


@pytest.mark.parametrize(
    ("words", "field", "says"),
    [
        (("um", "shoes", "BTCUSDT", None), "data_type", "candles"),
        (("um", "depth", "BTCUSDT", None), "data_type", "nobody can be asked for its past"),
        (("um", "metrics", "BTCUSDT", "1h"), "data_type", "nobody can be asked"),
        (("um", "candles", "btc/usdt", "1m"), "symbol", "BTCUSDT"),
        (("um", "candles", "BTCUSD_PERP", "1m"), "symbol", "um symbol"),
        (("um", "candles", "BTCUSDT", "1s"), "timeframe", "1m 3m"),
        (("um", "candles", "BTCUSDT", None), "timeframe", "1m 3m"),
        (("um", "funding", "BTCUSDT", "8h"), "timeframe", "leave it out"),
    ],
)
def test_a_wrong_word_is_named_with_what_would_be_valid(
    words: tuple[str, str, str, str | None], field: str, says: str
) -> None:
    with pytest.raises(BadQuery) as caught:
        series_asked(*words)
    assert caught.value.field == field
    assert says in str(caught.value)


def test_a_span_that_cannot_be_had_says_which_part_can() -> None:
    from data_manager.domain.condition.partition import Life

    life = Life(listed_ms=START_MS, delisted_ms=START_MS + DAY_MS)
    now_ms = START_MS + 10 * DAY_MS

    def refused(start_ms: int, end_ms: int, known: Life = EVER, series: Series = MINUTE) -> str:
        with pytest.raises(BadQuery) as caught:
            span_asked(series, start_ms, end_ms, now_ms, known)
        return str(caught.value)

    assert refused(START_MS + 5, START_MS).startswith("end_time")
    assert "up to 2023-04-14T00:00:00.000Z can be done" in refused(START_MS, now_ms + 60_000)
    assert refused(now_ms + 1, now_ms + 2).startswith("start_time")
    hour = Series("um", "candle", "BTCUSDT", "1h")
    assert span_asked(hour, START_MS, now_ms + 2_000, now_ms, EVER) == Span(START_MS, now_ms - HOUR_MS), (
        "clocks differ a little"
    )
    assert "from then on can be done" in refused(START_MS - 1, START_MS + 5, life)
    assert "nothing of it can be done" in refused(START_MS - 9, START_MS, life)
    assert "until then can be done" in refused(START_MS, START_MS + DAY_MS + 1, life)
    assert "nothing of it can be done" in refused(START_MS + DAY_MS, START_MS + DAY_MS + 1, life)
    assert "no candle of 1M" in refused(START_MS, now_ms, series=Series("um", "candle", "BTCUSDT", "1M"))


@pytest.mark.parametrize(
    ("series", "back_ms"),
    [
        (TRADES, 10_000),
        (Series("um", "mark_price", "BTCUSDT"), 60_000),  # one a minute
        (Series("um", "funding_rate", "BTCUSDT"), 120_000),
        (Series("um", "candle", "BTCUSDT", "3d"), 3 * DAY_MS + 10_000 - 1),  # nobody tells where they open
    ],
    ids=str,
)
def test_up_to_now_means_up_to_what_is_settled(series: Series, back_ms: int) -> None:
    now_ms = START_MS + 10 * DAY_MS
    assert span_asked(series, START_MS, now_ms, now_ms, EVER) == Span(START_MS, now_ms - back_ms)
    with pytest.raises(BadQuery, match="too short a while ago|is over by then"):
        span_asked(series, now_ms - back_ms, now_ms, now_ms, EVER)


def test_only_candles_that_are_over_are_asked_for() -> None:
    now_ms = START_MS + 90 * MINUTE_MS + 5_000  # the grace of ten seconds is not over
    hour = Series("um", "candle", "BTCUSDT", "1h")
    assert whole(MINUTE, Span(START_MS + 1, now_ms), now_ms) == span(1, 89)
    assert whole(hour, span(0, 60), now_ms) == span(0, 60)
    assert whole(hour, Span(START_MS, now_ms), now_ms) == span(0, 60)
    assert whole(hour, span(60, 90), now_ms) is None
    assert whole(TRADES, Span(START_MS + 1, now_ms), now_ms) == Span(START_MS + 1, now_ms)
