"""Which version of each archive file was taken in."""

import sqlalchemy as sa

from data_manager.adapters.meta.steps import drop_table, make_table

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    make_table(
        "archive_files",
        [
            sa.Column("path", sa.String(255), primary_key=True),
            sa.Column("sha256", sa.String(64), nullable=False),
            sa.Column("taken_ms", sa.BigInteger, nullable=False),
        ],
        indexes={},
    )


def downgrade() -> None:
    drop_table("archive_files")
