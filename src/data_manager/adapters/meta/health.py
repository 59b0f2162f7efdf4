"""Health and the audit log in SQL: what SqlMetaStore has of the port HealthLog.

Both tables are the predecessor's: its columns are filled for those who read them, and its own rows are left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import ValidationError, json
from sqlalchemy import ColumnElement, Table, and_, case, delete, func, literal_column, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.predecessor import audit_logs, health_metrics
from data_manager.adapters.meta.room import alone
from data_manager.adapters.meta.tables import upsert
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.finding import Evidence
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, datetime_of
from data_manager.ports.health import AuditNote, Grain, HealthRow

_ALL: Final = "*"  # dataset and symbol of a note about all series
_INT_MAX: Final = 2**31 - 1
_NOW: Any = literal_column("'now'")
_UNKNOWN: Any = literal_column("101")  # better than any score: whatever is known takes its place
_EVIDENCE = json.Decoder(Evidence)


class HealthInSql:
    """See HealthLog. Mixed into SqlMetaStore, whose writes may be under a lease."""

    _database: Database

    async def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    async def keep_health(self, rows: Sequence[HealthRow]) -> None:
        """See HealthLog.keep_health."""
        given = sorted((_health_row(one) for one in rows), key=lambda row: str(row["metric_id"]))
        put = upsert(self._database.dialect, health_metrics, worse_stays)
        if given:
            await self._write(lambda connection: connection.execute(put, given))

    async def health_rows(self, series: str, grain: Grain, span: Span) -> list[HealthRow]:
        """See HealthLog.health_rows."""
        table = health_metrics.c
        wanted = and_(table.series == series, table.grain == grain, _within(table.slot_ms, span))
        async with self._database.reading() as connection:
            rows = await connection.execute(select(health_metrics).where(wanted).order_by(table.slot_ms))
            return [_health(row) for row in rows.mappings()]

    async def keep_notes(self, notes: Sequence[AuditNote]) -> None:
        """See HealthLog.keep_notes."""
        given = sorted((_note_row(one) for one in notes), key=lambda row: str(row["audit_id"]))
        put = upsert(self._database.dialect, audit_logs, lambda _, new: {name: new[name] for name in _REPLACED})
        if given:
            await self._write(lambda connection: connection.execute(put, given))

    async def notes(
        self,
        *,
        limit: int,
        offset: int = 0,
        kind: str | None = None,
        series: str | None = None,
        span: Span | None = None,
    ) -> tuple[list[AuditNote], int]:
        """See HealthLog.notes."""
        table = audit_logs.c
        wanted: ColumnElement[bool] = table.at_ms.is_not(None)  # the predecessor's rows are not ours to tell
        if kind is not None:
            wanted = and_(wanted, table.audit_type == kind)
        if series is not None:
            wanted = and_(wanted, table.series == series)
        if span is not None:
            wanted = and_(wanted, _within(table.at_ms, span))
        page = select(audit_logs).where(wanted).order_by(table.at_ms.desc(), table.audit_id.desc())
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(audit_logs).where(wanted))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_note(row) for row in rows.mappings()], total or 0

    async def checked_slots(self, span: Span) -> list[int]:
        """See HealthLog.checked_slots."""
        table = audit_logs.c
        wanted = and_(table.dataset_id == _ALL, table.audit_type == "health_check", _within(table.start_ms, span))
        async with self._database.reading() as connection:
            found = await connection.scalars(select(table.start_ms).where(wanted).order_by(table.start_ms))
            return [ms - ms % HOUR_MS for ms in found]

    async def newest_note_ms(self, kind: str) -> int | None:
        """See HealthLog.newest_note_ms."""
        async with self._database.reading() as connection:
            asked = select(func.max(audit_logs.c.at_ms)).where(audit_logs.c.audit_type == kind)
            found: int | None = await connection.scalar(asked)
        return found

    async def forget_health(self, *, hours_before_ms: int, before_ms: int, rows_max: int) -> int:
        """See HealthLog.forget_health."""
        health, log = health_metrics.c, audit_logs.c
        old_hours = and_(health.grain == "hour", health.slot_ms < hours_before_ms)
        old_days = and_(health.grain == "day", health.slot_ms < before_ms)

        async def forget(connection: AsyncConnection) -> int:
            gone = (await connection.execute(delete(health_metrics).where(or_(old_hours, old_days)))).rowcount
            gone += (await connection.execute(delete(audit_logs).where(log.at_ms < before_ms))).rowcount
            gone += await _make_room(connection, health_metrics, health.slot_ms, health.slot_ms > 0, rows_max)
            return gone + await _make_room(connection, audit_logs, log.at_ms, log.at_ms.is_not(None), rows_max)

        return await self._write(forget)


def worse_stays(held: Any, new: Any) -> Mapping[str, Any]:
    """A row meets the one of the same slot: what is now is replaced; of an hour or a day the worse one stays."""
    score = func.coalesce(held["quality_score"], _UNKNOWN)
    takes = or_(new["grain"] == _NOW, func.coalesce(new["quality_score"], _UNKNOWN) <= score)
    # MySQL compares what it has just assigned: the score comes last.
    names = (*_FIGURES, "timestamp", "at_ms", "quality_score")
    return {name: case((takes, new[name]), else_=held[name]) for name in names}


_FIGURES: Final = ("completeness", "freshness_seconds", "gaps_count", "duplicates_count", "consistency")
_REPLACED: Final = ("severity", "details", "timestamp", "start_ms", "end_ms", "result", "at_ms")


async def _make_room(
    connection: AsyncConnection, table: Table, age: ColumnElement[int], ours: ColumnElement[bool], rows_max: int
) -> int:
    """Remove the oldest beyond rows_max, as whole instants: those of one age go together."""
    count = select(func.count()).select_from(table).where(ours)
    held = await connection.scalar(count) or 0
    if held <= rows_max or not await alone(connection):
        return 0
    last = await connection.scalar(select(age).where(ours).order_by(age).offset(held - rows_max - 1).limit(1))
    return (await connection.execute(delete(table).where(ours, age <= last))).rowcount if last is not None else 0


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _health_row(one: HealthRow) -> dict[str, Any]:
    named = f"{one.series}\0{one.grain}\0{one.slot_ms}".encode("utf-8", "backslashreplace")
    return {
        "metric_id": hashlib.sha256(named).hexdigest(),
        **_whose(one.series),
        "timeframe": _interval(one.series),
        "completeness": one.completeness,
        "freshness_seconds": None if one.freshness_s is None else min(one.freshness_s, _INT_MAX),
        "gaps_count": one.gaps,
        "duplicates_count": one.duplicates,
        "consistency": one.consistency,
        "quality_score": one.score,
        "timestamp": datetime_of(one.at_ms),
        "at_ms": one.at_ms,
        "grain": one.grain,
        "slot_ms": one.slot_ms,
    }


def _health(row: Mapping[Any, Any]) -> HealthRow:
    return HealthRow(
        series=row["series"],
        grain=row["grain"],
        slot_ms=row["slot_ms"],
        at_ms=row["at_ms"],
        completeness=_percent(row["completeness"]),
        freshness_s=row["freshness_seconds"],
        gaps=row["gaps_count"],
        duplicates=row["duplicates_count"],
        consistency=_percent(row["consistency"]),
        score=_percent(row["quality_score"]),
    )


def _note_row(one: AuditNote) -> dict[str, Any]:
    return {
        "audit_id": one.id,
        **_whose(one.series),
        "audit_type": one.kind,
        "severity": one.severity,
        "details": json.encode(one.details).decode(),
        "timestamp": datetime_of(one.at_ms),
        "start_ms": one.start_ms,
        "end_ms": one.end_ms,
        "result": one.result,
        "at_ms": one.at_ms,
    }


def _note(row: Mapping[Any, Any]) -> AuditNote:
    try:
        details = _EVIDENCE.decode(row["details"] or "{}")
    except (ValidationError, ValueError) as error:
        raise Corrupt(f"note {row['audit_id']} of the audit log cannot be read: {error}") from error
    return AuditNote(
        id=row["audit_id"],
        kind=row["audit_type"],
        series=row["series"],
        severity=row["severity"],
        result=row["result"],
        details=details,
        start_ms=row["start_ms"],
        end_ms=row["end_ms"],
        at_ms=row["at_ms"],
    )


def _whose(series: str | None) -> dict[str, str | None]:
    """The columns that say which series it is; the predecessor's are shorter."""
    if series is None:
        return {"series": None, "dataset_id": _ALL, "symbol": _ALL}
    return {"series": series, "dataset_id": series[:64], "symbol": series.split(".")[2][:64]}


def _interval(series: str) -> str | None:
    return (series.split(".", 3) + [None] * 4)[3]


def _percent(held: Any) -> float | None:
    return None if held is None else float(held)


def _within(column: Any, span: Span) -> ColumnElement[bool]:
    return and_(true(), column >= span.start_ms, column < span.end_ms)


def _whole(number: int, field: str) -> int:
    if not 0 <= number < 2**63:
        raise BadQuery(field, number, "must be a whole number, 0 or more")
    return number
