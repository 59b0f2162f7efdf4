"""Alerts: told once however often they are seen, told again when they are over, and never a flood."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from data_manager.domain.alert import (
    GIVE_UP_MS,
    MORE_MS,
    WAIT_MAX_MS,
    Alarm,
    Alert,
    Delivery,
    Event,
    Message,
    claimed,
    failed,
    judged,
    sent,
    told,
    worst,
)

NOW = 1_700_000_000_000
MINUTE = 60_000


def alarm(series: str | None = "um.trade.BTCUSDT", kind: str = "hole", **other: Any) -> Alarm:
    usual: dict[str, Any] = {"severity": "warning", "since_ms": NOW - 9, "newest_ms": NOW, "count": 1, "text": "gone", "evidence": {}}  # fmt: skip
    return Alarm(kind=kind, series=series, **{**usual, **other})


def fired(**other: Any) -> Alert:
    made = judged(None, alarm(**other), NOW)
    assert made is not None
    assert made[1] == "firing"
    return made[0]


# ── What happened ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_seen_again_is_no_news() -> None:
    assert judged(fired(), alarm(), NOW + 5) is None
    assert judged(None, None, NOW) is None
    assert alarm().id == alarm(severity="critical", text="other", count=9).id
    assert len({one.id for one in (alarm(), alarm(kind="stale"), alarm(None), alarm(None, stream="trade"))}) == 4


def test_what_is_over_resolves_once_and_fires_anew_as_another_episode() -> None:
    over = judged(fired(), None, NOW + 5)
    assert over is not None
    assert (over[0].resolved_ms, over[0].firing, over[1]) == (NOW + 5, False, "resolved")
    assert judged(over[0], None, NOW + 6) is None
    again = judged(over[0], alarm(), NOW + 7)
    assert again is not None
    assert (again[0].episode, again[0].fired_ms, again[0].resolved_ms, again[1]) == (2, NOW + 7, None, "firing")
    back = judged(fired(), None, NOW - 500)
    assert back is not None
    assert back[0].resolved_ms == NOW, "whatever our clock does, nothing is over before it began"


def test_worse_is_told_and_better_is_only_kept() -> None:
    worse = judged(fired(), alarm(severity="critical", text="much", count=4), NOW + 5)
    assert worse is not None
    assert (worse[1], worse[0].severity, worse[0].text, worse[0].count) == ("worse", "critical", "much", 4)
    better = judged(worse[0], alarm(count=2), NOW + 9)
    assert better is not None
    assert (better[1], better[0].severity, better[0].count) == (None, "warning", 2)


def test_more_of_the_same_is_told_once_in_a_while() -> None:
    grown = alarm(newest_ms=NOW + 5, count=2)
    quiet = judged(fired(), grown, NOW + MORE_MS - 1)
    assert quiet is not None
    assert quiet[1] is None
    more = judged(quiet[0], grown, NOW + MORE_MS)
    assert more is not None
    assert more[1] == "more"
    assert judged(more[0], grown, NOW + 3 * MORE_MS) is None


# ── What is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


def firing(n: int, kind: str = "hole", **other: Any) -> list[tuple[Alert, Event | None]]:
    return [(fired(series=f"um.trade.S{i}USDT", kind=kind, **other), "firing") for i in range(n)]


def tell(changes: Any, waiting: Any = (), made: Any = None, now_ms: int = NOW) -> tuple[list[Alert], list[Message]]:
    return told(changes, waiting, made or {}, per_minute=10, channels=("log", "webhook"), now_ms=now_ms)


def test_each_is_told_on_every_channel_while_there_is_room() -> None:
    kept, messages = tell(firing(3))
    assert [one.untold for one in kept] == [None] * 3
    assert {one.series for one in messages} == {f"um.trade.S{i}USDT" for i in range(3)}
    assert messages[0].deliveries == {"log": Delivery(due_ms=NOW), "webhook": Delivery(due_ms=NOW)}
    assert {one.line for one in messages} == {f"[warning] hole um.trade.S{i}USDT: gone" for i in range(3)}
    assert len({one.id for one in messages}) == 3


def test_a_flood_is_ten_messages_and_then_one_rollup() -> None:
    kept, messages = tell([*firing(490), *firing(2, severity="critical", kind="silence")])
    assert Counter(one.kind for one in messages) == {"hole": 10, "silence": 2}
    waiting = [one for one in kept if one.untold]
    assert len(waiting) == 480
    made = Counter(one.kind for one in messages)
    assert tell([], waiting, made, NOW + MINUTE // 2) == ([], [])
    kept, messages = tell([(fired(series="um.trade.LATEUSDT"), "firing")], waiting, {}, NOW + MINUTE)
    [rollup] = messages
    assert (rollup.event, rollup.kind, rollup.count, rollup.alert) == ("rollup", "hole", 481, None)
    assert all(one.untold is None for one in kept)
    assert rollup.line.startswith("[warning] hole: 481 more firing: um.trade.")
    assert rollup.line.endswith(" and 476 others")


def test_what_waits_and_fits_again_is_told_one_by_one() -> None:
    kept, _ = tell(firing(12))
    waiting = [one for one in kept if one.untold]
    kept, messages = tell([], waiting, {"hole": 3}, NOW + MINUTE)
    assert [one.event for one in messages] == ["firing", "firing"]
    assert all(one.untold is None for one in kept)


def test_the_most_urgent_go_first() -> None:
    mixed = [*firing(15), (fired(series="um.trade.XUSDT", severity="critical"), "firing")]
    _, messages = tell(mixed)
    assert messages[0].severity == "critical"


def test_what_came_and_went_before_it_could_be_told_is_not_told() -> None:
    kept, _ = tell(firing(11))
    [waiting] = [one for one in kept if one.untold]
    over = judged(waiting, None, NOW + 5)
    assert over is not None
    kept, messages = tell([over], [waiting], {"hole": 10}, NOW + 5)
    assert messages == []
    assert [(one.firing, one.untold) for one in kept] == [(False, None)]


def test_a_resolve_that_waits_is_told_in_the_rollup() -> None:
    resolved = [(replace(one, resolved_ms=NOW), "resolved") for one, _ in firing(30)]
    kept, messages = tell(resolved)
    assert [one.event for one in messages] == ["resolved"] * 10
    _, [rollup] = tell([], [one for one in kept if one.untold], {}, NOW + MINUTE)
    assert rollup.text.startswith("20 over: ")
    assert rollup.evidence == {"firing": 0, "resolved": 20}


@given(st.lists(st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=8), max_size=12), st.integers(1, 3))
def test_every_alert_is_told_in_the_end_and_no_minute_holds_more_than_it_may(
    looks: list[list[tuple[int, bool]]], per_minute: int
) -> None:
    """looks: at each, which of eight series are seen to be wrong. Afterwards time passes until nothing waits."""
    held: dict[str, Alert] = {}
    sent_at: list[int] = []
    standing: dict[str, bool] = {}
    last: dict[str, int] = {}
    for turn, seen in enumerate([*looks, *([[]] * 40)]):
        now_ms = NOW + turn * 7_000
        names = {f"um.trade.S{i}USDT" for i, wrong in seen if wrong}
        if turn >= len(looks):
            names = {name for name, wrong in standing.items() if wrong}
        alarms = {one.id: one for one in map(alarm, sorted(names))}
        standing = {name: name in names for name in {*standing, *names}}
        changes = [
            made for key in held.keys() | alarms.keys() if (made := judged(held.get(key), alarms.get(key), now_ms))
        ]
        waiting = [one for one in held.values() if one.untold]
        made_lately = {"hole": sum(1 for at in sent_at if at > now_ms - MINUTE)}
        kept, messages = told(changes, waiting, made_lately, per_minute=per_minute, channels=["log"], now_ms=now_ms)
        held |= {one.id: one for one in kept}
        sent_at += [one.at_ms for one in messages]
        for one in messages:
            if one.alert is not None:
                last[one.alert] = turn
        assert sum(1 for at in sent_at if at > now_ms - MINUTE) <= per_minute
    assert all(one.untold is None for one in held.values())
    assert {one.series for one in held.values() if one.firing} == {name for name, wrong in standing.items() if wrong}


# ── What becomes of a message ────────────────────────────────────────────────────────────────────────────────────────


def test_attempts_wait_longer_and_longer_and_end() -> None:
    one, now_ms, pauses = Delivery(due_ms=NOW), NOW, []
    while one.state == "waiting":
        tried = claimed(one, now_ms)
        one = failed(tried, "away", made_ms=NOW, now_ms=now_ms)
        if one.due_ms is not None:
            pauses.append(one.due_ms - now_ms)
            now_ms = one.due_ms
    assert pauses[:5] == [1_000, 2_000, 4_000, 8_000, 16_000]
    assert max(pauses) == WAIT_MAX_MS
    assert (one.state, one.error, one.attempts) == ("given_up", "away", len(pauses) + 1)
    assert GIVE_UP_MS <= now_ms - NOW <= GIVE_UP_MS + WAIT_MAX_MS


def test_what_never_will_be_taken_is_given_up_at_once_and_who_asks_for_patience_gets_it() -> None:
    tried = claimed(Delivery(due_ms=NOW), NOW)
    assert failed(tried, "gone", made_ms=NOW, now_ms=NOW, final=True).state == "given_up"
    assert failed(tried, "slow", made_ms=NOW, now_ms=NOW, retry_after_s=90).due_ms == NOW + 90_000
    done = sent(tried, NOW + 3)
    assert (done.state, done.sent_ms, done.due_ms, done.attempts) == ("sent", NOW + 3, None, 1)


def test_a_message_is_due_as_long_as_one_channel_is() -> None:
    [message] = tell(firing(1))[1]
    half = replace(message, deliveries={**message.deliveries, "log": sent(Delivery(due_ms=NOW), NOW)})
    assert half.due_ms == NOW
    assert replace(half, deliveries={"log": half.deliveries["log"]}).due_ms is None


@pytest.mark.parametrize(("severities", "expected"), [([], "info"), (["warning", "info"], "warning"), (["info", "critical", "warning"], "critical")])  # fmt: skip
def test_the_worst_of_many(severities: Any, expected: str) -> None:
    assert worst(severities) == expected
