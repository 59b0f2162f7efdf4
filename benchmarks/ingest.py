"""From JetStream to durable in the embedded store: throughput of the real message mix, and latency at fixed rates.

Throughput: all USDⓈ-M captures, enveloped, lie in the stream; the service's own ingest drains them. The baseline drains
them with the same client and acknowledges, and does nothing else (no-op). Both in turn, round after round, in this
process; nats-server is a child.

Latency: a child process publishes trades at a fixed rate, each carrying the nanosecond of its publishing as its trade
id; latency is counted when append returned for it, which is when it is durable and queryable.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import nats
import numpy as np
import uvloop
from _report import CAPTURES, table

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.nats_stream import StreamOptions
from data_manager.adapters.bus.opening import open_bus
from data_manager.adapters.bus.publisher import open_publisher
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import Batch
from data_manager.ports import Bus, DeadLetter, Receipt
from data_manager.service.running import tune_interpreter
from data_manager.services.buffer import Buffer, Limits
from data_manager.services.ingest import Ports, ingest
from data_manager.services.replay import Replay
from data_manager.telemetry import Tally

_CLOCK = SystemClock()
SUBJECT = "binance.futures.websocket.data"
_QUIET_S = 0.002


async def no_dead(letters: Sequence[DeadLetter]) -> None:
    """No message of the captures may end here."""
    raise AssertionError(letters[0].message)


async def opened_bus(url: str, durable: str) -> Bus:
    """A connected bus on a consumer of that name."""
    options = StreamOptions(durable=durable)
    bus = open_bus(NatsAccess(urls=(url,)), SUBJECT, mode="jetstream", clock=_CLOCK, stream=options)
    while not (await bus.state()).connected:
        await asyncio.sleep(0.01)
    return bus


async def drain_noop(url: str, durable: str, count: int) -> float:
    """Messages per second of a consumer that only acknowledges."""
    bus = await opened_bus(url, durable)
    seen = 0
    started = time.perf_counter()
    async for deliveries in bus.batches(_QUIET_S):
        await bus.ack(deliveries)
        seen += len(deliveries)
        if seen >= count:
            bus.stop()
    seconds = time.perf_counter() - started
    await bus.close()
    return count / seconds


async def drain_ours(url: str, durable: str, count: int) -> float:
    """Messages per second into a store of their own."""
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder), 128 << 20)
        rate = await drain_into(store, url, durable, count)
        await store.close()
    return rate


async def drain_into(store: EmbeddedStore, url: str, durable: str, count: int) -> float:
    """Messages per second into this store."""
    bus = await opened_bus(url, durable)
    tally = Tally()

    async def append(batch: Batch) -> Receipt:
        return await store.append(batch)

    async def watch() -> None:
        while tally.total_received() - tally.in_flight < count:
            await asyncio.sleep(0.005)
        bus.stop()

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    ports = Ports(bus, Decoder("um"), append, no_dead, _CLOCK)
    await ingest(ports, Buffer("um", DATASET_OF, tally, Limits()))
    seconds = time.perf_counter() - started
    await watching
    await bus.close()
    assert tally.missing() == 0
    return count / seconds


async def throughput(rounds: int) -> None:
    """Ours beside the no-op consumer."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), port=0)
        await server.start()
        first = await opened_bus(server.url, "first")  # makes the stream
        await first.close()
        async with open_publisher(NatsAccess(urls=(server.url,)), SUBJECT) as publisher:
            report = await Replay(CAPTURES, publisher, clock=_CLOCK).run()
        heads = ("JetStream to durable, real mix", "msg/s", "no-op msg/s", "ratio", "target")
        with table(f"ingest of {report.messages:,} messages", *heads) as rows:
            found = []
            for number in range(rounds):
                noop = await drain_noop(server.url, f"noop{number}", report.messages)
                ours = await drain_ours(server.url, f"ours{number}", report.messages)
                found.append((ours, noop, ours / noop))
                rows.append((f"round {number + 1}", f"{ours:,.0f}", f"{noop:,.0f}", f"{ours / noop:.2f}", ""))
            ours, noop, ratio = (median(column) for column in zip(*found, strict=True))
            rows.append(("median", f"{ours:,.0f}", f"{noop:,.0f}", f"{ratio:.2f}", "≥ 30,000 and ≥ 0.5"))
        await server.stop()


async def publish(url: str, rate: int, seconds: float) -> None:
    """Child process: trades of 50 symbols at a fixed rate, each with the nanosecond of its publishing as its id."""
    client = await nats.connect(url)
    started = time.perf_counter()
    sent = 0
    while (at := time.perf_counter() - started) < seconds:
        for _ in range(int(at * rate) - sent):
            now = time.time_ns()
            await client.publish(SUBJECT, _trade(now, sent % 50))
            sent += 1
        await client.flush()
        await asyncio.sleep(0.001)
    await client.close()


def _trade(now_ns: int, symbol: int) -> bytes:
    ms = now_ns // 1_000_000
    return (
        b'{"stream":"s%dusdt@trade","data":{"e":"trade","E":%d,"T":%d,"s":"S%dUSDT","t":%d,"p":"28145.10","q":"0.002",'
        b'"X":"MARKET","m":true},"timestamp":"2025-10-20T12:34:56.789012Z","message_id":"6f1c2e0a-53a4-4c0e-9b1f-0b2c7c'
        b'5a9f10","source":"binance-websocket","version":"1.0"}' % (symbol, ms, ms, symbol, now_ns)
    )


async def latency(rate: int, seconds: float) -> np.ndarray:
    """Milliseconds from publishing to durable, per message; the first second is left out as warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder) / "nats", port=0)
        await server.start()
        bus = await opened_bus(server.url, "latency")
        store = EmbeddedStore(Path(folder) / "store", 128 << 20)
        took: list[np.ndarray] = []

        async def append(batch: Batch) -> Receipt:
            receipt = await store.append(batch)
            took.append(time.time_ns() - batch.key)
            return receipt

        tally = Tally()
        ports = Ports(bus, Decoder("um"), append, no_dead, _CLOCK)
        child = subprocess.Popen([sys.executable, __file__, "--publish", server.url, str(rate), str(seconds)])
        ingesting = asyncio.create_task(ingest(ports, Buffer("um", DATASET_OF, tally, Limits())))
        await asyncio.to_thread(child.wait)
        await asyncio.sleep(0.3)
        bus.stop()
        await ingesting
        await bus.close()
        await store.close()
        await server.stop()
    published = int(np.concatenate(took).size * (seconds - 1) / seconds)
    return np.concatenate(took)[-published:] / 1e6


async def latencies(seconds: float) -> None:
    """p50, p99, worst at the two rates of the design."""
    heads = ("published to durable", "messages", "p50 ms", "p99 ms", "worst ms", "target p99 ms")
    with table("latency", *heads) as rows:
        for rate, target in ((1_000, 10), (20_000, 50)):
            ms = await latency(rate, seconds)
            p50, p99 = np.quantile(ms, [0.5, 0.99])
            rows.append(
                (f"{rate:,} msg/s", f"{len(ms):,}", f"{p50:.1f}", f"{p99:.1f}", f"{ms.max():.1f}", f"≤ {target}")
            )


def main() -> None:
    """Print both tables; or, as the child, publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--publish", nargs=3, metavar=("URL", "RATE", "SECONDS"))
    args = parser.parse_args()
    if args.publish:
        url, rate, seconds = args.publish
        uvloop.run(publish(url, int(rate), float(seconds)))
        return
    tune_interpreter()
    uvloop.run(throughput(args.rounds))
    uvloop.run(latencies(args.seconds))


if __name__ == "__main__":
    main()
