"""Milliseconds from published to durable and queryable, at fixed rates.

    python benchmarks/latency.py [--seconds 8]
    python benchmarks/latency.py --phases 20000 500          where the slowest messages of one such run waited

A child publishes trades at a fixed rate, each carrying the nanosecond of its publishing as its trade id; ingest as the
service wires it stores them, and a message's latency is counted when append returned for it. The first second is left
out. "To us" is the part until our reader has it, "append" that from the call of append to its return.

Beside each figure stands what the machine did meanwhile: how long the same messages took to a plain subscriber, how long
a bare fdatasync on the same disk took, how much processor the hypervisor kept to itself and other programs used. With
more than 2 % steal a latency means nothing: it is void.
"""

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nats
import numpy as np
import structlog
import uvloop
from _beside import Beside, watched
from _phases import print_phases, watched_phases
from _report import figure, table
from _wired import opened_bus, subject_of, wired

from data_manager.adapters.binance.wire import DATASET_OF
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import Batch
from data_manager.domain.values.columns import Ints
from data_manager.ports import Receipt
from data_manager.service.running import tune_interpreter
from data_manager.services.ingest import ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.telemetry import Tally

_STREAM = "LATENCY"
_LAST_S = 0.3  # for the last messages to become durable


async def publish(url: str, rate: int, seconds: float, symbols: int) -> None:
    """Child process: trades at a fixed rate, each with the nanosecond of its publishing as its id."""
    client = await nats.connect(url)
    subject, sent, started = subject_of(_STREAM), 0, time.perf_counter()
    while (at := time.perf_counter() - started) < seconds:
        for _ in range(int(at * rate) - sent):
            await client.publish(subject, _trade(time.time_ns(), sent % symbols))
            sent += 1
        await client.flush()
        await asyncio.sleep(0.001)
    await client.close()


def _trade(now_ns: int, symbol: int) -> bytes:
    ms = now_ns // 1_000_000
    return (
        b'{"stream":"s%03dusdt@trade","data":{"e":"trade","E":%d,"T":%d,"s":"S%03dUSDT","t":%d,"p":"28145.10",'
        b'"q":"0.002","X":"MARKET","m":true},"timestamp":"2025-10-20T12:34:56.789012Z","message_id":"6f1c2e0a-53a4-4c0'
        b'e-9b1f-0b2c7c5a9f10","source":"binance-websocket","version":"1.0"}' % (symbol, ms, ms, symbol, now_ns)
    )


class Took(NamedTuple):
    """Milliseconds per message: from published to durable, and of that to our reader, and in append; and when, in ns."""

    whole: np.ndarray
    to_us: np.ndarray
    append: np.ndarray
    published: np.ndarray


async def latency(rate: int, symbols: int, seconds: float) -> tuple[Took, Beside]:
    """How long it took, and what the machine did meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = NatsServer(folder / "nats", port=0)
        await server.start()
        bus = await opened_bus(server.url, "latency", _STREAM)
        store = EmbeddedStore(folder / "store", 128 << 20)
        took: list[np.ndarray] = []

        async def append(batch: Batch) -> Receipt:
            began = time.time_ns()
            receipt = await store.append(batch)
            now, published, received = time.time_ns(), batch.key, batch.columns["received_ms"]
            assert isinstance(received, Ints)
            lines = (
                published,
                now - published,
                received.values * 1_000_000 - published,
                np.full(len(batch), now - began),
            )
            took.append(np.vstack(lines))
            return receipt

        tally = Tally()
        ingesting = asyncio.create_task(
            ingest(wired(bus, append, tally), Buffer("um", DATASET_OF, tally, Limits())), name="ingest"
        )
        with watched(folder, server.port, subject_of(_STREAM)) as beside:
            command = [sys.executable, __file__, "--publish", server.url, str(rate), str(seconds), str(symbols)]
            await asyncio.to_thread(subprocess.run, command, check=True)
            await asyncio.sleep(_LAST_S)
        bus.stop()
        await ingesting
        await bus.close()
        await store.close()
        await server.stop()
    published, *parts = np.hstack(took)
    counted = published > published.min() + 1_000_000_000
    return Took(*(part[counted] / 1e6 for part in parts), published[counted]), beside[0]


async def measure(seconds: float) -> None:
    """The table."""
    heads = (
        "published to durable", "p50 ms", "p99 ms", "worst ms", "target p99 ms", "to us p99", "append p99",
        "plain subscriber p99", "bare fdatasync p99", "steal %", "other programs %", "",
    )  # fmt: skip
    with table("latency, and what the machine did meanwhile", *heads) as rows:
        for rate, target in ((1_000, 10), (20_000, 50)):
            for symbols in (2, 500):
                took, beside = await latency(rate, symbols, seconds)
                figures = (*np.quantile(took.whole, [0.5, 0.99]), took.whole.max())
                parts = (np.quantile(took.to_us, 0.99), np.quantile(took.append, 0.99), beside.seen_ms)
                figure(
                    f"published to durable, p99, {rate:,} msg/s, {symbols} symbols",
                    f"{figures[1]:.1f} ms",
                    baseline=f"bare fdatasync {beside.fdatasync_ms:.1f}, plain subscriber {beside.seen_ms:.1f}",
                    target=f"≤ {target} ms",
                )
                machine = (f"{beside.fdatasync_ms:.1f}", f"{beside.steal:.1f}", f"{beside.others:.0f}", beside.verdict)
                rows.append(
                    (
                        f"{rate:,} msg/s, {symbols} symbols",
                        *(f"{one:.1f}" for one in figures),
                        f"≤ {target}",
                        *(f"{one:.1f}" for one in parts),
                        *machine,
                    )
                )


async def look_closely(rate: int, symbols: int, seconds: float) -> None:
    """One run with every phase watched."""
    with watched_phases() as spans:
        took, beside = await latency(rate, symbols, seconds)
    durable = took.published + (took.whole * 1e6).astype(np.int64)
    print_phases(f"{rate:,} msg/s, {symbols} symbols {beside.verdict}", spans, took.published, durable)


def main() -> None:
    """Print the table; or, as the child, publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--phases", nargs=2, type=int, metavar=("RATE", "SYMBOLS"))
    parser.add_argument("--publish", nargs=4, metavar=("URL", "RATE", "SECONDS", "SYMBOLS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish:
        url, rate, seconds, symbols = args.publish
        uvloop.run(publish(url, int(rate), float(seconds), int(symbols)))
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tune_interpreter()
    uvloop.run(look_closely(*args.phases, args.seconds) if args.phases else measure(args.seconds))


if __name__ == "__main__":
    main()
