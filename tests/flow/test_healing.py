"""Auto-heal over real metadata and a real auditor: every hole ends truthfully, on its own, whoever leads meanwhile."""

from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_manager.adapters.meta.sql import SqlMetaStore
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain import job as jobs
from data_manager.domain.batch import STREAM, pack
from data_manager.domain.condition.partition import Condition
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.errors import BadQuery
from data_manager.domain.events import AggTrade, Event, FundingRate, MarkPrice, Number
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.holes.mending import ATTEMPTS_MAX, Patience
from data_manager.domain.job import OPEN, JobState
from data_manager.domain.proof.canonical import row_hashes, streams
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS
from data_manager.ports import SeriesStore
from data_manager.services.audit import Auditor
from data_manager.services.backfill import Backfiller
from data_manager.services.backfilling.losses import Losses
from data_manager.services.conditions import Conditions
from data_manager.services.healing import Healing
from tests.contract.rows import BASE_MS, candle, depth_update, trade
from tests.fresh_meta import fresh_meta
from tests.memory import MemoryStore
from tests.source import PastSource, SetClock

MINUTES, AGGREGATES = Series("um", "candle", "BTCUSDT", "1m"), Series("um", "agg_trade", "BTCUSDT")
NOW_MS = BASE_MS + 3 * HOUR_MS + 20_000


def at(minute: int) -> int:
    return BASE_MS + minute * MINUTE_MS


def minutes(numbers: Iterable[int], symbol: str = "BTCUSDT") -> list[Event]:
    return [candle(number, symbol=symbol) for number in numbers]


def aggregate(number: int) -> AggTrade:
    return AggTrade(
        symbol="BTCUSDT", agg_id=number, price=Number("1.5"), quantity=Number("3"), first_trade_id=number, last_trade_id=number + 1,
        traded_ms=BASE_MS + number * 1_000, buyer_is_maker=False,
    )  # fmt: skip


class House:
    """All that heals needs, and a source that knows the whole past."""

    def __init__(self, meta: SqlMetaStore, store: SeriesStore, source: PastSource, **options: Any) -> None:
        self.meta, self.store, self.source = meta, store, source
        self.clock = SetClock(NOW_MS)
        self.told: list[Finding] = []
        self.certified: list[tuple[Series, Span]] = []
        self.shed: frozenset[str] = frozenset()
        self.options = options
        self.restart()

    def restart(self) -> None:
        """As in another process that leads next."""
        self.auditor = Auditor(self.store, self.meta, self.meta, self.clock, self.told.extend)
        losses = Losses(self.clock, self.report, lambda: self.shed)
        self.healing = Healing(self.auditor, losses, self.clock, certifier=self, **self.options)
        self.backfiller = Backfiller([self.source], self.store.append, self.clock, owner="me", at_once=2)

    def report(self, findings: Sequence[Finding]) -> None:
        self.told.extend(findings)

    async def healed(self, series: Series, span: Span, *, truth: Any = None) -> None:
        self.certified.append((series, span))

    async def hold(self, events: Sequence[Event]) -> None:
        dataset = BY_EVENT[type(events[0])]
        await self.store.append(
            pack(dataset, "um", events, [getattr(one, dataset.time) for one in events], STREAM).batch
        )

    async def audit(self) -> None:
        await self.auditor.run()

    async def heal(self, times: int = 1, *, after_ms: int = 0) -> None:
        """So many turns with the jobs in between."""
        for _ in range(times):
            self.clock.at_ms += after_ms
            await self.healing.turn(self.meta)
            await self.backfiller.turn(self.meta)
            await self.healing.turn(self.meta)

    async def ledger(self, series: Series = MINUTES) -> list[LedgerEntry]:
        return (await self.meta.holes(limit=999, series=series.id))[0]

    async def states(self, series: Series = MINUTES) -> list[tuple[int, int, str]]:
        """First and last minute, and the state, of every hole."""
        return [
            ((one.start_ms - BASE_MS) // MINUTE_MS, (one.end_ms - BASE_MS) // MINUTE_MS, one.state.value)
            for one in await self.ledger(series)
        ]

    async def held(self, series: Series = MINUTES) -> list[int]:
        keys = (await self.store.scan(series)).key.tolist()
        return [(key - BASE_MS) // MINUTE_MS for key in keys] if series.interval else keys


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    async with fresh_meta(tmp_path) as one:
        yield one


@pytest.fixture
def house(meta: SqlMetaStore) -> House:
    past = {MINUTES: minutes(range(180)), AGGREGATES: [aggregate(number) for number in range(10_000)]}
    return House(meta, MemoryStore(), PastSource(past))


# ── Healed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_holes_are_found_filled_audited_and_called_healed(house: House) -> None:
    await house.hold(minutes([*range(10), *range(20, 50), *range(51, 180)]))
    await house.audit()
    assert await house.states() == [(10, 20, "open"), (50, 51, "open")]
    await house.healing.turn(house.meta)
    assert await house.states() == [(10, 20, "healing"), (50, 51, "healing")]
    [job], _ = await house.meta.jobs(limit=9)
    assert ([one.span for one in job.wanted], job.by) == ([Span(at(10), at(20)), Span(at(50), at(51))], "audit")
    await house.heal()
    assert await house.states() == [(10, 20, "healed"), (50, 51, "healed")]
    assert await house.held() == [*range(180)]
    assert house.source.asked == [Span(at(10), at(20)), Span(at(50), at(51))], "nothing else is asked for"
    assert house.certified == [(MINUTES, Span(at(10), at(51)))]
    assert house.healing.figures["jobs"] == 1
    assert house.healing.figures["healed"] == 2
    conditions = Conditions(house.meta, house.clock)
    found = (await conditions.condition_of(MINUTES, Span(at(5), at(25)))).ranges
    assert [(one.start_ms, one.condition) for one in found] == [
        (at(5), Condition.GOOD), (at(10), Condition.HEALED), (at(20), Condition.GOOD),
    ]  # fmt: skip
    entry = (await house.ledger())[0]
    assert [step.state for step in entry.history][-2:] == [HoleState.HEALING, HoleState.HEALED]
    assert entry.history[-2].by == f"job:{job.id}"
    before = len(house.source.asked)
    await house.heal(3, after_ms=DAY_MS)
    assert len(house.source.asked) == before, "what is healed costs nothing more"


async def test_lost_ids_come_back_between_their_neighbours(house: House) -> None:
    await house.hold([aggregate(number) for number in (*range(100), *range(4_000, 5_000))])
    await house.audit()
    await house.heal()
    [entry] = await house.ledger(AGGREGATES)
    assert entry.state is HoleState.HEALED
    [job], _ = await house.meta.jobs(limit=9)
    assert (job.wanted[0].after, job.wanted[0].before, job.fetched) == (99, 4_000, 3_902)
    assert (job.new, job.duplicate) == (3_900, 2), "the neighbours are held"
    assert await house.held(AGGREGATES) == [*range(5_000)]


async def test_settlements_too(house: House) -> None:
    def settled(slot: int) -> FundingRate:
        time_ms = 1_700_006_400_000 + slot * 8 * HOUR_MS
        return FundingRate(
            symbol="BTCUSDT", slot_ms=time_ms, rate_type="Regular", funding_ms=time_ms + 3, funding_rate=Number("0.0001")
        )  # fmt: skip

    series = Series("um", "funding_rate", "BTCUSDT")
    house.clock.at_ms = settled(30).slot_ms + HOUR_MS + 1
    house.source.past[series] = [settled(slot) for slot in range(31)]
    await house.hold([settled(slot) for slot in range(31) if slot not in (10, 20)])
    await house.audit()
    await house.heal()
    assert [one.state for one in await house.ledger(series)] == [HoleState.HEALED] * 2
    assert len(await house.held(series)) == 31


async def test_suspected_and_short_holes_wait(meta: SqlMetaStore, house: House) -> None:
    await house.hold(minutes(range(175)))
    await house.audit()
    assert (await house.states())[-1][2] == "suspected"
    await house.heal()
    assert house.source.asked == []
    patient = House(meta, house.store, house.source, patience=Patience(least_ms=10 * MINUTE_MS))
    await patient.hold(minutes(range(179, 180)))
    patient.clock.at_ms += 1
    await patient.audit()
    await patient.heal()
    assert (await patient.states())[0] == (175, 179, "open")
    assert house.source.asked == []


async def test_so_many_jobs_at_a_time_the_latest_loss_first(meta: SqlMetaStore) -> None:
    symbols = [f"{letter}USDT" for letter in "ABCDEFG"]
    past = {Series("um", "candle", symbol, "1m"): minutes(range(180), symbol) for symbol in symbols}
    house = House(meta, MemoryStore(), PastSource(past), jobs_max=3)
    for number, symbol in enumerate(symbols):
        await house.hold(minutes([minute for minute in range(180) if minute != 100 + number], symbol))
    await house.audit()
    await house.healing.turn(meta)
    open_jobs, total = await meta.jobs(limit=9, states=OPEN)
    assert {one.series for one in open_jobs} == {f"um.candle.{symbol}.1m" for symbol in symbols[-3:]}
    assert total == 3
    await house.healing.turn(meta)
    assert (await meta.jobs(limit=9))[1] == 3, "the same holes make no second job"
    await house.heal(4)
    assert {one.state for series in past for one in await house.ledger(series)} == {HoleState.HEALED}
    assert (await meta.jobs(limit=9))[1] == 7


# ── Not healed, and why ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_source_with_nothing_is_asked_twice_and_its_answer_kept_as_proof(house: House) -> None:
    house.source.lacks = lambda event: getattr(event, "open_ms", 0) in (at(12), at(13))
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    await house.heal()
    assert await house.states() == [(10, 12, "healed"), (12, 14, "open"), (14, 20, "healed")]
    await house.heal(3)
    assert len(house.source.asked) == 1, "some time has to lie between the two"
    await house.heal(after_ms=MINUTE_MS)
    assert (await house.states())[1] == (12, 14, "absent_at_source")
    entry = (await house.ledger())[1]
    evidence = entry.history[-1].evidence
    assert evidence is not None
    assert {"request", "digest", "at_ms", "call"} <= evidence.keys()
    assert entry.recheck_ms == house.clock.at_ms + HOUR_MS
    await house.heal(3, after_ms=10 * MINUTE_MS)
    assert len(house.source.asked) == 2, "the claim spares all further requests"
    assert (await Conditions(house.meta, house.clock).condition_of(MINUTES, Span(at(12), at(14)))).ranges[
        0
    ].condition is Condition.KNOWN_HOLE

    house.restart()
    await house.heal(after_ms=HOUR_MS)
    entry = (await house.ledger())[1]
    assert (entry.state, entry.recheck_ms) == (HoleState.ABSENT, house.clock.at_ms + 6 * HOUR_MS), (
        "asked again, and later the next time"
    )
    house.source.lacks = lambda event: False
    house.restart()
    await house.heal(after_ms=6 * HOUR_MS)
    assert await house.states() == [(10, 20, "healed")], "what the venue publishes late is taken"


async def test_a_source_that_refuses_is_asked_later_and_later_and_the_hole_given_up(house: House) -> None:
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    pauses = [0, MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS, DAY_MS, DAY_MS]
    for number, pause_ms in enumerate(pauses, 1):
        house.source.troubles = [BadQuery("symbol", "BTCUSDT", "Invalid symbol.")]
        if pause_ms:
            await house.heal(after_ms=pause_ms - 1)
            assert len(house.source.asked) == number - 1, "not before then"
        await house.heal(after_ms=1 if pause_ms else 0)
        assert len(house.source.asked) == number
    [entry] = await house.ledger()
    assert (entry.state, entry.attempts) == (HoleState.UNRECOVERABLE, ATTEMPTS_MAX)
    assert "Invalid symbol" in entry.history[-1].why
    assert entry.recheck_ms == house.clock.at_ms + 7 * DAY_MS


async def test_a_job_somebody_cancels_is_not_made_again_at_once(house: House) -> None:
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    await house.healing.turn(house.meta)
    [job], _ = await house.meta.jobs(limit=9)
    await house.meta.keep_job(jobs.cancelled(job, None, NOW_MS))
    await house.heal(2, after_ms=HOUR_MS)
    [entry] = await house.ledger()
    assert (entry.state, house.source.asked) == (HoleState.UNRECOVERABLE, [])
    assert entry.recheck_ms is not None


async def test_a_past_book_is_gone(house: House) -> None:
    series = Series("um", "depth_update", "BTCUSDT")
    await house.hold([depth_update(number) for number in (1, 2, 3, 4, 8, 9, 11, 12)])
    await house.audit()
    assert {one.state for one in await house.ledger(series)} == {HoleState.OPEN}
    await house.heal()
    assert {(one.state, one.recheck_ms) for one in await house.ledger(series)} == {(HoleState.UNRECOVERABLE, None)}
    assert (await house.meta.jobs(limit=9))[1] == 0


async def test_rows_that_are_refused_do_not_pass_for_absent_ones(house: House) -> None:
    series = Series("um", "trade", "BTCUSDT")
    bad = trade(7, price="-1")
    house.source.name = "archive"
    house.source.past[series] = [bad if number == 7 else trade(number) for number in range(20)]
    await house.hold([trade(number) for number in range(20) if number not in (6, 7)])
    await house.audit()
    await house.heal()
    [job], _ = await house.meta.jobs(limit=9)
    assert (job.refused, job.state) == (1, JobState.COMPLETED)
    assert [one.state for one in await house.ledger(series) if one.live] == [HoleState.OPEN]


async def test_ids_the_venue_burned_are_no_holes_of_its_history(house: House) -> None:
    series = Series("um", "trade", "BTCUSDT")
    lacks = {15, 16, 20, 21, 22}
    house.source.name = "archive"
    house.source.past[series] = [trade(number) for number in range(40) if number not in lacks]
    await house.hold([trade(number) for number in range(40) if not 10 <= number < 30 and number != 35])
    await house.audit()
    await house.heal()
    left = [(one.start_ms - BASE_MS, one.end_ms - BASE_MS) for one in await house.ledger(series) if one.live]
    assert left == [(190, 231)], "two in a row are burned, three are lost"
    [job], _ = await house.meta.jobs(limit=9)
    assert [one.missing for one in job.absent] == [3]
    await house.hold([trade(number) for number in range(41, 45)])
    await house.audit()
    left = [(one.start_ms - BASE_MS, one.end_ms - BASE_MS) for one in await house.ledger(series) if one.live]
    assert left == [(190, 231), (390, 411)], "what the stream leaves out is lost"


# ── Coarse ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_coarser_rows_never_make_a_hole_healed(house: House) -> None:
    series = Series("um", "mark_price", "BTCUSDT")

    def mark(second: int) -> MarkPrice:
        return MarkPrice(symbol="BTCUSDT", event_ms=BASE_MS + second * 1_000, mark_price=Number("5"))

    house.source.coarse = True
    house.source.past[series] = [mark(second) for second in range(0, 3_600, 60)]
    house.clock.at_ms = BASE_MS + 1_190_000
    await house.hold([mark(second) for second in range(1_181) if not 301 <= second < 900])
    await house.audit()
    house.clock.at_ms += 1
    await house.audit()
    await house.heal()
    entries = await house.ledger(series)
    assert [(one.state, one.end_ms - one.start_ms) for one in entries] == [(HoleState.UNRECOVERABLE, 599_999)]
    assert "coarser" in entries[0].history[-1].why
    assert len(await house.held(series)) == 1_181 - 599 + 9, "the coarse rows are there all the same"
    house.clock.at_ms += HOUR_MS
    await house.auditor.run(full=True)
    assert [one.state for one in await house.ledger(series)][:1] == [HoleState.UNRECOVERABLE]


# ── Whoever stops when ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_leads_next_goes_on_wherever_the_last_one_stopped(house: House) -> None:
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    submit = house.meta.submit_job
    from data_manager.services.backfilling.asking import new_job

    await submit(new_job(MINUTES, [jobs.Target(at(10), at(20))], NOW_MS, by="audit"))  # killed before the ledger knew
    house.restart()
    await house.healing.turn(house.meta)
    assert await house.states() == [(10, 20, "healing")]
    assert (await house.meta.jobs(limit=9))[1] == 1
    house.restart()
    await house.backfiller.turn(house.meta)  # killed before it looked again
    house.restart()
    await house.healing.turn(house.meta)
    assert await house.states() == [(10, 20, "healed")]


async def test_an_audit_beside_a_heal_disturbs_neither(house: House) -> None:
    await house.hold(minutes([*range(10), *range(20, 180)]))
    await house.audit()
    await house.healing.turn(house.meta)
    other = Auditor(house.store, house.meta, house.meta, house.clock, house.told.extend)
    await other.run(full=True)
    assert await house.states() == [(10, 20, "healing")]
    await house.backfiller.turn(house.meta)
    await other.run(full=True)
    assert await house.states() == [(10, 20, "healed")], "an audit that finds the rows first says so"
    await house.heal()
    assert await house.states() == [(10, 20, "healed")]


# ── What was let go ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_shed_is_fetched_once_there_is_room_again(house: House) -> None:
    def shed(start_ms: int, end_ms: int, kind: FindingKind = FindingKind.SHED) -> Finding:
        return found(
            kind,
            series=AGGREGATES.id,
            severity="critical",
            start_ms=start_ms,
            end_ms=end_ms,
            evidence={},
            found_ms=NOW_MS,
        )

    house.shed = frozenset({"agg_trade"})
    await house.hold([aggregate(number) for number in range(100)])
    await house.audit()
    tail, inside = (
        shed(BASE_MS + 100_000, BASE_MS + 150_000),
        shed(BASE_MS + 5_000, BASE_MS + 6_000, FindingKind.DROPPED),
    )
    await house.meta.keep_findings([tail, inside])
    await house.heal()
    assert [(one.id, one.open) for one in house.told] == [(inside.id, False)], (
        "an audit found that nothing is missing there"
    )
    assert await house.held(AGGREGATES) == [*range(100)]
    house.shed, house.told = frozenset(), []
    house.restart()
    await house.heal()
    assert await house.held(AGGREGATES) == [*range(150)]
    house.restart()
    await house.heal()
    assert (tail.id, False) in [(one.id, one.open) for one in house.told]


# ── Live rows and heals in any order ─────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_live_ingest_and_heal_in_any_order_give_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Rows of the stream and rows of a job, overlapping, cut anyhow and in any order, on both stores."""
    streamed, fetched = [*range(40), *range(70, 120)], range(30, 90)

    def batches(origin: str, numbers: Sequence[int]) -> list[list[Event]]:
        cuts = sorted({0, len(numbers), *data.draw(st.lists(st.integers(0, len(numbers)), max_size=4), label=origin)})
        parts = [numbers[one:other] for one, other in pairwise(cuts)]
        odd = "3" if origin == STREAM else "4"  # where they disagree, the order must not matter either
        return [[candle(number, close=odd if number % 7 == 0 else "2") for number in part] for part in parts] + [
            [aggregate(number) for number in part] for part in parts
        ]

    offered = [(STREAM, one) for one in batches(STREAM, streamed)] + [
        ("job:a rest:klines", one) for one in batches("job", fetched)
    ]
    embedded = EmbeddedStore(tmp_path_factory.mktemp("store"), 8 << 20)
    contents = []
    try:
        for store in (MemoryStore(), MemoryStore(), embedded):
            for origin, events in data.draw(st.permutations(offered)):
                await store.append(pack(BY_EVENT[type(events[0])], "um", events, [NOW_MS] * len(events), origin).batch)
            rows = [await store.scan(series) for series in (MINUTES, AGGREGATES)]
            contents.append([row_hashes(len(one), streams(one)).tolist() for one in rows])
    finally:
        await embedded.close()
    assert contents[0] == contents[1] == contents[2]
    assert [len(one) for one in contents[0]] == [120, 120]
