"""Whether our clock may be believed when it says that something is old."""

from __future__ import annotations

from typing import Final

import structlog

from data_manager.domain.errors import Unavailable
from data_manager.domain.time import HOUR_MS
from data_manager.ports import Clock

_JUMP_MS: Final = HOUR_MS
_SETTLED_S: Final = 86_400.0
_log = structlog.get_logger(__name__)


class ClockJumped(Unavailable):
    """The clock was set since we started: for a day it is not believed when it says that something is old."""


class Steady:
    """Whether the wall clock went as the monotonic one does: if it was set, it is not believed for a day."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._apart_ms = self._apart()
        self._since_s: float | None = None

    def require(self) -> None:
        """Raises ClockJumped."""
        apart_ms, now_s = self._apart(), self._clock.monotonic_s()
        if abs(apart_ms - self._apart_ms) > _JUMP_MS:
            _log.warning("the clock was set: nothing goes by retention for a day", by_ms=apart_ms - self._apart_ms)
            self._apart_ms, self._since_s = apart_ms, now_s
        if self._since_s is not None:
            if now_s - self._since_s < _SETTLED_S:
                raise ClockJumped("the clock was set since we started: nothing goes by retention until it stood a day")
            self._since_s = None

    def _apart(self) -> int:
        return self._clock.now_ms() - round(self._clock.monotonic_s() * 1_000)
