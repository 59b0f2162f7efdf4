"""Findings: what is known to be wrong, with its span."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "findings",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("series", sa.String(128)),
        sa.Column("stream", sa.String(64)),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("start_ms", sa.BigInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger),
        sa.Column("found_ms", sa.BigInteger, nullable=False),
        sa.Column("resolved_ms", sa.BigInteger),
        sa.Column("evidence", sa.Text, nullable=False),
        **MYSQL,
    )
    op.create_index("idx_findings_found", "findings", ["found_ms", "id"])
    op.create_index("idx_findings_kind", "findings", ["kind", "found_ms", "id"])
    op.create_index("idx_findings_series", "findings", ["series", "found_ms", "id"])
    op.create_index("idx_findings_resolved", "findings", ["resolved_ms", "found_ms", "id"])


def downgrade() -> None:
    op.drop_table("findings")
