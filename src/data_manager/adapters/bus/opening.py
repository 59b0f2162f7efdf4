"""Which bus: JetStream where the server has it, core NATS where it has not, decided when the server is first met."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import structlog
from nats.aio.client import Client

from data_manager.adapters.bus.connection import NatsAccess, NatsConnection
from data_manager.adapters.bus.nats_core import CoreOptions, NatsCore
from data_manager.adapters.bus.nats_jetstream import NatsJetStream
from data_manager.adapters.bus.nats_stream import StreamOptions, has_jetstream
from data_manager.ports import Bus, BusState, Clock, Delivery, Dropped

Mode = Literal["auto", "jetstream", "core"]

_log = structlog.get_logger(__name__)


def open_bus(
    access: NatsAccess,
    subject: str,
    *,
    mode: Mode,
    clock: Clock,
    stream: StreamOptions | None = None,
    core: CoreOptions | None = None,
) -> Bus:
    """A bus that connects in the background: the server may be absent. Call it with the event loop running.

    auto decides at the first connection and stays with it. jetstream insists: batches() raises BadSetting when the
    server that is met first has no JetStream.
    """
    connection = NatsConnection(access)
    bus: NatsJetStream | NatsCore | AutoBus
    if mode == "jetstream":
        bus = NatsJetStream(connection, subject, clock=clock, options=stream)
    elif mode == "core":
        bus = NatsCore(connection, subject, clock=clock, options=core)
    else:
        bus = AutoBus(connection, subject, clock=clock, stream=stream, core=core)
    bus.start()
    return bus


class AutoBus:
    """A bus that becomes one or the other when it first meets the server, and from then on passes everything on."""

    def __init__(
        self,
        connection: NatsConnection,
        subject: str,
        *,
        clock: Clock,
        stream: StreamOptions | None = None,
        core: CoreOptions | None = None,
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._clock = clock
        self._stream = stream
        self._core = core
        self._bus: NatsJetStream | NatsCore | None = None
        self._news = asyncio.Event()  # decided, or stopped before that
        self._stopped = False
        self._since_ms: int | None = None  # an earlier run took all that came until then

    def start(self) -> None:
        """Connect, in the background."""
        self._connection.start(self._session)

    async def batches(self, quiet_s: float) -> AsyncIterator[list[Delivery]]:
        """See Bus."""
        self.start()
        while self._bus is None and not self._stopped:
            try:
                async with asyncio.timeout(quiet_s):
                    await self._news.wait()
            except TimeoutError:
                self._connection.check()
                yield []
        if self._bus is not None:
            async for batch in self._bus.batches(quiet_s):
                yield batch

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See Bus."""
        if self._bus is not None:
            await self._bus.ack(deliveries)

    def stop(self) -> None:
        """See Bus."""
        self._stopped = True
        self._news.set()
        if self._bus is not None:
            self._bus.stop()

    def drops(self) -> list[Dropped]:
        """See Bus."""
        return [] if self._bus is None else self._bus.drops()

    def missed_since(self, since_ms: int) -> Dropped | None:
        """See Bus."""
        if self._bus is None:
            self._since_ms = since_ms
            return None
        return self._bus.missed_since(since_ms)

    async def state(self) -> BusState:
        """See Bus. Not durable until it is known to be."""
        if self._bus is not None:
            return await self._bus.state()
        return BusState(
            connected=False,
            reason=self._connection.reason,
            errors=self._connection.errors.total(),
            errors_by_type=dict(self._connection.errors),
        )

    async def close(self) -> None:
        """See Bus."""
        self.stop()
        if self._bus is not None:
            await self._bus.close()
        await self._connection.close()

    async def _session(self, client: Client) -> None:
        if self._bus is None:
            self._bus = await self._decide(client)
            if self._since_ms is not None:
                self._bus.missed_since(self._since_ms)
            if self._stopped:
                self._bus.stop()
            self._news.set()
        await self._bus.session(client)

    async def _decide(self, client: Client) -> NatsJetStream | NatsCore:
        if await has_jetstream(client.jetstream()):
            return NatsJetStream(self._connection, self._subject, clock=self._clock, options=self._stream)
        _log.warning(
            "this NATS server has no JetStream: what is published while we are away is lost, and what we are too slow "
            "for is dropped, though counted",
            servers=self._connection.access.shown,
            fix="start the server with -js",
        )
        return NatsCore(self._connection, self._subject, clock=self._clock, options=self._core)
