"""The machine's clocks: the only place that reads them."""

import asyncio
import time


class SystemClock:
    """Clock by the operating system."""

    def now_ms(self) -> int:
        """See Clock.now_ms."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See Clock.sleep."""
        await asyncio.sleep(seconds)
