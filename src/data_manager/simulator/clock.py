"""The exchange's own clock: it may start at another date and run faster than the machine's."""

from data_manager.ports import Clock


class ExchangeClock:
    """A Clock that began at start_ms and runs speed times as fast as the one it is made from."""

    def __init__(self, clock: Clock, *, start_ms: int | None = None, speed: float = 1.0) -> None:
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._start_ms = clock.now_ms() if start_ms is None else start_ms
        self.speed = speed

    def now_ms(self) -> int:
        """See Clock.now_ms; it never goes back."""
        return self._start_ms + int((self._clock.monotonic_s() - self._began_s) * 1_000 * self.speed)

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s, in the exchange's seconds."""
        return (self._clock.monotonic_s() - self._began_s) * self.speed

    async def sleep(self, seconds: float) -> None:
        """See Clock.sleep, in the exchange's seconds."""
        await self._clock.sleep(seconds / self.speed)

    async def sleep_wall(self, seconds: float) -> None:
        """The same in the machine's seconds."""
        await self._clock.sleep(seconds)

    def wall_s(self) -> float:
        """The machine's monotonic seconds: for what concerns sockets and not the market."""
        return self._clock.monotonic_s()
