"""export and import: every row arrives, with the venue's digits, whatever interrupts the move; what does not is named."""

import json
from pathlib import Path

import pytest

from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.batch import Batch
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.ports import SeriesStore
from data_manager.services.moving import Arrival, bring_in, export, manifest
from tests.contract.rows import agg_trade, batch_of, candle, depth_update, liquidation, trade
from tests.memory import MemoryStore

BATCHES = [
    batch_of([trade(number, price=f"{number}.{'0' * (number % 7 + 1)}") for number in range(1, 501)]),
    batch_of([trade(number, "ETHUSDT") for number in range(7, 90, 3)], "rest:trades"),
    batch_of([agg_trade(number) for number in range(40)]),
    batch_of([candle(minute) for minute in range(30)]),
    batch_of([depth_update(number) for number in range(1, 60)]),
    batch_of([liquidation(second // 4, str(second % 4 + 1)) for second in range(100)]),  # four of each first key
]


async def filled() -> MemoryStore:
    store = MemoryStore()
    for batch in BATCHES:
        await store.append(batch)
    return store


async def all_of(arrivals_of: Path, store: SeriesStore) -> list[Arrival]:
    return [one async for one in bring_in(arrivals_of, store, "a store")]


async def require_same(one: SeriesStore, other: SeriesStore) -> None:
    assert await one.series() == await other.series()
    for series in await one.series():
        assert (await other.scan(series)).rows() == (await one.scan(series)).rows(), series


async def test_everything_arrives_letter_for_letter(tmp_path: Path) -> None:
    old = await filled()
    told: list[tuple[int, int]] = []
    parcels = await export(old, tmp_path / "box", rows_per_file=90, progress=lambda at, of, _: told.append((at, of)))
    assert sum(one.rows for one in parcels) == sum(map(len, BATCHES)) == told[-1][0] == told[-1][1]
    assert max(one.rows for one in parcels) <= 90
    new = EmbeddedStore(tmp_path / "new", 1 << 20, FoldAt(rows=100))
    arrivals = await all_of(tmp_path / "box", new)
    assert all(one.verified for one in arrivals)
    assert sum(one.new for one in arrivals) == sum(one.rows for one in arrivals) == sum(map(len, BATCHES))
    await require_same(old, new)
    assert await all_of(tmp_path / "box", new) == []  # remembered as arrived
    await new.close()


async def test_an_export_goes_on_where_it_stopped(tmp_path: Path) -> None:
    old, box = await filled(), tmp_path / "box"
    await export(old, box, rows_per_file=90)
    lines = (box / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (box / "manifest.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])  # killed amid a line
    await old.append(batch_of([trade(number) for number in range(501, 600)]))
    parcels = await export(old, box, rows_per_file=90)
    assert parcels == manifest(box)
    assert parcels[:5] == [type(parcels[0])(**json.loads(line)) for line in lines[:5]]
    new = MemoryStore()
    assert all(one.verified for one in await all_of(box, new))
    await require_same(old, new)


async def test_an_import_goes_on_where_it_stopped_and_beside_other_rows(tmp_path: Path) -> None:
    old, new, box = await filled(), MemoryStore(), tmp_path / "box"
    parcels = await export(old, box, rows_per_file=90)
    await new.append(batch_of([trade(number, price="7.7") for number in range(9_000, 9_010)]))
    await new.append(BATCHES[0].take(slice(0, 30)))
    arriving = bring_in(box, new, "a store")
    first = await anext(arriving)
    assert (first.rows, first.new + first.duplicate, first.verified) == (parcels[0].rows, parcels[0].rows, True)
    await arriving.aclose()
    rest = await all_of(box, new)
    assert len(rest) == len(parcels) - 1
    assert all(one.verified for one in rest)
    assert await new.count(BATCHES[0].series[0]) == 510


async def test_rows_that_came_in_behind_an_export_are_told(tmp_path: Path) -> None:
    store, box = MemoryStore(), tmp_path / "box"
    await store.append(batch_of([trade(number) for number in range(10, 20)]))
    await export(store, box)
    await store.append(batch_of([trade(3)]))
    with pytest.raises(Corrupt, match=r"um\.trade\.BTCUSDT: 1 rows"):
        await export(store, box)
    assert sum(one.rows for one in await export(store, tmp_path / "fresh")) == 11


async def test_a_file_that_changed_is_named_and_nothing_of_it_is_stored(tmp_path: Path) -> None:
    old, box = await filled(), tmp_path / "box"
    parcels = await export(old, box, rows_per_file=90)
    victim = box / parcels[0].file
    other = box / parcels[1].file
    victim.write_bytes(other.read_bytes())
    new = MemoryStore()
    with pytest.raises(Corrupt, match=parcels[0].file):
        await all_of(box, new)
    victim.write_bytes(b"not parquet")
    with pytest.raises(Corrupt, match="cannot be read"):
        await all_of(box, new)
    assert await new.series() == []


class Forgetful(MemoryStore):
    """A store that loses every tenth row and says nothing."""

    async def append(self, batch: Batch):  # type: ignore[no-untyped-def]  # the same as its parent's
        return await super().append(batch.take(batch.key % 10 != 3))


async def test_a_store_that_lost_rows_is_found_out(tmp_path: Path) -> None:
    await export(await filled(), tmp_path, [BATCHES[0].series[0], BATCHES[3].series[0]])
    arrivals = await all_of(tmp_path, Forgetful())
    assert [one.verified for one in arrivals] == [False, True]  # minutes end in 0, never in 3
    again = await all_of(tmp_path, MemoryStore())
    assert [(one.series, one.verified) for one in again] == [("um.trade.BTCUSDT", True)]  # the other had arrived


async def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadQuery, match="holds no export"):
        await all_of(tmp_path, MemoryStore())
    (tmp_path / "manifest.jsonl").write_text(
        '{"file":"../../etc/x.parquet","series":"um.trade.A","rows":1,"first_key":1,"last_key":1,"content":""}\n'
    )
    with pytest.raises(Corrupt, match="format"):
        manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("what\n")
    with pytest.raises(Corrupt, match="line 1"):
        manifest(tmp_path)
