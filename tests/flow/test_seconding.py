"""No source is complete by its own word: what one lacks is asked of the other before anybody calls it absent."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadQuery, NotFound, Throttled, Unavailable
from data_manager.domain.events import Event
from data_manager.domain.holes.ledger import HoleState
from data_manager.domain.holes.mending import ATTEMPTS_MAX
from data_manager.domain.job import JobState, Target
from data_manager.domain.span import Span
from data_manager.domain.time import MINUTE_MS
from data_manager.ports.source import Wanted
from data_manager.services.backfill import Backfiller
from data_manager.services.backfilling.asking import new_job
from data_manager.services.backfilling.choosing import Step
from tests.contract.rows import trade
from tests.flow.test_healing import AGGREGATES, MINUTES, NOW_MS, House, aggregate, at, minutes
from tests.fresh_meta import fresh_meta
from tests.memory import MemoryStore
from tests.source import PastSource

TRADES = Series("um", "trade", "BTCUSDT")


class TwoSources(House):
    """The archive is asked first, and REST besides."""

    def restart(self) -> None:
        super().restart()
        self.other = getattr(self, "other", PastSource(dict(self.source.past), name="rest"))
        sources = [self.source, self.other]
        self.backfiller = Backfiller(sources, self.store.append, self.clock, owner="me", at_once=2, plan=first_only)


def first_only(sources, wanted, now_ms):
    """A plan of the first source alone, as of one that is cheaper."""
    from data_manager.services.planning import by_cost

    return by_cost(sources[:1], wanted, now_ms)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[TwoSources]:
    async with fresh_meta(tmp_path) as meta:
        yield two(meta)


def two(meta) -> TwoSources:
    past = {MINUTES: minutes(range(180)), AGGREGATES: [aggregate(number) for number in range(10_000)]}
    return TwoSources(meta, MemoryStore(), PastSource(past, name="archive"))


def lacks(numbers: Iterable[int]):
    gone = {at(number) for number in numbers}
    return lambda event: getattr(event, "open_ms", None) in gone


async def asked(house: TwoSources, series: Series, first_ms: int, end_ms: int, **keys: int):
    job = await house.meta.submit_job(new_job(series, [Target(first_ms, end_ms, **keys)], NOW_MS, by="api"))
    await house.backfiller.turn(house.meta)
    done = await house.meta.job(job.id)
    assert done is not None
    return done


async def test_what_the_archive_lacks_and_rest_has_is_healed_and_never_called_absent(house: TwoSources) -> None:
    house.source.lacks = lacks([12, 13, 17])
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    await house.heal()
    assert await house.states() == [(10, 20, "healed")]
    [job], _ = await house.meta.jobs(limit=9)
    assert (job.absent, job.new) == ((), 10)
    assert house.other.asked == [Span(at(12), at(14)), Span(at(17), at(18))], "for these and no others"
    origins = (await house.store.scan(MINUTES)).columns["origin"].values_list()
    assert {one.partition(" ")[2] for one in origins} - {""} == {"archive:klines", "rest:klines"}


async def test_what_both_lack_is_absent_with_the_evidence_of_both(house: TwoSources) -> None:
    house.source.lacks, house.other.lacks = lacks([12, 13, 14]), lacks([13, 14, 15])
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    await house.heal()
    await house.heal(after_ms=MINUTE_MS)
    assert await house.states() == [(10, 13, "healed"), (13, 15, "absent_at_source"), (15, 20, "healed")]
    evidence = (await house.ledger())[1].history[-1].evidence
    assert evidence is not None
    assert evidence["call"] == "archive:klines, rest:klines"
    assert "archive:klines" in str(evidence["request"])
    assert "rest:klines" in str(evidence["second_request"])
    assert evidence["digest"]
    assert evidence["second_digest"]


@pytest.mark.parametrize("other_lacks", [False, True])
async def test_ids_that_are_missing_between_two_answers_are_asked_for_where_they_happened(
    house: TwoSources, other_lacks: bool
) -> None:
    """An archive that lacks the end of a day shows it only when the next day begins."""
    first_ms, end_ms = aggregate(0).traded_ms, aggregate(7_000).traded_ms
    full = next(number for number in range(3_600) if aggregate(number).traded_ms % house.source.piece_ms == 0)
    gone = {full - 2, full - 1, full}
    house.source.lacks = lambda event: getattr(event, "agg_id", None) in gone
    house.other.lacks = house.source.lacks if other_lacks else (lambda event: False)
    job = await asked(house, AGGREGATES, first_ms, end_ms)
    held = set((await house.store.scan(AGGREGATES)).key.tolist())
    assert gone & held == (set() if other_lacks else gone)
    assert [(one.missing, one.after, one.before) for one in job.absent] == (
        [(3, full - 3, full + 1)] if other_lacks else []
    )
    assert all(one.span.holds(aggregate(number).traded_ms) for one in job.absent for number in gone)


@pytest.mark.parametrize("other_lacks", [False, True])
async def test_ids_that_are_missing_where_one_source_takes_over_are_asked_of_who_was_not(
    house: TwoSources, other_lacks: bool
) -> None:
    turn_ms = aggregate(1_000).traded_ms

    def taking_turns(sources, wanted, now_ms):
        [low], [high] = (
            one.offers(Wanted(series=wanted.series, span=span), now_ms)
            for one, span in zip(
                sources, (Span(wanted.span.start_ms, turn_ms), Span(turn_ms, wanted.span.end_ms)), strict=True
            )
        )
        return [Step(sources[0], low), Step(sources[1], high)]

    gone = {998, 999}
    house.source.lacks = lambda event: getattr(event, "agg_id", None) in gone
    house.other.lacks = house.source.lacks if other_lacks else (lambda event: False)
    sources = [house.source, house.other]
    house.backfiller = Backfiller(sources, house.store.append, house.clock, owner="me", at_once=2, plan=taking_turns)
    job = await asked(house, AGGREGATES, aggregate(0).traded_ms, aggregate(2_000).traded_ms)
    held = set((await house.store.scan(AGGREGATES)).key.tolist())
    assert held == set(range(2_000)) - (gone if other_lacks else set())
    assert Span(aggregate(997).traded_ms, aggregate(1_000).traded_ms + 1) in house.other.asked
    assert [(one.missing, one.call) for one in job.absent] == (
        [(2, "archive:aggTrades, rest:aggTrades")] if other_lacks else []
    )


@pytest.mark.parametrize("trouble", [Unavailable("away"), Throttled("slow down", retry_after_s=9)])
async def test_while_the_other_cannot_be_asked_nothing_is_proven(house: TwoSources, trouble: Exception) -> None:
    house.source.lacks = lacks([12])
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    for pause_ms in (0, MINUTE_MS, 10 * MINUTE_MS):
        house.other.troubles = [trouble]
        await house.heal(after_ms=pause_ms)
        assert (await house.states())[1] == (12, 13, "open")
    [job, *_], _ = await house.meta.jobs(limit=9)
    assert job.state is JobState.COMPLETED
    assert [one.missing for one in job.absent] == [1]
    assert "rest:klines could not be asked" in str(job.absent[0].doubt)
    await house.heal(after_ms=60 * MINUTE_MS)
    assert await house.states() == [(10, 20, "healed")]


async def test_who_asks_for_what_is_not_known_is_told_so_and_need_not_wait_for_the_other(house: TwoSources) -> None:
    """An archive that may publish a file tomorrow is nothing to wait for when REST does not know the symbol."""
    house.other.troubles = [NotFound("the venue does not know it")]
    house.source.troubles = [Unavailable("not published yet", retry_after_s=3_600)]
    house.backfiller = Backfiller([house.source, house.other], house.store.append, house.clock, owner="me", at_once=2)
    job = await asked(house, MINUTES, at(10), at(20))
    assert (job.state, job.error) == (JobState.FAILED, "the venue does not know it")


async def test_one_who_refuses_for_good_is_no_doubt(house: TwoSources) -> None:
    house.source.lacks = lacks([12])
    refusal = BadQuery("symbol", "BTCUSDT", "Invalid symbol.")
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    for pause_ms in (0, MINUTE_MS):
        house.other.troubles = [refusal]
        await house.heal(after_ms=pause_ms)
    entry = (await house.ledger())[1]
    assert entry.state is HoleState.ABSENT
    assert "Invalid symbol" in str((entry.history[-1].evidence or {})["second_why"])


async def test_a_symbol_that_no_file_and_no_answer_knows_fails_the_job_of_who_asked(house: TwoSources) -> None:
    house.source.past, house.other.troubles = {}, [NotFound("the venue does not know it")]
    job = await asked(house, Series("um", "candle", "NOPEUSDT", "1m"), at(0), at(10))
    assert (job.state, job.error) == (JobState.FAILED, "the venue does not know it")


async def test_without_a_row_it_counts_what_the_venue_lists(house: TwoSources) -> None:
    """Of trades only the archive may be asked, where an unknown symbol has no files like one that did not trade."""
    house.source.past, nope = {}, Series("um", "trade", "NOPEUSDT")
    for listed, state in ((True, JobState.COMPLETED), (None, JobState.COMPLETED), (False, JobState.FAILED)):
        house.source.listed = listed
        job = await asked(house, nope, at(0), at(10))
        assert job.state is state
    assert "the venue lists no such symbol" in str(job.error)
    house.source.past = {MINUTES: minutes([3])}
    assert (await asked(house, MINUTES, at(0), at(10))).state is JobState.COMPLETED, "it had rows, delisted or not"


async def test_a_job_of_one_source_asks_no_other(house: TwoSources) -> None:
    house.source.lacks = lacks([12])
    job = new_job(MINUTES, [Target(at(10), at(20))], NOW_MS, by="api", source="archive")
    await house.meta.submit_job(job)
    await house.backfiller.turn(house.meta)
    assert house.other.asked == []


async def test_lost_ids_come_from_the_other_too(house: TwoSources) -> None:
    house.source.lacks = lambda event: getattr(event, "agg_id", 0) in {13, 14, 17}
    house.other.lacks = lambda event: getattr(event, "agg_id", 0) == 17
    await house.hold([aggregate(number) for number in range(100) if not 10 <= number < 20])
    await house.audit()
    await house.heal()
    await house.heal(after_ms=MINUTE_MS)
    assert await house.held(AGGREGATES) == [number for number in range(100) if number != 17]
    [hole] = [one for one in await house.ledger(AGGREGATES) if one.live]
    assert (hole.state, hole.missing, hole.after, hole.before) == (HoleState.ABSENT, 1, 16, 18)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(0, 179), max_size=60), st.sets(st.integers(0, 179), max_size=60), st.sets(st.integers(0, 179))
)
async def test_whatever_two_sources_lack_what_one_has_comes_and_what_none_has_is_named(
    tmp_path: Path, one: set[int], other: set[int], held: set[int]
) -> None:
    async with fresh_meta(tmp_path) as meta:
        house = two(meta)
        house.source.lacks, house.other.lacks = lacks(one), lacks(other)
        if held:
            await house.hold(minutes(sorted(held)))
        job = await asked(house, MINUTES, at(0), at(180))
        assert await house.held() == sorted(set(range(180)) - (one & other) | held)
        named = [minute for it in job.absent for minute in range((it.start_ms - at(0)) // MINUTE_MS, (it.end_ms - at(0)) // MINUTE_MS)]  # fmt: skip
        assert named == sorted(one & other)
        assert sum(it.missing or 0 for it in job.absent) == len(named)


# ── Burned ids ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_may_leave_out_few_ids_as_burned_counts_them_and_not_many(house: TwoSources) -> None:
    for every, burned, lost in ((100, 9, 0), (5, 0, 199)):
        past: list[Event] = [trade(number) for number in range(1_000) if number % every or not number]
        house.source.past[TRADES] = house.other.past[TRADES] = past
        job = await asked(house, TRADES, at(0), at(1))
        assert (job.burned, sum(one.missing or 0 for one in job.absent)) == (burned, lost), every
        await house.audit()
        assert sum(one.missing or 0 for one in await house.ledger(TRADES)) == lost, "nor does an audit believe it"
        await house.store.drop(TRADES, Span(at(0), at(1)))


# ── Attempts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_hole_that_grows_while_its_source_is_away_is_never_given_up_for_that(house: TwoSources) -> None:
    """An outage of the streams and of the sources at once, longer than all patience with one hole."""
    await house.hold(minutes(range(10)))
    away = BadQuery("symbol", "BTCUSDT", "Invalid symbol.")
    for minute in range(15, 15 + 5 * (ATTEMPTS_MAX + 3), 5):
        house.clock.at_ms = at(minute) + 20_000
        house.source.troubles, house.other.troubles = [away] * 9, [away] * 9
        await house.audit()
        house.clock.at_ms += 1
        await house.audit()
        await house.heal()
        [hole] = await house.ledger()
        assert (hole.state, hole.attempts) == (HoleState.OPEN, 1), "tried once as it is now"
    assert len(house.source.asked) == ATTEMPTS_MAX + 3
    house.source.troubles, house.other.troubles = [], []
    await house.heal(after_ms=MINUTE_MS)
    assert await house.held() == list(range(minute))
    assert {one.state for one in await house.ledger()} == {HoleState.HEALED}


async def test_rows_that_are_refused_are_never_absent_at_the_source(house: TwoSources) -> None:
    bad = trade(7, price="-1")
    house.source.past[TRADES] = house.other.past[TRADES] = [bad if number == 7 else trade(number) for number in range(20)]  # fmt: skip
    await house.hold([trade(number) for number in range(20) if number not in (6, 7)])
    await house.audit()
    await house.heal()
    await house.heal(3, after_ms=10 * MINUTE_MS)
    [hole] = [one for one in await house.ledger(TRADES) if one.live]
    assert (hole.state, hole.before) == (HoleState.OPEN, 8)
    [job, *_], _ = await house.meta.jobs(limit=9)
    assert "break a rule" in str(job.absent[0].doubt)
