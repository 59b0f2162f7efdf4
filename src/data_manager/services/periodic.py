"""every(): the one place for "again"."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from data_manager.domain.errors import Unavailable
from data_manager.ports import Clock

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
