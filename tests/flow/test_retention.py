"""Retention over real stores: what is old goes, certified first and told afterwards, and is never taken for a hole."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.mongo.store import open_mongo
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import STREAM, pack
from data_manager.domain.condition.partition import Condition
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT, DATASETS
from data_manager.domain.errors import NotFound, Unavailable
from data_manager.domain.events import Candle, Event, Number
from data_manager.domain.finding import Finding
from data_manager.domain.holes.ledger import HoleState
from data_manager.domain.lineage import LineageRecord
from data_manager.domain.proof.certificate import Certificate
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, floor_open_ms
from data_manager.ports import SeriesStore
from data_manager.services.audit import Auditor
from data_manager.services.conditions import Conditions
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.retain import Retained, Retention
from data_manager.services.keeping.steady import ClockJumped
from data_manager.services.keeping.verify import chosen, kept, verify
from data_manager.services.reporting import Reporter
from tests.contract.conftest import *  # noqa: F403 - the servers' fixtures
from tests.contract.rows import BASE_MS, candle, depth_update, liquidation, trade
from tests.flow.test_audit import SetClock
from tests.memory import MemoryStore

HOURS = Series("um", "candle", "BTCUSDT", "1h")
MINUTES, TRADES = Series("um", "candle", "BTCUSDT", "1m"), Series("um", "trade", "ETHUSDT")
DAY0 = floor_open_ms(BASE_MS, "1d") + DAY_MS
"""A midnight."""


def day(number: float) -> int:
    return DAY0 + round(number * DAY_MS)


def minute_of(ms: int) -> int:
    return (ms - BASE_MS) // MINUTE_MS


def quarters(*days: float, every_ms: int = 15 * MINUTE_MS) -> list[Event]:
    """Minute candles, one every quarter of an hour of these days."""
    return [candle(minute_of(ms)) for one in days for ms in range(day(one), day(one + 1), every_ms)]


def hours(*days: float) -> list[Event]:
    """Every hourly candle of these days."""
    starts = [ms for one in days for ms in range(day(one), day(one + 1), HOUR_MS)]
    return [hour(ms) for ms in starts]


def hour(open_ms: int) -> Candle:
    return replace(candle(minute_of(open_ms), interval="1h"), close_ms=open_ms + HOUR_MS - 1)


def trades(*days: int, each: int = 96, symbol: str = "ETHUSDT") -> list[Event]:
    """Trades with ids in a row, so many a day."""
    ids = [one * each + number for one in days for number in range(each)]
    return [
        trade(1 + number, symbol, jitter_ms=day(0) + number * (DAY_MS // each) - BASE_MS - 10 * (1 + number))
        for number in ids
    ]


class House:
    """A store with its metadata, an auditor and retention of 7 days, one minute after day 10 began."""

    def __init__(self, store: SeriesStore, meta: SqlMetaStore, now_ms: int = day(10) + MINUTE_MS, **how: Any) -> None:
        self.store = store
        self.meta = meta
        self.clock = SetClock(now_ms)
        self.told: list[Finding] = []
        self.reporter = Reporter(meta.keep_findings)
        self.reporter.report = self.told.extend  # type: ignore[method-assign, assignment]  # what is told is looked at here
        self.auditor = Auditor(store, meta, meta, self.clock, self.told.extend)
        self.conditions = Conditions(meta, self.clock)
        self.retention = self.new(**how)

    def new(self, **how: Any) -> Retention:
        certifier = Certifier(self.store, self.meta, Conditions(self.meta, self.clock), self.clock, page_rows=50)
        usual: dict[str, Any] = {"days": {"candle": 7, "trade": 7}, "by": "test"}
        return Retention(self.store, self.meta, certifier, self.reporter, self.clock, **{**usual, **how})

    async def hold(self, events: Sequence[Event], received_ms: int | None = None) -> None:
        """Append them, received when they happened unless said otherwise."""
        dataset = BY_EVENT[type(events[0])]
        moments = [getattr(one, "close_ms", None) or getattr(one, dataset.time) for one in events]
        received = moments if received_ms is None else [received_ms] * len(events)
        await self.store.append(pack(dataset, "um", events, received, STREAM).batch)

    async def held(self, series: Series) -> list[int]:
        """Days of which rows are held."""
        rows = await self.store.scan(series)
        return sorted({(ms - DAY0) // DAY_MS for ms in rows.time_ms.tolist()})

    async def records(self) -> list[LineageRecord]:
        found, _ = await self.meta.lineage(limit=100, transformation="retention")
        return found[::-1]

    async def condition(self, series: Series, start: float, end: float) -> list[tuple[float, float, str]]:
        await self.conditions.refresh(at_once=True)
        found = await self.conditions.condition_of(series, Span(day(start), day(end)))
        return [((one.start_ms - DAY0) / DAY_MS, (one.end_ms - DAY0) / DAY_MS, one.reason) for one in found.ranges]


def dropped(done: Retained) -> list[tuple[str, float, int | None]]:
    return [(one.series, (one.start_ms - DAY0) / DAY_MS, one.dropped) for one in done.pieces]


@pytest.fixture(params=["memory", "embedded", "mongodb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SeriesStore]:
    one: SeriesStore = MemoryStore()
    if request.param == "embedded":
        one = EmbeddedStore(tmp_path, 8 << 20)
    if request.param == "mongodb":
        one = await open_mongo(request.getfixturevalue("mongo_access"))
    yield one
    await one.close()


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[SeriesStore]:
    one = EmbeddedStore(tmp_path, 8 << 20)
    yield one
    await one.close()


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    yield one
    await one.close()


async def test_old_days_go_each_certified_first_and_written_down(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta)
    await house.hold(hours(*range(10)))
    await house.auditor.run()
    done = await house.retention.run()
    assert dropped(done) == [(HOURS.id, 0.0, 24), (HOURS.id, 1.0, 24), (HOURS.id, 2.0, 24)]
    assert (done.waiting, done.doubled, done.capped, done.failed) == (0, 0, False, {})
    assert await house.held(HOURS) == list(range(3, 10))
    for number, record in enumerate(await house.records()):
        assert (record.start_ms, record.end_ms, record.rows_in, record.rows_out) == (
            day(number),
            day(number + 1),
            24,
            0,
        )
        assert record.details["dropped"] == 24
        certificate = await kept(meta, str(record.details["certificate"]))
        assert (certificate.contents.rows, certificate.holes_total) == (24, 0)
        assert "no_holes" in certificate.checks
        proof = await verify(store, meta, certificate, house.clock)
        assert (proof.status, proof.mismatches, proof.holds) == ("let_go", (), False)
        assert proof.chain is not None
        assert (proof.chain.links, proof.chain.broken) == (number, None)
    again = await house.retention.run()
    assert again.pieces == ()


async def test_what_went_is_no_hole_and_its_condition_says_why(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta)
    await house.hold(hours(*range(10)))
    await house.hold(trades(*range(10)))
    await house.auditor.run()
    await house.retention.run()
    for full in (False, True):
        done = await house.auditor.run(full=full)
        assert (done.holes, done.failed) == ((), ())
    assert house.told == []
    assert await house.condition(HOURS, -1, 4) == [
        (-1, 0, "never audited"),
        (0, 3, "let go by retention"),
        (3, 4, "audited"),
    ]
    found = await house.conditions.condition_of(HOURS, Span(day(0), day(6)))
    assert (found.completeness, found.ranges[0].condition) == (0.5, Condition.KNOWN_HOLE)
    assert (await house.condition(TRADES, 1, 4))[0] == (1, 3, "let go by retention")


async def test_candles_stay_good_when_the_trades_that_made_them_go(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta, days={"candle": 90, "trade": 7})
    price, volume = Number("1.50"), Number("8")
    made = [
        replace(one, open=price, high=price, low=price, close=price, volume=volume, trades=4)
        for one in hours(*range(10))
    ]
    await house.hold(made)
    await house.hold(trades(*range(10), symbol="BTCUSDT"))
    for _ in range(2):
        await house.auditor.run(full=True)
        await house.retention.run()
    assert len(await house.records()) == 3
    assert house.told == []
    assert {reason for *_, reason in await house.condition(HOURS, 0, 10)} == {"audited"}


@pytest.mark.parametrize("series", [HOURS, TRADES])
async def test_days_that_went_between_days_that_came_back_are_no_hole(
    embedded: SeriesStore, meta: SqlMetaStore, series: Series
) -> None:
    make: Callable[..., list[Event]] = hours if series is HOURS else trades
    house = House(embedded, meta)
    await house.hold(make(*range(10)))
    await house.auditor.run()
    await house.retention.run()
    await house.hold(make(0), received_ms=house.clock.now)  # fetched again, or replayed
    done = await house.auditor.run()
    assert (done.holes, done.failed) == ((), ())
    parts = await house.condition(series, 0.02, 3.02)
    assert {reason for _, _, reason in parts} == {"audited", "let go by retention"}
    assert parts[0][2] == "audited"
    for end in (house.clock.now + DAY_MS, house.clock.now + 6 * DAY_MS):
        house.clock.now = end
        waits = await house.new().run([series])
        assert waits.waiting == 1, "what came back waits until it is a week old"
    house.clock.now += 2 * DAY_MS
    assert (await house.new().run([series])).pieces[0].start_ms == day(0)
    assert (await house.auditor.run([series])).failed == ()


async def test_a_hole_beside_what_went_is_a_hole(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta)
    everything = trades(*range(10))
    await house.hold([one for one in everything if one.trade_id not in (90, 91, 300, 301, 302)])  # type: ignore[attr-defined]
    await house.auditor.run()
    await house.retention.run([TRADES])
    await house.hold([one for one in trades(0) if one.trade_id not in (90, 91, 96)], received_ms=house.clock.now)  # type: ignore[attr-defined]
    done = await house.auditor.run([TRADES])
    assert sorted((one.after, one.before, one.missing) for one in done.holes) == [(299, 303, 3)]
    states = {one.state for one in (await meta.truths([TRADES.id]))[0].holes if one.end_ms <= day(3)}
    assert HoleState.OPEN not in states, "what was missing went with its day"


async def test_holes_of_a_day_go_with_it_and_stand_in_its_certificate(
    embedded: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(embedded, meta)
    await house.hold([one for one in hours(*range(10)) if one.open_ms not in (day(1), day(5))])  # type: ignore[attr-defined]
    await house.auditor.run()
    await house.retention.run()
    [open_one] = [one for one in (await meta.truths([HOURS.id]))[0].holes if one.live]
    assert open_one.start_ms == day(5)
    over = [one for one in house.told if not one.open]
    assert [one.start_ms for one in over] == [day(1)], "its finding is over"
    record = (await house.records())[1]
    certificate = await kept(meta, str(record.details["certificate"]))
    assert [(one.start_ms, one.state, one.missing) for one in certificate.holes] == [(day(1), "open", 1)]
    assert certificate.condition == {"known_hole": HOUR_MS, "good": 23 * HOUR_MS}


async def test_what_was_received_lately_stays_however_old_it_is(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta, now_ms=day(1_000))
    await house.hold([*hours(0, 1)], received_ms=day(999.5))
    await house.hold(trades(0), received_ms=day(1_000))
    done = await house.retention.run()
    assert (done.pieces, done.waiting) == ((), 3)
    house.clock.now = day(1_006.4)
    assert (await house.new().run()).pieces == ()
    house.clock.now = day(1_006.6)
    assert dropped(await house.new().run()) == [(HOURS.id, 0.0, 24), (HOURS.id, 1.0, 24)]
    house.clock.now = day(1_007)
    assert dropped(await house.new().run()) == [(TRADES.id, 0.0, 96)]


async def test_a_dry_run_tells_and_changes_nothing(store: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(store, meta)
    await house.hold(hours(*range(10)))
    done = await house.retention.run(dry_run=True)
    assert [(one.rows, one.dropped, one.certificate) for one in done.pieces] == [(24, None, None)] * 3
    assert done.dry_run
    assert await house.held(HOURS) == list(range(10))
    assert await meta.certificate_refs() == []
    assert await house.records() == []


async def test_a_run_lets_go_of_so_many_rows_and_the_next_goes_on(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta, rows_max=40)
    await house.hold(hours(*range(10)))
    first = await house.retention.run()
    assert (len(first.pieces), first.capped) == (2, True)
    second = await house.retention.run()
    assert (dropped(second), second.capped) == ([(HOURS.id, 2.0, 24)], False)


async def test_days_come_from_the_setting_then_from_the_table(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta, days={"candle.1h": None, "candle": 2})
    await house.hold(hours(*range(10)))
    await house.hold(quarters(*range(10)))
    await house.hold([liquidation(0)])
    await house.hold([depth_update(0)])
    house.clock.now = BASE_MS + 20 * DAY_MS
    series = {one.series for one in (await house.retention.run()).pieces}
    assert series == {MINUTES.id, "um.depth_update.BTCUSDT"}, "hours for ever, liquidations thirty days"
    assert await house.held(HOURS) == list(range(10))


async def test_an_unaudited_day_goes_with_a_certificate_that_claims_nothing(
    embedded: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(embedded, meta)
    await house.hold(hours(0, 9))
    await house.retention.run()
    certificate = await kept(meta, (await chosen(meta, HOURS, None))[0])
    assert certificate.condition == {"unverified": DAY_MS}
    assert "no_holes" not in certificate.checks


async def test_a_certificate_that_still_holds_is_used_and_one_that_does_not_is_not(
    embedded: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(embedded, meta)
    await house.hold(hours(0))
    await house.hold([one for one in hours(1) if one.open_ms != day(1.5)])  # type: ignore[attr-defined]
    certifier = Certifier(embedded, meta, house.conditions, house.clock)
    whole = await certifier.certify(HOURS, Span(day(0), day(1)))
    part = await certifier.certify(HOURS, Span(day(1), day(2)))
    await house.hold([one for one in hours(1) if one.open_ms == day(1.5)])  # type: ignore[attr-defined]
    await house.retention.run()
    first, second = [record.details["certificate"] for record in await house.records()]
    assert first == whole.id
    assert second != part.id
    assert len(await meta.certificate_refs()) == 3


class Cut(Exception):
    """The process ends here."""


@pytest.mark.parametrize("at", ["keep_certificate", "keep_lineage", "keep_truths", "drop", "done"])
async def test_a_kill_anywhere_leaves_nothing_untold(
    embedded: SeriesStore, meta: SqlMetaStore, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    house = House(embedded, meta)
    await house.hold(hours(0, 1, 9))
    whose: Any = embedded if at == "drop" else meta
    name = "keep_lineage" if at == "done" else at
    real, calls = getattr(whose, name), 0

    async def cut(*given: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if at == "done" and calls == 1:
            return await real(*given, **how)
        if at in ("drop", "keep_truths"):
            await real(*given, **how)
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(whose, name, cut)
        with pytest.raises(Cut):
            await house.new().run()
    await house.new().run()
    assert await house.held(HOURS) == [9]
    records = await house.records()
    assert [(one.start_ms, one.rows_in, one.rows_out, one.details["dropped"]) for one in records] == [
        (day(0), 24, 0, 24), (day(1), 24, 0, 24),
    ]  # fmt: skip
    assert len(await meta.certificate_refs()) == 2
    assert (await house.condition(HOURS, 0, 2)) == [(0, 2, "let go by retention")]


async def test_rows_that_come_between_a_kill_and_the_next_run_stay(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta)
    await house.hold(hours(0, 9))
    keep = meta.keep_truths

    async def away(*_: Any) -> None:
        raise Unavailable("away")

    meta.keep_truths = away  # type: ignore[method-assign, assignment]  # the metadata store goes away in between
    with pytest.raises(Unavailable):
        await house.retention.run()
    meta.keep_truths = keep  # type: ignore[method-assign]
    house.clock.now += 1
    await house.hold([hour(day(0) + 30 * MINUTE_MS)], received_ms=house.clock.now)
    await house.retention.run()
    [record] = await house.records()
    assert (record.rows_in, record.rows_out, record.details["dropped"]) == (24, 25, 0)
    assert await house.held(HOURS) == [0, 9]


async def test_rows_that_come_while_a_piece_is_certified_stay_with_it(
    embedded: SeriesStore, meta: SqlMetaStore
) -> None:
    house = House(embedded, meta)
    await house.hold(hours(0, 1, 9))
    keep = meta.keep_certificate

    async def late(certificate: Certificate) -> None:
        if certificate.start_ms == day(0):
            await house.hold([hour(day(0) + 30 * MINUTE_MS)], received_ms=house.clock.now)
        await keep(certificate)

    meta.keep_certificate = late  # type: ignore[method-assign]  # a backfill comes in between
    done = await house.retention.run()
    assert (dropped(done), done.waiting) == ([(HOURS.id, 1, 24)], 1)
    assert await house.held(HOURS) == [0, 9]
    records = [(one.rows_in, one.rows_out, one.details["dropped"]) for one in await house.records()]
    assert sorted(records) == [(24, 0, 24), (24, 25, 0)]
    assert (await house.retention.run()).pieces == (), "it came lately"


async def test_an_audit_amid_a_run_changes_nothing(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta)
    await house.hold(hours(*range(10)))
    drop = embedded.drop

    async def slowly(series: Series, span: Span) -> int:
        await house.auditor.run(full=True)  # it sees the rows, and forgets that they are about to go
        return await drop(series, span)

    embedded.drop = slowly  # type: ignore[method-assign]  # the audit comes between
    await house.retention.run()
    assert await house.condition(HOURS, 0, 4) == [(0, 3, "let go by retention"), (3, 4, "audited")]


async def test_damaged_rows_stay_unless_forced(tmp_path: Path, meta: SqlMetaStore) -> None:
    store = EmbeddedStore(tmp_path, 0)
    house = House(store, meta)
    await house.hold(hours(0))
    await store.fold(BY_EVENT[type(hours(0)[0])])
    await house.hold(trades(0))
    store._writing.execute("UPDATE chunk SET rest = zeroblob(50)")
    done = await house.retention.run()
    assert dropped(done) == [(TRADES.id, 0.0, 96)]
    assert list(done.failed) == [HOURS.id]
    forced = await house.retention.run(force=True)
    assert [(one.series, one.rows, one.dropped, one.certificate) for one in forced.pieces] == [
        (HOURS.id, None, 24, None)
    ]
    await store.close()


async def test_what_was_replaced_goes_with_what_replaced_it(tmp_path: Path, meta: SqlMetaStore) -> None:
    store = EmbeddedStore(tmp_path, 0)
    house = House(store, meta)
    for close, origin in (("2.0", STREAM), ("3.0", "rest:klines")):
        rows = pack(
            DATASETS["candle"], "um", [replace(one, close=Number(close)) for one in hours(0, 9)], [day(0)] * 48, origin
        )
        await store.append(rows.batch)
    asked = "SELECT count(*) FROM revision"
    assert store._writing.execute(asked).fetchone() == (48,)
    await house.retention.run()
    assert store._writing.execute(asked).fetchone() == (24,)
    await store.close()


async def test_a_clock_that_jumps_lets_nothing_go_for_a_day(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta)

    class Set(SetClock):
        ahead = 0

        def monotonic_s(self) -> float:
            return (self.now - self.ahead) / 1_000

    clock = Set(house.clock.now)
    house.clock = clock
    retention = house.new()
    await house.hold(hours(9))
    await retention.run()
    clock.now += 100 * DAY_MS
    clock.ahead = 100 * DAY_MS
    with pytest.raises(ClockJumped):
        await retention.run()
    assert (await retention.run(dry_run=True)).pieces != ()
    clock.now += DAY_MS - 1
    with pytest.raises(ClockJumped):
        await retention.run()
    clock.now += 1
    assert len((await retention.run()).pieces) == 1


async def test_a_series_of_which_nothing_is_held_is_named(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    with pytest.raises(NotFound, match=r"um\.trade\.ETHUSDT"):
        await House(embedded, meta).retention.run([TRADES])


async def test_a_series_of_which_all_went_has_nothing_due(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta)
    await house.hold(trades(1, 2))
    [series] = await embedded.series()
    await house.retention.run([series], force=True)
    assert await embedded.series() == []
    for how in ({"dry_run": True}, {"force": True}):
        again = await house.retention.run([series], **how)
        assert (again.pieces, again.dropped, again.failed) == ((), 0, {})


async def test_rows_come_in_meanwhile(embedded: SeriesStore, meta: SqlMetaStore) -> None:
    house = House(embedded, meta)
    await house.hold(hours(*range(10)))
    ids = iter(range(1, 10_000))

    async def stream() -> None:
        for _ in range(100):
            await house.hold([trade(next(ids), "ETHUSDT")], received_ms=house.clock.now)

    done, _ = await asyncio.gather(house.retention.run(), stream())
    assert len(done.pieces) == 3
    assert (await embedded.count(TRADES), await embedded.count(HOURS)) == (100, 168)
