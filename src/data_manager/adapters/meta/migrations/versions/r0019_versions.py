"""Which version of a finding is to be believed, where it may shrink or be there again."""

import sqlalchemy as sa

from data_manager.adapters.meta.steps import add_column, drop_column

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    add_column("findings", sa.Column("version", sa.BigInteger))


def downgrade() -> None:
    drop_column("findings", "version")
