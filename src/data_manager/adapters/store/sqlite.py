"""The container of the embedded store: one SQLite file, its tables, its errors.

    series    one row per series; sid is its number in the other tables
    journal   one row per flush and dataset: every series' rows as one columnar blob, in order of arrival
    chunk     rows of one series, sorted by key: first and last key, first and last time, two blobs
              keys: the columns an audit reads; rest: all others
    live      the row of a series that may still change (an open candle)
    revision  rows that were replaced, as they were

A row is in the journal or in a chunk, never in both: a fold moves it in one transaction. Durability is SQLite's: WAL,
synchronous=FULL, so a committed flush survives kill -9 and loss of power.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data_manager.domain.errors import Corrupt, DataManagerError, StoreLocked, Unavailable

FORMAT = 1
_APPLICATION = 0x70646D73  # "pdms", so that `file` and a wrong path can be told from ours
_SCHEMA = """
CREATE TABLE series (
    sid INTEGER PRIMARY KEY, market TEXT NOT NULL, dataset TEXT NOT NULL, symbol TEXT NOT NULL, interval TEXT,
    UNIQUE (market, dataset, symbol, interval)
);
CREATE TABLE journal (
    entry INTEGER PRIMARY KEY AUTOINCREMENT, dataset TEXT NOT NULL, rows INTEGER NOT NULL, crc INTEGER NOT NULL,
    blob BLOB NOT NULL
);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sid INTEGER NOT NULL REFERENCES series, first_key INTEGER NOT NULL,
    last_key INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, rows INTEGER NOT NULL,
    keys_crc INTEGER NOT NULL, rest_crc INTEGER NOT NULL, keys BLOB NOT NULL, rest BLOB NOT NULL
);
CREATE INDEX chunk_by_series ON chunk (sid, first_key, last_key, first_ms, last_ms, rows);
CREATE TABLE live (sid INTEGER PRIMARY KEY REFERENCES series, crc INTEGER NOT NULL, blob BLOB NOT NULL);
CREATE TABLE revision (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sid INTEGER NOT NULL REFERENCES series, key INTEGER NOT NULL,
    crc INTEGER NOT NULL, blob BLOB NOT NULL
);
CREATE INDEX revision_by_key ON revision (sid, key);
"""


_ROOM_MIN_BYTES, _ROOM_MAX_BYTES = 64 * 1024, 1024 * 1024


class WriterLock:
    """One writer per data directory, held for as long as this object is open."""

    def __init__(self, folder: Path) -> None:
        """Raises StoreLocked when another process is the writer, Unavailable when the folder cannot be written."""
        self._file: IO[str] = self._open(folder / "writer.lock")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)  # opened to append: it stands at the end
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StoreLocked(
                f"DATA_DIR {folder} is in use by process {holder}: stop it, or give this one another DATA_DIR"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    @staticmethod
    def _open(path: Path) -> IO[str]:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return open(path, "a+", encoding="ascii")
        except OSError as error:
            raise Unavailable(
                f"DATA_DIR {path.parent} cannot be written ({error.strerror}): make it writable"
            ) from error

    def close(self) -> None:
        """Let the next writer in."""
        self._file.close()


class LogRoom:
    """Room at the end of the write-ahead log, written before it is needed.

    A commit that makes the log longer has to wait for the file system's own journal too, and with it for what other
    files were given lately. One that overwrites waits for its own pages alone: two thirds of the time at the median,
    and other programs' writes stay out of it. SQLite takes no notice of zeros behind its last frame.
    """

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self._bytes = 0

    def see_to(self) -> None:
        """Make more when it is used up. Only between two transactions, in the thread that writes."""
        length = self._log.stat().st_size
        if length > self._bytes:
            more = min(max(length // 4, _ROOM_MIN_BYTES), _ROOM_MAX_BYTES)
            with suppress(OSError), self._log.open("ab", buffering=0) as log:  # no space: the next commit says so
                length += log.write(bytes(more))
        self._bytes = length


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """A connection in autocommit mode; transactions are begun by hand. Usable from any one thread at a time."""
    with translated(path):
        if write:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        else:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=30,
            )
        connection.execute("PRAGMA cache_size = -8192")
        return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in a new file; refuse a file that is not ours or of a later format."""
    with translated(path):
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables:
            require_format(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # a checkpoint costs time: folds do it, off the write path
        connection.execute("PRAGMA journal_size_limit = 67108864")
        if not tables:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION};"
                f" PRAGMA user_version = {FORMAT}; COMMIT;"
            )


def require_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raises Corrupt for a file that is not ours, or was written by a later release."""
    with translated(path):
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise Corrupt(f"{path} is not a time-series store of the data manager: choose another DATA_DIR")
    if version > FORMAT:
        raise Corrupt(f"{path} has format {version}, this release reads up to {FORMAT}: install the later release")


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing. Raises Unavailable or Corrupt for what SQLite reports; nothing is kept then."""
    with translated(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def checkpoint(connection: sqlite3.Connection, path: Path) -> None:
    """Move committed pages from the log into the file, as far as readers let it; waits for nobody."""
    with translated(path):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors in our words, naming the file and the fix."""
    try:
        yield
    except sqlite3.Error as error:
        raise _ours(error, path) from error


def _ours(error: sqlite3.Error, path: Path) -> DataManagerError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    match primary:
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"no space left for {path}: free some, or move DATA_DIR", retry_after_s=2.0)
        case sqlite3.SQLITE_READONLY:
            return Unavailable(f"{path} is read-only: make DATA_DIR writable", retry_after_s=2.0)
        case sqlite3.SQLITE_CANTOPEN:
            return Unavailable(f"{path} cannot be opened: check that DATA_DIR exists and may be read and written")
        case sqlite3.SQLITE_IOERR:
            return Unavailable(f"{path}: {error}: check the disk that DATA_DIR is on")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Corrupt(f"{path} is damaged ({error}): restore DATA_DIR from a copy")
        case _:
            return Unavailable(f"{path}: {error}")


def checksum(blob: bytes) -> int:
    """What is stored beside each blob to notice that it is no longer what was written."""
    return zlib.crc32(blob)


def checked_entry(blob: bytes, crc: int, entry: int, dataset: str) -> bytes:
    """The blob of a journal entry, or Corrupt with what can be done: whose rows it holds only the blob itself knows."""
    if zlib.crc32(blob) != crc:
        raise Corrupt(
            f"journal entry {entry} of {dataset} does not match its checksum, its rows cannot be trusted: restore "
            f"DATA_DIR from a copy, or take it out of series.db (DELETE FROM journal WHERE entry = {entry}): then they "
            "are a loss like any other"
        )
    return blob


def checked(blob: bytes, crc: int, what: str) -> bytes:
    """The blob, or Corrupt naming what it holds when it does not match its checksum."""
    if zlib.crc32(blob) != crc:
        raise Corrupt(f"{what} does not match its checksum: its rows cannot be trusted")
    return blob
