"""REST backfill against the simulated exchange: pages a minute of its budget, and what a page costs us.

    python benchmarks/rest.py [--minutes 3] [--speed 4] [--delay-ms 60]

The exchange is a process of its own whose clock, like ours, runs several times as fast, so that a minute of its budget
is over in seconds. Every answer comes delay-ms late, as from far away. The baseline is arithmetic: a page of 499 candles
costs 2 weight, and 60 % of 2,400 weight are ours.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import urllib.request
from statistics import median
from time import process_time

from _report import figure, table

from data_manager.adapters.binance.sources import Access, open_rest
from data_manager.adapters.clock import SystemClock
from data_manager.domain.dataset import Series
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, MINUTE_MS
from data_manager.ports.source import Wanted
from data_manager.simulator.clock import ExchangeClock

_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "LTCUSDT")
_DAYS = 30


def asked(address: str, path: str, body: dict[str, object] | None = None) -> dict[str, int]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data), timeout=60) as answer:
        found: dict[str, int] = json.load(answer)
        return found


async def measure(address: str, speed: float, minutes: int) -> tuple[list[int], int, float, dict[str, object]]:
    """Pages in each whole minute of the exchange's clock, rows in all, our CPU seconds a page, and how the source stood."""
    clock = ExchangeClock(SystemClock(), start_ms=asked(address, "/control/state")["now_ms"], speed=speed)
    rest = open_rest(Access(um=address), clock)
    end_ms = clock.now_ms() // DAY_MS * DAY_MS
    pages: dict[int, int] = {}
    rows, started = 0, process_time()
    first = clock.now_ms() // MINUTE_MS + 1

    async def fetch(symbol: str) -> None:
        nonlocal rows
        series = Series("um", "candle", symbol, "1m")
        wanted = Wanted(series=series, span=Span(end_ms - _DAYS * DAY_MS, end_ms))
        while clock.now_ms() // MINUTE_MS < first + minutes:
            [offer] = rest.offers(wanted, clock.now_ms())
            async for piece in rest.fetch(wanted, offer, "job:1"):
                minute = clock.now_ms() // MINUTE_MS
                if minute >= first + minutes:
                    return
                pages[minute] = pages.get(minute, 0) + 1
                rows += len(piece.rows)

    async with asyncio.TaskGroup() as tasks:
        for symbol in _SYMBOLS[:2]:  # as two jobs
            tasks.create_task(fetch(symbol))
    facts = rest.facts()["um"]
    await rest.close()
    whole = [pages.get(first + minute, 0) for minute in range(minutes)]
    return whole, rows, (process_time() - started) / max(1, sum(pages.values())), dict(facts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--speed", type=float, default=4.0)
    parser.add_argument("--delay-ms", type=int, default=60)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "data_manager", "simulate", "--port", "0", "--json", "--speed", str(arguments.speed), "--activity", "0.1", "--symbols", ",".join(_SYMBOLS)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exchange:
        try:
            assert exchange.stdout is not None
            address = json.loads(exchange.stdout.readline())["address"]
            now_ms = asked(address, "/control/state")["now_ms"]
            for symbol in _SYMBOLS[:2]:  # made once, so that it is not the exchange that is measured
                asked(address, f"/control/truth/fapi/v1/klines?symbol={symbol}&interval=1m&limit=1000000&startTime={now_ms - (_DAYS + 2) * DAY_MS}")  # fmt: skip
            asked(address, "/control/faults", {"kind": "slow", "delay_ms": arguments.delay_ms, "paths": "*klines"})
            whole, rows, cpu_s, facts = asyncio.run(measure(address, arguments.speed, arguments.minutes))
        finally:
            exchange.terminate()
    could = int(str(facts["weight_ceiling"])) // 2
    heads = ("candles by REST", "pages a minute", "could be had", "ratio", "CPU ms a page", "target")
    with table(f"REST, {rows:,} rows, exchange's clock {arguments.speed:g} times as fast", *heads) as lines:
        for number, pages in enumerate(whole, 1):
            lines.append((f"minute {number}", f"{pages}", f"{could}", f"{pages / could:.2f}", f"{1_000 * cpu_s:.1f}", "≥ 0.9"))  # fmt: skip
    pages = median(whole)
    figure(
        "candles by REST",
        f"{pages:,.0f} pages a minute",
        baseline=f"the budget's arithmetic: {could}",
        ratio=pages / could,
        target="≥ 0.9",
    )
    weight = 50 * -(-30 * 1_440 // 499) * 2
    print(
        f"  halted {facts['halts']} times; 50 symbols of 30 days: {weight:,} weight, {weight / could / 2:.1f} minutes"
    )


if __name__ == "__main__":
    main()
