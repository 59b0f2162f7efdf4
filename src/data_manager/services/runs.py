"""Work that somebody asked for: answered when it is done, or with a number to ask again by when it takes long."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final, Generic, TypeVar

import structlog
from msgspec import Struct

from data_manager.domain.errors import Conflict, DataManagerError, NotFound
from data_manager.services.ending import ended

PATIENCE_S: Final = 10.0
"""So long at most a request waits for its own work."""

_KEPT_MAX: Final = 100  # runs whose outcome can be asked for
_UNDER_WAY_MAX: Final = 8
_log = structlog.get_logger(__name__)

Tell = Callable[[int, int, str], None]
"""Told how much is done, of how much, and where the work is."""

T = TypeVar("T")


class Progress(Struct):
    """How far a run came: how much is done, of how much, and where it is."""

    done: int = 0
    total: int = 0
    at: str = ""

    def tell(self, done: int, total: int, at: str) -> None:
        """So far."""
        self.done, self.total, self.at = done, total, at


class Outcome(Struct, Generic[T], frozen=True):
    """A run as it stands; answer is None while it is under way."""

    number: int
    answer: T | None
    progress: Progress


class Runs(Generic[T]):
    """Runs under way and those that ended lately.

    each: what one is called. patience_s: so long a request waits for its own, unless it says so itself.
    """

    def __init__(self, each: str, patience_s: float = PATIENCE_S) -> None:
        self._each = each
        self._patience_s = patience_s
        self._numbers = count(1)
        self._runs: OrderedDict[int, tuple[asyncio.Task[T], Progress]] = OrderedDict()

    async def begin(
        self, what: str, work: Callable[[Tell], Awaitable[T]], *, patience_s: float | None = None
    ) -> Outcome[T]:
        """Begin, and wait a little. Raises Conflict when too many are under way, and what the work raises."""
        if sum(not run.done() for run, _ in self._runs.values()) >= _UNDER_WAY_MAX:
            raise Conflict(f"{_UNDER_WAY_MAX} {self._each}s that were asked for are under way: wait for one to end")
        number, progress = next(self._numbers), Progress()
        run = asyncio.create_task(_done(work, progress.tell), name=f"{what} {number}")
        run.add_done_callback(_say_failure)
        self._runs[number] = run, progress
        for old in [one for one, (other, _) in self._runs.items() if other.done()][: len(self._runs) - _KEPT_MAX]:
            del self._runs[old]
        return await self.outcome(number, self._patience_s if patience_s is None else patience_s)

    async def outcome(self, number: int, patience_s: float = 0.0) -> Outcome[T]:
        """How a run stands. Raises NotFound for an unknown one, and what ended it."""
        if number not in self._runs:
            raise NotFound(f"no {self._each} {number} was asked for here, or it was long ago")
        run, progress = self._runs[number]
        await asyncio.wait([run], timeout=patience_s)
        return Outcome(number, run.result() if run.done() else None, progress)

    async def close(self) -> None:
        """End what is under way."""
        await ended(*(run for run, _ in self._runs.values()))


async def _done(work: Callable[[Tell], Awaitable[T]], tell: Tell) -> T:
    return await work(tell)


def _say_failure(run: asyncio.Task[Any]) -> None:
    """Who asked may never ask again."""
    error = None if run.cancelled() else run.exception()
    if error is not None:
        bug = None if isinstance(error, DataManagerError) else error
        _log.error("what was asked for failed", what=run.get_name(), reason=str(error), exc_info=bug)
