"""A replica of another release: it notices that the databases are laid out for another one while it runs, and says so.

At opening such a process ends with a line. One that runs already when a later release migrates the databases goes on
living: its writes there are refused (Outdated), whoever may write is not ready, and this is a finding until the process
ends or the databases are its own again. What a killed one leaves behind is ended by whoever leads.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import structlog
from msgspec.structs import replace

from data_manager import __version__
from data_manager.domain.errors import Outdated, Unavailable
from data_manager.domain.finding import Evidence, Finding, FindingKind, found
from data_manager.domain.time import MINUTE_MS
from data_manager.ports import Clock, MetaStore, SeriesStore
from data_manager.services.reporting import Reporter

_PATIENCE_S = 2.0
_FRESH_MS = MINUTE_MS  # so often it says that it is still there
_GONE_MS = 5 * MINUTE_MS  # who has not said so for this long is not there any more
_log = structlog.get_logger(__name__)


class Release:
    """Looks whether what we write is still wanted. reasons: why not, by database; look() now and then."""

    def __init__(self, store: SeriesStore, meta: MetaStore, reporter: Reporter, clock: Clock) -> None:
        self.reasons: dict[str, str] = {}
        self._asked: dict[str, Callable[[], Awaitable[bool]]] = {"rows": store.healthy, "metadata": meta.healthy}
        self._reporter = reporter
        self._clock = clock
        self._findings: dict[str, Finding] = {}

    async def look(self) -> None:
        """Ask both databases. One that does not answer has not changed, as far as anybody knows."""
        for database, healthy in self._asked.items():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await healthy()
            except Outdated as error:
                self._wrong(database, str(error))
            except (Unavailable, TimeoutError):
                pass
            else:
                self._right(database)

    def end(self) -> None:
        """The process ends, and with it what it found about itself."""
        for database in list(self._findings):
            self._right(database)

    def _wrong(self, database: str, reason: str) -> None:
        now_ms = self._clock.now_ms()
        if database not in self.reasons:
            _log.error("of another release", database=database, reason=reason)
        self.reasons[database] = reason
        known = self._findings.get(database)
        process = f"{socket.gethostname()[:80]}.{os.getpid()}"
        evidence: Evidence = {
            "database": database,
            "why": reason,
            "release": __version__,
            "process": process,
            "seen_ms": now_ms,
        }
        if known is None:
            known = found(
                FindingKind.OUTDATED, severity="critical", start_ms=now_ms, evidence=evidence, found_ms=now_ms
            )
        elif now_ms - seen_ms(known) < _FRESH_MS:
            return
        self._findings[database] = replace(known, evidence={**known.evidence, "seen_ms": now_ms})
        self._reporter.report([self._findings[database]])

    def _right(self, database: str) -> None:
        self.reasons.pop(database, None)
        known = self._findings.pop(database, None)
        if known is not None:
            now_ms = self._clock.now_ms()
            self._reporter.report([known.resolved(now_ms, now_ms)])


def seen_ms(finding: Finding) -> int:
    """When the process that a finding is about was there last."""
    seen = finding.evidence.get("seen_ms")
    return seen if isinstance(seen, int) else finding.found_ms


def left_behind(standing: Sequence[Finding], now_ms: int) -> list[Finding]:
    """Of those that stand, the ones whose process is gone, as resolved."""
    return [one.resolved(now_ms, seen_ms(one)) for one in standing if now_ms - seen_ms(one) > _GONE_MS]
