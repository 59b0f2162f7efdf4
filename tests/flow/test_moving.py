"""export and import: every row arrives, with the venue's digits, whatever interrupts the move; what does not is named."""

import json
from pathlib import Path

import pytest

from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.domain.batch import Batch
from data_manager.domain.errors import BadQuery, Corrupt
from data_manager.domain.span import Span
from data_manager.ports import SeriesStore
from data_manager.services.moving import Arrival, bring_in, export, manifest
from tests.contract.rows import BASE_MS, agg_trade, batch_of, candle, depth_update, liquidation, trade
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
    return [one async for one in bring_in(arrivals_of, store)]


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
    again = await all_of(tmp_path / "box", new)
    assert all(one.verified for one in again)
    assert sum(one.duplicate for one in again) == sum(map(len, BATCHES))
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
    arriving = bring_in(box, new)
    first = await anext(arriving)
    assert (first.rows, first.new + first.duplicate, first.verified) == (parcels[0].rows, parcels[0].rows, True)
    await arriving.aclose()
    rest = await all_of(box, new)
    assert len(rest) == len(parcels)
    assert all(one.verified for one in rest)
    assert (rest[0].new, rest[0].duplicate) == (0, parcels[0].rows)
    assert await new.count(BATCHES[0].series[0]) == 510


async def test_what_a_target_lost_since_an_import_is_brought_again(tmp_path: Path) -> None:
    await export(await filled(), tmp_path, rows_per_file=90)
    new = MemoryStore()
    await all_of(tmp_path, new)
    lost = await new.drop(trades := BATCHES[0].series[0], Span(0, BASE_MS + 1_000))
    again = await all_of(tmp_path, new)
    assert all(one.verified for one in again)
    assert (lost, sum(one.new for one in again)) == (99, 99)
    assert await new.count(trades) == 500


async def test_what_came_in_behind_or_was_replaced_since_an_export_is_written_anew(tmp_path: Path) -> None:
    store, box = MemoryStore(), tmp_path / "box"
    await store.append(batch_of([trade(number) for number in range(100, 400)]))
    await store.append(batch_of([candle(minute) for minute in range(60)]))
    first = await export(store, box, rows_per_file=25)
    await store.append(batch_of([trade(number) for number in (3, *range(210, 220), *range(390, 450))]))
    await store.append(batch_of([trade(number) for number in range(40, 90)]))
    await store.append(batch_of([candle(30, close="3.0")], "reconcile:1"))
    second = await export(store, box, rows_per_file=25)
    assert sum(one.rows for one in second) == 3 + 1 + 50 + 300 + 50 + 60 - 3
    new = MemoryStore()
    assert all(one.verified for one in await all_of(box, new))
    await require_same(store, new)
    kept = {one.file for one in first if one in second}
    assert len(kept) == len(first) - 2, "only the first of the trades and the candle's file are others"
    assert await export(store, box, rows_per_file=25) == second


async def test_an_export_keeps_what_the_store_lets_go(tmp_path: Path) -> None:
    store = await filled()
    before = await export(store, tmp_path, rows_per_file=90)
    await store.drop(BATCHES[0].series[0], Span(0, BASE_MS + 2_000))
    assert await export(store, tmp_path, rows_per_file=90) == before
    await store.append(batch_of([trade(0), trade(501)]))
    after = await export(store, tmp_path, rows_per_file=90)
    assert sum(one.rows for one in after) == sum(one.rows for one in before) + 2
    new = MemoryStore()
    assert all(one.verified for one in await all_of(tmp_path, new))
    assert await new.count(BATCHES[0].series[0]) == 502


async def test_a_folder_that_cannot_be_is_refused_and_an_empty_store_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadQuery, match="cannot be written to"):
        await export(MemoryStore(), tmp_path / "file" / "box")
    assert await export(MemoryStore(), tmp_path / "box") == []
    assert await all_of(tmp_path / "box", MemoryStore()) == []


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
    with pytest.raises(Corrupt, match="cannot be read.*delete it, and export again"):
        await all_of(box, new)
    assert await new.series() == []
    victim.unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        await all_of(box, new)
    assert await export(old, box, rows_per_file=90) == parcels
    assert all(one.verified for one in await all_of(box, new))


class Forgetful(MemoryStore):
    """A store that loses every tenth row and says nothing."""

    async def append(self, batch: Batch):  # type: ignore[no-untyped-def]  # the same as its parent's
        return await super().append(batch.take(batch.key % 10 != 3))


async def test_a_store_that_lost_rows_is_found_out(tmp_path: Path) -> None:
    await export(await filled(), tmp_path, [BATCHES[0].series[0], BATCHES[3].series[0]])
    arrivals = await all_of(tmp_path, Forgetful())
    assert [one.verified for one in arrivals] == [False, True]  # minutes end in 0, never in 3


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
