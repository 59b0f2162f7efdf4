"""Alerts onto NATS: <subject>.<severity>.<kind>, as JSON.

The header Nats-Msg-Id holds the message's id: a stream that captures the subject keeps what came twice once.
"""

from typing import Final

import msgspec
import structlog
from msgspec import json

from data_manager.adapters.alerts.facts import facts_of
from data_manager.adapters.bus.connection import NatsAccess, flush, opened, translated
from data_manager.domain.alert import Message
from data_manager.domain.errors import BadSetting, Rejected

_CLIENT: Final = "petrosa-data-manager-alerts"
_CONNECT_S: Final = 5.0
_FLUSH_S: Final = 5.0
_log = structlog.get_logger(__name__)


class NatsSubject:
    """See Channel. Opens a connection for each message: they are few and far between."""

    name = "nats"

    def __init__(self, access: NatsAccess, subject: str, environment: str) -> None:
        connect_s = min(access.connect_timeout_s, _CONNECT_S)
        self._access = msgspec.structs.replace(access, name=_CLIENT, connect_timeout_s=connect_s)
        self._subject = subject
        self._environment = environment
        self.shown = f"{subject}.> at {access.shown}"

    def __repr__(self) -> str:
        return f"NatsSubject({self.shown})"

    async def send(self, message: Message) -> None:
        """See Channel.send. On return the server has it, whether anybody listens or not."""
        subject = f"{self._subject}.{message.severity}.{message.kind}"
        body = json.encode(facts_of(message, self._environment))
        try:
            async with opened(self._access, self._access.urls, _note) as (client, _):
                with translated(f"publishing to {subject}"):
                    await client.publish(subject, body, headers={"Nats-Msg-Id": message.id})
                    await flush(client, _FLUSH_S)
        except BadSetting as error:
            raise Rejected(str(error)) from error


async def _note(error: Exception) -> None:
    _log.debug("nats error", error=str(error))
