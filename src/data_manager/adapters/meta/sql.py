"""The MetaStore port on SQL: SQLite on one machine, MySQL or MariaDB for a team, one code for both."""

import asyncio
import codecs
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, bindparam, case, delete, func, literal_column, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta import findings as kept_findings
from data_manager.adapters.meta import leases
from data_manager.adapters.meta.alerts import AlertsInSql
from data_manager.adapters.meta.database import Database, T, Work, connect
from data_manager.adapters.meta.digests import DigestsInSql
from data_manager.adapters.meta.health import HealthInSql
from data_manager.adapters.meta.jobs import JobsInSql
from data_manager.adapters.meta.lineage import LineageInSql
from data_manager.adapters.meta.rights import require_rights
from data_manager.adapters.meta.room import alone
from data_manager.adapters.meta.tables import REVISION, datasets, dead_letters, upsert
from data_manager.adapters.meta.truth import TruthInSql
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, BadSetting, Corrupt, Unavailable
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.time import datetime_of
from data_manager.ports import DeadLetter, KeptDeadLetter, Lease, LeaseState, SeriesStatistics

KIB, MIB = 2**10, 2**20
_SAMPLE_BYTES = 200
_HEALTHY_S = 2.0  # who takes longer for a trivial question is not well
_LOOK_LEAST, _LOOK_MOST = 256, 10_000  # oldest dead letters looked at in one go, when some have to leave


class DeadBounds(Struct, frozen=True):
    """How much of the dead letters is kept: rows, bytes of payload over all rows, and bytes of one payload."""

    letters_max: int
    bytes_max: int
    payload_bytes_max: int

    def __post_init__(self) -> None:
        if self.letters_max < 1:
            raise BadSetting("dead_letters_max", self.letters_max, "must be 1 or more")
        if not 0 <= self.payload_bytes_max <= min(self.bytes_max, 16 * MIB - 1):
            raise BadSetting(
                "payload_bytes_max", self.payload_bytes_max, "must be 0 to dead_bytes_max and below 16 MiB"
            )


async def open_meta(
    url: str,
    *,
    dead_letters_max: int = 10_000,
    dead_bytes_max: int = 64 * MIB,
    payload_bytes_max: int = 64 * KIB,
    findings_max: int = 100_000,
    migrate: bool = True,
) -> "SqlMetaStore":
    """The metadata store a URL names, with its schema brought up to date first unless migrate is False.

    Raises BadSetting (URL, bounds, a schema newer than this program), Unavailable (away, locked, read-only, not
    migrated) or Corrupt.
    """
    bounds = DeadBounds(dead_letters_max, dead_bytes_max, payload_bytes_max)
    if findings_max < 1:
        raise BadSetting("findings_max", findings_max, "must be 1 or more")
    database = connect(url)
    try:
        if await database.revision() != REVISION:
            await _bring_up_to_date(url, database, migrate)
        if migrate:
            await require_rights(database)
    except BaseException:
        await database.close()
        raise
    database.schema = REVISION
    return SqlMetaStore(database, bounds, findings_max)


async def _bring_up_to_date(url: str, database: Database, allowed: bool) -> None:
    if not allowed:
        fix = "run `data-manager migrate` of this version"
        raise Unavailable(f"metadata database {database.name} does not have schema revision {REVISION}: {fix}")
    from data_manager.adapters.meta.migrate import migrate  # noqa: PLC0415 - costs half a second, rarely needed

    await migrate(url)


class SqlMetaStore(TruthInSql, JobsInSql, HealthInSql, AlertsInSql, DigestsInSql, LineageInSql):
    """Everything that is not a row of market data. dead_evicted: letters that made room since the opening."""

    def __init__(self, database: Database, bounds: DeadBounds, findings_max: int) -> None:
        self.dead_evicted = 0
        self._database = database
        self._bounds = bounds
        self._findings_max = findings_max
        self._lease: Lease | None = None  # all writes are under it
        self._count_again = upsert(database.dialect, dead_letters, count_again)  # made once: it costs ten letters

    async def _write(self, work: Work[T]) -> T:
        if self._lease is None:
            return await self._database.write(work)
        return await leases.write(self._database, self._lease, work)

    async def keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        rows = _merged(letters, self._bounds.payload_bytes_max)
        if not rows:
            return

        async def keep(connection: AsyncConnection) -> int:
            await connection.execute(self._count_again, rows)
            return await self._make_room(connection)

        evicted = await self._write(keep)
        self.dead_evicted += evicted  # added when it is known: others count meanwhile

    async def _make_room(self, connection: AsyncConnection) -> int:
        """Let the oldest go until the rest is within both bounds; how many those were."""
        held, kept_bytes = await _weight(connection)
        if self._fits(held, kept_bytes):
            return 0
        if self._database.dialect == "mysql":
            if not await alone(connection):
                return 0
            held, kept_bytes = await _weight(connection)  # who made room until now has ended
        leaving = 0
        while not self._fits(held, kept_bytes):
            last, letters, freed = await self._oldest(connection, held, kept_bytes)
            if last is None:  # forgotten meanwhile
                break
            leaving += (await connection.execute(delete(dead_letters).where(_not_after(last)))).rowcount
            held, kept_bytes = held - letters, kept_bytes - freed
        return leaving

    def _fits(self, held: int, kept_bytes: int) -> bool:
        return held <= self._bounds.letters_max and kept_bytes <= self._bounds.bytes_max

    async def _oldest(self, connection: AsyncConnection, held: int, kept_bytes: int) -> tuple[Any, int, int]:
        """The last of the oldest that have to go (as far as one look shows), how many they are and how many bytes."""
        columns = (dead_letters.c.received_ms, dead_letters.c.id, dead_letters.c.kept_bytes)
        look = min(max(held - self._bounds.letters_max, _LOOK_LEAST), _LOOK_MOST)
        rows = (await connection.execute(select(*columns).order_by(*columns[:2]).limit(look))).all()
        freed = 0
        for number, row in enumerate(rows, 1):
            freed += row.kept_bytes
            if self._fits(held - number, kept_bytes - freed):
                return row, number, freed
        return (rows[-1] if rows else None), len(rows), freed

    async def dead_letters(
        self, *, limit: int, offset: int = 0, reason: str | None = None
    ) -> tuple[list[KeptDeadLetter], int]:
        columns = [dead_letters.c[name] for name in KeptDeadLetter.__struct_fields__]
        wanted = dead_letters.c.reason == reason if reason is not None else true()
        page = select(*columns).where(wanted).order_by(dead_letters.c.received_ms.desc(), dead_letters.c.id.desc())
        page = page.limit(_whole(limit, "limit")).offset(_whole(offset, "offset"))
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(dead_letters).where(wanted))
            rows = (await connection.execute(page)).mappings()
            return [KeptDeadLetter(**row) for row in rows], total or 0

    async def dead_payload(self, letter_id: str) -> bytes | None:
        found = select(dead_letters.c.payload).where(dead_letters.c.id == _text(letter_id, 64), dead_letters.c.whole)
        async with self._database.reading() as connection:
            payload: bytes | None = await connection.scalar(found)
            return payload

    async def forget_dead(self, seen: Mapping[str, int]) -> int:
        forget = delete(dead_letters).where(
            dead_letters.c.id == bindparam("letter_id"), dead_letters.c.count == bindparam("seen")
        )
        given = [{"letter_id": _text(letter_id, 64), "seen": seen[letter_id]} for letter_id in sorted(seen)]
        if not given:
            return 0

        async def forgotten(connection: AsyncConnection) -> int:
            return sum([(await connection.execute(forget, one)).rowcount for one in given])

        return await self._write(forgotten)

    async def keep_statistics(self, rows: Sequence[SeriesStatistics]) -> None:
        newest = {row.series: row for row in sorted(rows, key=lambda row: row.updated_ms)}
        if not newest:
            return
        given = [_dataset_row(newest[series]) for series in sorted(newest, key=str)]
        put = upsert(self._database.dialect, datasets, if_newer)
        await self._write(lambda connection: connection.execute(put, given))

    async def statistics(self) -> list[SeriesStatistics]:
        ours = select(datasets).where(datasets.c.updated_ms.is_not(None)).order_by(datasets.c.dataset_id)
        async with self._database.reading() as connection:
            return [_statistics(row) for row in (await connection.execute(ours)).mappings()]

    async def keep_findings(self, findings: Sequence[Finding]) -> None:
        last_words = [one for one in findings if one.kind is FindingKind.OUTDATED]
        others = [one for one in findings if one.kind is not FindingKind.OUTDATED]
        if last_words:  # of a process that may write nothing else
            await self._database.write(lambda connection: self._keep(connection, last_words), any_schema=True)
        if others:
            await self._write(lambda connection: self._keep(connection, others))

    async def _keep(self, connection: AsyncConnection, findings: Sequence[Finding]) -> None:
        await kept_findings.keep(connection, findings, self._findings_max)

    async def findings(
        self,
        *,
        limit: int,
        offset: int = 0,
        kind: FindingKind | None = None,
        series: str | None = None,
        open_only: bool = False,
        resolved_only: bool = False,
    ) -> tuple[list[Finding], int]:
        limit, offset = _whole(limit, "limit"), _whole(offset, "offset")
        series = None if series is None else _text(series, 128)
        is_open = True if open_only else False if resolved_only else None
        async with self._database.reading() as connection:
            return await kept_findings.page(
                connection, limit=limit, offset=offset, kind=kind, series=series, is_open=is_open
            )

    async def take_lease(self, name: str, holder: str, term_s: float) -> LeaseState:
        return await leases.take(self._database, name, holder, term_s)

    async def give_back_lease(self, lease: Lease) -> None:
        await leases.give_back(self._database, lease)

    def fenced(self, lease: Lease) -> "SqlMetaStore":
        fenced = copy(self)
        fenced._lease = lease
        return fenced

    async def require_rights(self) -> None:
        """Raises Refused where our login may only read."""
        await require_rights(self._database)

    async def healthy(self) -> bool:
        try:
            async with asyncio.timeout(_HEALTHY_S):
                return await self._database.current()
        except (Corrupt, TimeoutError):
            return False

    async def close(self) -> None:
        await self._database.close()


# ── Dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _weight(connection: AsyncConnection) -> tuple[int, int]:
    """How many are held, and what they weigh."""
    asked = select(func.count(), func.coalesce(func.sum(dead_letters.c.kept_bytes), 0)).select_from(dead_letters)
    held, kept_bytes = (await connection.execute(asked)).one()
    return held, int(kept_bytes)


def _not_after(last: Any) -> ColumnElement[bool]:
    """Those received before it, it, and of those received with it the ones with a lower id."""
    received_ms, letter_id = dead_letters.c.received_ms, dead_letters.c.id
    return or_(received_ms < last.received_ms, and_(received_ms == last.received_ms, letter_id <= last.id))


def _merged(letters: Iterable[DeadLetter], payload_bytes_max: int) -> list[dict[str, Any]]:
    """One row per id, in order of id: writers that take their locks in one order cannot wait for each other."""
    rows: dict[str, dict[str, Any]] = {}
    for letter in letters:
        letter_id = _letter_id(letter)
        held = rows.get(letter_id)
        if held is None:
            rows[letter_id] = _letter_row(letter_id, letter, payload_bytes_max)
            continue
        held["count"] += 1
        held["first_received_ms"] = min(held["first_received_ms"], letter.received_ms)
        if letter.received_ms >= held["received_ms"]:
            held.update(_of_newest(letter))
    return [rows[letter_id] for letter_id in sorted(rows)]


def _letter_id(letter: DeadLetter) -> str:
    named = f"{letter.reason}\0{letter.field or ''}\0".encode("utf-8", "backslashreplace")
    return hashlib.sha256(named + letter.payload).hexdigest()[:32]


def _letter_row(letter_id: str, letter: DeadLetter, payload_bytes_max: int) -> dict[str, Any]:
    kept = letter.payload[:payload_bytes_max]
    return {
        "id": letter_id,
        "first_received_ms": letter.received_ms,
        "count": 1,
        "reason": _text(letter.reason, 64),
        "field": None if letter.field is None else _text(letter.field, 255),
        "sample": _sample(letter.payload),
        "payload_bytes": len(letter.payload),
        "kept_bytes": len(kept),
        "whole": len(kept) == len(letter.payload),
        "payload": kept,
        **_of_newest(letter),
    }


def _of_newest(letter: DeadLetter) -> dict[str, Any]:
    return {
        "received_ms": letter.received_ms,
        "subject": _text(letter.subject, 255),
        "message": _text(letter.message, 1000),
    }


def count_again(held: Any, new: Any) -> Mapping[str, Any]:
    """A letter that is held came again; its payload is kept longer if a bound was raised meanwhile."""
    newer, longer = new["received_ms"] >= held["received_ms"], new["kept_bytes"] > held["kept_bytes"]
    earlier = new["first_received_ms"] < held["first_received_ms"]
    return {
        "count": held["count"] + new["count"],
        "first_received_ms": _either(earlier, "first_received_ms", held, new),
        **{name: _either(newer, name, held, new) for name in ("subject", "message", "received_ms")},
        **{name: _either(longer, name, held, new) for name in ("payload", "whole", "kept_bytes")},
    }


def _either(change: Any, name: str, held: Any, new: Any) -> Any:
    return case((change, new[name]), else_=held[name])


def _sample(payload: bytes) -> str:
    """The first bytes as text; a letter cut in half by the end of the sample is left out."""
    begins = payload[:_SAMPLE_BYTES]
    if begins.isascii():
        return begins.decode()
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return decoder.decode(begins, final=len(payload) <= _SAMPLE_BYTES)


def _text(text: str, length: int) -> str:
    """What every database takes as text, no longer than its column."""
    clean = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"


def _whole(number: int, field: str) -> int:
    if not 0 <= number < 2**63:
        raise BadQuery(field, number, "must be a whole number, 0 or more")
    return number


# ── Statistics ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _dataset_row(row: SeriesStatistics) -> dict[str, Any]:
    series, at = row.series, datetime_of(row.updated_ms)
    return {
        "dataset_id": series.id,
        "name": series.id,
        "description": DATASETS[series.dataset].description,
        "category": series.dataset,
        "storage_type": row.storage,
        "update_frequency": series.interval or "stream",
        "created_at": at,
        "updated_at": at,
        "market": series.market,
        "dataset": series.dataset,
        "symbol": series.symbol,
        "interval": series.interval,
        "rows": row.rows,
        "first_ms": row.first_ms,
        "last_ms": row.last_ms,
        "updated_ms": row.updated_ms,
    }


_REPLACED = (
    "description",
    "storage_type",
    "update_frequency",
    "updated_at",
    "rows",
    "first_ms",
    "last_ms",
    "updated_ms",
)


def if_newer(held: Any, new: Any) -> Mapping[str, Any]:
    newer = new["updated_ms"] >= func.coalesce(held["updated_ms"], literal_column("0"))
    return {name: _either(newer, name, held, new) for name in _REPLACED}


def _statistics(row: Mapping[Any, Any]) -> SeriesStatistics:
    return SeriesStatistics(
        series=Series(row["market"], row["dataset"], row["symbol"], row["interval"]),
        rows=row["rows"],
        first_ms=row["first_ms"],
        last_ms=row["last_ms"],
        storage=row["storage_type"],
        updated_ms=row["updated_ms"],
    )
