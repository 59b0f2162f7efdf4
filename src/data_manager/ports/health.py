"""The port behind health: what it was, and what was looked at. Beside MetaStore, by the same adapters.

Two of the predecessor's tables, kept small: health is written when it changed, not each time it is looked at.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from data_manager.domain.finding import Evidence
from data_manager.domain.span import Span

Grain = Literal["now", "hour", "day"]


class HealthRow(Struct, frozen=True, kw_only=True):
    """The health of one series as it was at at_ms. Shares are in per cent; None is not known.

    grain now: the latest. hour, day: the worst that was known of the hour or day that begins at slot_ms (0 for now).
    """

    series: str
    grain: Grain
    slot_ms: int
    at_ms: int
    completeness: float | None
    freshness_s: int | None
    gaps: int | None
    duplicates: int | None
    consistency: float | None
    score: float | None


class AuditNote(Struct, frozen=True, kw_only=True):
    """One row of the audit log; the same id again replaces it. series None: about all of them.

    severity: high, medium or None where nothing is wrong. result: pass, warn, fail or unknown.
    """

    id: str
    kind: Literal["gap", "health_check"]
    series: str | None
    severity: Literal["high", "medium"] | None
    result: Literal["pass", "warn", "fail", "unknown"]
    details: Evidence
    start_ms: int
    end_ms: int
    at_ms: int


class HealthLog(Protocol):
    """Raises Unavailable and Corrupt like the rest of the metadata."""

    async def keep_health(self, rows: Sequence[HealthRow]) -> None:
        """Keep these, durable on return. Of an hour or a day what is worse stays, and anything rather than unknown."""
        ...

    async def health_rows(self, series: str, grain: Grain, span: Span) -> list[HealthRow]:
        """Those of a series whose slot begins in span, in order."""
        ...

    async def keep_notes(self, notes: Sequence[AuditNote]) -> None:
        """Keep these in the audit log, durable on return."""
        ...

    async def notes(
        self,
        *,
        limit: int,
        offset: int = 0,
        kind: str | None = None,
        series: str | None = None,
        span: Span | None = None,
    ) -> tuple[list[AuditNote], int]:
        """A page of the audit log, the newest first, and how many there are in all. span: of at_ms."""
        ...

    async def checked_slots(self, span: Span) -> list[int]:
        """Beginnings of the hours in span in which the health of all series was looked at, in order."""
        ...

    async def newest_note_ms(self, kind: str) -> int | None:
        """When the newest note of that kind is from; None when there is none."""
        ...

    async def forget_health(self, *, hours_before_ms: int, before_ms: int, rows_max: int) -> int:
        """Remove rows of hours and of days that lie before these instants, notes before before_ms, and of either table
        the oldest beyond rows_max; how many went. What is now stays."""
        ...
