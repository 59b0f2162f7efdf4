"""Lineage in SQL: what SqlMetaStore has of the port LineageStore, in the predecessor's table.

Rows that the predecessor left behind name no series of ours: they stay, and nobody takes them for steps of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import ValidationError, json
from sqlalchemy import ColumnElement, and_, func, select

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.predecessor import lineage_records as steps
from data_manager.adapters.meta.tables import upsert
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.lineage import Details, LineageRecord
from data_manager.domain.span import Span
from data_manager.domain.time import datetime_of

_NEWEST_FIRST: Final = (steps.c.at_ms.desc(), steps.c.start_ms.desc(), steps.c.lineage_id)
_DETAILS = json.Decoder(Details)
_INT_MAX: Final = 2**31 - 1  # of the predecessor's columns; the details have the whole number


class LineageInSql:
    """See LineageStore. Mixed into SqlMetaStore, whose writes may be under a lease."""

    _database: Database

    async def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    async def keep_lineage(self, records: Sequence[LineageRecord]) -> None:
        """See LineageStore.keep_lineage."""
        rows = {one.id: _row(one) for one in records}
        if not rows:
            return
        put = upsert(self._database.dialect, steps, lambda held, new: {name: new[name] for name in _CHANGES})
        await self._write(lambda connection: connection.execute(put, [rows[one] for one in sorted(rows)]))

    async def lineage(
        self,
        *,
        limit: int,
        offset: int = 0,
        series: str | None = None,
        transformation: str | None = None,
        span: Span | None = None,
        under_way: bool = False,
    ) -> tuple[list[LineageRecord], int]:
        """See LineageStore.lineage."""
        wanted: ColumnElement[bool] = steps.c.at_ms.is_not(None)
        if series is not None:
            wanted = and_(wanted, steps.c.series == series)
        if transformation is not None:
            wanted = and_(wanted, steps.c.transformation == transformation)
        if span is not None:
            wanted = and_(wanted, steps.c.start_ms < span.end_ms, steps.c.end_ms > span.start_ms)
        if under_way:
            wanted = and_(wanted, steps.c.output_records.is_(None))
        page = select(steps).where(wanted).order_by(*_NEWEST_FIRST)
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(steps).where(wanted))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_record(row) for row in rows.mappings()], total or 0


_CHANGES: Final = ("input_records", "output_records", "details", "at_ms", "timestamp")


def _row(one: LineageRecord) -> dict[str, Any]:
    details = {"rows_in": one.rows_in, "rows_out": one.rows_out, **one.details}
    return {
        "lineage_id": one.id,
        "dataset_id": one.series[:64],
        "source_dataset_id": None if one.source is None else one.source[:64],
        "transformation": one.transformation,
        "input_records": None if one.rows_in is None else min(one.rows_in, _INT_MAX),
        "output_records": None if one.rows_out is None else min(one.rows_out, _INT_MAX),
        "timestamp": datetime_of(one.at_ms),
        "series": one.series,
        "start_ms": one.start_ms,
        "end_ms": one.end_ms,
        "details": json.encode(details).decode(),
        "at_ms": one.at_ms,
    }


def _record(row: Mapping[Any, Any]) -> LineageRecord:
    try:
        details = _DETAILS.decode(row["details"])
        counts = {name: None if (told := details.pop(name)) is None else int(told) for name in ("rows_in", "rows_out")}
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"lineage record {row['lineage_id']} cannot be read: {error}") from error
    return LineageRecord(
        id=row["lineage_id"],
        series=row["series"],
        transformation=row["transformation"],
        start_ms=row["start_ms"],
        end_ms=row["end_ms"],
        source=row["source_dataset_id"],
        details=details,
        at_ms=row["at_ms"],
        **counts,
    )


def _whole(number: int, field: str) -> int:
    if not 0 <= number < 2**63:
        raise BadQuery(field, number, "must be a whole number, 0 or more")
    return number
