"""Messages onto the bus, fast, and none lost without a word.

A core publish into a subject that a stream captures is taken by the server into a queue in front of that stream; when
the queue is full (10,000 messages unless configured otherwise) the server drops, and tells nobody who has not asked for
an ack. Asking for every ack halves the speed. So messages go in windows: all plain but the last, whose ack says which
sequence of the stream it became. Fewer sequences than messages sent means loss: an error, not a shrug. At most two
windows are under way, so our own messages alone cannot fill that queue.

Where no stream captures the subject, a window ends with a PING whose PONG says that the server has read all of it; what
the subscribers do with it is theirs.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from data_manager.adapters.bus.connection import NatsAccess, flush, opened, translated
from data_manager.adapters.bus.nats_stream import has_jetstream
from data_manager.domain.errors import Invalid, Unavailable

PUBLISHER_NAME: Final = "petrosa-data-manager-publisher"

_WINDOW: Final = 2_000
_WINDOW_BYTES: Final = 8 * 2**20
_ACK_S: Final = 10.0
_SETTLE_S: Final = 3.0
_LOOK_S: Final = 0.01

_log = structlog.get_logger(__name__)


class NatsPublisher:
    """Publishes to one subject, in order. Made by open_publisher()."""

    def __init__(self, client: Client, subject: str, stream: api.StreamInfo | None) -> None:
        self._client = client
        self._subject = subject
        self._js: JetStreamContext = client.jetstream(timeout=_ACK_S)
        self._stream = None if stream is None else stream.config.name
        self._sequence = 0 if stream is None else stream.state.last_seq
        self._sent, self._sent_bytes = 0, 0  # since the last window ended
        self._ahead: tuple[asyncio.Future[api.PubAck], int] | None = None  # ack to come, messages it stands for

    @property
    def stream(self) -> str | None:
        """The stream that keeps what we publish; None: only who listens now will see it."""
        return self._stream

    async def publish(self, payloads: Sequence[bytes]) -> None:
        """Hand these over in order; waits while two windows are unconfirmed.

        Raises Invalid for a payload larger than the server takes (those before it are sent), Unavailable when the
        connection is lost or the server lost messages.
        """
        largest, publish = self._client.max_payload, self._client.publish
        with translated("publishing"):
            for payload in payloads:
                size = len(payload)
                if size > largest:
                    raise Invalid("message", f"{size} bytes", f"the server takes at most {largest} bytes")
                self._sent += 1
                self._sent_bytes += size
                if self._sent < _WINDOW and self._sent_bytes < _WINDOW_BYTES:
                    await publish(self._subject, payload)
                else:
                    await self._end_window(payload)

    async def confirm(self) -> None:
        """Return when everything published so far is with the server (in the stream, where there is one).

        Raises Unavailable as publish() does.
        """
        with translated("publishing"):
            await self._settle()
            await flush(self._client, _ACK_S)
            if self._stream is None:
                return
            await self._read_sequence()

    async def _end_window(self, payload: bytes) -> None:
        """Send the last message of a window, and wait for the window before it."""
        count, self._sent, self._sent_bytes = self._sent, 0, 0
        if self._stream is None:
            await self._client.publish(self._subject, payload)
            await flush(self._client, _ACK_S)
            return
        await self._settle()
        self._ahead = (await self._js.publish_async(self._subject, payload), count)

    async def _settle(self) -> None:
        if self._ahead is None:
            return
        (ack, count), self._ahead = self._ahead, None
        async with asyncio.timeout(_ACK_S):
            stored = (await ack).seq
        self._require(stored, count)

    async def _read_sequence(self) -> None:
        """The messages after the last window carry no ack: the stream itself says whether it has them.

        It is asked until it does; when it stays behind although it had time, they are lost.
        """
        deadline = asyncio.get_running_loop().time() + _SETTLE_S
        while True:
            last = (await self._js.stream_info(str(self._stream))).state.last_seq
            if last - self._sequence >= self._sent or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_LOOK_S)
        count, self._sent, self._sent_bytes = self._sent, 0, 0
        self._require(last, count)

    def _require(self, stored: int, count: int) -> None:
        """Every message takes a sequence; others may publish too, so more is fine."""
        missing = count - (stored - self._sequence)
        self._sequence = stored
        if missing > 0:
            raise Unavailable(f"the server dropped {missing} of {count} messages before stream {self._stream}")


@asynccontextmanager
async def open_publisher(access: NatsAccess, subject: str) -> AsyncIterator[NatsPublisher]:
    """A publisher on its own connection. Raises Unavailable at once when no server answers."""

    async def note(error: Exception) -> None:
        _log.debug("nats error", error=str(error))

    named = msgspec.structs.replace(access, name=PUBLISHER_NAME)
    async with opened(named, named.urls, note) as (client, _):
        yield NatsPublisher(client, subject, await _stream_of(client, subject))


async def _stream_of(client: Client, subject: str) -> api.StreamInfo | None:
    js = client.jetstream(timeout=_ACK_S)
    if not await has_jetstream(js):
        return None
    with translated("JetStream"):
        try:
            return await js.stream_info(await js.find_stream_name_by_subject(subject))
        except js_errors.NotFoundError:
            return None
