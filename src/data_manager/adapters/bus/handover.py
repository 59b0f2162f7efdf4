"""What both buses share: deliveries wait here between the socket and the caller, who takes everything at once.

Under load a list grows while the caller is busy, so batching needs no setting; in quiet times a delivery is handed over
in the next turn of the event loop.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from nats.aio.client import Client

from data_manager.adapters.bus.connection import NatsConnection
from data_manager.ports import BusState, Clock, Delivery, Dropped

DRAIN_S: Final = 2.0
"""How long a server may take to hand over its last messages, or to take our last words."""


class Arrivals:
    """Deliveries that nobody took yet. Any number of writers on the loop, one reader."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.ended = False
        self._reader: asyncio.Future[None] | None = None

    def add(self, delivery: Delivery) -> None:
        """One more."""
        self.waiting.append(delivery)
        if self._reader is not None:
            self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def end(self) -> None:
        """Nothing will be added any more."""
        self.ended = True
        self.wake()

    def take(self) -> list[Delivery]:
        """Everything that waits."""
        taken = list(self.waiting)
        self.waiting.clear()
        return taken

    async def wait(self, seconds: float) -> None:
        """Return when something waits, at the end, or after so many seconds."""
        if self.waiting or self.ended:
            return
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._reader
        finally:
            timer.cancel()
            self._reader = None


class NatsBus(ABC):
    """A bus on one connection. A child says how deliveries are taken; starting, handing over and stopping are here."""

    def __init__(self, connection: NatsConnection, subject: str, clock: Clock, arrivals: Arrivals) -> None:
        self._connection = connection
        self._subject = subject
        self._clock = clock
        self._arrivals = arrivals
        self._stopping = asyncio.Event()
        self._taking = False
        self._taken_all = asyncio.Event()

    def start(self) -> None:
        """Connect, in the background. batches() does it too; called early it saves the first wait."""
        self._connection.start(self.session)

    async def batches(self, quiet_s: float) -> AsyncIterator[list[Delivery]]:
        """See Bus. Raises BadSetting when the server's side contradicts our settings."""
        self.start()
        while True:
            await self._arrivals.wait(quiet_s)
            ended = self._arrivals.ended
            taken = self._arrivals.take()
            if taken or not ended:
                yield taken
            if ended:
                return
            self._connection.check()

    async def session(self, client: Client) -> None:
        """Take deliveries from this connection until stop(), then keep it open for acks until it is closed."""
        if not self._stopping.is_set():
            self._taking = True
            try:
                await self._take(client)
            except BaseException:
                self._connection.lose()  # before anybody who waits for the end says his last words to it
                raise
            finally:
                self._taking = False
                if self._stopping.is_set():
                    self._end()
        self._connection.up()
        await asyncio.Event().wait()

    def stop(self) -> None:
        """See Bus."""
        self._stopping.set()
        if not self._taking:
            self._end()

    async def close(self) -> None:
        """See Bus. Bounded in time, also with the server gone or frozen."""
        self.stop()
        try:
            async with asyncio.timeout(DRAIN_S + 0.5):
                await self._taken_all.wait()
            await self._say_goodbye()
        except TimeoutError:
            pass  # whatever was not said, the server finds out when the connection goes
        finally:
            await self._connection.close()
            self._end()

    def _end(self) -> None:
        self._taken_all.set()
        self._arrivals.end()

    @abstractmethod
    async def _take(self, client: Client) -> None:
        """Collect deliveries until stop(); return when all that the server sent is collected. Raises Unavailable."""

    @abstractmethod
    async def _say_goodbye(self) -> None:
        """Last words to the server, in bounded time."""

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See Bus."""

    @abstractmethod
    def drops(self) -> list[Dropped]:
        """See Bus."""

    def missed_since(self, since_ms: int) -> Dropped | None:
        """See Bus. With memory nothing is missed."""
        return None

    @abstractmethod
    async def state(self) -> BusState:
        """See Bus."""
