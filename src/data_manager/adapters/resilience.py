"""The one retry policy, and its state as a circuit breaker shows it.

closed     the last call went through
open       calls fail; the policy waits before it tries again
half-open  the wait is over, one call is on its way to find out
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal, TypeVar

import stamina
import structlog

from data_manager.domain.errors import Unavailable

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]
_log = structlog.get_logger(__name__)
stamina.instrumentation.set_on_retry_hooks(())  # no line per attempt: the breaker says when one is away, and back


class Breaker:
    """Calls something that may be away, again and again, until it answers."""

    def __init__(self, name: str, *, wait_max_s: float = 5.0) -> None:
        self.name = name
        self.state: State = "closed"
        self.failures = 0
        self.reason: str | None = None  # of the last failure, while not closed
        self._wait_max_s = wait_max_s

    def facts(self) -> dict[str, str | int | None]:
        """As GET /health/connections shows it."""
        return {"state": self.state, "failures": self.failures, "reason": self.reason}

    async def call(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        attempts: int | None = None,
        wait_for: Callable[[Exception], bool | timedelta] | None = None,
    ) -> T:
        """ask()'s answer, however long it takes. Only Unavailable is tried again; everything else rises at once.

        Waits grow from 0.1 s to wait_max_s with jitter; a longer retry_after_s of the other side is obeyed.
        Cancel the task to give up. attempts: then the last failure rises; None: never. wait_for: after which failures
        to try again, and after how long at least; where waiting is somebody else's work, say.
        """
        async for attempt in stamina.retry_context(
            on=wait_for or patiently, attempts=attempts, timeout=None, wait_initial=0.1, wait_max=self._wait_max_s,
            wait_jitter=0.2,
        ):  # fmt: skip
            with attempt:
                if self.state == "open":
                    self.state = "half-open"
                answer = await self._once(ask)
        return answer

    async def _once(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await ask()
        except Unavailable as error:
            if self.state == "closed":
                _log.error("unavailable", what=self.name, reason=str(error))
            self.state, self.reason = "open", str(error)
            self.failures += 1
            raise
        if self.state != "closed":
            _log.warning("available again", what=self.name, failures=self.failures)
        self.state, self.reason = "closed", None
        return answer


def patiently(error: Exception) -> bool | timedelta:
    """Try again whatever Unavailable it was, not before the other side's retry_after_s."""
    if isinstance(error, Unavailable):
        return timedelta(seconds=error.retry_after_s) if error.retry_after_s > 1 else True
    return False
