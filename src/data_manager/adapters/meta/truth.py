"""Coverage, holes, lives and certificates in SQL: what SqlMetaStore has of the port TruthStore.

A series is one row of `coverage` with a version of its own; its holes are rows of `holes`. A change is entered only on
top of the version it started from, ledger and coverage in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, TypeVar

from msgspec import ValidationError, json
from msgspec.structs import asdict
from sqlalchemy import ColumnElement, and_, bindparam, case, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.tables import certificates, coverage, holes, lives, upsert
from data_manager.domain.condition.coverage import Audited
from data_manager.domain.condition.partition import Flaw, Life
from data_manager.domain.condition.truth import Mark, SeriesTruth, TruthChange
from data_manager.domain.errors import BadQuery, Conflict, Corrupt
from data_manager.domain.holes.ledger import HoleState, LedgerEntry, Step
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.proof.certificate import Certificate, Ref
from data_manager.domain.retention import LetGo
from data_manager.domain.span import Span

_AT_ONCE: Final = 500  # names in one question
_IN_TIME: Final = (holes.c.series, holes.c.start_ms, holes.c.id)
_NEWEST_FIRST: Final = (certificates.c.issued_ms.desc(), certificates.c.id.desc())
_SPANS = json.Decoder(tuple[Audited, ...])
_FLAWS = json.Decoder(tuple[Flaw, ...])
_GONE = json.Decoder(tuple[LetGo, ...])
_HALTS = json.Decoder(tuple[tuple[int, int], ...])
_STEPS = json.Decoder(tuple[Step, ...])
_CERTIFICATE = json.Decoder(Certificate)
_RENAMED: Final = {"after": "after_key", "before": "before_key"}
V = TypeVar("V")


class TruthInSql:
    """See TruthStore. Mixed into SqlMetaStore, whose writes may be under a lease."""

    _database: Database

    async def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    async def truth_versions(self) -> Mapping[str, int]:
        """See TruthStore.truth_versions."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(coverage.c.series, coverage.c.version))).all()
        return {row.series: row.version for row in rows}

    async def truth_state(self) -> int:
        """See TruthStore.truth_state. Versions only rise, and no series is ever removed."""
        async with self._database.reading() as connection:
            return int(await connection.scalar(select(func.sum(coverage.c.version))) or 0)

    async def truths(self, series: Sequence[str] | None = None) -> list[SeriesTruth]:
        """See TruthStore.truths."""
        found: list[SeriesTruth] = []
        async with self._database.reading() as connection:
            for names in [None] if series is None else _parts(sorted(set(series))):
                found += await _truths(connection, names)
        return found

    async def keep_truths(self, changes: Sequence[TruthChange]) -> None:
        """See TruthStore.keep_truths."""
        ordered = sorted(changes, key=attrgetter("series"))
        assert len({one.series for one in ordered}) == len(ordered), "one change per series"
        if ordered:
            await self._write(lambda connection: _keep(connection, ordered))

    async def holes(
        self,
        *,
        limit: int,
        offset: int = 0,
        series: str | None = None,
        states: Sequence[HoleState] = (),
        span: Span | None = None,
    ) -> tuple[list[LedgerEntry], int]:
        """See TruthStore.holes."""
        wanted: ColumnElement[bool] = true()
        if series is not None:
            wanted = and_(wanted, holes.c.series == series)
        if states:
            wanted = and_(wanted, holes.c.state.in_([state.value for state in states]))
        if span is not None:
            wanted = and_(wanted, holes.c.start_ms < span.end_ms, holes.c.end_ms > span.start_ms)
        page = select(holes).where(wanted).order_by(*_IN_TIME)
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(holes).where(wanted))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_entry(row) for row in rows.mappings()], total or 0

    async def lives(self) -> list[SymbolLife]:
        """See TruthStore.lives."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(select(lives).order_by(lives.c.market, lives.c.symbol))).mappings().all()
        return [_life(row) for row in rows]

    async def keep_lives(self, told: Sequence[SymbolLife]) -> None:
        """See TruthStore.keep_lives."""
        if told:
            put = upsert(self._database.dialect, lives, _later_life)
            rows = [_life_row(one) for one in sorted(told, key=lambda one: (one.market, one.symbol))]
            await self._write(lambda connection: connection.execute(put, rows))

    async def keep_certificate(self, certificate: Certificate) -> None:
        """See TruthStore.keep_certificate."""
        names = [column.name for column in certificates.columns if column.name != "body"]
        row = {name: getattr(certificate, name) for name in names}
        put = upsert(self._database.dialect, certificates, lambda held, new: {"body": held["body"]})

        async def keep(connection: AsyncConnection) -> None:
            if await _follows(connection, certificate):
                await connection.execute(put, {**row, "body": json.encode(certificate)})

        await self._write(keep)

    async def certificates(
        self, *, limit: int, offset: int = 0, series: str | None = None, span: Span | None = None
    ) -> tuple[list[Certificate], int]:
        """See TruthStore.certificates."""
        wanted: ColumnElement[bool] = true() if series is None else certificates.c.series == series
        if span is not None:
            wanted = and_(wanted, certificates.c.start_ms < span.end_ms, certificates.c.end_ms > span.start_ms)
        page = select(certificates).where(wanted).order_by(*_NEWEST_FIRST)
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(certificates).where(wanted))
            rows = await connection.execute(page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset")))
            return [_certificate(row) for row in rows.mappings()], total or 0

    async def certificate_refs(self, *, series: str | None = None, from_ms: int = 0) -> list[Ref]:
        """See TruthStore.certificate_refs."""
        names = [certificates.c[name] for name in Ref.__struct_fields__]
        wanted: ColumnElement[bool] = certificates.c.issued_ms >= from_ms
        if series is not None:
            wanted = and_(wanted, certificates.c.series == series)
        asked = select(*names).where(wanted).order_by(certificates.c.issued_ms, certificates.c.id)
        async with self._database.reading() as connection:
            return [Ref(**row) for row in (await connection.execute(asked)).mappings()]

    async def certificate(self, certificate_id: str) -> Certificate | None:
        """See TruthStore.certificate."""
        begins = and_(certificates.c.id >= certificate_id, certificates.c.id < f"{certificate_id}~")
        asked = select(certificates).where(begins).order_by(certificates.c.id).limit(2)
        async with self._database.reading() as connection:
            rows = (await connection.execute(asked)).mappings().all()
        if len(rows) > 1 and rows[0]["id"] != certificate_id:
            raise BadQuery("certificate", certificate_id, "is how several ids begin: give more of it")
        return _certificate(rows[0]) if rows else None


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _truths(connection: AsyncConnection, names: Sequence[str] | None) -> list[SeriesTruth]:
    series, ledger = select(coverage), select(holes)
    if names is not None:
        series, ledger = series.where(coverage.c.series.in_(names)), ledger.where(holes.c.series.in_(names))
    rows = (await connection.execute(series.order_by(coverage.c.series))).mappings().all()
    entries = (await connection.execute(ledger.order_by(*_IN_TIME))).mappings()
    of_series = {name: tuple(group) for name, group in groupby(entries, key=itemgetter("series"))}
    return [_readable(row, of_series.get(row["series"], ())) for row in rows]


def _readable(row: Mapping[Any, Any], entries: Sequence[Mapping[Any, Any]]) -> SeriesTruth:
    try:
        return _truth(row, tuple(map(_entry, entries)))
    except Corrupt as error:
        return SeriesTruth(series=row["series"], version=row["version"], unreadable=str(error))


def _truth(row: Mapping[Any, Any], entries: tuple[LedgerEntry, ...]) -> SeriesTruth:
    what = f"coverage of {row['series']}"
    return SeriesTruth(
        series=row["series"],
        version=row["version"],
        mark=Mark(**{name: row[name] for name in Mark.__struct_fields__}),
        coverage=_decoded(_SPANS, row["spans"], what),
        flaws=_decoded(_FLAWS, row["flaws"], what),
        let_go=() if row["let_go"] is None else _decoded(_GONE, row["let_go"], what),
        holes=entries,
    )


def _entry(row: Mapping[Any, Any]) -> LedgerEntry:
    values = {name: row[_RENAMED.get(name, name)] for name in LedgerEntry.__struct_fields__}
    try:
        state = HoleState(row["state"])
    except ValueError as error:
        raise Corrupt(f"hole {row['id']} cannot be read: {error}") from error
    history = _decoded(_STEPS, row["history"], f"hole {row['id']}")
    return LedgerEntry(**{**values, "state": state, "history": history})


def _life(row: Mapping[Any, Any]) -> SymbolLife:
    halts = _decoded(_HALTS, row["halts"], f"the life of {row['market']} {row['symbol']}")
    life = Life(row["listed_ms"], row["delisted_ms"], tuple(Span(*halt) for halt in halts))
    names = ("market", "symbol", "source", "told_ms")
    return SymbolLife(life=life, **{name: row[name] for name in names})


def _life_row(one: SymbolLife) -> dict[str, Any]:
    halts = json.encode([(halt.start_ms, halt.end_ms) for halt in one.life.halts])
    bounds = {"listed_ms": one.life.listed_ms, "delisted_ms": one.life.delisted_ms, "halts": halts}
    return {"market": one.market, "symbol": one.symbol, **bounds, "source": one.source[:64], "told_ms": one.told_ms}


def _later_life(held: Any, new: Any) -> Mapping[str, Any]:
    """What was told later stands. told_ms last: MySQL compares what it has just assigned."""
    later = new["told_ms"] >= held["told_ms"]
    names = ("listed_ms", "delisted_ms", "halts", "source", "told_ms")
    return {name: case((later, new[name]), else_=held[name]) for name in names}


def _certificate(row: Mapping[Any, Any]) -> Certificate:
    return _decoded(_CERTIFICATE, row["body"], f"certificate {row['id']}")


def _decoded(decoder: json.Decoder[V], body: bytes, what: str) -> V:
    try:
        return decoder.decode(body)
    except (ValidationError, ValueError) as error:
        raise Corrupt(f"{what} cannot be read: {error}") from error


async def _follows(connection: AsyncConnection, certificate: Certificate) -> bool:
    """Whether it is new. Raises Conflict when it does not follow upon the newest of its series."""
    mine = certificates.c.series == certificate.series
    known = select(certificates.c.id).where(certificates.c.id == certificate.id)
    if await connection.scalar(known) is not None:
        return False
    newest = select(certificates.c.id).where(mine).order_by(*_NEWEST_FIRST).limit(1).with_for_update()
    held = await connection.scalar(newest)
    if held != certificate.previous:
        raise Conflict(f"{certificate.series} was certified by somebody else meanwhile: nothing was kept")
    return True


# ── Writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _keep(connection: AsyncConnection, changes: Sequence[TruthChange]) -> None:
    """In order of series: writers that take their locks in one order cannot wait for each other."""
    held = await _held(connection, [one.series for one in changes])
    for one in changes:
        if held.get(one.series, 0) != one.version:
            raise Conflict(f"{one.series} was audited by somebody else meanwhile: nothing was entered")
    await _keep_coverage(connection, changes)
    afresh = [one.series for one in changes if one.afresh]
    for some in _parts(afresh):
        await connection.execute(delete(holes).where(holes.c.series.in_(some)))
    gone = [entry_id for one in changes for entry_id in one.absorbed]
    if gone:
        forget = delete(holes).where(holes.c.id == bindparam("entry_id"))
        await connection.execute(forget, [{"entry_id": entry_id} for entry_id in sorted(gone)])
    entries = sorted((entry for one in changes for entry in one.entries), key=attrgetter("id"))
    if entries:
        put = upsert(connection.dialect.name, holes, lambda held, new: {name: new[name] for name in _CHANGES})
        await connection.execute(put, [_entry_row(entry) for entry in entries])


_CHANGES: Final = [column.name for column in holes.columns if column.name not in ("id", "series")]


async def _held(connection: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
    """Versions, which nobody else changes until the commit."""
    found: dict[str, int] = {}
    for some in _parts(names):
        asked = select(coverage.c.series, coverage.c.version).where(coverage.c.series.in_(some)).with_for_update()
        found |= {row.series: row.version for row in (await connection.execute(asked)).all()}
    return found


async def _keep_coverage(connection: AsyncConnection, changes: Sequence[TruthChange]) -> None:
    rows = [_coverage_row(one) for one in changes]
    fresh, known = [row for row in rows if row["version"] == 1], [row for row in rows if row["version"] > 1]
    if fresh:
        try:
            await connection.execute(insert(coverage), fresh)
        except IntegrityError as error:
            raise Conflict("a series was audited by somebody else meanwhile: nothing was entered") from error
    if known:
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in known[0] if name != "series"}
        change = update(coverage).where(coverage.c.series == bindparam("new_series")).values(values)
        await connection.execute(change, [{f"new_{name}": value for name, value in row.items()} for row in known])


def _coverage_row(change: TruthChange) -> dict[str, Any]:
    return {
        "series": change.series,
        "version": change.version + 1,
        **asdict(change.mark),
        "spans": json.encode(change.coverage),
        "flaws": json.encode(change.flaws),
        "let_go": json.encode(change.let_go) if change.let_go else None,
    }


def _entry_row(entry: LedgerEntry) -> dict[str, Any]:
    row = {_RENAMED.get(name, name): getattr(entry, name) for name in LedgerEntry.__struct_fields__}
    return {**row, "state": entry.state.value, "history": json.encode(entry.history)}


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[at : at + _AT_ONCE] for at in range(0, len(names), _AT_ONCE))


def _whole(number: int, field: str) -> int:
    if not 0 <= number < 2**63:
        raise BadQuery(field, number, "must be a whole number, 0 or more")
    return number
