"""From any earlier schema to the newest, whoever is killed on the way, and back again: on SQLite, MySQL and MariaDB."""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine import Engine

from data_manager.adapters.meta.database import connect
from data_manager.adapters.meta.failures import Refused
from data_manager.adapters.meta.migrate import SCRIPTS, migrate, step_back
from data_manager.adapters.meta.predecessor import SCHEMA
from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.meta.tables import REVISION
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadSetting, Unavailable
from data_manager.ports import SeriesStatistics
from tests.mysql_server import FreshDatabase, MySqlServer
from tests.summary import FULL

MINUTE = Series("um", "candle", "BTCUSDT", "1m")
STATISTICS = SeriesStatistics(series=MINUTE, rows=5, first_ms=1, last_ms=6, updated_ms=1_700_000_000_000)


def _revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    return [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()][::-1]


REVISIONS = _revisions()
SKIPPED = 1 if FULL else 5  # statements, where none of them leaves a trace
EARLIER = REVISIONS[:-1]


@pytest.fixture
async def url(empty_database: FreshDatabase) -> str:
    """An empty database."""
    return await empty_database()


async def said(url: str, *statements: str) -> list[dict[str, Any]]:
    """The rows of the last statement."""
    database = connect(url)
    rows: list[dict[str, Any]] = []
    try:
        async with database.writing() as connection:
            for statement in statements:
                answer = await connection.execute(text(statement))
                rows = [dict(row) for row in answer.mappings()] if answer.returns_rows else []
    finally:
        await database.close()
    return rows


async def migrated_to(url: str, revision: str) -> None:
    """As an earlier version of this program left it."""
    database = connect(url)

    def upgrade(connection: Connection) -> None:
        config = Config(attributes={"connection": connection, "on_version_apply": lambda **_: None})
        config.set_main_option("script_location", SCRIPTS)
        command.upgrade(config, revision)

    async with database.writing() as connection:
        await connection.run_sync(upgrade)
    await database.close()


async def layout(url: str) -> dict[str, Any]:
    """Tables with their columns and indexes, as the database tells them."""

    def look(connection: Connection) -> dict[str, Any]:
        seen = inspect(connection)
        return {
            table: (
                sorted(f"{one['name']} {one['type']!r} {one['nullable']}" for one in seen.get_columns(table)),
                sorted(f"{one['name']} {one['column_names']} {one['unique']}" for one in seen.get_indexes(table)),
            )
            for table in seen.get_table_names()
        }

    database = connect(url)
    async with database.reading() as connection:
        found = await connection.run_sync(look)
    await database.close()
    return found


async def require_newest(url: str, *, roomier: str = "") -> None:
    """Fails unless the tables are exactly those of the code; roomier: a type that may stand where it wants TEXT."""
    database = connect(url)
    async with database.reading() as connection:
        differences = await connection.run_sync(lambda one: compare_metadata(MigrationContext.configure(one), SCHEMA))
    assert await database.revision() == REVISION
    await database.close()
    assert [one for one in differences if not (roomier and f"{roomier}(" in str(one))] == []


# ── Up ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_chain_is_one_and_the_code_names_its_end() -> None:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


async def test_migrating_twice_is_migrating_once(url: str) -> None:
    assert await migrate(url) == REVISIONS
    assert await migrate(url) == []
    await require_newest(url)


@pytest.mark.parametrize("revision", EARLIER)
async def test_from_any_earlier_version(url: str, revision: str) -> None:
    await migrated_to(url, revision)
    assert await migrate(url) == REVISIONS[REVISIONS.index(revision) + 1 :]
    await require_newest(url)


async def test_what_an_older_release_writes_meanwhile_is_taken(url: str) -> None:
    await migrate(url)
    await said(
        url,
        "INSERT INTO dead_letters (id, received_ms, first_received_ms, count, subject, reason, message, sample, "
        "payload_bytes, kept_bytes, whole, payload) VALUES ('a', 1, 1, 1, 's', 'r', 'm', '', 0, 0, 1, '')",
        "INSERT INTO findings (id, kind, severity, start_ms, found_ms, evidence) "
        "VALUES ('a', 'silence', 'warning', 1, 1, '{}')",
    )


async def test_without_leave_to_migrate_an_old_schema_is_refused(url: str) -> None:
    with pytest.raises(Unavailable, match="data-manager migrate"):
        await open_meta(url, migrate=False)
    await migrate(url)
    store = await open_meta(url, migrate=False)
    await store.close()


async def test_a_schema_from_the_future_is_refused(url: str) -> None:
    await migrate(url)
    await said(url, "UPDATE alembic_version SET version_num = 'ffff'")
    for attempt in (lambda: open_meta(url), lambda: migrate(url)):
        with pytest.raises(BadSetting, match="newer version"):
            await attempt()


async def test_a_table_that_was_taken_away_is_named(url: str) -> None:
    await migrate(url)
    await said(url, "DROP TABLE findings")
    with pytest.raises(Refused, match="its table findings"):
        await migrate(url)
    await said(url, "DELETE FROM alembic_version")
    assert await migrate(url) == REVISIONS, "what the message advises"
    await require_newest(url)


async def test_an_index_that_is_another_one_is_named(url: str) -> None:
    """One that ought to forbid two open jobs for a range, one that somebody made of other columns, one that is gone."""
    await migrate(url)
    drop = "DROP INDEX idx_backfill_jobs_open" + ("" if url.startswith("sqlite") else " ON backfill_jobs")
    ours = r"lacks the index idx_backfill_jobs_open of its table backfill_jobs, unique, on \(open_key\)"
    for index, columns, there in (
        ("INDEX", "open_key", r"\(not unique, on \(open_key\)\)"),
        ("UNIQUE INDEX", "open_key, symbol", r"\(unique, on \(open_key, symbol\)\)"),
    ):
        await said(url, drop, f"CREATE {index} idx_backfill_jobs_open ON backfill_jobs ({columns})")
        with pytest.raises(Refused, match=f"{ours}: drop that one {there} and make ours"):
            await migrate(url)
    await said(url, drop)
    with pytest.raises(Refused, match=f"{ours}: make it"):
        await migrate(url)
    await said(url, "CREATE UNIQUE INDEX idx_backfill_jobs_open ON backfill_jobs (open_key)")
    assert await migrate(url) == []


async def test_a_table_of_somebody_else_is_named_and_left_alone(url: str) -> None:
    await said(url, "CREATE TABLE findings (shoe INTEGER, size INTEGER)", "INSERT INTO findings VALUES (1, 42)")
    with pytest.raises(Refused, match="findings lacks the column id"):
        await migrate(url)
    assert await said(url, "SELECT * FROM findings") == [{"shoe": 1, "size": 42}]
    await said(url, "ALTER TABLE findings RENAME TO shoes")
    await migrate(url)
    await require_newest_beside(url, "shoes")


async def require_newest_beside(url: str, other: str) -> None:
    held = await layout(url)
    assert set(held) == {*SCHEMA.tables, "alembic_version", other}


# ── Killed on the way ────────────────────────────────────────────────────────────────────────────────────────────────


class CutOff(BaseException):
    """The process ends here."""


@contextmanager
def cut_off_after(statements: int) -> Iterator[None]:
    """Within, nothing comes after so many statements that make or change tables."""
    done = 0

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal done
        if statement.lstrip().startswith(("CREATE", "ALTER", "DROP")):
            done += 1
            if done == statements:
                raise CutOff

    event.listen(Engine, "after_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", note)


async def test_cut_off_after_any_statement_the_next_call_goes_on(url: str) -> None:
    """MySQL commits each statement: cut off after one, every call begins with the next. SQLite begins anew each time."""
    anew, cuts = url.startswith("sqlite"), 0
    while cuts < 1_000:
        try:
            with cut_off_after(1 + cuts * SKIPPED if anew else 1):
                await migrate(url)
            break
        except CutOff:
            cuts += 1
    await require_newest(url)
    assert cuts * (SKIPPED if anew else 1) >= len(SCHEMA.tables), "each table is a statement"


_KILLED = """
import asyncio, os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from data_manager.adapters.meta.migrate import migrate
def note(connection, cursor, statement, *_):
    if statement.lstrip().startswith("CREATE TABLE leases"):
        os.kill(os.getpid(), signal.SIGKILL)
event.listen(Engine, sys.argv[2], note)
asyncio.run(migrate(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
async def test_killed_amid_the_next_process_finishes_at_once(url: str, moment: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, url, moment)
    assert await process.wait() == -9
    async with asyncio.timeout(5):
        assert (await migrate(url))[-1] == REVISION
    await require_newest(url)


# ── Several at once ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_may_migrate_at_once_and_one_does(url: str) -> None:
    applied = await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert sorted(applied) == [[], [], [], REVISIONS]


async def in_two_processes(url: str, other: str) -> list[str]:
    program = "import asyncio, sys; from data_manager.adapters.meta.migrate import migrate; "
    program += "print(asyncio.run(migrate(sys.argv[1])))"

    async def run(url: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", program, url, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().strip()

    return sorted(await asyncio.gather(run(url), run(other)))


async def test_two_processes_may_migrate_at_once_and_one_does(url: str) -> None:
    assert await in_two_processes(url, url) == sorted([str(REVISIONS), "[]"])


async def test_also_when_they_call_the_server_by_different_names(mysql_server: MySqlServer) -> None:
    url = await mysql_server.fresh()
    assert await in_two_processes(url, url.replace("127.0.0.1", "localhost")) == sorted([str(REVISIONS), "[]"])


# ── Back ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def copy_of(url: str, empty_database: FreshDatabase, folder: Path) -> str:
    """Another database of the same content."""
    if url.startswith("sqlite:///"):
        await said(url, "SELECT 1")  # nobody else has it open: the file is whole
        shutil.copy(url.removeprefix("sqlite:///"), folder / "copy.db")
        return f"sqlite:///{folder}/copy.db"
    copy = await empty_database()
    held, new = (one.rpartition("/")[2] for one in (url, copy))
    for table in await layout(url):
        await said(url, f"CREATE TABLE {new}.{table} LIKE {held}.{table}")
        await said(url, f"INSERT INTO {new}.{table} SELECT * FROM {held}.{table}")
    return copy


@pytest.mark.skipif("'TEST_MYSQL_URL' in os.environ", reason="one database is not enough for a copy")
@pytest.mark.parametrize("revision", EARLIER)
async def test_a_copy_goes_back_and_up_again_with_its_rows(
    empty_database: FreshDatabase, tmp_path: Path, revision: str
) -> None:
    url = await empty_database()
    await migrated_to(url, revision)
    before = await layout(url)
    await migrate(url)
    store = await open_meta(url)
    await store.keep_statistics([STATISTICS])
    await store.close()
    copy = await copy_of(url, empty_database, tmp_path)
    assert await step_back(copy, revision) == REVISIONS[REVISIONS.index(revision) + 1 :][::-1]
    assert await layout(copy) == before
    assert await migrate(copy) == REVISIONS[REVISIONS.index(revision) + 1 :]
    for one in (url, copy):
        await require_newest(one)
        store = await open_meta(one, migrate=False)
        assert await store.statistics() == [STATISTICS]
        await store.close()


async def test_cut_off_on_the_way_back_the_next_call_goes_on(url: str) -> None:
    """As above; and from its end everything is made again."""
    anew, cuts = url.startswith("sqlite"), 0
    await migrate(url)
    while cuts < 1_000:
        try:
            with cut_off_after(1 + cuts * SKIPPED if anew else 1):
                await step_back(url, REVISIONS[0])
            break
        except CutOff:
            cuts += 1
    assert cuts * (SKIPPED if anew else 1) >= len(REVISIONS) - 1, "each revision is a statement or more"
    assert await step_back(url, REVISIONS[0]) == []
    assert await migrate(url) == REVISIONS[1:]
    await require_newest(url)


async def test_a_revision_that_never_was_is_refused(url: str) -> None:
    await migrate(url)
    with pytest.raises(BadSetting, match="never been at revision 4711"):
        await step_back(url, "4711")
    assert await migrate(url) == []


# ── The predecessor's database ───────────────────────────────────────────────────────────────────────────────────────

_ITS_TABLES = [
    (
        "CREATE TABLE datasets (dataset_id VARCHAR(64) PRIMARY KEY, name VARCHAR(100) NOT NULL, description VARCHAR(500), "
        "category VARCHAR(50) NOT NULL, schema_id VARCHAR(64), storage_type VARCHAR(20) NOT NULL, owner VARCHAR(100), "
        "update_frequency VARCHAR(50), created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL){options}"
    ),
    (
        "CREATE TABLE audit_logs (audit_id VARCHAR(64) PRIMARY KEY, dataset_id VARCHAR(64) NOT NULL, "
        "symbol VARCHAR(20) NOT NULL, audit_type VARCHAR(50) NOT NULL, severity VARCHAR(20), details TEXT, "
        "timestamp DATETIME NOT NULL){options}"
    ),
    (
        "CREATE TABLE health_metrics (metric_id VARCHAR(64) PRIMARY KEY, dataset_id VARCHAR(64) NOT NULL, "
        "symbol VARCHAR(20) NOT NULL, completeness DECIMAL(5,2), freshness_seconds INTEGER, gaps_count INTEGER, "
        "duplicates_count INTEGER, quality_score DECIMAL(5,2), timestamp DATETIME NOT NULL){options}"
    ),
    (
        "CREATE TABLE backfill_jobs (job_id VARCHAR(64) PRIMARY KEY, symbol VARCHAR(20) NOT NULL, "
        "data_type VARCHAR(50) NOT NULL, timeframe VARCHAR(10), start_time DATETIME NOT NULL, end_time DATETIME NOT NULL, "
        "status {status} NOT NULL, progress DECIMAL(5,2), records_fetched INTEGER, records_inserted INTEGER, "
        "error_message TEXT, created_at DATETIME NOT NULL, started_at DATETIME, completed_at DATETIME){options}"
    ),
    (
        "CREATE TABLE lineage_records (lineage_id VARCHAR(64) PRIMARY KEY, dataset_id VARCHAR(64) NOT NULL, "
        "source_dataset_id VARCHAR(64), transformation VARCHAR(100) NOT NULL, input_records INTEGER, "
        "output_records INTEGER, timestamp DATETIME NOT NULL){options}"
    ),
    "CREATE INDEX idx_datasets_category ON datasets (category)",
    "CREATE INDEX idx_audit_logs_dataset_timestamp ON audit_logs (dataset_id, timestamp)",
    "CREATE INDEX idx_audit_logs_symbol ON audit_logs (symbol)",
    "CREATE INDEX idx_health_metrics_symbol ON health_metrics (symbol)",
    "CREATE INDEX idx_backfill_jobs_status ON backfill_jobs (status)",
    (
        "INSERT INTO datasets (dataset_id, name, category, storage_type, created_at, updated_at) VALUES "
        "('candles_BTCUSDT_1h', 'old', 'klines', 'mongodb', '2025-10-20 12:00:00', '2025-10-20 12:00:00')"
    ),
    (
        "INSERT INTO audit_logs (audit_id, dataset_id, symbol, audit_type, timestamp) VALUES "
        "('a', 'candles_BTCUSDT_1h', 'BTCUSDT', 'gap', '2025-10-20 12:00:00')"
    ),
    (
        "INSERT INTO backfill_jobs (job_id, symbol, data_type, start_time, end_time, status, created_at) VALUES "
        "('j', 'BTCUSDT', 'klines', '2025-10-20', '2025-10-21', 'pending', '2025-10-20 12:00:00')"
    ),
]


async def left_by_the_predecessor(url: str) -> None:
    """Its tables and some rows; on MySQL with the latin letters and the closed words that its servers had."""
    mysql = url.startswith("mysql")
    status = "ENUM('pending', 'running', 'completed', 'failed')" if mysql else "VARCHAR(20)"
    options = " ENGINE=MyISAM DEFAULT CHARSET=latin1" if mysql else ""
    await said(url, *(one.format(status=status, options=options) for one in _ITS_TABLES))
    if mysql:  # where a value was missing, INSERT IGNORE wrote these
        columns = "job_id, symbol, data_type, start_time, end_time, status, created_at"
        await said(
            url,
            "SET SESSION sql_mode = ''",
            f"INSERT INTO backfill_jobs ({columns}) VALUES ('z', '', '', 0, 0, 'failed', '2025-10-20 12:00:00')",
        )


async def test_tables_of_the_predecessor_are_taken_over_with_their_rows(url: str) -> None:
    await left_by_the_predecessor(url)
    await migrate(url)
    if url.startswith("mysql"):  # SQLite keeps the words of the declaration, and takes any length
        await require_newest(url, roomier="MEDIUMTEXT")  # three bytes for a letter where one was enough
    store = await open_meta(url)
    await store.keep_statistics([STATISTICS])
    assert await store.statistics() == [STATISTICS]
    await store.close()
    await said(
        url,
        "INSERT INTO audit_logs (audit_id, dataset_id, symbol, audit_type, timestamp) VALUES "
        "('b', 'um.trade.币安人生USDT', '币安人生😀USDT_251226_AND_MORE', 'gap', '2025-10-20 12:00:00')",
        "UPDATE backfill_jobs SET status = 'cancelled' WHERE job_id = 'j'",
    )
    (job,) = await said(url, "SELECT status, symbol, priority FROM backfill_jobs WHERE job_id = 'j'")
    assert job == {"status": "cancelled", "symbol": "BTCUSDT", "priority": None}
    assert next(one["name"] for one in await said(url, "SELECT name FROM datasets ORDER BY dataset_id")) == "old"


async def test_going_back_leaves_the_predecessors_rows(url: str) -> None:
    await left_by_the_predecessor(url)
    await migrate(url)
    await step_back(url, "0002")
    held = await layout(url)
    assert {"audit_logs", "backfill_jobs"} <= set(held)
    assert not any("rule_version" in column for column in held["audit_logs"][0])
    assert (await said(url, "SELECT symbol FROM audit_logs"))[0]["symbol"] == "BTCUSDT"
    assert "lineage_records" not in held, "it held nothing"
    await migrate(url)
    assert (await said(url, "SELECT symbol, series FROM audit_logs")) == [{"symbol": "BTCUSDT", "series": None}]


async def test_a_job_that_lost_its_body_on_the_way_back_keeps_nobody_from_asking_again(url: str) -> None:
    await migrate(url)
    columns = "job_id, symbol, data_type, start_time, end_time, status, created_at, open_key"
    values = "'BTCUSDT', 'candle', '2025-10-20', '2025-10-21', 'pending', '2025-10-20'"
    await said(url, f"INSERT INTO backfill_jobs ({columns}) VALUES ('ours', {values}, 'k'), ('theirs', {values}, NULL)")
    await step_back(url, "0012")
    await migrate(url)
    found = await said(url, "SELECT status, open_key FROM backfill_jobs ORDER BY job_id")
    assert found == [{"status": "failed", "open_key": None}, {"status": "pending", "open_key": None}]


async def test_one_open_job_per_range(url: str) -> None:
    await migrate(url)
    columns = "job_id, symbol, data_type, start_time, end_time, status, created_at, open_key"
    row = "'BTCUSDT', 'candle', '2025-10-20', '2025-10-21', 'pending', '2025-10-20', "
    insert = f"INSERT INTO backfill_jobs ({columns}) VALUES "
    await said(url, f"{insert} ('1', {row} NULL), ('2', {row} NULL), ('3', {row} 'k')")
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await said(url, f"{insert} ('4', {row} 'k')")
