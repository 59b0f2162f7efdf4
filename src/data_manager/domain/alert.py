"""Alerts: what somebody has to be told once, however often it is seen, and once more when it is over.

    alarms seen now ──> alerts held ──> events ──> messages ──> one delivery per channel
                                       firing      at most so many a minute of one kind;
                                       worse       the rest is told together, as a rollup
                                       more
                                       resolved

An alarm names a kind and whom it is about; alarms of one kind about one series are one alert. It fires once, tells
again when it got worse or when there is more of it (at most every MORE_MS), and resolves when the alarm is gone.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.finding import Evidence, Severity
from data_manager.domain.time import HOUR_MS, MINUTE_MS, SECOND_MS

Event = Literal["firing", "worse", "more", "resolved", "rollup", "test"]

MORE_MS: Final = HOUR_MS
"""So long an alert that fires says nothing of more of the same."""

GIVE_UP_MS: Final = HOUR_MS
"""A message that could not be delivered for so long is given up."""

WAIT_MAX_MS: Final = 5 * MINUTE_MS
"""The longest pause between two attempts to deliver."""

_RANK: Final[Mapping[Severity, int]] = {"info": 0, "warning": 1, "critical": 2}
_NAMED_MAX: Final = 5  # alerts that a rollup names


class Alarm(Struct, frozen=True, kw_only=True):
    """Something that is wrong now, as one look sees it. Series and stream are None where it is about everything."""

    kind: str  # a kind of finding, or health
    series: str | None = None
    stream: str | None = None
    severity: Severity
    since_ms: int  # when the oldest part of it began
    newest_ms: int  # when the newest part of it was found
    count: int  # of parts: findings, holes
    text: str  # what is wrong, in words
    evidence: Evidence

    @property
    def id(self) -> str:
        """The same for all alarms that are one alert."""
        return alert_id(self.kind, self.series, self.stream)


class Alert(Struct, frozen=True, kw_only=True):
    """An alarm that was taken up. It fires until resolved_ms is set, and anew, as its next episode, when it returns.

    newest_ms is that of the alarm told last. untold: what happened and was not told yet, for want of room in the
    minute.
    """

    id: str
    kind: str
    series: str | None
    stream: str | None
    severity: Severity
    since_ms: int
    newest_ms: int
    count: int
    text: str
    evidence: Evidence
    episode: int
    fired_ms: int
    told_ms: int
    resolved_ms: int | None = None
    untold: Event | None = None

    @property
    def firing(self) -> bool:
        """Whether it is not over."""
        return self.resolved_ms is None

    @property
    def about(self) -> str:
        """Whom it is about, in words."""
        return self.series or self.stream or "everything"


class Delivery(Struct, frozen=True, kw_only=True):
    """What became of a message on one channel: due_ms is None when nothing is to be done any more."""

    due_ms: int | None
    attempts: int = 0
    sent_ms: int | None = None
    error: str | None = None  # of the last attempt

    @property
    def state(self) -> Literal["sent", "waiting", "given_up"]:
        """given_up: it was not delivered, and nobody tries any more."""
        return "sent" if self.sent_ms is not None else "given_up" if self.due_ms is None else "waiting"


class Message(Struct, frozen=True, kw_only=True):
    """What is sent about an alert, or about many at once (alert is None then). deliveries: by name of the channel."""

    id: str
    at_ms: int
    event: Event
    kind: str
    severity: Severity
    alert: str | None
    series: str | None
    stream: str | None
    since_ms: int | None
    count: int
    text: str
    evidence: Evidence
    deliveries: Mapping[str, Delivery]

    @property
    def line(self) -> str:
        """The message in one line of words."""
        heads = {"resolved": "resolved", "test": "test", "worse": f"{self.severity}, worse", "more": "more"}
        about = self.series or self.stream or ("" if self.alert is None else "everything")
        return f"[{heads.get(self.event, self.severity)}] {self.kind} {about}".rstrip() + f": {self.text}"

    @property
    def due_ms(self) -> int | None:
        """When something is to be done about it."""
        return min((one.due_ms for one in self.deliveries.values() if one.due_ms is not None), default=None)


def alert_id(kind: str, series: str | None, stream: str | None) -> str:
    """32 hexadecimal digits."""
    return _digest(kind, series or "", stream or "")


def worst(severities: Iterable[Severity]) -> Severity:
    """The worst of them; info when there are none."""
    return max(severities, key=_RANK.__getitem__, default="info")


# ── What happened ────────────────────────────────────────────────────────────────────────────────────────────────────


def judged(held: Alert | None, alarm: Alarm | None, now_ms: int) -> tuple[Alert, Event | None] | None:
    """The alert after a look that saw this alarm, and what is to be told of it; None when nothing changed."""
    if alarm is None:
        if held is None or not held.firing:
            return None
        return replace(held, resolved_ms=max(now_ms, held.fired_ms)), "resolved"
    if held is None or not held.firing:
        return _fired(alarm, 1 if held is None else held.episode + 1, now_ms), "firing"
    event = _news(held, alarm, now_ms)
    seen = {"severity": alarm.severity, "count": alarm.count, "since_ms": alarm.since_ms}
    if event is not None:
        told = {"text": alarm.text, "evidence": alarm.evidence, "newest_ms": alarm.newest_ms, "told_ms": now_ms}
        return replace(held, **seen, **told), event
    changed = replace(held, **seen)
    return None if changed == held else (changed, None)


def _fired(alarm: Alarm, episode: int, now_ms: int) -> Alert:
    return Alert(
        id=alarm.id,
        kind=alarm.kind,
        series=alarm.series,
        stream=alarm.stream,
        severity=alarm.severity,
        since_ms=alarm.since_ms,
        newest_ms=alarm.newest_ms,
        count=alarm.count,
        text=alarm.text,
        evidence=alarm.evidence,
        episode=episode,
        fired_ms=now_ms,
        told_ms=now_ms,
    )


def _news(held: Alert, alarm: Alarm, now_ms: int) -> Event | None:
    if _RANK[alarm.severity] > _RANK[held.severity]:
        return "worse"
    return "more" if alarm.newest_ms > held.newest_ms and now_ms - held.told_ms >= MORE_MS else None


# ── What is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


def told(
    changes: Sequence[tuple[Alert, Event | None]],
    waiting: Sequence[Alert],
    made: Mapping[str, int],
    *,
    per_minute: int,
    channels: Iterable[str],
    now_ms: int,
) -> tuple[list[Alert], list[Message]]:
    """Alerts as they are to be kept, and the messages to send.

    waiting: alerts with something untold. made: messages of the last minute, by kind. Of a kind of which more is to be
    told than the minute still has room for, the most urgent are told and the rest waits; as soon as there is room
    again, what waited is told in one rollup. What fired and was over before it could be told is not told at all.
    """
    to_channels, before = tuple(channels), {one.id: one for one in waiting}
    kept = dict(before)
    for alert, event in changes:
        held = before.get(alert.id)
        kept[alert.id] = replace(alert, untold=_merged(None if held is None else held.untold, event))
    messages: list[Message] = []
    for kind in sorted({one.kind for one in kept.values() if one.untold}):
        room = max(per_minute - made.get(kind, 0), 0)
        untold = sorted((one for one in kept.values() if one.kind == kind and one.untold), key=_urgent)
        if room and len(untold) > room and any(one.id in before for one in untold):
            spoken = untold
            messages.append(_rollup(kind, untold, to_channels, now_ms))
        else:
            spoken = untold[:room]
            messages += [_message(one, to_channels, now_ms) for one in spoken]
        kept |= {one.id: replace(one, untold=None) for one in spoken}
    return [one for one in kept.values() if one != before.get(one.id)], messages


def _merged(untold: Event | None, event: Event | None) -> Event | None:
    """What is to be told of an alert of which something was untold when this came on top."""
    if untold is None or event is None:
        return event or untold
    if event == "resolved":
        return None if untold == "firing" else "resolved"
    return "firing" if untold == "firing" else event


def _urgent(alert: Alert) -> tuple[int, int, str]:
    return (-_RANK[alert.severity], alert.told_ms, alert.id)


def _message(alert: Alert, channels: Sequence[str], now_ms: int) -> Message:
    assert alert.untold is not None, "there is something to tell"
    return Message(
        id=_digest(alert.id, str(alert.episode), alert.untold, str(now_ms)),
        at_ms=now_ms,
        event=alert.untold,
        kind=alert.kind,
        severity=alert.severity,
        alert=alert.id,
        series=alert.series,
        stream=alert.stream,
        since_ms=alert.since_ms,
        count=alert.count,
        text=alert.text,
        evidence=alert.evidence,
        deliveries={name: Delivery(due_ms=now_ms) for name in channels},
    )


def _rollup(kind: str, alerts: Sequence[Alert], channels: Sequence[str], now_ms: int) -> Message:
    firing = [one for one in alerts if one.firing]
    over = [one for one in alerts if not one.firing]
    parts = [f"{len(some)} {word}: {_names(some)}" for some, word in ((firing, "more firing"), (over, "over")) if some]
    return Message(
        id=_digest("rollup", kind, str(now_ms)),
        at_ms=now_ms,
        event="rollup",
        kind=kind,
        severity=worst(one.severity for one in alerts),
        alert=None,
        series=None,
        stream=None,
        since_ms=min(one.since_ms for one in alerts),
        count=len(alerts),
        text="; ".join(parts),
        evidence={"firing": len(firing), "resolved": len(over)},
        deliveries={name: Delivery(due_ms=now_ms) for name in channels},
    )


def test_message(channels: Iterable[str], now_ms: int) -> Message:
    """A message that says nothing but that messages arrive."""
    return Message(
        id=_digest("test", str(now_ms)),
        at_ms=now_ms,
        event="test",
        kind="test",
        severity="info",
        alert=None,
        series=None,
        stream=None,
        since_ms=None,
        count=1,
        text="alerts of the data manager arrive here",
        evidence={},
        deliveries={name: Delivery(due_ms=now_ms) for name in channels},
    )


def _names(alerts: Sequence[Alert]) -> str:
    more = len(alerts) - _NAMED_MAX
    return ", ".join(one.about for one in alerts[:_NAMED_MAX]) + (f" and {more} others" if more > 0 else "")


# ── What becomes of a message ────────────────────────────────────────────────────────────────────────────────────────


def claimed(delivery: Delivery, now_ms: int) -> Delivery:
    """The delivery with an attempt begun. Should nobody say what became of it, it is due again after the pause."""
    attempts = delivery.attempts + 1
    pause_ms = min(SECOND_MS * 2 ** min(attempts - 1, 20), WAIT_MAX_MS)
    return replace(delivery, attempts=attempts, due_ms=now_ms + pause_ms)


def sent(delivery: Delivery, now_ms: int) -> Delivery:
    """The other side has it."""
    return replace(delivery, due_ms=None, sent_ms=now_ms, error=None)


def failed(
    delivery: Delivery, error: str, *, made_ms: int, now_ms: int, retry_after_s: float = 0.0, final: bool = False
) -> Delivery:
    """A claimed attempt came to nothing. final: it never will; given up too when it is too old."""
    if final or now_ms - made_ms >= GIVE_UP_MS:
        return replace(delivery, due_ms=None, error=error)
    due_ms = max(delivery.due_ms or now_ms, now_ms + round(retry_after_s * SECOND_MS))
    return replace(delivery, due_ms=due_ms, error=error)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]
