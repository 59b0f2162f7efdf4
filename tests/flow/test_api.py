"""The HTTP API as its callers meet it: a real server on a free port over a small true store."""

import asyncio
import base64
import csv
import io
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, cast

import httpx2
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from data_manager.api.app import Components, Limits, Readiness, create_app, metrics_app
from data_manager.api.negotiation import accepted_coding, accepted_format
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Conflict, Corrupt, Unavailable
from data_manager.domain.events import Depth, FundingRate, Number
from data_manager.domain.time import iso
from data_manager.ports import Records
from data_manager.services.answering.formats import FORMATS
from data_manager.services.answering.query import fetch, parse, words
from data_manager.services.conditions import Conditions
from tests.contract.rows import BASE_MS, batch_of, candle, liquidation, trade
from tests.memory import MemoryStore

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOW_MS = 1_700_000_500_000
SERVED = [dataset for dataset in DATASETS.values() if dataset.name != "metric"]
Json = dict[str, Any]


class StoppedClock:
    """Always the same instant."""

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FailingStore(MemoryStore):
    """A store whose reads end with the error given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def last(self, series: Series, n: int) -> Batch:
        raise self.error


class SilentStore(MemoryStore):
    """A store that never answers."""

    async def last(self, series: Series, n: int) -> Batch:
        await asyncio.Event().wait()
        return await super().last(series, n)


class CountingStore(MemoryStore):
    """A store that counts the questions it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Series] = []

    async def last(self, series: Series, n: int) -> Batch:
        self.asked.append(series)
        return await super().last(series, n)


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application, which runs under a real server in this event loop."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # named, so that asyncio turns Nagle's delay off
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve([listener]))
    port = listener.getsockname()[1]
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


async def no_facts() -> dict[str, Any]:
    return {"received": 0, "status": "healthy"}


@asynccontextmanager
async def api(
    store: MemoryStore,
    *,
    ready: Readiness | None = None,
    limits: Limits | None = None,
    market: str = "um",
    keep: bool = False,
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the API over that store. keep: the store tells versions, so that answers are kept."""

    async def readiness() -> Readiness:
        return ready or Readiness(ready=True, status="healthy", components={"store": "healthy"}, reasons=[])

    store.tells_versions = keep
    components = Components(
        store=store,
        meta=cast(Records, None),  # the routes that are asked here ask it nothing
        clock=StoppedClock(),
        market=market,
        version="9.9.9",
        readiness=readiness,
        registry=CollectorRegistry(),
        conditions=Conditions(cast(Records, None), StoppedClock()),  # never told anything
        desk=None,
        ingest=no_facts,
        databases=no_facts,
        connections=no_facts,
    )
    async with listening(create_app(components, limits)) as client:
        yield client


async def _filled() -> MemoryStore:
    """Trades 1 to 30 of BTCUSDT, a candle for each of 20 minutes but the 7th, and the open one."""
    filled = MemoryStore()
    await filled.append(batch_of([trade(number) for number in range(1, 31)]))
    await filled.append(batch_of([candle(minute, close=f"2.{minute:02d}") for minute in range(20) if minute != 7]))
    await filled.append(batch_of([candle(20, closed=False)]))
    return filled


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """Of one server for all tests that change nothing."""
    async with api(await _filled()) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shelf() -> AsyncIterator[tuple[httpx2.AsyncClient, MemoryStore]]:
    """One server for the tests that change something, and its store."""
    store = MemoryStore()
    async with api(store) as one:
        yield one, store


@pytest_asyncio.fixture(loop_scope="module")
async def store(shelf: tuple[httpx2.AsyncClient, MemoryStore]) -> MemoryStore:
    """The same rows, anew for each test, to be changed by it."""
    vars(shelf[1]).update(vars(await _filled()))
    return shelf[1]


@pytest.fixture
def own(shelf: tuple[httpx2.AsyncClient, MemoryStore], store: MemoryStore) -> httpx2.AsyncClient:
    """Of the server over that store."""
    return shelf[0]


async def get(client: httpx2.AsyncClient, path: str, **params: object) -> Json:
    """The JSON of a 200."""
    response = await client.get(path, params={name: str(value) for name, value in params.items()})
    assert response.status_code == 200, response.text
    return cast(Json, response.json())


async def ids(client: httpx2.AsyncClient, **params: object) -> list[int]:
    """Trade ids of BTCUSDT in the order of the answer."""
    return [row["trade_id"] for row in (await get(client, "/data/trades", pair="BTCUSDT", **params))["data"]]


def at(number: int) -> int:
    """When trade number happened."""
    return BASE_MS + 10 * number


def error_of(response: httpx2.Response, status: int) -> Json:
    """The one error body, checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error", "detail"}
    assert body["error"].keys() == {"code", "message", "field", "valid", "request_id"}
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    return cast(Json, body["error"])


# ---- shapes ----------------------------------------------------------------------------------------------------------


async def test_candles_have_the_shape_of_the_contract(client: httpx2.AsyncClient) -> None:
    body = await get(client, "/data/candles", pair="BTCUSDT", period="1m", limit=2)
    row = {
        "timestamp": iso(BASE_MS + 19 * 60_000), "open": "2", "high": "9.00", "low": "1", "close": "2.19", "volume": "10.5",
        "quote_volume": None, "trades_count": 7, "taker_buy_volume": None, "taker_buy_quote_volume": None,
    }  # fmt: skip
    assert body["values"] == body["data"]
    assert body["data"][1] == row
    assert (body["pair"], body["period"]) == ("BTCUSDT", "1m")
    assert body["metadata"] == {
        "data_completeness": None, "last_updated": row["timestamp"], "source": "memory",
        "collection": "candles_BTCUSDT_1m", "series": "um.candle.BTCUSDT.1m", "records_returned": 2,
    }  # fmt: skip
    assert body["parameters"] == {
        "pair": "BTCUSDT", "period": "1m", "start": None, "end": None, "limit": 2, "offset": 0, "sort_order": "asc",
    }  # fmt: skip
    assert body["sort"] == {"by": "timestamp", "order": "asc"}
    assert body["pagination"].pop("next_cursor")
    assert body["pagination"] == {"limit": 2, "offset": 0, "has_more": True, "has_next": True, "has_previous": False}


async def test_trades_and_funding_have_theirs(own: httpx2.AsyncClient, store: MemoryStore) -> None:
    rate = FundingRate(
        symbol="BTCUSDT",
        slot_ms=BASE_MS,
        rate_type="Regular",
        funding_ms=BASE_MS + 7,
        funding_rate=Number("-0.00010000"),
    )
    await store.append(batch_of([rate], "rest:fundingRate"))
    trades = await get(own, "/data/trades", pair="BTCUSDT", limit=1)
    assert "period" not in trades
    assert trades["values"] == [
        {"timestamp": iso(at(30)), "trade_id": 30, "price": "1.50", "quantity": "2", "side": "sell", "kind": "MARKET"}
    ]
    assert trades["metadata"]["collection"] == "trades_BTCUSDT"
    funding = await get(own, "/data/funding", pair="BTCUSDT")
    assert funding["metadata"]["collection"] == "funding_rates_BTCUSDT"
    assert funding["values"] == [
        {
            "timestamp": iso(BASE_MS), "funding_rate": "-0.00010000", "mark_price": None, "rate_type": "Regular",
            "funding_time": iso(BASE_MS + 7),
        }
    ]  # fmt: skip


async def test_depth_asked_for_a_pair_alone_is_the_newest_book(own: httpx2.AsyncClient, store: MemoryStore) -> None:
    empty = await get(own, "/data/depth", pair="ETHUSDT")
    assert empty["data"] == {"bids": [], "asks": [], "last_update_id": 0}
    assert empty["metadata"]["timestamp"] is None
    books = [
        Depth(
            symbol="BTCUSDT", update_id=number, event_ms=BASE_MS + number, clock="venue",
            bids=[(Number("1.10"), Number("3")), (Number("1.00"), Number("0.5"))], asks=[(Number(f"1.2{number}"), Number("7"))],
        )
        for number in range(3)
    ]  # fmt: skip
    await store.append(batch_of(books))
    assert await get(own, "/data/depth", pair="BTCUSDT") == {
        "pair": "BTCUSDT",
        "data": {
            "bids": [{"price": "1.10", "quantity": "3"}, {"price": "1.00", "quantity": "0.5"}],
            "asks": [{"price": "1.22", "quantity": "7"}],
            "last_update_id": 2,
        },
        "metadata": {
            "data_completeness": None, "timestamp": iso(BASE_MS + 2), "source": "memory",
            "collection": "depth_BTCUSDT", "series": "um.depth.BTCUSDT",
        },
        "coverage": [{
            "start_ms": BASE_MS + 2, "end_ms": BASE_MS + 3, "condition": "unverified",
            "reason": "the metadata store cannot tell",
        }],
        "parameters": {"pair": "BTCUSDT"},
    }  # fmt: skip
    listed = await get(own, "/data/depth", pair="BTCUSDT", limit=2)
    assert [row["update_id"] for row in listed["values"]] == [1, 2]
    assert listed["values"] == listed["data"]


@pytest.mark.parametrize("dataset", SERVED, ids=lambda dataset: dataset.name)
async def test_a_series_that_holds_nothing_is_answered_truthfully(client: httpx2.AsyncClient, dataset: Dataset) -> None:
    period = {"period": "1h"} if dataset.has_interval else {}
    body = await get(client, f"/data/{dataset.path}", pair="XYZUSDT", limit=5, **period)
    assert body["values"] == body["data"] == []
    assert body["metadata"]["last_updated"] is None
    assert body["metadata"]["data_completeness"] is None
    assert body["metadata"]["records_returned"] == 0
    assert body["pagination"]["has_more"] is False
    assert body["pagination"]["next_cursor"] is None


async def test_numbers_come_back_letter_for_letter(own: httpx2.AsyncClient, store: MemoryStore) -> None:
    texts = ["0.00000001", "12345678901234567890.5", "100", "1.0", "1.00", "1e-5", "007.5", "27999.90"]
    await store.append(batch_of([trade(100 + at, "ETHUSDT", price=text) for at, text in enumerate(texts)]))
    rows = (await get(own, "/data/trades", pair="ETHUSDT"))["data"]
    assert [row["price"] for row in rows] == texts


async def test_symbols_need_not_be_ascii(own: httpx2.AsyncClient, store: MemoryStore) -> None:
    await store.append(batch_of([trade(1, "币安人生USDT")]))
    body = await get(own, "/data/trades", pair="币安人生USDT")
    assert body["pair"] == "币安人生USDT"
    assert [row["trade_id"] for row in body["data"]] == [1]
    response = await own.get("/data/trades?format=csv&pair=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT")
    assert "um.trade.%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT.csv" in response.headers["content-disposition"]


async def test_the_open_candle_is_not_among_the_rows(client: httpx2.AsyncClient) -> None:
    rows = (await get(client, "/data/candles", pair="BTCUSDT", period="1m"))["data"]
    assert len(rows) == 19
    assert rows[-1]["timestamp"] == iso(BASE_MS + 19 * 60_000)


# ---- which rows, in which order --------------------------------------------------------------------------------------


async def test_without_start_the_newest_rows_ascending(client: httpx2.AsyncClient) -> None:
    assert await ids(client, limit=3) == [28, 29, 30]
    assert await ids(client, limit=3, sort_order="asc") == [28, 29, 30]
    assert await ids(client, limit=3, end=at(20)) == [17, 18, 19]  # end is exclusive
    assert await ids(client, limit=3, offset=2) == [26, 27, 28]
    assert await ids(client) == list(range(1, 31))


async def test_with_start_the_first_rows_from_there(client: httpx2.AsyncClient) -> None:
    assert await ids(client, limit=3, start=at(10)) == [10, 11, 12]  # start is inclusive
    assert await ids(client, limit=3, start=iso(at(10)), offset=1) == [11, 12, 13]
    assert await ids(client, start=at(10), end=at(13)) == [10, 11, 12]


async def test_descending_gives_the_newest_first(client: httpx2.AsyncClient) -> None:
    assert await ids(client, limit=3, sort_order="desc") == [30, 29, 28]
    assert await ids(client, limit=3, sort_order="DESC", start=at(10), end=at(20)) == [19, 18, 17]
    assert await ids(client, limit=3, sort_order="desc", offset=1, start=at(10)) == [29, 28, 27]


async def test_the_question_is_echoed_as_it_was_understood(client: httpx2.AsyncClient) -> None:
    body = await get(
        client,
        "/data/trades",
        pair="BTCUSDT",
        start="2023-11-14T23:14:00+01:00",
        end="2023-11-14 22:14:00.100",
        limit=7,
    )
    assert body["parameters"] == {
        "pair": "BTCUSDT", "start": "2023-11-14T22:14:00.000Z", "end": "2023-11-14T22:14:00.100Z", "limit": 7, "offset": 0,
        "sort_order": "asc",
    }  # fmt: skip


async def test_last_updated_is_the_newest_row_held_whatever_was_asked(client: httpx2.AsyncClient) -> None:
    for question in ({}, {"start": at(3), "limit": 2}, {"end": at(3)}, {"offset": 25}, {"start": at(500)}):
        body = await get(client, "/data/trades", pair="BTCUSDT", **question)
        assert body["metadata"]["last_updated"] == iso(at(30)), question


# ---- cursors ---------------------------------------------------------------------------------------------------------


async def pages(
    client: httpx2.AsyncClient, path: str, store: MemoryStore | None = None, **params: Any
) -> list[list[Json]]:
    """All pages, following the cursor; with a store, a trade arrives between each page and the next."""
    found, newest = [], 1_000
    body = await get(client, path, **params)
    while True:
        found.append(body["data"])
        cursor = body["pagination"]["next_cursor"]
        assert (cursor is not None) == body["pagination"]["has_more"]
        if cursor is None:
            return found
        if store is not None:
            newest += 1
            await store.append(batch_of([trade(newest)]))
        body = await get(client, path, **{**params, "cursor": cursor})
        assert body["pagination"]["has_previous"] is True


@pytest.mark.parametrize("limit", [1, 4, 10, 29, 30, 31])
async def test_pages_from_start_give_each_row_once(client: httpx2.AsyncClient, limit: int) -> None:
    found = await pages(client, "/data/trades", pair="BTCUSDT", start=at(1), limit=limit)
    assert [row["trade_id"] for page in found for row in page] == list(range(1, 31))


@pytest.mark.parametrize("limit", [1, 4, 10, 30])
async def test_pages_of_the_newest_go_back_and_are_not_shifted_by_new_rows(
    own: httpx2.AsyncClient, store: MemoryStore, limit: int
) -> None:
    found = await pages(own, "/data/trades", store, pair="BTCUSDT", limit=limit)
    assert all(page == sorted(page, key=lambda row: row["trade_id"]) for page in found)
    assert [row["trade_id"] for page in reversed(found) for row in page] == list(range(1, 31))


async def test_pages_descending(own: httpx2.AsyncClient, store: MemoryStore) -> None:
    found = await pages(own, "/data/trades", store, pair="BTCUSDT", sort_order="desc", limit=7, start=at(5), end=at(28))
    assert [row["trade_id"] for page in found for row in page] == list(range(27, 4, -1))


async def test_pages_from_start_reach_rows_that_came_meanwhile(own: httpx2.AsyncClient, store: MemoryStore) -> None:
    found = await pages(own, "/data/trades", store, pair="BTCUSDT", start=at(1), end=at(1_003), limit=10)
    assert [row["trade_id"] for page in found for row in page] == [*range(1, 31), 1_001, 1_002]


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("order", [{"sort_order": "desc"}, {}, {"start": BASE_MS}])
async def test_pages_may_end_between_rows_that_share_the_first_part_of_the_key(
    own: httpx2.AsyncClient, store: MemoryStore, limit: int, order: dict[str, Any]
) -> None:
    orders = [liquidation(second, quantity) for second in range(3) for quantity in ("1", "2", "3", "4")]
    await store.append(batch_of(orders))
    found = await pages(own, "/data/liquidations", pair="BTCUSDT", limit=limit, **order)
    assert max(map(len, found)) <= limit
    rows = [(row["timestamp"], row["quantity"]) for page in found for row in page]
    assert sorted(rows) == sorted((iso(one.traded_ms), one.quantity) for one in orders)


async def test_a_cursor_needs_no_more_than_the_pair(client: httpx2.AsyncClient) -> None:
    first = await get(client, "/data/trades", pair="BTCUSDT", start=at(5), end=at(15), limit=4)
    cursor = first["pagination"]["next_cursor"]
    assert await ids(client, cursor=cursor, limit=3) == [9, 10, 11]
    assert await ids(client, cursor=cursor) == list(range(9, 15))


async def test_a_cursor_is_refused_for_another_question(client: httpx2.AsyncClient) -> None:
    first = await get(client, "/data/trades", pair="BTCUSDT", start=at(5), limit=4)
    cursor = first["pagination"]["next_cursor"]
    for name, value in (("start", at(6)), ("end", at(9)), ("sort_order", "desc"), ("offset", 0), ("pair", "ETHUSDT")):
        params = {"pair": "BTCUSDT", "cursor": cursor, name: str(value)}
        assert error_of(await client.get("/data/trades", params=params), 422)["field"] == name
    params = {"pair": "BTCUSDT", "period": "1m", "cursor": cursor}
    assert error_of(await client.get("/data/candles", params=params), 422)["field"] == "pair"


# ---- bad questions ---------------------------------------------------------------------------------------------------

BAD = [
    ("", "pair"),
    ("pair=", "pair"),
    ("pair=../x", "pair"),
    ("pair=..%2F..%2Fetc%2Fpasswd", "pair"),
    ("pair=BTC%00USDT", "pair"),
    ("pair=BTCUSDT%0d%0aSet-Cookie:x", "pair"),
    ("pair=%FF%FE", "pair"),
    ("pair=" + "A" * 10_000, "pair"),
    ("pair=BTCUSDT_PERP", "pair"),
    ("pair=BTCUSDT&pair=ETHUSDT", "pair"),
    ("pair=BTCUSDT&period=1m", "period"),
    ("pair=BTCUSDT&limit=0", "limit"),
    ("pair=BTCUSDT&limit=-1", "limit"),
    ("pair=BTCUSDT&limit=abc", "limit"),
    ("pair=BTCUSDT&limit=1001", "limit"),
    ("pair=BTCUSDT&limit=1.5", "limit"),
    ("pair=BTCUSDT&limit=1e2", "limit"),
    ("pair=BTCUSDT&limit=NaN", "limit"),
    ("pair=BTCUSDT&limit=%D9%A1%D9%A2", "limit"),
    ("pair=BTCUSDT&limit=" + "9" * 400, "limit"),
    ("pair=BTCUSDT&offset=-1", "offset"),
    ("pair=BTCUSDT&offset=99999999999", "offset"),
    ("pair=BTCUSDT&start=NaN", "start"),
    ("pair=BTCUSDT&start=", "start"),
    ("pair=BTCUSDT&start=1700000000", "start"),
    ("pair=BTCUSDT&start=1700000000000000", "start"),
    ("pair=BTCUSDT&start=2023-02-30", "start"),
    ("pair=BTCUSDT&start=" + "1" * 500, "start"),
    ("pair=BTCUSDT&end=tomorrow", "end"),
    ("pair=BTCUSDT&start=2023-11-15&end=2023-11-14", "start"),
    ("pair=BTCUSDT&start=2023-11-15&end=2023-11-15", "start"),
    ("pair=BTCUSDT&sort_order=sideways", "sort_order"),
    ("pair=BTCUSDT&cursor=", "cursor"),
    ("pair=BTCUSDT&cursor=x", "cursor"),
    ("pair=BTCUSDT&cursor=%2B%2F%2F", "cursor"),
    ("pair=BTCUSDT&cursor=kwABAg", "cursor"),
    ("pair=BTCUSDT&cursor=币", "cursor"),
    ("pair=BTCUSDT&cursor=" + "A" * 600, "cursor"),
    ("pair=BTCUSDT&format=xml", "format"),
    ("pair=BTCUSDT&limits=5", "limits"),
    ("pair=BTCUSDT&symbol=BTCUSDT", "symbol"),
    ("pair=BTCUSDT&" + "x" * 3_000 + "=1", "x" * 64),
]


@pytest.mark.parametrize(("query", "field"), BAD, ids=[query[:40] or "nothing" for query, _ in BAD])
async def test_a_bad_parameter_is_named_with_what_would_be_valid(
    client: httpx2.AsyncClient, query: str, field: str
) -> None:
    error = error_of(await client.get(f"/data/trades?{query}"), 414 if len(query) > 8_192 else 422)
    if len(query) <= 8_192:
        assert (error["code"], error["field"]) == ("bad_query", field)
        assert error["valid"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize("period", ["2m", "1M1", "1H", "60", "", "1m "])
async def test_an_unknown_period_is_answered_with_the_known_ones(client: httpx2.AsyncClient, period: str) -> None:
    response = await client.get("/data/candles", params={"pair": "BTCUSDT", "period": period})
    error = error_of(response, 422)
    assert error["field"] == "period"
    assert "1m" in error["valid"]
    assert "1M" in error["valid"]


async def test_a_minute_is_not_a_month(client: httpx2.AsyncClient) -> None:
    assert (await get(client, "/data/candles", pair="BTCUSDT", period="1m"))["data"]
    assert (await get(client, "/data/candles", pair="BTCUSDT", period="1M"))["data"] == []


async def test_a_symbol_in_small_letters_is_answered_with_the_capital_one(client: httpx2.AsyncClient) -> None:
    error = error_of(await client.get("/data/trades?pair=btcusdt"), 422)
    assert "BTCUSDT" in error["valid"]


async def test_an_unknown_parameter_is_answered_with_the_known_ones(client: httpx2.AsyncClient) -> None:
    error = error_of(await client.get("/data/trades?pair=BTCUSDT&limt=5"), 422)
    assert error["field"] == "limt"
    assert all(word in error["valid"] for word in (*words(DATASETS["trade"]), "format"))


async def test_another_market_has_other_symbols() -> None:
    async with api(MemoryStore(), market="cm") as client:
        assert (await get(client, "/data/trades", pair="BTCUSD_PERP"))["metadata"]["series"] == "cm.trade.BTCUSD_PERP"
        assert error_of(await client.get("/data/trades?pair=BTCUSDT"), 422)["field"] == "pair"


async def test_the_largest_page_is_a_setting(store: MemoryStore) -> None:
    async with api(store, limits=Limits(rows_max=5)) as client:
        assert await ids(client) == [26, 27, 28, 29, 30]
        assert error_of(await client.get("/data/trades?pair=BTCUSDT&limit=6"), 422)["valid"].endswith("1 to 5")


_TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", "1", "-1", "NaN", "1700000040000", "2023-11-14", "asc", "BTCUSDT", "1m"]
)


def _packed(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).rstrip(b"=").decode()


_INTS = st.integers(-(2**63), 2**64 - 1)
_CURSORS = st.tuples(
    st.sampled_from(["um.trade.BTCUSDT", "x"]), st.none() | _INTS, st.none() | _INTS, st.booleans(), _INTS, _INTS
).map(_packed)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(words(DATASETS["candle"])), _TEXTS), st.none() | _CURSORS)
async def test_any_words_are_a_question_or_a_bad_one(named: dict[str, str], cursor: str | None) -> None:
    asked = {"pair": "BTCUSDT", **named} if cursor is None else {"pair": "BTCUSDT", "cursor": cursor}
    for dataset in (DATASETS["trade"], DATASETS["candle"]):
        try:
            query = parse(dataset, "um", asked)
            page = await fetch(MemoryStore(), query)
        except BadQuery as why:
            assert why.field
            assert why.rule
        else:
            assert len(page.rows) == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text("abc/*;q=.,0159 ", max_size=40).map(str.encode))
async def test_any_accept_header_has_an_answer(header: bytes) -> None:
    assert accepted_format(header) is None or accepted_format(header) in FORMATS.values()
    assert accepted_coding(header) in (None, "gzip", "zstd")


# ---- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["format", "accept"])
async def test_every_format_agrees_with_json(client: httpx2.AsyncClient, how: str) -> None:
    asked = {"pair": "BTCUSDT", "period": "1m", "start": str(BASE_MS), "limit": "8"}
    want = await get(client, "/data/candles", **asked)
    for form in FORMATS.values():
        if how == "format":
            response = await client.get("/data/candles", params={**asked, "format": form.name})
        else:
            response = await client.get("/data/candles", params=asked, headers={"Accept": form.media_type})
        assert response.status_code == 200
        assert response.headers["content-type"] == form.media_type
        assert _rows(form.name, response.content) == _rows("json", json.dumps(want).encode())
        if form.name != "json":
            assert response.headers["x-next-cursor"] == want["pagination"]["next_cursor"]
            assert f"um.candle.BTCUSDT.1m.{form.suffix}" in response.headers["content-disposition"]


def _rows(form: str, body: bytes) -> list[list[Any]]:
    """Times as text, numbers as decimals, absent as None: the same for every format."""
    if form == "json":
        rows = [list(row.values()) for row in json.loads(body)["data"]]
    elif form == "ndjson":
        rows = [list(json.loads(line).values()) for line in body.splitlines()]
    elif form == "csv":
        rows = [[cell or None for cell in row] for row in list(csv.reader(io.StringIO(body.decode())))[1:]]
    else:
        table = pa.ipc.open_stream(body).read_all() if form == "arrow" else pq.read_table(io.BytesIO(body))
        rows = [list(row.values()) for row in table.to_pylist()]
        rows = [[f"{row[0]:%Y-%m-%dT%H:%M:%S}.{row[0].microsecond // 1000:03d}Z", *row[1:]] for row in rows]
    return [[row[0], *(None if cell is None else Decimal(cell) for cell in row[1:])] for row in rows]


@pytest.mark.parametrize(
    ("accept", "got"),
    [
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV; header=present", "text/csv"),
        ("text/*", "text/csv"),
        ("application/json;q=0.1, application/x-ndjson", "application/x-ndjson"),
        ("application/json;q=0, */*", "application/x-ndjson"),
        ("application/vnd.apache.parquet;q=0.5, text/csv;q=0.4", "application/vnd.apache.parquet"),
    ],
)
async def test_accept_is_honoured(client: httpx2.AsyncClient, accept: str, got: str) -> None:
    response = await client.get("/data/trades?pair=BTCUSDT", headers={"Accept": accept})
    assert response.headers["content-type"] == got


async def test_an_accept_that_names_none_of_ours_is_406(client: httpx2.AsyncClient) -> None:
    response = await client.get("/data/trades?pair=BTCUSDT", headers={"Accept": "image/png"})
    assert "text/csv" in error_of(response, 406)["message"]
    assert (
        await client.get("/data/trades?pair=BTCUSDT&format=csv", headers={"Accept": "image/png"})
    ).status_code == 200


@pytest.mark.parametrize(
    ("codings", "got"),
    [
        ("gzip", "gzip"),
        ("gzip, zstd", "zstd"),
        ("zstd;q=0, gzip", "gzip"),
        ("identity", None),
        ("br", None),
        ("*", "zstd"),
    ],
)
async def test_a_large_body_is_compressed_as_the_caller_can_take(
    client: httpx2.AsyncClient, codings: str, got: str | None
) -> None:
    plain = await client.get("/data/trades?pair=BTCUSDT", headers={"Accept-Encoding": "identity"})
    async with client.stream("GET", "/data/trades?pair=BTCUSDT", headers={"Accept-Encoding": codings}) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.headers.get("content-encoding") == got
    assert "Accept-Encoding" in response.headers["vary"]
    assert response.headers["etag"] == plain.headers["etag"]
    if got == "gzip":
        assert len(raw) < len(plain.content) / 4
        assert (
            await client.get("/data/trades?pair=BTCUSDT", headers={"Accept-Encoding": codings})
        ).content == plain.content
    elif got == "zstd":
        assert pa.decompress(raw, len(plain.content), "zstd", asbytes=True) == plain.content
    else:
        assert raw == plain.content


@pytest.mark.parametrize("keep", [False, True])
async def test_an_unchanged_answer_is_304(store: MemoryStore, keep: bool) -> None:
    async with api(store, keep=keep) as client:
        first = await client.get("/data/trades?pair=BTCUSDT&limit=5")
        etag = first.headers["etag"]
        for held in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
            again = await client.get("/data/trades?pair=BTCUSDT&limit=5", headers={"If-None-Match": held})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        await store.append(batch_of([trade(31)]))
        changed = await client.get("/data/trades?pair=BTCUSDT&limit=5", headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag


async def test_a_heavy_answer_is_written_beside_the_loop_and_is_the_same(store: MemoryStore) -> None:
    levels = [(Number(f"{1_000 - step}.5"), Number("1")) for step in range(1_000)]
    books = [
        Depth(symbol="BTCUSDT", update_id=number, event_ms=BASE_MS + number, clock="venue", bids=levels, asks=levels)
        for number in range(1, 10)
    ]
    await store.append(batch_of(books))
    async with api(store, limits=Limits(rows_max=10_000)) as client:
        body = await get(client, "/data/depth", pair="BTCUSDT", limit=10_000)
    assert [row["update_id"] for row in body["data"]] == list(range(1, 10))
    assert all(len(row["bids"]) == 1_000 for row in body["values"])


async def test_kept_answers_are_asked_once_and_never_stale() -> None:
    store = CountingStore()
    await store.append(batch_of([trade(1)]))
    async with api(store, keep=True) as client:
        assert await ids(client) == await ids(client) == [1]
        assert len(store.asked) == 1
        await store.append(batch_of([trade(2)]))
        assert await ids(client) == [1, 2]
        assert await ids(client, sort_order="desc") == [2, 1]
        assert len(store.asked) == 3
        assert (await client.get("/data/trades?pair=BTCUSDT&format=csv")).text.count("\n") == 3
        assert await ids(client, sort_order="desc") == [2, 1]
        assert len(store.asked) == 4


async def test_kept_answers_stay_within_their_bytes() -> None:
    store = CountingStore()
    async with api(store, keep=True, limits=Limits(cache_bytes=5_000)) as client:
        for limit in (1, 2, 3, 4, 1, 4):
            await ids(client, limit=limit)
    assert len(store.asked) == 5  # the first was forgotten, the last was not


# ---- errors of ours --------------------------------------------------------------------------------------------------


async def test_a_store_that_is_away_is_503_with_retry_after() -> None:
    async with api(FailingStore(Unavailable("mongodb://user:secret@host is away", retry_after_s=2.5))) as client:
        response = await client.get("/data/trades?pair=BTCUSDT")
        assert error_of(response, 503)["code"] == "unavailable"
        assert response.headers["retry-after"] == "3"
        assert "secret" not in response.text


async def test_a_store_that_never_answers_is_503_too() -> None:
    async with api(SilentStore(), limits=Limits(query_timeout_s=0.05)) as client:
        assert error_of(await client.get("/data/trades?pair=BTCUSDT"), 503)["code"] == "unavailable"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Corrupt("chunk 7 of /data/x"), 500, "corrupt"),
        (Conflict("busy"), 409, "conflict"),
        (RuntimeError("7"), 500, "internal"),
    ],
)
async def test_an_error_tells_its_request_id_and_no_more(error: Exception, status: int, code: str) -> None:
    async with api(FailingStore(error)) as client:
        response = await client.get("/data/trades?pair=BTCUSDT", headers={"X-Request-ID": "mine-1"})
        assert error_of(response, status)["code"] == code
        assert response.headers["x-request-id"] == "mine-1"
        assert status != 500 or str(error) not in response.text
        assert (await client.get("/health/liveness")).status_code == 200
        assert (
            sum(_samples((await client.get("/metrics")).text, "data_manager_requests_total", status_code=str(status)))
            == 1
        )


LATER = [
    "/data/metrics",
    "/catalog/datasets",
    "/backfill/nothing",
    "/analysis/volatility",
    "/anomalies/anomalies",
    "/stream",
]


@pytest.mark.parametrize("path", [*LATER, "/data", "/data/", "/nothing%00", "/data/trades/1"])
async def test_what_does_not_exist_is_404(client: httpx2.AsyncClient, path: str) -> None:
    assert error_of(await client.get(path), 404)["code"] == "not_found"


@pytest.mark.parametrize("path", ["/metrics/", "/data/trades/?pair=BTCUSDT", "/health/liveness/"])
async def test_a_slash_at_the_end_changes_nothing(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path, follow_redirects=False)).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_written(client: httpx2.AsyncClient, method: str) -> None:
    response = await client.request(method, "/data/trades", content=b"{}")
    assert error_of(response, 405)["valid"] == "GET"
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize("given", ["bad id", "x" * 65, 'a"b', "ü", ""])
async def test_a_request_id_no_log_should_hold_is_replaced(client: httpx2.AsyncClient, given: str) -> None:
    response = await client.get("/health/liveness", headers={b"X-Request-ID": given.encode()})
    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])


# ---- the service itself ----------------------------------------------------------------------------------------------


async def test_programs_get_json_at_the_root_and_browsers_a_page(client: httpx2.AsyncClient) -> None:
    want = {"service": "petrosa-data-manager", "version": "9.9.9", "status": "operational"}
    assert await get(client, "/") == want
    page = await client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["location"]) == (307, "/docs")
    assert "text/html" in (await client.get("/docs")).headers["content-type"]


async def test_liveness_asks_nobody(client: httpx2.AsyncClient) -> None:
    assert await get(client, "/health/liveness") == {"status": "ok", "timestamp": iso(NOW_MS), "version": "9.9.9"}


async def test_readiness_tells_the_truth_in_body_and_status(store: MemoryStore) -> None:
    async with api(store) as client:
        assert await get(client, "/health/readiness") == {
            "ready": True, "status": "healthy", "components": {"store": "healthy"}, "timestamp": iso(NOW_MS), "reasons": [],
        }  # fmt: skip
    why = Readiness(ready=False, status="unhealthy", components={"nats": "unhealthy"}, reasons=["nats is not there"])
    async with api(store, ready=why) as client:
        response = await client.get("/health/readiness")
        assert response.status_code == 503
        assert response.json()["reasons"] == ["nats is not there"]
        assert response.json()["status"] == "unhealthy"


def _samples(text: str, name: str, **labels: str) -> list[float]:
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


async def test_metrics_count_requests_by_route_and_never_by_what_callers_write(store: MemoryStore) -> None:
    async with api(store) as client:
        await client.get("/data/trades?pair=BTCUSDT")
        await client.get("/data/trades?pair=nope")
        await client.get("/secret/path")
        await client.get("/docs")
        response = await client.get("/metrics", follow_redirects=False)
        assert response.status_code == 200
        route = {"method": "GET", "endpoint": "/data/trades"}
        assert _samples(response.text, "data_manager_requests_total", **route, status_code="200") == [1]
        assert _samples(response.text, "data_manager_requests_total", **route, status_code="422") == [1]
        assert _samples(response.text, "data_manager_request_duration_seconds_count", **route) == [2]
        assert _samples(response.text, "data_manager_response_size_bytes_count", **route) == [2]
        assert _samples(response.text, "data_manager_requests_total", endpoint="unmatched") == [1]
        assert "secret" not in response.text


async def test_the_metrics_port_serves_the_same_and_nothing_else() -> None:
    async with listening(metrics_app(CollectorRegistry())) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405


async def test_head_is_get_without_the_body(client: httpx2.AsyncClient) -> None:
    head, whole = await client.head("/data/trades?pair=BTCUSDT"), await client.get("/data/trades?pair=BTCUSDT")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == whole.headers["etag"]


async def test_any_origin_may_read(client: httpx2.AsyncClient) -> None:
    origin = {"Origin": "https://example.org"}
    response = await client.get("/data/trades?pair=BTCUSDT", headers=origin)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "x-next-cursor" in response.headers["access-control-expose-headers"]
    preflight = await client.options("/data/trades", headers={**origin, "Access-Control-Request-Method": "GET"})
    assert preflight.status_code == 204
    assert "POST" not in preflight.headers["access-control-allow-methods"]


async def test_openapi_describes_every_route_and_dataset(client: httpx2.AsyncClient) -> None:
    api = await get(client, "/openapi.json")
    assert api["info"]["title"] == "Petrosa Data Manager API"
    health = {f"/health/{name}" for name in ("liveness", "readiness", "ingest", "databases", "connections")}
    others = {"/", *health, "/dead-letters", "/dead-letters/{letter_id}/payload", "/metrics"}
    assert api["paths"].keys() >= others | {f"/data/{dataset.path}" for dataset in SERVED}
    for dataset in SERVED:
        route = api["paths"][f"/data/{dataset.path}"]["get"]
        assert [one["name"] for one in route["parameters"]] == [*words(dataset), "format"]
        assert dataset.description in route["summary"]
        assert route["responses"].keys() >= {"200", "304", "406", "422", "503"}
        assert route["responses"]["200"]["content"].keys() == {form.media_type for form in FORMATS.values()}


@pytest.mark.parametrize("dataset", SERVED, ids=lambda dataset: dataset.name)
async def test_answers_are_as_openapi_says(client: httpx2.AsyncClient, dataset: Dataset) -> None:
    api = await get(client, "/openapi.json")
    answer = api["paths"][f"/data/{dataset.path}"]["get"]["responses"]["200"]["content"]["application/json"]
    schema = answer["schema"]["oneOf"][0] if "oneOf" in answer["schema"] else answer["schema"]
    period = {"period": "1m"} if dataset.has_interval else {}
    body = await get(client, f"/data/{dataset.path}", pair="BTCUSDT", limit=3, **period)
    for told in (answer["example"], body):
        _conforms(told, schema)


def _conforms(value: Any, schema: Mapping[str, Any]) -> None:
    """As much of JSON Schema as our documents use."""
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": float,
        "null": type(None),
    }
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert isinstance(value, tuple(types[name] for name in names)), (value, schema)
    if isinstance(value, dict) and "properties" in schema:
        assert value.keys() == schema["properties"].keys()
        for name, part in value.items():
            _conforms(part, schema["properties"][name])
    if isinstance(value, list) and "items" in schema:
        for part in value:
            _conforms(part, schema["items"])
    if "enum" in schema:
        assert value in schema["enum"]
