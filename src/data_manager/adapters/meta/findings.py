"""Findings in SQL: how a version meets the one that is held, and who makes room."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from msgspec import json
from sqlalchemy import ColumnElement, and_, bindparam, case, delete, func, literal_column, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.room import alone
from data_manager.adapters.meta.tables import findings, upsert
from data_manager.domain.errors import Corrupt
from data_manager.domain.finding import Evidence, Finding, FindingKind

_NONE: Any = literal_column("-1")
_NEWEST_FIRST = (findings.c.found_ms.desc(), findings.c.id.desc())
_EVIDENCE = json.Decoder(Evidence)
_log = structlog.get_logger(__name__)


async def keep(connection: AsyncConnection, given: Sequence[Finding], rows_max: int) -> None:
    """Enter the findings, in order of id: writers that take locks in one order cannot wait for each other."""
    rows = [_row(one) for one in sorted(given, key=lambda one: one.id)]
    await connection.execute(upsert(connection.dialect.name, findings, advance), rows)
    await _make_room(connection, rows_max)


def advance(held: Any, new: Any) -> Mapping[str, Any]:
    """A version meets the one that is held: the higher one stands, and of one that is no higher the one told later.

    Without a version, who is resolved knows more, and who ends later; then who comes later. Found is when it was found
    first, or again after it was over.
    """

    def rank(row: Any, name: str) -> Any:
        return func.coalesce(row[name], _NONE)

    numbered = new["version"].is_not(None)
    later = and_(numbered, rank(new, "version") >= rank(held, "version"))
    earlier = and_(numbered, ~later)
    same = rank(new, "resolved_ms") == rank(held, "resolved_ms")
    over = rank(new, "resolved_ms") > rank(held, "resolved_ms")
    knows_more = or_(over, and_(same, rank(new, "end_ms") >= rank(held, "end_ms")))
    again = and_(later, held["resolved_ms"].is_not(None), new["resolved_ms"].is_(None))

    def advanced(name: str, is_news: ColumnElement[bool]) -> Any:
        return case((later, new[name]), (earlier, held[name]), (is_news, new[name]), else_=held[name])

    return {
        "found_ms": case((again, new["found_ms"]), else_=held["found_ms"]),
        **{name: advanced(name, knows_more) for name in ("severity", "evidence")},
        **{name: advanced(name, rank(new, name) > rank(held, name)) for name in ("end_ms", "resolved_ms")},
        **{name: case((later, new[name]), else_=held[name]) for name in ("start_ms", "version")},
    }


async def page(
    connection: AsyncConnection,
    *,
    limit: int,
    offset: int,
    kind: FindingKind | None,
    series: str | None,
    is_open: bool | None,
) -> tuple[list[Finding], int]:
    """See MetaStore.findings. is_open None: those that stand and those that are over."""
    wanted: ColumnElement[bool] = true()
    if kind is not None:
        wanted = and_(wanted, findings.c.kind == kind.value)
    if series is not None:
        wanted = and_(wanted, findings.c.series == series)
    if is_open is not None:
        none = findings.c.resolved_ms.is_(None)
        wanted = and_(wanted, none if is_open else ~none)
    total = await connection.scalar(select(func.count()).select_from(findings).where(wanted))
    found = select(findings).where(wanted).order_by(*_NEWEST_FIRST).limit(limit).offset(offset)
    return [_finding(row) for row in (await connection.execute(found)).mappings()], total or 0


async def _make_room(connection: AsyncConnection, rows_max: int) -> None:
    count = select(func.count()).select_from(findings)
    if (await connection.scalar(count) or 0) <= rows_max or not await alone(connection):
        return
    held = await connection.scalar(count) or 0  # who made room until now has ended
    if held <= rows_max:
        return
    resolved_first = (findings.c.resolved_ms.is_(None), findings.c.found_ms, findings.c.id)
    order = select(findings.c.id, findings.c.resolved_ms).order_by(*resolved_first).limit(held - rows_max)
    leaving = (await connection.execute(order)).all()
    forget = delete(findings).where(findings.c.id == bindparam("finding_id"))
    await connection.execute(forget, [{"finding_id": row.id} for row in leaving])
    still_open = sum(row.resolved_ms is None for row in leaving)
    if still_open:
        _log.error("open findings were forgotten for want of room", count=still_open, rows_max=rows_max)


def _row(finding: Finding) -> dict[str, Any]:
    row = {name: getattr(finding, name) for name in Finding.__struct_fields__}
    return {**row, "kind": finding.kind.value, "evidence": json.encode(finding.evidence).decode()}


def _finding(row: Mapping[Any, Any]) -> Finding:
    try:
        kind, evidence = FindingKind(row["kind"]), _EVIDENCE.decode(row["evidence"])
    except ValueError as error:  # msgspec's are ValueErrors too
        raise Corrupt(f"finding {row['id']} cannot be read: {error}") from error
    return Finding(**{**row, "kind": kind, "evidence": evidence})
