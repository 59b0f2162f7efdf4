"""One of many replicas leads: each campaigns for a lease, for ever, and knows when it may no longer believe it leads.

    follower ── take_lease: ours ──> leader ── renewed every few seconds ──> leader
        ^                              │
        └── somebody else's, or no renewal before the margin of the term ───┘

Two things keep a leader of yesterday from doing harm. It stops believing a tenth of a term before the database lets
anybody else in, counted by its own monotonic clock from before it asked. And where that fails (a frozen process, a
clock that stood still), what it writes through Leases.fenced is refused.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec import Struct

from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.ports import Clock, Lease, LeaseLost, Leases, LeaseState

_MARGIN: Final = 0.1  # of a term
_LEADERLESS_TERMS: Final = 2
_LAST_WORDS_S: Final = 1.0
_log = structlog.get_logger(__name__)


class LeaseStatus(Struct, frozen=True, kw_only=True):
    """What a replica knows of a lease, for metrics and health."""

    leading: bool
    holder: str | None  # as it was told last; None: nobody, or it was never told
    epoch: int  # likewise; 0: never told
    leaderless_s: float | None  # nobody is known to have led for so long; None: somebody leads
    reason: str | None  # why the database could not be asked the last time
    taken: int  # so many times we became the leader
    lost: int  # so many of these ended before we gave the lease back


class Campaign:
    """One replica's campaign for one lease: run() it, ask held() before each piece of work, write through fenced()."""

    def __init__(
        self,
        leases: Leases,
        name: str,
        clock: Clock,
        *,
        holder: str | None = None,
        term_s: float = 30.0,
        every_s: float = 10.0,
    ) -> None:
        """every_s: between two renewals; a term must hold two of them, so that one may fail."""
        assert 0 < 2 * every_s <= term_s, "a term holds two renewals"
        self.name = name
        self.holder = holder or new_holder()
        self.term_s = term_s
        self._leases = leases
        self._clock = clock
        self._every_s = every_s
        self._lease: Lease | None = None
        self._until_s = 0.0  # monotonic: so long we believe it
        self._told: Lease | None = None
        self._led_until_s = clock.monotonic_s()  # so long somebody is known to lead
        self._reason: str | None = None
        self._taken = self._lost = 0
        self._limits: set[asyncio.Timeout] = set()

    async def run(self) -> None:
        """Campaign until cancelled; then give the lease back. Cancel it after the work that is done under the lease."""
        try:
            while True:
                wait_s = await self._turn()
                await self._clock.sleep(wait_s * random.uniform(0.9, 1.0))
        finally:
            await self._give_back()

    def held(self) -> Lease | None:
        """The lease, while we may believe that it is ours."""
        return self._lease if self._clock.monotonic_s() < self._until_s else None

    def status(self) -> LeaseStatus:
        """As of now."""
        told, alone_s = self._told, self._clock.monotonic_s() - self._led_until_s
        return LeaseStatus(
            leading=self.held() is not None,
            holder=(told.holder or None) if told is not None else None,
            epoch=told.epoch if told is not None else 0,
            leaderless_s=alone_s if alone_s > 0 else None,
            reason=self._reason,
            taken=self._taken,
            lost=self._lost,
        )

    def leaderless_since_ms(self) -> int | None:
        """Since when nobody leads, when that is two terms or more: worth a finding. None otherwise."""
        alone_s = self.status().leaderless_s
        if alone_s is None or alone_s < _LEADERLESS_TERMS * self.term_s:
            return None
        return self._clock.now_ms() - round(alone_s * 1_000)

    async def lead(self, work: Callable[[Lease], Awaitable[object]]) -> bool:
        """Do work if we lead, cut short when we no longer do; whether it was done to its end. A turn of every()."""
        lease = self.held()
        if lease is None:
            return False
        limit = asyncio.timeout(self._until_s - self._clock.monotonic_s())
        try:
            async with limit:
                self._limits.add(limit)
                await work(lease)
        except LeaseLost as error:
            _log.warning("gave way amid the work", lease=self.name, reason=str(error))
            return False
        except TimeoutError:
            if not limit.expired():
                raise
            _log.warning("gave way amid the work", lease=self.name, reason="the lease was not renewed in time")
            return False
        finally:
            self._limits.discard(limit)
        return True

    async def _turn(self) -> float:
        """Ask once; how long to wait before the next time."""
        asked_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._every_s):
                state = await self._leases.take_lease(self.name, self.holder, self.term_s)
        except (Unavailable, Corrupt, TimeoutError) as error:
            self._no_answer(str(error) or "the database took too long to answer")
            return self._every_s / 2
        self._reason = None
        self._told = state.lease
        if state.lease.holder:
            self._led_until_s = asked_s + max(0.0, state.expires_in_s)
        if state.lease.holder == self.holder:
            self._ours(state.lease, asked_s)
            return self._every_s
        self._not_ours(state)
        return min(self._every_s, max(state.expires_in_s, 0.05))  # be there when it ends

    def _ours(self, lease: Lease, asked_s: float) -> None:
        if self._lease is None or self._lease.epoch != lease.epoch:
            self._end("it was over when we renewed it")
            self._taken += 1
            _log.info("leading", lease=self.name, epoch=lease.epoch)
        self._lease = lease
        self._until_s = asked_s + self.term_s * (1 - _MARGIN)
        self._move_limits(self._until_s - self._clock.monotonic_s())

    def _not_ours(self, state: LeaseState) -> None:
        self._end(f"{state.lease.holder or 'nobody'} holds epoch {state.lease.epoch}")

    def _no_answer(self, reason: str) -> None:
        if self._reason is None:
            _log.warning("cannot ask for the lease", lease=self.name, reason=reason)
        self._reason = reason
        if self.held() is None:
            self._end(reason)

    def _end(self, why: str) -> None:
        """We led, and do no more."""
        if self._lease is None:
            return
        self._lost += 1
        _log.warning("no longer leading", lease=self.name, epoch=self._lease.epoch, reason=why)
        self._lease, self._until_s = None, 0.0
        self._move_limits(0.0)

    def _move_limits(self, left_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now_s + left_s)

    async def _give_back(self) -> None:
        lease, self._lease, self._until_s = self._lease, None, 0.0
        self._move_limits(0.0)
        if lease is None:
            return
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._leases.give_back_lease(lease)
        except (Unavailable, Corrupt, TimeoutError) as error:
            _log.warning("the lease was not given back, it ends by itself", lease=self.name, reason=str(error))


def new_holder() -> str:
    """A name for this process that no other life of it has."""
    return f"{socket.gethostname()[:80]}.{os.getpid()}.{secrets.token_hex(4)}"
