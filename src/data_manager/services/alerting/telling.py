"""What is said of alerts: by the API and by the command line in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import structs

from data_manager.domain.alert import Alert, Delivery, Message
from data_manager.domain.time import iso
from data_manager.ports.alerts import AlertStore

_LATELY_MAX: Final = 1_000  # messages that the figures of the channels are counted from


def alert_facts(alert: Alert) -> dict[str, Any]:
    """An alert as answers have it."""
    return {
        "id": alert.id,
        "state": "firing" if alert.firing else "resolved",
        "kind": alert.kind,
        "severity": alert.severity,
        "series": alert.series,
        "stream": alert.stream,
        "text": alert.text,
        "count": alert.count,
        "since": iso(alert.since_ms),
        "fired": iso(alert.fired_ms),
        "resolved": None if alert.resolved_ms is None else iso(alert.resolved_ms),
        "told": iso(alert.told_ms),
        "untold": alert.untold,
        "episode": alert.episode,
        "evidence": alert.evidence,
    }


def message_facts(message: Message) -> dict[str, Any]:
    """A message as answers have it."""
    facts = structs.asdict(message)
    deliveries = {name: _delivery_facts(one) for name, one in message.deliveries.items()}
    return {**facts, "at": iso(message.at_ms), "line": message.line, "deliveries": deliveries}


def _delivery_facts(delivery: Delivery) -> dict[str, Any]:
    return {"state": delivery.state, **structs.asdict(delivery)}


async def channel_facts(alerts: AlertStore, channels: Mapping[str, str]) -> list[dict[str, Any]]:
    """What became of the messages made lately, channel by channel. channels: where each leads, by name."""
    messages, _ = await alerts.messages(limit=_LATELY_MAX)
    names = [*channels, *sorted({name for one in messages for name in one.deliveries} - channels.keys())]
    return [_one_channel(name, channels.get(name), messages) for name in names]


def _one_channel(name: str, leads_to: str | None, messages: Sequence[Message]) -> dict[str, Any]:
    """messages: the newest first. to is None where the channel is not configured (any more)."""
    deliveries = [one.deliveries[name] for one in messages if name in one.deliveries]
    states = [one.state for one in deliveries]
    sent_ms = max((one.sent_ms for one in deliveries if one.sent_ms is not None), default=None)
    return {
        "name": name,
        "to": leads_to,
        "sent": states.count("sent"),
        "waiting": states.count("waiting"),
        "given_up": states.count("given_up"),
        "last_sent": None if sent_ms is None else iso(sent_ms),
        "error": next((one.error for one in deliveries if one.error is not None), None),
    }
