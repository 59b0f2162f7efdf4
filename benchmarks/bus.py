"""Messages per second that a consumer takes from NATS without doing anything with them, and what a message costs it.

    python benchmarks/bus.py [--messages 100000] [--rounds 3] [--loop uvloop|asyncio]

Each way of taking is nats-py's own or ours over it, on the same server, the same real messages in the publisher's
envelope, the best of some rounds. Everything shares the machine: the server too. "CPU µs" is this process alone.
"""

import argparse
import asyncio
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog
import uvloop
from _report import CAPTURES, payloads, table
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from data_manager.adapters.bus.connection import NatsAccess, NatsConnection
from data_manager.adapters.bus.nats_core import CoreOptions, NatsCore
from data_manager.adapters.bus.nats_jetstream import NatsJetStream
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.nats_stream import StreamOptions
from data_manager.adapters.bus.publisher import open_publisher
from data_manager.ports import Bus

SUBJECT, CORE_SUBJECT, STREAM = "bench.data", "bench.core", "BENCH"
ACK = "$JS.ACK.MARKET_EVENTS.petrosa-data-manager.1.123456.123456.1723161256299000000.12345"


class Clock:
    """The real time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Lap:
    """Wall and CPU time since begin()."""

    def begin(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


Way = Callable[[NatsServer, Sequence[bytes], Lap], Awaitable[tuple[float, float]]]


async def connect(server: NatsServer, **options: object) -> Client:
    client = Client()
    await client.connect(server.url, **options)
    return client


# ---- taking from JetStream, every message acknowledged


async def js_fetch(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    client, taken = await connect(server), 0
    config = ConsumerConfig(max_ack_pending=200_000)
    subscription = await client.jetstream().pull_subscribe(SUBJECT, durable="fetch", stream=STREAM, config=config)
    lap.begin()
    while taken < len(messages):
        batch = await subscription.fetch(1_000)
        taken += len(batch)
        for message in batch:
            await message.ack()
    await client.flush()
    times = lap.end()
    await client.jetstream().delete_consumer(STREAM, "fetch")
    await client.close()
    return times


async def js_push(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    client, taken, done = await connect(server), 0, asyncio.Event()

    async def take(message) -> None:
        nonlocal taken
        taken += 1
        await message.ack()
        if taken == len(messages):
            done.set()

    lap.begin()
    config = ConsumerConfig(max_ack_pending=200_000)
    await client.jetstream().subscribe(SUBJECT, durable="push", stream=STREAM, cb=take, manual_ack=True, config=config)
    await done.wait()
    await client.flush()
    times = lap.end()
    await client.jetstream().delete_consumer(STREAM, "push")
    await client.close()
    return times


async def js_ours(
    server: NatsServer, messages: Sequence[bytes], lap: Lap, *, flush_rows: int = 0
) -> tuple[float, float]:
    options = StreamOptions(stream=STREAM, durable="ours")
    bus = NatsJetStream(NatsConnection(NatsAccess(urls=(server.url,))), SUBJECT, clock=Clock(), options=options)
    lap.begin()
    await drain(bus, len(messages), flush_rows)
    times = lap.end()
    await bus.close()
    client = await connect(server)
    await client.jetstream().delete_consumer(STREAM, "ours")
    await client.close()
    return times


async def js_ours_in_flushes(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    return await js_ours(server, messages, lap, flush_rows=5_000)


async def drain(bus: Bus, count: int, flush_rows: int) -> None:
    """Take so many, acknowledging each list at once, or some lists together as ingest does."""
    taken, held = 0, []
    async for batch in bus.batches(0.05):
        taken += len(batch)
        held += batch
        if len(held) >= flush_rows or taken >= count:
            await bus.ack(held)
            held.clear()
        if taken >= count:
            return


# ---- taking from core NATS: the publisher is another process, since here the consumer cannot ask it to wait


async def core_callback(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    client, taken, done = await connect(server), 0, asyncio.Event()

    async def take(_) -> None:
        nonlocal taken
        taken += 1
        if taken == len(messages):
            done.set()

    await client.subscribe(CORE_SUBJECT, queue="bench", cb=take, pending_bytes_limit=0)
    await client.flush()
    publisher = await burst(server, len(messages))
    lap.begin()
    await client.publish("go")
    await done.wait()
    times = lap.end()
    await publisher.wait()
    await client.close()
    return times


async def core_ours(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    options = CoreOptions(queue="bench", rows_max=len(messages), bytes_max=2**30)
    bus = NatsCore(NatsConnection(NatsAccess(urls=(server.url,))), CORE_SUBJECT, clock=Clock(), options=options)
    bus.start()
    while not (await bus.state()).connected:
        await asyncio.sleep(0.01)
    publisher, client = await burst(server, len(messages)), await connect(server)
    lap.begin()
    await client.publish("go")
    await drain(bus, len(messages), 0)
    times = lap.end()
    await publisher.wait()
    await client.close()
    await bus.close()
    return times


async def burst(server: NatsServer, count: int) -> asyncio.subprocess.Process:
    """A process that has everything ready and sends it on the word go."""
    command = [sys.executable, __file__, "--burst", str(server.port), str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def send_burst(port: int, count: int) -> None:
    lines = [b"PUB %s %d\r\n%b\r\n" % (CORE_SUBJECT.encode(), len(one), one) for one in payloads(CAPTURES, count)]
    client = Client()
    await client.connect(f"nats://127.0.0.1:{port}")
    go = asyncio.get_running_loop().create_future()
    await client.subscribe("go", future=go)
    await client.flush()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    print("ready", flush=True)
    await go
    writer.write(b"".join(lines) + b"PING\r\n")
    await reader.readline()
    writer.close()
    await client.close()


# ---- sending


async def publish_plain(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    client = await connect(server)
    lap.begin()
    for message in messages:
        await client.publish("bench.nobody", message)
    await client.flush()
    times = lap.end()
    await client.close()
    return times


async def publish_checked(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    async with open_publisher(NatsAccess(urls=(server.url,)), SUBJECT) as publisher:
        lap.begin()
        await publisher.publish(messages)
        await publisher.confirm()
        return lap.end()


async def acks_plain(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    return await _acks(server, len(messages), lap, skip_subject_validation=False)


async def acks_ours(server: NatsServer, messages: Sequence[bytes], lap: Lap) -> tuple[float, float]:
    return await _acks(server, len(messages), lap, skip_subject_validation=True)


async def _acks(server: NatsServer, count: int, lap: Lap, **options: object) -> tuple[float, float]:
    client = await connect(server, **options)
    lap.begin()
    for _ in range(count):
        await client.publish(ACK)
    await client.flush()
    times = lap.end()
    await client.close()
    return times


WAYS: dict[str, Way] = {
    "core: nats-py callback": core_callback,
    "core: ours": core_ours,
    "JetStream: nats-py fetch(1000), acked": js_fetch,
    "JetStream: nats-py push, acked": js_push,
    "JetStream: ours, acked list by list": js_ours,
    "JetStream: ours, acked by 5,000": js_ours_in_flushes,
    "ack alone: nats-py publish": acks_plain,
    "ack alone: without subject checks (ours)": acks_ours,
    "publish: nats-py, unconfirmed, no stream": publish_plain,
    "publish: ours, confirmed in the stream": publish_checked,
}


async def main(count: int, rounds: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    messages = payloads(CAPTURES, count)
    size = sum(map(len, messages)) // len(messages)
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), port=0)
        await server.start()
        client = await connect(server)
        await client.jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
        await publish_checked(server, messages, Lap())
        title = f"no-op consumers and publishers, {len(messages):,} messages of {size} bytes"
        with table(title, "way", "messages/s", "CPU µs/message", "x fetch") as rows:
            best = {name: await fastest(way, server, messages, rounds) for name, way in WAYS.items()}
            base = best["JetStream: nats-py fetch(1000), acked"][0]
            for name, (wall, cpu) in best.items():
                rate = len(messages) / wall
                rows.append((name, f"{rate:,.0f}", f"{cpu / len(messages) * 1e6:.1f}", f"{base / wall:.1f}"))
        await client.close()
        await server.stop()


async def fastest(way: Way, server: NatsServer, messages: Sequence[bytes], rounds: int) -> tuple[float, float]:
    times = []
    for _ in range(rounds):
        gc.collect()
        times.append(await way(server, messages, Lap()))
        client = await connect(server)
        await client.jetstream().purge_stream(STREAM, keep=len(messages))
        await client.close()
    return min(times)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--messages", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments.add_argument("--burst", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    run = uvloop.run if asked.loop == "uvloop" else asyncio.run
    if asked.burst:
        run(send_burst(*asked.burst))
    else:
        run(main(asked.messages, asked.rounds))
