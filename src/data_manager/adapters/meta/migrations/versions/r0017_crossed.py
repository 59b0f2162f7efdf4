"""How far candles were judged by other rows of the same facts."""

import sqlalchemy as sa

from data_manager.adapters.meta.steps import add_column, drop_column

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    add_column("coverage", sa.Column("crossed_ms", sa.BigInteger))


def downgrade() -> None:
    drop_column("coverage", "crossed_ms")
