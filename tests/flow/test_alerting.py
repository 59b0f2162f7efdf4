"""The spine of the alerts over a real metadata store, real receivers and a real nats-server."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from data_manager.adapters.alerts.log import LogChannel
from data_manager.adapters.alerts.nats import NatsSubject
from data_manager.adapters.alerts.webhook import Webhook
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain.alert import GIVE_UP_MS, Message
from data_manager.domain.condition.coverage import Audited, Result
from data_manager.domain.condition.truth import Mark, TruthChange
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Unavailable
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.domain.health import Freshness, Repair, health
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.ports import LeaseLost
from data_manager.ports.alerts import Channel, OpenFindings
from data_manager.services.alerting.sources import QUIET_MS, of_findings
from data_manager.services.alerting.spine import Alerting
from data_manager.services.alerting.telling import channel_facts
from data_manager.services.health import SeriesHealth
from tests.conftest import eventually
from tests.flow.test_audit import SetClock
from tests.receiver import SECRET, Receiver, receiving
from tests.servers import access_to, client_of, own_server
from tests.service import bare_environment

NOW = 1_700_000_000_000
MINUTE = 60_000
TRADES = "um.trade.BTCUSDT"


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    try:
        yield one
    finally:
        await one.close()


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


class Spine:
    """An Alerting whose clock stands still until it is moved."""

    def __init__(self, meta: SqlMetaStore, channels: Sequence[Channel], now_ms: int = NOW, **options: Any) -> None:
        self.meta = meta
        self.clock = SetClock(now_ms)
        self.alerting = Alerting(meta, meta, channels, self.clock, **options)

    async def turn(self, after_ms: int = 0) -> None:
        self.clock.now += after_ms
        await self.alerting.turn(self.meta)

    async def stands(self, *findings: Finding) -> None:
        await self.meta.keep_findings(findings)


def silence(series: str | None = TRADES, **other: Any) -> Finding:
    usual: dict[str, Any] = {"severity": "warning", "start_ms": NOW - 90_000, "evidence": {"last_event_ms": 5}, "found_ms": NOW - 9, "stream": "trade"}  # fmt: skip
    return found(other.pop("kind", FindingKind.SILENCE), series=series, **{**usual, **other})


async def truth(meta: SqlMetaStore, *holes: LedgerEntry, version: int = 0, series: str = TRADES) -> None:
    coverage = (Audited(NOW - 10**7, NOW, Result.FAIL, 1, NOW),)
    mark = Mark(looked_ms=NOW, swept_ms=NOW)
    await meta.keep_truths([TruthChange(series=series, version=version, mark=mark, coverage=coverage, entries=holes)])


def hole(state: HoleState = HoleState.OPEN, length_ms: int = MINUTE, **other: Any) -> LedgerEntry:
    usual: dict[str, Any] = {
        "id": "h", "series": TRADES, "kind": "ids", "start_ms": NOW - 10**6, "end_ms": NOW - 10**6 + length_ms, "missing": 12,
        "after": 1, "before": 14, "state": state, "found_ms": NOW - 5, "seen_ms": NOW, "root": "h",
    }  # fmt: skip
    return LedgerEntry(**{**usual, **other})


# ── What is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_finding_is_told_once_and_its_end_once(meta: SqlMetaStore, hook: Receiver) -> None:
    spine = Spine(meta, [LogChannel(), Webhook(hook.url, "test")])
    await spine.stands(silence())
    for _ in range(3):
        await spine.turn(2_000)
    [firing] = hook.said("firing")
    assert (firing["kind"], firing["series"], firing["severity"], firing["environment"]) == (
        "silence",
        TRADES,
        "warning",
        "test",
    )
    assert "nothing comes that used to come" in firing["text"]
    assert firing["evidence"] == {"last_event_ms": 5}
    await spine.stands(silence().resolved(NOW + 9_000, NOW))
    for _ in range(3):
        await spine.turn(2_000)
    assert [one["event"] for one in (post.body["alert"] for post in hook.posted)] == ["firing", "resolved"]
    assert hook.posted[0].headers["idempotency-key"] == firing["id"]
    assert hook.posted[1].body["text"].startswith(f"[resolved] silence {TRADES}: ")
    assert spine.alerting.attempts == {("log", "sent"): 2, ("webhook", "sent"): 2}


async def test_many_findings_about_one_series_are_one_alert_and_info_is_none(
    meta: SqlMetaStore, hook: Receiver
) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    many = [silence(start_ms=NOW - n * 1_000, kind=FindingKind.STALE) for n in range(1, 30)]
    await spine.stands(
        *many, silence(kind=FindingKind.DRIFT, severity="info"), silence(None, stream=None, severity="critical")
    )
    await spine.turn()
    assert {(one["kind"], one["series"], one["count"]) for one in hook.said("firing")} == {
        ("stale", TRADES, 29),
        ("silence", None, 1),
    }
    assert spine.alerting.firing == {"warning": 1, "critical": 1}


async def test_what_tells_of_the_past_is_over_when_nothing_new_comes(meta: SqlMetaStore, hook: Receiver) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    await spine.stands(silence(kind=FindingKind.DROPPED, end_ms=NOW, severity="critical"))
    await spine.turn()
    await spine.turn(QUIET_MS)
    assert [len(hook.said(event)) for event in ("firing", "resolved")] == [1, 1]
    await spine.stands(
        silence(kind=FindingKind.DROPPED, start_ms=NOW + QUIET_MS, found_ms=NOW + QUIET_MS, severity="critical")
    )
    await spine.turn()
    assert len(hook.said("firing")) == 2


async def test_holes_come_from_the_ledger_and_are_over_when_nobody_mends_them(
    meta: SqlMetaStore, hook: Receiver
) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    await truth(meta, hole())
    await spine.turn()
    await truth(meta, hole(length_ms=2 * 60 * MINUTE, state=HoleState.HEALING), version=1)
    await spine.turn(2_000)
    await truth(meta, hole(state=HoleState.ABSENT), version=2)
    await spine.turn(2_000)
    events = [(post.body["alert"]["event"], post.body["alert"]["severity"]) for post in hook.posted]
    assert events == [("firing", "warning"), ("worse", "critical"), ("resolved", "critical")]
    assert hook.said("firing")[0]["text"].startswith("12 rows are missing in 1 hole, from 2023-11-14T")
    assert hook.said("resolved")[0]["text"] == "no hole is left to mend: 1 absent at source"


async def test_short_holes_are_left_alone_where_that_is_asked_for(meta: SqlMetaStore, hook: Receiver) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")], hole_from_ms=2 * MINUTE)
    await truth(meta, hole())
    await spine.turn()
    assert hook.posted == []


def stood(score: float | None, series: str = TRADES) -> SeriesHealth:
    complete = None if score is None else 1 - (100 - score) / 40
    made = health(completeness=complete, freshness=Freshness(1, 9), rows=5, repeated=0, invalid=0)
    market, dataset, symbol = series.split(".")
    return SeriesHealth(
        series=Series(market, dataset, symbol), now_ms=NOW, health=made, window=None, completeness=complete,
        freshness=None, cadence=None, awaited=True, rows=5, first_ms=1, last_ms=2, gaps=0, open_holes=0, duplicates=0,
        invalid=0, repair=Repair(0, 0, 0, None, None), budget=None, audited_ms=NOW,
    )  # fmt: skip


async def test_health_that_fell_is_told_after_two_looks_and_unknown_changes_nothing(
    meta: SqlMetaStore, hook: Receiver
) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])

    async def looks(*scores: float | None) -> list[str]:
        for score in scores:
            spine.alerting.grades.saw([stood(score)], spine.clock.now_ms())
            await spine.turn(60_000)
        return [post.body["alert"]["event"] for post in hook.posted]

    assert await looks(100.0, 70.0) == []
    assert await looks(70.0) == ["firing"]
    assert hook.said("firing")[0]["text"].startswith("unhealthy, score 70.0: completeness 0.25")
    assert await looks(None, None, 70.0, 100.0) == ["firing"]
    again = Spine(meta, [Webhook(hook.url, "test")], spine.clock.now)
    await again.turn()
    assert len(hook.posted) == 1, "a new leader that has not looked yet ends nothing"
    assert await looks(100.0) == ["firing", "resolved"]


async def test_a_flood_is_ten_messages_and_a_rollup_and_so_is_its_end(meta: SqlMetaStore, hook: Receiver) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    many = [silence(f"um.trade.S{n}USDT") for n in range(300)]
    await spine.stands(*many)
    for _ in range(8):
        await spine.turn(10_000)
    assert [len(hook.said(event)) for event in ("firing", "rollup")] == [10, 1]
    [rollup] = hook.said("rollup")
    assert (rollup["kind"], rollup["count"]) == ("silence", 290)
    assert len((await meta.alerts(limit=1_000, firing=True))[0]) == 300
    await spine.stands(*(one.resolved(spine.clock.now, NOW) for one in many))
    for _ in range(8):
        await spine.turn(10_000)
    assert (await meta.alerts(limit=1_000, firing=True))[0] == []
    said = [post.body["alert"] for post in hook.posted]
    assert len(said) <= 24
    told_over = len(hook.said("resolved")) + sum(int(one["evidence"]["resolved"]) for one in hook.said("rollup"))
    assert told_over == 300


# ── Whether it arrives ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_receiver_that_is_away_gets_everything_in_order_when_it_is_back(meta: SqlMetaStore) -> None:
    async with receiving() as gone:
        port = gone.port
    hook_channel = Webhook(f"http://127.0.0.1:{port}{SECRET}", "test")
    spine = Spine(meta, [LogChannel(), hook_channel])
    await spine.stands(silence())
    await spine.turn()
    await spine.stands(silence().resolved(NOW + 500, NOW))
    await spine.turn(500)
    reason = spine.alerting.reason()
    assert reason == f"webhook: http://127.0.0.1:{port} cannot be reached"
    log, webhook = await channel_facts(meta, {"log": "the log", "webhook": hook_channel.shown})
    assert (log["sent"], log["error"], webhook["waiting"], webhook["given_up"]) == (2, None, 2, 0)
    assert webhook["error"] == f"http://127.0.0.1:{port} cannot be reached"
    assert SECRET not in f"{webhook}{reason}{hook_channel!r}"
    async with receiving(port) as back:
        for _ in range(8):
            await spine.turn(2_000)
        assert [post.body["alert"]["event"] for post in back.posted] == ["firing", "resolved"]
    assert spine.alerting.reason() is None
    [_, webhook] = await channel_facts(meta, {"log": "the log", "webhook": hook_channel.shown})
    assert (webhook["sent"], webhook["waiting"], webhook["error"]) == (2, 0, None)
    assert spine.alerting.attempts["webhook", "failed"] >= 1


async def test_who_asks_for_patience_gets_it_and_who_refuses_is_not_asked_again(
    meta: SqlMetaStore, hook: Receiver
) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    hook.answers = [(429, {"Retry-After": "30"}), (503, {}), (404, {})]
    await spine.stands(silence())
    await spine.turn()
    await spine.turn(29_000)
    assert len(hook.answers) == 2, "before the thirty seconds nothing is sent"
    await spine.turn(1_000)
    await spine.turn(5_000)
    assert hook.answers == []
    [message], _ = await meta.messages(limit=9)
    delivery = message.deliveries["webhook"]
    assert (delivery.state, delivery.attempts) == ("given_up", 3)
    assert delivery.error is not None
    assert delivery.error.endswith("answered 404: said so")
    assert spine.alerting.attempts == {("webhook", "failed"): 2, ("webhook", "given_up"): 1}
    assert spine.alerting.reason() is not None
    await spine.turn(60_000)
    assert hook.posted == []
    spine.clock.now += GIVE_UP_MS
    assert spine.alerting.reason() is None


async def test_what_could_not_be_delivered_for_an_hour_is_given_up(meta: SqlMetaStore) -> None:
    async with receiving() as gone:
        url = gone.url
    spine = Spine(meta, [Webhook(url, "test")])
    await spine.stands(silence())
    for _ in range(40):
        await spine.turn(3 * MINUTE)
    [message], _ = await meta.messages(limit=9)
    assert message.due_ms is None
    assert message.deliveries["webhook"].state == "given_up"
    assert 5 < message.deliveries["webhook"].attempts < 30


class Hangs:
    """A channel that never answers, and one that breaks."""

    name = "webhook"
    shown = "nowhere"

    async def send(self, message: Message) -> None:
        raise ZeroDivisionError


async def test_a_channel_that_breaks_ends_nothing_else(meta: SqlMetaStore) -> None:
    spine = Spine(meta, [Hangs(), LogChannel()])
    await spine.stands(silence())
    await spine.turn()
    [message], _ = await meta.messages(limit=9)
    assert [message.deliveries[name].state for name in ("webhook", "log")] == ["given_up", "sent"]


# ── Restarts and replicas ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_next_life_goes_on_where_this_one_stopped(meta: SqlMetaStore, hook: Receiver) -> None:
    await Spine(meta, []).stands(silence(), silence("um.trade.ETHUSDT"))
    await Spine(meta, [Webhook(hook.url, "test")]).turn()
    assert len(hook.said("firing")) == 2
    await Spine(meta, []).stands(silence().resolved(NOW + 5, NOW))
    await Spine(meta, [Webhook(hook.url, "test")], NOW + 9).turn()
    assert [one["series"] for one in hook.said("resolved")] == [TRADES]
    assert len(hook.posted) == 3


async def test_what_was_claimed_and_never_answered_for_is_sent_again(meta: SqlMetaStore, hook: Receiver) -> None:
    hook.silent = True
    first = Spine(meta, [Webhook(hook.url, "test")])
    await first.stands(silence())
    dying = asyncio.create_task(first.turn())
    await eventually(lambda: bool(hook.posted))
    dying.cancel()
    await asyncio.wait([dying])
    hook.silent = False
    second = Spine(meta, [Webhook(hook.url, "test")], NOW + 500)
    await second.turn()
    assert len(hook.posted) == 1, "it may be on its way"
    await second.turn(1_000)
    one, again = (post.body["alert"] for post in hook.posted)
    assert one == again, "with the same id, so that who reads it can tell"


async def test_who_no_longer_leads_sends_nothing(meta: SqlMetaStore, hook: Receiver) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    await spine.stands(silence())
    lease = (await meta.take_lease("work", "me", 30)).lease
    await meta.give_back_lease(lease)
    await meta.take_lease("work", "another", 30)
    with pytest.raises(LeaseLost):
        await spine.alerting.turn(meta.fenced(lease))
    assert hook.posted == []
    assert (await meta.alerts(limit=9))[1] == 0


async def test_a_channel_that_is_not_configured_any_more_holds_up_nothing(meta: SqlMetaStore, hook: Receiver) -> None:
    async with receiving() as gone:
        url = gone.url
    await Spine(meta, []).stands(silence())
    await Spine(meta, [Webhook(url, "test")]).turn()
    later = Spine(meta, [LogChannel()], NOW + 5_000)
    await later.turn()
    [message], _ = await meta.messages(limit=9)
    assert message.due_ms is None
    assert "not configured" in str(message.deliveries["webhook"].error)


async def test_while_the_metadata_is_away_nothing_is_decided(meta: SqlMetaStore, hook: Receiver) -> None:
    spine = Spine(meta, [Webhook(hook.url, "test")])
    await meta.close()
    with pytest.raises(Unavailable):
        await spine.turn()
    assert hook.posted == []


# ── NATS, and the command ────────────────────────────────────────────────────────────────────────────────────────────


async def test_alerts_reach_nats_and_come_back_to_it(meta: SqlMetaStore, tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats") as server:
        channel = NatsSubject(access_to(server), "alerts.data-manager", "test")
        spine = Spine(meta, [channel])
        async with client_of(server) as client:
            listening = await client.subscribe("alerts.data-manager.>")
            await client.flush()
            await spine.stands(silence(severity="critical"))
            await spine.turn()
            heard = await listening.next_msg(timeout=5)
            assert heard.subject == "alerts.data-manager.critical.silence"
            body = json.loads(heard.data)
            assert (body["event"], body["series"]) == ("firing", TRADES)
            assert heard.headers == {"Nats-Msg-Id": body["id"]}
        await server.kill()
        await spine.stands(silence(severity="critical").resolved(NOW + 5, NOW))
        await spine.turn(2_000)
        assert "connection refused" in str(spine.alerting.reason())
        await server.start()
        async with client_of(server) as client:
            listening = await client.subscribe("alerts.>")
            await client.flush()
            await spine.turn(2_000)
            assert json.loads((await listening.next_msg(timeout=5)).data)["event"] == "resolved"
        assert spine.alerting.reason() is None


async def test_the_command_sends_a_test_through_every_channel_and_fails_loudly(tmp_path: Path, hook: Receiver) -> None:
    async def command(*arguments: str, **environ: str) -> tuple[int, Any]:
        program = [sys.executable, "-m", "data_manager", *arguments, "--json"]
        given = {**bare_environment(), "DATA_DIR": str(tmp_path), **environ}
        done = await asyncio.to_thread(subprocess.run, program, env=given, capture_output=True, check=False)
        assert SECRET.encode() not in done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    code, said = await command("alerts", "test", ALERT_WEBHOOK_URL=hook.url, ALERT_NATS_SUBJECT="off")
    assert (code, [one["error"] for one in said["channels"]]) == (0, [None, None])
    [test] = hook.said("test")
    assert hook.posted[0].body["text"].startswith("[test] test: ")
    assert test["severity"] == "info"
    hook.answers = [(403, {})]
    code, said = await command("alerts", "test", ALERT_WEBHOOK_URL=hook.url, NATS_URL="nats://127.0.0.1:1")
    assert code == 1
    errors = {one["name"]: one["error"] for one in said["channels"]}
    assert errors["log"] is None
    assert "answered 403" in errors["webhook"]
    assert "connection refused" in errors["nats"]
    code, said = await command("alerts", ALERT_WEBHOOK_URL=hook.url)
    assert (code, said["data"], said["total"]) == (0, [], 0)
    assert [one["name"] for one in said["channels"]] == ["log", "webhook", "nats"]


async def test_alerts_are_listed_by_the_command_while_nobody_serves(tmp_path: Path) -> None:
    meta = await open_meta(f"sqlite:///{tmp_path}/metadata.sqlite")
    try:
        spine = Spine(meta, [LogChannel()])
        await spine.stands(silence())
        await spine.turn()
        [alert] = (await meta.alerts(limit=9))[0]
        await meta.keep_alerts([replace(alert, id="x" * 32, resolved_ms=NOW)], [])
    finally:
        await meta.close()
    program = [sys.executable, "-m", "data_manager", "alerts"]
    environ = {**bare_environment(), "DATA_DIR": str(tmp_path)}
    done = await asyncio.to_thread(subprocess.run, program, env=environ, capture_output=True, check=True, text=True)
    assert f"silence  {TRADES}" in done.stdout
    assert "1 of 1" in done.stderr
    everything = await asyncio.to_thread(
        subprocess.run, [*program, "--all", "--json"], env=environ, capture_output=True, check=True
    )
    assert len(json.loads(everything.stdout)["data"]) == 2


def test_every_kind_of_finding_has_words_of_its_own() -> None:
    kinds = [kind for kind in FindingKind if kind is not FindingKind.HOLE]
    groups = [
        OpenFindings(kind=kind.value, series=None, stream=None, severity="warning", count=1, start_ms=NOW, found_ms=NOW)
        for kind in kinds
    ]
    assert len({alarm.text for alarm in of_findings(groups, NOW)}) == len(kinds)
    [unheard] = of_findings([replace(groups[0], kind="of a newer version")], NOW)
    assert unheard.text == "something is wrong"
