"""Whether our login may do what we shall have to do, found out before a write has to find it out."""

from sqlalchemy import delete, false, insert, select, update

from data_manager.adapters.meta.database import Database
from data_manager.adapters.meta.failures import Forbidden
from data_manager.adapters.meta.tables import leases
from data_manager.domain.errors import Unavailable


async def require_rights(database: Database) -> None:
    """Raises Forbidden where our login may only read. Nothing is changed: MySQL asks for leave, then looks for rows.

    Whatever else may be wrong with a write passes, or is told by who writes first.
    """
    if database.dialect == "sqlite":
        return
    columns, nothing = list(leases.c), false()
    try:
        async with database.writing() as connection:
            await connection.execute(insert(leases).from_select(columns, select(*columns).where(nothing)))
            await connection.execute(update(leases).values(holder=leases.c.holder).where(nothing))
            await connection.execute(delete(leases).where(nothing))
    except Forbidden:
        raise
    except Unavailable:
        return
