"""What every metadata store promises of lineage: SQLite, and MySQL or MariaDB."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import insert, update

from data_manager.adapters.meta.predecessor import lineage_records
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.lineage import LineageRecord, lineage_id
from data_manager.domain.span import Span
from data_manager.domain.time import datetime_of
from data_manager.ports import Lease, LeaseLost
from tests.mysql_server import FreshDatabase

NOW_MS = 1_700_000_000_000


@pytest.fixture
async def store(fresh_database: FreshDatabase) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(await fresh_database())
    yield one
    await one.close()


def record(start_ms: int, **other: Any) -> LineageRecord:
    usual: dict[str, Any] = {
        "id": lineage_id("retention", start_ms), "series": "um.trade.币安人生USDT", "transformation": "retention", "start_ms": start_ms,
        "end_ms": start_ms + 10, "rows_in": 2**40, "rows_out": None, "details": {"certificate": "ab", "forced": False, "first_key": -3, "none": None},
        "at_ms": NOW_MS + start_ms,
    }  # fmt: skip
    return LineageRecord(**{**usual, **other})


async def test_what_was_written_comes_back_and_the_newest_version_counts(store: SqlMetaStore) -> None:
    first, second = record(0), record(10)
    other = record(20, series="um.candle.BTCUSDT.1M", transformation="derived", source="um.trade.BTCUSDT", rows_out=7)
    await store.keep_lineage([first, second, other])
    assert await store.lineage(limit=9) == ([other, second, first], 3)
    done = replace(first, rows_out=0, details={**first.details, "dropped": 2**40}, at_ms=NOW_MS + 99)
    await store.keep_lineage([done, done])
    assert await store.lineage(limit=9, transformation="retention") == ([done, second], 2)
    assert await store.lineage(limit=1, offset=1, series=first.series) == ([second], 2)
    assert await store.lineage(limit=9, under_way=True) == ([second], 1)
    assert await store.lineage(limit=9, span=Span(9, 11), transformation="retention") == ([done, second], 2)
    assert await store.lineage(limit=9, span=Span(30, 99)) == ([], 0)
    await store.keep_lineage([])
    with pytest.raises(BadQuery, match="limit"):
        await store.lineage(limit=-1)


async def test_who_leads_no_more_writes_nothing(store: SqlMetaStore) -> None:
    over = Lease(name="work", holder="nobody", epoch=1, term_s=5.0)
    with pytest.raises(LeaseLost):
        await store.fenced(over).keep_lineage([record(0)])
    assert await store.lineage(limit=1) == ([], 0)


async def test_rows_of_the_predecessor_are_none_of_ours_and_damage_is_named(store: SqlMetaStore) -> None:
    theirs = {"lineage_id": "x", "dataset_id": "trades", "transformation": "backfill", "timestamp": datetime_of(NOW_MS)}
    async with store._database.writing() as connection:
        await connection.execute(insert(lineage_records).values(theirs))
    assert await store.lineage(limit=9) == ([], 0)
    await store.keep_lineage([record(0)])
    async with store._database.writing() as connection:
        await connection.execute(update(lineage_records).values(details='{"rows_in": 1}'))
    with pytest.raises(Corrupt, match=record(0).id):
        await store.lineage(limit=9)
