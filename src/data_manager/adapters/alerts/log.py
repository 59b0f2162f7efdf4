"""Alerts into our own log."""

import structlog

from data_manager.domain.alert import Message

_log = structlog.get_logger(__name__)


class LogChannel:
    """See Channel. It never fails."""

    name = "log"
    shown = "the log"

    async def send(self, message: Message) -> None:
        """See Channel.send."""
        loud = message.severity == "critical" and message.event != "resolved"
        say = _log.error if loud else _log.info if message.event in ("resolved", "test") else _log.warning
        say("alert", what=message.event, kind=message.kind, about=message.series or message.stream, text=message.text)
