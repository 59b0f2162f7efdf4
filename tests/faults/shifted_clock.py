"""The service on a machine whose time of day is set while it runs: SIGUSR1 sets it an hour on, SIGUSR2 an hour back.

`python -m tests.faults.shifted_clock COMMAND…` becomes `data-manager COMMAND…`. The monotonic clock goes on as it does.
"""

import signal

from data_manager.adapters.clock import SystemClock
from data_manager.cli import main

HOUR_MS = 3_600_000

_true_now_ms = SystemClock.now_ms
_offset_ms = 0


def set_clock(number: int, _: object) -> None:
    """Somebody sets the clock."""
    global _offset_ms  # noqa: PLW0603 - the machine has one clock
    _offset_ms += HOUR_MS if number == signal.SIGUSR1 else -HOUR_MS


def now_ms(clock: SystemClock) -> int:
    """What the clock of this machine shows."""
    return _true_now_ms(clock) + _offset_ms


if __name__ == "__main__":
    SystemClock.now_ms = now_ms  # type: ignore[method-assign]
    for one in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(one, set_clock)
    main()
