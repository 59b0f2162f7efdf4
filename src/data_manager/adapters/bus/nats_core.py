"""The bus without memory: core NATS, one queue group for all replicas.

Whoever is slow or away loses messages here; what can be done is to know it. Too many waiting: the oldest go, counted,
with the span of our own instants between which they were received. Away: a drop of count 0 (nobody can say how many)
with the span of the absence. A server that cuts us off because we did not read makes an absence, too, and that one
began before the connection ended: what it had sent by then we still read, but what it threw away it took at any time
since we last kept up. So the server is asked for a sign every few seconds. Its answer comes behind all that it had sent
before, and an absence begins when the last question that was answered was asked.

What cannot be known here: messages lost between two servers of a cluster, or by a publisher's own connection.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from data_manager.adapters.bus.connection import Arrived, NatsConnection, flush, translated
from data_manager.adapters.bus.handover import DRAIN_S, Arrivals, NatsBus
from data_manager.ports import BusState, Clock, Delivery, Dropped

_DROPS_MAX: Final = 1_000  # spans kept between two calls of drops(); then the last one grows
_SIGN_S: Final = 2.0  # so often the server is asked for a sign
_NEVER_S: Final = 86_400

_log = structlog.get_logger(__name__)


class CoreOptions(Struct, frozen=True, kw_only=True):
    """Who shares the subject with us, how much may wait here, and who is shown what is lost.

    show_dropped is called by the reader, once per delivery let go for want of room: it must be quick and must not
    raise. show_away is told of every absence before anything can come that was published after it.
    """

    queue: str = "petrosa-data-manager"
    rows_max: int = 20_000
    bytes_max: int = 32 * 2**20
    show_dropped: Callable[[Delivery], None] | None = None
    show_away: Callable[[Dropped], None] | None = None


class NatsCore(NatsBus):
    """At most once. Acks mean nothing here."""

    def __init__(
        self, connection: NatsConnection, subject: str, *, clock: Clock, options: CoreOptions | None = None
    ) -> None:
        self._options = options or CoreOptions()
        self._bounded = _Bounded(self._options, clock)
        super().__init__(connection, subject, clock, self._bounded)
        self._heard_ms: int | None = None  # all that was published until then, we have; None: never listened
        self._first_ms: int | None = None  # before it we certainly did not listen
        self._began_ms: int | None = None  # from then on we certainly did, for the first time

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing: the server has forgotten them."""

    def drops(self) -> list[Dropped]:
        """See Bus. A count of 0 means: we were away, and nobody knows how many."""
        return self._bounded.collect_drops()

    def missed_since(self, since_ms: int) -> Dropped | None:
        """See Bus."""
        if self._began_ms is None:
            self._heard_ms = since_ms  # the drop is told when we listen
        else:
            self._bounded.note_lost(0, since_ms, self._began_ms)
        return None if self._first_ms is None else Dropped(0, since_ms, self._first_ms, "away")

    async def state(self) -> BusState:
        """See Bus."""
        it = self._connection
        return BusState(
            connected=it.connected,
            reason=it.reason,
            reconnects=it.reconnects,
            errors=it.errors.total(),
            errors_by_type=dict(it.errors),
            dropped=self._bounded.dropped,
        )

    async def _take(self, client: Client) -> None:
        sink = _Sink(self._bounded)
        others = client.stats["in_msgs"]  # answers to earlier questions on this connection
        back_ms = self._clock.now_ms()
        if self._first_ms is None:
            self._first_ms = back_ms
        if self._heard_ms is not None and self._options.show_away is not None:
            self._options.show_away(Dropped(0, self._heard_ms, back_ms, "away"))
        with translated("cannot subscribe"):
            subscription = await client.subscribe(self._subject, queue=self._options.queue, future=sink)
            asked_ms = self._clock.now_ms()
            await flush(client, DRAIN_S)
        if self._heard_ms is not None:
            self._bounded.note_lost(0, self._heard_ms, self._clock.now_ms())
        if self._began_ms is None:
            self._began_ms = self._clock.now_ms()
        self._heard_ms = asked_ms
        self._connection.up()
        signs = asyncio.create_task(self._ask_for_signs(client), name="nats signs")
        try:
            await self._stopping.wait()
            with translated("cannot unsubscribe"):
                async with asyncio.timeout(DRAIN_S):
                    await self._drain(client, subscription, others)
        finally:
            signs.cancel()

    async def _ask_for_signs(self, client: Client) -> None:
        """Know how long ago we certainly had everything, as long as the connection lasts.

        No question is given up: nats-py takes an answer to one that was for a broken connection, and looks itself after
        a server that answers nothing.
        """
        with suppress(NatsError):  # the connection is gone, and who keeps it knows
            while True:
                await asyncio.sleep(_SIGN_S)
                asked_ms = self._clock.now_ms()
                await client.flush(_NEVER_S)
                self._heard_ms = asked_ms

    async def _drain(self, client: Client, subscription: Subscription, others: int) -> None:
        """Collect what was on its way. nats-py forgets the subscription a moment before the server does: what comes in
        that moment is lost, but counted."""
        since_ms = self._clock.now_ms()
        await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py annotates only some methods
        await flush(client, DRAIN_S)
        unseen = client.stats["in_msgs"] - others - subscription.delivered
        if unseen > 0:
            self._bounded.note_lost(unseen, since_ms, self._clock.now_ms())

    async def _say_goodbye(self) -> None:
        """There is nothing to say."""


class _Bounded(Arrivals):
    """Arrivals within rows and bytes: the oldest make room, and are counted."""

    def __init__(self, options: CoreOptions, clock: Clock) -> None:
        super().__init__()
        self.dropped = 0
        self._clock = clock
        self._rows_max, self._bytes_max = options.rows_max, options.bytes_max
        self._show = options.show_dropped
        self._bytes = 0
        self._drops: list[Dropped] = []
        self._in_a_row = False  # the next drop is the neighbour of the last

    def put(self, subject: str, payload: bytes) -> None:
        """Add one, dropping the oldest while there are too many. Must not raise: the reader calls."""
        self.add(Delivery(subject, payload, self._clock.now_ms()))
        self._bytes += len(payload)
        while len(self.waiting) > self._rows_max or self._bytes > self._bytes_max:
            self._drop_oldest()

    def take(self) -> list[Delivery]:
        """Everything that waits."""
        self._bytes = 0
        self._in_a_row = False
        return super().take()

    def note_lost(self, count: int, since_ms: int, until_ms: int) -> None:
        """So many (0: nobody knows) did not reach us, between these two."""
        self._in_a_row = False
        self.dropped += count
        first_ms = min(since_ms, until_ms)  # the clock may have been set back meanwhile
        self._note(Dropped(count, first_ms, until_ms, "away"))

    def collect_drops(self) -> list[Dropped]:
        """Spans since the last call."""
        drops, self._drops = self._drops, []
        self._in_a_row = False
        return drops

    def _drop_oldest(self) -> None:
        oldest = self.waiting.popleft()
        self._bytes -= len(oldest.payload)
        self.dropped += 1
        self._note(Dropped(1, oldest.received_ms, oldest.received_ms, shown=0 if self._show is None else 1))
        self._in_a_row = True
        if self._show is not None:
            self._show(oldest)

    def _note(self, drop: Dropped) -> None:
        """Add a span, or let the last one grow."""
        if self._drops and (self._in_a_row or len(self._drops) >= _DROPS_MAX):
            last = self._drops[-1]
            first_ms, last_ms = min(last.first_ms, drop.first_ms), max(last.last_ms, drop.last_ms)
            self._drops[-1] = Dropped(last.count + drop.count, first_ms, last_ms, drop.why, last.shown + drop.shown)
        else:
            self._drops.append(drop)


class _Sink(asyncio.Future[Any]):
    """What a subscription made with a future calls for each message; see _Lane in nats_jetstream.py."""

    def __init__(self, bounded: _Bounded) -> None:
        super().__init__()
        self._bounded = bounded

    def cancelled(self) -> bool:
        """Asked before each message."""
        return False

    def set_result(self, message: Arrived) -> None:
        """A message."""
        self._bounded.put(message.subject, message.data)
