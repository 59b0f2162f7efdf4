"""Dead letters, and the predecessor's table of datasets with what a catalogue of series needs.

A database the predecessor used has a table `datasets` already: it keeps its rows and gets our columns.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from data_manager.adapters.meta.steps import make_table

revision = "0001"
down_revision = None


def upgrade() -> None:
    make_table(
        "dead_letters",
        [
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
        ],
        indexes={"idx_dead_letters_received": ["received_ms", "id", "kept_bytes"]},
    )
    make_table(
        "datasets",
        [
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
            sa.Column("market", sa.String(8)),
            sa.Column("dataset", sa.String(32)),
            sa.Column("symbol", sa.String(64)),
            sa.Column("interval", sa.String(8)),
            sa.Column("rows", sa.BigInteger),
            sa.Column("first_ms", sa.BigInteger),
            sa.Column("last_ms", sa.BigInteger),
            sa.Column("updated_ms", sa.BigInteger),
        ],
        indexes={"idx_datasets_category": ["category"]},
    )
