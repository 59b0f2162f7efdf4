"""Single messages onto the bus, each with the stream's word that it has it. For few: every ack is waited for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from data_manager.adapters.bus.connection import NatsAccess, flush, opened, translated
from data_manager.adapters.bus.nats_stream import has_jetstream

_ACK_S: Final = 10.0
_UNDER_WAY: Final = 50
_log = structlog.get_logger(__name__)


class AcknowledgedPublisher:
    """Publishes to any subject. Made by open_acknowledged()."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream(timeout=_ACK_S)
        self._captured: dict[str, bool] = {}

    async def publish(self, subject: str, payloads: Sequence[bytes]) -> bool:
        """Send these; True once a stream has acknowledged every one, False where no stream captures the subject.

        Without a stream whoever listens now has them. Raises Unavailable when a message is not acknowledged in time:
        then some of them may be in the stream.
        """
        if subject not in self._captured:
            self._captured[subject] = await self._is_captured(subject)
        with translated(f"publishing to {subject}"):
            if not self._captured[subject]:
                for payload in payloads:
                    await self._client.publish(subject, payload)
                await flush(self._client, _ACK_S)
                return False
            for start in range(0, len(payloads), _UNDER_WAY):
                some = payloads[start : start + _UNDER_WAY]
                answers = await asyncio.gather(
                    *(self._js.publish(subject, one) for one in some), return_exceptions=True
                )
                for answer in answers:
                    if isinstance(answer, BaseException):
                        raise answer
        return True

    async def _is_captured(self, subject: str) -> bool:
        if not await has_jetstream(self._js):
            return False
        with translated("JetStream"):
            try:
                await self._js.find_stream_name_by_subject(subject)
            except NotFoundError:
                return False
        return True


@asynccontextmanager
async def open_acknowledged(access: NatsAccess) -> AsyncIterator[AcknowledgedPublisher]:
    """A publisher on its own connection. Raises Unavailable at once when no server answers."""

    async def note(error: Exception) -> None:
        _log.debug("nats error", error=str(error))

    async with opened(access, access.urls, note) as (client, _):
        yield AcknowledgedPublisher(client)
