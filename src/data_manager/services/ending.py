"""How things end: what does not end when it is told to is told again, and what a stop waits for is in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

_AGAIN_S: Final = 2.0  # longer than anybody's last words take
_LONG_S: Final = 1.0
_log = structlog.get_logger(__name__)


async def ended(*tasks: asyncio.Task[Any], again_s: float = _AGAIN_S) -> None:
    """Cancel tasks and return when they have ended; who asks for their outcome can have it then.

    One that goes on is cancelled again: asyncio.wait_for of Python 3.11 loses a cancellation that comes in the moment
    in which what it waits for is done.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
        if left:
            _log.warning("told to end, and goes on", what=sorted(task.get_name() for task in left))


@contextmanager
def waited_for(what: str, long_s: float = _LONG_S) -> Iterator[None]:
    """A step of a stop; the log names it when it takes long, again and again."""
    telling = asyncio.create_task(_tell(what, long_s), name=f"tell of {what}")
    try:
        yield
    finally:
        telling.cancel()


async def _tell(what: str, long_s: float) -> None:
    loop = asyncio.get_running_loop()
    since_s = loop.time()
    while True:
        await asyncio.sleep(long_s)
        _log.warning("the stop waits", what=what, seconds=round(loop.time() - since_s, 1))
