"""Dead letters, and the predecessor's table of datasets with what a catalogue of series needs.

A database the predecessor used has a table `datasets` already: it keeps its rows and gets our columns.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    _dead_letters()
    if sa.inspect(op.get_bind()).has_table("datasets"):
        _adopt_datasets()
    else:
        _datasets()


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("first_received_ms", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("field", sa.String(255)),
        sa.Column("message", sa.String(1000), nullable=False),
        sa.Column("sample", sa.String(1000), nullable=False),
        sa.Column("payload_bytes", sa.BigInteger, nullable=False),
        sa.Column("kept_bytes", sa.Integer, nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
        sa.Column("payload", sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb"), nullable=False),
        **MYSQL,
    )
    op.create_index("idx_dead_letters_received", "dead_letters", ["received_ms", "id", "kept_bytes"])


def _datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("dataset_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("description", sa.String(500)),
        sa.Column("category", sa.String(50), nullable=False),
        sa.Column("schema_id", sa.String(64)),
        sa.Column("storage_type", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(100)),
        sa.Column("update_frequency", sa.String(50)),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        *_ours(),
        **MYSQL,
    )
    op.create_index("idx_datasets_category", "datasets", ["category"])


def _adopt_datasets() -> None:
    for column in _ours():
        op.add_column("datasets", column)
    if op.get_bind().dialect.name == "mysql":
        op.execute("ALTER TABLE datasets CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")


def _ours() -> list[sa.Column[Any]]:
    return [
        sa.Column("market", sa.String(8)),
        sa.Column("dataset", sa.String(32)),
        sa.Column("symbol", sa.String(64)),
        sa.Column("interval", sa.String(8)),
        sa.Column("rows", sa.BigInteger),
        sa.Column("first_ms", sa.BigInteger),
        sa.Column("last_ms", sa.BigInteger),
        sa.Column("updated_ms", sa.BigInteger),
    ]
