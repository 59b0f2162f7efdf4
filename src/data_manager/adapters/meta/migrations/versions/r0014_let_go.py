"""What went by retention, beside what the audits know of a series: it is no hole."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from data_manager.adapters.meta.steps import add_column, drop_column

revision = "0014"
down_revision = "0013"

_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    add_column("coverage", sa.Column("let_go", _BYTES))


def downgrade() -> None:
    drop_column("coverage", "let_go")
