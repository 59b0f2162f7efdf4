"""The health of series over real audits: what is known is said, what is not is null, and its history is kept small."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.api.app import Components, Readiness, create_app
from data_manager.domain.condition.partition import Life
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.events import FundingRate, Number
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, iso
from data_manager.ports import Extent
from data_manager.services.conditions import LATE_MS, Conditions
from data_manager.services.health import HealthBook, SeriesHealth
from data_manager.services.health_log import HOURS_KEPT_MS, HealthKeeper, history
from tests.contract.rows import BASE_MS, batch_of, candle, liquidation, trade
from tests.flow.test_api import listening, no_facts
from tests.flow.test_audit import MINUTES, TRADES, House, at, minutes
from tests.memory import MemoryStore

FORCED, RATES = Series("um", "liquidation", "BTCUSDT"), Series("um", "funding_rate", "BTCUSDT")
SERIES = MINUTES.id


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    try:
        yield one
    finally:
        await one.close()


@pytest.fixture
async def house(meta: SqlMetaStore) -> House:
    """Fifty minutes without the seventh, trades without the fortieth, and one liquidation, not audited yet."""
    made = House(MemoryStore(), meta, at(50) + 20_000)
    await made.hold([*minutes(set(range(50)) - {7}), candle(50, closed=False)])
    await made.hold([trade(number) for number in range(1, 100) if number != 40])
    await made.hold([liquidation(1)])
    return made


def book_of(house: House) -> HealthBook:
    return HealthBook(house.store, Conditions(house.meta, house.clock), house.clock)


async def of(house: House, series: Series = MINUTES) -> SeriesHealth:
    return await book_of(house).of(series)


# ── One series ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_before_an_audit_nothing_is_known_but_the_age(house: House) -> None:
    found = await of(house)
    assert (found.health.score, found.health.grade, found.completeness) == (None, "unknown", None)
    assert (found.gaps, found.duplicates, found.consistency, found.audited_ms) == (None, None, None, None)
    assert found.freshness is not None
    assert (found.freshness.age_ms, found.freshness.stale, found.rows) == (80_000, False, 49)


async def test_a_hole_costs_its_share_of_completeness_and_mends(house: House) -> None:
    await house.auditor.run()
    found = await of(house)
    assert (found.completeness, found.gaps, found.open_holes) == (49 / 50, 1, 1)
    assert found.window == Span(at(0), house.clock.now)
    assert (found.health.grade, found.health.score) == ("healthy", 99.2)
    assert [(part.name, part.value) for part in found.health.parts] == [
        ("completeness", 49 / 50), ("freshness", 1.0), ("validity", 1.0), ("duplicates", 1.0),
    ]  # fmt: skip
    assert found.budget is not None
    assert found.budget.left == pytest.approx(0.001 - 0.02)
    await house.hold(minutes([7]), origin="job:1")
    house.clock.now += 30_000
    await house.auditor.run()
    mended = await of(house)
    assert (mended.health.score, mended.gaps, mended.repair.healed) == (100.0, 0, 1)
    assert (mended.repair.mttd_ms, mended.repair.mttr_ms) == (at(50) + 20_000 - at(7), 30_000)


async def test_when_nobody_audits_any_more_it_is_not_known(house: House) -> None:
    await house.auditor.run()
    house.clock.now += LATE_MS + 1_000
    assert ((await of(house)).completeness, (await of(house)).health.grade) == (None, "unknown")


async def test_a_series_that_stopped_is_stale_and_its_silence_counts(house: House) -> None:
    house.clock.now += 3 * HOUR_MS
    await house.auditor.run()
    found = await of(house)
    assert found.freshness is not None
    assert found.freshness.stale
    assert found.completeness is not None
    assert found.completeness < 0.25
    assert found.health.grade == "unhealthy"
    trades = await of(house, TRADES)
    assert trades.awaited
    assert (trades.gaps, trades.health.grade) == (1, "unhealthy")


async def test_of_what_cannot_be_judged_nobody_says_that_nothing_is_missing(house: House) -> None:
    alone = Series("um", "trade", "ETHUSDT")
    await house.store.append(batch_of([trade(1, symbol="ETHUSDT")]))
    await house.auditor.run()
    for series in (FORCED, alone):
        found = await of(house, series)
        assert (found.completeness, found.gaps, found.duplicates, found.rows) == (None, None, 0, 1)


async def test_a_recording_of_last_year_is_not_awaited(meta: SqlMetaStore) -> None:
    house = House(MemoryStore(), meta, at(0) + 365 * DAY_MS)
    old = [candle(minute) for minute in range(2_000) if minute != 1_990]
    await house.store.append(batch_of(old, origin="file", received_ms=house.clock.now))
    await house.auditor.run()
    found = await of(house)
    assert not found.awaited
    assert found.window == Span(at(2_000) - DAY_MS, at(2_000))
    assert (found.completeness, found.gaps) == (1_439 / 1_440, 1)
    assert found.health.grade == "healthy"
    assert (found.repair.holes, found.repair.mttd_ms) == (1, None), "nobody could have seen it earlier"


async def test_a_delisted_symbol_is_judged_by_its_last_day(house: House) -> None:
    house.clock.now += 30 * DAY_MS
    over = SymbolLife(market="um", symbol="BTCUSDT", life=Life(delisted_ms=at(50)), source="test", told_ms=1)
    await house.meta.keep_lives([over])
    await house.auditor.run()
    found = await of(house)
    assert (found.awaited, found.completeness, found.health.grade) == (False, 49 / 50, "healthy")


async def test_rows_that_break_a_check_are_counted(meta: SqlMetaStore) -> None:
    house = House(MemoryStore(), meta, at(1) + 20_000)
    dear = [trade(number, price="900.0" if number == 50 else "1.50") for number in range(1, 101)]
    await house.hold(dear)
    await house.auditor.run()
    found = await of(house, TRADES)
    assert (found.invalid, found.duplicates, found.consistency) == (1, 0, 0.99)


async def test_settlements_of_the_last_hour_may_be_on_their_way(meta: SqlMetaStore) -> None:
    """The audit waits an hour for them, so it ends an hour ago: that is no reason not to know."""
    slots = [BASE_MS // DAY_MS * DAY_MS + 8 * HOUR_MS * number for number in range(30)]
    house = House(MemoryStore(), meta, slots[-1] + 3 * HOUR_MS)
    rates = [FundingRate(symbol="BTCUSDT", slot_ms=one, funding_ms=one, funding_rate=Number("0.0001"), rate_type="Regular") for one in slots if one != slots[-2]]  # fmt: skip
    await house.hold(rates)
    await house.auditor.run()
    house.clock.now += 60_000
    span = Span(slots[-4], house.clock.now)
    found = await Conditions(meta, house.clock).condition_of(RATES, span)
    told = [(one.start_ms, one.condition.value) for one in found.ranges]
    assert told[:3] == [(slots[-4], "good"), (slots[-2], "known_hole"), (slots[-1], "good")]
    assert told[3:] == [(house.clock.now - HOUR_MS - 60_000, "pending")]
    health = await of(house, RATES)
    assert (health.gaps, health.completeness) == (1, pytest.approx(2 / 3, abs=0.05))
    assert health.health.grade == "degraded"


async def test_what_is_sparse_by_nature_is_unknown_and_not_awaited(house: House) -> None:
    await house.auditor.run()
    found = await of(house, FORCED)
    assert (found.health.grade, found.awaited, found.freshness, found.completeness) == ("unknown", False, None, None)
    assert (found.duplicates, found.consistency) == (0, 1.0)


async def test_an_emptied_series_has_no_figures(house: House) -> None:
    await house.auditor.run()
    await house.store.drop(MINUTES, Span(at(0), at(100)))
    found = await of(house)
    assert (found.rows, found.window, found.gaps, found.health.grade) == (None, None, None, "unknown")
    assert MINUTES not in [one.series for one in await book_of(house).every()]


class DamagedStore(MemoryStore):
    async def extent(self, series: Series) -> Extent | None:
        if series == TRADES:
            raise Corrupt("a chunk does not match its checksum")
        return await super().extent(series)


async def test_damage_in_one_series_leaves_the_others_known(meta: SqlMetaStore) -> None:
    house = House(DamagedStore(), meta, at(50) + 20_000)
    await house.hold(minutes(range(50)))
    await house.hold([trade(1), trade(2)])
    await house.auditor.run()
    grades = {one.series: one.health.grade for one in await book_of(house).every()}
    assert grades == {MINUTES: "healthy", TRADES: "unknown"}


class CountingStore(MemoryStore):
    asked = 0

    async def extent(self, series: Series) -> Extent | None:
        self.asked += 1
        return await super().extent(series)


async def test_only_what_changed_is_looked_at_again(meta: SqlMetaStore) -> None:
    store = CountingStore()
    house = House(store, meta, at(50) + 20_000)
    for number in range(20):
        await house.store.append(batch_of([trade(1, symbol=f"S{number}USDT")]))
    book = book_of(house)
    await book.every()
    await house.store.append(batch_of([trade(2, symbol="S7USDT")]))
    asked, house.clock.now = store.asked, house.clock.now + 60_000
    assert len(await book.every()) == 20
    assert store.asked == asked + 1


# ── Over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx2.AsyncClient]:
    async def readiness() -> Readiness:
        return Readiness(ready=True, status="healthy", components={}, reasons=[])

    app = create_app(
        Components(
            store=house.store, meta=house.meta, clock=house.clock, market="um", version="9.9.9", readiness=readiness,
            registry=CollectorRegistry(), conditions=Conditions(house.meta, house.clock), desk=None, ingest=no_facts,
            databases=no_facts, connections=no_facts, channels={"log": "the log"},
        )
    )  # fmt: skip
    async with listening(app) as one:
        yield one


async def page(client: httpx2.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_health_of_a_pair_has_the_predecessors_shape(client: httpx2.AsyncClient, house: House) -> None:
    await house.auditor.run()
    now = iso(house.clock.now)
    assert await page(client, "/health", pair="BTCUSDT", period="1m") == {
        "pair": "BTCUSDT",
        "period": "1m",
        "health": {
            "status": "healthy", "completeness": 98.0, "freshness_sec": 80, "gaps": 1, "duplicates": 0,
            "consistency_score": 100.0, "quality_score": 99.2,
        },
        "metadata": {
            "last_audit": now, "data_source": "memory", "series": SERIES, "start": iso(at(0)), "end": now,
            "held": [TRADES.id, SERIES, FORCED.id],
        },
        "parameters": {"pair": "BTCUSDT", "period": "1m"},
    }  # fmt: skip
    without = await page(client, "/health/", pair="BTCUSDT")
    assert (without["period"], without["metadata"]["series"]) == (None, TRADES.id)


async def test_what_is_held_of_no_period_is_null_and_of_no_pair_is_404(
    client: httpx2.AsyncClient, house: House
) -> None:
    never = await page(client, "/health", pair="BTCUSDT", period="5m")
    assert set(never["health"].values()) == {None, "unknown"}
    assert (await client.get("/health", params={"pair": "ETHUSDT"})).status_code == 404
    await house.auditor.run()
    for series in (MINUTES, TRADES, FORCED):
        await house.store.drop(series, Span(0, at(10**6)))
    house.clock.now += 10_000
    emptied = await page(client, "/health", pair="BTCUSDT")
    assert (emptied["health"]["status"], emptied["metadata"]["held"]) == ("unknown", [])


WRONG: list[tuple[str, dict[str, str], str]] = [
    ("/health", {}, "pair"),
    ("/health", {"pair": "btcusdt"}, "pair"),
    ("/health", {"pair": "BTCUSDT", "period": "2m"}, "period"),
    ("/health", {"pair": "BTCUSDT", "limit": "2"}, "limit"),
    ("/health/summary", {"pair": "BTCUSDT"}, "pair"),
    ("/health/series", {"status": "fine"}, "status"),
    ("/health/series", {"dataset": "trades"}, "dataset"),
    ("/health/series", {"series": "um.trade"}, "series"),
    ("/health/series", {"limit": "0"}, "limit"),
    ("/health/history", {}, "series"),
    ("/health/history", {"series": SERIES, "interval": "1m"}, "interval"),
    ("/health/history", {"series": SERIES, "start": "2023-01-02", "end": "2023-01-01"}, "start"),
    ("/health/history", {"series": SERIES, "start": "2011-01-01", "interval": "1h"}, "start"),
    ("/audit/log", {"kind": "holes"}, "kind"),
    ("/alerts", {"state": "open"}, "state"),
    ("/alerts", {"series": "x"}, "series"),
    ("/alerts/messages", {"offset": "-1"}, "offset"),
]


async def test_a_question_that_is_wrong_names_its_word(client: httpx2.AsyncClient) -> None:
    for path, query, field in WRONG:
        answer = await client.get(path, params=query)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field), (path, query)


async def test_the_summary_counts_what_nobody_knows(client: httpx2.AsyncClient, house: House) -> None:
    assert (await page(client, "/health/summary"))["data"] == {
        "total_datasets": 3, "healthy_datasets": 0, "degraded_datasets": 0, "unhealthy_datasets": 0,
        "unknown_datasets": 3, "overall_score": None, "status": "unknown", "open_holes": 0, "mttd_ms": None,
        "mttr_ms": None,
    }  # fmt: skip
    await house.auditor.run()
    house.clock.now += 1_000  # an audit is heard of within a second
    body = await page(client, "/health/summary")
    assert (body["metadata"]["source"], body["parameters"]) == ("data-manager", {})
    facts = body["data"]
    known = facts["healthy_datasets"] + facts["degraded_datasets"] + facts["unhealthy_datasets"]
    assert (known, facts["unknown_datasets"], facts["open_holes"]) == (2, 1, 2)
    assert facts["mttd_ms"] > 0


async def test_a_pair_that_came_a_moment_ago_is_known(client: httpx2.AsyncClient, house: House) -> None:
    assert (await client.get("/health", params={"pair": "ETHUSDT"})).status_code == 404
    await house.hold([trade(number, "ETHUSDT") for number in range(1, 9)])
    assert (await page(client, "/health", pair="ETHUSDT"))["metadata"]["series"] == "um.trade.ETHUSDT"


async def test_every_series_is_shown_with_what_its_score_is_made_of(client: httpx2.AsyncClient, house: House) -> None:
    await house.auditor.run()
    body = await page(client, "/health/series")
    assert [one["series"] for one in body["data"]] == [SERIES, FORCED.id, TRADES.id]
    for one in body["data"]:
        counted = [part for part in one["parts"] if part["applies"]]
        if any(part["value"] is None for part in counted):
            assert one["health"]["quality_score"] is None
        else:
            exact = 100 * sum(p["weight"] * p["value"] for p in counted) / sum(p["weight"] for p in counted)
            assert one["health"]["quality_score"] == pytest.approx(exact, abs=0.011)
    first = body["data"][0]
    assert first["freshness"] == {
        "age_ms": 80_000,
        "limit_ms": 180_000,
        "stale": False,
        "awaited": True,
        "cadence": None,
    }
    assert first["window"] == {"start_ms": at(0), "end_ms": house.clock.now}
    assert first["error_budget"]["promised"] == 0.999
    trades = body["data"][2]
    assert trades["freshness"]["cadence"] == {"median_ms": 10, "usual_max_ms": 20, "rows": 98}
    second = await page(client, "/health/series", limit=1, offset=1)
    assert second["data"] == [body["data"][1]]
    assert second["pagination"] == {"limit": 1, "offset": 1, "total": 3, "has_more": True}
    for query, expected in (
        ({"dataset": "candle"}, [SERIES]), ({"status": "unknown"}, [FORCED.id]), ({"series": "trades_BTCUSDT"}, [TRADES.id]),
        ({"pair": "ETHUSDT"}, []),
    ):  # fmt: skip
        assert [one["series"] for one in (await page(client, "/health/series", **query))["data"]] == expected


async def test_while_the_metadata_is_away_health_is_503(client: httpx2.AsyncClient, house: House) -> None:
    await house.meta.close()
    for path, query in (("/health", {"pair": "BTCUSDT"}), ("/health/summary", {}), ("/alerts", {})):
        answer = await client.get(path, params=query)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


async def test_openapi_tells_of_the_routes(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths.keys() >= {"/health", "/health/summary", "/health/series", "/health/history", "/audit/log", "/alerts"}


# ── What is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def rows_of(meta: SqlMetaStore) -> dict[str, int]:
    from sqlalchemy import func, select

    from data_manager.adapters.meta.predecessor import audit_logs, health_metrics

    async with meta._database.reading() as connection:
        grains = await connection.execute(select(health_metrics.c.grain, func.count()).group_by(health_metrics.c.grain))
        notes = await connection.execute(
            select(audit_logs.c.audit_type, func.count()).group_by(audit_logs.c.audit_type)
        )
        return {**dict(map(tuple, grains.all())), **dict(map(tuple, notes.all()))}


async def test_health_that_does_not_change_takes_no_room(house: House) -> None:
    """Four days, looked at every ten minutes, with one bad hour: rows by day, and the hours that differ."""
    await house.auditor.run()
    good = await of(house)
    bad = replace(good, health=replace(good.health, score=40.0, grade="unhealthy"), completeness=0.1)
    keeper, start = HealthKeeper(), at(0) - at(0) % DAY_MS
    truths = await house.meta.truths()
    for turn in range(4 * 144):
        now_ms = start + turn * 10 * MINUTE_MS
        shown = bad if 2 * DAY_MS + 3 * HOUR_MS <= now_ms - start < 2 * DAY_MS + 4 * HOUR_MS else good
        await keeper.keep(house.meta, [shown], truths, now_ms)
    assert await rows_of(house.meta) == {"now": 1, "hour": 4 + 2, "day": 4, "gap": 2, "health_check": 96 + 2}
    span = Span(start + 2 * DAY_MS, start + 3 * DAY_MS)
    points = await history(house.meta, SERIES, span, "hour")
    assert [point.status for point in points] == ["healthy"] * 3 + ["unhealthy"] + ["healthy"] * 20
    days = await history(house.meta, SERIES, Span(start, start + 4 * DAY_MS), "day")
    assert [point.status for point in days] == ["healthy"] * 2 + ["unhealthy"] + ["healthy"]
    end = start + 9 * DAY_MS
    assert await keeper.forget(house.meta, 8, end)
    kept = await rows_of(house.meta)
    assert (kept["hour"], kept["day"], kept["now"]) == (2 + 2, 3, 1), "hours of a week, days of eight, and now"
    assert (await house.meta.health_rows(SERIES, "hour", Span(0, end)))[0].slot_ms == end - HOURS_KEPT_MS
    assert not await keeper.forget(house.meta, 8, end + MINUTE_MS), "once an hour"


async def test_hours_nobody_looked_at_are_not_known(house: House) -> None:
    await house.auditor.run()
    found, truths = await of(house), await house.meta.truths()
    start = at(0) - at(0) % DAY_MS
    keeper = HealthKeeper()
    for hour in (0, 1, 5, 6):
        if hour == 5:
            keeper = HealthKeeper()  # a restart
        await keeper.keep(house.meta, [found], truths, start + hour * HOUR_MS)
    points = await history(house.meta, SERIES, Span(start, start + 8 * HOUR_MS), "hour")
    assert [point.status for point in points] == ["healthy"] * 2 + ["unknown"] * 3 + ["healthy"] * 2 + ["unknown"]
    assert (await house.meta.notes(limit=9, kind="gap"))[1] == 2, "a restart notes nothing twice"


async def test_gaps_are_noted_with_their_severity_and_what_became_of_them(house: House) -> None:
    house.clock.now += 2 * HOUR_MS
    await house.hold([candle(170)])
    await house.auditor.run([MINUTES])
    keeper = HealthKeeper()
    await keeper.keep(house.meta, [await of(house)], await house.meta.truths(), house.clock.now)
    notes, _ = await house.meta.notes(limit=9, kind="gap")
    assert {(one.start_ms, one.severity, one.result) for one in notes} == {
        (at(7), "medium", "fail"), (at(50), "high", "fail"),
    }  # fmt: skip
    await house.hold(minutes([7]), origin="job:1")
    house.clock.now += 30_000
    await house.auditor.run([MINUTES])
    await keeper.keep(house.meta, [await of(house)], await house.meta.truths(), house.clock.now)
    notes, total = await house.meta.notes(limit=9, kind="gap")
    assert total == 2
    [healed] = [one for one in notes if one.start_ms == at(7)]
    assert (healed.result, healed.details["state"], healed.details["healed_ms"]) == ("pass", "healed", house.clock.now)
    [status] = (await house.meta.notes(limit=9, kind="health_check", series=SERIES))[0]
    assert (status.severity, status.result) == ("high", "fail")


async def test_history_over_http(client: httpx2.AsyncClient, house: House) -> None:
    await house.auditor.run()
    await HealthKeeper().keep(house.meta, [await of(house)], await house.meta.truths(), house.clock.now)
    start = house.clock.now - house.clock.now % HOUR_MS
    body = await page(
        client, "/health/history", series="candles_BTCUSDT_1m", start=start - HOUR_MS, end=start + HOUR_MS
    )
    assert (body["series"], body["interval"]) == (SERIES, "1h")
    before, now = body["data"]
    assert (before["timestamp"], before["status"], before["as_of"]) == (iso(start - HOUR_MS), "unknown", None)
    assert now == {
        "timestamp": iso(start), "as_of": iso(house.clock.now), "status": "healthy", "completeness": 98.0,
        "freshness_sec": 80, "gaps": 1, "duplicates": 0, "consistency_score": 100.0, "quality_score": 99.2,
    }  # fmt: skip
    days = await page(client, "/health/history", series=SERIES, start=start - 30 * DAY_MS, end=start)
    assert (days["interval"], len(days["data"])) == ("1d", 30)
    assert (await client.get("/health/history", params={"series": "um.trade.ETHUSDT"})).status_code == 404
    log = await page(client, "/audit/log", series=SERIES, kind="gap")
    assert [(one["kind"], one["severity"], one["start_ms"]) for one in log["data"]] == [("gap", "medium", at(7))]


async def test_what_was_not_written_is_written_the_next_time(house: House) -> None:
    class Away(SqlMetaStore):
        async def keep_notes(self, notes: Any) -> None:
            raise Unavailable("away")

    await house.auditor.run()
    keeper, found, truths = HealthKeeper(), await of(house), await house.meta.truths()
    with pytest.raises(Unavailable):
        away = Away(house.meta._database, house.meta._bounds, 1_000)
        await keeper.keep(away, [found], truths, house.clock.now)
    await keeper.keep(house.meta, [found], truths, house.clock.now + 1)
    assert (await rows_of(house.meta))["gap"] == 2
