"""A group of streams of one route, kept coming over one socket after the other.

    no socket ──opened, subscribed──> one socket ──old · silent · behind──> two sockets ──caught up──> one socket
        ^                                  │                                     │
        └──────────cut by the venue────────┘             the new one is no better: the old one goes on

Where we decide, the new socket delivers before the old one goes: for a while everything comes twice, which the store
makes one, and nothing is lost. Where the venue or the network decides, what was sent in between is lost to us; how long
it took is counted, and a backfill has the rows.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import structlog
from msgspec import Struct

from data_manager.adapters.binance.feed_names import Stream
from data_manager.adapters.binance.feed_pulse import Pulse
from data_manager.adapters.binance.feed_socket import STREAMS_MAX, Socket, opened
from data_manager.domain.errors import Unavailable
from data_manager.ports import Clock
from data_manager.ports.feed import Heard

Why = Literal["old", "silent", "behind"]

_PAUSE_FIRST_S: Final = 0.2
_NAMED_MAX: Final = 10  # streams that one line of the log names
_log = structlog.get_logger(__name__)


class Rules(Struct, frozen=True, kw_only=True):
    """When a socket is replaced, and what may wait. Seconds are the clock's; those of pause_max_s are the machine's."""

    streams_per_socket: int = 200
    life_s: float = 23 * 3_600.0  # the venue cuts after 24 hours
    life_jitter_s: float = 1_800.0  # so much less at most, so that not all go at once
    look_s: float = 1.0
    overlap_s: float = 30.0  # so long two sockets deliver, at most
    overlap_least_s: float = 1.0
    behind_ms: int = 5_000  # later than at its best: TCP delays everything and drops nothing, so it never catches up
    again_s: float = 60.0  # after a replacement that was no better
    pause_max_s: float = 30.0  # between two attempts to connect
    waiting_max: int = 50_000  # messages heard and not taken, of all sockets together
    waiting_bytes_max: int = 32 << 20


class Line:
    """Made and run by BinanceFeed."""

    def __init__(
        self,
        url: str,
        streams: Sequence[Stream],
        clock: Clock,
        take: Callable[[Heard], None],
        rules: Rules,
        note: Callable[[str, str, Sequence[str]], None],
    ) -> None:
        """note: is told of what happened on which route to which streams (none: to all of the socket)."""
        assert 0 < len(streams) <= STREAMS_MAX, "one more ends the socket"
        self.route = streams[0].route
        self.pulses = {one.name: Pulse(one, clock.monotonic_s()) for one in streams}
        self.sockets: list[Socket] = []  # the newest last; two while one is replaced
        self.reason: str | None = "not connected yet"  # why there is no socket
        self.attempts = 0  # that failed, since there was one
        self.cuts = 0
        self.away_s = 0.0  # without a socket after the first one, in all
        self.replaced: Counter[str] = Counter()
        self._url = url
        self._clock = clock
        self._take = take
        self._rules = rules
        self._note = note
        self._tries = 0  # replacements in a row that were no better
        self._not_before_s = 0.0

    @property
    def current(self) -> Socket | None:
        """The socket that delivers; None while there is none."""
        return self.sockets[0] if self.sockets else None

    async def keep(self) -> None:
        """Keep the streams coming until cancelled. Never raises for a venue that is away."""
        try:
            socket = await self._come_back()
            while True:
                socket = await self._watch(socket)
        finally:
            for socket in self.sockets:
                socket.abandon()

    # ---- without a socket ----------------------------------------------------------------------------------------

    async def _come_back(self) -> Socket:
        began_s = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(self._pause_s())
            try:
                socket = await self._connect()
            except Unavailable as error:
                self.attempts += 1
                self.reason = str(error)
                self._tell_away(error)
                await asyncio.sleep(error.retry_after_s if error.retry_after_s > 1 else 0)
                continue
            if self.cuts:
                self.away_s += self._clock.monotonic_s() - began_s
            return socket

    def _pause_s(self) -> float:
        """Doubling, bounded, and different for every socket and replica."""
        longest = min(self._rules.pause_max_s, _PAUSE_FIRST_S * 2.0 ** min(self.attempts, 20))
        return longest * random.uniform(0.5 if self.attempts else 0, 1)

    def _tell_away(self, error: Unavailable) -> None:
        """At growing intervals: the 1st, 2nd, 4th, 8th … failure in a row."""
        if self.attempts & (self.attempts - 1) == 0:
            _log.warning(
                "exchange away", route=self.route, streams=len(self.pulses), attempts=self.attempts, reason=str(error)
            )

    async def _connect(self) -> Socket:
        socket = await opened(self._url, list(self.pulses), self._clock, self._take)
        socket.due_s = socket.opened_s + self._rules.life_s - random.uniform(0, self._rules.life_jitter_s)
        self.sockets.append(socket)
        if self.attempts or len(self.sockets) == 1:
            _log.info("exchange connected", route=self.route, streams=len(self.pulses), attempts=self.attempts)
        self.attempts, self.reason = 0, None
        return socket

    # ---- with one ------------------------------------------------------------------------------------------------

    async def _watch(self, socket: Socket) -> Socket:
        """Until it ends or is to be replaced: the one that delivers from then on."""
        while not socket.ended.is_set():
            why = self._look(socket)
            if why is not None:
                return await self._hand_over(socket, why)
            await self._wait(self._rules.look_s, socket)
        self.sockets.remove(socket)
        await socket.drop()
        self.cuts += 1
        self.reason = socket.reason
        lived_s = round(self._clock.monotonic_s() - socket.opened_s)
        self._note("cut", self.route, ())
        _log.warning("exchange cut the socket", route=self.route, reason=socket.reason, lived_s=lived_s)
        return await self._come_back()

    def _look(self, socket: Socket) -> Why | None:
        """Why it is to be replaced now."""
        now_s = self._clock.monotonic_s()
        before = {name for name, pulse in self.pulses.items() if pulse.silent}
        for name, pulse in self.pulses.items():
            pulse.look(socket.heard_s.get(name), socket.subscribed_s, now_s)
        self._tell_silent(before, now_s)
        if now_s >= socket.due_s:
            return "old"
        if now_s < self._not_before_s:
            return None
        if socket.behind_ms > self._rules.behind_ms:
            return "behind"
        return "silent" if any(pulse.overdue(now_s) for pulse in self.pulses.values()) else None

    def _tell_silent(self, before: set[str], now_s: float) -> None:
        news = [pulse for name, pulse in self.pulses.items() if pulse.silent and name not in before]
        back = [name for name in before if not self.pulses[name].silent]
        if news:
            self._note("silent", self.route, [one.stream.name for one in news])
            _log.warning(
                "streams are silent, though their socket lives",
                count=len(news),
                never_heard=[one.stream.name for one in news if one.state == "never heard"][:_NAMED_MAX],
                streams=[one.stream.name for one in news if one.state == "silent"][:_NAMED_MAX],
                longest_s=round(now_s - min(one.since_s for one in news)),
            )
        if back:
            self._note("speaks again", self.route, sorted(back))
            _log.info("streams speak again", count=len(back), streams=sorted(back)[:_NAMED_MAX])

    # ---- with two ------------------------------------------------------------------------------------------------

    async def _hand_over(self, old: Socket, why: Why) -> Socket:
        """Open another, let both deliver, and keep the better one: the new one, if it is as good."""
        silent = [pulse for pulse in self.pulses.values() if pulse.silent]
        old.marking = True
        try:
            new = await self._connect()
        except Unavailable as error:
            _log.warning("no other socket yet", route=self.route, why=why, reason=str(error))
            return self._stay(old)
        began_s = self._clock.monotonic_s()
        await self._overlap(old, new, began_s)
        deaf = _deaf(old, new)
        overlap_s = round(self._clock.monotonic_s() - began_s, 1)
        if new.ended.is_set() or (deaf and not old.ended.is_set()):
            what = new.reason or f"silent where the old one speaks: {', '.join(sorted(deaf)[:_NAMED_MAX])}"
            _log.warning("the other socket is no better", route=self.route, why=why, reason=what)
            self.sockets.remove(new)
            await new.drop()
            return self._stay(old)
        for pulse in silent:
            pulse.missed()
        late = _behind(old, new, self._mute())
        await old.close()
        self.sockets.remove(old)
        self.replaced[why] += 1
        self._tries = 0
        self._not_before_s = self._clock.monotonic_s() + (self._rules.again_s if why == "behind" else 0)
        self._note(f"replaced: {why}", self.route, [pulse.stream.name for pulse in silent] if why == "silent" else ())
        _log.info("socket replaced", route=self.route, why=why, overlap_s=overlap_s, frames=old.frames)
        if late:
            _log.error("the old socket did not catch up: what it still had is lost", spans=late[:_NAMED_MAX])
        return new

    def _stay(self, old: Socket) -> Socket:
        """Go on with the old one, and try again later and later."""
        old.marking = False
        wait_s = self._rules.again_s * 2.0 ** min(self._tries, 6)
        self._tries += 1
        self._not_before_s = self._clock.monotonic_s() + wait_s
        old.due_s = max(old.due_s, self._not_before_s)
        return old

    async def _overlap(self, old: Socket, new: Socket, began_s: float) -> None:
        """Until the new one speaks wherever the old one does, and the old one has reached where the new one began."""
        rules, clock = self._rules, self._clock
        brisk = {name for name, pulse in self.pulses.items() if pulse.brisk_within(rules.overlap_s / 3)}
        while not (old.ended.is_set() or new.ended.is_set()):
            lasted_s = clock.monotonic_s() - began_s
            complete = brisk <= new.first.keys() and not _deaf(old, new) and not _behind(old, new, self._mute())
            if lasted_s >= rules.overlap_s or (complete and lasted_s >= rules.overlap_least_s):
                return
            await self._wait(rules.overlap_least_s / 4, old, new)

    def _mute(self) -> set[str]:
        """Streams of which the old socket says nothing any more: there is nothing to wait for."""
        return {name for name, pulse in self.pulses.items() if pulse.silent}

    async def _wait(self, seconds: float, *sockets: Socket) -> None:
        """So many seconds of the clock, or until one of the sockets ends."""
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._clock.sleep(seconds), name="feed pause")]
        tasks += [asyncio.create_task(one.ended.wait(), name="feed socket's end") for one in sockets]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


def _deaf(old: Socket, new: Socket) -> set[str]:
    """Streams that the old one heard since the new one was subscribed, and the new one did not."""
    return {name for name, heard_s in old.heard_s.items() if heard_s > new.subscribed_s} - new.first.keys()


def _behind(old: Socket, new: Socket, mute: set[str]) -> list[tuple[str, int, int]]:
    """Streams of which the old one is not yet where the new one began: name, how far it got, where that is."""
    return [
        (name, old.last[name], first)
        for name, first in new.first.items()
        if name not in mute and name in old.last and old.last[name] < first
    ]
