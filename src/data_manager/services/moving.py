"""Moving house: the rows of one store into a folder, and from there into another store, proven to be the same.

    folder/
      manifest.jsonl                                  one line per file: series, rows, keys, content hash
      um.trade.BTCUSDT/00000000000000003595.parquet   rows in key order; every column, numbers as the venue's text

Both ways can be stopped and started again, and done twice. What was done before is never believed, it is compared: a
file is written again only when the store holds other rows with its keys by now, and sent again only when the target
does not hold exactly its rows. That is what the content hash of each file is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.batch import Batch, build, empty, joined, settle
from data_manager.domain.dataset import Dataset, Kind, Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Corrupt, Unavailable
from data_manager.domain.proof.certificate import Fingerprint
from data_manager.domain.values.columns import Column
from data_manager.ports import Receipt, SeriesStore
from data_manager.services.answering.pages import pages

FORMAT: Final = 1
ROWS_PER_FILE: Final = 100_000
_BLOCK_KEYS: Final = 2**32
_MANIFEST: Final = "manifest.jsonl"
_NAME: Final = re.compile(r"[\w.-]+/-?\d+\.parquet")

Progress = Callable[[int, int, str], None]
"""Told rows done, rows in all, and the series at hand."""


class Parcel(Struct, frozen=True, kw_only=True):
    """One file: the rows of a series with first keys from first_key to last_key inclusive."""

    file: str  # relative to the folder
    series: str
    rows: int
    first_key: int
    last_key: int
    content: str  # hash of the venue's facts in the rows: the same in every store
    format: int = FORMAT


class Arrival(Struct, frozen=True, kw_only=True):
    """What came of one file in the target."""

    file: str
    series: str
    rows: int
    new: int
    changed: int
    duplicate: int
    verified: bool  # the target holds exactly these rows


def _unheard(done: int, total: int, what: str) -> None:
    """Nobody wants to know."""


# ---- out ------------------------------------------------------------------------------------------------------------


async def export(
    store: SeriesStore,
    folder: Path,
    wanted: Sequence[Series] = (),
    *,
    rows_per_file: int = ROWS_PER_FILE,
    progress: Progress = _unheard,
) -> list[Parcel]:
    """Write what the store holds (of these series, or all) into the folder; every parcel that lies there by then.

    Of what an earlier export wrote, files whose rows are no longer those of the store are written anew: rows that came
    in since or were replaced. Rows that the store let go stay. Raises BadQuery for a folder that cannot be written to,
    Unavailable when that happens later, such as for want of room.
    """
    _prepare(folder)
    lying = manifest(folder)
    try:
        held = {one: await store.count(one) for one in (wanted or await store.series())}
        done, total = 0, sum(held.values())
        for series in held:
            after = None
            for parcel in sorted((one for one in lying if one.series == series.id), key=lambda one: one.first_key):
                await _renew(store, folder, series, parcel, after, rows_per_file)
                after = parcel.last_key if after is None else max(after, parcel.last_key)
                done += parcel.rows
                progress(done, max(total, done), series.id)
            async for part in pages(store, series, after=after, rows=rows_per_file):
                done += _write(folder, series, part).rows
                progress(done, max(total, done), series.id)
        return manifest(folder)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be written to: {error.strerror}") from error


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MANIFEST).touch()
        _forget_half_lines(folder / _MANIFEST)
    except OSError as error:
        raise BadQuery("folder", str(folder), f"cannot be written to: {error.strerror}") from error


def manifest(folder: Path) -> list[Parcel]:
    """What lies in the folder: of several lines on one file the last. Raises Corrupt for a manifest not of ours."""
    parcels = {one.file: one for one in _read(folder / _MANIFEST, Parcel)}
    for one in parcels.values():
        if one.format != FORMAT or not _NAME.fullmatch(one.file):
            raise Corrupt(f"{folder / _MANIFEST}: {one.file} is in a format that this version does not read")
    return [one for one in parcels.values() if one.rows]


async def _renew(
    store: SeriesStore, folder: Path, series: Series, parcel: Parcel, after: int | None, rows_per_file: int
) -> None:
    """See to it that the parcel, or others in its place, hold what the store holds from after to its last key."""
    in_store = partial(_until, store, series, after, parcel.last_key, rows_per_file)
    there = (folder / parcel.file).exists()
    if there and await _content(in_store()) == parcel.content:
        return
    old = _unpacked(folder, parcel) if there else empty(DATASETS[series.dataset], (series,))
    if there and await _content(_together(in_store(), old)) == parcel.content:
        return  # the store let some go
    same_name = None
    async for part in _together(in_store(), old):
        if _name(series, part) == parcel.file:
            same_name = part  # last: what only the old file holds must not be gone before it stands elsewhere
        else:
            _write(folder, series, part)
    if same_name is not None:
        _write(folder, series, same_name)
        return
    _note(folder / _MANIFEST, replace(parcel, rows=0))
    (folder / parcel.file).unlink(missing_ok=True)


async def _until(
    store: SeriesStore, series: Series, after: int | None, last_key: int, rows: int
) -> AsyncIterator[Batch]:
    """Rows with first keys beyond after, up to last_key inclusive, in key order."""
    async for part in pages(store, series, after=after, rows=rows):
        mine = part.take(part.key <= last_key)
        if len(mine):
            yield mine
        if part.key[-1] >= last_key:
            return


async def _together(in_store: AsyncIterator[Batch], old: Batch) -> AsyncIterator[Batch]:
    """The rows of the store, and those of the old file whose keys it no longer has; in key order."""
    async for part in in_store:
        near = old.key <= part.key[-1]
        yield settle(joined([part, old.take(near & ~np.isin(old.key, part.key))]))
        old = old.take(~near)
    if len(old):
        yield old


def _name(series: Series, rows: Batch) -> str:
    return f"{series.id}/{int(rows.key[0]):020d}.parquet"


def _write(folder: Path, series: Series, rows: Batch) -> Parcel:
    file = folder / _name(series, rows)
    file.parent.mkdir(exist_ok=True)
    under_way = file.with_suffix(".part")
    with under_way.open("wb") as out:
        pq.write_table(_table(rows), out, compression="zstd")
        out.flush()
        os.fsync(out.fileno())
    under_way.rename(file)
    parcel = Parcel(
        file=_name(series, rows),
        series=series.id,
        rows=len(rows),
        first_key=int(rows.key[0]),
        last_key=int(rows.key[-1]),
        content=content_of([rows]),
    )
    _note(folder / _MANIFEST, parcel)
    return parcel


def content_of(batches: Sequence[Batch]) -> str:
    """Hash of the venue's facts in these rows, given in key order; see domain/proof/certificate.py."""
    fingerprint = Fingerprint(_BLOCK_KEYS)
    for batch in batches:
        fingerprint.update(batch)
    return fingerprint.finish().content


async def _content(batches: AsyncIterator[Batch]) -> str:
    """Hash of all of them, which are given in key order."""
    fingerprint = Fingerprint(_BLOCK_KEYS)
    async for batch in batches:
        fingerprint.update(batch)
    return fingerprint.finish().content


# ---- in -------------------------------------------------------------------------------------------------------------


async def bring_in(folder: Path, store: SeriesStore, *, progress: Progress = _unheard) -> AsyncIterator[Arrival]:
    """Append every parcel of the folder to the store and verify it there; what became of each.

    What the store holds already is not appended again. Raises Corrupt for a file that does not hold what the manifest
    says, BadQuery for a folder without one.
    """
    if not (folder / _MANIFEST).exists():
        raise BadQuery("folder", str(folder), "holds no export: data-manager export makes one")
    parcels = manifest(folder)
    done, total = 0, sum(one.rows for one in parcels)
    for parcel in parcels:
        yield await _arrive(folder, parcel, store)
        done += parcel.rows
        progress(done, total, parcel.series)


async def _arrive(folder: Path, parcel: Parcel, store: SeriesStore) -> Arrival:
    rows = _unpacked(folder, parcel)
    receipt, verified = Receipt(duplicate=len(rows)), await _holds(store, rows, parcel)
    if not verified:
        receipt = Receipt()
        for start in range(0, len(rows), 10_000):
            receipt += await store.append(rows.take(slice(start, start + 10_000)))
        verified = await _holds(store, rows, parcel)
    return Arrival(
        file=parcel.file,
        series=parcel.series,
        rows=parcel.rows,
        new=receipt.new,
        changed=receipt.changed,
        duplicate=receipt.duplicate,
        verified=verified,
    )


async def _holds(store: SeriesStore, rows: Batch, parcel: Parcel) -> bool:
    """Whether the store's rows with the keys of the parcel are those of the parcel."""
    there = _until(store, rows.series[0], parcel.first_key - 1, parcel.last_key, ROWS_PER_FILE)
    return await _content(part.take(np.isin(part.key, rows.key)) async for part in there) == parcel.content


def _unpacked(folder: Path, parcel: Parcel) -> Batch:
    """The rows of a file. Raises Corrupt when they are not what the manifest says."""
    series = parse_series(parcel.series, DATASETS, "um")
    try:
        rows = _batch(series, pq.read_table(folder / parcel.file))
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{folder / parcel.file} cannot be read ({error}): delete it, and export again") from error
    if len(rows) != parcel.rows or content_of([rows]) != parcel.content:
        raise Corrupt(f"{folder / parcel.file} does not hold what the manifest says: delete it, and export again")
    return rows


# ---- rows as Parquet, and back --------------------------------------------------------------------------------------

_TYPES: Final[dict[Kind, pa.DataType]] = {
    Kind.INT: pa.int64(),
    Kind.NUMBER: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.FLAG: pa.bool_(),
    Kind.FLOAT: pa.float64(),
    Kind.LEVELS: pa.list_(pa.list_(pa.string(), 2)),
}


def _table(rows: Batch) -> pa.Table:
    dataset: Dataset = rows.dataset
    arrays = [pa.array(rows.columns[one.name].values_list(), _TYPES[one.kind]) for one in dataset.fields]
    about = {"series": rows.series[0].id, "format": str(FORMAT)}
    return pa.Table.from_arrays(arrays, names=list(dataset.field)).replace_schema_metadata(about)


def _batch(series: Series, table: pa.Table) -> Batch:
    dataset = DATASETS[series.dataset]
    if not table.num_rows:
        return empty(dataset, (series,))
    columns: dict[str, Column] = {}
    for one in dataset.fields:
        columns[one.name], broken = build(one, _values(table.column(one.name).to_pylist(), one.kind))
        if broken:
            raise ValueError(f"{one.name}: {next(iter(broken.values()))}")
    return Batch(dataset, (series,), np.zeros(table.num_rows, np.int32), columns)


def _values(values: list[Any], kind: Kind) -> list[Any]:
    return [[tuple(level) for level in side] for side in values] if kind is Kind.LEVELS else values


# ---- lines of JSON --------------------------------------------------------------------------------------------------


def _note(file: Path, line: Parcel) -> None:
    """One line more, on the disk when this returns."""
    with file.open("ab") as out:
        out.write(msgspec.json.encode(line) + b"\n")
        out.flush()
        os.fsync(out.fileno())


def _forget_half_lines(file: Path) -> None:
    """A kill may have cut the last line off."""
    content = file.read_bytes()
    os.truncate(file, content.rfind(b"\n") + 1)


def _read(file: Path, kind: type[Any]) -> list[Any]:
    """The lines; one that was cut off by a kill counts as not written."""
    return list(_lines(file, kind)) if file.exists() else []


def _lines(file: Path, kind: type[Any]) -> Iterator[Any]:
    content = file.read_bytes()
    whole, _, _ = content.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            yield msgspec.json.decode(line, type=kind)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"{file} line {number}: {error}") from error
