"""The embedded store at work: its log begins again while rows go on coming, and folds take their time but hold up no end."""

import asyncio
import shutil
from pathlib import Path

import pytest

from data_manager.adapters.store import embedded
from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.dataset import Series
from tests.contract.rows import batch_of, trade

TRADES = Series("um", "trade", "BTCUSDT")


def log_of(folder: Path) -> Path:
    return folder / "series.db-wal"


async def test_the_log_begins_again_though_there_is_always_one_more_append(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, 1 << 20, FoldAt(rows=500))
    written = most = 0

    async def append_on(symbol: str) -> None:
        nonlocal written, most
        for number in range(300):
            await store.append(batch_of([trade(10 * number + n, symbol) for n in range(10)]))
            written += 4_096
            most = max(most, log_of(tmp_path).stat().st_size)

    await asyncio.gather(*(append_on(f"S{number}USDT") for number in range(4)))
    assert written > 4_000_000
    assert most < written / 2, "every append writes a page at least; most of them over pages that were moved"
    await store.close()


@pytest.mark.parametrize("cut", [0, 1, 5_000])
async def test_room_in_the_log_is_nothing_to_whoever_opens_it_after_a_kill(tmp_path: Path, cut: int) -> None:
    """What the last life left: committed frames, then zeros, of which some may not have reached the disk."""
    store = EmbeddedStore(tmp_path / "killed", 1 << 20)
    for number in range(20):
        await store.append(batch_of([trade(number)]))
    shutil.copytree(tmp_path / "killed", tmp_path / "left", ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    held = (await store.scan(TRADES)).rows()
    await store.close()
    log = log_of(tmp_path / "left")
    content = log.read_bytes()
    assert content.endswith(bytes(16_384)), "there is room"
    log.write_bytes(content[: len(content) - cut])
    again = EmbeddedStore(tmp_path / "left", 1 << 20)
    assert (await again.scan(TRADES)).rows() == held
    assert (await again.append(batch_of([trade(20)]))).new == 1
    assert await again.count(TRADES) == 21
    await again.close()


async def test_a_fold_at_rest_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_BREATH", 100_000)  # it would rest for minutes
    store = EmbeddedStore(tmp_path, 1 << 20, FoldAt(entries=2))
    symbols = [f"S{number}USDT" for number in range(50)]
    for key in range(2):
        await store.append(batch_of([trade(key, symbol) for symbol in symbols]))
    await asyncio.wait_for(store.close(), 30)
    again = EmbeddedStore(tmp_path, 1 << 20)
    assert not again._views["trade"].recent.pieces, "it was done to the end"
    assert {await again.count(Series("um", "trade", symbol)) for symbol in symbols} == {2}
    await again.close()
