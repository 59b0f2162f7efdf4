"""Feed: a venue's live streams onto the bus, each message in the publisher's envelope.

venue ──Heard──> bounded queue ──> envelope ──> outbox ──> bus        what does not fit: the oldest go, counted and told
"""

from typing import Final

from data_manager.ports.feed import Heard, Outbox, Streams
from data_manager.services.envelope import Enveloper, Recorded

_SETTLE_S: Final = 1.0


class Feeding:
    """run() it once; stop() ends it."""

    def __init__(self, streams: Streams, outbox: Outbox) -> None:
        self._streams = streams
        self._outbox = outbox
        self._enveloper = Enveloper()
        self.taken = 0
        self.unconfirmed_at_end = 0

    async def run(self) -> None:
        """Move everything heard onto the bus until stop(); then what was heard by then, if the bus takes it at once."""
        async for batch in self._streams.batches():
            self.taken += len(batch)
            await self._outbox.send([self._payload(one) for one in batch])
        self.unconfirmed_at_end = await self._outbox.settle(_SETTLE_S)

    def _payload(self, heard: Heard) -> bytes:
        if not heard.stream:
            return heard.data  # nobody knows what it is: the dead letters will have it as it came
        received_ns = heard.received_ms * 1_000_000
        return self._enveloper.wrap(Recorded(received_ns, heard.stream, heard.data), received_ns)
