"""The machine's clocks: the only place that reads them."""

import asyncio
import time
from typing import ClassVar, NamedTuple


class Pace(NamedTuple):
    """Another time than the machine's: start_ms at since_s of the monotonic clock, and so much faster from there."""

    start_ms: int
    since_s: float
    speed: float


class SystemClock:
    """Clock by the operating system; in a process that rehearses, by the pace it was given when it began."""

    pace: ClassVar[Pace | None] = None

    def now_ms(self) -> int:
        """See Clock.now_ms."""
        if self.pace is None:
            return time.time_ns() // 1_000_000
        return self.pace.start_ms + int((time.monotonic() - self.pace.since_s) * 1_000 * self.pace.speed)

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s."""
        return time.monotonic() * (1 if self.pace is None else self.pace.speed)

    async def sleep(self, seconds: float) -> None:
        """See Clock.sleep."""
        await asyncio.sleep(seconds / (1 if self.pace is None else self.pace.speed))
