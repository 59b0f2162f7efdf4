"""REST answers that were recorded from the venue, row by row: nothing of them is refused, and every digit is kept."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from data_manager.adapters.binance import rest_rows as rows
from data_manager.adapters.binance.gate import Reply
from data_manager.adapters.binance.http import Answer
from data_manager.adapters.binance.listings import _FUNDING, _INFO
from data_manager.adapters.binance.meaning import error_of, halted_until_ms
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadQuery, BadSetting, NotFound, Unavailable
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, parse_time

EVER = Span(0, 1 << 52)


def body(recordings: Path, market: str, name: str) -> bytes:
    return (recordings / f"binance_{market}" / "rest" / f"{name}.json").read_bytes()


def packed(content: bytes, decoder: Any, series: Series, event: Any) -> Batch:
    """The rows of a recorded page as the source packs them; none may be refused."""
    read, refused = rows.read_rows(rows.PAGE.decode(content), decoder)
    assert refused == []
    reply: Reply[Any] = Reply("GET", "0" * 64, parse_time("2026-03-05"), None)
    piece = rows.piece(EVER, series, [event(one) for one in read], reply, "job:1")
    assert list(piece.refused) == []
    assert len(piece.rows) == len(json.loads(content))
    return piece.rows


@pytest.mark.parametrize(
    ("market", "name", "symbol", "interval"),
    [
        ("futures", "klines_LTCUSDT_5m", "LTCUSDT", "5m"),
        ("futures", "klines_BTCUSDT_1d_2023-01", "BTCUSDT", "1d"),
        ("spot", "klines_BTCUSDT_1h_2020-05", "BTCUSDT", "1h"),
        ("spot", "klines_BTCUSDT_1m_2020-05-06", "BTCUSDT", "1m"),
    ],
)
def test_candles(recordings: Path, market: str, name: str, symbol: str, interval: str) -> None:
    content = body(recordings, market, name)
    series = Series("um" if market == "futures" else "spot", "candle", symbol, interval)
    batch = packed(content, rows.CANDLE, series, lambda row: rows.candle(row, series))
    names = ("open_ms", "open", "high", "low", "close", "volume", "close_ms", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")  # fmt: skip
    assert [[row[name] for name in names] for row in batch.rows()] == [row[:11] for row in json.loads(content)]


@pytest.mark.parametrize(("market", "name"), [("futures", "aggTrades_LTCUSDT"), ("spot", "aggTrades_BTCUSDT_1000")])
def test_aggregate_trades(recordings: Path, market: str, name: str) -> None:
    content = body(recordings, market, name)
    series = Series("um", "agg_trade", "LTCUSDT")
    batch = packed(content, rows.AGGREGATE, series, lambda row: rows.named(row, series.symbol))
    letters = {"agg_id": "a", "price": "p", "quantity": "q", "first_trade_id": "f", "last_trade_id": "l", "traded_ms": "T", "buyer_is_maker": "m"}  # fmt: skip
    told = [{name: row[letter] for name, letter in letters.items()} for row in json.loads(content)]
    assert [{name: row[name] for name in letters} for row in batch.rows()] == told


@pytest.mark.parametrize(("market", "name"), [("futures", "trades_BTCUSDT_limit5"), ("spot", "trades_ETHBTC_1000")])
def test_trades(recordings: Path, market: str, name: str) -> None:
    content = body(recordings, market, name)
    series = Series("um", "trade", "BTCUSDT")
    batch = packed(content, rows.TRADE, series, lambda row: rows.named(row, series.symbol))
    told = sorted(json.loads(content), key=lambda row: row["id"])
    found = [(row["trade_id"], row["price"], row["quantity"], row["traded_ms"]) for row in batch.rows()]
    assert found == [(row["id"], row["price"], row["qty"], row["time"]) for row in told]


def test_settled_funding_lies_in_its_slots(recordings: Path) -> None:
    """fundingTime was up to 45 ms after the hour; slots are 8 hours apart without exception."""
    content = body(recordings, "futures", "fundingRate_BTCUSDT")
    series = Series("um", "funding_rate", "BTCUSDT")
    batch = packed(content, rows.FUNDING, series, rows.funding_rate)
    slots = batch.key.tolist()
    assert [after - before for before, after in pairwise(slots)] == [8 * HOUR_MS] * 99
    late = [row["funding_ms"] - row["slot_ms"] for row in batch.rows()]
    assert (min(late), max(late)) == (0, 45)
    assert sum(row["funding_rate"].startswith("-") for row in batch.rows()) == 28


def test_listings_of_2021_and_2025(recordings: Path) -> None:
    for name, symbols in (("exchangeInfo_1626992740175", 122), ("exchangeInfo_few_symbols", 25)):
        info = _INFO.decode(body(recordings, "futures", name))
        assert len(info.symbols) == symbols
        assert all(one.status for one in info.symbols)
    coin = _INFO.decode(body(recordings, "coinm", "exchangeInfo_1626916402988"))
    assert all(one.contract_status for one in coin.symbols)
    funding = _FUNDING.decode(body(recordings, "futures", "fundingInfo"))
    assert {one.hours for one in funding} == {4, 8}


def test_errors_the_venue_really_sent(recordings: Path) -> None:
    unknown = Answer(400, {}, body(recordings, "futures", "error_ticker24hr_invalid_symbol"))
    assert isinstance(error_of(unknown, "GET", "BINANCE_FAPI_BASE_URL", ""), NotFound)
    too_long = Answer(400, {}, body(recordings, "coinm", "error_klines_interval_too_long"))
    assert isinstance(error_of(too_long, "GET", "BINANCE_DAPI_BASE_URL", ""), BadQuery)


BANS = (
    "Way too many requests; IP(1.2.3.4) banned until 1746327239762. Please use the websocket for live updates to avoid bans.",
    "Way too many requests; IP(1.2.3.4) banned until 1746327239762.",
)


@pytest.mark.parametrize("text", BANS)
def test_when_a_ban_ends(text: str) -> None:
    now_ms = 1746327239762 - 90_000
    banned = Answer(418, {}, msgspec.json.encode({"code": -1003, "msg": text}))
    assert halted_until_ms(banned, now_ms, 0) == 1746327239762
    longer = Answer(418, {"retry-after": "720"}, banned.body)
    assert halted_until_ms(longer, now_ms, 0) == now_ms + 720_000, "the later of the two"
    assert halted_until_ms(Answer(418, {}, b"<html>"), now_ms, 0) == now_ms + 120_000
    assert halted_until_ms(Answer(429, {}, b""), now_ms, now_ms + 5_000) == now_ms + 5_000
    assert halted_until_ms(Answer(429, {"retry-after": "35"}, b""), now_ms, 0) == now_ms + 35_000
    assert halted_until_ms(Answer(400, {}, banned.body), now_ms, 0) is None
    for_ever = Answer(418, {"retry-after": "9" * 12}, banned.body.replace(b"1746327239762", b"9999999999999999"))
    assert halted_until_ms(for_ever, now_ms, 0) == now_ms + 3 * 86_400_000, "no ban lasts longer than three days"


@pytest.mark.parametrize(
    ("status", "body", "kind", "waits_s"),
    [
        (200, b"<html>", Unavailable, 300), (202, b"<html>", Unavailable, 300), (403, b"<HTML>", Unavailable, 300),
        (404, b"<html>", BadSetting, None), (301, b"", BadSetting, None), (418, b"", BadQuery, None),
        (503, b'{"code":-1008,"msg":"x"}', Unavailable, 1), (503, b"<html>", Unavailable, 1),
        (400, b'{"code":-1001,"msg":"x"}', Unavailable, 1), (400, b'{"code":-4166,"msg":"x"}', Unavailable, 3_600),
        (401, b'{"code":-2014,"msg":"x"}', BadSetting, None), (400, b'{"code":-1120,"msg":"x"}', BadQuery, None),
        (400, b'{"code":-1122,"msg":"x"}', NotFound, None), (400, b"who knows", BadQuery, None),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, body: bytes, kind: type[Exception], waits_s: float | None) -> None:
    error = error_of(Answer(status, {}, body), "GET", "BINANCE_FAPI_BASE_URL", "https://fapi.example")
    assert type(error) is kind
    assert getattr(error, "retry_after_s", None) == waits_s


def test_one_broken_row_does_not_spoil_a_page() -> None:
    """Seconds for milliseconds, a number for text, too few fields, a price of 0 and a high below the low."""
    good = [1602672300000, "49.97", "50.07", "49.89", "50.05", "5361.5", 1602672599999, "268042.0", 1032, "3007.1", "150361.2", "0"]  # fmt: skip
    page = [good, [1602672300, *good[1:]], [good[0], 49.97, *good[2:]], good[:5], [*good[:3], "0", *good[4:]], [*good[:2], "49.0", *good[3:]], [*good, "new"]]  # fmt: skip
    series = Series("um", "candle", "LTCUSDT", "5m")
    read, refused = rows.read_rows(rows.PAGE.decode(msgspec.json.encode(page)), rows.CANDLE)
    assert [one.position for one in refused] == [1, 2, 3]
    reply: Reply[Any] = Reply("GET", "0" * 64, parse_time("2026-03-05"), None)
    piece = rows.piece(EVER, series, [rows.candle(one, series) for one in read], reply, "job:1", refused)
    assert len(piece.rows) == 1
    assert [one.why.field for one in piece.refused] == ["[1]", "[2]", "[3]", "low", "high"]
    assert piece.evidence["refused"] == 5
    assert piece.evidence["repeated"] == 1
