"""A process of an older release goes on while a later one migrates its databases: it is refused, says so, and harms nothing."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.meta.database import connect
from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.meta.tables import REVISION
from data_manager.adapters.mongo.access import MongoAccess
from data_manager.adapters.mongo.layout import LAYOUT
from data_manager.domain.errors import Outdated
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import DeadLetter
from data_manager.service.release import left_behind
from tests.conftest import eventually
from tests.contract.rows import batch_of, trade
from tests.flow.test_inspect import TRADE
from tests.mongo_server import mongo_access, mongo_server, opened, raw
from tests.mysql_server import FreshDatabase, fresh_database, migrated_file, mysql_server
from tests.servers import own_server
from tests.service import Service, connected, feed, publish, running

__all__ = ["fresh_database", "migrated_file", "mongo_access", "mongo_server", "mysql_server"]
LATER = "9999"
AT = 1_700_000_000_000


def outdated(at_ms: int, **evidence: Any) -> Finding:
    """What such a process says of itself."""
    return found(FindingKind.OUTDATED, severity="critical", start_ms=at_ms, evidence=evidence, found_ms=at_ms)


async def migrated(url: str, revision: str) -> None:
    """By a release that we do not have."""
    database = connect(url)
    async with database.writing() as connection:
        await connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    await database.close()


async def test_metadata_of_a_later_release_take_no_write_of_ours_but_the_last_word(
    fresh_database: FreshDatabase,
) -> None:
    url = await fresh_database()
    meta = await open_meta(url)
    letter = DeadLetter(received_ms=1, subject="s", payload=b"x", reason="invalid", message="m", field=None)
    drift = found(FindingKind.DRIFT, severity="warning", start_ms=AT, evidence={}, found_ms=AT)
    try:
        lease = (await meta.take_lease("work", "we", 30.0)).lease
        await migrated(url, LATER)
        for write in (
            lambda: meta.keep_dead([letter]),
            lambda: meta.take_lease("work", "we", 30.0),
            lambda: meta.give_back_lease(lease),
            lambda: meta.fenced(lease).keep_findings([drift]),
            lambda: meta.keep_findings([drift, outdated(AT, why="it was migrated")]),
            meta.healthy,
        ):
            with pytest.raises(Outdated, match=f"revision {LATER}, and not {REVISION}"):
                await write()
        assert [one.kind for one in (await meta.findings(limit=9))[0]] == [FindingKind.OUTDATED], "and it is read on"
        await migrated(url, REVISION)
        await meta.keep_dead([letter])
        assert (await meta.dead_letters(limit=9))[1] == 1
        assert await meta.healthy()
    finally:
        await meta.close()


async def test_rows_of_a_later_format_are_neither_written_nor_read(mongo_access: MongoAccess) -> None:
    batch = batch_of([trade(number, "BTCUSDT") for number in range(3)])
    async with opened(mongo_access) as store:
        await store.append(batch)
        with raw(mongo_access) as client:
            layout = client[mongo_access.database][LAYOUT]
            layout.update_one({"_id": "rows"}, {"$set": {"format": 9}})
            for ask in (store.healthy, lambda: store.append(batch), lambda: store.last(batch.series[0], 1)):
                with pytest.raises(Outdated, match="format 9"):
                    await ask()
            layout.update_one({"_id": "rows"}, {"$set": {"format": 1}})
        assert (await store.append(batch)).duplicate == 3


async def test_a_running_service_notices_says_so_and_goes_on_where_it_may(tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats") as server, running(Service(tmp_path, nats_url=server.url)) as service:
        await feed(server.url, service, [TRADE % (1, b"1.0")])
        _migrate(service, LATER)
        await eventually(lambda: bool(_standing(service)), what="the finding")
        refused = service.get("/health/readiness")
        assert refused.status_code == 503
        assert any(f"revision {LATER}" in one for one in refused.json()["reasons"])
        async with connected(server.url) as client:
            await publish(client, service.subject, [TRADE % (2, b"2.0"), b"garbage"])
        await eventually(lambda: len(service.rows("/data/trades", pair="BTCUSDT")) == 2, what="rows go on")
        assert service.page("/dead-letters")["data"] == [], "there is no place for it"
        _migrate(service, REVISION)
        await eventually(lambda: service.page("/dead-letters")["pagination"]["total"] == 1, what="it comes again")
        await eventually(lambda: not _standing(service), what="the end of the finding")
        [over] = service.page("/findings", kind="outdated")["data"]
        assert (over["severity"], over["evidence"]["database"]) == ("critical", "metadata")
        assert service.get("/health/readiness").status_code == 200


def _standing(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.page("/findings", kind="outdated", open="true")["data"]
    return found


def _migrate(service: Service, revision: str) -> None:
    with sqlite3.connect(service.data_dir / "metadata.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def test_what_a_killed_process_left_behind_is_ended_by_who_leads() -> None:
    killed, alive = outdated(AT, seen_ms=AT + 60_000), outdated(AT + 1, seen_ms=AT + 600_000)
    [over] = left_behind([killed, alive], AT + 630_000)
    assert (over.id, over.open, over.end_ms) == (killed.id, False, AT + 60_000)
