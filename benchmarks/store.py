"""The embedded store: append, last, scan, gap-scan input; each beside a baseline of the same run.

Baselines: for append a bare log of the same bytes with fdatasync (the ceiling) and SQLite rows with a primary key; for
last and scan the same rows in a Parquet file; all durable, all on the same disk.
"""

import asyncio
import os
import sqlite3
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _report import figure, table

from data_manager.adapters.store.chunks import encode
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.values.columns import Flags, Ints, Texts
from data_manager.domain.values.decimals import Decimals

TRADE = DATASETS["trade"]
_BATCH = 10_000
_FIRST_MS = 1_700_000_000_000


def trades(series_count: int, first_id: int) -> Batch:
    """10,000 trades, evenly over the series, ids from first_id, prices a random walk."""
    each = _BATCH // series_count
    random = np.random.default_rng(first_id)
    ids = np.tile(np.arange(first_id, first_id + each), series_count)
    times = _FIRST_MS + ids * 7
    return Batch(
        TRADE,
        tuple(Series("um", "trade", f"S{number:03d}USDT") for number in range(series_count)),
        np.repeat(np.arange(series_count, dtype=np.int32), each),
        {
            "trade_id": Ints(ids),
            "price": Decimals(6_000_000 + random.integers(-50, 50, _BATCH).cumsum(), 2),
            "quantity": Decimals(random.integers(1, 5_000, _BATCH), 3),
            "traded_ms": Ints(times),
            "buyer_is_maker": Flags(random.integers(0, 2, _BATCH).astype(np.bool_)),
            "kind": Texts.constant("MARKET", _BATCH),
            "event_ms": Ints(times + 3),
            "received_ms": Ints(times + 9),
            "origin": Texts.constant("stream", _BATCH),
        },
    )


async def append_rate(folder: Path, batches: list[Batch]) -> tuple[float, float]:
    """Rows per second including the folds, and the median milliseconds of one append."""
    store = EmbeddedStore(folder, 128 << 20)
    took = []
    started = perf_counter()
    for batch in batches:
        at = perf_counter()
        receipt = await store.append(batch)
        took.append(perf_counter() - at)
        assert receipt.new == len(batch)
    await store.fold(TRADE)
    seconds = perf_counter() - started
    await store.close()
    return sum(map(len, batches)) / seconds, median(took) * 1e3


def log_rate(folder: Path, batches: list[Batch]) -> float:
    """Rows per second into a bare log: encode, write, fdatasync."""
    started = perf_counter()
    with open(folder / "log", "wb") as file:
        for batch in batches:
            file.write(encode(batch.columns, None))
            file.flush()
            os.fdatasync(file.fileno())
    return sum(map(len, batches)) / (perf_counter() - started)


def sqlite_rate(folder: Path, batches: list[Batch]) -> float:
    """Rows per second into a plain SQLite table with the natural key, one commit per batch."""
    rows = [
        [
            (batch.series[code].symbol, *row.values())
            for code, row in zip(batch.codes.tolist(), batch.rows(), strict=True)
        ]
        for batch in batches
    ]
    connection = sqlite3.connect(folder / "rows.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE trade (symbol, trade_id, price, quantity, traded_ms, maker, kind, event_ms, received_ms, origin,"
        " PRIMARY KEY (symbol, trade_id)) WITHOUT ROWID"
    )
    started = perf_counter()
    for some in rows:
        with connection:
            connection.executemany(f"INSERT INTO trade VALUES ({','.join('?' * 10)})", some)
    seconds = perf_counter() - started
    connection.close()
    return sum(map(len, rows)) / seconds


async def appends() -> None:
    """Append at 5 and at 500 series."""
    heads = (
        "append, 10k-row batches",
        "rows/s",
        "median ms",
        "bare log rows/s",
        "SQLite rows/s",
        "ours / SQLite",
        "target",
    )
    with table("append, durable on return, folds included", *heads) as rows:
        for series_count, target in ((5, 500_000), (500, 150_000)):
            each = _BATCH // series_count
            batches = [trades(series_count, 1 + number * each) for number in range(100)]
            with tempfile.TemporaryDirectory() as folder:
                ours, ms = await append_rate(Path(folder) / "store", batches)
                log = log_rate(Path(folder), batches)
                plain = sqlite_rate(Path(folder), batches[:20])
            figure(
                f"append, {series_count} series",
                f"{ours:,.0f} rows/s",
                baseline=f"SQLite rows: {plain:,.0f}",
                ratio=ours / plain,
                target=f"≥ {target:,}",
            )
            rows.append((f"{series_count} series", f"{ours:,.0f}", f"{ms:.1f}", f"{log:,.0f}", f"{plain:,.0f}", f"{ours / plain:.1f}", f"≥ {target:,}"))  # fmt: skip


async def reads() -> None:
    """last 500, 1 M rows to Arrow, and the keys of 5 M trades as a gap scan reads them."""
    series = Series("um", "trade", "S000USDT")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = EmbeddedStore(folder / "store", 128 << 20)
        for number in range(500):
            await store.append(trades(1, 1 + number * _BATCH))
        await store.fold(TRADE)
        whole = await store.scan(series, limit=1_000_000)
        pq.write_table(_arrow(whole), folder / "trades.parquet", compression="zstd")
        await store.close()
        store = EmbeddedStore(folder / "store", 128 << 20)
        with table("reads, 5 M trades held", "", "ms", "Parquet, same rows, ms", "ratio", "target ms") as rows:
            cold = await _timed(lambda: store.last(series, 500), 1)
            warm = await _timed(lambda: store.last(series, 500), 50)
            parquet = _timed_now(lambda: pq.read_table(folder / "trades.parquet").slice(999_500), 3)
            rows.append(("last 500 rows, first time", f"{cold:.2f}", "", "", ""))
            beside_parquet("last 500 rows", warm, parquet, 1)
            rows.append(("last 500 rows", f"{warm:.2f}", f"{parquet:.1f}", f"{warm / parquet:.3f}", "≤ 1"))

            async def million() -> None:
                _arrow(await store.scan(series, limit=1_000_000))

            ours = await _timed(million, 3)
            parquet = _timed_now(lambda: pq.read_table(folder / "trades.parquet"), 3)
            beside_parquet("1 M rows to Arrow", ours, parquet, 200)
            rows.append(("1 M rows to Arrow", f"{ours:.0f}", f"{parquet:.0f}", f"{ours / parquet:.1f}", "≤ 200"))

            async def gaps() -> None:
                keys = await store.keys(series)
                assert (np.diff(keys.key) == 1).all()

            ours = await _timed(gaps, 3)
            parquet = 5 * _timed_now(
                lambda: pq.read_table(folder / "trades.parquet", columns=["trade_id", "traded_ms"]), 3
            )
            beside_parquet("5 M ids read and compared", ours, parquet, 300)
            rows.append(("5 M ids read and compared", f"{ours:.0f}", f"{parquet:.0f} (5 × 1 M)", f"{ours / parquet:.1f}", "≤ 300"))  # fmt: skip
            size = sum(file.stat().st_size for file in (folder / "store").glob("series.db*"))
            figure("bytes per trade on disk", f"{size / 5e6:.1f}")
            rows.append((f"bytes per row on disk: {size / 5e6:.1f}", "", "", "", ""))
        await store.close()


def beside_parquet(what: str, ours_ms: float, parquet_ms: float, target_ms: int) -> None:
    """A figure of ours and how long the same takes from a Parquet file."""
    ratio, target = ours_ms / parquet_ms, f"≤ {target_ms} ms"
    figure(what, f"{ours_ms:.1f} ms", baseline=f"Parquet: {parquet_ms:.1f}", ratio=ratio, target=target)


def _arrow(batch: Batch) -> pa.Table:
    return pa.table({name: column.arrow() for name, column in batch.columns.items()})


async def _timed(work, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        at = perf_counter()
        await work()
        times.append(perf_counter() - at)
    return median(times) * 1e3


def _timed_now(work, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        at = perf_counter()
        work()
        times.append(perf_counter() - at)
    return median(times) * 1e3


if __name__ == "__main__":
    asyncio.run(appends())
    asyncio.run(reads())
