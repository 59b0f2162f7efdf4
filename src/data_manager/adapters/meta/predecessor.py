"""The predecessor's tables beside `datasets`, as migrations leave them: its columns first, then ours.

Its rows stay readable for who knows its columns; ours are null in the rows it left behind. Times of ours are int64
milliseconds in columns that end in _ms, its own are DATETIME in UTC.
"""

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Index, Integer, Numeric, String, Table, Text

from data_manager.adapters.meta.tables import BYTES, MYSQL, UtcDateTime, metadata

_PERCENT = Numeric(5, 2)


def _span() -> list[Column[Any]]:
    """Which part of which series it is about."""
    return [Column("series", String(128)), Column("start_ms", BigInteger), Column("end_ms", BigInteger)]


audit_logs = Table(
    "audit_logs",
    metadata,
    Column("audit_id", String(64), primary_key=True),
    Column("dataset_id", String(64), nullable=False),
    Column("symbol", String(64), nullable=False),
    Column("audit_type", String(50), nullable=False),  # gap, health_check
    Column("severity", String(20)),
    Column("details", Text),
    Column("timestamp", UtcDateTime, nullable=False),
    *_span(),
    Column("result", String(16)),  # pass, warn, fail, unknown
    Column("rule_version", String(32)),
    Column("at_ms", BigInteger),
    Index("idx_audit_logs_dataset_timestamp", "dataset_id", "timestamp"),
    Index("idx_audit_logs_symbol", "symbol", "timestamp"),
    Index("idx_audit_logs_series", "series", "start_ms"),
    Index("idx_audit_logs_at", "at_ms", "audit_id"),
    Index("idx_audit_logs_type", "audit_type", "at_ms"),
    **MYSQL,
)

health_metrics = Table(
    "health_metrics",
    metadata,
    Column("metric_id", String(64), primary_key=True),
    Column("dataset_id", String(64), nullable=False),
    Column("symbol", String(64), nullable=False),
    Column("completeness", _PERCENT),
    Column("freshness_seconds", Integer),
    Column("gaps_count", Integer),
    Column("duplicates_count", Integer),
    Column("quality_score", _PERCENT),
    Column("timestamp", UtcDateTime, nullable=False),
    Column("series", String(128)),
    Column("timeframe", String(10)),
    Column("consistency", _PERCENT),
    Column("at_ms", BigInteger),
    Column("grain", String(8)),  # now, hour, day; null in the predecessor's rows
    Column("slot_ms", BigInteger),  # when that hour or day begins
    Index("idx_health_metrics_dataset_timestamp", "dataset_id", "timestamp"),
    Index("idx_health_metrics_symbol", "symbol", "timestamp"),
    Index("idx_health_metrics_series", "series", "at_ms"),
    Index("idx_health_metrics_slot", "series", "grain", "slot_ms"),
    Index("idx_health_metrics_age", "grain", "slot_ms"),
    **MYSQL,
)

backfill_jobs = Table(
    "backfill_jobs",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("symbol", String(64), nullable=False),
    Column("data_type", String(50), nullable=False),
    Column("timeframe", String(10)),
    Column("start_time", UtcDateTime, nullable=False),
    Column("end_time", UtcDateTime, nullable=False),
    Column("status", String(20), nullable=False),  # pending, running, completed, failed, cancelled
    Column("progress", _PERCENT),
    Column("records_fetched", Integer),
    Column("records_inserted", Integer),
    Column("error_message", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    *_span(),
    Column("priority", Integer),  # 1 to 10
    Column("attempts", Integer),
    Column("cursor_ms", BigInteger),  # what lies before it is done: a resumed job goes on there
    Column("owner", String(128)),  # who runs it
    Column("heartbeat_ms", BigInteger),
    Column("open_key", String(64)),  # of series and span while it is open, null after: one open job per range
    Column("created_ms", BigInteger),
    Column("updated_ms", BigInteger),
    Column("version", BigInteger),  # one more at each change
    Column("run_from_ms", BigInteger),  # a pending job waits until then
    Column("requested_by", String(32)),
    Column("body", BYTES),  # JSON: the whole job, see domain/job.py; null in the predecessor's rows
    Index("idx_backfill_jobs_status", "status"),
    Index("idx_backfill_jobs_symbol", "symbol"),
    Index("idx_backfill_jobs_open", "open_key", unique=True),
    Index("idx_backfill_jobs_due", "status", "run_from_ms"),
    Index("idx_backfill_jobs_series", "series", "status"),
    Index("idx_backfill_jobs_created", "created_ms", "job_id"),
    **MYSQL,
)

lineage_records = Table(
    "lineage_records",
    metadata,
    Column("lineage_id", String(64), primary_key=True),
    Column("dataset_id", String(64), nullable=False),
    Column("source_dataset_id", String(64)),
    Column("transformation", String(100), nullable=False),
    Column("input_records", Integer),
    Column("output_records", Integer),
    Column("timestamp", UtcDateTime, nullable=False),
    *_span(),
    Column("details", Text),  # a JSON object
    Column("at_ms", BigInteger),
    Index("idx_lineage_records_dataset", "dataset_id"),
    Index("idx_lineage_records_series", "series", "start_ms"),
    **MYSQL,
)

SCHEMA: Final = metadata
"""All tables there are, ours and its, as the newest migration leaves them."""
