"""The durable bus: a JetStream pull consumer that all replicas share, every delivery acknowledged by itself.

nats-py's own fetch() spends 26 to 40 µs on a message. The pull protocol is small, so it is spoken here, over nats-py's
public core calls:

    lane      an inbox with at most one request under way, see lane.py
    credit    in-flight bound minus what is in hand minus what the lanes may still get; two lanes share it, so that one
              is served while the other asks again and the pipe is never empty
    in hand   deliveries collected or handed over, and not acknowledged: when they reach the bound, nothing is asked

Whatever goes wrong ends the session: the connection is opened again, stream and consumer are looked at again, and what
was not acknowledged comes again. Acks are explicit, one publish each (2.6 µs); AckAll would acknowledge what another
replica still holds.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api

from data_manager.adapters.bus.connection import Arrived, NatsConnection, flush, translated
from data_manager.adapters.bus.handover import DRAIN_S, Arrivals, NatsBus
from data_manager.adapters.bus.lane import Lane
from data_manager.adapters.bus.nats_stream import Standing, StreamOptions, ensure, look
from data_manager.domain.errors import Unavailable
from data_manager.ports import BusState, Clock, Delivery, Dropped

_LANES: Final = 2
_OVERHEAD_BYTES: Final = 4_096  # subject, reply and headers, which the server counts too
_STATE_S: Final = 2.0
_ACKS_PER_TURN: Final = 1_000  # then the loop may turn: 2.6 ms

_log = structlog.get_logger(__name__)


class NatsJetStream(NatsBus):
    """At least once: what is not acknowledged within ack_wait_s comes again, to this replica or to another."""

    def __init__(
        self, connection: NatsConnection, subject: str, *, clock: Clock, options: StreamOptions | None = None
    ) -> None:
        super().__init__(connection, subject, clock, Arrivals())
        self._options = options or StreamOptions()
        self._heartbeat_s = self._options.heartbeat_s
        self._in_hand: dict[str, int] = {}  # token -> bytes
        self._bytes_in_hand = 0
        self._stale: set[str] = set()  # tokens in hand whose stream is gone: their sequences now mean other messages
        self._lanes: list[Lane] = []
        self._nudge = asyncio.Event()
        self._lost: str | None = None
        self._born: str | None = None
        self._js: JetStreamContext | None = None
        self._next = f"{api.DEFAULT_PREFIX}.CONSUMER.MSG.NEXT.{self._options.stream}.{self._options.durable}"
        self._discarded = _Discarded()

    @property
    def in_hand(self) -> int:
        """Deliveries collected or handed over, and not acknowledged."""
        return len(self._in_hand)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See Bus. A delivery acknowledged twice counts once."""
        tokens = self._release(deliveries)
        client = self._connection.client
        try:
            for start in range(0, len(tokens), _ACKS_PER_TURN):
                if client is None:
                    break
                for token in tokens[start : start + _ACKS_PER_TURN]:
                    await client.publish(token)
                await asyncio.sleep(0)
        except NatsError as error:
            _log.debug("acks lost with the connection: these come again", error=str(error))
        self._nudge.set()

    def drops(self) -> list[Dropped]:
        """What the stream's own bounds made the server discard before any replica had read it."""
        return self._discarded.collect()

    async def state(self) -> BusState:
        """See Bus. connected means that pulls are answered, not only that there is a socket."""
        pending = await self._pending()
        it = self._connection
        return BusState(
            connected=it.connected,
            reason=it.reason,
            durable=True,
            pending=pending,
            reconnects=it.reconnects,
            errors=it.errors,
            dropped=self._discarded.total,
        )

    def keep(self, message: Arrived) -> int:
        """A lane received this. Returns how much of its credit in bytes that took. Must not raise: the reader calls."""
        token, payload = message.reply, message.data
        size = len(payload) + len(token) + len(message.subject)
        self._in_hand[token] = size
        self._bytes_in_hand += size
        self._arrivals.add(Delivery(message.subject, payload, self._clock.now_ms(), token))
        return size

    def ask_again(self) -> None:
        """A lane is free."""
        self._nudge.set()

    def lose(self, why: str) -> None:
        """A lane heard that its consumer is gone, or something it does not understand."""
        self._lost = why
        self._nudge.set()

    async def _take(self, client: Client) -> None:
        self._lost = None
        self._js = client.jetstream(timeout=DRAIN_S * 2)
        self._meet(await ensure(self._js, self._subject, self._options))
        with translated("JetStream"):
            self._lanes = [await Lane.opened(self, client, self._next, self._heartbeat_s) for _ in range(_LANES)]
            self._connection.up()
            await self._pull(client)
            await self._drain()

    async def _pull(self, client: Client) -> None:
        """Keep requests under way while there is credit, until stop(). Raises Unavailable when they go unanswered."""
        watch = asyncio.get_running_loop().time() + self._heartbeat_s
        while not self._stopping.is_set():
            if self._lost is not None:
                raise Unavailable(f"JetStream: {self._lost}")
            self._nudge.clear()
            await self._ask(client)
            await self._nudged(watch)
            if asyncio.get_running_loop().time() >= watch:
                await self._listen(client)
                watch = asyncio.get_running_loop().time() + self._heartbeat_s

    async def _ask(self, client: Client) -> None:
        rows_max, bytes_max = self._options.in_flight_max, self._options.in_flight_bytes_max
        least = client.max_payload + _OVERHEAD_BYTES  # less could not carry the largest message
        bytes_max = max(bytes_max, _LANES * least)
        for lane in self._lanes:
            if lane.left > 0:
                continue
            rows = rows_max - len(self._in_hand) - sum(other.left for other in self._lanes)
            size = bytes_max - self._bytes_in_hand - sum(other.bytes_left for other in self._lanes)
            share = -(-rows_max // _LANES)
            waits = any(other.left > 0 for other in self._lanes)
            if size >= least and rows > 0 and (rows >= share // 4 or not waits):
                await lane.ask(min(rows, share), min(size, max(bytes_max // _LANES, least)))

    async def _nudged(self, until_s: float) -> None:
        """Return when a lane is free, credit came back, we are to stop, or it is time to look after the lanes."""
        try:
            async with asyncio.timeout_at(until_s):
                await self._nudge.wait()
        except TimeoutError:
            return

    async def _listen(self, client: Client) -> None:
        """Notice requests that the server forgot: no message and no heartbeat for a while."""
        if any(lane.silent() for lane in self._lanes):
            await flush(client, DRAIN_S)  # what it sent before is read by now: perhaps only we were slow
            if any(lane.still_silent() for lane in self._lanes):
                raise Unavailable("JetStream does not answer our requests any more")

    async def _drain(self) -> None:
        """Take the interest back and collect what is on its way; what then finds nobody goes to another replica."""
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(*(lane.drain() for lane in self._lanes))

    async def _say_goodbye(self) -> None:
        """Send the acks off, and give back what we still hold so that it need not wait for ack_wait_s."""
        client, returned = self._connection.client, [token for token in self._in_hand if token not in self._stale]
        self._in_hand.clear()
        if client is None:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                for token in returned:
                    await client.publish(token, b"-NAK")
                await flush(client, DRAIN_S)
        except (TimeoutError, NatsError) as error:
            _log.warning("server gone before the last acks were sent: these come again", error=str(error))

    def stop(self) -> None:
        """See Bus."""
        super().stop()
        self._nudge.set()

    def _release(self, deliveries: Sequence[Delivery]) -> list[str]:
        """These are not in hand any more. Returns the tokens that still mean something to the server."""
        tokens = []
        for delivery in deliveries:
            size = self._in_hand.pop(delivery.token, None)
            if size is None:
                continue
            self._bytes_in_hand -= size
            if delivery.token in self._stale:
                self._stale.discard(delivery.token)
            else:
                tokens.append(delivery.token)
        return tokens

    def _meet(self, standing: Standing) -> None:
        """Compare with what we knew: a stream born again makes the tokens in hand stale."""
        if self._born not in (None, standing.born):
            _log.warning("the stream was created anew: what it held is gone", stream=self._options.stream)
            self._stale = set(self._in_hand)
            self._discarded.forget()
        self._born = standing.born
        self._discarded.note(standing, next(reversed(self._in_hand), None), self._clock.now_ms())

    async def _pending(self) -> int | None:
        if not self._connection.connected or self._js is None:
            return None
        try:
            async with asyncio.timeout(_STATE_S):
                standing = await look(self._js, self._options)
        except (TimeoutError, Unavailable):
            return None
        self._discarded.note(standing, next(reversed(self._in_hand), None), self._clock.now_ms())
        return standing.pending


class _Discarded:
    """Messages that fell out of the stream unread: the sequences between the consumer's next and the oldest left."""

    def __init__(self) -> None:
        self.total = 0
        self._told_to = 0
        self._news: list[Dropped] = []

    def note(self, standing: Standing, newest: str | None, now_ms: int) -> None:
        """Look for missing sequences. newest is the token of the newest message in hand."""
        missing = standing.first - max(standing.unread_from, self._told_to)
        if missing > 0 and standing.unread_from > 1:  # a consumer that never read had no claim on what was before it
            self.total += missing
            self._told_to = standing.first
            first_ms = standing.read_ms if newest is None else _stored_ms(newest)
            self._news.append(Dropped(missing, first_ms, now_ms, "discarded"))
            _log.error("the stream discarded messages unread: raise NATS_STREAM_MAX_BYTES", count=missing)

    def forget(self) -> None:
        """Sequences begin again."""
        self._told_to = 0

    def collect(self) -> list[Dropped]:
        news, self._news = self._news, []
        return news


def _stored_ms(token: str) -> int:
    """When the server stored the message of this token: "$JS.ACK.….<ns>.<pending>"."""
    return int(token.split(".")[-2]) // 1_000_000
