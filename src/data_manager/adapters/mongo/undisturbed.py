"""What was asked of the driver is let come to its end, also when nobody waits for the answer any more.

Cancelling it is not safe. Tasks that wait for a server share a lock; until Python 3.12 a task that is cancelled while
its wait runs out takes that lock and never gives it back, and from then on every question of the client waits for ever,
whether the server is back or not. So the driver works in tasks of its own, which nobody cancels and which end by the
driver's own limits; who is cancelled just stops waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE: Final = 16
_UNDER_WAY: Final[set[asyncio.Task[Any]]] = set()  # the loop itself holds tasks only weakly


def undisturbed(ask: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """The same, which goes on by itself when its caller is cancelled."""

    @wraps(ask)
    async def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        task = asyncio.create_task(ask(*args, **kwargs), name=f"mongo {ask.__name__}")
        _UNDER_WAY.add(task)
        task.add_done_callback(_ended)
        return await asyncio.shield(task)

    return asked


def _ended(task: asyncio.Task[Any]) -> None:
    """What it raised is the caller's to hear; where nobody waits for it any more, it is no news."""
    _UNDER_WAY.discard(task)
    if not task.cancelled():
        task.exception()


async def all_of(ask: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """The answers for all items, asked a few at a time. When one fails, it rises once those under way have ended."""
    waiting, answers = deque(enumerate(items)), dict[int, R]()

    async def some() -> None:
        while waiting:
            at, item = waiting.popleft()
            try:
                answers[at] = await ask(item)
            finally:
                if at not in answers:
                    waiting.clear()  # what has not been asked by now need not be

    for error in await asyncio.gather(*(some() for _ in items[:_AT_ONCE]), return_exceptions=True):
        if error is not None:
            raise error
    return [answers[at] for at in range(len(items))]
