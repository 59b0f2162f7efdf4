"""The MongoDB store: append and scan, each beside the driver alone with the same documents, in turns, in the same run.

The server is that of TEST_MONGODB_URL, else mongod on PATH, else the tests' stand-in (scripts/ferretdb), which is much
slower than MongoDB: there both columns mostly wait for it, and only the time of our own process, printed beside, says
what our code costs.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import structlog
from _report import figure, table
from pymongo.errors import BulkWriteError
from store import trades

from data_manager.adapters.mongo.access import MongoAccess
from data_manager.adapters.mongo.documents import encode
from data_manager.adapters.mongo.layout import Document
from data_manager.adapters.mongo.store import MongoStore, open_mongo
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series

_ROOT = Path(__file__).resolve().parents[1]
_ROUNDS = 3
_BATCHES = 3
Work = Callable[[Batch], Awaitable[object]]


@contextmanager
def server() -> Iterator[MongoAccess]:
    """A database to measure in, gone at the end."""
    sys.path.append(str(_ROOT))
    from tests.mongo_server import MongoServer, forget

    url = os.environ.get("TEST_MONGODB_URL")
    with tempfile.TemporaryDirectory() as folder:
        own = None
        if not url:
            program = shutil.which("mongod") or _built()
            own = MongoServer(Path(folder), program)
            own.start()
            url = own.url
        access = MongoAccess(url=url, database="petrosa_benchmark")
        try:
            yield access
        finally:
            forget(access)
            if own is not None:
                own.kill()


def _built() -> str:
    script = _ROOT / "scripts" / "ferretdb" / "build.sh"
    return subprocess.run([script], capture_output=True, text=True, check=True).stdout.strip()


async def timed(work: Work, batches: Sequence[Batch]) -> tuple[float, float]:
    """Rows per second of the wall clock, and microseconds of our own process per row."""
    wall, own = perf_counter(), process_time()
    for batch in batches:
        await work(batch)
    rows = sum(map(len, batches))
    return rows / (perf_counter() - wall), (process_time() - own) / rows * 1e6


async def appends(store: MongoStore) -> None:
    """New rows: our append beside insert_many of the same documents, made beforehand, into collections as new."""
    database = store._database  # the same connections and the same durability
    with table(
        "append, 10k-row batches", "", "rows/s", "driver alone", "ratio", "target", "our µs/row", "driver µs/row"
    ) as rows:
        for series_count in (1, 5, 50):
            each = 10_000 // series_count
            ours, theirs = [], []
            for number in range(_ROUNDS):
                batches = [trades(series_count, 1 + (number * _BATCHES + n) * each) for n in range(_BATCHES)]
                documents = {id(batch): _by_series(batch, store) for batch in batches}

                async def raw(batch: Batch, prepared: dict[int, dict[str, list[Document]]] = documents) -> None:
                    await asyncio.gather(
                        *(
                            database[f"raw_{name}"].insert_many(some, ordered=False)
                            for name, some in prepared[id(batch)].items()
                        )
                    )

                ours.append(await timed(store.append, batches))
                theirs.append(await timed(raw, batches))
            (rate, cost), (base, base_cost) = (tuple(map(median, zip(*one, strict=True))) for one in (ours, theirs))
            figure(
                f"MongoDB append, {series_count} series",
                f"{rate:,.0f} rows/s",
                baseline=f"driver alone: {base:,.0f}",
                ratio=rate / base,
                target="≥ 0.6",
            )
            rows.append((f"{series_count} series", f"{rate:,.0f}", f"{base:,.0f}", f"{rate / base:.2f}", "≥ 0.6", f"{cost:.1f}", f"{base_cost:.1f}"))  # fmt: skip
            await _clear(store)


def _by_series(batch: Batch, store: MongoStore) -> dict[str, list[Document]]:
    return {part.series[0].symbol: encode(part, exact=store.abilities.exact_decimals) for part in batch.split()}


async def again(store: MongoStore) -> None:
    """The same rows a second time: our filter beside insert_many, which lets the server refuse each."""
    batch = trades(5, 1)
    prepared = _by_series(batch, store)
    await store.append(batch)

    async def raw(_: Batch) -> None:
        for name, some in prepared.items():
            with suppress(BulkWriteError):
                await store._database[f"trades_{name}"].insert_many(some, ordered=False)

    with table("10k known rows again", "", "rows/s", "driver alone", "ratio") as rows:
        rate, base = (await timed(store.append, [batch]))[0], (await timed(raw, [batch]))[0]
        rows.append(("5 series", f"{rate:,.0f}", f"{base:,.0f}", f"{rate / base:.1f}"))
    await _clear(store)


async def scans(store: MongoStore) -> None:
    """A whole series as columns, beside a find of the same documents that only lists them."""
    batches = [trades(1, 1 + n * 10_000) for n in range(3)]
    series = Series("um", "trade", "S000USDT")
    for batch in batches:
        await store.append(batch)

    async def ours(_: Batch) -> None:
        assert len(await store.scan(series)) == 30_000

    async def raw(_: Batch) -> None:
        cursor = store._database["trades_S000USDT"].find({}, batch_size=10_000).sort("_id", 1)
        assert len(await cursor.to_list()) == 30_000

    with table("scan of 30k rows", "", "rows/s", "driver alone", "ratio", "our µs/row", "driver µs/row") as rows:
        measured = [(await timed(ours, [batch]), await timed(raw, [batch])) for batch in batches]
        (rate, cost), (base, base_cost) = (
            tuple(3 * value if at == 0 else value / 3 for at, value in enumerate(map(median, zip(*one, strict=True))))
            for one in zip(*measured, strict=True)
        )
        rows.append(
            ("all columns", f"{rate:,.0f}", f"{base:,.0f}", f"{rate / base:.2f}", f"{cost:.1f}", f"{base_cost:.1f}")
        )


async def _clear(store: MongoStore) -> None:
    for name in await store._database.list_collection_names():
        if not name.startswith("data_manager."):
            await store._database.drop_collection(name)
    store._last_keys.clear()


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with server() as access:
        store = await open_mongo(access)
        print("\n".join(store.abilities.report()), "\n")
        await appends(store)
        await again(store)
        await scans(store)
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
