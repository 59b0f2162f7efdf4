"""From JetStream to durable in the embedded store: throughput of the real message mix, and memory.

    python benchmarks/ingest.py [--rounds 5]

All USDⓈ-M captures, enveloped, lie in a stream; ingest as the service wires it drains them. The baseline drains them
with the same client, acknowledges each list and does nothing else (no-op). Both in turn, round after round, in this
process; nats-server is a child. Two mixes: the captures as they are (nearly all of it is of two symbols), and the same
messages dealt out to 500 symbols.

Memory is that of `data-manager serve`, as it comes, after it drained the second mix: the most it ever held.
"""

import argparse
import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import structlog
import uvloop
from _report import CAPTURES, figure, payloads, table
from _wired import filled, opened_bus, subject_of, wired

from data_manager.adapters.binance.wire import DATASET_OF
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.service.running import tune_interpreter
from data_manager.services.ingest import ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.telemetry import Tally

_QUIET_S = 0.002
_SYMBOLS = 500
_SYMBOL = re.compile(rb'"s":"([A-Z0-9]+)"')


def dealt_out(messages: Sequence[bytes], symbols: int) -> list[bytes]:
    """The same messages, each under a name made of its symbol's and a number that goes round: so many in all."""
    names = {found[1] for message in messages if (found := _SYMBOL.search(message))}
    each = -(-symbols // len(names))
    dealt = []
    for at, message in enumerate(messages):
        found = _SYMBOL.search(message)
        assert found is not None
        old, new = found[1], b"N%02d%s" % (at % each, found[1])
        label = b'{"stream":"' + old.lower()
        dealt.append(message.replace(b'"' + old + b'"', b'"' + new + b'"').replace(label, label[:11] + new.lower(), 1))
    return dealt


async def drain_noop(url: str, durable: str, stream: str, count: int) -> float:
    """Messages per second of a consumer that only acknowledges."""
    bus = await opened_bus(url, durable, stream)
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


async def drain_ours(url: str, durable: str, stream: str, count: int) -> float:
    """Messages per second into a store of their own."""
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder), 128 << 20)
        rate = await drain_into(store, url, durable, count, stream)
        await store.close()
    return rate


async def drain_into(store: EmbeddedStore, url: str, durable: str, count: int, stream: str = "MARKET_EVENTS") -> float:
    """Messages per second into this store."""
    bus = await opened_bus(url, durable, stream)
    tally = Tally()

    async def watch() -> None:
        while tally.total_received() - tally.in_flight < count:
            await asyncio.sleep(0.005)
        bus.stop()

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    await ingest(wired(bus, store.append, tally), Buffer("um", DATASET_OF, tally, Limits()))
    seconds = time.perf_counter() - started
    await watching
    await bus.close()
    assert tally.missing() == 0
    return count / seconds


async def throughput(url: str, mixes: dict[str, int], rounds: int) -> None:
    """Ours beside the no-op consumer. mixes: stream and how many messages it holds."""
    heads = ("JetStream to durable, real mix", "msg/s", "no-op msg/s", "ratio", "target")
    for stream, count in mixes.items():
        with table(f"ingest of {count:,} messages, stream {stream}", *heads) as rows:
            found = []
            for number in range(rounds):
                noop = await drain_noop(url, f"noop{number}", stream, count)
                ours = await drain_ours(url, f"ours{number}", stream, count)
                found.append((ours, noop, ours / noop))
                rows.append((f"round {number + 1}", f"{ours:,.0f}", f"{noop:,.0f}", f"{ours / noop:.2f}", ""))
            ours, noop, ratio = (median(column) for column in zip(*found, strict=True))
            rows.append(("median", f"{ours:,.0f}", f"{noop:,.0f}", f"{ratio:.2f}", "≥ 30,000 and ≥ 0.5"))
            figure(
                f"JetStream to durable, {stream.lower()} symbols",
                f"{ours:,.0f} msg/s",
                baseline=f"no-op consumer: {noop:,.0f}",
                ratio=ratio,
                target="≥ 30,000 and ≥ 0.5",
            )


def memory(url: str, stream: str, count: int) -> tuple[float, float]:
    """MiB the service held at most, and at its end, with all messages of the stream stored."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            "DATA_DIR": folder, "NATS_URL": url, "NATS_STREAM": stream, "NATS_CONSUMER_SUBJECT": subject_of(stream),
            "NATS_CONSUMER": "memory", "API_PORT": "0", "METRICS_PORT": "0",
        }  # fmt: skip
        command = [sys.executable, "-m", "data_manager", "serve"]
        service = subprocess.Popen(
            command, env=os.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert service.stdout is not None
            found = None
            while found is None:
                found = re.search(r"API +(http://[0-9.:]+)", service.stdout.readline())
            facts: dict[str, int] = {}
            while facts.get("new", 0) + facts.get("duplicate", 0) + facts.get("changed", 0) < count:
                time.sleep(0.2)
                with urlopen(f"{found[1]}/health/ingest") as answer:
                    facts = json.load(answer)
            status = Path(f"/proc/{service.pid}/status").read_text()
            return _mib(status, "VmHWM"), _mib(status, "VmRSS")
        finally:
            service.terminate()
            service.wait()


def _mib(status: str, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1_024


async def measure(rounds: int) -> None:
    """All tables."""
    mix = payloads(CAPTURES)
    mixes = {"FEW": mix, "MANY": dealt_out(mix, _SYMBOLS)}
    counts = {stream: len(messages) for stream, messages in mixes.items()}
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), port=0)
        await server.start()
        for stream, messages in mixes.items():
            await filled(server.url, stream, messages)
        del mix, messages
        mixes.clear()
        if rounds:
            await throughput(server.url, counts, rounds)
        with table("memory of the service", "drained", "most MiB", "MiB at the end", "target") as rows:
            most, last = await asyncio.to_thread(memory, server.url, "MANY", counts["MANY"])
            figure(f"memory of the service, {_SYMBOLS} symbols", f"{most:.0f} MiB", target="≤ 400 MiB")
            rows.append((f"{counts['MANY']:,} messages of {_SYMBOLS} symbols", f"{most:.0f}", f"{last:.0f}", "≤ 400"))
        await server.stop()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="0: memory alone")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tune_interpreter()
    uvloop.run(measure(args.rounds))


if __name__ == "__main__":
    main()
