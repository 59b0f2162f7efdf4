"""The driver's errors in our words: by their number, with the name of the database and the fix, without SQL.

What is not in these tables and is no loss of connection is a bug of ours and rises as it is.
"""

from ssl import SSLCertVerificationError, SSLError

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from data_manager.domain.errors import Corrupt, DataManagerError, Unavailable


class Locked(Unavailable):
    """Another process is writing right now, and did for as long as we wait."""


class Refused(Unavailable):
    """The database answers and will not serve us until an operator changes something. The message says what."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=10.0)  # servers block hosts that knock too often in vain


class Forbidden(Refused):
    """This login may not do that."""


class Contended(Unavailable):
    """Another transaction got in the way and nothing was kept: the same again at once may work."""


_SILENT = "does not answer: check that it runs and can be reached"
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
_NO_RIGHTS = (
    "refuses this user: grant it SELECT, INSERT, UPDATE and DELETE on this database, and for migrations also CREATE, "
    "ALTER, INDEX and DROP; or name the database it belongs to in MYSQL_URI or MYSQL_DB"
)
_NO_ENTRY = (
    "refuses this user and password: check MYSQL_URI, or MYSQL_USER and MYSQL_PASSWORD; an account that asks for "
    "encryption needs MYSQL_URI with ?ssl_ca=/path/to/ca.pem"
)
_NO_WAY_IN = (
    "has this user log in by a plugin that it does not load, or our driver does not know: ALTER USER it to the "
    "server's default, such as caching_sha2_password"
)
_CHANGED_SIDE = "is read-only: point MYSQL_URI or MYSQL_HOST to the primary"
_TOO_MANY = "takes no more connections: raise max_connections, or run fewer replicas"
_LOST = "broke off the connection: it stops, or a server between closed it"

_MYSQL: dict[int, tuple[Kind, str]] = {
    126: (Corrupt, _DAMAGED),
    145: (Corrupt, _DAMAGED),
    1020: (Contended, "was changed by another transaction meanwhile: try again"),
    1021: (Unavailable, _FULL),
    1034: (Corrupt, _DAMAGED),
    1040: (Unavailable, _TOO_MANY),
    1044: (Forbidden, _NO_RIGHTS),
    1045: (Refused, _NO_ENTRY),
    1047: (Unavailable, "has a node that is not ready: wait until the cluster has formed"),
    1049: (Refused, "does not exist: CREATE DATABASE it, or name another one in MYSQL_URI or MYSQL_DB"),
    1053: (Unavailable, _LOST),
    1054: (Unavailable, _OUTDATED),
    1114: (Unavailable, _FULL),
    1129: (Refused, "has blocked this host after too many failed connections: mend MYSQL_URI, then FLUSH HOSTS there"),
    1130: (Refused, "takes no connection from this host: create the user for it"),
    1142: (Forbidden, _NO_RIGHTS),
    1143: (Forbidden, _NO_RIGHTS),
    1146: (Unavailable, _OUTDATED),
    1153: (Refused, "takes no packet of that size: raise max_allowed_packet above the largest dead letter"),
    1194: (Corrupt, _DAMAGED),
    1195: (Corrupt, _DAMAGED),
    1203: (Unavailable, _TOO_MANY),
    1205: (Contended, "was held by another transaction for too long: try again"),
    1213: (Contended, "broke a tie between two transactions: try again"),
    1226: (Unavailable, _TOO_MANY),
    1227: (Forbidden, _NO_RIGHTS),
    1290: (Refused, _CHANGED_SIDE),
    1317: (Unavailable, _LOST),
    1524: (Refused, _NO_WAY_IN),
    1698: (Refused, _NO_ENTRY),
    1820: (Refused, "has let this user's password expire: set a new one"),
    1836: (Refused, _CHANGED_SIDE),
    1862: (Refused, "has let this user's password expire: set a new one"),
    1927: (Unavailable, _LOST),
    2059: (Refused, _NO_WAY_IN),
    3118: (Refused, "has locked this account: unlock it"),
    3159: (Refused, "wants an encrypted connection: add ?ssl_ca=/path/to/ca.pem to MYSQL_URI"),
    4031: (Unavailable, _LOST),
}


def translated(error: DBAPIError, name: str) -> DataManagerError | None:
    """Unavailable or Corrupt with a message for an operator; None for a bug of ours."""
    known = _of_sqlite(error.orig) or _of_mysql(error.orig)
    if known is not None:
        kind, words = known
        return kind(f"metadata database {name} {words}")
    unencrypted = _of_encryption(error.orig)
    if unencrypted is not None:
        return Refused(f"metadata database {name} {unencrypted}")
    if lost(error):
        return Unavailable(f"metadata database {name} {_as_the_server_says(error.orig) or _SILENT}")
    return None


def lost(error: DBAPIError) -> bool:
    """Whether the connection is gone. What was under way on it did not happen, but for a commit: nobody knows."""
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def _as_the_server_says(cause: BaseException | None) -> str | None:
    """What it objects to, where it does: a number from 2000 to 2999 is the driver's own, which heard nothing."""
    match cause.args if cause is not None else ():
        case (int(number), str(words), *_) if not 2000 <= number < 3000:
            return f"refuses what was asked of it ({number}: {words})"
    return None


def _of_encryption(cause: BaseException | None) -> str | None:
    """Why an encrypted connection was not made, if that is why there is none: it stands behind the driver's error."""
    while cause is not None and not isinstance(cause, SSLError):
        cause = cause.__cause__
    if cause is None:
        return None
    if isinstance(cause, SSLCertVerificationError):
        fix = "check ssl_ca in MYSQL_URI, and that the certificate names this host, else ssl_check_hostname=false"
        return f"shows a certificate that is not trusted ({cause.verify_message.rstrip('.')}): {fix}"
    return f"does not agree to encryption ({cause.reason}): set it up there, or leave ssl_* out of MYSQL_URI"


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
