"""What garbage costs: the real message mix with none, and with one piece of garbage for every hundred good messages.

Both lie in streams of one nats-server, and the clean mix in a second one, which tells how much is chance. They are
drained in turn, round after round and each first in every third one, by ingest as the service runs it: decode, screen,
store, dead letters into a SQLite file that is full already, log. Rates are good messages per second, until the last of
their rows is durable; what dead letters wait at the end of a stream counts as CPU alone. That is what the whole process
took (threads included) per good message.
"""

import argparse
import asyncio
import json
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import structlog
import uvloop
from _report import CAPTURES, figure, payloads, table
from _wired import CLOCK, filled, opened_bus, wired

from data_manager.adapters.binance.wire import DATASET_OF
from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.ports import DeadLetter
from data_manager.service.running import tune_interpreter
from data_manager.services.dead_letters.log import DeadLetterLog
from data_manager.services.ingest import ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.telemetry import Tally

_LETTERS_MAX = 10_000


def garbage(good: bytes, dice: random.Random) -> bytes:
    """A piece of any sort: no JSON, cut off, wrong types, broken rules, absurd values, rather large."""
    frame = json.loads(good)
    data = frame["data"]
    match dice.randrange(8):
        case 0:
            return b"\xff" + dice.randbytes(len(good))
        case 1:
            return good[: dice.randrange(1, len(good))]
        case 2:
            data["E"] = str(data.get("E"))
        case 3:
            data["s"] = "../../etc/passwd"
        case 4:
            data["E"] = data.get("E", 1) * 1_000
        case 5:
            data["e"] = "somethingElse"
        case 6:
            data |= {
                "e": "trade",
                "t": 1,
                "T": 1_680_652_700_000,
                "E": 1_680_652_700_000,
                "p": "-1",
                "q": "1",
                "m": True,
            }
        case _:
            data["note"] = "x" * dice.randrange(2_000) + "\ud800"
            return json.dumps(frame).encode().replace(b"\\ud800", b"\xff")
    return json.dumps(frame).encode()


def poisoned(good: Sequence[bytes], dice: random.Random) -> list[bytes]:
    """The same with one piece more after every hundred, somewhere among them."""
    found: list[bytes] = []
    for start in range(0, len(good), 100):
        some = list(good[start : start + 100])
        some.insert(dice.randrange(len(some) + 1), garbage(dice.choice(some), dice))
        found += some
    return found


async def drain(url: str, stream: str, durable: str, count: int, meta: SqlMetaStore) -> tuple[float, float]:
    """Seconds until every row is in the store, and the CPU seconds until the dead letters are kept too."""
    bus = await opened_bus(url, durable, stream)
    tally = Tally()
    told = DeadLetterLog(lambda: meta.dead_evicted, CLOCK)

    async def keep_dead(letters: Sequence[DeadLetter]) -> None:
        await meta.keep_dead(letters)
        told.kept(letters)

    stored_s = 0.0

    async def watch() -> None:
        nonlocal stored_s
        while tally.total_received() < count or tally.rows_in_flight():
            await asyncio.sleep(0.005)
        stored_s = time.perf_counter()
        while tally.in_flight:
            await asyncio.sleep(0.005)
        bus.stop()

    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder), 128 << 20)
        watching = asyncio.create_task(watch())
        started, worked = time.perf_counter(), time.process_time()
        ports = wired(bus, store.append, tally, keep_dead)
        await ingest(ports, Buffer("um", DATASET_OF, tally, Limits()))
        worked = time.process_time() - worked
        await watching
        await store.close()
    await bus.close()
    assert tally.missing() == 0
    assert tally.total_received() == count
    return stored_s - started, worked


async def full_meta(folder: Path) -> SqlMetaStore:
    """A metadata store in which every new dead letter makes an old one leave."""
    meta = await open_meta(f"sqlite:///{folder}/meta.db", dead_letters_max=_LETTERS_MAX)
    for start in range(0, _LETTERS_MAX, 1_000):
        await meta.keep_dead([_letter(start + number) for number in range(1_000)])
    return meta


def _letter(number: int) -> DeadLetter:
    payload = b"%d" % number + b" " * 300
    return DeadLetter(
        received_ms=number, subject="poison", reason="undecodable", field=None, message="not JSON", payload=payload
    )


async def measure(most: int, rounds: int) -> None:
    """The table."""
    good = payloads(CAPTURES, most)
    streams = {"CLEAN": good, "CONTROL": good, "POISON": poisoned(good, random.Random(1))}
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder) / "nats", port=0)
        await server.start()
        meta = await full_meta(Path(folder))
        for stream, messages in streams.items():
            await filled(server.url, stream, messages)
        heads = ("JetStream to durable", "clean msg/s", "again", "1 % garbage", "clean CPU µs", "again", "1 % garbage")
        with table(f"{len(good):,} good messages", *heads) as rows:
            found: list[tuple[float, ...]] = []
            for number in range(rounds):
                at = number % len(streams)
                order = [*streams, *streams][at : at + len(streams)]
                took = {s: await drain(server.url, s, f"round{number}", len(streams[s]), meta) for s in order}
                rates = tuple(len(good) / took[s][0] for s in streams)
                found.append(rates + tuple(1e6 * took[s][1] / len(good) for s in streams))
                rows.append(_row(f"round {number + 1}", found[-1]))
            clean, again, dirty, clean_us, again_us, dirty_us = figures = tuple(map(median, zip(*found, strict=True)))
            rows.append(_row("median", figures))
            rates = (f"{100 * (1 - one / clean):.1f} %" for one in (again, dirty))
            cpu = (f"{100 * (one / clean_us - 1):.1f} %" for one in (again_us, dirty_us))
            rows.append(("cost (target: a few %)", "", *rates, "", *cpu))
            figure(
                "1 % garbage",
                f"{dirty:,.0f} good msg/s",
                baseline=f"without: {clean:,.0f} and {again:,.0f}",
                ratio=dirty / clean,
                target="a few % less",
            )
        await meta.close()
        await server.stop()


def _row(name: str, figures: Sequence[float]) -> tuple[str, ...]:
    return (name, *(f"{rate:,.0f}" for rate in figures[:3]), *(f"{cpu_us:.1f}" for cpu_us in figures[3:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tune_interpreter()
    uvloop.run(measure(args.messages, args.rounds))


if __name__ == "__main__":
    main()
