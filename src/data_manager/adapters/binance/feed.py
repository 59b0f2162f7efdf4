"""The venue's live streams: which sockets there are (feed_line.py keeps each), and what was heard and not taken yet."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import structlog
from msgspec import Struct

from data_manager.adapters.binance.feed_line import Line, Rules
from data_manager.adapters.binance.feed_names import Stream, groups_of
from data_manager.domain.time import iso
from data_manager.ports import Clock
from data_manager.ports.feed import Heard

_BATCH: Final = 500
_NAMES_SHOWN: Final = 100
_EVENTS_MAX: Final = 50
_log = structlog.get_logger(__name__)


class Dropped(Struct):
    """What a full queue let go of one stream since it was told last, in our clock's time."""

    count: int = 0
    first_ms: int = 0
    last_ms: int = 0


class BinanceFeed:
    """See ports_feed.Streams. run() it once."""

    def __init__(
        self,
        address: str,
        streams: Sequence[Stream],
        clock: Clock,
        *,
        rules: Rules | None = None,
        let_go: Callable[[Heard], None] | None = None,
    ) -> None:
        """let_go: is shown every message that a full queue lets go."""
        self._rules = rules = rules or Rules()
        self.address = address
        self.streams = streams
        self.lines = [
            Line(
                f"{address}{'/' if group[0].route else ''}{group[0].route}/stream",
                group,
                clock,
                self._heard,
                rules,
                self._happened,
            )
            for group in groups_of(streams, rules.streams_per_socket)
        ]
        self.heard: Counter[str] = Counter()  # by kind
        self.dropped = 0
        self._clock = clock
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_MAX)
        self._kinds = {one.name: one.kind for one in streams}
        self._let_go = let_go or (lambda _: None)
        self._waiting: deque[Heard] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._untold: dict[str, Dropped] = {}
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """See Streams.run."""
        async with asyncio.TaskGroup() as group:
            lines = [group.create_task(line.keep(), name=f"feed {line.route}") for line in self.lines]
            await self._stopped.wait()
            for line in lines:
                line.cancel()

    async def batches(self) -> AsyncIterator[list[Heard]]:
        """See Streams.batches."""
        waiting = self._waiting
        while waiting or not self._stopped.is_set():
            if not waiting:
                self._news.clear()
                await self._news.wait()
            batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
            self._bytes -= sum(len(one.data) for one in batch)
            if batch:
                yield batch

    def stop(self) -> None:
        """See Streams.stop."""
        self._stopped.set()
        self._news.set()

    def _heard(self, message: Heard) -> None:
        if self._stopped.is_set():
            return
        self.heard[self._kinds.get(message.stream, "unknown")] += 1
        self._waiting.append(message)
        self._bytes += len(message.data)
        rules = self._rules
        while len(self._waiting) > rules.waiting_max or self._bytes > rules.waiting_bytes_max:
            self._drop(self._waiting.popleft())
        self._news.set()

    def _drop(self, message: Heard) -> None:
        self._bytes -= len(message.data)
        self.dropped += 1
        lost = self._untold.setdefault(message.stream, Dropped(first_ms=message.received_ms))
        lost.count += 1
        lost.last_ms = message.received_ms
        self._let_go(message)

    def _happened(self, what: str, route: str, streams: Sequence[str]) -> None:
        event = {"at": iso(self._clock.now_ms()), "what": what, "route": route, "streams": list(streams[:_NAMES_SHOWN])}
        self._events.append(event)

    def tell_dropped(self) -> None:
        """One line of the log for what was let go since the last call."""
        lost, self._untold = self._untold, {}
        if lost:
            _log.error(
                "messages let go: the bus takes them too slowly, or not at all",
                count=sum(one.count for one in lost.values()),
                first=iso(min(one.first_ms for one in lost.values())),
                last=iso(max(one.last_ms for one in lost.values())),
                streams=sorted(lost)[:_NAMES_SHOWN],
            )

    # ---- what it says of itself ----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Messages heard and not taken yet."""
        return len(self._waiting)

    @property
    def reason(self) -> str | None:
        """Why not all sockets are there; None: they are."""
        away = [line for line in self.lines if line.current is None]
        if not away:
            return None
        return f"{len(away)} of {len(self.lines)} sockets are away: {away[0].reason}"

    def states(self) -> Counter[str]:
        """How many streams are in which state."""
        return Counter(pulse.state for line in self.lines for pulse in line.pulses.values())

    def facts(self) -> dict[str, Any]:
        """For GET /health/connections."""
        states = self.states()
        named = {
            state: sorted(name for line in self.lines for name, one in line.pulses.items() if one.state == state)
            for state in ("silent", "never heard")
        }
        return {
            "exchange": self.address,
            "connected": self.reason is None,
            "reason": self.reason,
            "sockets": [_facts(line) for line in self.lines],
            "streams": {"wanted": states.total(), **{state.replace(" ", "_"): n for state, n in states.items()}},
            "silent": named["silent"][:_NAMES_SHOWN],
            "never_heard": named["never heard"][:_NAMES_SHOWN],
            "events": list(self._events),
            "heard": self.heard.total(),
            "waiting": self.waiting,
            "dropped": self.dropped,
        }


def _facts(line: Line) -> dict[str, Any]:
    socket = line.current
    return {
        "route": line.route,
        "streams": len(line.pulses),
        "open": socket is not None,
        "reason": line.reason,
        "attempts": line.attempts,
        "since": None if socket is None else iso(socket.opened_ms),
        "frames": 0 if socket is None else socket.frames,
        "lag_ms": None if socket is None else socket.lag_ms,
        "cuts": line.cuts,
        "away_s": round(line.away_s, 1),
        "replaced": dict(line.replaced),
    }
