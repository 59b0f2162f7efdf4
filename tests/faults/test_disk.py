"""The disk is full, or no longer holds what was written: nothing is lost, nothing false is served, the rest goes on."""

import json
import random
import re
import resource
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.span import Span
from data_manager.ports import Receipt
from tests.conftest import eventually
from tests.contract.rows import BASE_MS, batch_of, candle, trade
from tests.faults.conftest import Told
from tests.servers import own_server
from tests.service import Service, connected, drained, feed, publish, running
from tests.truth import lines_of, path_of, rows_of

TRADES = Series("um", "trade", "BTCUSDT")
CANDLES = Series("um", "candle", "BTCUSDT", "1m")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


# ---- a disk that is full -----------------------------------------------------------------------------------------------


async def test_a_full_disk_holds_everything_back_and_nothing_is_lost(
    server: NatsServer, tmp_path: Path, recordings: Path, told: Told
) -> None:
    """The process may not write beyond the present end of the log for a while: events wait on the bus."""
    lines = list(lines_of(path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")))
    first, second = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    async with running(Service(tmp_path, nats_url=server.url)) as service, connected(server.url) as client:
        await feed(server.url, service, [line.message for line in first])
        log_bytes = (service.data_dir / "series.db-wal").stat().st_size
        hard = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (log_bytes, hard))
        await publish(client, service.subject, [line.message for line in second])
        await eventually(lambda: service.get("/health/readiness").status_code == 503, what="not ready")
        assert any("DATA_DIR" in reason for reason in service.get("/health/readiness").json()["reasons"])
        assert service.get("/health/liveness").status_code == 200
        databases = service.get("/health/databases")  # whether it takes what is written, not only whether it answers
        assert databases.status_code == 503
        rows = databases.json()["databases"]["rows"]
        assert rows["status"] == "unhealthy"
        assert "DATA_DIR" in rows["reason"]
        stored = service.figures().of("rows_new_total")  # a little fits into the room that the log has left
        assert sum(map(len, rows_of(first).values())) <= stored < sum(map(len, rows_of(lines).values()))
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (hard, hard))
        room_s = time.monotonic()
        await drained(client, service)
        assert service.get("/health/readiness").status_code == 200
        told(times=1, published=len(lines), seconds_to_recover=time.monotonic() - room_s)
        service.figures().require_law()
        assert service.figures().of("rows_new_total") == sum(map(len, rows_of(lines).values()))
        await service.require(rows_of(lines))


async def test_a_store_without_room_says_so_and_goes_on_when_there_is_some(tmp_path: Path) -> None:
    """SQLite is told that the file may have so many pages and no more; appends and folds meet that limit."""
    digits = random.Random(40)
    store = EmbeddedStore(tmp_path, 1 << 20, FoldAt(rows=2_000))
    store._writing.execute("PRAGMA max_page_count = 32")
    batches = [
        batch_of([trade(1_000 * n + m, price=f"{digits.randrange(10**12)}.25") for m in range(1_000)])
        for n in range(40)
    ]
    kept = [number for number, batch in enumerate(batches) if await _fits(store, batch)]
    assert 2 < len(kept) < 38
    assert await store.count(TRADES) == 1_000 * len(kept)
    store._writing.execute("PRAGMA max_page_count = 1000000")
    for number, batch in enumerate(batches):
        assert await store.append(batch) == (Receipt(duplicate=1_000) if number in kept else Receipt(new=1_000))
    await store.fold(DATASETS["trade"])
    assert (await store.scan(TRADES)).rows() == [row for batch in batches for row in batch.rows()]
    await store.close()


async def _fits(store: EmbeddedStore, batch: Batch) -> bool:
    try:
        return await store.append(batch) == Receipt(new=1_000)
    except Unavailable as error:
        assert "DATA_DIR" in str(error)
        return False


# ---- bytes that changed on the disk --------------------------------------------------------------------------------------


async def filled(folder: Path) -> None:
    """A store with chunks of trades of two symbols (of BTCUSDT the even ids) and of candles, and an empty journal."""
    store = EmbeddedStore(folder, 1 << 20)
    await store.append(batch_of([trade(n) for n in range(0, 6_000, 2)]))
    await store.append(batch_of([trade(7 * n, "ETHUSDT", f"{n}.25") for n in range(3_000)]))
    await store.append(batch_of([candle(minute) for minute in range(500)]))
    for name in ("trade", "candle"):
        await store.fold(DATASETS[name])
    await store.close()


def flip(folder: Path, series: Series, column: str) -> None:
    """Change one byte of the blob of the only chunk of a series, in the file itself."""
    file = folder / "series.db"
    with sqlite3.connect(file) as connection:
        sql = f"SELECT {column} FROM chunk JOIN series USING (sid) WHERE dataset = ? AND symbol = ?"
        [(blob,)] = connection.execute(sql, (series.dataset, series.symbol)).fetchall()
    connection.close()
    content = bytearray(file.read_bytes())
    piece = blob[-60:-20]
    assert content.count(piece) == 1
    content[content.index(piece) + 20] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("column", ["keys", "rest"])
async def test_a_flipped_byte_is_an_error_and_never_a_row(tmp_path: Path, column: str) -> None:
    await filled(tmp_path)
    flip(tmp_path, TRADES, column)
    store = EmbeddedStore(tmp_path, 1 << 20)
    for ask in (store.scan(TRADES), store.last(TRADES, 5), store.scan(TRADES, limit=1)):
        with pytest.raises(Corrupt, match=re.escape(str(TRADES))):
            await ask
    assert len(await store.scan(CANDLES)) == 500
    assert await store.append(batch_of([trade(99_000, "ETHUSDT")])) == Receipt(new=1)
    await store.close()


async def test_rows_keep_coming_in_beside_a_damaged_chunk(tmp_path: Path) -> None:
    """The keys of the chunk are sound, so what comes can be told from what is held; the damage does not spread."""
    await filled(tmp_path)
    flip(tmp_path, TRADES, "rest")
    store = EmbeddedStore(tmp_path, 1 << 20, FoldAt(rows=1))
    assert await store.append(batch_of([trade(5_998)])) == Receipt(duplicate=1)
    for number in (7, 5_999, 7_001, 9, 9_003):  # into the chunk, at its end, beyond it
        assert await store.append(batch_of([trade(number)])) == Receipt(new=1)
        await store.fold(DATASETS["trade"])
    assert (await store.keys(TRADES)).key.tolist() == sorted([*range(0, 6_000, 2), 7, 9, 5_999, 7_001, 9_003])
    beyond = Span(BASE_MS + 70_000, BASE_MS + 100_000)
    assert (await store.scan(TRADES, beyond)).rows() == batch_of([trade(7_001), trade(9_003)]).rows()
    with pytest.raises(Corrupt):
        await store.scan(TRADES)
    await store.close()
    again = EmbeddedStore(tmp_path, 1 << 20)
    assert await again.append(batch_of([trade(n) for n in (7, 9_003, 9_005)])) == Receipt(new=1, duplicate=2)
    await again.close()


async def test_the_service_serves_what_is_sound_and_refuses_what_is_not(server: NatsServer, tmp_path: Path) -> None:
    service = Service(tmp_path, nats_url=server.url)
    await filled(service.data_dir)
    flip(service.data_dir, TRADES, "rest")
    async with running(service):
        answer = service.get("/data/trades", pair="BTCUSDT", limit=10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "corrupt")
        assert "checksum" in service.said()
        assert len(service.rows("/data/trades", pair="ETHUSDT")) == 3_000
        assert len(service.rows("/data/candles", pair="BTCUSDT", period="1m")) == 500
        event = {"e": "trade", "E": BASE_MS, "T": BASE_MS, "s": "ETHUSDT", "t": 99_000, "p": "1.5", "q": "2", "m": True}
        await feed(server.url, service, [json.dumps(event).encode(), json.dumps({**event, "s": "BTCUSDT"}).encode()])
        assert len(service.rows("/data/trades", pair="ETHUSDT")) == 3_001
        assert service.get("/data/trades", pair="BTCUSDT", start="2015-01-01").status_code == 500
        assert service.get("/health/readiness").status_code == 200
        assert await service.stop() < 5.0
