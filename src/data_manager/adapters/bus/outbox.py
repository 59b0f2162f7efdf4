"""Live messages onto the bus by a connection that outlives its server, each known to be kept before it is forgotten.

Every message goes with a number as the address of its acknowledgement; those of a window are under way at once. What
is not acknowledged when the connection ends is sent again on the next one: a stream has it once or twice, never not at
all. Where no stream captures the subject there is nobody who could keep it: a PONG says that the server has read it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.js import errors as js_errors

from data_manager.adapters.bus.connection import NatsAccess, NatsConnection, flush, translated
from data_manager.adapters.bus.nats_stream import has_jetstream
from data_manager.domain.errors import Unavailable

OUTBOX_NAME: Final = "petrosa-data-manager-feed"

_WINDOW: Final = 4_000
_WINDOW_BYTES: Final = 8 << 20
_ACK_S: Final = 10.0
_LOOK_S: Final = 0.25
_STREAM_WAIT_S: Final = 10.0  # so long messages wait for somebody to make the stream
_PONG_S: Final = 0.05
_log = structlog.get_logger(__name__)


class NatsOutbox:
    """See ports_feed.Outbox; one subject."""

    def __init__(self, access: NatsAccess, subject: str, *, wants_stream: bool = True) -> None:
        """wants_stream: wait a while for a stream that captures the subject where the server could have one."""
        self.connection = NatsConnection(msgspec.structs.replace(access, name=OUTBOX_NAME))
        self.confirmed = 0
        self.repeated = 0  # sent once more because nobody confirmed them
        self.refused = 0  # answers of the stream that it does not take a message; it is sent again
        self.too_large = 0  # let go: no server takes them
        self._subject = subject
        self._wants_stream = wants_stream
        self._owed: dict[int, bytes] = {}  # taken, not confirmed
        self._owed_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._number = 0  # of the message taken last
        self._reached = 0  # of the newest that was ever sent
        self._inbox = ""  # "": no stream captures the subject
        self._client: Client | None = None  # None: nothing goes out now
        self._refusal: asyncio.Future[str] | None = None

    def start(self) -> None:
        """Connect, in the background."""
        self.connection.start(self._session)

    @property
    def durable(self) -> bool:
        """See Outbox.durable."""
        return bool(self._inbox)

    @property
    def owed(self) -> int:
        """Messages taken and not confirmed."""
        return len(self._owed)

    async def send(self, payloads: Sequence[bytes]) -> None:
        """See Outbox.send. Raises BadSetting when no retry can mend the connection."""
        for payload in payloads:
            if len(self._owed) >= _WINDOW or self._owed_bytes >= _WINDOW_BYTES:
                self._room.clear()
                await self._wait_for_room()
            self._number += 1
            self._owed[self._number] = payload
            self._owed_bytes += len(payload)
            if self._client is not None:
                with suppress(Unavailable):  # the connection ends with that, and the next one sends it again
                    await self._publish(self._client, self._number, payload)

    async def settle(self, within_s: float) -> int:
        """See Outbox.settle."""
        deadline = asyncio.get_running_loop().time() + within_s
        while self._owed and self._client is not None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - acks come by the thousand
            await asyncio.sleep(0.01)
        return len(self._owed)

    async def close(self) -> None:
        """Let go of the connection."""
        await self.connection.close()

    async def _wait_for_room(self) -> None:
        while not self._room.is_set():
            self.connection.check()
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._room.wait()
            except TimeoutError:
                continue

    async def _publish(self, client: Client, number: int, payload: bytes) -> None:
        """Raises Unavailable; a message that no server takes is let go, with a word."""
        if len(payload) > client.max_payload:
            self.too_large += 1
            _log.error("a message is larger than the server takes", bytes=len(payload), at_most=client.max_payload)
            self._forget(number)
            return
        with translated("publishing"):
            await client.publish(self._subject, payload, f"{self._inbox}.{number}" if self._inbox else "")
        self.repeated += number <= self._reached
        self._reached = max(self._reached, number)

    # ---- a connection --------------------------------------------------------------------------------------------

    async def _session(self, client: Client) -> None:
        """Everything that one connection does. Raises Unavailable when it is of no use any more."""
        loop = asyncio.get_running_loop()
        self._refusal, self._inbox = loop.create_future(), ""
        try:
            captured = await self._captured_in_time(client)
            await self._listen(client, captured)
            await self._repeat(client)
            self.connection.up()
            await (self._until_refused() if captured else self._count_pongs(client))
        finally:
            self._client = None

    async def _listen(self, client: Client, captured: bool) -> None:
        if not captured:
            _log.warning("no stream keeps what is fed: only who listens now has it", subject=self._subject)
            return
        inbox = client.new_inbox()
        with translated("subscribing"):
            await client.subscribe(f"{inbox}.*", cb=self._acknowledged)
        self._inbox = inbox

    async def _repeat(self, client: Client) -> None:
        """What the connections before this one could not deliver, in order and before anything newer."""
        at = 0
        while rest := [number for number in self._owed if number > at]:
            for at in rest:
                if at in self._owed:
                    await self._publish(client, at, self._owed[at])
        self._client = client

    async def _acknowledged(self, message: Any) -> None:
        """The stream has it, or says why not; headers without a body: no stream is there any more."""
        if b'"error"' in message.data or not message.data:
            self.refused += 1
            if self._refusal is not None and not self._refusal.done():
                self._refusal.set_result(bytes(message.data[:200]).decode(errors="replace") or "the stream is gone")
            return
        self._confirm(int(message.subject.rpartition(".")[2]))

    def _confirm(self, number: int) -> None:
        self.confirmed += number in self._owed
        self._forget(number)

    def _forget(self, number: int) -> None:
        payload = self._owed.pop(number, None)
        if payload is not None:
            self._owed_bytes -= len(payload)
            self._room.set()

    async def _until_refused(self) -> None:
        """Until the stream takes something no more, or an acknowledgement is too late."""
        assert self._refusal is not None
        oldest, since_s = 0, 0.0
        while not self._refusal.done():
            await asyncio.wait({self._refusal}, timeout=_LOOK_S)
            now_s = asyncio.get_running_loop().time()
            first = next(iter(self._owed), 0)
            if first != oldest:
                oldest, since_s = first, now_s
            elif first and now_s - since_s > _ACK_S:
                raise Unavailable(f"no acknowledgement from the stream within {_ACK_S:.0f} s")
        raise Unavailable(f"the stream did not take a message: {self._refusal.result()}")

    async def _count_pongs(self, client: Client) -> None:
        """Without a stream: what the server has read is done. Ends when there is a stream."""
        loop = asyncio.get_running_loop()
        look_s = loop.time() + _STREAM_WAIT_S
        while True:
            await asyncio.sleep(_PONG_S)
            numbers = list(self._owed)
            if numbers:
                with translated("publishing"):
                    await flush(client, _ACK_S)
                for number in numbers:
                    self._confirm(number)
            if self._wants_stream and loop.time() > look_s:
                look_s = loop.time() + _STREAM_WAIT_S
                if await self._captured(client):
                    raise Unavailable("a stream captures the subject now: connecting again, to have its word")

    # ---- the stream ----------------------------------------------------------------------------------------------

    async def _captured_in_time(self, client: Client) -> bool:
        """Whether a stream captures the subject; whoever makes it may come up after us."""
        if not self._wants_stream or not await has_jetstream(client.jetstream()):
            return False
        deadline = asyncio.get_running_loop().time() + _STREAM_WAIT_S
        while not await self._captured(client):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _captured(self, client: Client) -> bool:
        with translated("JetStream"):
            try:
                await client.jetstream().find_stream_name_by_subject(self._subject)
            except js_errors.NotFoundError:
                return False
            except js_errors.ServiceUnavailableError:
                return False
        return True
