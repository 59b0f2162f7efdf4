"""The spine of the alerts: looks at what stands, decides what is told, keeps that, and sees to it that it arrives.

    look ──> alarms ──> judged against the alerts kept ──> keep alerts and messages ──> claim ──> send ──> keep outcome
             sources.py          domain/alert.py                (one transaction)

Whoever leads does it; everything it knows is in the metadata store, so that the next one, or the next life, goes on
where this one stopped. A message is claimed before it is sent: a crash between sending and keeping the outcome sends it
once more, with the same id, and nothing else sends anything twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from data_manager.domain.alert import (
    GIVE_UP_MS,
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
)
from data_manager.domain.errors import Rejected, Unavailable
from data_manager.domain.finding import FindingKind, Severity
from data_manager.domain.time import MINUTE_MS
from data_manager.ports import Clock, MetaStore
from data_manager.ports.alerts import AlertStore, Channel, LiveHoles
from data_manager.services.alerting.sources import HOLE, Grades, after_holes, detailed, of_findings, of_holes

PER_MINUTE: Final = 10
MESSAGES_MAX: Final = 10_000
"""Messages kept; the oldest that were delivered or given up go."""

_SEND_S: Final = 10.0  # one attempt may take so long
_AT_A_TURN: Final = 20  # messages per channel
_DUE_MAX: Final = 200
_DETAILED_MAX: Final = 50  # alarms of one look whose newest finding is read
_KINDS: Final = {kind.value: kind for kind in FindingKind}
_log = structlog.get_logger(__name__)


class Alerting:
    """Alerts of one store, sent through these channels. turn() it every few seconds while we lead.

    attempts: by channel and outcome (sent, failed, given_up), since the start. firing: by severity, as last looked at.
    """

    def __init__(
        self,
        alerts: AlertStore,
        meta: MetaStore,
        channels: Sequence[Channel],
        clock: Clock,
        *,
        per_minute: int = PER_MINUTE,
        hole_from_ms: int = 0,
    ) -> None:
        """hole_from_ms: series whose holes are all shorter raise no alarm."""
        self.grades = Grades()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.firing: Counter[Severity] = Counter()
        self._alerts = alerts
        self._meta = meta
        self._channels = {one.name: one for one in channels}
        self._clock = clock
        self._per_minute = per_minute
        self._hole_from_ms = hole_from_ms
        self._trouble: dict[str, tuple[str, int]] = {}  # by channel, why the last attempt came to nothing, and when
        self._paused_until_ms: dict[str, int] = {}

    def reason(self) -> str | None:
        """Why messages do not arrive, in words; None when they do, and when none was tried for long."""
        since_ms = self._clock.now_ms() - GIVE_UP_MS
        return "; ".join(f"{name}: {why}" for name, (why, at_ms) in self._trouble.items() if at_ms >= since_ms) or None

    async def turn(self, to: AlertStore) -> None:
        """Look, tell, and deliver what is due. to: where to write, such as under a lease."""
        await self._look(to)
        await self._deliver(to)

    # ---- look and tell -------------------------------------------------------------------------------------------

    async def _look(self, to: AlertStore) -> None:
        now_ms = self._clock.now_ms()
        holes = await self._alerts.live_holes()
        alarms = {one.id: one for one in await self._alarms(holes, now_ms)}
        held = {one.id: one for one in await self._alerts.alerts_to_judge(list(alarms))}
        changes = await self._changes(held, alarms, after_holes(holes), now_ms)
        waiting = [one for one in held.values() if one.untold is not None]
        if changes or waiting:
            made = await self._alerts.messages_made(now_ms - MINUTE_MS)
            kept, messages = told(
                changes, waiting, made, per_minute=self._per_minute, channels=self._channels, now_ms=now_ms
            )
            await to.keep_alerts(kept, messages)
            held |= {one.id: one for one in kept}
        self.firing = Counter(one.severity for one in held.values() if one.firing)

    async def _alarms(self, holes: Sequence[LiveHoles], now_ms: int) -> list[Alarm]:
        findings = await self._alerts.open_findings()
        return [*of_findings(findings, now_ms), *of_holes(holes, self._hole_from_ms), *self.grades.alarms()]

    async def _changes(
        self, held: Mapping[str, Alert], alarms: Mapping[str, Alarm], over: Mapping[str, str], now_ms: int
    ) -> list[tuple[Alert, Event | None]]:
        changes: list[tuple[Alert, Event | None]] = []
        for alert_id in held.keys() | alarms.keys():
            before, alarm = held.get(alert_id), alarms.get(alert_id)
            if alarm is None and before is not None and self.grades.undecided(before):
                continue
            found = judged(before, alarm, now_ms)
            if found is None:
                continue
            alert, event = found
            if event == "resolved" and alert.kind == HOLE:
                alert = replace(alert, text=over.get(alert.series or "", "no row is missing any more"))
            changes.append((alert, event))
        news = [one for one in changes if one[1] not in (None, "resolved")][:_DETAILED_MAX]
        details = {alert.id: await self._details(alarms[alert.id], alert) for alert, _ in news}
        return [(details.get(alert.id, alert), event) for alert, event in changes]

    async def _details(self, alarm: Alarm, alert: Alert) -> Alert:
        """The alert with what its newest finding says."""
        kind = _KINDS.get(alarm.kind)
        if kind is None or alarm.kind == HOLE:
            return alert
        found, _ = await self._meta.findings(limit=_AT_A_TURN, kind=kind, series=alarm.series, open_only=True)
        newest = next((one for one in found if (one.series, one.stream) == (alarm.series, alarm.stream)), None)
        if newest is None:
            return alert
        text, evidence = detailed(alarm, newest)
        return replace(alert, text=text, evidence=evidence)

    # ---- deliver -------------------------------------------------------------------------------------------------

    async def _deliver(self, to: AlertStore) -> None:
        now_ms = self._clock.now_ms()
        due = await self._alerts.messages_due(now_ms, _DUE_MAX)
        if not due:
            return
        held = {one.id: one for one in due}
        claims = {name: self._claims(name, due, now_ms) for name in self._channels}
        _change(held, [(one, _gone(one, self._channels, now_ms)) for one in due])
        for name, messages in claims.items():
            _change(held, [(one, {name: claimed(one.deliveries[name], now_ms)}) for one in messages])
        changed = [one for one in held.values() if one not in due]
        if not changed:
            return
        await to.keep_alerts([], changed)
        done = await asyncio.gather(
            *(self._send_all(self._channels[name], [held[one.id] for one in some]) for name, some in claims.items())
        )
        for name, outcomes in zip(claims, done, strict=True):
            _change(held, [(held[message_id], {name: delivery}) for message_id, delivery in outcomes.items()])
        await to.keep_alerts([], [held[one.id] for one in changed])

    def _claims(self, name: str, due: Sequence[Message], now_ms: int) -> list[Message]:
        """The messages to send through a channel now, in order; none while it is paused."""
        if now_ms < self._paused_until_ms.get(name, 0):
            return []
        waiting = [one for one in due if name in one.deliveries and one.deliveries[name].due_ms is not None]
        return waiting[:_AT_A_TURN]

    async def _send_all(self, channel: Channel, messages: Sequence[Message]) -> dict[str, Delivery]:
        """What became of the deliveries, by message. After one that has to be tried again the others wait too."""
        outcomes: dict[str, Delivery] = {}
        for at, message in enumerate(messages):
            delivery = message.deliveries[channel.name]
            outcome = await self._send(channel, message, delivery)
            outcomes[message.id] = outcome
            if outcome.state == "waiting":
                self._paused_until_ms[channel.name] = outcome.due_ms or 0
                unsent = messages[at + 1 :]
                outcomes |= {one.id: _unclaimed(one.deliveries[channel.name], outcome.due_ms) for one in unsent}
                break
        return outcomes

    async def _send(self, channel: Channel, message: Message, delivery: Delivery) -> Delivery:
        try:
            async with asyncio.timeout(_SEND_S):
                await channel.send(message)
        except (Unavailable, TimeoutError) as error:
            wait_s = error.retry_after_s if isinstance(error, Unavailable) else 0.0
            return self._failed(channel, message, delivery, str(error) or "no answer in time", wait_s, final=False)
        except Rejected as error:
            return self._failed(channel, message, delivery, str(error), 0.0, final=True)
        except Exception as error:  # noqa: BLE001 - whatever breaks on the way out, what comes in goes on
            _log.error("a channel of the alerts broke", channel=channel.name, exc_info=error)
            return self._failed(channel, message, delivery, type(error).__name__, 0.0, final=True)
        self._trouble.pop(channel.name, None)
        self.attempts[channel.name, "sent"] += 1
        return sent(delivery, self._clock.now_ms())

    def _failed(
        self, channel: Channel, message: Message, delivery: Delivery, why: str, wait_s: float, *, final: bool
    ) -> Delivery:
        outcome = failed(
            delivery, why, made_ms=message.at_ms, now_ms=self._clock.now_ms(), retry_after_s=wait_s, final=final
        )
        given_up = outcome.state == "given_up"
        self.attempts[channel.name, "given_up" if given_up else "failed"] += 1
        if given_up or self._trouble.get(channel.name, ("", 0))[0] != why:
            say = _log.error if given_up else _log.warning
            words = "an alert was not delivered" if given_up else "an alert waits for its channel"
            say(words, channel=channel.name, to=channel.shown, kind=message.kind, message=message.id, reason=why)
        self._trouble[channel.name] = why, self._clock.now_ms()
        return outcome


def _change(held: dict[str, Message], changes: Sequence[tuple[Message, Mapping[str, Delivery]]]) -> None:
    for message, deliveries in changes:
        if deliveries:
            known = held[message.id]
            held[message.id] = replace(known, deliveries={**known.deliveries, **deliveries})


def _gone(message: Message, channels: Mapping[str, Channel], now_ms: int) -> dict[str, Delivery]:
    """Deliveries through channels that are not configured any more: nobody will make them."""
    return {
        name: replace(one, due_ms=None, error="this channel is not configured any more")
        for name, one in message.deliveries.items()
        if name not in channels and one.due_ms is not None and one.due_ms <= now_ms
    }


def _unclaimed(delivery: Delivery, due_ms: int | None) -> Delivery:
    """An attempt that was claimed and not made."""
    return replace(delivery, attempts=delivery.attempts - 1, due_ms=due_ms)
