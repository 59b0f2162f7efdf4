"""What every metadata store promises of health, the audit log, alerts and their messages: SQLite, and MySQL or MariaDB."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from data_manager.adapters.meta.database import connect
from data_manager.adapters.meta.predecessor import audit_logs, health_metrics
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain.alert import Alarm, Alert, Delivery, Message, judged, told
from data_manager.domain.condition.coverage import Audited, Result
from data_manager.domain.condition.truth import Mark, TruthChange
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.finding import FindingKind, found
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS
from data_manager.ports import LeaseLost
from data_manager.ports.alerts import LiveHoles, OpenFindings
from data_manager.ports.health import AuditNote, HealthRow
from tests.mysql_server import FreshDatabase

HOUR = 1_700_000_000_000 - 1_700_000_000_000 % HOUR_MS
MINUTES, CHINESE = "um.candle.BTCUSDT.1m", "um.trade.币安人生USDT"


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


def row(score: float | None, at: int = 0, **other: Any) -> HealthRow:
    usual: dict[str, Any] = {
        "series": MINUTES, "grain": "hour", "slot_ms": HOUR, "at_ms": HOUR + at, "completeness": score,
        "freshness_s": 3, "gaps": 1, "duplicates": 0, "consistency": 99.99, "score": score,
    }  # fmt: skip
    return HealthRow(**{**usual, **other})


async def hours(store: SqlMetaStore, series: str = MINUTES) -> list[HealthRow]:
    return await store.health_rows(series, "hour", Span(HOUR, HOUR + DAY_MS))


# ── Health ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_health_comes_back_as_it_was(store: SqlMetaStore) -> None:
    given = [
        row(99.99),
        row(None, slot_ms=HOUR + HOUR_MS, completeness=None, freshness_s=None, gaps=None, duplicates=None, consistency=None),
        row(0.01, slot_ms=HOUR + 2 * HOUR_MS, freshness_s=2**40),
        row(100.0, series=CHINESE),
    ]  # fmt: skip
    await store.keep_health(given)
    assert await hours(store) == [given[0], given[1], replace(given[2], freshness_s=2**31 - 1)]
    assert await hours(store, CHINESE) == [given[3]]
    assert await store.health_rows(MINUTES, "hour", Span(HOUR + 1, HOUR + 2 * HOUR_MS)) == [given[1]]
    assert await store.health_rows(MINUTES, "day", Span(HOUR, HOUR + DAY_MS)) == []


async def test_of_an_hour_the_worst_that_was_known_stays(store: SqlMetaStore) -> None:
    for one in (row(None, 1), row(97.0, 2), row(100.0, 3), row(None, 4)):
        await store.keep_health([one])
    assert await hours(store) == [row(97.0, 2)]
    await store.keep_health([row(97.0, 5, gaps=7), row(40.5, 6, slot_ms=HOUR + HOUR_MS)])
    assert await hours(store) == [row(97.0, 5, gaps=7), row(40.5, 6, slot_ms=HOUR + HOUR_MS)]


async def test_what_is_now_is_replaced_whatever_it_was(store: SqlMetaStore) -> None:
    for one in (row(40.0, 1, grain="now", slot_ms=0), row(None, 2, grain="now", slot_ms=0), row(100.0, 3, grain="now", slot_ms=0)):  # fmt: skip
        await store.keep_health([one])
        assert await store.health_rows(MINUTES, "now", Span(0, 1)) == [one]


async def test_the_predecessors_columns_are_filled(store: SqlMetaStore, url: str) -> None:
    await store.keep_health([row(98.5)])
    await store.keep_notes([note("n")])
    database = connect(url)
    try:
        async with database.reading() as connection:
            [metric] = (await connection.execute(health_metrics.select())).mappings().all()
            [log] = (await connection.execute(audit_logs.select())).mappings().all()
    finally:
        await database.close()
    assert (metric["dataset_id"], metric["symbol"], metric["timeframe"]) == (MINUTES, "BTCUSDT", "1m")
    assert (str(metric["quality_score"]), metric["freshness_seconds"]) == ("98.50", 3)
    assert (log["dataset_id"], log["symbol"], log["audit_type"], log["severity"]) == (MINUTES, "BTCUSDT", "gap", "high")
    assert log["timestamp"].timestamp() * 1_000 == HOUR


# ── The audit log ────────────────────────────────────────────────────────────────────────────────────────────────────


def note(name: str, at: int = 0, **other: Any) -> AuditNote:
    usual: dict[str, Any] = {
        "id": name, "kind": "gap", "series": MINUTES, "severity": "high", "result": "fail",
        "details": {"missing": 3, "why": None, "rule": "币"}, "start_ms": HOUR, "end_ms": HOUR + 5, "at_ms": HOUR + at,
    }  # fmt: skip
    return AuditNote(**{**usual, **other})


async def test_notes_are_pages_and_the_same_again_is_one(store: SqlMetaStore) -> None:
    await store.keep_notes([note("a", 1), note("b", 2, series=None, kind="health_check"), note("c", 3)])
    healed = note("a", 9, result="pass", severity=None, details={})
    await store.keep_notes([healed, healed])
    assert await store.notes(limit=2) == ([healed, note("c", 3)], 3)
    assert await store.notes(limit=9, kind="gap", series=MINUTES, span=Span(HOUR, HOUR + 4)) == ([note("c", 3)], 1)
    assert await store.newest_note_ms("gap") == HOUR + 9
    assert await store.newest_note_ms("unheard of") is None
    with pytest.raises(BadQuery):
        await store.notes(limit=-1)


async def test_hours_in_which_all_were_looked_at(store: SqlMetaStore) -> None:
    checks = [note(str(n), kind="health_check", series=None, start_ms=HOUR + n * HOUR_MS) for n in (5, 0, 1)]
    await store.keep_notes([*checks, note("x", kind="health_check", start_ms=HOUR + 2 * HOUR_MS)])
    assert await store.checked_slots(Span(HOUR, HOUR + 5 * HOUR_MS)) == [HOUR, HOUR + HOUR_MS]


async def test_the_old_goes_and_what_is_now_stays(store: SqlMetaStore) -> None:
    now = row(1.0, grain="now", slot_ms=0)
    kept = [row(1.0, slot_ms=HOUR + n * HOUR_MS) for n in range(10)]
    days = [row(2.0, grain="day", slot_ms=HOUR - n * DAY_MS) for n in range(4)]
    await store.keep_health([now, *kept, *days])
    await store.keep_notes([note(str(n), n) for n in range(6)])
    before = HOUR + 2
    gone = await store.forget_health(hours_before_ms=HOUR + 3 * HOUR_MS, before_ms=before, rows_max=1_000)
    assert gone == 3 + 4 + 2
    assert await hours(store) == kept[3:]
    assert await store.forget_health(hours_before_ms=0, before_ms=0, rows_max=3) == 4 + 1
    assert await hours(store) == kept[7:]
    assert await store.health_rows(MINUTES, "now", Span(0, 1)) == [now]
    assert [one.id for one in (await store.notes(limit=9))[0]] == ["5", "4", "3"]


# ── What stands ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_open_findings_are_summed_up(store: SqlMetaStore) -> None:
    def stale(start: int, series: str | None = MINUTES, **other: Any) -> Any:
        usual = {"severity": "warning", "evidence": {}, "found_ms": start + 5, "stream": "kline"}
        return found(FindingKind.STALE, series=series, start_ms=start, **{**usual, **other})

    over = stale(1).resolved(10, 10)
    both = [stale(30), stale(20, severity="critical", found_ms=99), stale(7, None), over]
    await store.keep_findings([stale(4, severity="info"), found(FindingKind.HOLE, series=MINUTES, severity="critical", start_ms=1, end_ms=2, evidence={}, found_ms=3)])  # fmt: skip
    await store.keep_findings([*both, found(FindingKind.LEADERLESS, severity="critical", start_ms=3, evidence={}, found_ms=4)])  # fmt: skip
    assert sorted(await store.open_findings(), key=lambda one: one.start_ms) == [
        OpenFindings(kind="leaderless", series=None, stream=None, severity="critical", count=1, start_ms=3, found_ms=4),
        OpenFindings(kind="stale", series=None, stream="kline", severity="warning", count=1, start_ms=7, found_ms=12),
        OpenFindings(kind="stale", series=MINUTES, stream="kline", severity="critical", count=2, start_ms=20, found_ms=99),
    ]  # fmt: skip


def entry(start: int, end: int, state: HoleState, **other: Any) -> LedgerEntry:
    usual: dict[str, Any] = {
        "id": f"{state.value}{start}", "series": MINUTES, "kind": "grid", "start_ms": start, "end_ms": end, "missing": 2,
        "after": None, "before": None, "state": state, "found_ms": start + 7, "seen_ms": 9,
    }  # fmt: skip
    return LedgerEntry(**{**usual, **other})


async def test_holes_that_stand_are_summed_up(store: SqlMetaStore) -> None:
    entries = (
        entry(1, 2, HoleState.OPEN), entry(5, 9, HoleState.OPEN, missing=None), entry(11, 12, HoleState.HEALED),
        entry(13, 14, HoleState.SUSPECTED), entry(15, 16, HoleState.ABSENT),
    )  # fmt: skip
    coverage = (Audited(0, 20, Result.FAIL, 1, 1),)
    change = TruthChange(series=MINUTES, version=0, mark=Mark(looked_ms=1, swept_ms=1), coverage=coverage, entries=entries)  # fmt: skip
    await store.keep_truths([change])
    absent, open_ones = await store.live_holes()
    assert open_ones == LiveHoles(
        series=MINUTES, state=HoleState.OPEN, count=2, missing=2, start_ms=1, end_ms=9, longest_ms=4, found_ms=12
    )
    assert (absent.state, absent.count) == (HoleState.ABSENT, 1)


# ── Alerts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def alert(kind: str = "hole", series: str | None = MINUTES, at: int = 0, **other: Any) -> Alert:
    alarm = Alarm(
        kind=kind, series=series, severity="warning", since_ms=HOUR, newest_ms=HOUR + 1, count=3, text="gone: 币", evidence={"a": 1, "b": None},
    )  # fmt: skip
    made = judged(None, alarm, HOUR + at)
    assert made is not None
    return replace(made[0], **other)


def message(at: int = 0, kind: str = "hole", **deliveries: Delivery) -> Message:
    one = replace(alert(kind, at=at), untold="firing")
    [made] = told([], [one], {}, per_minute=1, channels=["log"], now_ms=HOUR + at)[1]
    return replace(made, deliveries=deliveries or made.deliveries)


async def test_alerts_come_back_page_by_page(store: SqlMetaStore) -> None:
    one, two, over = alert(), alert("stale", None, 5, untold="firing"), alert("health", at=9, resolved_ms=HOUR + 20)
    await store.keep_alerts([one, two, over], [])
    assert await store.alerts(limit=2) == ([over, two], 3)
    assert await store.alerts(limit=9, firing=True) == ([two, one], 2)
    assert await store.alerts(limit=9, firing=False) == ([over], 1)
    assert await store.alerts(limit=9, kind="hole", series=MINUTES) == ([one], 1)
    assert await store.alerts_to_judge([]) == [one, two] or await store.alerts_to_judge([]) == [two, one]
    assert {held.id for held in await store.alerts_to_judge([over.id, "unknown", one.id])} == {one.id, two.id, over.id}
    later = replace(one, text="x" * 5_000, episode=2, resolved_ms=HOUR + 1)
    await store.keep_alerts([later], [])
    [kept] = (await store.alerts(limit=9, kind="hole"))[0]
    assert (len(kept.text), kept.episode, kept.resolved_ms) == (1_000, 2, HOUR + 1)


async def test_messages_wait_until_nothing_is_due_any_more(store: SqlMetaStore) -> None:
    early, late = message(1), message(2, "stale")
    await store.keep_alerts([alert()], [early, late])
    assert await store.messages_due(HOUR, 9) == []
    assert await store.messages_due(HOUR + 2, 9) == [early, late]
    assert await store.messages_due(HOUR + 2, 1) == [early]
    done = replace(early, deliveries={"log": Delivery(due_ms=None, attempts=1, sent_ms=HOUR + 3)})
    await store.keep_alerts([], [done])
    assert await store.messages_due(HOUR + 9, 9) == [late]
    assert await store.messages(limit=9) == ([late, done], 2)
    assert await store.messages_made(HOUR + 1) == {"stale": 1}
    assert await store.messages_made(HOUR) == {"hole": 1, "stale": 1}


async def test_old_messages_and_alerts_go_unless_something_is_still_to_be_done(store: SqlMetaStore) -> None:
    sent = Delivery(due_ms=None, sent_ms=HOUR)
    kept = [alert("stale"), alert("drift", resolved_ms=HOUR + 5, untold="resolved")]
    await store.keep_alerts(
        [alert(resolved_ms=HOUR + 5), *kept],
        [message(1, log=sent), message(2), *(message(n, log=sent) for n in range(10, 16))],
    )
    assert await store.forget_alerts(HOUR + 9, 1_000) == 2
    assert {one.id for one in (await store.alerts(limit=9))[0]} == {one.id for one in kept}
    assert await store.forget_alerts(0, 3) == 3
    assert [one.at_ms - HOUR for one in (await store.messages(limit=9))[0]] == [15, 14, 13, 2]


async def test_under_a_lease_that_is_over_nothing_is_kept(store: SqlMetaStore) -> None:
    lease = (await store.take_lease("work", "me", 30)).lease
    mine = store.fenced(lease)
    await mine.keep_alerts([alert()], [message()])
    await store.give_back_lease(lease)
    await store.take_lease("work", "another", 30)
    for write in (
        mine.keep_alerts([alert("stale")], []), mine.keep_health([row(1.0)]), mine.keep_notes([note("a")]),
        mine.forget_alerts(0, 1), mine.forget_health(hours_before_ms=0, before_ms=0, rows_max=1),
    ):  # fmt: skip
        with pytest.raises(LeaseLost):
            await write
    assert (await store.alerts(limit=9))[1] == 1
    assert (await store.notes(limit=9))[1] == 0


async def test_what_cannot_be_read_is_said_to_be_so(store: SqlMetaStore, url: str) -> None:
    from sqlalchemy import update

    from data_manager.adapters.meta.tables import alert_messages, alerts

    await store.keep_alerts([alert()], [message()])
    await store.keep_notes([note("a")])
    database = connect(url)
    try:
        async with database.writing() as connection:
            await connection.execute(update(alerts).values(evidence="{"))
            await connection.execute(update(alert_messages).values(body=b"{"))
            await connection.execute(update(audit_logs).values(details="["))
    finally:
        await database.close()
    for question in (store.alerts(limit=1), store.messages(limit=1), store.notes(limit=1)):
        with pytest.raises(Corrupt):
            await question
