"""The driver's errors in our words, naming the server, the database and what to change. Credentials never appear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bson.errors import InvalidBSON
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
)

from data_manager.domain.errors import Corrupt, DataManagerError, Unavailable

DUPLICATE_KEY = 11000
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = (18, 11)  # wrong password, unknown user
_HOSTED = 8000  # Atlas says many things with this one
_NO_SPACE = 14031
NOT_IMPLEMENTED = (59, 67, 72, 115, 197, 238)  # unknown command or option, in the words of several servers


class Refused(DataManagerError):
    """The server will not do it for this login, or is too old to be asked. Waiting changes nothing: somebody must.

    setting: the variable to look at. Opening a store turns it into BadSetting; a running store into Unavailable,
    because then nothing is lost while somebody mends it.
    """

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raises Unavailable, Corrupt or Refused for what the driver reports. where: "database x on host:port"."""
    try:
        yield
    except PyMongoError as error:
        raise ours(error, where) from error
    except InvalidBSON as error:
        raise Corrupt(f"{where} answered with bytes that are no BSON ({error})") from error


@contextmanager
def waiting(where: str) -> Iterator[None]:
    """As translated, for a store that runs: what was refused is Unavailable until somebody mends it."""
    try:
        with translated(where):
            yield
    except Refused as error:
        raise Unavailable(f"{error} (look at {error.setting})", retry_after_s=5.0) from error


def ours(error: PyMongoError, where: str) -> DataManagerError:
    """The error of ours that says the same."""
    if isinstance(error, BulkWriteError):
        return _of_bulk(error, where)
    if isinstance(error, OperationFailure):
        return _of_answer(error.code, _message(error.details) or str(error), where)
    if isinstance(error, ConfigurationError):  # raised when a server turns out too old for the driver
        return Refused("MONGODB_URL", f"{where}: {error}")
    if isinstance(error, ConnectionFailure):
        return Unavailable(f"{where} does not answer: {_short(error)}")
    return Unavailable(f"{where}: {_short(error)}")


def duplicates(error: BulkWriteError) -> list[int]:
    """Positions of the operations whose key was already held. Raises the error itself when it holds any other."""
    problems = error.details["writeErrors"]
    if error.details.get("writeConcernErrors") or any(one["code"] != DUPLICATE_KEY for one in problems):
        raise error
    return [one["index"] for one in problems]


def _of_bulk(error: BulkWriteError, where: str) -> DataManagerError:
    problems: list[Mapping[str, Any]] = [
        *(one for one in error.details["writeErrors"] if one["code"] != DUPLICATE_KEY),
        *error.details.get("writeConcernErrors", ()),
    ]
    if not problems:
        return Unavailable(f"{where}: a key was held already")
    return _of_answer(problems[0].get("code"), str(problems[0].get("errmsg")), where)


def _of_answer(code: int | None, message: str, where: str) -> DataManagerError:
    if code in _AUTHENTICATION_FAILED:
        return Refused(
            "MONGODB_USER",
            f"{where} refuses the login ({message}): check user, password and, in a URL, authSource",
        )
    if code == _UNAUTHORIZED:
        return Refused(
            "MONGODB_DB",
            f"{where}: this user may not do that ({message}): grant it the role readWrite on that database, or name the"
            " database it belongs to",
        )
    if code == _HOSTED and "auth" in message.lower():
        return Refused("MONGODB_USER", f"{where} refuses the login ({message})")
    if code in (_HOSTED, _NO_SPACE):
        return Unavailable(f"{where} takes no more ({message}): free space, or raise its quota", retry_after_s=5.0)
    return Unavailable(f"{where}: {message}")


def _message(details: Mapping[str, Any] | None) -> str:
    return " ".join(str(details.get("errmsg", "")).split()) if details else ""


def _short(error: PyMongoError) -> str:
    """What happened, without the driver's dump of the topology."""
    return str(error).partition(", Timeout:")[0].partition(" (configured timeouts")[0]
