"""The lives of symbols: when rows of their series can exist."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from data_manager.adapters.meta.steps import drop_table, make_table

revision = "0016"
down_revision = "0015"

_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    make_table(
        "lives",
        [
            sa.Column("market", sa.String(8), primary_key=True),
            sa.Column("symbol", sa.String(64), primary_key=True),
            sa.Column("listed_ms", sa.BigInteger),
            sa.Column("delisted_ms", sa.BigInteger),
            sa.Column("halts", _BYTES, nullable=False),
            sa.Column("source", sa.String(64), nullable=False),
            sa.Column("told_ms", sa.BigInteger, nullable=False),
        ],
        indexes={},
    )


def downgrade() -> None:
    drop_table("lives")
