"""A publisher with a buffer, as a real one has: what it cannot publish now it publishes as soon as it can."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nats.errors import Error as NatsError

from tests.service import Service, connected, publish

_AT_ONCE = 500
_AGAIN_S = 0.05


class Outbox:
    """Messages become due one by one at a steady rate, whether there is a server or not.

    sent: so many of them the server has. A failed window is published once more: twice is once.
    """

    def __init__(self, url: str, service: Service, payloads: Sequence[bytes], per_s: float) -> None:
        self.sent = 0
        self._url = url
        self._service = service
        self._payloads = payloads
        self._per_s = per_s
        self._began_s = time.monotonic()

    @property
    def due(self) -> int:
        """So many messages there are by now."""
        return min(len(self._payloads), int((time.monotonic() - self._began_s) * self._per_s))

    @property
    def waiting(self) -> int:
        """So many of them could not be published yet."""
        return self.due - self.sent

    async def publish_all(self) -> None:
        """Everything, through any number of outages; returns when the server has the last one."""
        while self.sent < len(self._payloads):
            try:
                async with connected(self._url) as client:
                    while self.sent < len(self._payloads):
                        some = self._payloads[self.sent : min(self.due, self.sent + _AT_ONCE)]
                        if some:
                            await publish(client, self._service.subject, some)
                            self.sent += len(some)
                        else:
                            await asyncio.sleep(_AGAIN_S)
            except (NatsError, OSError):
                await asyncio.sleep(_AGAIN_S)


@asynccontextmanager
async def publishing(url: str, service: Service, payloads: Sequence[bytes], per_s: float) -> AsyncIterator[Outbox]:
    """An outbox at work beside the block; at its end everything was published."""
    outbox = Outbox(url, service, payloads, per_s)
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.publish_all(), name="publisher")
        yield outbox
