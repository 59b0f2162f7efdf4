"""How fast the HTTP API answers, beside an empty FastAPI route in the same server process and the same run.

    python benchmarks/http_api.py [--store memory|embedded] [--seconds 2] [--rounds 5] [--connections 16]

A child process serves both on one event loop: our application over 100,000 one-minute candles, and a FastAPI
application whose one route returns {}. Each question is asked of an application that reads and writes every answer
anew, and (kept) of one that knows the series has not changed since it answered the same. This process asks over raw keep-alive sockets, each target in turn, round after
round, so that noise of the machine meets all of them alike. Server and asker are pinned to a core each where there
are two. The ratio is the median over the rounds of rate / rate of the empty route.

Steal is what the hypervisor took from this machine meanwhile: above about 2 % the latencies are void.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import uvicorn
import uvloop
from _report import figure
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.api.app import Components, Readiness, create_app
from data_manager.domain.batch import Batch, empty
from data_manager.domain.condition.coverage import Audited, Result
from data_manager.domain.condition.truth import Mark, SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.span import Span
from data_manager.domain.time import MINUTE_MS
from data_manager.domain.values.columns import Column, Flags, Ints, Texts
from data_manager.domain.values.decimals import Decimals
from data_manager.ports import Records, SeriesStore
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.conditions import Conditions
from data_manager.services.periodic import every

_ROWS = 100_000
_FIRST_MS = 1_577_836_800_000  # 2020-01-01
_SERIES = Series("um", "candle", "BTCUSDT", "1m")
_START = _FIRST_MS + 50_000 * MINUTE_MS
_CANDLES = "/data/candles?pair=BTCUSDT&period=1m"
_TARGETS = {
    "empty FastAPI route": "/empty",
    "newest 100 candles": f"/always{_CANDLES}&limit=100",
    "100 candles from start": f"/always{_CANDLES}&limit=100&start={_START}",
    "newest 1,000 candles": f"/always{_CANDLES}&limit=1000",
    "newest 100, kept": f"{_CANDLES}&limit=100",
    "newest 1,000, kept": f"{_CANDLES}&limit=1000",
    "liveness": "/health/liveness",
}


def candles() -> Batch:
    """Candles with the digits of a real market, from a fixed seed."""
    random = np.random.default_rng(1)
    opens = np.arange(_ROWS) * MINUTE_MS + _FIRST_MS

    def number(low: int, high: int, scale: int) -> Decimals:
        return Decimals(random.integers(low, high, _ROWS), scale)

    columns: dict[str, Column] = {
        "open_ms": Ints(opens),
        "open": number(2_600_000, 2_900_000, 2),
        "high": number(2_900_000, 2_910_000, 2),
        "low": number(2_500_000, 2_600_000, 2),
        "close": number(2_600_000, 2_900_000, 2),
        "volume": number(1_000, 900_000, 3),
        "quote_volume": number(10**9, 10**12, 5),
        "trades": Ints(random.integers(10, 9_000, _ROWS)),
        "taker_buy_volume": number(1_000, 500_000, 3),
        "taker_buy_quote_volume": number(10**9, 10**12, 5),
        "first_trade_id": Ints(np.arange(_ROWS)),
        "last_trade_id": Ints(np.arange(_ROWS)),
        "close_ms": Ints(opens + MINUTE_MS - 1),
        "closed": Flags(np.ones(_ROWS, np.bool_)),
        "event_ms": Ints(opens + MINUTE_MS),
        "received_ms": Ints(opens + MINUTE_MS + 1),
        "origin": Texts.constant("stream", _ROWS),
    }
    return Batch(DATASETS["candle"], (_SERIES,), np.zeros(_ROWS, np.int32), columns)


class OneBatch:
    """The reading half of a SeriesStore over one sorted batch: what a store answers from memory costs no less."""

    kind = "memory"

    def __init__(self, rows: Batch) -> None:
        self._rows = rows

    def version(self, series: Series) -> int | None:
        """See SeriesStore.version: nothing is appended here."""
        return 1

    async def last(self, series: Series, n: int) -> Batch:
        """See SeriesStore.last."""
        if series != _SERIES:
            return empty(DATASETS[series.dataset], (series,))
        return self._rows.take(slice(max(len(self._rows) - n, 0), None))

    async def scan(
        self,
        series: Series,
        span: Span | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        descending: bool = False,
        offset: int = 0,
        after: int | None = None,
    ) -> Batch:
        """See SeriesStore.scan, ascending only."""
        bounds = [_FIRST_MS, _FIRST_MS + _ROWS * MINUTE_MS] if span is None else [span.start_ms, span.end_ms]
        first, end = np.searchsorted(self._rows.time_ms, bounds).tolist()
        return self._rows.take(slice(first + offset, end if limit is None else min(first + offset + limit, end)))


class Untold:
    """A store that cannot tell whether a series has changed."""

    def __init__(self, store: SeriesStore) -> None:
        self.kind, self.last, self.scan = store.kind, store.last, store.scan

    def version(self, series: Series) -> int | None:
        """See SeriesStore.version."""
        return None


class _Clock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _no_facts() -> dict[str, object]:
    return {}


async def _ready() -> Readiness:
    return Readiness(ready=True, status="healthy", components={}, reasons=[])


class OneTruth:
    """What audits know of the one series: all of it was audited, and three holes are known."""

    def __init__(self) -> None:
        end_ms = _FIRST_MS + _ROWS * MINUTE_MS
        mark = Mark(looked_ms=_Clock().now_ms(), swept_ms=_Clock().now_ms(), until_ms=end_ms)
        passed = (Audited(_FIRST_MS, end_ms, Result.PASS, RULE_VERSION, mark.looked_ms),)
        holes = tuple(self._hole(minute) for minute in (100, 50_010, 90_000))
        self._truth = SeriesTruth(series=_SERIES.id, version=1, mark=mark, coverage=passed, holes=holes)

    @staticmethod
    def _hole(minute: int) -> LedgerEntry:
        start_ms = _FIRST_MS + minute * MINUTE_MS
        return LedgerEntry(
            id=str(minute), series=_SERIES.id, kind="grid", start_ms=start_ms, end_ms=start_ms + MINUTE_MS, missing=1,
            after=None, before=None, state=HoleState.OPEN, found_ms=0, seen_ms=0,
        )  # fmt: skip

    async def truth_state(self) -> int:
        """See TruthStore.truth_state."""
        return 1

    async def truth_versions(self) -> dict[str, int]:
        """See TruthStore.truth_versions."""
        return {_SERIES.id: 1}

    async def truths(self, series: Sequence[str] | None = None) -> list[SeriesTruth]:
        """See TruthStore.truths."""
        return [self._truth]

    async def lives(self) -> list[SymbolLife]:
        """See TruthStore.lives."""
        return []


def _application(store: SeriesStore, conditions: Conditions) -> ASGIApp:
    """Ours; under /always ours without kept answers; under /empty FastAPI with one empty route and nothing of ours."""
    ours, always, baseline = _ours(store, conditions, keep=True), _ours(store, conditions, keep=False), FastAPI()

    @baseline.get("/empty")
    async def nothing() -> dict[str, str]:
        return {}

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path == "/empty":
            await baseline(scope, receive, send)
        elif path.startswith("/always"):
            await always({**scope, "path": path.removeprefix("/always")}, receive, send)
        else:
            await ours(scope, receive, send)

    return choose


def _ours(store: SeriesStore, conditions: Conditions, *, keep: bool) -> ASGIApp:
    return create_app(
        Components(
            store=store if keep else cast(SeriesStore, Untold(store)),
            meta=cast(Records, None),  # no route that is measured asks it
            clock=_Clock(),
            market="um",
            version="bench",
            readiness=_ready,
            registry=CollectorRegistry(),
            conditions=conditions,
            desk=None,
            ingest=_no_facts,
            databases=_no_facts,
            connections=_no_facts,
        )
    )


async def _serve(listener: socket.socket, kind: str) -> None:
    rows = candles()
    with tempfile.TemporaryDirectory() as folder:
        store = await _embedded(Path(folder), rows) if kind == "embedded" else cast(SeriesStore, OneBatch(rows))
        conditions = Conditions(cast(Records, OneTruth()), _Clock())
        keeping_up = asyncio.create_task(every(1.0, "conditions", conditions.keep_up, _Clock()))
        config = uvicorn.Config(
            _application(store, conditions),
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_level="warning",
            lifespan="off",
        )
        await uvicorn.Server(config).serve(sockets=[listener])
        keeping_up.cancel()


async def _embedded(folder: Path, rows: Batch) -> SeriesStore:
    store = EmbeddedStore(folder, cache_bytes=128 * 1024 * 1024)
    for start in range(0, _ROWS, 10_000):
        await store.append(rows.take(slice(start, start + 10_000)))
    return store


class _Asker(asyncio.Protocol):
    """One connection that asks again as soon as it was answered, until the time is over."""

    def __init__(self, request: bytes, until: float, seconds: list[float]) -> None:
        self._request, self._until, self._seconds = request, until, seconds
        self._transport: Any = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = b""
        self._missing = -1  # bytes of the answer still to come; -1: its head has not come whole

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._head, self._missing, self._asked = b"", -1, time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._head.startswith(b"HTTP/1.1 200"):
                self.done.set_exception(RuntimeError(f"{self._request!r} was answered {self._head[:300]!r}"))
                self._transport.close()
                return
            at = self._head.index(b"content-length: ") + 16
            length = int(self._head[at : self._head.index(b"\r\n", at)])
            self._missing = end + 4 + length - len(self._head)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            now = time.perf_counter()
            self._seconds.append(now - self._asked)
            if now < self._until:
                self._ask()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def _load(port: int, path: str, seconds: float, connections: int) -> tuple[float, list[float]]:
    """Requests per second, and the latency of each request in seconds."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    until = started + seconds
    askers = [
        (await loop.create_connection(lambda: _Asker(request, until, latencies), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(asker.done for asker in askers))
    return len(latencies) / (time.perf_counter() - started), latencies


def _ticks() -> tuple[int, int]:
    """Of all processors since boot: ticks stolen, ticks in all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def measure(args: argparse.Namespace) -> None:
    """Start the server, ask, print the table."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]
    command = [sys.executable, __file__, "--store", args.store, "--listener", str(listener.fileno())]
    with subprocess.Popen(command, pass_fds=[listener.fileno()]) as server:
        try:
            _pin(1)
            print(_table(port, args), flush=True)
        finally:
            server.terminate()


def _table(port: int, args: argparse.Namespace) -> str:
    rates: dict[str, list[float]] = {name: [] for name in _TARGETS}
    latencies: dict[str, list[float]] = {name: [] for name in _TARGETS}
    for path in _TARGETS.values():
        uvloop.run(_load(port, path, 0.5, args.connections))  # warm up; also waits for the server
    stolen, total = _ticks()
    for _ in range(args.rounds):
        for name, path in _TARGETS.items():
            rate, seconds = uvloop.run(_load(port, path, args.seconds, args.connections))
            rates[name].append(rate)
            latencies[name] += seconds
    stolen_after, total_after = _ticks()
    base = rates["empty FastAPI route"]
    lines = [f"{'':24} {'req/s':>8} {'best':>8} {'p50 ms':>8} {'p99 ms':>8} {'ratio':>6}"]
    for name in _TARGETS:
        p50, p99 = np.percentile(latencies[name], [50, 99]) * 1_000
        ratio = median(one / other for one, other in zip(rates[name], base, strict=True))
        figure(
            f"API, {name}",
            f"{median(rates[name]):,.0f} req/s, p99 {p99:.1f} ms",
            baseline=f"empty route: {median(base):,.0f}",
            ratio=ratio,
            target="≥ 2,500, ≥ 0.5, p99 ≤ 30 ms" if "100" in name else "",
        )
        lines.append(
            f"{name:24} {median(rates[name]):8,.0f} {max(rates[name]):8,.0f} {p50:8.2f} {p99:8.2f} {ratio:6.2f}"
        )
    steal = 100 * (stolen_after - stolen) / max(total_after - total, 1)
    lines.append(f"store {args.store}, {args.connections} connections, {os.cpu_count()} cores, steal {steal:.1f} %")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("memory", "embedded"), default="memory")
    parser.add_argument("--seconds", type=float, default=2.0, help="per target and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--listener", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.listener is not None:
        _pin(0)
        uvloop.run(_serve(socket.socket(fileno=args.listener), args.store))
    else:
        measure(args)


if __name__ == "__main__":
    main()
