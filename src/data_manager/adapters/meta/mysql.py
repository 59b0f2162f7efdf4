"""What is special about MySQL and MariaDB: their URL, their options, and what a connection must agree to.

Every session is strict, in UTC, and reads only what was committed; locks are waited for briefly; and a session that
says nothing for a while is ended by the server, for the client may be frozen or cut off while it holds locks.
"""

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import URL, Connection

from data_manager.adapters.meta.failures import Refused
from data_manager.domain.errors import BadSetting

OLDEST: Final = {"MariaDB": (10, 6), "MySQL": (8, 0, 19)}  # MySQL: the first that can name the new row of an upsert
IDLE_S: Final = 60  # a session may say nothing for so long
_LOCK_S: Final = 5
_CONNECT_S: Final = 5.0
_GREETING_S: Final = 10.0
_STRICT: Final = "STRICT_ALL_TABLES"
_SQL_MODE: Final = f"{_STRICT},NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_MAY_SAY: Final = ("charset", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname", "unix_socket")
_log = structlog.get_logger(__name__)


def options(answer_s: float) -> dict[str, Any]:
    """For the engine: an answer that takes longer than answer_s counts as none."""
    return {
        "connect_args": {"connect_timeout": _CONNECT_S, "read_timeout": answer_s},
        "isolation_level": "READ COMMITTED",  # no locks on the gaps between rows
        "pool_pre_ping": True,
        "pool_recycle": 1_800,
        "pool_size": 5,
        "max_overflow": 10,
        "pool_timeout": 10.0,
        "pool_use_lifo": True,  # those that are not needed grow old, and the server ends them
    }


def speaking(url: URL, name: str) -> URL:
    """The URL with every letter there is, whatever it said of character sets. Raises BadSetting for options unknown."""
    for option in url.query:
        if option not in _MAY_SAY:
            rule = f"has an option {option} in MYSQL_URI: known are {', '.join(_MAY_SAY)}"
            raise BadSetting("metadata database", name, rule)
    for option in ("ssl_ca", "ssl_cert", "ssl_key"):
        file = url.query.get(option)
        if file is not None and not Path(str(file)).is_file():
            raise BadSetting("metadata database", name, f"names a file in {option} that is not there: {file}")
    return url.update_query_dict({"charset": "utf8mb4"})


def agree(connection: Any, name: str) -> None:
    """Set what a session needs, and see that it was taken. Raises Refused naming what to change."""
    cursor = connection.cursor()
    cursor.execute(
        f"SET SESSION sql_mode = '{_SQL_MODE}', time_zone = '+00:00', innodb_lock_wait_timeout = {_LOCK_S}, "
        f"wait_timeout = {IDLE_S}"
    )
    cursor.execute("SELECT VERSION(), @@SESSION.sql_mode, @@GLOBAL.innodb_flush_log_at_trx_commit")
    version, mode, flush = cursor.fetchone()
    cursor.close()
    wrong = objection(version, mode)
    if wrong is not None:
        connection.terminate()
        raise Refused(f"metadata database {name} {wrong}")
    if int(flush) != 1:
        _log.warning(
            "the metadata database may forget the last second",
            innodb_flush_log_at_trx_commit=flush,
            advice="set it to 1",
        )


def connect(dialect: Any, arguments: Any, options: Any, name: str) -> Any:
    """A connection by the driver, greeted and let in within _GREETING_S: some servers wait for us to speak first.

    The driver calls it a bug where the server hung up before that, and an error of its own where another protocol was
    spoken. Raises Refused for the latter, OSError for what may pass.
    """
    driver = dialect.loaded_dbapi.asyncmy

    async def let_in(*arguments: Any, **options: Any) -> Any:
        async with asyncio.timeout(_GREETING_S):
            return await driver.connect(*arguments, **options)

    try:
        return dialect.connect(*arguments, async_creator_fn=let_in, **options)
    except RuntimeError as error:
        raise ConnectionResetError(f"the server hung up: {error}") from error
    except dialect.loaded_dbapi.InternalError as error:
        if error.args and isinstance(error.args[0], int):
            raise
        raise Refused(
            f"metadata database {name} is no MySQL server: check MYSQL_URI, or MYSQL_HOST and MYSQL_PORT"
        ) from error


def objection(version: str, sql_mode: str) -> str | None:
    """Why a server of that version in that mode cannot serve us; None when it can."""
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    numbers = re.findall(r"\d+", version.lower().removeprefix("5.5.5-"))  # an old disguise of MariaDB's
    if tuple(map(int, numbers[:3])) < OLDEST[kind]:
        needed = ".".join(map(str, OLDEST[kind]))
        return f"is {kind} {version}: it needs {needed} or newer"
    if _STRICT not in sql_mode.split(","):
        return f"does not keep {_STRICT} in a session's sql_mode: let nothing between us and the server swallow SET"
    return None


def begin(connection: Connection) -> None:
    """A transaction that reads sees one state, as SQLite's do."""
    if connection.get_execution_options()["begin"] == "BEGIN":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
