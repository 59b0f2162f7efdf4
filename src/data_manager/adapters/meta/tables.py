"""The tables as this version of the code knows them, and how a row is put into one that may hold it already.

Migrations make the tables (migrations/versions); a test holds both to the same shape. Times are int64 milliseconds
in columns that end in _ms. Only where the predecessor's tables want DATETIME is there a UtcDateTime.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.sql.dml import Insert
from sqlalchemy.types import TypeDecorator

REVISION: Final = "0019"
"""The revision these tables belong to: the newest of migrations/versions."""

MYSQL: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",  # um.candle.BTCUSDT.1m is not um.candle.BTCUSDT.1M
}
BYTES: Final = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")  # a BLOB ends at 65,535 bytes


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, in a column without a zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a naive datetime names no instant"
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", String(32), primary_key=True),  # sha256 of reason, field and payload
    Column("received_ms", BigInteger, nullable=False),  # of the newest
    Column("first_received_ms", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("subject", String(255), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("field", String(255)),
    Column("message", String(1000), nullable=False),
    Column("sample", String(1000), nullable=False),
    Column("payload_bytes", BigInteger, nullable=False),  # as it arrived
    Column("kept_bytes", Integer, nullable=False),  # of it here
    Column("whole", Boolean, nullable=False),
    Column("payload", BYTES, nullable=False),  # last: the rest is read without it
    # Newest first, and what all of them weigh, from the index alone.
    Index("idx_dead_letters_received", "received_ms", "id", "kept_bytes"),
    **MYSQL,
)

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", String(64), primary_key=True),  # the series id
    Column("name", String(100), nullable=False),
    Column("description", String(500)),
    Column("category", String(50), nullable=False),
    Column("schema_id", String(64)),
    Column("storage_type", String(20), nullable=False),
    Column("owner", String(100)),
    Column("update_frequency", String(50)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    # What the predecessor did not have; null in the rows it left behind.
    Column("market", String(8)),
    Column("dataset", String(32)),
    Column("symbol", String(64)),
    Column("interval", String(8)),
    Column("rows", BigInteger),
    Column("first_ms", BigInteger),
    Column("last_ms", BigInteger),
    Column("updated_ms", BigInteger),
    Index("idx_datasets_category", "category"),
    **MYSQL,
)

findings = Table(
    "findings",
    metadata,
    Column("id", String(32), primary_key=True),  # see domain/finding.py
    Column("kind", String(32), nullable=False),
    Column("series", String(128)),  # a series id
    Column("stream", String(64)),
    Column("severity", String(16), nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger),
    Column("found_ms", BigInteger, nullable=False),
    Column("resolved_ms", BigInteger),
    Column("evidence", Text, nullable=False),  # a JSON object
    Column("version", BigInteger),  # of what was known of the series; NULL: who knows more is believed
    # Newest first: of all, of a kind, of a series, of those that are open.
    Index("idx_findings_found", "found_ms", "id"),
    Index("idx_findings_kind", "kind", "found_ms", "id"),
    Index("idx_findings_series", "series", "found_ms", "id"),
    Index("idx_findings_resolved", "resolved_ms", "found_ms", "id"),
    **MYSQL,
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),  # of what one replica alone may do
    Column("holder", String(128), nullable=False),  # empty: given back
    Column("epoch", BigInteger, nullable=False),  # one more at each taking; never goes back
    Column("term_ms", BigInteger, nullable=False),
    # By the clock of the database, which is one for all replicas.
    Column("taken_ms", BigInteger, nullable=False),
    Column("renewed_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    **MYSQL,
)

coverage = Table(
    "coverage",
    metadata,
    Column("series", String(128), primary_key=True),  # a series id
    Column("version", BigInteger, nullable=False),  # one more at each change
    Column("looked_ms", BigInteger, nullable=False),  # this and the next six: see domain/condition/truth.py
    Column("swept_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger),
    Column("from_ms", BigInteger),
    Column("anchor_key", BigInteger),
    Column("rows_before", BigInteger, nullable=False),
    Column("crossed_ms", BigInteger),
    Column("spans", BYTES, nullable=False),  # JSON: what was audited, when, by which rules, with what result
    Column("flaws", BYTES, nullable=False),  # JSON: what was found besides holes
    Column("let_go", BYTES),  # JSON: rows that went by retention; null: none
    **MYSQL,
)

holes = Table(
    "holes",
    metadata,
    Column("id", String(32), primary_key=True),  # see domain/holes/ledger.py
    Column("series", String(128), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("missing", BigInteger),
    Column("after_key", BigInteger),
    Column("before_key", BigInteger),
    Column("state", String(32), nullable=False),
    Column("found_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("healed_ms", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("recheck_ms", BigInteger),
    Column("root", String(32), nullable=False),
    Column("children", Integer, nullable=False),
    Column("history", BYTES, nullable=False),  # JSON: the steps of its life
    Index("idx_holes_series", "series", "start_ms"),
    Index("idx_holes_state", "state", "series", "start_ms"),
    Index("idx_holes_recheck", "recheck_ms"),
    **MYSQL,
)

lives = Table(
    "lives",
    metadata,
    Column("market", String(8), primary_key=True),
    Column("symbol", String(64), primary_key=True),
    Column("listed_ms", BigInteger),
    Column("delisted_ms", BigInteger),
    Column("halts", BYTES, nullable=False),  # JSON: [[from, until], …]
    Column("source", String(64), nullable=False),  # who said so
    Column("told_ms", BigInteger, nullable=False),
    **MYSQL,
)

certificates = Table(
    "certificates",
    metadata,
    Column("id", String(64), primary_key=True),  # sha256 of all the rest
    Column("series", String(128), nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("issued_ms", BigInteger, nullable=False),
    Column("previous", String(64)),
    Column("body", BYTES, nullable=False),  # JSON: the whole certificate
    Index("idx_certificates_series", "series", "issued_ms", "id"),
    Index("idx_certificates_issued", "issued_ms", "id"),
    **MYSQL,
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(32), primary_key=True),  # see domain/alert.py
    Column("kind", String(32), nullable=False),
    Column("series", String(128)),
    Column("stream", String(64)),
    Column("severity", String(16), nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("newest_ms", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("text", String(1000), nullable=False),
    Column("evidence", Text, nullable=False),  # a JSON object
    Column("episode", BigInteger, nullable=False),
    Column("fired_ms", BigInteger, nullable=False),
    Column("told_ms", BigInteger, nullable=False),
    Column("resolved_ms", BigInteger),
    Column("untold", String(16)),
    Index("idx_alerts_fired", "fired_ms", "id"),
    Index("idx_alerts_resolved", "resolved_ms"),
    Index("idx_alerts_untold", "untold"),
    Index("idx_alerts_series", "series", "fired_ms"),
    **MYSQL,
)

alert_messages = Table(
    "alert_messages",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("due_ms", BigInteger),  # when something is to be delivered; null: nothing any more
    Column("body", BYTES, nullable=False),  # JSON: the whole message, see domain/alert.py
    Index("idx_alert_messages_at", "at_ms", "id"),
    Index("idx_alert_messages_due", "due_ms"),
    **MYSQL,
)

archive_files = Table(
    "archive_files",
    metadata,
    Column("path", String(255), primary_key=True),  # in the venue's archive
    Column("sha256", String(64), nullable=False),  # of the version that was taken in last
    Column("taken_ms", BigInteger, nullable=False),
    **MYSQL,
)

Merge = Callable[[Any, Any], Mapping[str, Any]]
"""The columns of the row that is held and of the new one in; the columns to change and their values out."""


def upsert(dialect: str, table: Table, merge: Merge) -> Insert:
    """Insert a row, or where its primary key is held change that row as merge says.

    MySQL assigns in the order of merge and reads what it has just assigned: put a column after those that compare it.
    """
    if dialect == "sqlite":
        into = sqlite.insert(table)
        return into.on_conflict_do_update(index_elements=list(table.primary_key), set_=merge(table.c, into.excluded))
    row = mysql.insert(table)
    return row.on_duplicate_key_update(list(merge(table.c, row.inserted).items()))
