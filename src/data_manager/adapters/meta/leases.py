"""Leases in SQL: taken and renewed by one statement, by the clock of the database, and checked inside other writes.

    given back / over ── take ──> in force ── renew ──> in force ── not renewed for a term ──> over
                       epoch + 1              same epoch

The database's clock decides when a term is over: it is one for all replicas, theirs are not. What makes a leader of
yesterday harmless is no clock at all: each write under a lease looks at the epoch in its own transaction and keeps it
from changing until the commit.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, and_, case, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from data_manager.adapters.meta.database import Database, T, Work
from data_manager.adapters.meta.tables import leases, upsert
from data_manager.ports import Lease, LeaseLost, LeaseState

_NOW_MS = {
    "sqlite": "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    "mysql": "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",  # of the start of the statement, however long it waits
}


async def take(database: Database, name: str, holder: str, term_s: float) -> LeaseState:
    """See Leases.take_lease."""
    term_ms, now = round(term_s * 1_000), _now(database)
    one = {"name": name, "holder": holder, "epoch": 1, "term_ms": term_ms}
    times = {"taken_ms": now, "renewed_ms": now, "expires_ms": now + term_ms}

    async def ask(connection: AsyncConnection) -> Row[Any]:
        await connection.execute(upsert(database.dialect, leases, taken_or_renewed).values({**one, **times}))
        return (await connection.execute(select(leases, now.label("now_ms")).where(leases.c.name == name))).one()

    row = await database.write(ask, idle_s=_silence_s(term_s))
    lease = Lease(name=name, holder=row.holder, epoch=row.epoch, term_s=row.term_ms / 1_000)
    return LeaseState(lease=lease, expires_in_s=(row.expires_ms - row.now_ms) / 1_000)


def taken_or_renewed(held: Any, new: Any) -> Mapping[str, Any]:
    """Who asks for a lease that is over takes it; who holds it renews it; anybody else changes nothing."""
    now = new["renewed_ms"]
    # Further ahead than anybody may have set it: the database's clock was put back, and the holder may be long gone.
    impossible = held["expires_ms"] > now + 2 * held["term_ms"]
    over = or_(held["expires_ms"] <= now, impossible)
    may = or_(over, held["holder"] == new["holder"])
    return {
        "epoch": case((over, held["epoch"] + literal_column("1")), else_=held["epoch"]),
        "taken_ms": case((over, now), else_=held["taken_ms"]),
        "renewed_ms": case((may, now), else_=held["renewed_ms"]),
        # From here on MySQL compares what it has just assigned. Who may have it still may when he is the holder, and
        # whether it was over is still seen until the end of the term is set.
        "holder": case((may, new["holder"]), else_=held["holder"]),
        "expires_ms": case((may, new["expires_ms"]), else_=held["expires_ms"]),
        "term_ms": case((may, new["term_ms"]), else_=held["term_ms"]),
    }


async def give_back(database: Database, lease: Lease) -> None:
    """See Leases.give_back_lease."""
    over = update(leases).where(leases.c.name == lease.name, _is(lease)).values(holder="", expires_ms=0)
    await database.write(lambda connection: connection.execute(over), idle_s=_silence_s(lease.term_s))


async def write(database: Database, lease: Lease, work: Work[T]) -> T:
    """work's answer, its transaction durable, if the lease is in force from its beginning to its commit.

    While it runs nobody takes or renews the lease: let it be short. Raises LeaseLost, and nothing was written.
    """

    async def checked(connection: AsyncConnection) -> T:
        await _require(connection, lease)
        return await work(connection)

    return await database.write(checked, idle_s=_silence_s(lease.term_s))


def _silence_s(term_s: float) -> int:
    """Who is frozen with the row locked must not keep the others from it: the server ends him after half a term."""
    return max(1, int(term_s / 2))


async def _require(connection: AsyncConnection, lease: Lease) -> None:
    asked = select(leases.c.holder, leases.c.epoch).where(leases.c.name == lease.name).with_for_update(read=True)
    row = (await connection.execute(asked)).one_or_none()
    if row is None or (row.holder, row.epoch) != (lease.holder, lease.epoch):
        raise LeaseLost(lease, "" if row is None else row.holder, 0 if row is None else row.epoch)


def _is(lease: Lease) -> ColumnElement[bool]:
    return and_(leases.c.holder == lease.holder, leases.c.epoch == lease.epoch)


def _now(database: Database) -> ColumnElement[int]:
    return literal_column(_NOW_MS[database.dialect], BigInteger)
