"""What comes in other forms, from other markets and other venues: the real process, small services for each question.

Where a message is not as it was recorded, the test says what was rewritten.
"""

import csv
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from tests.servers import running_server
from tests.service import Service, connected, dead_letters, drained, feed, running, running_for_many
from tests.truth import COINM, SPOT, Line, iso, lines_of, path_of, paths_of, readme_counts, rows_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A bus for all services of this file; each has a subject and a stream of its own."""
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(scope="module")
def um(server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of market um for messages made by hand; every test uses symbols or datasets of its own."""
    with running_for_many(Service(tmp_path_factory.mktemp("um"), nats_url=server.url)) as one:
        yield one


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
            await service.require(expected)


# ---- trades of every sort ---------------------------------------------------------------------------------------------


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


async def test_events_ahead_of_our_clock_are_kept(um: Service, server: NatsServer, recordings: Path) -> None:
    """A trade of 2024-08-08_ethusdt re-dated to a minute from now."""
    recorded = next(
        line for line in lines_of(path_of(recordings, "um", "2024-08-08_ethusdt")) if line.data["e"] == "trade"
    )
    ahead_ms = time.time_ns() // 1_000_000 + 60_000
    redated = {**recorded.data, "s": "AHEADUSDT", "E": ahead_ms, "T": ahead_ms - 2}
    await feed(server.url, um, [json.dumps(redated).encode()])
    assert [row["timestamp"] for row in um.rows("/data/trades", pair="AHEADUSDT")] == [iso(ahead_ms - 2)]
    assert -61 < um.figures().of("lag_seconds") < -50
    assert um.get("/health/readiness").status_code == 200


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
    assert f"um.trade.{symbol}" in await um.held()
    printed = um.command("query", "trade", symbol, "--limit", 1_000, "--format", "ndjson").decode()
    assert printed.splitlines() == rows_of(lines)[f"um.trade.{symbol}"]


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
    await service.require(expected)


async def test_messages_of_other_venues_end_as_dead_letters_or_are_ignored(
    server: NatsServer, recordings: Path, tmp_path: Path
) -> None:
    """other_exchanges/ws: none is stored, none crashes the service, which says that nothing can be read."""
    files = sorted((recordings / "other_exchanges" / "ws").glob("*.jsonl.gz"))
    assert len(files) == 5
    good = next(lines_of(path_of(recordings, "um", "2023-04-04_btcusdt")))
    async with running(Service(tmp_path, nats_url=server.url)) as service:
        service.command("replay", *files)
        async with connected(server.url) as client:
            await drained(client, service)
        figures = service.figures()
        figures.require_law()
        assert figures.of("messages_received_total", event_type="raw") == 7_175 + 410 + 450 + 55 + 50
        assert figures.of("rows_new_total") == figures.of("rows_changed_total") == 0
        failed, ignored = figures.of("messages_failed_total"), figures.of("messages_ignored_total")
        assert failed + ignored >= 8_140
        assert failed == sum(letter["count"] for letter in dead_letters(service))
        assert await service.held() == []
        answer = service.get("/health/readiness")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert "dead letters" in answer.json()["reasons"][0]
        await feed(server.url, service, [good.message])
        assert service.get("/health/readiness").status_code == 200
        assert await service.held() == list(rows_of([good]))


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
