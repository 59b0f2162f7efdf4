"""What streams say is a function of time alone, and agrees with what REST says of the same moments."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import Decoder
from data_manager.domain.errors import UnknownKind
from data_manager.domain.events import Event, Ignored
from data_manager.simulator import rows
from data_manager.simulator.answers import Units
from data_manager.simulator.books import Books
from data_manager.simulator.contracts import universe
from data_manager.simulator.market import Market
from data_manager.simulator.quotes import Quotes
from data_manager.simulator.streams import Streams
from tests.simulator.exchange import HOUR, MINUTE, NOW

CONTRACTS = universe((), 5, NOW)
MARKET = Market(CONTRACTS, 5)
FEED = Streams(MARKET, Quotes(MARKET, 5), Books(5))
PUBLIC = ("btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth", "btcusdt@depth20@100ms", "btcusdt@rpiDepth@500ms", "!bookTicker")  # fmt: skip
ROUTED = ("btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@kline_1h", "btcusdt_perpetual@continuousKline_5m", "btcusdt@markPrice", "btcusdt@markPrice@1s", "!markPrice@arr", "!markPrice@arr@1s", "btcusdt@ticker", "!ticker@arr", "btcusdt@miniTicker", "!miniTicker@arr", "btcusdt@forceOrder", "!forceOrder@arr", "币安人生usdt@aggTrade", "btcdomusdt@compositeIndex", "tradingSession")  # fmt: skip
NONE = ("BTCUSDT@aggTrade", "nousdt@aggTrade", "btcusdt@kline_1s", "btcusdt@kline_1x", "btcusdt@depth20@250ms", "btcusdt@depth7", "btcusdt@AggTrade", "btcusdt", "", "!nothing", "btcusdt@markPrice@2s")  # fmt: skip


def told(name: str, after_ms: int, until_ms: int) -> list:
    return [json.loads(event.payload) for event in FEED.events(name, after_ms, until_ms, 0)]


@pytest.mark.parametrize("name", [*PUBLIC, *ROUTED])
def test_however_time_is_cut_the_events_are_the_same(name: str) -> None:
    @settings(max_examples=5, deadline=None)
    @given(st.lists(st.integers(1, 9_000), min_size=1, max_size=6), st.integers(0, 2 * MINUTE))
    def check(lengths: list[int], beyond: int) -> None:
        at = NOW - NOW % HOUR - 30_000 + beyond
        end = at + sum(lengths)
        whole = FEED.events(name, at, end, 0)
        parts = []
        for length in lengths:
            parts += FEED.events(name, at, at + length, 0)
            at += length
        assert sorted(parts) == sorted(whole)

    check()


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_stream_has_no_route(name: str) -> None:
    assert FEED.route(name) is None
    assert FEED.events(name, NOW - HOUR, NOW, 0) == []


def test_routes_are_those_of_2026() -> None:
    assert {FEED.route(name) for name in PUBLIC} == {"public"}
    assert {FEED.route(name) for name in ROUTED} == {"market"}


@pytest.mark.parametrize("name", [*PUBLIC, *ROUTED])
def test_our_own_decoder_reads_every_payload(name: str) -> None:
    decode = Decoder("um")
    events = FEED.events(name, NOW - (2 * HOUR if "forceOrder" in name else 5 * MINUTE), NOW, 0)
    assert events
    foreign = ("miniTicker", "continuousKline", "compositeIndex", "tradingSession")
    wanted = UnknownKind if any(kind in name for kind in foreign) else Event | Ignored
    for event in events:
        for outcome in decode(event.payload, NOW):
            assert isinstance(outcome, wanted), (event.payload[:200], outcome)


def test_aggregates_on_the_wire_are_those_of_rest() -> None:
    contract = CONTRACTS["BTCUSDT"]
    wire = told("btcusdt@aggTrade", NOW - HOUR, NOW)
    rest = rows.aggregates(MARKET.aggregates(contract, NOW - HOUR, NOW), Units.of(contract))
    by_id = {row["a"]: row for row in rest}
    assert all(one["a"] + 1 == other["a"] for one, other in pairwise(wire))
    shared = [event for event in wire if event["a"] in by_id]
    assert len(shared) > 500
    for event in shared:
        assert {name: event[name] for name in by_id[event["a"]]} == by_id[event["a"]]
        assert 0 < event["E"] - event["T"] <= 100


def test_every_trade_id_is_on_the_wire_and_burned_ones_are_placeholders() -> None:
    wire = told("btcusdt@trade", NOW - 12 * HOUR, NOW)
    assert all(one["t"] + 1 == other["t"] for one, other in pairwise(wire))
    kinds = {event["X"] for event in wire}
    assert kinds == {"MARKET", "NA", "INSURANCE_FUND"}
    assert all((event["p"], event["q"]) == ("0", "0") for event in wire if event["X"] == "NA")
    share = sum(event["X"] != "MARKET" for event in wire) / len(wire)
    assert 0.001 < share < 0.01


def test_each_candle_closes_once_and_as_rest_has_it() -> None:
    contract = CONTRACTS["ALGOUSDT"]
    start = NOW - NOW % MINUTE
    events = told("algousdt@kline_1m", start - 60 * MINUTE, start + 1_000)
    closed = [event["k"] for event in events if event["k"]["x"]]
    candles = MARKET.candles(contract, "1m", start - 61 * MINUTE, start, start)
    rest = {row[0]: row for row in rows.klines(candles, "1m", Units.of(contract))}
    assert [k["t"] for k in closed] == list(range(start - 60 * MINUTE, start, MINUTE)) or len(closed) == 61
    for k in closed:
        assert [k["t"], k["o"], k["h"], k["l"], k["c"], k["v"], k["T"], k["q"], k["n"], k["V"], k["Q"], k["B"]] == rest[
            k["t"]
        ]
    assert any(k["n"] == 0 and k["f"] == k["L"] == -1 for k in closed)
    assert all(0 < event["E"] - event["k"]["T"] <= 200 for event in events if event["k"]["x"])


def test_updates_of_a_candle_come_every_250_ms_at_most_and_never_after_its_close() -> None:
    last = 0
    for event in told("btcusdt@kline_1m", NOW - 12 * HOUR, NOW):
        k = event["k"]
        assert k["x"] or event["E"] % 250 == 0
        assert k["t"] >= last
        last = k["t"] + 1 if k["x"] else k["t"]


def test_the_next_funding_time_moves_on_at_the_settlement() -> None:
    slot = NOW // (8 * HOUR) * 8 * HOUR
    events = told("btcusdt@markPrice@1s", slot - 2_000, slot + 1_000)
    assert [(event["E"] - slot, event["T"] - slot) for event in events] == [
        (-1_000, 0),
        (0, 8 * HOUR),
        (1_000, 8 * HOUR),
    ]


def test_streams_of_all_carry_other_markets_and_contracts_without_funding() -> None:
    frames = told("!markPrice@arr@1s", NOW - 1_000, NOW)
    assert len(frames) == 2
    together = [row for frame in frames for row in frame]
    assert {row["st"] for row in together} == {1, 2}
    assert any(row["T"] == 0 and row["r"] == "0.00000000" for row in together)


def test_liquidations_of_all_say_whose_market_they_are_of() -> None:
    frames = told("!forceOrder@arr", NOW - 12 * HOUR, NOW)
    assert {(frame["st"], frame["o"]["ps"]) for frame in frames} > {(1, "BTCUSDT"), (2, "AAVEUSD")}
    assert all("st" not in frame and "ps" not in frame["o"] for frame in told("btcusdt@forceOrder", NOW - HOUR, NOW))


def test_the_shown_clock_may_be_wrong_and_the_market_is_not() -> None:
    true = told("btcusdt@aggTrade", NOW - MINUTE, NOW)
    skewed = [json.loads(event.payload) for event in FEED.events("btcusdt@aggTrade", NOW - MINUTE, NOW, -1_272)]
    assert [event["E"] + 1_272 for event in skewed] == [event["E"] for event in true]
    assert [event["T"] for event in skewed] == [event["T"] for event in true]
