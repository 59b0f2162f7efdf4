"""Audits that somebody asked for, and what they came to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from msgspec import structs

from data_manager.domain.dataset import Series
from data_manager.domain.span import Span
from data_manager.services.audit import Audited, Auditor
from data_manager.services.runs import PATIENCE_S, Outcome, Runs, Tell

HOLES_MAX: Final = 10_000
"""Holes told at once."""

_TOLD: Final = ("series", "start_ms", "end_ms", "kind", "missing", "state")


async def _nothing() -> None:
    """Where findings are kept by who made the auditor."""


class Desk:
    """Takes requests for audits; see Runs.

    keep: writes what was reported, so that who was told that an audit is done finds its findings.
    """

    def __init__(
        self, auditor: Auditor, patience_s: float = PATIENCE_S, *, keep: Callable[[], Awaitable[None]] = _nothing
    ) -> None:
        self._auditor = auditor
        self._keep = keep
        self._runs = Runs[Audited]("audit", patience_s)
        self.outcome = self._runs.outcome
        self.close = self._runs.close

    async def ask(
        self, series: Sequence[Series] | None, span: Span | None, *, full: bool, patience_s: float | None = None
    ) -> Outcome[Audited]:
        """Audit them. Raises Conflict when too many such runs are under way, and what Auditor.run raises."""

        async def audit(tell: Tell) -> Audited:
            done = await self._auditor.run(series, span=span, full=full, progress=tell)
            await self._keep()
            return done

        return await self._runs.begin("audit", audit, patience_s=patience_s)


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
