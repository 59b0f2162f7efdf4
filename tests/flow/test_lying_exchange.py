"""An exchange that lies: whatever it answers, asking ends, and nothing is taken for a row that was not asked for."""

import asyncio
import http.server
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from data_manager.adapters.binance.rest import RestSource
from data_manager.adapters.binance.sources import Access, open_rest
from data_manager.domain.dataset import Series
from data_manager.domain.errors import DataManagerError
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS
from data_manager.ports.source import Fetched, Wanted
from tests.servers import WallClock

CANDLES, TRADES = Series("um", "candle", "BTCUSDT", "1m"), Series("um", "agg_trade", "BTCUSDT")
REQUESTS_MAX = 70
Lie = Callable[[list[Any], dict[str, int]], Any]


def candle(open_ms: int) -> list[Any]:
    return [open_ms, "2", "3", "1", "2", "10", open_ms + 59_999, "20", 7, "5", "10", "0"]


def true_candles(asked: dict[str, int]) -> list[Any]:
    first = -(-asked["startTime"] // MINUTE_MS) * MINUTE_MS
    return [candle(at) for at in range(first, asked["endTime"] + 1, MINUTE_MS)][: asked["limit"]]


def true_trades(asked: dict[str, int]) -> list[Any]:
    first = asked.get("fromId", asked.get("startTime", 0) // 1_000)
    rows = [
        {"a": number, "p": "2", "q": "1", "f": number, "l": number, "T": number * 1_000, "m": True}
        for number in range(first, first + asked["limit"])
    ]
    return [row for row in rows if row["T"] <= asked.get("endTime", 1 << 60)]


def changed(**values: Any) -> Lie:
    """The third row says something else."""

    def lie(rows: list[Any], asked: dict[str, int]) -> Any:
        if len(rows) > 2:
            rows[2] = [values.get(f"at{at}", value) for at, value in enumerate(rows[2])]
        return rows

    return lie


LIES: dict[str, Lie] = {
    "earlier rows": lambda rows, asked: [candle(row[0] - DAY_MS) for row in rows],
    "later rows": lambda rows, asked: [candle(row[0] + DAY_MS) for row in rows],
    "rows of another century": lambda rows, asked: [candle(row[0] + 40_000 * DAY_MS) for row in rows],
    "backwards": lambda rows, asked: rows[::-1],
    "twice": lambda rows, asked: [*rows, *rows],
    "more than asked for": lambda rows, asked: [candle(asked["startTime"] + at * MINUTE_MS) for at in range(5_000)],
    "the first ones for ever": lambda rows, asked: rows[:7] * 99,
    "beside the grid": lambda rows, asked: [candle(row[0] + 30_000) for row in rows],
    "never the last": lambda rows, asked: rows[:-1],
    "nothing": lambda rows, asked: [],
    "an object": lambda rows, asked: {"code": 0},
    "a number": lambda rows, asked: 7,
    "rows of nothing": lambda rows, asked: [[] for _ in rows],
    "a price that is none": changed(at1="abc"),
    "a price that is no number": changed(at1="NaN"),
    "an endless price": changed(at2="Infinity"),
    "a price without end": changed(at2="9" * 4_000),
    "a price in seven thousand digits": changed(at2="1e7000"),
    "a negative price": changed(at3="-1"),
    "high below low": changed(at2="0.5"),
    "an end before the beginning": changed(at6=5),
    "a number for a text": changed(at1=2.5),
}


class Liar:
    """Serves klines and aggTrades, and what the lie makes of them."""

    def __init__(self, lie: Lie, time_ms: int | None = None) -> None:
        self.lie, self.time_ms, self.requests = lie, time_ms, 0

    def answer(self, path: str) -> bytes:
        self.requests += 1
        split = urlsplit(path)
        asked = {name: int(values[0]) for name, values in parse_qs(split.query).items() if values[0].isdigit()}
        if split.path.endswith("/time"):
            return json.dumps({"serverTime": WallClock().now_ms() if self.time_ms is None else self.time_ms}).encode()
        rows = true_candles(asked) if split.path.endswith("klines") else true_trades(asked)
        return json.dumps(self.lie(rows, asked)).encode()


@contextmanager
def served(liar: Liar) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one go

        def do_GET(self) -> None:
            body = liar.answer(self.path)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def handle(self) -> None:
            with suppress(ConnectionError):  # it was left in the middle
                super().handle()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


async def taken(source: RestSource, wanted: Wanted, now_ms: int) -> AsyncGenerator[Fetched, None]:
    """All that it offers; nothing of it stays open."""
    try:
        for offer in source.offers(wanted, now_ms):
            pieces = source.fetch(wanted, offer, "job:1")
            assert isinstance(pieces, AsyncGenerator)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
    finally:
        await source.close()


async def told(liar: Liar, series: Series, hours: int = 12) -> tuple[Span, list[Fetched]]:
    """What is taken from it of some hours of yesterday, as far as it comes."""
    clock = WallClock()
    end_ms = clock.now_ms() // HOUR_MS * HOUR_MS - 6 * HOUR_MS
    span = Span(end_ms - hours * HOUR_MS, end_ms)
    found: list[Fetched] = []
    with served(liar) as address:
        source = open_rest(Access(um=address), clock)
        async with (
            aclosing(taken(source, Wanted(series=series, span=span), clock.now_ms())) as pieces,
            asyncio.timeout(20),
        ):
            with suppress(DataManagerError):  # as good an end as any
                found += [piece async for piece in pieces]
    return span, found


@pytest.mark.parametrize("name", LIES)
async def test_of_candles(name: str) -> None:
    liar = Liar(LIES[name])
    span, found = await told(liar, CANDLES)
    assert liar.requests <= (800 if name == "the first ones for ever" else REQUESTS_MAX), (
        "a short page is asked for its rest"
    )
    keys = [key for piece in found for key in piece.rows.key.tolist()]
    assert keys == sorted(set(keys)), "in order, each once"
    assert all(span.holds(key) and key % MINUTE_MS == 0 for key in keys)
    for piece in found:
        assert all(piece.span.holds(key) for key in piece.rows.key.tolist())
        assert set(piece.rows.columns["open"].values_list()) <= {"2"}, "only what the truth says"
        assert set(piece.rows.columns["high"].values_list()) <= {"3"}
    if name in ("backwards", "twice", "more than asked for"):
        assert len(keys) == 720, "all of it, however it came"


@pytest.mark.parametrize(
    "lie",
    [
        lambda rows, asked: rows[:90] * 9, lambda rows, asked: rows[::-1], lambda rows, asked: [],
        lambda rows, asked: [{**row, "a": row["a"] + (1 << 60)} for row in rows],
        lambda rows, asked: [{**row, "a": 5} for row in rows], lambda rows, asked: [{**row, "T": 1_600_000_000_000} for row in rows],
        lambda rows, asked: [{**row, "p": "-1"} for row in rows], lambda rows, asked: [{**row, "a": -row["a"]} for row in rows],
    ],
)  # fmt: skip
async def test_of_trades(lie: Lie) -> None:
    liar = Liar(lie)
    span, found = await told(liar, TRADES, hours=1)
    assert liar.requests <= REQUESTS_MAX
    for piece in found:
        assert all(span.holds(at) for at in piece.rows.time_ms.tolist())


@pytest.mark.parametrize("time_ms", [0, -5, 1 << 62, 99_999_999_999_999])
async def test_of_its_clock(time_ms: int) -> None:
    liar = Liar(lambda rows, asked: rows, time_ms)
    _, found = await told(liar, CANDLES)
    assert found == []
    assert liar.requests <= 6, "pages on their way"
