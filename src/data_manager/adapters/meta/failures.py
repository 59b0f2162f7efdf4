"""The driver's errors in our words: by their number, with the name of the database and the fix, without SQL.

What is not in these tables and is no loss of connection is a bug of ours and rises as it is.
"""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from data_manager.domain.errors import Corrupt, DataManagerError, Unavailable


class Locked(Unavailable):
    """Another process is writing right now, and did for as long as we wait."""


Kind = type[Corrupt] | type[Unavailable]

_DAMAGED = "is damaged: stop the service and put the last backup in its place, or move it away to begin an empty one"
_OUTDATED = "lacks a table or a column: run `data-manager migrate`"
_LOCKED = "is locked by another process: try again, or stop the one that holds it"
_FULL = "cannot grow, the disk is full: free some space"

_SQLITE: dict[int, tuple[Kind, str]] = {
    3: (Unavailable, "may not be used by this user: change the owner of the file and its folder"),
    5: (Locked, _LOCKED),
    6: (Locked, _LOCKED),
    7: (Unavailable, "needs more memory than there is"),
    8: (Unavailable, "is read-only: let this user write to the file and its folder"),
    10: (Unavailable, "met a disk that fails to read or write: check the disk"),
    11: (Corrupt, _DAMAGED),
    13: (Unavailable, _FULL),
    14: (Unavailable, "cannot be opened: its folder must exist and this user must be able to write there"),
    26: (Corrupt, "is no SQLite database: move the file away, or name another one"),
}
_MYSQL: dict[int, tuple[Kind, str]] = {
    126: (Corrupt, _DAMAGED),
    145: (Corrupt, _DAMAGED),
    1021: (Unavailable, _FULL),
    1034: (Corrupt, _DAMAGED),
    1040: (Unavailable, "takes no more connections: raise max_connections, or run fewer replicas"),
    1044: (Unavailable, "refuses this user: grant it the rights on this database"),
    1045: (Unavailable, "refuses this user and password: check MYSQL_URI"),
    1049: (Unavailable, "does not exist: create it"),
    1054: (Unavailable, _OUTDATED),
    1114: (Unavailable, _FULL),
    1146: (Unavailable, _OUTDATED),
    1194: (Corrupt, _DAMAGED),
    1195: (Corrupt, _DAMAGED),
    1205: (Unavailable, "was held by another transaction for too long: try again"),
    1213: (Unavailable, "broke a tie between two transactions: try again"),
    1290: (Unavailable, "is read-only: point MYSQL_URI to the primary"),
    1836: (Unavailable, "is read-only: point MYSQL_URI to the primary"),
}


def translated(error: DBAPIError, name: str) -> DataManagerError | None:
    """Unavailable or Corrupt with a message for an operator; None for a bug of ours."""
    known = _of_sqlite(error.orig) or _of_mysql(error.orig)
    if known is not None:
        kind, words = known
        return kind(f"metadata database {name} {words}")
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return Unavailable(f"metadata database {name} does not answer: check that it runs and can be reached")
    return None


def _of_sqlite(cause: BaseException | None) -> tuple[Kind, str] | None:
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        return None
    if code == 1 and str(cause).startswith(("no such table", "no such column", "table datasets has no column")):
        return Unavailable, _OUTDATED
    return _SQLITE.get(code & 0xFF)  # the higher bits tell what exactly failed


def _of_mysql(cause: BaseException | None) -> tuple[Kind, str] | None:
    number = cause.args[0] if cause is not None and cause.args else None
    return _MYSQL.get(number) if isinstance(number, int) else None
