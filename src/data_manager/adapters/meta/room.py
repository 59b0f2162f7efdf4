"""Who makes room where a table is full: one transaction at a time, so that two cannot wait for each other."""

from typing import Any, Final

from sqlalchemy import Select, column, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

_ROW: Final[Select[Any]] = (
    select(column("version_num")).select_from(table("alembic_version")).with_for_update(skip_locked=True)
)


async def alone(connection: AsyncConnection) -> bool:
    """Whether nobody else makes room until this transaction ends; if somebody does, he makes it for us too.

    The one row that every database has stands for that leave. SQLite has one writer anyway.
    """
    return await connection.scalar(_ROW) is not None


async def turn(connection: AsyncConnection) -> None:
    """Wait until no other transaction that asked for its turn is under way; the turn ends with this one."""
    await connection.scalar(select(column("version_num")).select_from(table("alembic_version")).with_for_update())
