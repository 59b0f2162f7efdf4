"""What is held of one series is damaged, keys and all: its events wait in the dead letters, everything else goes on."""

import json
from pathlib import Path
from typing import Any

from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.ports import Receipt
from tests.contract.rows import BASE_MS, batch_of, trade
from tests.faults.conftest import Told
from tests.faults.test_disk import TRADES, filled, flip
from tests.servers import own_server
from tests.service import Service, dead_letters, feed, running


def event(number: int, symbol: str) -> bytes:
    at: dict[str, Any] = dict.fromkeys(("E", "T"), BASE_MS + 10 * number)
    return json.dumps({"e": "trade", **at, "s": symbol, "t": number, "p": "1.5", "q": "2", "m": True}).encode()


async def test_keys_that_cannot_be_read_stop_nobody_else(tmp_path: Path, told: Told) -> None:
    """Trades that may be held already cannot be told from new ones; those beyond the damage can."""
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path, nats_url=server.url)
        await filled(service.data_dir)
        flip(service.data_dir, TRADES, "keys")
        async with running(service):
            sent = [event(7, "BTCUSDT"), event(9, "BTCUSDT"), event(99_000, "ETHUSDT")]
            await feed(server.url, service, sent)
            await feed(server.url, service, [event(99_000, "BTCUSDT")])
            figures = service.figures()
            figures.require_law()
            assert figures.of("messages_failed_total", reason="damaged") == 2
            assert figures.of("rows_new_total") == 2
            assert (
                sorted((letter["reason"], letter["count"]) for letter in dead_letters(service)) == [("damaged", 1)] * 2
            )
            assert len(service.rows("/data/trades", pair="ETHUSDT")) == 3_001
            assert service.get("/data/trades", pair="BTCUSDT", start="2015-01-01").status_code == 500
            assert service.get("/health/readiness").status_code == 200
            assert await service.stop() < 5.0
            told(times=1, buried=2, stored=2)


async def test_a_damaged_span_can_be_dropped_unread_and_filled_again(tmp_path: Path) -> None:
    await filled(tmp_path)
    flip(tmp_path, TRADES, "keys")
    store = EmbeddedStore(tmp_path, 1 << 20, FoldAt(rows=1))
    assert await store.append(batch_of([trade(9_001)])) == Receipt(new=1)
    await store.fold(DATASETS["trade"])
    assert await store.drop(TRADES, Span(BASE_MS, BASE_MS + 60_000)) == 3_000
    whole = batch_of([trade(number) for number in range(6_000)])
    assert await store.append(whole) == Receipt(new=6_000)
    assert (await store.scan(TRADES)).rows() == [*whole.rows(), *batch_of([trade(9_001)]).rows()]
    await store.close()
