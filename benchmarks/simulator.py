"""What the simulated exchange can answer: pages of history a second, events of its streams, rows of its archives.

    python benchmarks/simulator.py [--seconds 2]

Each row is measured for so many seconds in one thread, without HTTP between; the baseline is the venue's own budget: 1,200
pages of 499 candles a minute, and what twenty symbols send.
"""

import argparse
import time
from collections.abc import Callable

from _report import figure, table

from data_manager.adapters.clock import SystemClock
from data_manager.domain.time import DAY_MS, MINUTE_MS
from data_manager.simulator.app import Exchange, Plan


def rate(work: Callable[[int], int], seconds: float) -> tuple[float, float]:
    """Units of work a second, and milliseconds a call."""
    started, units, calls = time.perf_counter(), 0, 0
    while (spent := time.perf_counter() - started) < seconds:
        units += work(calls)
        calls += 1
    return units / spent, 1_000 * spent / calls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    seconds = parser.parse_args().seconds
    exchange = Exchange(Plan(weight_per_minute=10**12), SystemClock())
    now_ms = exchange.clock.now_ms()
    symbols = [symbol for symbol, one in exchange.tape.contracts.items() if one.status(now_ms) == "TRADING"]

    def ask(path: str, **params: object) -> int:
        words = {name: str(value) for name, value in params.items()}
        return exchange.rest.answer(f"/fapi/v1/{path}", words, {}, "a").body.count(b"[") or 1

    def old_candle(call: int) -> int:
        at_ms = now_ms - 730 * DAY_MS - call * DAY_MS % (300 * DAY_MS)
        return ask("klines", symbol=symbols[call % 4], interval="1m", startTime=at_ms, limit=1) and 1

    def pages(call: int) -> int:
        at_ms = now_ms - 30 * DAY_MS + call // 20 * 499 * MINUTE_MS
        ask("klines", symbol=symbols[call % 20], interval="1m", startTime=at_ms, limit=499)
        return 1

    def events(call: int) -> int:
        names = ("aggTrade", "trade", "kline_1m", "depth20@100ms", "bookTicker", "markPrice@1s")
        at_ms = now_ms - DAY_MS + call * 1_000
        lower = [symbol.lower() for symbol in symbols[:20]]
        feed = exchange.hub.feed
        return sum(len(feed.events(f"{one}@{name}", at_ms, at_ms + 1_000, 0)) for one in lower for name in names)

    def archived(call: int) -> int:
        day = time.strftime("%Y-%m-%d", time.gmtime(now_ms / 1_000 - (call + 3) * 86_400))
        path = f"/data/futures/um/daily/trades/{symbols[0]}/{symbols[0]}-trades-{day}.zip"
        assert exchange.archives is not None
        assert exchange.archives.get(path).status == 200
        return 36_000

    with table("simulated exchange", "what", "a second", "ms a call", "baseline") as rows:
        for what, work, baseline in (
            ("candles of two years ago, one a request", old_candle, "-"),
            ("pages of 499 candles, 20 symbols in turn", pages, "20 (2,400 weight)"),
            ("events, 20 symbols with six streams each", events, "~900 in real time"),
            ("rows of trades in daily zips, about", archived, "-"),
        ):
            per_second, ms = rate(work, seconds)
            figure(f"simulator: {what}", f"{per_second:,.0f}/s", baseline=baseline.removeprefix("-"))
            rows.append((what, f"{per_second:,.0f}", f"{ms:.1f}", baseline))


if __name__ == "__main__":
    main()
