"""Leases: who may do what one replica alone may do, and for how long."""

import sqlalchemy as sa

from data_manager.adapters.meta.steps import drop_table, make_table

revision = "0010"
down_revision = "0002"


def upgrade() -> None:
    make_table(
        "leases",
        [
            sa.Column("name", sa.String(64), primary_key=True),
            sa.Column("holder", sa.String(128), nullable=False),
            sa.Column("epoch", sa.BigInteger, nullable=False),
            sa.Column("term_ms", sa.BigInteger, nullable=False),
            sa.Column("taken_ms", sa.BigInteger, nullable=False),
            sa.Column("renewed_ms", sa.BigInteger, nullable=False),
            sa.Column("expires_ms", sa.BigInteger, nullable=False),
        ],
        indexes={},
    )


def downgrade() -> None:
    drop_table("leases")
