"""Audits that somebody asked for: answered when they are done, or with a number to ask again by when they are long."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import Final

from msgspec import Struct

from data_manager.domain.dataset import Series
from data_manager.domain.errors import Conflict, NotFound
from data_manager.domain.span import Span
from data_manager.services.audit import Audited, Auditor

_KEPT_MAX: Final = 100  # runs whose outcome can be asked for
_UNDER_WAY_MAX: Final = 8


class Asked(Struct, frozen=True):
    """A run that was asked for; done is None while it is under way."""

    number: int
    done: Audited | None


class Desk:
    """Takes requests for audits. patience_s: so long a request waits for its own."""

    def __init__(self, auditor: Auditor, patience_s: float = 10.0) -> None:
        self._auditor = auditor
        self._patience_s = patience_s
        self._numbers = count(1)
        self._runs: OrderedDict[int, asyncio.Task[Audited]] = OrderedDict()

    async def ask(self, series: Sequence[Series] | None, span: Span | None, *, full: bool) -> Asked:
        """Audit them. Raises Conflict when too many such runs are under way, and what Auditor.run raises."""
        if sum(not run.done() for run in self._runs.values()) >= _UNDER_WAY_MAX:
            raise Conflict(f"{_UNDER_WAY_MAX} audits that were asked for are under way: wait for one to end")
        number = next(self._numbers)
        work = self._auditor.run(series, span=span, full=full)
        self._runs[number] = asyncio.create_task(work, name=f"audit {number}")
        while len(self._runs) > _KEPT_MAX:
            self._runs.popitem(last=False)
        return await self.outcome(number, self._patience_s)

    async def outcome(self, number: int, patience_s: float = 0.0) -> Asked:
        """How a run stands. Raises NotFound for an unknown one, and what ended it."""
        run = self._runs.get(number)
        if run is None:
            raise NotFound(f"no audit {number} was asked for here, or it was long ago")
        await asyncio.wait([run], timeout=patience_s)
        return Asked(number, run.result() if run.done() else None)

    async def close(self) -> None:
        """End what is under way."""
        under_way = [run for run in self._runs.values() if not run.done()]
        for run in under_way:
            run.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
