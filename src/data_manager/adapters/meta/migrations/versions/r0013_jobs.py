"""Backfill jobs: the whole job beside the predecessor's columns, and what they are asked for by."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from data_manager.adapters.meta.steps import make_table

revision = "0013"
down_revision = "0012"

_TABLE = "backfill_jobs"
_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_INDEXES = {
    "idx_backfill_jobs_due": ["status", "run_from_ms"],
    "idx_backfill_jobs_series": ["series", "status"],
    "idx_backfill_jobs_created": ["created_ms", "job_id"],
}


def upgrade() -> None:
    make_table(
        _TABLE,
        [
            sa.Column("version", sa.BigInteger),
            sa.Column("run_from_ms", sa.BigInteger),
            sa.Column("requested_by", sa.String(32)),
            sa.Column("body", _BYTES),
        ],
        indexes=_INDEXES,
    )
    # Jobs of ours that a way back took the body of: nobody runs them, and while they are open nobody may ask again.
    op.execute(
        f"UPDATE {_TABLE} SET status = 'failed', open_key = NULL, "
        "error_message = 'what it was to do was lost when the database went back to an earlier revision' "
        "WHERE body IS NULL AND open_key IS NOT NULL"
    )


def downgrade() -> None:
    look = sa.inspect(op.get_bind())
    held = {index["name"] for index in look.get_indexes(_TABLE)}
    for index in _INDEXES:
        if index in held:
            op.drop_index(index, _TABLE)
    columns = {column["name"] for column in look.get_columns(_TABLE)}
    for column in ("version", "run_from_ms", "requested_by", "body"):
        if column in columns:
            op.drop_column(_TABLE, column)
