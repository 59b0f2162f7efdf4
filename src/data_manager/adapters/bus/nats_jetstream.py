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
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api

from data_manager.adapters.bus.connection import Arrived, NatsConnection, flush, translated
from data_manager.adapters.bus.handover import DRAIN_S, Arrivals, NatsBus
from data_manager.adapters.bus.holding import IN_PROGRESS, Holding
from data_manager.adapters.bus.lane import Lane
from data_manager.adapters.bus.nats_stream import Standing, StreamOptions, ensure, look
from data_manager.domain.errors import Unavailable
from data_manager.ports import BusState, Clock, Delivery, Dropped

_LANES: Final = 2
_OVERHEAD_BYTES: Final = 4_096  # subject, reply and headers, which the server counts too
_STATE_S: Final = 2.0
_OWED_S: Final = 1.0
_ASKED_AGAIN: Final = 3
_AGAIN_S: Final = 0.1  # what is owed is there: this is only waited for when it is owed by somebody else
_WORDS_PER_TURN: Final = 1_000  # then the loop may turn: 2.6 ms

_log = structlog.get_logger(__name__)


class NatsJetStream(NatsBus):
    """At least once: what nobody acknowledges or still works on comes again, to this replica or to another."""

    def __init__(
        self, connection: NatsConnection, subject: str, *, clock: Clock, options: StreamOptions | None = None
    ) -> None:
        super().__init__(connection, subject, clock, Arrivals())
        self._options = options or StreamOptions()
        self._heartbeat_s = self._options.heartbeat_s
        self._in_hand: dict[str, int] = {}  # token -> bytes
        self._bytes_in_hand = 0
        self._holding = Holding(self._options.ack_wait_s)
        self._stale: set[str] = set()  # tokens in hand whose stream is gone: their sequences now mean other messages
        self._lanes: list[Lane] = []
        self._nudge = asyncio.Event()
        self._lost: str | None = None
        self._born: str | None = None
        self._all_ours = False  # every message of the stream is one that our consumer takes
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
        if self._connection.client is not None:
            await _say(self._connection.client, tokens, b"")
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
            pending=None if pending is None else pending + len(self._arrivals.waiting),
            reconnects=it.reconnects,
            errors=it.errors.total(),
            errors_by_type=dict(it.errors),
            dropped=self._discarded.total,
        )

    def keep(self, message: Arrived) -> int:
        """A lane received this. Returns how much of its credit in bytes that took. Must not raise: the reader calls."""
        token, payload = message.reply, message.data
        size = len(payload) + len(token) + len(message.subject)
        self._in_hand[token] = size
        self._bytes_in_hand += size
        if self._all_ours:
            self._discarded.received(token, self._clock.now_ms)
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
            holding = asyncio.create_task(self._hold(client), name="nats holding")
            try:
                await self._pull(client)
                await self._drain()
            finally:
                holding.cancel()
        await self._collect_owed(client, sum(lane.left for lane in self._lanes))

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

    async def _hold(self, client: Client) -> None:
        """Tell the server now and then what we still work on."""
        while True:
            await asyncio.sleep(self._holding.interval_s)
            due = [token for token in self._holding.due(self._in_hand) if token not in self._stale]
            await _say(client, due, IN_PROGRESS)

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
        """Take the interest back and collect what is on its way."""
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(*(lane.drain() for lane in self._lanes))

    async def _collect_owed(self, client: Client, most: int) -> None:
        """Ask once more for what the server was about to send when we took the interest back: up to so many.

        It counts as delivered. Another replica would get it at once, and so would our successor, unless the server ends
        as well: then it would come only after ack_wait_s.
        """
        try:
            async with asyncio.timeout(_OWED_S):
                lane = await Lane.opened(self, client, self._next, self._heartbeat_s)
                for _ in range(_ASKED_AGAIN):  # at first some of it may still be on its way back to where we ask
                    owed = min(most, await self._owed())
                    if owed <= 0 or self._lost is not None:
                        break
                    most -= owed
                    await self._ask_once(lane, owed)
                await lane.drain()
        except (TimeoutError, NatsError) as error:
            _log.warning("some messages may come again only after NATS_ACK_WAIT_S", error=str(error))

    async def _ask_once(self, lane: Lane, rows: int) -> None:
        """A short request, and wait until it is over."""
        await lane.ask(rows, self._options.in_flight_bytes_max, within_s=_AGAIN_S)
        while lane.left > 0 and self._lost is None:
            self._nudge.clear()
            await self._nudge.wait()

    async def _owed(self) -> int:
        """Deliveries that we do not hold, while nobody else asks for messages.

        Acks that the server has not read yet count too: so it is asked until it says the same twice.
        """
        assert self._js is not None
        before = -1
        while True:
            info = await self._js.consumer_info(self._options.stream, self._options.durable)
            owed = (info.num_ack_pending or 0) - len(self._in_hand)
            if info.num_waiting or owed <= 0:
                return 0
            if owed == before:
                return owed
            before = owed

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
        self._born, self._all_ours = standing.born, standing.all_ours
        self._discarded.begin(standing)
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


async def _say(client: Client, tokens: Sequence[str], word: bytes) -> None:
    """The same word for each of these deliveries; an empty one acknowledges."""
    try:
        for start in range(0, len(tokens), _WORDS_PER_TURN):
            for token in tokens[start : start + _WORDS_PER_TURN]:
                await client.publish(token, word)
            await asyncio.sleep(0)
    except NatsError as error:
        _log.debug("lost with the connection: these come again", word=word or b"ack", error=str(error))


class _Discarded:
    """Messages that fell out of the stream before anybody read them.

    Two signs: the oldest message left lies beyond the consumer's next one, which is looked for every few seconds; and,
    when the consumer has got there meanwhile, a jump in the sequences that it delivers. A delivery's token names its
    place in the stream and its place among all deliveries of the consumer. From one new message to the next, both rise
    alike: the stream's by more where messages are gone, the consumer's by more where it delivered old ones again. How
    many of those went to other replicas is not known: with several, this may count too few.
    """

    def __init__(self) -> None:
        self.total = 0
        self._told_to = 0
        self._news: list[Dropped] = []
        self._last = _Place(0, 0, 0)  # of the new message received last
        self._again = 0  # old ones received since then

    def begin(self, standing: Standing) -> None:
        """A session begins: what the consumer delivered last, to whomever, is where it goes on."""
        self._last = _Place(standing.unread_from - 1, standing.deliveries, standing.read_ms)
        self._again = 0

    def received(self, token: str, now_ms: Callable[[], int]) -> None:
        """A delivery: look whether it jumps. The hot path: half a microsecond."""
        head, sequence, delivery, stored_ns, _ = token.rsplit(".", 4)
        if not head.endswith(".1"):
            self._again += 1
            return
        here = _Place(int(sequence), int(delivery), int(stored_ns) // 1_000_000)
        last, self._last = self._last, here
        jumped = (here.sequence - last.sequence) - (here.delivery - last.delivery) + self._again
        self._again = 0
        if jumped > 0:
            untold = min(jumped, here.sequence - max(last.sequence + 1, self._told_to))
            self._told_to = max(self._told_to, here.sequence)
            if untold > 0 and last.sequence > 0:
                self._tell(untold, last.stored_ms, now_ms())

    def note(self, standing: Standing, newest: str | None, now_ms: int) -> None:
        """Look for missing sequences. newest is the token of the newest message in hand."""
        missing = standing.first - max(standing.unread_from, self._told_to)
        if missing > 0 and standing.unread_from > 1:  # a consumer that never read had no claim on what was before it
            self._told_to = standing.first
            self._tell(missing, standing.read_ms if newest is None else _stored_ms(newest), now_ms)

    def _tell(self, missing: int, first_ms: int, now_ms: int) -> None:
        self.total += missing
        if self._news and self._news[-1].last_ms >= first_ms:  # one after the other: in a flood there are thousands
            count, first_ms = self._news[-1].count + missing, self._news[-1].first_ms
            self._news[-1] = Dropped(count, first_ms, now_ms, "discarded")
            return
        self._news.append(Dropped(missing, first_ms, now_ms, "discarded"))
        _log.error("the stream discarded messages unread: raise NATS_STREAM_MAX_BYTES", count=missing)

    def forget(self) -> None:
        """Sequences begin again."""
        self._told_to = 0

    def collect(self) -> list[Dropped]:
        news, self._news = self._news, []
        return news


class _Place(NamedTuple):
    """Where a message stands in the stream, and its delivery among the consumer's; when the server stored it."""

    sequence: int
    delivery: int
    stored_ms: int


def _stored_ms(token: str) -> int:
    """When the server stored the message of this token: "$JS.ACK.….<ns>.<pending>"."""
    return int(token.split(".")[-2]) // 1_000_000
