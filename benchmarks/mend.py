"""A month of 1-minute candles of 50 symbols, missing, found and healed: beside what the exchange's budget allows.

    python benchmarks/mend.py [--symbols 50] [--days 30] [--speed 4] [--with-archives]

The store holds the candle before the hole and the one after it, of every symbol. Audit, ledger, jobs, REST, store and
metadata are those of the service; the exchange is the simulated one, a process of its own, whose clock, like ours, runs
several times as fast. The baseline is arithmetic: a page of 499 candles costs 2 weight, and 60 % of 2,400 weight a minute
are ours. With the archives, as a service would, each whole month comes as one file and each other day as another.
"""

import argparse
import asyncio
import json
import logging
import resource
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from time import perf_counter
from typing import Any

import structlog
import uvloop
from _report import figure, table

from data_manager.adapters.binance.sources import Access, open_archive, open_rest
from data_manager.adapters.clock import SystemClock
from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import STREAM, pack
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.events import Candle, Number
from data_manager.domain.holes.ledger import HoleState
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, MINUTE_MS
from data_manager.services.audit import Auditor
from data_manager.services.backfill import Backfiller
from data_manager.services.backfilling.losses import Losses
from data_manager.services.healing import Healing
from data_manager.simulator.clock import ExchangeClock

_AT_ONCE = 4  # jobs, as MAX_CONCURRENT_TASKS says
_JOBS_MAX = 5  # as MAX_AUTO_BACKFILL_JOBS says
_PAGE, _WEIGHT, _CEILING = 499, 2, 1_440


def asked(address: str, path: str) -> Any:
    with urllib.request.urlopen(address + path, timeout=300) as answer:
        return json.load(answer)


def candle(symbol: str, row: list[Any]) -> Candle:
    open_, high, low, close, volume, quote = (Number(row[at]) for at in (1, 2, 3, 4, 5, 7))
    return Candle(
        symbol=symbol, interval="1m", open_ms=row[0], open=open_, high=high, low=low, close=close, volume=volume,
        quote_volume=quote, trades=row[8], taker_buy_volume=Number(row[9]), taker_buy_quote_volume=Number(row[10]),
        close_ms=row[6], closed=True,
    )  # fmt: skip


class Digests:
    """Remembers nothing."""

    async def digest_of(self, path: str) -> str | None:
        return None

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        """Nothing to do."""


async def mend(
    address: str, symbols: list[str], days: int, speed: float, folder: Path, archives: bool
) -> dict[str, Any]:
    """Make the holes, and wait until all are healed."""
    clock = ExchangeClock(SystemClock(), start_ms=asked(address, "/control/state")["now_ms"], speed=speed)
    end_ms = clock.now_ms() // MINUTE_MS * MINUTE_MS - 10 * MINUTE_MS
    start_ms = end_ms - days * DAY_MS
    span = Span(start_ms, end_ms)
    store, meta = EmbeddedStore(folder / "store", 128 << 20), await open_meta(f"sqlite:///{folder}/meta.sqlite")
    rest = open_rest(Access(um=address), clock)
    sources = [rest]
    if archives:
        sources.append(open_archive(Access(um=address, archive=address), clock, Digests(), folder / "downloads"))
    for symbol in symbols:
        for at_ms in (start_ms - MINUTE_MS, end_ms):
            [row] = asked(address, f"/control/truth/fapi/v1/klines?symbol={symbol}&interval=1m&limit=1&startTime={at_ms}")  # fmt: skip
            await store.append(pack(DATASETS["candle"], "um", [candle(symbol, row)], [at_ms + MINUTE_MS], STREAM).batch)
    auditor = Auditor(store, meta, meta, clock, lambda findings: None)
    healing = Healing(auditor, Losses(clock, lambda findings: None), clock, jobs_max=_JOBS_MAX)
    backfiller = Backfiller(sources, store.append, clock, owner="benchmark", at_once=_AT_ONCE)
    await auditor.run()
    await auditor.run()
    began_s, began_ms = perf_counter(), clock.now_ms()

    async def working() -> None:
        while True:
            await backfiller.turn(meta)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(working())
        while (await meta.holes(limit=1, states=[one for one in HoleState if one is not HoleState.HEALED], span=span))[
            1
        ]:
            await healing.turn(meta)
            await asyncio.sleep(0.05)
        work.cancel()
    took_s, took_ms = perf_counter() - began_s, clock.now_ms() - began_ms
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    wanted = days * 1_440
    rows = [len(await store.scan(Series("um", "candle", symbol, "1m"), span)) for symbol in symbols]
    assert rows == [wanted] * len(symbols), "every candle is held, once"
    facts = dict(rest.facts()["um"])
    for source in sources:
        await source.close()
    await store.close()
    await meta.close()
    return {
        "rows": wanted * len(symbols),
        "took_s": took_s,
        "minutes": took_ms / MINUTE_MS,
        "peak_mib": peak_mib,
        **facts,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--speed", type=float, default=4.0)
    parser.add_argument("--with-archives", action="store_true")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    symbols = [f"S{number:02}USDT" for number in range(arguments.symbols)]
    command = [sys.executable, "-m", "data_manager", "simulate", "--port", "0", "--json", "--speed", str(arguments.speed), "--activity", "0.1", "--symbols", ",".join(symbols)]  # fmt: skip
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exchange,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            assert exchange.stdout is not None
            address = json.loads(exchange.stdout.readline())["address"]
            found = uvloop.run(mend(address, symbols, arguments.days, arguments.speed, Path(folder), arguments.with_archives))  # fmt: skip
        finally:
            exchange.terminate()
    pages = arguments.symbols * -(-arguments.days * 1_440 // _PAGE)
    could = pages * _WEIGHT / _CEILING
    heads = ("candles healed", "rows", "minutes", "the budget's", "ratio", "weight used", "seconds here", "rows/s here")
    name = "REST and archives" if arguments.with_archives else "REST alone"
    with table(f"{arguments.symbols} holes of {arguments.days} days", *heads) as lines:
        figure(
            f"candles healed, {name}",
            f"{found['minutes']:.1f} minutes",
            baseline=f"the budget's arithmetic: {could:.1f}",
            ratio=found["minutes"] / could,
            target="the budget's",
        )
        lines.append((name, f"{found['rows']:,}", f"{found['minutes']:.1f}", f"{could:.1f}", f"{could / found['minutes']:.2f}", f"{pages * _WEIGHT:,}", f"{found['took_s']:.0f}", f"{found['rows'] / found['took_s']:,.0f}"))  # fmt: skip
    print(f"  memory at its peak while healing: {found['peak_mib']:.0f} MiB, bound 400 MiB")
    print(f"  {found['requests']} requests, halted {found['halts']} times")


if __name__ == "__main__":
    main()
