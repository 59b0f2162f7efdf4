"""The feed alone: messages per second from an exchange's socket to a stream that has acknowledged each of them.

A child process is the exchange: it takes the subscription and then sends as fast as the socket takes. Trades are small
and books are large. The baseline is the same client of the library that only reads, in the same run. Then the share of
one core at the rate of an ordinary day's default streams, by the processor time of the whole process.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from _report import figure, table
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from data_manager.adapters.binance.feed import BinanceFeed
from data_manager.adapters.binance.feed_line import Rules
from data_manager.adapters.binance.feed_names import streams_of
from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.bus.outbox import NatsOutbox
from data_manager.adapters.clock import SystemClock
from data_manager.service.feeding import Feeder

_SUBJECT = "feed.bench"
_LEVELS = [[f"{110_000 + at}.4", "1.234"] for at in range(20)]
_DATA = {
    "trade": {"e": "trade", "E": 1, "T": 1, "s": "BTCUSDT", "t": 1, "p": "110123.4", "q": "0.012", "X": "MARKET", "m": True},
    "depth20@100ms": {"e": "depthUpdate", "E": 1, "T": 1, "s": "BTCUSDT", "U": 1, "u": 2, "pu": 0, "b": _LEVELS, "a": _LEVELS},
}  # fmt: skip


def exchange(listening: socket.socket, kind: str, count: int, per_second: float) -> None:
    """Serve one socket after the other: acknowledge what is asked, then send so many frames."""
    frame = json.dumps({"stream": f"btcusdt@{kind}", "data": _DATA[kind]}, separators=(",", ":")).encode()

    async def handle(client: Any) -> None:
        asked = json.loads(await client.recv())
        await client.send(json.dumps({"result": None, "id": asked["id"]}))
        began = time.perf_counter()
        for number in range(1, count + 1):
            await client.send(frame, text=True)
            if per_second and (ahead := began + number / per_second - time.perf_counter()) > 0.002:
                await asyncio.sleep(ahead)
        await client.wait_closed()

    async def main() -> None:
        async with serve(handle, sock=listening, compression=None, ping_interval=None):
            await asyncio.Future()

    uvloop.run(main())


async def only_read(port: int, count: int) -> float:
    """Messages per second of a client that forgets what it reads."""
    async with connect(f"ws://127.0.0.1:{port}/", compression=None, max_queue=256) as client:
        await client.send('{"method":"SUBSCRIBE","params":[],"id":1}')
        await client.recv()
        began = time.perf_counter()
        for _ in range(count):
            await client.recv(decode=False)
        return count / (time.perf_counter() - began)


async def ours(port: int, kind: str, count: int, url: str) -> tuple[float, float]:
    """Messages per second until each was acknowledged, and microseconds of our processor time for each."""
    rules = Rules(waiting_max=count + 1, waiting_bytes_max=1 << 40)
    feed = BinanceFeed(f"ws://127.0.0.1:{port}", streams_of("um", ["BTCUSDT"], [kind]), SystemClock(), rules=rules)
    feeder = Feeder(feed, NatsOutbox(NatsAccess(urls=(url,)), _SUBJECT))
    async with asyncio.TaskGroup() as group:
        group.create_task(feeder.run())
        while not feed.heard.total():
            await asyncio.sleep(0.001)
        began, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        while feeder.outbox.confirmed < count:
            await asyncio.sleep(0.005)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        await feeder.stop()
        await feeder.outbox.close()
    cpu_s = after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime
    return count / seconds, cpu_s / count * 1e6


async def measure(count: int) -> list[tuple[str, ...]]:
    """The rows of the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), port=0)
        await server.start()
        try:
            await _add_stream(server.url)
            for kind, most, per_second in (
                ("trade", count, 0.0),
                ("depth20@100ms", count // 2, 0.0),
                ("trade", 5_000, 1_000.0),
            ):
                with socket.create_server(("127.0.0.1", 0)) as listening:
                    port = listening.getsockname()[1]
                    child = multiprocessing.Process(target=exchange, args=(listening, kind, most, per_second))
                    child.start()
                    baseline = "" if per_second else f"{await only_read(port, most):,.0f}"
                    rate, cpu_us = await ours(port, kind, most, server.url)
                    child.terminate()
                    child.join()
                what = f"{kind}, {'as fast as it goes' if not per_second else f'{per_second:,.0f}/s'}"
                figure(f"feed: {what}", f"{rate:,.0f}/s", baseline=baseline and f"only read: {baseline}")
                rows.append((what, f"{rate:,.0f}", baseline, f"{cpu_us:.0f}", f"{cpu_us / 10:.1f} %"))
        finally:
            await server.stop()
    return rows


async def _add_stream(url: str) -> None:
    from nats.aio.client import Client

    client = Client()
    await client.connect(url)
    await client.jetstream().add_stream(name="FEED", subjects=[_SUBJECT])
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60_000)
    heads = ("stream", "acknowledged/s", "only read/s", "CPU µs each", "core at 1,000/s")
    with table("feed: exchange's socket -> JetStream", *heads) as rows:
        rows.extend(uvloop.run(measure(parser.parse_args().count)))
