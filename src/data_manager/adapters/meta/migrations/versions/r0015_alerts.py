"""Alerts and their messages; health by hour and day, and what the audit log is asked for."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from data_manager.adapters.meta.steps import add_column, add_index, drop_column, drop_index, drop_table, make_table

revision = "0015"
down_revision = "0014"

_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_ALERTS = {
    "idx_alerts_fired": ["fired_ms", "id"],
    "idx_alerts_resolved": ["resolved_ms"],
    "idx_alerts_untold": ["untold"],
    "idx_alerts_series": ["series", "fired_ms"],
}
_MESSAGES = {"idx_alert_messages_at": ["at_ms", "id"], "idx_alert_messages_due": ["due_ms"]}
_HEALTH = {"idx_health_metrics_slot": ["series", "grain", "slot_ms"], "idx_health_metrics_age": ["grain", "slot_ms"]}
_LOG = {"idx_audit_logs_at": ["at_ms", "audit_id"], "idx_audit_logs_type": ["audit_type", "at_ms"]}


def upgrade() -> None:
    make_table("alerts", _alerts(), indexes=_ALERTS)
    make_table(
        "alert_messages",
        [
            sa.Column("id", sa.String(32), primary_key=True),
            sa.Column("at_ms", sa.BigInteger, nullable=False),
            sa.Column("kind", sa.String(32), nullable=False),
            sa.Column("due_ms", sa.BigInteger),
            sa.Column("body", _BYTES, nullable=False),
        ],
        indexes=_MESSAGES,
    )
    add_column("health_metrics", sa.Column("grain", sa.String(8)))
    add_column("health_metrics", sa.Column("slot_ms", sa.BigInteger))
    for table, indexes in (("health_metrics", _HEALTH), ("audit_logs", _LOG)):
        for name, columns in indexes.items():
            add_index(name, table, columns)


def downgrade() -> None:
    for table, indexes in (("health_metrics", _HEALTH), ("audit_logs", _LOG)):
        for name in indexes:
            drop_index(name, table)
    for column in ("slot_ms", "grain"):
        drop_column("health_metrics", column)
    for table in ("alert_messages", "alerts"):
        drop_table(table)


def _alerts() -> list[sa.Column[object]]:
    return [
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("series", sa.String(128)),
        sa.Column("stream", sa.String(64)),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("newest_ms", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("text", sa.String(1000), nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("episode", sa.BigInteger, nullable=False),
        sa.Column("fired_ms", sa.BigInteger, nullable=False),
        sa.Column("told_ms", sa.BigInteger, nullable=False),
        sa.Column("resolved_ms", sa.BigInteger),
        sa.Column("untold", sa.String(16)),
    ]
