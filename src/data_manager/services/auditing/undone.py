"""Audits that could not be done: what they leave unknown, who is told, and until when that stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from data_manager.domain.condition.coverage import Result
from data_manager.domain.errors import Corrupt, DamagedRows
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.span import Span
from data_manager.ports import MetaStore
from data_manager.services.auditing.entering import Entering
from data_manager.services.auditing.looking import Looked
from data_manager.services.auditing.telling import not_done

_KINDS: Final = (FindingKind.UNAUDITED, FindingKind.CORRUPT)
_FINDINGS_MAX: Final = 10_000
_log = structlog.get_logger(__name__)


class Undone:
    """Keeps the findings that tell of it, by series, as long as they stand. failures: since the start, by error."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self._open: dict[str, list[Finding]] = {}
        self._learnt = False

    async def learn(self, meta: MetaStore) -> None:
        """Findings that an earlier life of ours left open; once."""
        if self._learnt:
            return
        for kind in _KINDS:
            for one in (await meta.findings(limit=_FINDINGS_MAX, kind=kind, open_only=True))[0]:
                self._open.setdefault(one.series or "", []).append(one)
        self._learnt = True

    def open_of(self, name: str) -> Sequence[Finding]:
        """Those of one series that stand."""
        return self._open.get(name, ())

    def failed(self, name: str, looked: Looked, error: Exception, now_ms: int) -> list[Finding]:
        """Nothing is known of what the audit was about to judge: entered as such, and told why."""
        self.failures[type(error).__name__] += 1
        _log.error("an audit could not be done", series=name, reason=str(error), exc_info=error)
        span = looked.span or _all_of(looked.entering, now_ms)
        looked.entering.enter_unknown(span)
        kind = FindingKind.CORRUPT if isinstance(error, Corrupt) else FindingKind.UNAUDITED
        finding = not_done(name, span, kind, str(error) or type(error).__name__, now_ms, looked.entering.version)
        self._open.setdefault(name, []).append(finding)
        return [finding]

    def unreadable(self, name: str, why: str, now_ms: int, version: int) -> list[Finding]:
        """What was known of a series could not be read, so all of it was audited anew: it is over when it is told."""
        self.failures[Corrupt.__name__] += 1
        _log.error("what was known of a series cannot be read: it is audited anew", series=name, reason=why)
        finding = not_done(name, Span(now_ms - 1, now_ms), FindingKind.CORRUPT, why, now_ms, version)
        return [finding.resolved(now_ms, now_ms)]

    def damaged(self, name: str, damaged: Sequence[DamagedRows], now_ms: int, version: int) -> list[Finding]:
        """Rows that cannot be read, amid others that were audited: told unless that stands already."""
        known = {one.id for one in self._open.get(name, ())}
        news = []
        for one in damaged:
            self.failures[type(one).__name__] += 1
            _log.error("rows cannot be read", series=name, start_ms=one.start_ms, end_ms=one.end_ms, reason=str(one))
            finding = not_done(name, Span(one.start_ms, one.end_ms), FindingKind.CORRUPT, str(one), now_ms, version)
            if finding.id not in known:
                news.append(finding)
        if news:
            self._open.setdefault(name, []).extend(news)
        return news

    def done(self, name: str, entering: Entering, now_ms: int) -> list[Finding]:
        """What could not be audited once and is known now."""
        unknown = [one for one in entering.coverage if one.result is Result.UNKNOWN]
        over: list[Finding] = []
        stand: list[Finding] = []
        for one in self._open.pop(name, ()):
            end_ms = now_ms if one.end_ms is None else one.end_ms
            still = any(part.start_ms < end_ms and one.start_ms < part.end_ms for part in unknown)
            (stand if still else over).append(one)
        if stand:
            self._open[name] = stand
        return [replace(one.resolved(now_ms, now_ms), version=entering.version) for one in over]


def _all_of(entering: Entering, now_ms: int) -> Span:
    """All that was audited up to now; where nothing was, this moment."""
    covered = entering.coverage
    if not covered:
        return Span(now_ms - 1, now_ms)
    return Span(covered[0].start_ms, max(covered[-1].end_ms, now_ms))
