"""The audit over real stores: it finds exactly what is missing, says so twice alike, and never calls unknown good."""

import asyncio
import csv
import gzip
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import STREAM, Batch, pack
from data_manager.domain.condition.coverage import Result
from data_manager.domain.condition.partition import Life
from data_manager.domain.condition.truth import SeriesTruth, TruthChange
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT, DATASETS
from data_manager.domain.errors import Conflict, Corrupt, NotFound, Unavailable
from data_manager.domain.events import BookTicker, Event, Number
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.span import Span
from data_manager.domain.time import EARLIEST_MS, LATEST_MS
from data_manager.ports import SeriesStore
from data_manager.ports.truth import TruthStore
from data_manager.services.audit import Auditor
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.auditing.looking import Crossed
from data_manager.services.conditions import Conditions
from tests.contract.rows import BASE_MS, candle, depth_update, trade
from tests.memory import MemoryStore
from tests.truth import lines_of, path_of

MINUTE_MS = 60_000
MINUTES, TRADES = Series("um", "candle", "BTCUSDT", "1m"), Series("um", "trade", "BTCUSDT")
BOOKS, TICKERS = Series("um", "depth_update", "BTCUSDT"), Series("um", "book_ticker", "BTCUSDT")


class SetClock:
    """Stands still until it is set."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class House:
    """A store, its metadata, and an auditor whose findings are kept."""

    def __init__(self, store: SeriesStore, meta: SqlMetaStore, now_ms: int, **options: Any) -> None:
        self.store = store
        self.meta = meta
        self.clock = SetClock(now_ms)
        self.told: list[Finding] = []
        self.auditor = self.new(**options)

    def new(self, **options: Any) -> Auditor:
        """Another auditor of the same store, as after a restart."""
        return Auditor(self.store, self.meta, self.meta, self.clock, self.told.extend, **options)

    async def hold(self, events: Sequence[Event], **how: Any) -> None:
        """Append them, received when they happened unless said otherwise."""
        await self.store.append(fed(events, **how))

    async def holes(self, series: Series | None = None, **how: Any) -> list[tuple[int, int]]:
        """What an audit says is missing: key after which, and how many."""
        done = await self.auditor.run(None if series is None else [series], **how)
        assert done.failed == ()
        return [(one.start_ms, one.end_ms) for one in done.holes]

    async def truth(self, series: Series) -> SeriesTruth:
        [one] = await self.meta.truths([series.id])
        return one

    async def covered(self, series: Series) -> list[tuple[int, int, str]]:
        return [(one.start_ms, one.end_ms, one.result.value) for one in (await self.truth(series)).coverage]


def fed(events: Sequence[Event], origin: str = STREAM) -> Batch:
    """As the stream brings them: each received when it happened."""
    dataset = BY_EVENT[type(events[0])]
    moments = [getattr(one, "close_ms", None) or getattr(one, dataset.time) for one in events]
    return pack(dataset, "um", events, moments, origin).batch


@pytest.fixture(params=["memory", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SeriesStore]:
    one: SeriesStore = MemoryStore() if request.param == "memory" else EmbeddedStore(tmp_path, 8 << 20)
    try:
        yield one
    finally:
        await one.close()


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    try:
        yield one
    finally:
        await one.close()


def at(minute: int) -> int:
    return BASE_MS + minute * MINUTE_MS


def minutes(wanted: Collection[int]) -> list[Event]:
    return [candle(minute) for minute in wanted]


# ── Candles ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_missing_minute_is_found_and_the_open_candle_is_not_missed(
    store: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(store, meta, at(30) + 40_000)
    await house.hold([*minutes(set(range(30)) - {7}), candle(30, closed=False)])
    assert await house.holes() == [(at(7), at(8))]
    [entry] = (await house.truth(MINUTES)).holes
    assert (entry.missing, entry.kind, entry.after, entry.before) == (1, "grid", at(6), at(8))
    assert await house.covered(MINUTES) == [(at(0), at(7), "pass"), (at(7), at(8), "fail"), (at(8), at(30), "pass")]


async def test_a_candle_that_may_be_on_its_way_is_no_hole_and_soon_is(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(30) + 9_999)
    await house.hold(minutes(range(29)))
    assert await house.holes() == []
    house.clock.now = at(30) + 10_000
    assert await house.holes() == [(at(29), at(30))]
    assert (await house.truth(MINUTES)).holes[0].state is HoleState.SUSPECTED
    assert house.told == []
    house.clock.now += 1
    await house.holes()
    assert (await house.truth(MINUTES)).holes[0].state is HoleState.OPEN
    assert [(one.kind, one.open) for one in house.told] == [(FindingKind.HOLE, True)]


async def test_a_hole_that_is_filled_later_is_healed_and_told(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(200))
    await house.hold(minutes(set(range(200)) - {5, 6, 90}))
    assert await house.holes() == [(at(5), at(7)), (at(90), at(91))]
    await house.hold(minutes([5]), origin="job:7")
    house.clock.now += 1
    assert await house.holes() == [(at(6), at(7)), (at(90), at(91))]
    await house.hold(minutes([6, 90]), origin="job:7")
    house.clock.now += 1
    assert await house.holes() == []
    states = [(one.start_ms, one.end_ms, one.state) for one in (await house.truth(MINUTES)).holes]
    assert states == [(at(5), at(7), HoleState.HEALED), (at(90), at(91), HoleState.HEALED)]
    assert sorted((one.start_ms, one.open) for one in house.told[-2:]) == [(at(5), False), (at(90), False)]


async def test_a_long_outage_is_told_whole_once_it_is_over(store: SeriesStore, meta: SqlMetaStore) -> None:
    """Its beginning lies far behind what an audit looks at again."""
    house = House(store, meta, at(100) + 12_000)
    await house.hold(minutes(range(100)))
    for minute in (100, 105, 150, 170):
        house.clock.now = at(minute) + 12_000
        await house.auditor.run()
    await house.hold(minutes(range(170, 172)))
    house.clock.now = at(172) + 12_000
    [hole] = (await house.auditor.run()).holes
    whole = (at(100), at(170), 70, at(99), at(170))
    assert (hole.start_ms, hole.end_ms, hole.missing, hole.after, hole.before) == whole
    last = house.told[-1]
    assert (last.id, last.start_ms, last.end_ms) == (hole.id, at(100), at(170))
    assert last.evidence == {"rule": "grid", "missing": 70, "after": at(99), "before": at(170)}


async def test_the_row_after_a_hole_is_named_when_it_comes(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(100) + 12_000)
    await house.hold(minutes(range(99)))
    await house.auditor.run()
    house.clock.now += 1
    [before] = (await house.auditor.run()).holes
    assert (before.after, before.before) == (at(98), None)
    await house.hold(minutes([100]))
    house.clock.now = at(101) + 12_000
    [after] = (await house.auditor.run()).holes
    assert (after.id, after.after, after.before) == (before.id, at(98), at(100))
    assert house.told[-1].evidence["before"] == at(100)


async def test_a_second_audit_changes_nothing(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(400))
    await house.hold(minutes(set(range(400)) - {7, 300}))
    await house.hold([trade(number) for number in range(1, 500) if number not in (77, 490)])
    await house.auditor.run()
    before, told = await meta.truths(), len(house.told)
    for again in (house.auditor, house.new()):
        for full in (False, True):
            done = await again.run(full=full)
            assert (done.changed, done.findings) == (0, 4)
            assert len(done.holes) == 4
    after = await meta.truths()
    assert [(one.holes, one.flaws) for one in after] == [(one.holes, one.flaws) for one in before]
    assert [[(a.start_ms, a.end_ms, a.result) for a in one.coverage] for one in after] == [
        [(a.start_ms, a.end_ms, a.result) for a in one.coverage] for one in before
    ]
    assert len(house.told) == told


async def test_a_feed_that_stopped_is_missing_up_to_now_and_a_replayed_recording_is_not(
    store: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(store, meta, at(500) + 30_000)
    await house.hold(minutes(range(10)))
    assert await house.holes() == [(at(10), at(500))]
    house.clock.now = at(502) + 30_000
    assert await house.holes() == [(at(10), at(502))], "one hole that grows"
    replayed = pack(
        DATASETS["candle"], "um", [candle(minute, symbol="ETHUSDT") for minute in range(10)], [at(9_000)] * 10, STREAM
    )
    await store.append(replayed.batch)
    assert await house.holes(Series("um", "candle", "ETHUSDT", "1m")) == []


async def test_only_what_changed_is_read_again(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(5_000))
    await house.hold(minutes(range(5_000)))
    assert (await house.auditor.run()).rows == 5_000
    for step in range(1, 4):
        await house.hold(minutes([4_999 + step]))
        house.clock.now = at(5_000 + step) + 10_000
        done = await house.auditor.run()
        assert done.rows < 100
    assert await house.covered(MINUTES) == [(at(0), at(5_003), "pass")]
    assert (await house.new().run()).rows < 100, "a restart goes on where the other stopped"
    assert (await house.auditor.run(full=True)).rows == 5_003


async def test_now_and_then_everything_is_looked_at(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(500))
    await house.hold(minutes(range(500)))
    await house.auditor.run()
    house.clock.now += 86_400_000
    assert (await house.auditor.run()).rows == 500


async def test_what_was_deleted_is_not_called_audited_any_more(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(300) + 10_000)
    await house.hold(minutes(range(300)))
    await house.holes()
    await store.drop(MINUTES, Span(at(0), at(100)))
    assert await house.holes() == []
    assert await house.covered(MINUTES) == [(at(100), at(300), "pass")]
    await store.drop(MINUTES, Span(at(200), at(210)))
    assert await house.holes() == [(at(200), at(210))]
    await store.drop(MINUTES, Span(at(0), at(300)))
    assert await house.holes() == [(at(200), at(210))], "nothing is held: nothing is known"
    assert await house.covered(MINUTES) == []


@pytest.mark.parametrize("interval", ["3d", "1w", "1M", "1d"])
async def test_long_candles_open_where_the_calendar_says(meta: SqlMetaStore, interval: str) -> None:
    step = {"3d": 3, "1w": 7, "1M": 31, "1d": 1}[interval]
    first = np.datetime64("2024-01-01" if interval != "3d" else "2024-01-02", "ms")
    opens = [int((first + np.timedelta64(step * number, "D")).astype(np.int64)) for number in range(9)]
    if interval == "1M":
        months = np.arange("2024-01", "2024-10", dtype="datetime64[M]")
        opens = [int(month.astype("datetime64[ms]").astype(np.int64)) for month in months]
    events = [
        candle(0, interval=interval).__class__(**{**{name: getattr(candle(0, interval=interval), name) for name in candle(0).__struct_fields__}, "open_ms": open_ms, "close_ms": after - 1, "event_ms": after})
        for open_ms, after in itertools.pairwise(opens)
    ]  # fmt: skip
    house = House(MemoryStore(), meta, opens[-1] + 3_600_000)
    del events[3]
    await house.hold(events)
    assert await house.holes() == [(opens[3], opens[4])]


# ── Ids and chains ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_missing_trade_is_found_and_nothing_is_said_beyond_the_last(
    store: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(store, meta, BASE_MS + 1_000_000)
    await house.hold([trade(number) for number in range(1, 100) if number != 40])
    assert await house.holes() == [(BASE_MS + 390, BASE_MS + 411)]
    assert (await house.truth(TRADES)).holes[0].missing == 1
    assert (await house.covered(TRADES))[-1][1] == BASE_MS + 991
    await house.hold([trade(number) for number in (102, 103)])
    assert (await house.holes())[1:] == [(BASE_MS + 990, BASE_MS + 1021)]
    await house.hold([trade(number) for number in (40, 100, 101)])
    assert await house.holes() == []


async def test_trades_of_one_millisecond_across_two_audits_lose_no_hole(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, BASE_MS + 1_000_000)
    still = [trade(number, jitter_ms=-10 * number) for number in range(1, 60)]
    await house.hold([trade(0, jitter_ms=-5), *still[:50]])
    assert await house.holes() == []
    await house.hold(still[52:])
    assert await house.holes() == [(BASE_MS, BASE_MS + 1)]
    assert (await house.truth(TRADES)).holes[0].missing == 2


async def test_silence_is_held_against_the_pauses_of_the_series_itself(store: SeriesStore, meta: SqlMetaStore) -> None:
    """One row in a hundred seconds, audited as it comes; then nothing for eight minutes, which only a whole audit of ten may say."""
    house = House(store, meta, 0)
    times = [BASE_MS + 100_000 * number for number in range(90)]
    await house.hold([ticker(number, at_ms) for number, at_ms in enumerate(times[:25])])
    for number in range(25, 90):
        house.clock.now = times[number] + 30_000
        await house.hold([ticker(number, times[number])])
        if number % 3 == 0:
            assert await house.holes() == []
    house.clock.now = times[-1] + 400_000
    assert await house.holes(full=True) == []
    late_ms = times[-1] + 600_000
    await house.hold([ticker(90, late_ms)])
    house.clock.now = late_ms + 20_000
    silence = [(times[-1] + 1, late_ms)]
    assert await house.holes() == silence
    for span in (Span(times[-1] + 100_000, late_ms - 1_000), Span(times[-1] + 100_000, times[-1] + 130_000)):
        assert await house.holes(TICKERS, span=span) == silence, "a part of it is no shorter silence"
    assert await house.holes(TICKERS, span=Span(times[7] + 10_000, times[8] - 10_000)) == []
    assert await house.holes(full=True) == silence


async def test_half_a_minute_is_too_long_for_a_quick_series(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, BASE_MS + 90_000)
    times = [BASE_MS + 100 * number + (30_000 if number >= 550 else 0) for number in range(570)]
    await house.hold([ticker(number, at_ms) for number, at_ms in enumerate(times)])
    house.clock.now = times[-1] + 10_500
    assert await house.holes() == [(times[549] + 1, times[550])]


async def test_a_hole_stays_as_it_is_wherever_the_next_audit_goes_on(meta: SqlMetaStore) -> None:
    """Some rows are looked at again: a hole before, at and after the place where that begins."""
    house = House(MemoryStore(), meta, BASE_MS + 190_000)
    symbols = {number: f"H{number}USDT" for number in range(50, 100)}
    for missing, symbol in symbols.items():
        await house.hold([trade(number, symbol) for number in range(1, 101) if number != missing])
        await house.hold([ticker(number, BASE_MS + 1_000 * number, symbol) for number in range(1, 101)][: missing - 1])
        await house.hold([ticker(number, BASE_MS + 1_000 * number + 70_000, symbol) for number in range(missing, 101)])
    await house.holes()
    house.clock.now += 1
    before = await house.holes()  # none of them is merely suspected any more
    assert len(before) == 2 * len(symbols)
    for symbol in symbols.values():
        await house.hold([trade(101, symbol)])
        await house.hold([ticker(101, BASE_MS + 171_000, symbol)])
    assert await house.holes() == before


async def test_ids_that_are_never_dense_are_audited_page_by_page(meta: SqlMetaStore) -> None:
    house = House(MemoryStore(), meta, BASE_MS + 1_000_000, page_rows=90)
    await house.hold([trade(number) for number in range(1, 600, 2)])
    spans = await house.holes(full=True)
    assert all(any(start <= BASE_MS + 10 * number < end for start, end in spans) for number in range(2, 599, 2))
    await house.hold([trade(number) for number in range(2, 600, 2)])
    assert await house.holes() == []


@pytest.mark.parametrize("rows", [4, 40, 80])
async def test_a_hole_is_healed_wholly_wherever_the_next_audit_goes_on(meta: SqlMetaStore, rows: int) -> None:
    """The audits between sweeps; a hole after each row in turn, mended by the row that came late."""
    house = House(MemoryStore(), meta, BASE_MS + 1_000_000)
    symbols = {number: f"L{number}USDT" for number in range(2, rows)}
    for late, symbol in symbols.items():
        await house.hold([trade(number, symbol) for number in range(1, rows + 1) if number != late])
    assert len(await house.holes()) == len(symbols)
    for late, symbol in symbols.items():
        await house.hold([trade(late, symbol)])
    assert await house.holes() == []
    assert {one.state for series in await meta.truths() for one in series.holes} == {HoleState.HEALED}


async def test_a_broken_chain_is_found(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, BASE_MS + 1_000_000)
    await house.hold([depth_update(number) for number in range(1, 200) if number != 123])
    assert await house.holes() == [(BASE_MS + 122, BASE_MS + 125)]


async def test_rows_that_are_too_young_are_left_for_the_next_audit(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, BASE_MS + 10_500)
    await house.hold([trade(number) for number in range(1, 120) if number != 90])
    assert await house.holes() == [], "trade 91 is younger than ten seconds"
    house.clock.now += 1_000
    assert await house.holes() == [(BASE_MS + 890, BASE_MS + 911)]


# ── Silence ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ticker(number: int, at_ms: int, symbol: str = "BTCUSDT") -> Event:
    price = Number("1")
    return BookTicker(symbol=symbol, update_id=number, bid=price, bid_quantity=price, ask=Number("2"), ask_quantity=price, event_ms=at_ms, matched_ms=at_ms, clock="venue")  # fmt: skip


async def test_silence_is_measured_from_rows_across_audits(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, BASE_MS + 100_000)
    await house.hold([ticker(number, BASE_MS + 1_000 * number) for number in range(60)])
    assert await house.holes() == []
    house.clock.now = BASE_MS + 135_000
    assert await house.holes() == [(BASE_MS + 59_001, BASE_MS + 125_000)]
    await house.hold([ticker(61, BASE_MS + 130_000)])
    house.clock.now = BASE_MS + 150_000
    assert await house.holes() == [(BASE_MS + 59_001, BASE_MS + 130_000)]


async def test_what_a_bus_let_go_is_lost_where_no_rule_can_see_it(meta: SqlMetaStore) -> None:
    house = House(MemoryStore(), meta, BASE_MS + 100_000)
    await house.hold([ticker(number, BASE_MS + 1_000 * number) for number in range(60)])
    await house.hold([trade(number) for number in range(1, 60)])
    drops = [
        found(FindingKind.DROPPED, series=one.id, severity="critical", start_ms=BASE_MS + 5, end_ms=BASE_MS + 9, evidence={}, found_ms=1)
        for one in (TICKERS, TRADES)
    ]  # fmt: skip
    await meta.keep_findings(drops)
    await house.auditor.run()
    assert [(one.start_ms, one.lost) for one in (await house.truth(TICKERS)).flaws] == [(BASE_MS + 5, True)]
    assert (await house.truth(TRADES)).flaws == (), "ids tell exactly what is missing"


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stretch_of_wrong_rows_that_grows_stays_one_open_finding(meta: SqlMetaStore) -> None:
    def quote(number: int) -> Event:
        whole = ticker(number, BASE_MS + 1_000 * number)
        return structs.replace(whole, bid=Number("2.01" if number >= 40 else "1.99"))

    house = House(MemoryStore(), meta, BASE_MS + 60_000)
    for until in (43, 50):
        await house.hold([quote(number) for number in range(until)])
        done = await house.auditor.run()
    [flaw] = (await house.truth(TICKERS)).flaws
    assert (flaw.reason, flaw.end_ms) == ("crossed", BASE_MS + 49_001)
    assert [one.open for one in {one.id: one for one in house.told}.values()] == [True]
    assert (done.changed, done.findings) == (1, 1)


async def test_a_price_that_stands_alone_is_told_and_over_when_it_is_put_right(meta: SqlMetaStore) -> None:
    house = House(MemoryStore(), meta, BASE_MS + 1_000_000)
    await house.hold([trade(number, price="9.5" if number == 50 else "1.50") for number in range(1, 101)])
    await house.auditor.run()
    [flaw] = (await house.truth(TRADES)).flaws
    assert (flaw.start_ms, flaw.reason) == (BASE_MS + 500, "spike")
    assert [(one.kind, one.open, one.evidence["rule"]) for one in house.told] == [(FindingKind.FLAWED, True, "spike")]
    await house.store.drop(TRADES, Span(flaw.start_ms, flaw.end_ms))
    await house.hold([trade(50)])
    await house.auditor.run(full=True)
    assert (await house.truth(TRADES)).flaws == ()
    assert [one.open for one in house.told if one.kind is FindingKind.FLAWED] == [True, False]


# ── A span ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("span", [(0, 50), (3, 7), (0, 8), (7, 8), (-100, 1_000), (6, 30)])
async def test_an_audit_of_a_span_finds_what_lies_in_it_and_no_edges(
    store: SeriesStore, meta: SqlMetaStore, span: tuple[int, int]
) -> None:
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(set(range(50)) - {7}))
    inside = [(at(7), at(8))] if span[0] <= 7 < span[1] else []
    assert await house.holes(MINUTES, span=Span(at(span[0]), at(span[1]))) == inside
    [first, *_, last] = [*await house.covered(MINUTES), *await house.covered(MINUTES)]
    assert (first[0], last[1]) == (at(max(span[0], 0)), at(min(span[1], 50)))
    assert await house.holes() == [(at(7), at(8))], "what follows begins at the beginning"


async def test_an_audit_of_a_span_of_ids_does_not_blame_rows_beyond_it(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, BASE_MS + 1_000_000)
    jitter = {50: 35, 51: -35}  # trade 50 happened after trade 53 did
    await house.hold(
        [trade(number, jitter_ms=jitter.get(number, 0)) for number in range(1, 100) if number not in (20, 60)]
    )
    whole = [(BASE_MS + 190, BASE_MS + 211), (BASE_MS + 590, BASE_MS + 611)]
    assert await house.holes(TRADES, span=Span(BASE_MS + 300, BASE_MS + 520)) == []
    assert await house.holes(TRADES, span=Span(BASE_MS + 300, BASE_MS + 700)) == whole[1:]
    assert await house.holes() == whole
    assert await house.holes(TRADES, span=Span(BASE_MS + 200, BASE_MS + 600)) == whole
    assert await house.holes() == whole
    assert await house.holes(TRADES, span=Span(BASE_MS + 10_000, BASE_MS + 20_000)) == []


async def test_spans_without_rows_or_in_the_future_say_nothing(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(range(10, 50)))
    await house.hold([trade(number) for number in range(10)])
    for start, end in ((-90, -80), (60, 70), (5_000, 6_000)):
        done = await house.auditor.run([MINUTES, TRADES], span=Span(at(start), at(end)))
        assert (done.holes, done.failed, done.unjudged) == ((), (), (MINUTES.id, TRADES.id))
    assert await house.covered(MINUTES) == []
    assert (await house.auditor.run([MINUTES], span=Span(at(0), at(20)))).unjudged == ()


# ── Recordings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def recorded(recordings: Path, *names: str) -> dict[str, list[Event]]:
    """The events of these captures, by dataset."""
    decode, events = Decoder("um"), dict[str, list[Event]]()
    for line in lines_of(*(path_of(recordings, "um", name) for name in names)):
        for event in decode(line.message, line.recv_ns // 1_000_000):
            if isinstance(event, Event):
                events.setdefault(DATASET_OF[type(event)].name, []).append(event)
    return events


async def hold_recorded(house: House, events: Sequence[Event]) -> None:
    dataset = DATASET_OF[type(events[0])]
    received = [house.clock.now] * len(events)
    await house.store.append(pack(dataset, "um", events, received, STREAM).batch)


async def test_a_midnight_of_real_streams_has_no_hole_and_planted_ones_are_found_exactly(
    recordings: Path, meta: SqlMetaStore, tmp_path: Path
) -> None:
    """Two captures join at midnight without a hole; then of each stream some rows are left out."""
    events = recorded(recordings, "2023-04-04_btcusdt", "2023-04-05_btcusdt_part1")
    house = House(EmbeddedStore(tmp_path, 64 << 20), meta, 1_700_000_000_000)
    for name in ("trade", "depth_update", "mark_price", "book_ticker"):
        await hold_recorded(house, events[name])
    done = await house.auditor.run()
    assert (done.audited, done.failed, done.holes) == (4, (), ())
    await house.store.close()
    again = House(EmbeddedStore(tmp_path / "planted", 64 << 20), meta, 1_700_000_000_000)
    trades: list[Any] = sorted(events["trade"], key=lambda one: one.trade_id)
    books: list[Any] = sorted(events["depth_update"], key=lambda one: one.update_id)
    await hold_recorded(again, [one for at, one in enumerate(trades) if at not in (1_000, 5_000, 5_001)])
    await hold_recorded(again, [one for at, one in enumerate(books) if at not in (3_000, 7_000)])
    await again.auditor.run(full=True)
    found = [(one.after, one.before, one.missing) for one in (await again.truth(TRADES)).holes]
    ids = [one.trade_id for one in trades]
    assert found == [(ids[999], ids[1_001], 1), (ids[4_999], ids[5_002], 2)]
    found = [(one.after, one.before, one.missing) for one in (await again.truth(BOOKS)).holes]
    keys = [one.update_id for one in books]
    assert found == [(keys[2_999], keys[3_001], None), (keys[6_999], keys[7_001], None)]
    await hold_recorded(again, [trades[1_000], trades[5_000], trades[5_001]])
    again.clock.now += 1
    done = await again.auditor.run([TRADES])
    assert done.holes == ()
    assert {one.state for one in (await again.truth(TRADES)).holes} == {HoleState.HEALED}
    await again.store.close()


async def test_what_the_audit_of_a_span_missed_and_the_next_audit_meets_again_is_no_hole(meta: SqlMetaStore) -> None:
    """As many rows come back as had gone, all of them long before the newest: their count says nothing."""
    house = House(MemoryStore(), meta, at(100) + 30_000)
    await house.hold([trade(number) for number in range(100)])
    await house.hold([candle(number) for number in range(100)])
    series = [TRADES, MINUTES]
    assert (await house.auditor.run(series)).holes == ()
    await house.store.drop(TRADES, Span(BASE_MS + 100, BASE_MS + 101))
    await house.store.drop(MINUTES, Span(at(10), at(11)))
    house.clock.now += 1
    for one, span in ((TRADES, Span(BASE_MS, BASE_MS + 200)), (MINUTES, Span(at(5), at(15)))):
        [hole] = (await house.auditor.run([one], span=span)).holes
        assert (hole.live, hole.missing) == (True, 1)
    await house.hold([trade(10)])
    await house.hold([candle(10)])
    house.clock.now += 1
    assert (await house.auditor.run(series)).holes == ()
    for one in series:
        assert {entry.state for entry in (await house.truth(one)).holes} == {HoleState.HEALED}


async def test_a_day_of_real_minutes_without_one(recordings: Path, meta: SqlMetaStore) -> None:
    """ADAUSDT of 2022-12-13: 1,440 candles, none missing; then any one of them is."""
    with gzip.open(recordings / "klines" / "binance_usdm_ADAUSDT_1m_trade_2022-12-13.csv.gz", "rt") as file:
        opens = sorted(1_670_889_600_000 + int(row[0]) for row in csv.reader(file))
    assert len(opens) == 1_440
    missing = 777
    house = House(MemoryStore(), meta, opens[-1] + 90_000)
    await house.hold([candle((one - BASE_MS) // MINUTE_MS) for at, one in enumerate(opens) if at != missing])
    assert await house.holes() == [(opens[missing], opens[missing] + MINUTE_MS)]


# ── When it goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────


class Broken(MemoryStore):
    """Fails to read the series given, in the way given."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.when: Callable[[Series], bool] = lambda series: True
        self.only = ("scan",)

    def _fail(self, what: str, series: Series) -> None:
        if self.error is not None and what in self.only and self.when(series):
            raise self.error

    async def scan(self, series: Series, *rest: Any, **how: Any) -> Batch:
        self._fail("scan", series)
        return await super().scan(series, *rest, **how)

    async def extent(self, series: Series) -> Any:
        self._fail("extent", series)
        return await super().extent(series)


@pytest.mark.parametrize("only", ["scan", "extent"])
@pytest.mark.parametrize(
    "error", [Corrupt("bytes are not as they were written"), ValueError("a bug"), AssertionError()]
)
async def test_whatever_breaks_an_audit_leaves_the_series_unverified(
    meta: SqlMetaStore, error: Exception, only: str
) -> None:
    store = Broken()
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(range(50)))
    await house.hold([trade(number) for number in range(1, 60)])
    await house.auditor.run()
    store.error, store.when, store.only = error, lambda series: series == MINUTES, (only,)
    house.clock.now += 60_000
    await house.hold([candle(50)])
    done = await house.auditor.run(full=True)
    assert (done.failed, done.audited) == ((MINUTES.id,), 1)
    assert house.auditor.failures == {type(error).__name__: 1}
    assert {one[2] for one in await house.covered(MINUTES)} == {"unknown"}
    [told] = house.told
    assert told.kind is (FindingKind.CORRUPT if isinstance(error, Corrupt) else FindingKind.UNAUDITED)
    await meta.keep_findings(house.told)
    store.error = None
    house.auditor = house.new()
    await house.holes()
    assert await house.covered(MINUTES) == [(at(0), at(51), "pass")]
    assert [one.open for one in house.told if one.kind is told.kind] == [True, False], "the next one resolves it"
    store.error = error
    house.clock.now += 60_000
    await house.auditor.run(full=True)
    await meta.keep_findings(house.told)
    [again], _ = await meta.findings(limit=10, open_only=True)
    assert (again.id, again.found_ms) == (told.id, house.clock.now), "told again although it was over once"


async def test_rows_that_cannot_be_read_are_quarantined_and_all_around_them_is_audited(
    meta: SqlMetaStore, tmp_path: Path
) -> None:
    """One chunk of three is damaged on the disk: its span is unverified, holes before and after it are found."""
    store = EmbeddedStore(tmp_path, 0)  # nothing stays in memory
    house = House(store, meta, at(40_000) + 20_000)
    await house.hold(minutes(set(range(40_000)) - {7, 39_000}))
    await store.fold(DATASETS["candle"])
    with sqlite3.connect(tmp_path / "series.db") as connection:
        chunks = connection.execute("SELECT id, first_ms, last_ms FROM chunk ORDER BY first_key").fetchall()
        number, first_ms, last_ms = chunks[1]
        good, crc = connection.execute("SELECT keys, keys_crc FROM chunk WHERE id = ?", (number,)).fetchone()
        spoilt = good[:50] + bytes([good[50] ^ 1]) + good[51:]
        connection.execute("UPDATE chunk SET keys = ? WHERE id = ?", (spoilt, number))
    connection.close()
    assert len(chunks) == 3
    end_ms = last_ms + 1
    for number_of_audit in range(3):
        done = await house.auditor.run(full=number_of_audit == 1)
        assert [(one.start_ms, one.missing) for one in done.holes] == [(at(7), 1), (at(39_000), 1)]
        house.clock.now += 1
    assert [one for one in await house.covered(MINUTES) if one[2] == "unknown"] == [(first_ms, end_ms, "unknown")]
    [told] = [one for one in house.told if one.kind is FindingKind.CORRUPT]
    assert (told.severity, told.start_ms, told.end_ms, told.open) == ("critical", first_ms, end_ms, True)
    found = (await Conditions(meta, house.clock).condition_of(MINUTES, Span(at(0), at(40_000)))).ranges
    assert [one.reason for one in found if one.condition.value == "unverified"] == ["the audit could not be done"]
    await house.hold(minutes(range(40_000, 40_005)))
    house.clock.now = at(40_005) + 20_000
    assert (await house.auditor.run()).failed == (), "what comes is audited as ever"
    assert [one.open for one in house.told if one.kind is FindingKind.CORRUPT] == [True], "and the damage stands"
    with pytest.raises(Corrupt):
        await store.scan(MINUTES, Span(first_ms, end_ms))
    with sqlite3.connect(tmp_path / "series.db") as connection:
        connection.execute("UPDATE chunk SET keys = ?, keys_crc = ? WHERE id = ?", (good, crc, chunks[1][0]))
    connection.close()
    await house.auditor.run(full=True)
    assert {one[2] for one in await house.covered(MINUTES)} == {"pass", "fail"}
    assert [one.open for one in house.told if one.kind is FindingKind.CORRUPT] == [True, False]
    await store.close()


async def test_a_store_that_goes_away_ends_the_run_and_what_was_done_is_kept(meta: SqlMetaStore) -> None:
    store = Broken()
    house = House(store, meta, BASE_MS + 1_000_000)
    for symbol in (f"{letter}{letter}USDT" for letter in "ABCDEFGHIJKLMN"):
        await house.hold([trade(number, symbol=symbol) for number in range(1, 40)])
    store.error, store.when = Unavailable("gone"), lambda series: series.symbol >= "CCUSDT"
    with pytest.raises(Unavailable):
        await house.auditor.run()
    results = {one.series: {a.result for a in one.coverage} for one in await meta.truths()}
    assert results["um.trade.AAUSDT"] == {Result.PASS}
    assert results["um.trade.CCUSDT"] == {Result.UNKNOWN}
    assert "um.trade.NNUSDT" not in results
    store.error = None
    done = await house.auditor.run()
    assert (done.audited, done.failed) == (14, ())


async def test_two_auditors_at_once_come_to_one_result(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(set(range(50)) - {7}))
    other = house.new()
    await asyncio.gather(house.auditor.run(), other.run(), house.auditor.run(full=True), return_exceptions=True)
    assert await house.holes() == [(at(7), at(8))]
    assert len((await house.truth(MINUTES)).holes) == 1


class Overtaken:
    """Whoever enters something here is overtaken so many times by another auditor, who enters the same."""

    def __init__(self, meta: SqlMetaStore, other: Auditor, times: int) -> None:
        self._meta, self._other, self._times = meta, other, times

    async def keep_truths(self, changes: Sequence[TruthChange]) -> None:
        if self._times:
            self._times -= 1
            await self._other.run(full=True)
        await self._meta.keep_truths(changes)


async def test_who_is_overtaken_again_and_again_comes_to_his_result_all_the_same(
    store: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(set(range(50)) - {7}))
    await house.hold([trade(number) for number in (*range(1, 9), *range(10, 20))])
    overtaken = cast("TruthStore", Overtaken(meta, house.new(), times=4))
    done = await house.auditor.run(full=True, truth=overtaken)
    assert (done.audited, done.failed, len(done.holes)) == (2, (), 2)
    with pytest.raises(Conflict):  # not for ever
        await house.auditor.run(full=True, truth=cast("TruthStore", Overtaken(meta, house.new(), times=99)))


async def test_a_clock_that_is_set_back_takes_nothing_back(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(set(range(50)) - {7}))
    await house.holes()
    for now in (at(20), at(-5), at(50) + 20_000):
        house.clock.now = now
        assert await house.holes() == [(at(7), at(8))]
    assert (await house.covered(MINUTES))[-1][1] == at(50)


async def test_a_clock_that_is_set_ahead_makes_suspicions_and_no_findings(
    store: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(store, meta, at(50) + 20_000)
    await house.hold(minutes(range(50)))
    assert await house.holes() == []
    house.clock.now += 3_600_000
    assert await house.holes() == [(at(50), at(110))], "so it looks"
    assert [one.state for one in (await house.truth(MINUTES)).holes] == [HoleState.SUSPECTED]
    for minute in (50, 51, 52):
        await house.hold(minutes([minute]))
        house.clock.now = at(minute + 1) + 20_000
        await house.holes()
    assert [(one.start_ms, one.live) for one in (await house.truth(MINUTES)).holes if one.start_ms >= at(51)] == []
    assert house.told == []
    found = await Conditions(meta, house.clock).condition_of(MINUTES, Span(at(0), at(53)))
    assert (found.completeness, {one.condition.value for one in found.ranges}) == (1.0, {"good", "healed"})


async def test_a_series_nobody_ever_held_is_not_found(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(50))
    assert (await house.auditor.run()).audited == 0
    with pytest.raises(NotFound, match="um.trade.BTCUSDT"):
        await house.auditor.run([TRADES])


# ── Properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 90), st.integers(1, 60)),
        st.tuples(st.just("drop"), st.integers(0, 90), st.integers(1, 8)),
        st.tuples(st.just("audit"), st.booleans(), st.integers(0, 2)),
        st.tuples(st.just("span"), st.integers(0, 90), st.integers(1, 60)),
    ),
    max_size=12,
)


def runs(held: Collection[int]) -> list[tuple[int, int]]:
    """Ids missing between those held: the one before, and the one after each run."""
    ordered = sorted(held)
    return [(one, other) for one, other in itertools.pairwise(ordered) if other - one > 1]


async def exchanged(house: House, series: Sequence[Series], audited: set[int], held: set[int]) -> bool:
    """Whether below the mark of one of them as many rows came as went: then only the sweep sees it."""
    if not audited:
        return False
    trades, candles = [(await house.truth(one)).mark for one in series]
    for mark, key in ((trades, lambda number: number), (candles, at)):
        if mark is None or mark.anchor_key is None:
            continue
        then, now = ({number for number in some if key(number) < mark.anchor_key} for some in (audited, held))
        if then != now and len(then) == len(now):
            return True
    return False


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS, page=st.integers(90, 130), jitter=st.lists(st.integers(-12, 12), min_size=151, max_size=151))
async def test_audits_amid_appends_and_drops_find_exactly_what_is_missing(
    meta: SqlMetaStore, steps: list[tuple[Any, ...]], page: int, jitter: list[int]
) -> None:
    """Candles and trades; small pages, so that audits go from page to page; restarts; spans in between."""
    series = (Series("um", "trade", f"T{next(_NAMES)}USDT"), Series("um", "candle", f"C{next(_NAMES)}USDT", "1m"))
    house = House(MemoryStore(), meta, at(200), page_rows=page)
    held: set[int] = set()
    audited: set[int] = set()
    for what, first, count in steps:
        numbers = set(range(first, first + count)) if what != "audit" else set()
        if what == "hold":
            held |= numbers
            await house.hold([trade(number, series[0].symbol, jitter_ms=jitter[number]) for number in sorted(numbers)])
            await house.hold([candle(number, symbol=series[1].symbol) for number in sorted(numbers)])
        elif what == "drop":
            held -= numbers
            times = [BASE_MS + 10 * number + jitter[number] for number in numbers]
            for one in times:
                await house.store.drop(series[0], Span(one, one + 1))
            gone = {number for number in held if BASE_MS + 10 * number + jitter[number] in times}
            await house.hold(
                [trade(number, series[0].symbol, jitter_ms=jitter[number]) for number in sorted(gone)]
                or [trade(999, "ZZUSDT")]
            )
            await house.store.drop(series[1], Span(at(min(numbers)), at(max(numbers) + 1)))
        elif what == "span" and held:
            await house.auditor.run(list(series), span=Span(at(first), at(first + count)))
            house.clock.now += 1
        elif what == "audit" and held:
            if count == 2:
                house.auditor = house.new(page_rows=page)
            unseen = await exchanged(house, series, audited, held)
            await house.auditor.run(list(series), full=first)
            house.clock.now += 1
            if first or not unseen:
                audited = set(held)
    if not held:
        return
    await house.auditor.run(list(series), full=await exchanged(house, series, audited, held))
    trades, candles = [await house.truth(one) for one in series]
    assert_exact(
        [one for one in trades.holes if one.live], held, trades.coverage[0].start_ms if trades.coverage else None
    )
    live = [
        one for one in candles.holes if one.live and one.start_ms >= at(min(held)) and one.end_ms <= at(max(held) + 1)
    ]
    missing = {
        number
        for one in live
        for number in range((one.start_ms - BASE_MS) // MINUTE_MS, (one.end_ms - BASE_MS) // MINUTE_MS)
    }
    assert missing == set(range(min(held), max(held) + 1)) - held


def assert_exact(live: Sequence[LedgerEntry], held: Collection[int], since_ms: int | None) -> None:
    """Every run of missing ids lies in a hole, and every hole between rows still held has one."""
    expected = runs(held)
    for before, after in expected:
        spot = BASE_MS + 10 * (before + 1)
        assert [one for one in live if one.start_ms - 100 <= spot <= one.end_ms + 100], f"{before} to {after} not found"
    if not expected:  # what is missing before rows that went stands: each names the row that told of it
        inside = [one for one in live if since_ms is not None and since_ms <= one.start_ms]
        assert [one for one in inside if one.before is None or one.before <= max(held)] == []


_NAMES = iter(range(100, 10**6))


# ── The life of a symbol ─────────────────────────────────────────────────────────────────────────────────────────────


def told(house: House, life: Life) -> SymbolLife:
    return SymbolLife(market="um", symbol="BTCUSDT", life=life, source="exchangeInfo", told_ms=house.clock.now)


async def test_nothing_is_missing_in_a_halt_nor_after_delisting(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(200) + 10_000)
    await house.hold(minutes(set(range(100)) - {20, 30, 31, 32, 33}))
    halted = Life(at(0), at(120), (Span(at(30), at(34)),))
    await meta.keep_lives([told(house, halted)])
    assert await house.holes() == [(at(20), at(21)), (at(100), at(120))]
    conditions = Conditions(meta, house.clock)
    found = await conditions.condition_of(MINUTES, Span(at(-5), at(190)))
    assert [(one.start_ms, one.condition.value, one.reason) for one in found.ranges] == [
        (at(-5), "good", "not listed yet"), (at(0), "good", "audited"), (at(20), "known_hole", "open"),
        (at(21), "good", "audited"), (at(30), "good", "halted"), (at(34), "good", "audited"),
        (at(100), "known_hole", "open"), (at(120), "good", "delisted"),
    ]  # fmt: skip
    assert found.completeness == (120 - 4 - 1 - 20) / (120 - 4)
    house.clock.now += 60_000
    assert (await house.auditor.run()).rows == 0, "nothing of it is due any more"


async def test_a_halt_that_is_told_later_ends_its_holes(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(100) + 10_000)
    await house.hold(minutes(set(range(100)) - {20, 30, 31, 32}))
    assert await house.holes() == [(at(20), at(21)), (at(30), at(33))]
    await meta.keep_lives([told(house, Life(halts=(Span(at(29), at(33)),)))])
    house.clock.now += 1
    assert await house.holes() == [(at(20), at(21))]
    assert [one.open for one in house.told if one.start_ms == at(30)] == [True, False]


# ── The same facts told twice ────────────────────────────────────────────────────────────────────────────────────────

FIVES = Series("um", "candle", "BTCUSDT", "5m")


OFFSET = -BASE_MS // MINUTE_MS % 5  # minutes from BASE_MS to the next full five


def fives(wanted: Collection[int], volume: str = "52.5") -> list[Event]:
    """The candles that five minutes of tests.contract.rows make up each."""
    return [
        structs.replace(
            candle(OFFSET + 5 * number), interval="5m", volume=Number(volume), trades=35,
            close_ms=at(OFFSET + 5 * number + 5) - 1, event_ms=at(OFFSET + 5 * number + 5),
        )
        for number in wanted
    ]  # fmt: skip


async def test_a_halt_that_is_told_while_nobody_audits_ends_its_holes(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(60))
    await house.hold(minutes([*range(10), *range(20, 59)]))
    assert await house.holes() == [(at(10), at(20))]
    life = Life(halts=(Span(at(10), at(20)),))
    await meta.keep_lives([told(house, life)])
    house.auditor = house.new()
    house.clock.now += 1
    assert await house.holes() == []


# ── What older rules said, and what cannot be read ───────────────────────────────────────────────────────────────────


async def test_what_older_rules_said_is_judged_anew_at_once(
    store: SeriesStore, meta: SqlMetaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_manager.services.auditing.entering.RULE_VERSION", RULE_VERSION - 1)
    house = House(store, meta, at(200))
    await house.hold(minutes([one for one in range(199) if one != 3]))
    await house.auditor.run()
    monkeypatch.undo()
    span = Span(at(0), at(199))
    assert (await Conditions(meta, house.clock).condition_of(MINUTES, span)).completeness is None
    house.clock.now += 1
    assert (await house.new().run()).rows == 198, "all of it, not what changed"
    assert {one.rule_version for one in (await house.truth(MINUTES)).coverage} == {RULE_VERSION}
    assert (await Conditions(meta, house.clock).condition_of(MINUTES, span)).completeness == 198 / 199
    assert (await house.new().run()).rows < 198


@pytest.mark.parametrize("damage", ["UPDATE coverage SET spans='{'", "UPDATE holes SET state='lost'"])
async def test_what_cannot_be_read_of_one_series_is_audited_anew_and_the_others_stand(
    store: SeriesStore, meta: SqlMetaStore, tmp_path: Path, damage: str
) -> None:
    house = House(store, meta, at(200))
    await house.hold(minutes([one for one in range(199) if one != 3]))
    await house.hold([trade(number) for number in range(50) if number != 7])
    await house.auditor.run()
    before = {one: (await house.truth(one)).holes for one in (MINUTES, TRADES)}
    with sqlite3.connect(tmp_path / "meta.db") as base:
        base.execute(f"{damage} WHERE series='{MINUTES.id}'")
    conditions = Conditions(meta, house.clock)
    whole, first = Span(at(0), at(199)), Span(BASE_MS, BASE_MS + 400)
    assert {one.condition.value for one in (await conditions.condition_of(MINUTES, whole)).ranges} == {"unverified"}
    assert (await conditions.condition_of(TRADES, first)).completeness is not None
    house.clock.now += 1
    auditor = house.new()
    house.told.clear()
    done = await auditor.run()
    assert (done.failed, auditor.failures) == ((), {"Corrupt": 1})
    [lost] = [one for one in house.told if one.kind is FindingKind.CORRUPT]
    assert (lost.series, lost.open) == (MINUTES.id, False)
    assert [one.span for one in (await house.truth(MINUTES)).holes] == [one.span for one in before[MINUTES]]
    assert (await house.truth(TRADES)).holes == before[TRADES]
    house.clock.now += 1_000
    await conditions.refresh(at_once=True)
    assert (await conditions.condition_of(MINUTES, whole)).completeness == 198 / 199


async def test_candles_are_judged_by_finer_ones_as_they_come(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, at(OFFSET + 100) + 10_000)
    await house.hold(minutes(set(range(OFFSET + 100)) - {OFFSET + 52}))
    await house.hold(fives(range(10)))
    await house.hold(fives([10], volume="1"))  # what it is made of lacks a minute: nobody can tell
    await house.hold(fives([11], volume="52.6"))
    await house.hold(fives(range(12, 20)))
    done = await house.auditor.run()
    assert done.crossed == Crossed(agreed=18, differing=1, unjudged=1)
    told = [
        (one.series, one.start_ms, one.evidence["rule"], one.open)
        for one in house.told
        if one.kind is FindingKind.FLAWED
    ]
    assert told == [(FIVES.id, at(OFFSET + 55), "unlike candle.1m", True)]
    house.clock.now += 1
    assert (await house.auditor.run()).crossed == Crossed(agreed=9 - 1, differing=1, unjudged=1), (
        "tried again for an hour"
    )
    await house.hold(minutes([OFFSET + 52]), origin="job:1")
    house.clock.now += 1
    again = (await house.auditor.run()).crossed
    assert (again.differing, again.unjudged) == (2, 0), "mended, and now it can be seen"
    await house.hold(fives([10, 11]), origin="job:1")
    house.clock.now += 1
    await house.auditor.run(full=True)
    assert [one for one in (await house.truth(FIVES)).flaws if one.reason.startswith("unlike")] == []
    over = [one.start_ms for one in house.told if one.kind is FindingKind.FLAWED and not one.open]
    assert sorted(over) == [at(OFFSET + 50), at(OFFSET + 55)]


class Asked(MemoryStore):
    """Counts how often it is asked for rows."""

    scans = 0

    async def scan(self, series: Series, *rest: Any, **how: Any) -> Batch:
        self.scans += 1
        return await super().scan(series, *rest, **how)


async def test_an_audit_costs_what_is_held_however_wide_its_span(meta: SqlMetaStore) -> None:
    """Candles of years, one of them after a long outage, and trades of a second."""
    years = 3 * 525_600
    store = Asked()
    house = House(store, meta, at(years + 10))
    await house.hold(minutes([*range(40), years]))
    await house.hold([trade(number) for number in range(10)])
    for how in ({"span": Span(EARLIEST_MS, LATEST_MS - 1)}, {"full": True}):
        store.scans = 0
        done = await house.auditor.run([MINUTES], **how)  # type: ignore[arg-type]
        assert (done.failed, done.crossed.unjudged, store.scans < 50) == ((), 41, True)


@pytest.mark.parametrize("start_ms", [EARLIEST_MS, BASE_MS + 5])
@pytest.mark.parametrize("end_ms", [BASE_MS + 300, LATEST_MS])
async def test_a_span_may_be_open_on_either_side(
    store: SeriesStore, meta: SqlMetaStore, start_ms: int, end_ms: int
) -> None:
    house = House(store, meta, at(50))
    await house.hold([trade(number) for number in range(1, 1_000) if number != 20])
    await house.hold([depth_update(number) for number in range(1, 100)])
    await house.hold(minutes(set(range(40)) - {7}))
    done = await house.auditor.run(span=Span(start_ms, end_ms))
    assert (done.failed, done.audited, done.rows > 60) == ((), 3, True)
    assert [(one.start_ms, one.missing) for one in done.holes if one.series == TRADES.id] == [(BASE_MS + 190, 1)]


async def test_history_is_judged_too_a_little_at_each_run(meta: SqlMetaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a series that is three days old when it is seen first, and whose early candles are wrong."""
    monkeypatch.setattr("data_manager.services.auditing.crossing._FINE_ROWS", 2_000)  # minutes in a window
    length, total = 3 * 1_440, 3 * 288
    house = House(MemoryStore(), meta, at(OFFSET + length) + 20_000)
    await house.hold(minutes(range(OFFSET, OFFSET + length)))
    await house.hold([*fives([0, 3], "52.6"), *fives(set(range(total)) - {0, 3})])

    def slow() -> float:
        house.clock.now += 3_000  # so long each look at the clock takes: there is time for one window a run
        return house.clock.now / 1_000

    house.clock.monotonic_s = slow  # type: ignore[method-assign]
    auditor = house.new()
    runs = [(await auditor.run()).crossed for _ in range(4)]
    assert [one.differing for one in runs] == [0, 2, 0, 0]
    assert [one.agreed for one in runs[:2]] == [288 + 400, 176 - 2], "a day at once, then windows"
    told = [one.start_ms for one in house.told if one.kind is FindingKind.FLAWED]
    assert told == [at(OFFSET), at(OFFSET + 15)]


async def test_a_judge_that_cannot_be_read_takes_nothing_from_what_it_would_have_judged(meta: SqlMetaStore) -> None:
    store = Broken()
    house = House(store, meta, at(OFFSET + 100) + 20_000)
    await house.hold(minutes(range(OFFSET + 100)))
    await house.hold(fives(range(20)))
    store.error, store.when = Corrupt("not as it was written"), lambda series: series == MINUTES
    done = await house.auditor.run()
    assert done.failed == (MINUTES.id,)
    assert house.auditor.failures["cross-check Corrupt"] == 1
    assert {one[2] for one in await house.covered(FIVES)} == {"pass"}


# ── Findings and ledger ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("told_from_ms", [0, 3 * MINUTE_MS])
async def test_the_findings_that_stand_are_the_holes_that_do(
    store: SeriesStore, meta: SqlMetaStore, told_from_ms: int
) -> None:
    """However rows come late and vanish again: trimmed, split, healed, open once more."""
    house = House(store, meta, at(500), told_from_ms=told_from_ms)
    held = set(range(400)) - set(range(50, 60)) - {100, 101, 102} - set(range(200, 220))
    await house.hold(minutes(held))
    steps = [(), (50, 51, 209, 210), (101, 59), (100, 102, *range(200, 209)), (52, 53, 54, 55, 56)]
    for back in [*steps, *((-minute,) for minute in (100, 101, 102, 57)), *steps]:
        for minute in back:
            if minute < 0:
                await store.drop(MINUTES, Span(at(-minute), at(-minute + 1)))
            else:
                await house.hold(minutes([minute]))
        await house.auditor.run(full=True)
        await meta.keep_findings(house.told)
        house.told.clear()
        house.clock.now += MINUTE_MS
        standing, _ = await meta.findings(limit=1_000, kind=FindingKind.HOLE, open_only=True)
        holes = (await house.truth(MINUTES)).holes
        live = [one for one in holes if one.live and one.state is not HoleState.SUSPECTED]
        assert {(one.id, one.start_ms, one.end_ms, one.evidence["missing"]) for one in standing} == {
            (one.id, one.start_ms, one.end_ms, one.missing) for one in live if one.end_ms - one.start_ms >= told_from_ms
        }


async def test_more_holes_than_are_told_at_once_are_all_over_when_they_are(
    store: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(store, meta, at(2_000))
    for end in (500, 1_000):
        await house.hold(minutes(range(end - 500, end, 2)))
        await house.holes()
    assert len(house.told) == 400
    await house.hold(minutes(range(1, 1_000, 2)), origin="job:7")
    await house.auditor.run(full=True)
    await meta.keep_findings(house.told)
    assert await meta.findings(limit=1, open_only=True) == ([], 0)
