"""every(): the one place for "again". LoopLag: whether anything gets its turn in time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from data_manager.domain.errors import Unavailable
from data_manager.ports import Clock

_BEAT_S: Final = 0.05
_WINDOW_S: Final = 30.0
_log = structlog.get_logger(__name__)


async def every(seconds: float, what: str, work: Callable[[], Awaitable[object]], clock: Clock) -> None:
    """Do work now and then every so many seconds, until cancelled.

    Unavailable is logged and the next turn tries again; anything else is a bug and rises.
    """
    while True:
        try:
            await work()
        except Unavailable as error:
            _log.warning("periodic work failed", what=what, reason=str(error))
        await clock.sleep(seconds)


def when_due(
    seconds: float, work: Callable[[], Awaitable[bool]], clock: Clock, *, again_s: float = 15.0
) -> Callable[[], Awaitable[None]]:
    """work for every() to ask for often: it is done at once, and again so many seconds after it was done.

    work answers whether it was done (somebody else leads: it was not); asked for again at the next turn if not, and
    after again_s when it was away.
    """
    due_s = clock.monotonic_s()

    async def turn() -> None:
        nonlocal due_s
        if clock.monotonic_s() < due_s:
            return
        due_s = clock.monotonic_s() + min(again_s, seconds)
        done = await work()
        due_s = clock.monotonic_s() + (seconds if done else 0)

    return turn


class LoopLag:
    """How late the event loop gave us our turn, at worst, within the last half to full minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._worst = [0.0, 0.0]  # of the window that ended last, and of this one

    @property
    def worst_s(self) -> float:
        """In seconds; 0.0 before anything was measured."""
        return max(self._worst)

    async def measure(self) -> None:
        """Measure until cancelled."""
        since_s = self._clock.monotonic_s()
        while True:
            asked_s = self._clock.monotonic_s()
            await self._clock.sleep(_BEAT_S)
            now_s = self._clock.monotonic_s()
            if now_s - since_s >= _WINDOW_S:
                self._worst, since_s = [self._worst[1], 0.0], now_s
            self._worst[1] = max(self._worst[1], now_s - asked_s - _BEAT_S)
