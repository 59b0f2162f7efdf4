"""Findings on their way: into the log at once, into the metadata store as soon as it takes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.finding import Finding, FindingKind

_log = structlog.get_logger(__name__)
_AT_ONCE: Final = 1_000  # findings in one write
_LINES_MAX: Final = 20  # of the log at one report; the rest is one line
_SAID_MAX: Final = 10_000  # ids remembered, so that what grows is told once

KeepFindings = Callable[[Sequence[Finding]], Awaitable[None]]


class Reporter:
    """Takes findings from anywhere and never waits.

    lost: findings that found no room while the store was away. reason: why what waits could not be written, None when
    the last write went through.
    """

    def __init__(self, keep: KeepFindings, *, waiting_max: int = 10_000) -> None:
        self.lost = 0
        self.reason: str | None = None
        self._keep = keep
        self._waiting_max = waiting_max
        self._waiting: dict[str, Finding] = {}  # the newest version of each
        self._said: dict[str, bool] = {}  # id -> whether its end was told too

    @property
    def waiting(self) -> int:
        """Findings that are not in the store yet."""
        return len(self._waiting)

    def open_ones(self, kind: FindingKind) -> list[Finding]:
        """Open findings of that kind that are not in the store yet."""
        return [one for one in self._waiting.values() if one.kind is kind and one.open]

    def report(self, findings: Sequence[Finding]) -> None:
        """These are news, or newer versions of what was reported before."""
        self._tell([one for one in findings if self._is_news(one)])
        self._waiting.update((one.id, one) for one in findings)
        for finding_id in list(self._waiting)[: max(len(self._waiting) - self._waiting_max, 0)]:
            forgotten = self._waiting.pop(finding_id)
            self.lost += 1
            _log.error("a finding was lost: the metadata store is away for too long", **_fields(forgotten))

    async def keep(self) -> None:
        """Write what waits to the store; if that is away or damaged it goes on waiting."""
        while some := list(self._waiting.values())[:_AT_ONCE]:
            try:
                await self._keep(some)
            except (Unavailable, Corrupt) as error:
                if self.reason is None:
                    _log.warning("findings wait for the metadata store", waiting=self.waiting, reason=str(error))
                self.reason = str(error)
                return
            self.reason = None
            for one in some:
                if self._waiting.get(one.id) is one:  # no newer version came meanwhile
                    del self._waiting[one.id]

    def _is_news(self, finding: Finding) -> bool:
        over = not finding.open
        known = self._said.pop(finding.id, None)
        self._said[finding.id] = over
        if len(self._said) > _SAID_MAX:
            del self._said[next(iter(self._said))]
        return known is None or known != over

    def _tell(self, news: Sequence[Finding]) -> None:
        for one in news[:_LINES_MAX]:
            say = _log.info if not one.open else _log.error if one.severity == "critical" else _log.warning
            say("finding" if one.open else "finding resolved", **_fields(one))
        if len(news) > _LINES_MAX:
            _log.warning("more findings of the same moment", count=len(news) - _LINES_MAX)


def _fields(finding: Finding) -> dict[str, object]:
    fields = {
        "id": finding.id,
        "kind": finding.kind.value,
        "series": finding.series,
        "stream": finding.stream,
        "start_ms": finding.start_ms,
        "end_ms": finding.end_ms,
        "evidence": finding.evidence,
    }
    return {name: value for name, value in fields.items() if value is not None}
