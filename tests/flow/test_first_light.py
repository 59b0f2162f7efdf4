"""A recorded trade travels from the bus to the disk and back out over HTTP: the real process, nats-server and HTTP.

What must come back is computed from the recordings by tests/truth.py, with nothing of ours.
"""

import asyncio
import csv
import gzip
import io
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.store.readonly import ReadOnlyStore
from tests.conftest import eventually
from tests.servers import free_port, running_server
from tests.service import Service, connected, dead_letters, drained, feed, publish, running, running_for_many
from tests.truth import (
    COINM,
    SPOT,
    USDM,
    Line,
    iso,
    lines_of,
    parsed,
    path_of,
    paths_of,
    readme_counts,
    rows_of,
)

PATHS = {
    "trade": "/data/trades", "agg_trade": "/data/agg_trades", "candle": "/data/candles", "mark_price": "/data/mark_prices",
    "book_ticker": "/data/book_tickers", "depth_update": "/data/depth_updates",
}  # fmt: skip
FIRST_FOUR = USDM[:4]  # the captures of 2021 and 2023: 53,314 messages


class Replayed(NamedTuple):
    """A service that was fed, its bus, and the rows it has to hold."""

    service: Service
    url: str
    rows: dict[str, list[str]]

    def of(self, dataset: str) -> dict[str, list[str]]:
        """The expected rows of one dataset, by series."""
        return {series: rows for series, rows in self.rows.items() if series.split(".")[1] == dataset}


def words(series: str) -> dict[str, str]:
    """How a query names a series: um.candle.BTCUSDT.1m."""
    _, _, pair, *period = series.split(".")
    return {"pair": pair, **({"period": period[0]} if period else {})}


def path(series: str) -> str:
    return PATHS[series.split(".")[1]]


async def held(service: Service) -> list[str]:
    """Ids of all series, as another process finds them in the store."""
    store = ReadOnlyStore(service.data_dir, 1 << 20)
    try:
        return [series.id for series in await store.series()]
    finally:
        await store.close()


async def wait_for(url: str, service: Service) -> None:
    async with connected(url) as client:
        await drained(client, service)


@pytest.fixture(scope="module")
def usdm(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    """`data-manager run`, and all USDⓈ-M captures replayed to it by `data-manager replay`, as the README says."""
    port = free_port()
    service = Service(tmp_path_factory.mktemp("usdm"), command="run", nats_own_port=port)
    url = f"nats://127.0.0.1:{port}"
    with running_for_many(service):
        service.command("replay", *paths_of(recordings, "um"), "--nats-url", url, "--speed", "max")
        rows = rows_of(lines_of(*paths_of(recordings, "um")))
        asyncio.run(wait_for(url, service))
        yield Replayed(service, url, rows)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A bus for all services of this file that bring none; each has a subject and a stream of its own."""
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(scope="module")
def um(server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of market um for messages made by hand; every test uses symbols or datasets of its own."""
    with running_for_many(Service(tmp_path_factory.mktemp("um"), nats_url=server.url)) as one:
        yield one


# ---- every event once, with the venue's text -----------------------------------------------------------------------


def test_all_that_was_recorded_was_new_once(usdm: Replayed, recordings: Path) -> None:
    counts: dict[str, int] = {}
    for name in USDM:
        for dataset, count in readme_counts(recordings, "um", name).items():
            counts[dataset] = counts.get(dataset, 0) + count
    figures = usdm.service.figures()
    figures.require_law()
    assert figures.of("messages_received_total", event_type="raw") == sum(counts.values()) == 221_921
    klines, counts["candle"] = counts["candle"], 4
    assert {dataset: sum(map(len, usdm.of(dataset).values())) for dataset in PATHS} == counts
    assert figures.of("rows_new_total") == sum(counts.values())
    assert figures.of("rows_changed_total") + figures.of("rows_duplicate_total") == klines - 4  # open candles
    assert figures.of("messages_failed_total") == figures.of("events_dropped_total") == 0


async def test_there_is_no_series_but_those_recorded(usdm: Replayed) -> None:
    assert await held(usdm.service) == sorted(usdm.rows)


@pytest.mark.parametrize("dataset", ["trade", "agg_trade", "candle", "mark_price"])
def test_every_row_comes_back_over_http(usdm: Replayed, dataset: str) -> None:
    expected = usdm.of(dataset)
    assert expected
    for series, rows in expected.items():
        assert usdm.service.rows(path(series), **words(series)) == parsed(rows), series


@pytest.mark.parametrize("dataset", ["book_ticker", "depth_update"])
def test_every_book_row_comes_back_page_by_page(usdm: Replayed, dataset: str) -> None:
    expected = {series: rows for series, rows in usdm.of(dataset).items() if len(rows) < 5_000}
    assert len(expected) == 8
    for series, rows in expected.items():
        assert usdm.service.lines(path(series), **words(series)) == rows, series


@pytest.mark.parametrize("series", ["um.book_ticker.BTCUSDT", "um.book_ticker.ETHUSDT", "um.depth_update.BTCUSDT"])
def test_every_row_of_the_largest_series_comes_back_by_query(usdm: Replayed, series: str) -> None:
    printed = usdm.service.command("query", series, "--limit", 1_000_000, "--format", "ndjson")
    assert printed.decode().splitlines() == usdm.rows[series]


@pytest.mark.parametrize(("series", "limit"), [("um.trade.ETHUSDT", 1_000_000), ("um.depth_update.ETHUSDT", 300)])
def test_arrow_holds_the_same_numbers(usdm: Replayed, series: str, limit: int) -> None:
    printed = usdm.service.command("query", series, "--limit", limit, "--format", "arrow")
    table = pa.ipc.open_stream(io.BytesIO(printed)).read_all()
    expected = parsed(usdm.rows[series][-limit:])
    assert [_plain(row) for row in table.to_pylist()] == [_plain(row) for row in expected]


def _plain(value: Any) -> Any:
    """Times as text, numbers as Decimal: a form that both Arrow's and JSON's values have."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if hasattr(value, "timestamp"):
        return iso(round(value.timestamp() * 1000))
    return Decimal(value) if isinstance(value, str) and re.fullmatch(r"-?[\d.]+", value) else value


# ---- twice, shuffled, in another form, after a restart ---------------------------------------------------------------


async def test_a_second_replay_adds_nothing_and_is_counted_as_duplicates(usdm: Replayed, recordings: Path) -> None:
    """The captures of 2021 and 2023 again, this time as bare messages."""
    files = paths_of(recordings, "um", FIRST_FOUR)
    before = usdm.service.figures()
    said = usdm.service.command("replay", *files, "--nats-url", usdm.url, "--raw", "--json")
    await wait_for(usdm.url, usdm.service)
    after = usdm.service.figures()
    messages = json.loads(said)["messages"]
    assert messages == 53_314
    after.require_law()
    for name in ("rows_new_total", "rows_changed_total", "messages_failed_total", "events_dropped_total"):
        assert after.of(name) == before.of(name), name
    assert after.of("rows_duplicate_total") == before.of("rows_duplicate_total") + messages
    trades = usdm.service.lines("/data/trades", pair="BTCUSDT")
    assert trades == usdm.rows["um.trade.BTCUSDT"]


def values(service: Service, series: str, **query: object) -> list[bytes]:
    """The bytes of `values` of every page of a series."""
    pages: list[bytes] = []
    while True:
        answer = service.get(path(series), **words(series), limit=1_000, **query)
        assert answer.status_code == 200, answer.text
        body = answer.content
        pages.append(body[body.index(b'"values":') : body.index(b',"data":')])
        cursor = answer.json()["pagination"]["next_cursor"]
        if cursor is None:
            return pages
        query["cursor"] = cursor


async def test_a_shuffled_replay_gives_byte_identical_answers(
    usdm: Replayed, server: NatsServer, recordings: Path, tmp_path: Path
) -> None:
    seed = 20_230_404
    lines = list(lines_of(*paths_of(recordings, "um", FIRST_FOUR[:3])))
    random.Random(seed).shuffle(lines)
    before: dict[str, object] = {"start": "2021-01-01", "end": iso(max(line.data["E"] for line in lines) + 1)}
    async with running(Service(tmp_path, nats_url=server.url)) as service:
        await feed(server.url, service, [line.message for line in lines])
        service.figures().require_law()
        expected = rows_of(lines)
        assert await held(service) == sorted(expected)
        for series in expected:
            ordered = values(usdm.service, series, **before)
            assert values(service, series, **before) == ordered, (series, f"seed {seed}")
            assert sum(page.count(b'"timestamp"') for page in ordered) == len(expected[series])


async def test_enveloped_bare_and_combined_messages_give_the_same_rows(
    server: NatsServer, recordings: Path, tmp_path: Path
) -> None:
    lines = list(lines_of(path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")))
    expected = rows_of(lines)
    async with AsyncExitStack() as stack:
        for form in ("enveloped", "bare", "message"):
            service = Service(tmp_path / form, nats_url=server.url)
            await stack.enter_async_context(running(service))
            await feed(server.url, service, [getattr(line, form) for line in lines])
            assert await held(service) == sorted(expected)
            for series, rows in expected.items():
                assert service.lines(path(series), **words(series)) == rows, (form, series)


async def test_a_restart_in_the_middle_loses_nothing_and_repeats_nothing(
    server: NatsServer, recordings: Path, tmp_path: Path
) -> None:
    """2023-04-05_part1; SIGTERM comes while messages arrive."""
    lines = list(lines_of(path_of(recordings, "um", "2023-04-05_btcusdt_part1")))
    payloads = [line.message for line in lines]
    service = Service(tmp_path, nats_url=server.url, nats_ack_wait_s=8)  # the server may have sent some into the void
    async with running(service), connected(server.url) as client:
        publishing = asyncio.create_task(publish(client, service.subject, payloads))
        await eventually(lambda: service.figures().of("rows_new_total") > 2_000)
        assert await service.stop() < 5.0
        first = await _count(service)
        assert 0 < first < len(lines), "the stop did not come in the middle"
        await publishing
        await service.start()
        await drained(client, service)
        figures = service.figures()
        figures.require_law()
        assert figures.of("rows_duplicate_total") == 0, "what was stored before the stop came again"
        assert figures.of("rows_new_total") == len(lines) - first
        for series, rows in rows_of(lines).items():
            assert service.lines(path(series), **words(series)) == rows, series
        assert await service.stop() < 5.0


async def _count(service: Service) -> int:
    store = ReadOnlyStore(service.data_dir, 1 << 20)
    try:
        return sum([await store.count(series) for series in await store.series()])
    finally:
        await store.close()


# ---- what is odd in the recordings -----------------------------------------------------------------------------------


def test_event_time_going_backwards_across_streams_loses_nothing(usdm: Replayed, recordings: Path) -> None:
    """2024-08-08_btcusdt: 6,358 messages are older than one already seen. 2023-04-05_part1: every mark price is late."""
    late = list(_late(lines_of(path_of(recordings, "um", "2024-08-08_btcusdt"))))
    assert len(late) == 6_358
    trades = {row for rows in rows_of(line for line in late if line.data["e"] == "trade").values() for row in rows}
    assert trades
    assert trades <= set(usdm.service.lines("/data/trades", pair="BTCUSDT", start="2024-08-08"))
    marks = [
        line
        for line in _late(lines_of(path_of(recordings, "um", "2023-04-05_btcusdt_part1")))
        if line.data["e"] == "markPriceUpdate"
    ]
    assert len(marks) > 190
    assert set(rows_of(marks)["um.mark_price.BTCUSDT"]) <= set(usdm.service.lines("/data/mark_prices", pair="BTCUSDT"))


def _late(lines: Iterator[Line]) -> Iterator[Line]:
    newest = 0
    for line in lines:
        if line.data["E"] < newest:
            yield line
        newest = max(newest, line.data["E"])


async def test_a_receive_clock_behind_the_exchange_changes_no_time(
    usdm: Replayed, um: Service, server: NatsServer, recordings: Path
) -> None:
    """2024-08-08_ethusdt: the recorder's clock is 1.27 s behind. And a trade of it, re-dated to lie ahead of our own."""
    lines = list(lines_of(path_of(recordings, "um", "2024-08-08_ethusdt")))
    assert all(1_200 < line.data["E"] - line.recv_ns / 1e6 < 1_300 for line in lines)
    trades = [line for line in lines if line.data["e"] == "trade"]
    found = usdm.service.rows("/data/trades", pair="ETHUSDT")
    assert [row["timestamp"] for row in found] == [iso(line.data["T"]) for line in trades]
    ahead_ms = time.time_ns() // 1_000_000 + 60_000
    redated = {**trades[0].data, "s": "AHEADUSDT", "E": ahead_ms, "T": ahead_ms - 2}
    await feed(server.url, um, [json.dumps(redated).encode()])
    assert [row["timestamp"] for row in um.rows("/data/trades", pair="AHEADUSDT")] == [iso(ahead_ms - 2)]
    assert -61 < um.figures().of("lag_seconds") < -50
    assert um.get("/health/readiness").status_code == 200


async def test_placeholder_trades_are_kept_as_what_they_are(um: Service, server: NatsServer, recordings: Path) -> None:
    """trades_TRXUSDT_2025-03-04.csv: its rows as the messages they were; id 548331095 has price 0 and (on the wire) X=NA."""
    with gzip.open(recordings / "binance_futures" / "csv" / "trades_TRXUSDT_2025-03-04.csv.gz", "rt") as file:
        table = list(csv.DictReader(file))
    at = next(number for number, row in enumerate(table) if row["TradeId"] == "548331095")
    rows = table[at - 50 : at + 50]
    await feed(server.url, um, [json.dumps(_as_message(row)).encode() for row in rows])
    found = {row["trade_id"]: row for row in um.rows("/data/trades", pair="TRXUSDT")}
    assert sorted(found) == [int(row["TradeId"]) for row in rows]
    placeholder = found[548331095]
    assert (placeholder["price"], placeholder["quantity"], placeholder["kind"]) == ("0", "0", "NA")
    prices = [(row["price"], row["kind"]) for trade_id, row in sorted(found.items()) if trade_id != 548331095]
    assert prices == [(row["Price"], "MARKET") for row in rows if row["TradeId"] != "548331095"]


def _as_message(row: dict[str, str]) -> dict[str, Any]:
    """The table's maker wrote the placeholder's "0" as 0.0 and its X as nothing."""
    return {
        "e": "trade", "E": int(row["EventTime"]), "T": int(row["TransactionTime"]), "s": row["Symbol"], "t": int(row["TradeId"]),
        "p": "0" if row["Price"] == "0.0" else row["Price"], "q": "0" if row["Quantity"] == "0.0" else row["Quantity"],
        "X": row["XUnknownParameter"] or "NA",
        "m": row["IsBuyerMarketMaker"] in ("1", "True", "true"),
    }  # fmt: skip


def test_the_insurance_fund_trade_is_kept_and_marked(usdm: Replayed) -> None:
    """2023-04-05_btcusdt_part1: trade 3535191080."""
    kinds = {
        row["trade_id"]: row["kind"] for row in usdm.service.rows("/data/trades", pair="BTCUSDT", end="2024-01-01")
    }
    assert kinds.pop(3_535_191_080) == "INSURANCE_FUND"
    assert set(kinds.values()) == {"MARKET"}


def test_candles_that_close_late_are_kept_once_closed_and_open_ones_never(usdm: Replayed, recordings: Path) -> None:
    """2021-07-22_sushi-akro-keep-ctk: closes 204 to 2,005 ms after the minute; updates of 22:26 never close."""
    klines = [
        line.data
        for line in lines_of(path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk"))
        if line.data["e"] == "kline"
    ]
    closed = [data for data in klines if data["k"]["x"]]
    assert sorted(data["E"] - data["k"]["T"] for data in closed) == [204, 792, 2_004, 2_005]
    assert {data["k"]["t"] for data in klines} > {data["k"]["t"] for data in closed}
    for data in closed:
        [row] = usdm.service.rows("/data/candles", pair=data["s"], period="1m")
        assert (row["timestamp"], row["close"], row["trades_count"]) == (
            iso(data["k"]["t"]),
            data["k"]["c"],
            data["k"]["n"],
        )


async def test_trade_ids_and_aggregate_ids_are_different_number_spaces(
    um: Service, server: NatsServer, recordings: Path
) -> None:
    """Trades of 2023-04-04_btcusdt and aggregates of 2021-04-05, symbol rewritten to one, ids to meet."""
    trades = _of_kind(recordings, "2023-04-04_btcusdt", "trade", "SPACEUSDT")
    aggregates = _of_kind(recordings, "2021-04-05_sand-chr-neo-ctk-bat", "aggTrade", "SPACEUSDT")
    lines = [
        one for trade, aggregate in zip(trades, aggregates, strict=False) for one in (trade, _with(aggregate, a=trade.data["t"]))
    ]  # fmt: skip
    await feed(server.url, um, [line.bare for line in lines])
    expected = rows_of(lines)
    assert um.lines("/data/trades", pair="SPACEUSDT") == expected["um.trade.SPACEUSDT"]
    assert um.lines("/data/agg_trades", pair="SPACEUSDT") == expected["um.agg_trade.SPACEUSDT"]
    assert len(expected["um.trade.SPACEUSDT"]) == len(expected["um.agg_trade.SPACEUSDT"]) > 500


def _of_kind(recordings: Path, name: str, kind: str, symbol: str) -> list[Line]:
    found = lines_of(path_of(recordings, "um", name))
    return [_with(line, s=symbol) for line in found if line.data["e"] == kind]


def _with(line: Line, **fields: object) -> Line:
    """The message with these fields rewritten, as a combined frame."""
    data = {**line.data, **fields}
    return Line(line.recv_ns, b'{"stream":"rewritten","data":' + json.dumps(data).encode() + b"}", data)


@pytest.mark.parametrize("symbol", ["BTCUSDT_261225", "1000PEPEUSDT", "币安人生USDT"])
async def test_odd_symbols_are_symbols(um: Service, server: NatsServer, recordings: Path, symbol: str) -> None:
    """Trades of 2023-04-04_btcusdt under another symbol, half of them with it escaped (\\u5e01), half as UTF-8."""
    lines = _of_kind(recordings, "2023-04-04_btcusdt", "trade", symbol)[:200]
    escaped = [line.bare for line in lines[::2]]
    plain = [json.dumps(line.data, ensure_ascii=False).encode() for line in lines[1::2]]
    await feed(server.url, um, escaped + plain)
    assert um.lines("/data/trades", pair=symbol) == rows_of(lines)[f"um.trade.{symbol}"]
    assert f"um.trade.{symbol}" in await held(um)
    printed = um.command("query", "trade", symbol, "--limit", 1_000, "--format", "ndjson").decode()
    assert printed.splitlines() == rows_of(lines)[f"um.trade.{symbol}"]


def test_two_captures_join_over_midnight_without_a_hole(usdm: Replayed) -> None:
    """2023-04-04_btcusdt and 2023-04-05_btcusdt_part1."""
    around: dict[str, object] = {"pair": "BTCUSDT", "start": "2023-04-04T23:59:30Z", "end": "2023-04-05T00:00:30Z"}
    trades = usdm.service.rows("/data/trades", **around)
    assert {row["timestamp"][:10] for row in trades} == {"2023-04-04", "2023-04-05"}
    ids = [row["trade_id"] for row in trades]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    changes = usdm.service.rows("/data/depth_updates", **around)
    assert {row["timestamp"][:10] for row in changes} == {"2023-04-04", "2023-04-05"}
    assert [row["previous_update_id"] for row in changes[1:]] == [row["update_id"] for row in changes[:-1]]
    marks = usdm.service.rows("/data/mark_prices", **around)
    assert sorted({row["next_funding_time"] for row in marks}) == [
        "2023-04-05T00:00:00.000Z",
        "2023-04-05T08:00:00.000Z",
    ]


# ---- other markets, other venues, other datasets ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def spot(server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of market spot."""
    with running_for_many(Service(tmp_path_factory.mktemp("spot"), nats_url=server.url, market="spot")) as one:
        yield one


async def test_spot_captures_in_a_service_of_that_market(spot: Service, server: NatsServer, recordings: Path) -> None:
    """2021-04-04 and 2021-10-12 whole, by `replay`; of 2024-08-08_btcusdt the first 8,000 messages."""
    await _all_of(spot, server.url, recordings, "spot", SPOT)


async def test_coin_margined_captures_in_a_service_of_that_market(
    server: NatsServer, recordings: Path, tmp_path: Path
) -> None:
    """2021-07-22_ten-symbols whole, by `replay`; of 2024-08-08_btcusd_perp the first 8,000 messages."""
    async with running(Service(tmp_path, nats_url=server.url, market="cm")) as service:
        await _all_of(service, server.url, recordings, "cm", COINM)


async def _all_of(service: Service, url: str, recordings: Path, market: str, names: Sequence[str]) -> None:
    whole = paths_of(recordings, market, names[:-1])
    begun = list(islice(lines_of(path_of(recordings, market, names[-1])), 8_000))
    expected = rows_of(chain(lines_of(*whole), begun), market)
    service.command("replay", *whole)
    await feed(url, service, [line.enveloped for line in begun])
    figures = service.figures()
    figures.require_law()
    messages = sum(sum(readme_counts(recordings, market, name).values()) for name in names[:-1])
    assert figures.of("messages_received_total", event_type="raw") == messages + len(begun)
    assert figures.of("messages_failed_total") == figures.of("messages_ignored_total") == 0
    assert figures.of("rows_new_total") == sum(map(len, expected.values()))
    assert await held(service) == sorted(expected)
    for series, rows in expected.items():
        assert service.lines(path(series), **words(series)) == rows, series


async def test_messages_of_other_venues_end_as_dead_letters_or_are_ignored(
    server: NatsServer, recordings: Path, tmp_path: Path
) -> None:
    """other_exchanges/ws: none is stored, none crashes the service, which says that nothing can be read."""
    files = sorted((recordings / "other_exchanges" / "ws").glob("*.jsonl.gz"))
    assert len(files) == 5
    good = next(lines_of(path_of(recordings, "um", "2023-04-04_btcusdt")))
    async with running(Service(tmp_path, nats_url=server.url)) as service:
        service.command("replay", *files)
        await wait_for(server.url, service)
        figures = service.figures()
        figures.require_law()
        assert figures.of("messages_received_total", event_type="raw") == 7_175 + 410 + 450 + 55 + 50
        assert figures.of("rows_new_total") == figures.of("rows_changed_total") == 0
        failed, ignored = figures.of("messages_failed_total"), figures.of("messages_ignored_total")
        assert failed + ignored >= 8_140
        assert failed == sum(letter["count"] for letter in dead_letters(service))
        assert await held(service) == []
        answer = service.get("/health/readiness")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert "dead letters" in answer.json()["reasons"][0]
        await feed(server.url, service, [good.message])
        assert service.get("/health/readiness").status_code == 200
        assert await held(service) == list(rows_of([good]))


async def test_a_partial_book_is_answered_whole(spot: Service, server: NatsServer) -> None:
    """The documented spot partial book: no symbol and no time of its own; both come from the publisher's envelope."""
    book = {"lastUpdateId": 160, "bids": [["110123.4", "1.2"], ["110123.3", "0.70"]], "asks": [["110123.5", "0.8"]]}
    envelope = {
        "stream": "btcusdt@depth20@100ms", "data": book, "timestamp": "2025-10-20T12:34:56.789012Z",
        "message_id": "6f1c2e0a-53a4-4c0e-9b1f-0b2c7c5a9f10", "source": "binance-websocket", "version": "1.0",
    }  # fmt: skip
    await feed(server.url, spot, [json.dumps(envelope).encode()])
    answer = spot.page("/data/depth", pair="BTCUSDT")
    assert answer["pair"] == "BTCUSDT"
    assert answer["data"] == {
        "bids": [{"price": "110123.4", "quantity": "1.2"}, {"price": "110123.3", "quantity": "0.70"}],
        "asks": [{"price": "110123.5", "quantity": "0.8"}],
        "last_update_id": 160,
    }
    assert answer["metadata"]["timestamp"] == "2025-10-20T12:34:56.789Z"
    assert answer["metadata"]["data_completeness"] is None
    [row] = spot.rows("/data/depth", pair="BTCUSDT")
    assert (row["update_id"], row["clock"]) == (160, "publisher")
    nothing = spot.page("/data/depth", pair="ETHUSDT")
    assert nothing["data"] == {"bids": [], "asks": [], "last_update_id": 0}
    assert nothing["metadata"]["timestamp"] is None


async def test_settled_funding_is_answered_by_slot(um: Service, server: NatsServer, recordings: Path) -> None:
    """rest/fundingRate_BTCUSDT: 100 settlements, 0 to 45 ms after the hour, without mark prices; sent twice."""
    rates = json.loads((recordings / "binance_futures" / "rest" / "fundingRate_BTCUSDT.json").read_text())
    assert len(rates) == 100
    await feed(server.url, um, [json.dumps(rate).encode() for rate in [*rates, *rates]])
    hour_ms = 3_600_000
    expected = [
        {
            "timestamp": iso(rate["fundingTime"] // hour_ms * hour_ms),
            "funding_rate": rate["fundingRate"],
            "mark_price": None,
            "rate_type": "Regular",
            "funding_time": iso(rate["fundingTime"]),
        }
        for rate in sorted(rates, key=lambda rate: int(rate["fundingTime"]))
    ]
    assert um.rows("/data/funding", pair="BTCUSDT") == expected
    newest = um.page("/data/funding", pair="BTCUSDT", limit=3)
    assert newest["values"] == newest["data"] == expected[-3:]
    assert newest["metadata"]["data_completeness"] is None
