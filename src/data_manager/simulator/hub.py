"""Who listens to what, and the beat that sends it.

Twenty times a second of the machine's clock: for every stream that anybody subscribed, what it sends since the beat
before; faults change, drop or delay it; the rest goes to its sockets in the order of time.
"""

import heapq
from collections import deque
from fnmatch import fnmatchcase
from itertools import count
from typing import Final, Protocol

from msgspec import Struct

from data_manager.simulator.clock import ExchangeClock
from data_manager.simulator.faults import Fault, Faults
from data_manager.simulator.session import Session
from data_manager.simulator.streams import Feed, Sent

BEAT_S: Final = 0.05
_PENDING_MAX: Final = 200_000
_CLOSE: Final = b'"x":true'
_OF_EVENTS: Final = ("outage", "stall", "lose", "double", "reorder", "late")


class Listener(Protocol):
    """An open socket."""

    session: Session

    def send(self, text: bytes) -> None:
        """One message; what the other side does not read piles up, to a bound."""
        ...

    def beat(self, now_ms: int) -> None:
        """Look after pings and age."""
        ...

    def abort(self) -> None:
        """Gone, without a goodbye."""
        ...


class Figures(Struct):
    """What the hub has done."""

    sent: int = 0
    beats: int = 0
    late_ms: int = 0  # of the last beat: how far the exchange's clock had gone on when it was done


class Hub:
    """All sockets of the exchange."""

    def __init__(self, feed: Feed, clock: ExchangeClock, faults: Faults) -> None:
        self.feed = feed
        self._clock = clock
        self._faults = faults
        self.listeners: dict[Listener, None] = {}
        self.figures = Figures()
        self._until_ms = clock.now_ms()
        self._pending: list[tuple[int, int, str, bytes]] = []
        self._behind: dict[Listener, deque[tuple[int, bytes]]] = {}  # what slow sockets have still to hear, and when
        self._order = count()

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            self.beat()
            await self._clock.sleep_wall(BEAT_S)

    def beat(self) -> None:
        """Send all that is due."""
        now_ms = self._clock.now_ms()
        for listener in list(self.listeners):
            listener.beat(now_ms)
        self._cut(now_ms)
        audience = self._audience()
        skew_ms = self._faults.skew_ms()
        for name in audience:
            for event in self.feed.events(name, self._until_ms, now_ms, skew_ms):
                self._hold(name, event)
        self._until_ms = now_ms
        while self._pending and self._pending[0][0] <= now_ms:
            at_ms, _, name, payload = heapq.heappop(self._pending)
            self._send(name, payload, audience.get(name, []), at_ms)
        self._catch_up(now_ms)
        self.figures.beats += 1
        self.figures.late_ms = self._clock.now_ms() - now_ms

    def _audience(self) -> dict[str, list[Listener]]:
        """Sockets by stream, of streams that the socket's route serves: the path without one serves the public ones."""
        found: dict[str, list[Listener]] = {}
        for listener in self.listeners:
            serves = listener.session.route or "public"
            for name in listener.session.names:
                if self.feed.route(name) == serves:
                    found.setdefault(name, []).append(listener)
        return found

    def _hold(self, name: str, event: Sent) -> None:
        at_ms, copies = event.at_ms, 1
        for fault in self._faults.of(*_OF_EVENTS, at_ms=at_ms):
            if not fnmatchcase(name, fault.streams) or not self._faults.hits(fault, name.encode() + event.payload):
                continue
            if fault.closes and _CLOSE not in event.payload:
                continue
            match fault.kind:
                case "outage" if "ws" not in fault.where:
                    continue
                case "outage" | "stall" | "lose":
                    return
                case "double":
                    copies += 1
                case _:
                    at_ms += fault.delay_ms
        if len(self._pending) < _PENDING_MAX:
            for _ in range(copies):
                heapq.heappush(self._pending, (at_ms, next(self._order), name, event.payload))

    def _send(self, name: str, payload: bytes, listeners: list[Listener], at_ms: int) -> None:
        framed = b'{"stream":"%b","data":%b}' % (name.encode(), payload)
        deaf = any(self._faults.of("deaf", at_ms=at_ms))
        for listener in listeners:
            if deaf and self._faults.deaf(name, listener.session.opened_ms, at_ms):
                continue
            text, session = framed if listener.session.combined else payload, listener.session
            lag_ms = self._faults.lag_ms(name, session.route, session.opened_ms, at_ms)
            if lag_ms or listener in self._behind:
                waiting = self._behind.setdefault(listener, deque(maxlen=_PENDING_MAX))
                waiting.append((max(at_ms + lag_ms, waiting[-1][0] if waiting else 0), text))
            else:
                listener.send(text)
        self.figures.sent += len(listeners)

    def _catch_up(self, now_ms: int) -> None:
        """Slow sockets hear in order what is due, and forget what they were when nothing waits."""
        for listener, waiting in list(self._behind.items()):
            while waiting and waiting[0][0] <= now_ms:
                listener.send(waiting.popleft()[1])
            if not waiting or listener not in self.listeners:
                del self._behind[listener]

    def _cut(self, now_ms: int) -> None:
        """Sockets that a fault takes down: all of a route once, or all while the exchange is away."""
        for fault in self._faults.since(self._until_ms, now_ms, "drop", "outage"):
            if fault.kind == "outage" and "ws" in fault.where:
                self._abort(fault)
            elif fault.kind == "drop" and fault.id not in self._faults.fired:
                self._faults.fired.add(fault.id)
                self._abort(fault)

    def _abort(self, fault: Fault) -> None:
        for listener in list(self.listeners):
            if fnmatchcase(listener.session.route, fault.route):
                listener.abort()
