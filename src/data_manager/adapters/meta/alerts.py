"""Alerts and their messages in SQL: what SqlMetaStore has of the port AlertStore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import ValidationError, json
from sqlalchemy import ColumnElement, and_, case, delete, func, literal_column, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.room import alone
from data_manager.adapters.meta.tables import alert_messages, alerts, findings, holes, upsert
from data_manager.domain.alert import Alert, Message
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.finding import Evidence, FindingKind, Severity
from data_manager.domain.holes.ledger import HoleState
from data_manager.ports.alerts import LiveHoles, OpenFindings

_AT_ONCE: Final = 500  # ids in one question
_TEXT_MAX: Final = 1_000
_RANKED: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
_UNTOLD: Final = (HoleState.HEALED.value, HoleState.SUSPECTED.value)
_EVIDENCE = json.Decoder(Evidence)
_MESSAGE = json.Decoder(Message)


class AlertsInSql:
    """See AlertStore. Mixed into SqlMetaStore, whose writes may be under a lease."""

    _database: Database

    async def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    async def open_findings(self) -> list[OpenFindings]:
        """See AlertStore.open_findings."""
        table = findings.c
        whose = (table.kind, table.series, table.stream)
        rank = case(*((table.severity == word, literal_column(str(at))) for at, word in enumerate(_RANKED)))
        asked = select(
            *whose,
            func.max(rank).label("rank"),
            func.count().label("count"),
            func.min(table.start_ms).label("start_ms"),
            func.max(table.found_ms).label("found_ms"),
        )
        wanted = and_(table.resolved_ms.is_(None), table.kind != FindingKind.HOLE.value, table.severity != _RANKED[0])
        async with self._database.reading() as connection:
            rows = await connection.execute(asked.where(wanted).group_by(*whose))
            return [_open_findings(row) for row in rows.mappings()]

    async def live_holes(self) -> list[LiveHoles]:
        """See AlertStore.live_holes."""
        table = holes.c
        asked = select(
            table.series,
            table.state,
            func.count().label("count"),
            func.coalesce(func.sum(table.missing), literal_column("0")).label("missing"),
            func.min(table.start_ms).label("start_ms"),
            func.max(table.end_ms).label("end_ms"),
            func.max(table.end_ms - table.start_ms).label("longest_ms"),
            func.max(table.found_ms).label("found_ms"),
        )
        asked = asked.where(table.state.not_in(_UNTOLD)).group_by(table.series, table.state)
        async with self._database.reading() as connection:
            rows = (await connection.execute(asked.order_by(table.series, table.state))).mappings().all()
        return [LiveHoles(**{**row, "state": _state(row["state"]), "missing": int(row["missing"])}) for row in rows]

    async def keep_alerts(self, given: Sequence[Alert], messages: Sequence[Message]) -> None:
        """See AlertStore.keep_alerts."""

        async def keep(connection: AsyncConnection) -> None:
            dialect = connection.dialect.name
            if given:
                put = upsert(dialect, alerts, lambda _, new: {name: new[name] for name in _CHANGES})
                await connection.execute(put, [_alert_row(one) for one in sorted(given, key=lambda one: one.id)])
            if messages:
                put = upsert(dialect, alert_messages, lambda _, new: {name: new[name] for name in ("due_ms", "body")})
                await connection.execute(put, [_message_row(one) for one in sorted(messages, key=lambda one: one.id)])

        if given or messages:
            await self._write(keep)

    async def alerts(
        self,
        *,
        limit: int,
        offset: int = 0,
        firing: bool | None = None,
        kind: str | None = None,
        series: str | None = None,
    ) -> tuple[list[Alert], int]:
        """See AlertStore.alerts."""
        table = alerts.c
        wanted: ColumnElement[bool] = true()
        if firing is not None:
            wanted = and_(wanted, table.resolved_ms.is_(None) if firing else table.resolved_ms.is_not(None))
        if kind is not None:
            wanted = and_(wanted, table.kind == kind)
        if series is not None:
            wanted = and_(wanted, table.series == series)
        page = select(alerts).where(wanted).order_by(table.fired_ms.desc(), table.id.desc())
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(alerts).where(wanted))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_alert(row) for row in rows.mappings()], total or 0

    async def alerts_to_judge(self, also: Sequence[str]) -> list[Alert]:
        """See AlertStore.alerts_to_judge."""
        table = alerts.c
        asked = select(alerts).where(or_(table.resolved_ms.is_(None), table.untold.is_not(None)))
        async with self._database.reading() as connection:
            found = {row["id"]: _alert(row) for row in (await connection.execute(asked)).mappings()}
            missing = sorted(set(also) - found.keys())
            for at in range(0, len(missing), _AT_ONCE):
                more = select(alerts).where(table.id.in_(missing[at : at + _AT_ONCE]))
                found |= {row["id"]: _alert(row) for row in (await connection.execute(more)).mappings()}
        return list(found.values())

    async def messages(self, *, limit: int, offset: int = 0) -> tuple[list[Message], int]:
        """See AlertStore.messages."""
        table = alert_messages.c
        page = select(alert_messages).order_by(table.at_ms.desc(), table.id.desc())
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(alert_messages))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_message(row) for row in rows.mappings()], total or 0

    async def messages_due(self, now_ms: int, limit: int) -> list[Message]:
        """See AlertStore.messages_due."""
        table = alert_messages.c
        asked = select(alert_messages).where(table.due_ms <= now_ms).order_by(table.at_ms, table.id).limit(limit)
        async with self._database.reading() as connection:
            return [_message(row) for row in (await connection.execute(asked)).mappings()]

    async def messages_made(self, since_ms: int) -> Mapping[str, int]:
        """See AlertStore.messages_made."""
        table = alert_messages.c
        asked = select(table.kind, func.count().label("made")).where(table.at_ms > since_ms).group_by(table.kind)
        async with self._database.reading() as connection:
            return {row.kind: row.made for row in (await connection.execute(asked)).all()}

    async def forget_alerts(self, before_ms: int, messages_max: int) -> int:
        """See AlertStore.forget_alerts."""
        over = and_(alerts.c.resolved_ms < before_ms, alerts.c.untold.is_(None))
        table = alert_messages.c
        done = table.due_ms.is_(None)

        async def forget(connection: AsyncConnection) -> int:
            gone = (await connection.execute(delete(alerts).where(over))).rowcount
            gone += (await connection.execute(delete(alert_messages).where(done, table.at_ms < before_ms))).rowcount
            held = await connection.scalar(select(func.count()).select_from(alert_messages)) or 0
            if held > messages_max and await alone(connection):
                oldest = select(table.at_ms).order_by(table.at_ms).offset(held - messages_max - 1).limit(1)
                last = await connection.scalar(oldest)
                gone += (await connection.execute(delete(alert_messages).where(done, table.at_ms <= last))).rowcount
            return gone

        return await self._write(forget)


_CHANGES: Final = [column.name for column in alerts.columns if column.name not in ("id", "kind", "series", "stream")]


def _open_findings(row: Mapping[Any, Any]) -> OpenFindings:
    values = {name: row[name] for name in OpenFindings.__struct_fields__ if name != "severity"}
    return OpenFindings(**values, severity=_RANKED[int(row["rank"] or 0)])


def _alert_row(alert: Alert) -> dict[str, Any]:
    row = {name: getattr(alert, name) for name in Alert.__struct_fields__}
    text = alert.text if len(alert.text) <= _TEXT_MAX else f"{alert.text[: _TEXT_MAX - 1]}…"
    return {**row, "text": text, "evidence": json.encode(alert.evidence).decode()}


def _alert(row: Mapping[Any, Any]) -> Alert:
    values = {name: row[name] for name in Alert.__struct_fields__}
    try:
        return Alert(**{**values, "evidence": _EVIDENCE.decode(row["evidence"])})
    except (ValidationError, ValueError) as error:
        raise Corrupt(f"alert {row['id']} cannot be read: {error}") from error


def _message_row(message: Message) -> dict[str, Any]:
    row = {name: getattr(message, name) for name in ("id", "at_ms", "kind", "due_ms")}
    return {**row, "body": json.encode(message)}


def _message(row: Mapping[Any, Any]) -> Message:
    try:
        return _MESSAGE.decode(row["body"])
    except (ValidationError, ValueError) as error:
        raise Corrupt(f"alert message {row['id']} cannot be read: {error}") from error


def _state(text: str) -> HoleState:
    try:
        return HoleState(text)
    except ValueError as error:
        raise Corrupt(f"holes in a state {text} cannot be read: {error}") from error


def _whole(number: int, field: str) -> int:
    if not 0 <= number < 2**63:
        raise BadQuery(field, number, "must be a whole number, 0 or more")
    return number
