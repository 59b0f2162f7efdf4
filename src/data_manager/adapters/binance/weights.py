"""What may still be asked of a venue: one budget per process and address, for every request that goes out.

The venue counts weight per address and minute of the UTC clock, and tells the count in a header. Others may ask from
our address too, and answers may be late, so the larger counts: what the header said last plus what is on its way, or
what we spent ourselves. A share of the venue's limit is ours to spend; the rest is for those others. What does not fit
waits for the next minute, in the order of asking.

A refusal (429, or a ban: 418) stops everything until the moment it names.
"""

from __future__ import annotations

import asyncio
from typing import Final

from msgspec import Struct

from data_manager.domain.errors import Throttled
from data_manager.domain.time import MINUTE_MS
from data_manager.ports import Clock

EDGE_MS: Final = 200
"""Spending begins so much after a minute does: the venue's clock and ours agree no better than that."""

PATIENCE_MS: Final = 90_000
"""A halt that lasts longer is told at once and not waited for; the end of a window always is."""


class Spent(Struct, frozen=True):
    """One request that was let through."""

    weight: int
    window: int


class VenueClock:
    """The venue's time as far as we know it: our clock, and how far off that is."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ahead_ms = 0  # of the venue's clock, before ours
        self._read_s: float | None = None

    def now_ms(self) -> int:
        """The venue's time."""
        return self.clock.now_ms() + self.ahead_ms

    def earliest_ms(self) -> int:
        """The earlier of the two clocks: what is over by both is over."""
        return self.clock.now_ms() + min(0, self.ahead_ms)

    def due(self, after_s: float) -> bool:
        """Whether the venue's time was not read, or not for so long."""
        return self._read_s is None or self.clock.monotonic_s() - self._read_s > after_s

    def read(self, told_ms: int, asked_ms: int) -> None:
        """The venue told its time; we asked at asked_ms by our clock, and it is now."""
        self.ahead_ms = told_ms - (asked_ms + self.clock.now_ms()) // 2
        self._read_s = self.clock.monotonic_s()

    def missed(self) -> None:
        """The venue tells no time; what is known of it stands until it is asked again."""
        self._read_s = self.clock.monotonic_s()


class Budget:
    """Spend before each request, say what was answered after it."""

    def __init__(
        self,
        clock: VenueClock,
        *,
        limit: int,
        share_percent: float,
        window_ms: int = MINUTE_MS,
        at_most: int | None = None,
        halt: Halt | None = None,
    ) -> None:
        """limit: the venue's, per window; share_percent of it is ours, at_most so much. halt: shared with others."""
        self._clock = clock
        self._share_percent = share_percent
        self._at_most = at_most
        self._turn = asyncio.Lock()
        self._window = -1
        self._spent = 0  # by us in this window
        self._told = 0  # by the venue's header, of this window
        self._pending = 0  # on its way
        self.limit = limit
        self.window_ms = window_ms
        self.halt = halt or Halt()
        self.waited_s = 0.0
        self.requests = 0

    @property
    def ceiling(self) -> int:
        """Weight we may spend in a window."""
        ours = int(self.limit * self._share_percent / 100)
        return max(1, ours if self._at_most is None else min(ours, self._at_most))

    @property
    def used(self) -> int:
        """Weight used in the window that runs, as far as we know."""
        self._roll()
        return max(self._spent, self._told + self._pending)

    def seconds_for(self, weight: int) -> float:
        """The time that so much weight is worth, and a halt that lasts."""
        left_ms = max(0, self.halt.until_ms - self._clock.now_ms())
        return (left_ms + self.window_ms * weight / self.ceiling) / 1_000

    async def spend(self, weight: int) -> Spent:
        """Return when a request of this weight may go out. Raises Throttled when that is too long to wait for."""
        async with self._turn:
            while (wait_ms := self._wait_ms(weight)) > 0:
                halted_s = (self.halt.until_ms - self._clock.now_ms()) / 1_000
                if halted_s > PATIENCE_MS / 1_000:
                    raise Throttled(f"{self.halt.why}: {halted_s:.0f} s to wait", retry_after_s=halted_s)
                self.waited_s += wait_ms / 1_000
                await self._clock.clock.sleep(wait_ms / 1_000)
            self._spent += weight
            self._pending += weight
            self.requests += 1
            return Spent(weight, self._window)

    def answered(self, spent: Spent, used: int | None) -> None:
        """The request came back, or never will. used: what the venue's header says; None: it says nothing."""
        self._roll()
        if spent.window == self._window:
            self._pending -= spent.weight
            self._told = max(self._told, used or 0)

    def end_ms(self) -> int:
        """When the window that runs is over and spending may begin again, by the venue's clock."""
        return (self._number() + 1) * self.window_ms + EDGE_MS

    def _wait_ms(self, weight: int) -> int:
        now_ms = self._clock.now_ms()
        if now_ms < self.halt.until_ms:
            return self.halt.until_ms - now_ms
        used = self.used  # a request dearer than all we may spend has a window to itself
        return 0 if used + weight <= self.ceiling or used == 0 else self.end_ms() - now_ms

    def _number(self) -> int:
        """Of the window that runs: it begins a little after the venue's."""
        return (self._clock.now_ms() - EDGE_MS) // self.window_ms

    def _roll(self) -> None:
        window = self._number()
        if window != self._window:
            self._window, self._spent, self._told, self._pending = window, 0, 0, 0


class Halt:
    """Until when nothing at all may be asked, and why. One for all budgets of an address."""

    def __init__(self) -> None:
        self.until_ms = 0
        self.why = ""
        self.times = 0

    def set(self, until_ms: int, why: str) -> None:
        """Stop. The later end counts."""
        self.times += 1
        if until_ms > self.until_ms:
            self.until_ms, self.why = until_ms, why
