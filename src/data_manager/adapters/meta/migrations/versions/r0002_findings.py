"""Findings: what is known to be wrong, with its span."""

import sqlalchemy as sa

from data_manager.adapters.meta.steps import drop_table, make_table

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    make_table(
        "findings",
        [
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
        ],
        indexes={
            "idx_findings_found": ["found_ms", "id"],
            "idx_findings_kind": ["kind", "found_ms", "id"],
            "idx_findings_series": ["series", "found_ms", "id"],
            "idx_findings_resolved": ["resolved_ms", "found_ms", "id"],
        },
    )


def downgrade() -> None:
    drop_table("findings")
