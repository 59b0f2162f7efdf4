"""Dead letters on their way to their store. Rows never wait for it: a flush hands its dead over and goes on.

A message is acknowledged when all its dead letters are kept, and not before; until then they count as in flight. What
waits is bounded: beyond the limit the next flush waits too, and with it all that is pulled. A write costs as much as
some hundred letters do, so the first is kept at once, and those that come soon afterwards go together, at the latest
when the bus has nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from data_manager.ports import Clock, DeadLetter, Delivery
from data_manager.services.ingesting.buffer import Buffer, Dead

_LAST_S: Final = 1.0  # at the end; what is not kept by then comes again
_APART_S: Final = 1.0  # from one write to the next, while more comes and there is room for what waits
_log = structlog.get_logger(__name__)

KeepDead = Callable[[Sequence[DeadLetter]], Awaitable[None]]
Ack = Callable[[Sequence[Delivery]], Awaitable[None]]


class Burying:
    """Keeps the dead of all flushes, one write at a time. What keep raises comes out of the next make_room() or rest().

    keep tries until its store answers.
    """

    def __init__(self, keep: KeepDead, ack: Ack, buffer: Buffer, clock: Clock) -> None:
        self._keep = keep
        self._ack = ack
        self._buffer = buffer
        self._clock = clock
        self._unkept_bytes = 0
        self._not_before_s = float("-inf")  # by the monotonic clock
        self._hurry = asyncio.Event()
        self._under_way: asyncio.Task[None] | None = None

    def add(self, dead: Sequence[Dead]) -> None:
        """All the dead of some messages, whose rows are stored."""
        self._buffer.unkept += dead
        self._unkept_bytes += sum(len(one.letter.payload) for one in dead)
        if dead:
            self._hurry.clear()
        if dead and self._under_way is None:
            self._under_way = asyncio.create_task(self._go_on(), name="dead letters")

    def hurry(self) -> None:
        """What waits need not wait for company: nothing more is at hand."""
        self._hurry.set()

    async def make_room(self) -> None:
        """Return when no more wait than may."""
        task = self._under_way
        if task is not None and (task.done() or self._too_many()):
            self._hurry.set()
            await task
            self._hurry.clear()

    def _too_many(self) -> bool:
        limits = self._buffer.limits
        return len(self._buffer.unkept) > limits.dead_max or self._unkept_bytes > limits.dead_bytes_max

    async def rest(self) -> None:
        """Return when all are kept, or when their store takes too long: their messages come again."""
        task = self._under_way
        if task is None:
            return
        self._hurry.set()
        await asyncio.wait({task}, timeout=_LAST_S)
        if task.done():
            task.result()
        else:
            _log.warning("dead letters are not kept: their messages come again", waiting=len(self._buffer.unkept))

    def cancel(self) -> None:
        """Leave the rest to be delivered again."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def _go_on(self) -> None:
        while self._buffer.unkept:
            await self._pause()
            dead = list(self._buffer.unkept)
            await self._keep([one.letter for one in dead])
            del self._buffer.unkept[: len(dead)]
            self._unkept_bytes -= sum(len(one.letter.payload) for one in dead)
            self._buffer.count_kept(dead)
            self._buffer.note_oldest()
            await self._ack(list({id(one.delivery): one.delivery for one in dead}.values()))
        self._under_way = None

    async def _pause(self) -> None:
        """Let some more come, unless there is no room for them."""
        wait_s = self._not_before_s - self._clock.monotonic_s()
        if wait_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()
        self._not_before_s = self._clock.monotonic_s() + _APART_S
