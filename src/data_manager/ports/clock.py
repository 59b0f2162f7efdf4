"""The port behind time."""

from typing import Protocol


class Clock(Protocol):
    """The only source of now. Services take one, so that a day passes in a test in no time."""

    def now_ms(self) -> int:
        """UTC milliseconds; may jump when the machine's clock is set."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back. For durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds of this clock."""
        ...
