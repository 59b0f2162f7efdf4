"""A recorded trade travels from the bus to the disk and back out over HTTP: the real process, nats-server and HTTP.

What must come back is computed from the recordings by tests/truth.py, with nothing of ours.
"""

import asyncio
import io
import json
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.store.readonly import ReadOnlyStore
from tests.conftest import eventually
from tests.servers import free_port, running_server
from tests.service import Service, asked, connected, drained, feed, publish, running, running_for_many
from tests.truth import (
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

FIRST_FOUR = USDM[:4]  # the captures of 2021 and 2023: 53,314 messages


class Replayed(NamedTuple):
    """A service that was fed, its bus, and the rows it has to hold."""

    service: Service
    url: str
    rows: dict[str, list[str]]

    def of(self, dataset: str) -> dict[str, list[str]]:
        """The expected rows of one dataset, by series."""
        return {series: rows for series, rows in self.rows.items() if series.split(".")[1] == dataset}


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
    """A bus for the services of this file that bring none; each has a subject and a stream of its own."""
    with running_server(tmp_path_factory.mktemp("nats")) as one:
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
    assert {dataset: sum(map(len, usdm.of(dataset).values())) for dataset in counts} == counts
    assert figures.of("rows_new_total") == sum(counts.values())
    assert figures.of("rows_changed_total") + figures.of("rows_duplicate_total") == klines - 4  # open candles
    assert figures.of("messages_failed_total") == figures.of("events_dropped_total") == 0


async def test_there_is_no_series_but_those_recorded(usdm: Replayed) -> None:
    assert await usdm.service.held() == sorted(usdm.rows)


@pytest.mark.parametrize("dataset", ["trade", "agg_trade", "candle", "mark_price"])
def test_every_row_comes_back_over_http(usdm: Replayed, dataset: str) -> None:
    expected = usdm.of(dataset)
    assert expected
    for series, rows in expected.items():
        path, query = asked(series)
        assert usdm.service.rows(path, **query) == parsed(rows), series


@pytest.mark.parametrize("dataset", ["book_ticker", "depth_update"])
def test_every_book_row_comes_back_page_by_page(usdm: Replayed, dataset: str) -> None:
    expected = {series: rows for series, rows in usdm.of(dataset).items() if len(rows) < 5_000}
    assert len(expected) == 8
    for series, rows in expected.items():
        path, query = asked(series)
        assert usdm.service.lines(path, **query) == rows, series


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


# ---- twice, shuffled, after a restart --------------------------------------------------------------


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
    path, names = asked(series)
    while True:
        answer = service.get(path, **names, limit=1_000, **query)
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
        assert await service.held() == sorted(expected)
        for series in expected:
            ordered = values(usdm.service, series, **before)
            assert values(service, series, **before) == ordered, (series, f"seed {seed}")
            assert sum(page.count(b'"timestamp"') for page in ordered) == len(expected[series])


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
        await service.require(rows_of(lines))
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


def test_a_receive_clock_behind_the_exchange_changes_no_time(usdm: Replayed, recordings: Path) -> None:
    """2024-08-08_ethusdt: the recorder's clock is 1.27 s behind, so every message came before it happened."""
    lines = list(lines_of(path_of(recordings, "um", "2024-08-08_ethusdt")))
    assert all(1_200 < line.data["E"] - line.recv_ns / 1e6 < 1_300 for line in lines)
    times = [iso(line.data["T"]) for line in lines if line.data["e"] == "trade"]
    assert [row["timestamp"] for row in usdm.service.rows("/data/trades", pair="ETHUSDT")] == times


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
