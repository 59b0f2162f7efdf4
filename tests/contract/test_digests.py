"""Digests of archive files, on every kind of metadata store."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from tests.mysql_server import FreshDatabase

PATH = "/data/futures/um/daily/klines/币安人生USDT/1m/币安人生USDT-1m-2026-03-04.zip"


@pytest.fixture
async def store(fresh_database: FreshDatabase) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(await fresh_database())
    try:
        yield one
    finally:
        await one.close()


async def test_the_version_taken_in_last_is_the_one_that_is_known(store: SqlMetaStore) -> None:
    assert await store.digest_of(PATH) is None
    await asyncio.gather(store.keep_digest(PATH, "b" * 64, 200), store.keep_digest(PATH, "a" * 64, 100))
    assert await store.digest_of(PATH) == "b" * 64, "whoever came first"
    await store.keep_digest(PATH, "b" * 64, 200)
    await store.keep_digest(PATH, "c" * 64, 300)
    assert await store.digest_of(PATH) == "c" * 64
    assert await store.digest_of(PATH.lower()) is None
