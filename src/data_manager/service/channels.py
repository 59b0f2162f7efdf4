"""The ways by which alerts leave, as the settings name them."""

from __future__ import annotations

from data_manager.adapters.alerts.log import LogChannel
from data_manager.adapters.alerts.nats import NatsSubject
from data_manager.adapters.alerts.webhook import Webhook
from data_manager.adapters.bus.connection import NatsAccess
from data_manager.ports.alerts import Channel
from data_manager.settings import Settings


def alert_channels(settings: Settings, bus: NatsAccess | None) -> list[Channel]:
    """The log, and those that are set. bus: None where this process knows of none."""
    channels: list[Channel] = [LogChannel()]
    if settings.alert_webhook_url is not None:
        channels.append(Webhook(settings.alert_webhook_url, settings.environment))
    if bus is not None and settings.alert_nats_subject != "off":
        channels.append(NatsSubject(bus, settings.alert_nats_subject, settings.environment))
    return channels
