"""The audit on the embedded store: gap scans, a full sweep, and the turn of a live service; each beside its bound.

Then ingest of the recorded mix with the audit beside it, and without. `--ingest` does that alone.

Baseline: the same keys decoded from the same chunks with nothing done to them. The audit's figure includes planning,
judging, the ledger, and writing the result to the metadata store. `--small` does a tenth of the rows.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import uvloop
from _report import CAPTURES, figure, table
from _wired import opened_bus, subject_of
from ingest import drain_into

from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.publisher import open_publisher
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.values.columns import Flags, Ints, Texts
from data_manager.domain.values.decimals import Decimals
from data_manager.service.running import tune_interpreter
from data_manager.services.audit import Auditor
from data_manager.services.replay import Replay

MINUTE_MS = 60_000
FIRST_MS = 1_700_000_040_000
CANDLE, TRADE = DATASETS["candle"], DATASETS["trade"]
SHARE = 10 if "--small" in sys.argv else 1


class SetClock:
    """Stands still until it is set."""

    now = 0

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return perf_counter()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def candles(symbols: range, minutes: range, without: int | None = None) -> Batch:
    """One-minute candles of many symbols; without: a minute that is missing of each."""
    each = np.array([minute for minute in minutes if minute != without]) * MINUTE_MS + FIRST_MS
    rows = len(each) * len(symbols)
    opens = np.tile(each, len(symbols))
    price = Decimals(np.full(rows, 250), 2)
    columns = dict.fromkeys(
        ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"), price
    )
    ints = {
        "open_ms": opens,
        "close_ms": opens + MINUTE_MS - 1,
        "event_ms": opens + MINUTE_MS,
        "received_ms": opens + MINUTE_MS,
    }
    by_name = {
        **columns,
        **{name: Ints(values) for name, values in ints.items()},
        "trades": Ints(np.ones(rows, np.int64)),
        "closed": Flags(np.ones(rows, np.bool_)),
        "origin": Texts.constant("stream", rows),
    }
    by_name |= {field.name: Ints(np.zeros(rows, np.int64)) for field in CANDLE.fields if field.name not in by_name}
    series = tuple(Series("um", "candle", f"S{number:03d}USDT", "1m") for number in symbols)
    return Batch(
        CANDLE,
        series,
        np.repeat(np.arange(len(symbols), dtype=np.int32), len(each)),
        {field.name: by_name[field.name] for field in CANDLE.fields},
    )


def trades(first: int, count: int, symbol: str = "BTCUSDT") -> Batch:
    """Consecutive trades of one symbol."""
    ids = np.arange(first, first + count)
    at = FIRST_MS + ids * 7
    by_name = {
        "trade_id": Ints(ids),
        "price": Decimals(np.full(count, 250), 2),
        "quantity": Decimals(np.full(count, 5), 0),
        "traded_ms": Ints(at),
        "buyer_is_maker": Flags(np.ones(count, np.bool_)),
        "kind": Texts.constant("MARKET", count),
        "event_ms": Ints(at),
        "received_ms": Ints(at),
        "origin": Texts.constant("stream", count),
    }
    return Batch(TRADE, (Series("um", "trade", symbol),), np.zeros(count, np.int32), by_name)


class House:
    """A store in a folder, and an auditor of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = EmbeddedStore(folder, 64 << 20)
        self.clock = SetClock()

    async def open(self) -> "House":
        self.meta = await open_meta(f"sqlite:///{self.folder}/meta.db")
        self.auditor = Auditor(self.store, self.meta, self.meta, self.clock, lambda findings: None)
        return self

    async def close(self) -> None:
        await self.store.close()
        await self.meta.close()

    async def keys_s(self) -> float:
        """Seconds to read the keys of everything, and nothing else."""
        started = perf_counter()
        for series in await self.store.series():
            await self.store.keys(series)
        return perf_counter() - started

    async def sweep_s(self) -> tuple[float, int]:
        """Seconds of a sweep over everything (keys only), and the holes."""
        await self.auditor.run()
        self.auditor = Auditor(self.store, self.meta, self.meta, self.clock, lambda findings: None, sweep_ms=1)
        self.clock.now += 1
        started = perf_counter()
        done = await self.auditor.run()
        assert not done.failed
        return perf_counter() - started, len(done.holes)


async def gap_scan(folder: Path, symbols: int, minutes: int) -> tuple[float, float, int]:
    house = await House(folder).open()
    for at in range(0, minutes, 20_000):
        for first in range(0, symbols, 50):
            await house.store.append(
                candles(range(first, min(first + 50, symbols)), range(at, min(at + 20_000, minutes)), 700)
            )
    await house.store.fold(CANDLE)
    house.clock.now = FIRST_MS + minutes * MINUTE_MS + 20_000
    (took, holes), keys = await house.sweep_s(), await house.keys_s()
    await house.close()
    return took, keys, holes


async def id_scan(folder: Path, count: int) -> tuple[float, float, int]:
    house = await House(folder).open()
    for first in range(0, count, 500_000):
        await house.store.append(trades(first + 1 + first // 500_000, min(500_000, count - first)))
    await house.store.fold(TRADE)
    house.clock.now = FIRST_MS + count * 7 + 20_000
    (took, holes), keys = await house.sweep_s(), await house.keys_s()
    await house.close()
    return took, keys, holes


async def live(folder: Path, symbols: int) -> tuple[float, float, int]:
    """A turn of five minutes: five new candles each."""
    house = await House(folder).open()
    await house.store.append(candles(range(symbols), range(300)))
    house.clock.now = FIRST_MS + 300 * MINUTE_MS + 20_000
    await house.auditor.run()
    took = []
    for turn in range(5):
        first = 300 + 5 * turn
        await house.store.append(candles(range(symbols), range(first, first + 5)))
        house.clock.now += 5 * MINUTE_MS
        started = perf_counter()
        done = await house.auditor.run()
        took.append(perf_counter() - started)
        assert not done.failed
    keys = await house.keys_s()
    await house.close()
    return sorted(took)[2], keys, len(done.holes)


async def turns(house: House) -> None:
    """Until cancelled, every five seconds, sixty times as often as by default: five new candles each, and a turn."""
    minutes = 300
    while True:
        await house.store.append(candles(range(500 // SHARE), range(minutes, minutes + 5)))
        minutes += 5
        house.clock.now = FIRST_MS + minutes * MINUTE_MS + 20_000
        await house.auditor.run()
        await asyncio.sleep(5)


async def drained(url: str, durable: str, count: int, *, audited: bool) -> float:
    """Messages a second from JetStream into a store that holds 500 live series besides."""
    with tempfile.TemporaryDirectory() as folder:
        house = await House(Path(folder)).open()
        await house.store.append(candles(range(500 // SHARE), range(300)))
        await house.store.fold(CANDLE)
        house.clock.now = FIRST_MS + 300 * MINUTE_MS + 20_000
        await house.auditor.run()
        beside = asyncio.create_task(turns(house)) if audited else None
        rate = await drain_into(house.store, url, durable, count)
        if beside is not None:
            beside.cancel()
        await house.close()
        return rate


async def beside_ingest(rounds: int = 5) -> None:
    """Ingest of the recorded mix with and without the audit in the same process, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), port=0)
        await server.start()
        await (await opened_bus(server.url, "first")).close()
        async with open_publisher(NatsAccess(urls=(server.url,)), subject_of("MARKET_EVENTS")) as publisher:
            report = await Replay(CAPTURES, publisher, clock=SystemClock()).run()
        heads = ("JetStream to durable, real mix", "msg/s", "audited msg/s", "ratio", "target")
        with table(f"ingest of {report.messages:,} messages beside the audit", *heads) as rows:
            found = []
            for number in range(rounds):
                alone = await drained(server.url, f"alone{number}", report.messages, audited=False)
                both = await drained(server.url, f"both{number}", report.messages, audited=True)
                found.append((alone, both, both / alone))
                rows.append((f"round {number + 1}", f"{alone:,.0f}", f"{both:,.0f}", f"{both / alone:.2f}", ""))
            alone, both, ratio = (median(column) for column in zip(*found, strict=True))
            rows.append(("median", f"{alone:,.0f}", f"{both:,.0f}", f"{ratio:.2f}", "≥ 0.8"))
            figure(
                "ingest beside the audit",
                f"{both:,.0f} msg/s",
                baseline=f"without: {alone:,.0f}",
                ratio=ratio,
                target="≥ 0.8",
            )
        await server.stop()


async def main() -> None:
    cases = {
        "500 symbols x 1,440 candles, sweep": (0.3, lambda folder: gap_scan(folder, 500 // SHARE, 1_440)),
        "5 M trade ids, sweep": (0.3, lambda folder: id_scan(folder, 5_000_000 // SHARE)),
        "500 live series, one turn": (0.5, lambda folder: live(folder, 500 // SHARE)),
        "50 M candles, sweep": (2.0, lambda folder: gap_scan(folder, 500 // SHARE, 100_000)),
    }
    with table("audit", "what", "seconds", "at most", "keys read alone", "holes") as rows:
        for what, (bound, measure) in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                took, keys, holes = await measure(Path(folder))
            at_most = f"≤ {bound / SHARE:.2f} s"
            figure(what, f"{took:.2f} s", baseline=f"keys alone: {keys:.2f} s", ratio=took / keys, target=at_most)
            rows.append((what, f"{took:.2f}", f"{bound / SHARE:.2f}", f"{keys:.2f}", f"{holes:,}"))


if __name__ == "__main__":
    tune_interpreter()
    if "--ingest" not in sys.argv:
        uvloop.run(main())
    uvloop.run(beside_ingest())
