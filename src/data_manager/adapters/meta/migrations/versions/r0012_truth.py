"""What the audits know: coverage by series, the ledger of holes, and certificates."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from data_manager.adapters.meta.steps import drop_table, make_table

revision = "0012"
down_revision = "0011"

_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    make_table(
        "coverage",
        [
            sa.Column("series", sa.String(128), primary_key=True),
            sa.Column("version", sa.BigInteger, nullable=False),
            sa.Column("looked_ms", sa.BigInteger, nullable=False),
            sa.Column("swept_ms", sa.BigInteger, nullable=False),
            sa.Column("until_ms", sa.BigInteger),
            sa.Column("from_ms", sa.BigInteger),
            sa.Column("anchor_key", sa.BigInteger),
            sa.Column("rows_before", sa.BigInteger, nullable=False),
            sa.Column("spans", _BYTES, nullable=False),
            sa.Column("flaws", _BYTES, nullable=False),
        ],
        indexes={},
    )
    make_table("holes", _holes(), indexes=_HOLES)
    make_table(
        "certificates",
        [
            sa.Column("id", sa.String(64), primary_key=True),
            sa.Column("series", sa.String(128), nullable=False),
            sa.Column("start_ms", sa.BigInteger, nullable=False),
            sa.Column("end_ms", sa.BigInteger, nullable=False),
            sa.Column("issued_ms", sa.BigInteger, nullable=False),
            sa.Column("previous", sa.String(64)),
            sa.Column("body", _BYTES, nullable=False),
        ],
        indexes={
            "idx_certificates_series": ["series", "issued_ms", "id"],
            "idx_certificates_issued": ["issued_ms", "id"],
        },
    )


def downgrade() -> None:
    for name in ("certificates", "holes", "coverage"):
        drop_table(name)


_HOLES = {
    "idx_holes_series": ["series", "start_ms"],
    "idx_holes_state": ["state", "series", "start_ms"],
    "idx_holes_recheck": ["recheck_ms"],
}


def _holes() -> list[sa.Column[object]]:
    return [
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("series", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("start_ms", sa.BigInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger, nullable=False),
        sa.Column("missing", sa.BigInteger),
        sa.Column("after_key", sa.BigInteger),
        sa.Column("before_key", sa.BigInteger),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("found_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("healed_ms", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("recheck_ms", sa.BigInteger),
        sa.Column("root", sa.String(32), nullable=False),
        sa.Column("children", sa.Integer, nullable=False),
        sa.Column("history", _BYTES, nullable=False),
    ]
