"""Moving house: the rows of one store into a folder, and from there into another store, proven to be the same.

    folder/
      manifest.jsonl                               one line per file: series, rows, keys, content hash
      um.trade.BTCUSDT/00000000000000003595.parquet   rows in key order; every column, numbers as the venue's text
      arrived-<target>.jsonl                       which files a target holds by now

Both ways can be stopped and started again: what stands in the manifest is not written again, what has arrived is not
sent again, and sending twice changes nothing. A file has arrived when the target's rows with its keys have its hash.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from data_manager.domain.batch import Batch, build, empty
from data_manager.domain.dataset import Dataset, Kind, Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Corrupt
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

    Goes on where an earlier export stopped. Raises Corrupt when rows came in before the point it had reached: then
    this folder can no longer be made whole, a fresh one can.
    """
    _prepare(folder)
    parcels = manifest(folder)
    held = {one: await store.count(one) for one in (wanted or await store.series())}
    done, total = 0, sum(held.values())
    for series, rows in held.items():
        mine = [one for one in parcels if one.series == series.id]
        done += sum(one.rows for one in mine)
        after = max((one.last_key for one in mine), default=None)
        async for part in pages(store, series, after=after, rows=rows_per_file):
            parcel = _write(folder, series, part)
            parcels.append(parcel)
            done += parcel.rows
            progress(done, max(total, done), series.id)
        written = sum(one.rows for one in parcels if one.series == series.id)
        if written < rows:
            raise Corrupt(f"{series.id}: {rows - written} rows came in behind what {folder} holds: export to a new one")
    return parcels


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _forget_half_lines(folder / _MANIFEST)


def manifest(folder: Path) -> list[Parcel]:
    """What lies in the folder. Raises Corrupt for a manifest that is none of ours."""
    parcels = _read(folder / _MANIFEST, Parcel)
    for one in parcels:
        if one.format != FORMAT or not _NAME.fullmatch(one.file):
            raise Corrupt(f"{folder / _MANIFEST}: {one.file} is in a format that this version does not read")
    return parcels


def _write(folder: Path, series: Series, rows: Batch) -> Parcel:
    file = folder / series.id / f"{int(rows.key[0]):020d}.parquet"
    file.parent.mkdir(exist_ok=True)
    under_way = file.with_suffix(".part")
    with under_way.open("wb") as out:
        pq.write_table(_table(rows), out, compression="zstd")
        out.flush()
        os.fsync(out.fileno())
    under_way.rename(file)
    parcel = Parcel(
        file=f"{series.id}/{file.name}",
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


# ---- in -------------------------------------------------------------------------------------------------------------


async def bring_in(
    folder: Path, store: SeriesStore, target: str, *, progress: Progress = _unheard
) -> AsyncIterator[Arrival]:
    """Append every parcel of the folder to the store and verify it there; what became of each. target names the store.

    What an earlier import verified is not told again. Raises Corrupt for a file that does not hold what the manifest
    says, BadQuery for a folder without one.
    """
    parcels = manifest(folder)
    if not parcels:
        raise BadQuery("folder", str(folder), "holds no export: data-manager export makes one")
    record = folder / f"arrived-{re.sub(r'[^A-Za-z0-9]+', '-', target)}.jsonl"
    _forget_half_lines(record)
    arrived = {one.file for one in _read(record, Arrival) if one.verified}
    done, total = 0, sum(one.rows for one in parcels)
    for parcel in parcels:
        if parcel.file not in arrived:
            arrival = await _arrive(folder, parcel, store)
            _note(record, arrival)
            yield arrival
        done += parcel.rows
        progress(done, total, parcel.series)


async def _arrive(folder: Path, parcel: Parcel, store: SeriesStore) -> Arrival:
    rows = _unpacked(folder, parcel)
    receipt = Receipt()
    for start in range(0, len(rows), 10_000):
        receipt += await store.append(rows.take(slice(start, start + 10_000)))
    found = await _between(store, rows.series[0], parcel.first_key, parcel.last_key)
    mine = [batch.take(np.isin(batch.key, rows.key)) for batch in found]
    return Arrival(
        file=parcel.file,
        series=parcel.series,
        rows=parcel.rows,
        new=receipt.new,
        changed=receipt.changed,
        duplicate=receipt.duplicate,
        verified=content_of(mine) == parcel.content,
    )


def _unpacked(folder: Path, parcel: Parcel) -> Batch:
    """The rows of a file. Raises Corrupt when they are not what the manifest says."""
    series = parse_series(parcel.series, DATASETS, "um")
    try:
        rows = _batch(series, pq.read_table(folder / parcel.file))
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{folder / parcel.file} cannot be read: {error}") from error
    if len(rows) != parcel.rows or content_of([rows]) != parcel.content:
        raise Corrupt(f"{folder / parcel.file} does not hold what the manifest says: export again")
    return rows


async def _between(store: SeriesStore, series: Series, first_key: int, last_key: int) -> list[Batch]:
    """Rows with first keys from … to … inclusive, in key order."""
    found = []
    async for part in pages(store, series, after=first_key - 1, rows=ROWS_PER_FILE):
        found.append(part.take(part.key <= last_key))
        if part.key[-1] >= last_key:
            break
    return found


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


def _note(file: Path, line: Parcel | Arrival) -> None:
    """One line more, on the disk when this returns."""
    with file.open("ab") as out:
        out.write(msgspec.json.encode(line) + b"\n")
        out.flush()
        os.fsync(out.fileno())


def _forget_half_lines(file: Path) -> None:
    """A kill may have cut the last line off."""
    if file.exists():
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
