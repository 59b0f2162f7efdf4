"""Audits that somebody asked for: answered when they are done, or with a number to ask again by when they are long."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Final

import structlog
from msgspec import Struct, structs

from data_manager.domain.dataset import Series
from data_manager.domain.errors import Conflict, DataManagerError, NotFound
from data_manager.domain.span import Span
from data_manager.services.audit import Audited, Auditor

PATIENCE_S: Final = 10.0
"""So long at most a request waits for its own audit."""

HOLES_MAX: Final = 10_000
"""Holes told at once."""

_KEPT_MAX: Final = 100  # runs whose outcome can be asked for
_UNDER_WAY_MAX: Final = 8
_TOLD: Final = ("series", "start_ms", "end_ms", "kind", "missing", "state")
_log = structlog.get_logger(__name__)


class Progress(Struct):
    """How far a run came: series audited, of how many, and the last of them."""

    done: int = 0
    total: int = 0
    at: str = ""

    def tell(self, done: int, total: int, at: str) -> None:
        """So far."""
        self.done, self.total, self.at = done, total, at


class Asked(Struct, frozen=True):
    """A run that was asked for; done is None while it is under way."""

    number: int
    done: Audited | None
    progress: Progress


async def _nothing() -> None:
    """Where findings are kept by who made the auditor."""


class Desk:
    """Takes requests for audits. patience_s: so long a request waits for its own, unless it says so itself.

    keep: writes what was reported, so that who was told that an audit is done finds its findings.
    """

    def __init__(
        self, auditor: Auditor, patience_s: float = PATIENCE_S, *, keep: Callable[[], Awaitable[None]] = _nothing
    ) -> None:
        self._auditor = auditor
        self._patience_s = patience_s
        self._keep = keep
        self._numbers = count(1)
        self._runs: OrderedDict[int, tuple[asyncio.Task[Audited], Progress]] = OrderedDict()

    async def ask(
        self, series: Sequence[Series] | None, span: Span | None, *, full: bool, patience_s: float | None = None
    ) -> Asked:
        """Audit them. Raises Conflict when too many such runs are under way, and what Auditor.run raises."""
        if sum(not run.done() for run, _ in self._runs.values()) >= _UNDER_WAY_MAX:
            raise Conflict(f"{_UNDER_WAY_MAX} audits that were asked for are under way: wait for one to end")
        number, progress = next(self._numbers), Progress()
        run = asyncio.create_task(self._audit(series, span, full, progress), name=f"audit {number}")
        run.add_done_callback(_say_failure)
        self._runs[number] = run, progress
        for old in [one for one, (other, _) in self._runs.items() if other.done()][: len(self._runs) - _KEPT_MAX]:
            del self._runs[old]
        return await self.outcome(number, self._patience_s if patience_s is None else patience_s)

    async def _audit(
        self, series: Sequence[Series] | None, span: Span | None, full: bool, progress: Progress
    ) -> Audited:
        done = await self._auditor.run(series, span=span, full=full, progress=progress.tell)
        await self._keep()
        return done

    async def outcome(self, number: int, patience_s: float = 0.0) -> Asked:
        """How a run stands. Raises NotFound for an unknown one, and what ended it."""
        if number not in self._runs:
            raise NotFound(f"no audit {number} was asked for here, or it was long ago")
        run, progress = self._runs[number]
        await asyncio.wait([run], timeout=patience_s)
        return Asked(number, run.result() if run.done() else None, progress)

    async def close(self) -> None:
        """End what is under way."""
        under_way = [run for run, _ in self._runs.values() if not run.done()]
        for run in under_way:
            run.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def audit_facts(done: Audited) -> dict[str, Any]:
    """What an audit came to, as the API and the command line tell it."""
    return {
        "audited": done.audited,
        "failed": done.failed,
        "unjudged": done.unjudged,
        "findings": done.findings,
        "changed": done.changed,
        "rows": done.rows,
        "holes": [{name: getattr(one, name) for name in _TOLD} for one in done.holes[:HOLES_MAX]],
        "holes_total": len(done.holes),
        "cross_checked": structs.asdict(done.crossed),
    }


def _say_failure(run: asyncio.Task[Audited]) -> None:
    """Who asked may never ask again."""
    error = None if run.cancelled() else run.exception()
    if error is not None:
        bug = None if isinstance(error, DataManagerError) else error
        _log.error("an audit that was asked for failed", what=run.get_name(), reason=str(error), exc_info=bug)
