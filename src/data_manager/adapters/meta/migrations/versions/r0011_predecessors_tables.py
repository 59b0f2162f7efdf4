"""The predecessor's four other tables, with what our verbs need: audits, health, backfill jobs, lineage.

A database it used has them already: they keep their rows and get our columns. Times of ours are in columns that end in
_ms; its own DATETIME columns stay and are filled, for those who read them.
"""

from typing import Any

import sqlalchemy as sa

from data_manager.adapters.meta.steps import make_table, unmake_table

revision = "0011"
down_revision = "0010"

_PERCENT = sa.Numeric(5, 2)
_SPAN = ("series", "start_ms", "end_ms")

_OURS = {
    "audit_logs": (*_SPAN, "result", "rule_version", "at_ms"),
    "health_metrics": ("series", "timeframe", "consistency", "at_ms"),
    "backfill_jobs": (
        *_SPAN, "priority", "attempts", "cursor_ms", "owner", "heartbeat_ms", "open_key", "created_ms", "updated_ms",
    ),
    "lineage_records": (*_SPAN, "details", "at_ms"),
}  # fmt: skip
_INDEXES = {
    "audit_logs": {
        "idx_audit_logs_dataset_timestamp": ["dataset_id", "timestamp"],
        "idx_audit_logs_symbol": ["symbol", "timestamp"],
        "idx_audit_logs_series": ["series", "start_ms"],
    },
    "health_metrics": {
        "idx_health_metrics_dataset_timestamp": ["dataset_id", "timestamp"],
        "idx_health_metrics_symbol": ["symbol", "timestamp"],
        "idx_health_metrics_series": ["series", "at_ms"],
    },
    "backfill_jobs": {
        "idx_backfill_jobs_status": ["status"],
        "idx_backfill_jobs_symbol": ["symbol"],
        "idx_backfill_jobs_open": ["open_key"],
    },
    "lineage_records": {
        "idx_lineage_records_dataset": ["dataset_id"],
        "idx_lineage_records_series": ["series", "start_ms"],
    },
}


def upgrade() -> None:
    for name, columns in _tables().items():
        make_table(name, columns, indexes=_INDEXES[name], unique=["idx_backfill_jobs_open"])


def downgrade() -> None:
    for name, ours in _OURS.items():
        added = [index for index, of in _INDEXES[name].items() if set(of) & set(ours)]
        unmake_table(name, ours=ours, indexes=added)


def _tables() -> dict[str, list[sa.Column[Any]]]:
    return {
        "audit_logs": [
            sa.Column("audit_id", sa.String(64), primary_key=True),
            sa.Column("dataset_id", sa.String(64), nullable=False),
            sa.Column("symbol", sa.String(64), nullable=False),
            sa.Column("audit_type", sa.String(50), nullable=False),
            sa.Column("severity", sa.String(20)),
            sa.Column("details", sa.Text),
            sa.Column("timestamp", sa.DateTime, nullable=False),
            *_span(),
            sa.Column("result", sa.String(16)),
            sa.Column("rule_version", sa.String(32)),
            sa.Column("at_ms", sa.BigInteger),
        ],
        "health_metrics": [
            sa.Column("metric_id", sa.String(64), primary_key=True),
            sa.Column("dataset_id", sa.String(64), nullable=False),
            sa.Column("symbol", sa.String(64), nullable=False),
            sa.Column("completeness", _PERCENT),
            sa.Column("freshness_seconds", sa.Integer),
            sa.Column("gaps_count", sa.Integer),
            sa.Column("duplicates_count", sa.Integer),
            sa.Column("quality_score", _PERCENT),
            sa.Column("timestamp", sa.DateTime, nullable=False),
            sa.Column("series", sa.String(128)),
            sa.Column("timeframe", sa.String(10)),
            sa.Column("consistency", _PERCENT),
            sa.Column("at_ms", sa.BigInteger),
        ],
        "backfill_jobs": [
            sa.Column("job_id", sa.String(64), primary_key=True),
            sa.Column("symbol", sa.String(64), nullable=False),
            sa.Column("data_type", sa.String(50), nullable=False),
            sa.Column("timeframe", sa.String(10)),
            sa.Column("start_time", sa.DateTime, nullable=False),
            sa.Column("end_time", sa.DateTime, nullable=False),
            sa.Column("status", sa.String(20), nullable=False),
            sa.Column("progress", _PERCENT),
            sa.Column("records_fetched", sa.Integer),
            sa.Column("records_inserted", sa.Integer),
            sa.Column("error_message", sa.Text),
            sa.Column("created_at", sa.DateTime, nullable=False),
            sa.Column("started_at", sa.DateTime),
            sa.Column("completed_at", sa.DateTime),
            *_span(),
            sa.Column("priority", sa.Integer),
            sa.Column("attempts", sa.Integer),
            sa.Column("cursor_ms", sa.BigInteger),
            sa.Column("owner", sa.String(128)),
            sa.Column("heartbeat_ms", sa.BigInteger),
            sa.Column("open_key", sa.String(64)),
            sa.Column("created_ms", sa.BigInteger),
            sa.Column("updated_ms", sa.BigInteger),
        ],
        "lineage_records": [
            sa.Column("lineage_id", sa.String(64), primary_key=True),
            sa.Column("dataset_id", sa.String(64), nullable=False),
            sa.Column("source_dataset_id", sa.String(64)),
            sa.Column("transformation", sa.String(100), nullable=False),
            sa.Column("input_records", sa.Integer),
            sa.Column("output_records", sa.Integer),
            sa.Column("timestamp", sa.DateTime, nullable=False),
            *_span(),
            sa.Column("details", sa.Text),
            sa.Column("at_ms", sa.BigInteger),
        ],
    }


def _span() -> list[sa.Column[Any]]:
    return [
        sa.Column("series", sa.String(128)),
        sa.Column("start_ms", sa.BigInteger),
        sa.Column("end_ms", sa.BigInteger),
    ]
