"""Archives into the embedded store: from the zip, over HTTP, to durable rows; beside a plain CSV reader in the same run.

    python benchmarks/archive.py [--rows 1000000] [--days 3] [--months 24]

Made files of a busy contract are served by a process of their own; what is measured is everything else: checksum,
download, survey, rows packed and checked, appended and folded. The baseline reads the same zips with pyarrow's CSV
reader, typed columns, prices as floats, and keeps nothing.
"""

import argparse
import asyncio
import functools
import hashlib
import http.server
import multiprocessing
import resource
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import uvloop
from _report import figure, table

from data_manager.adapters.binance.archive_files import KINDS, File, month_of
from data_manager.adapters.binance.sources import Access, open_archive
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.dataset import Series
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, MINUTE_MS, next_open_ms, parse_time
from data_manager.ports.source import Wanted

_START_MS = parse_time("2024-01-01")
_ROWS_AT_ONCE = 20_000  # as a job appends them
_TARGET = 300_000


class NoDigests:
    """Remembers nothing."""

    async def digest_of(self, path: str) -> str | None:
        return None

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        """Nothing to do."""


def decimals(values: np.ndarray, digits: int) -> pa.Array:
    words = np.empty((len(values), 2), np.int64)
    words[:, 0], words[:, 1] = values, values >> 63
    exact = pa.Array.from_buffers(pa.decimal128(38, digits), len(values), [None, pa.py_buffer(words)])
    return pc.cast(exact, pa.string())


def agg_trades(count: int, first_id: int, span: Span) -> list[pa.Array]:
    """A random walk of a busy contract."""
    random = np.random.default_rng(first_id)
    ids = np.arange(first_id, first_id + count)
    at_ms = span.start_ms + np.sort(random.integers(0, span.end_ms - span.start_ms, count))
    price = 6_000_000 + random.integers(-50, 51, count).cumsum()
    quantity = (random.pareto(1.2, count) * 5).astype(np.int64) % 50_000 + 1
    fills = ids * 2
    maker = pc.if_else(pa.array(random.integers(0, 2, count) == 0), pa.scalar("true"), pa.scalar("false"))
    return [pa.array(ids), decimals(price, 2), decimals(quantity, 3), pa.array(fills), pa.array(fills + 1), pa.array(at_ms), maker]  # fmt: skip


def klines(first_id: int, span: Span) -> list[pa.Array]:
    """A minute each."""
    opens = np.arange(span.start_ms, span.end_ms, MINUTE_MS)
    random = np.random.default_rng(first_id)
    price = 6_000_000 + random.integers(-50, 51, len(opens)).cumsum()
    volume = random.integers(1, 9_000_000, len(opens))
    return [
        pa.array(opens), decimals(price, 2), decimals(price + 50, 2), decimals(price - 50, 2), decimals(price + 7, 2),
        decimals(volume, 3), pa.array(opens + MINUTE_MS - 1), decimals(volume * 64_000, 5), pa.array(volume % 999),
        decimals(volume // 2, 3), decimals(volume * 32_000, 5), pa.array(np.zeros(len(opens), np.int64)),
    ]  # fmt: skip


def write(root: Path, file: File, columns: list[pa.Array]) -> int:
    """Publish the table as that file, with its checksum; its rows."""
    path = root / file.path.removeprefix("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pa.BufferOutputStream()
    names = [str(number) for number in range(len(columns))]
    pacsv.write_csv(
        pa.table(columns, names=names), text, pacsv.WriteOptions(include_header=False, quoting_style="none")
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.writestr(file.name.replace(".zip", ".csv"), text.getvalue().to_pybytes())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {file.name}\n")
    return len(columns[0])


def make(root: str, kind: str, series: Series, count: int, rows: int) -> None:
    """Publish so many files; in a process of its own, whose memory is not ours."""
    for _ in days(Path(root), series, count, rows) if kind == "aggTrades" else months(Path(root), series, count):
        pass


def days(root: Path, series: Series, count: int, rows: int) -> Iterator[int]:
    for day in range(count):
        span = Span(_START_MS + day * DAY_MS, _START_MS + (day + 1) * DAY_MS)
        file = File(KINDS["archive:aggTrades"], series, span, is_day=True)
        yield write(root, file, agg_trades(rows, 1 + day * rows, span))


def months(root: Path, series: Series, count: int) -> Iterator[int]:
    at_ms = _START_MS
    for number in range(count):
        file = month_of(KINDS["archive:klines"], series, at_ms)
        yield write(root, file, klines(number, file.span))
        at_ms = next_open_ms(at_ms, "1M")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


def serve(root: str, port: "multiprocessing.Queue[int]") -> None:
    """A file server of its own process."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=root)) as server:
        port.put(server.server_address[1])
        server.serve_forever()


async def load(address: str, series: Series, span: Span, folder: Path) -> tuple[int, float]:
    """Everything the archive has in span, durable and folded: rows, and seconds."""
    clock = SystemClock()
    archive = open_archive(Access(archive=address), clock, NoDigests(), folder / "downloads")
    store = EmbeddedStore(folder / "store", 128 << 20)
    wanted = Wanted(series=series, span=span)
    started, rows = perf_counter(), 0
    dataset = None
    for offer in archive.offers(wanted, clock.now_ms()):
        async for piece in archive.fetch(wanted, offer, "job:1"):
            for at in range(0, len(piece.rows), _ROWS_AT_ONCE):
                receipt = await store.append(piece.rows.take(slice(at, at + _ROWS_AT_ONCE)))
                rows += receipt.new
            dataset = piece.rows.dataset
    assert dataset is not None
    await store.fold(dataset)
    seconds = perf_counter() - started
    await store.close()
    await archive.close()
    return rows, seconds


def read_plainly(root: Path, kind: str) -> tuple[int, float]:
    """The same zips by pyarrow's CSV reader, and nothing done with them."""
    started, rows = perf_counter(), 0
    for path in sorted(root.glob(f"**/{kind}/**/*.zip")):
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as stream:
            options = pacsv.ReadOptions(use_threads=False, block_size=4 << 20, autogenerate_column_names=True)
            rows += sum(batch.num_rows for batch in pacsv.open_csv(stream, read_options=options))
    return rows, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--months", type=int, default=24)
    asked = parser.parse_args()
    trades = Series("um", "agg_trade", "BTCUSDT")
    candles = Series("um", "candle", "BTCUSDT", "1m")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "files"
        for kind, series, count in (("aggTrades", trades, asked.days), ("klines", candles, asked.months)):
            maker = context.Process(target=make, args=(str(root), kind, series, count, asked.rows))
            maker.start()
            maker.join()
        ports: multiprocessing.Queue[int] = context.Queue()
        server = context.Process(target=serve, args=(str(root), ports), daemon=True)
        server.start()
        address = f"http://127.0.0.1:{ports.get(timeout=20)}"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        heads = ("zip to durable, embedded store", "rows", "rows/s", "CSV reader alone rows/s", "ratio", "target")
        kinds = {"aggTrades": trades, "klines": candles}
        with table("archives", *heads) as lines:
            loaded = {}
            for kind, series in kinds.items():
                span = Span(_START_MS, _end_of(root, kind))
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    loaded[kind] = runner.run(load(address, series, span, Path(name) / kind))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            for kind, (rows, seconds) in loaded.items():
                plain_rows, plain_s = read_plainly(root, kind)
                assert rows == plain_rows, "every line is a row"
                rate, plain = rows / seconds, plain_rows / plain_s
                figure(
                    f"archive zip to durable, {kind}",
                    f"{rate:,.0f} rows/s",
                    baseline=f"CSV reader that keeps nothing: {plain:,.0f}",
                    ratio=rate / plain,
                    target=f"≥ {_TARGET:,}",
                )
                lines.append((kind, f"{rows:,}", f"{rate:,.0f}", f"{plain:,.0f}", f"{rate / plain:.2f}", f"≥ {_TARGET:,}"))  # fmt: skip
        figure("memory while archives are loaded", f"{peak} MiB", target="≤ 400 MiB")
        print(f"  memory at its peak while loading: {peak} MiB (before: {before} MiB), bound 400 MiB")
        server.terminate()


def _end_of(root: Path, kind: str) -> int:
    """The end of the last file, which is named by its day or its month."""
    last = max(path.name for path in root.glob(f"**/{kind}/**/*.zip")).removesuffix(".zip")
    is_day = kind == "aggTrades"
    start_ms = parse_time(last[-10:] if is_day else f"{last[-7:]}-01")
    return start_ms + DAY_MS if is_day else next_open_ms(start_ms, "1M")


if __name__ == "__main__":
    main()
