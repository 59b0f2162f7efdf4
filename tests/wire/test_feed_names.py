"""What is subscribed, where, and what is no stream: the venue acknowledges every name, so the table must be right."""

import pytest

from data_manager.adapters.binance.feed_names import ADDRESSES, PAIRS, STREAMS, address_of, groups_of, lower, streams_of
from data_manager.domain.errors import BadSetting
from data_manager.settings import Settings
from data_manager.settings.reading import read


@pytest.mark.parametrize(
    ("text", "name", "route"),
    [
        ("trade", "btcusdt@trade", "public"), ("bookTicker", "btcusdt@bookTicker", "public"),
        ("depth20@100ms", "btcusdt@depth20@100ms", "public"), ("depth@500ms", "btcusdt@depth@500ms", "public"),
        ("depth5", "btcusdt@depth5", "public"), ("aggTrade", "btcusdt@aggTrade", "market"),
        ("kline_1m", "btcusdt@kline_1m", "market"), ("kline_1M", "btcusdt@kline_1M", "market"),
        ("markPrice@1s", "btcusdt@markPrice@1s", "market"), ("ticker", "btcusdt@ticker", "market"),
        ("forceOrder", "btcusdt@forceOrder", "market"), ("btcusdt@trade", "btcusdt@trade", "public"),
        ("ethusdt@kline_1h", "ethusdt@kline_1h", "market"), ("!markPrice@arr@1s", "!markPrice@arr@1s", "market"),
        ("!bookTicker", "!bookTicker", "public"), ("!forceOrder@arr", "!forceOrder@arr", "market"),
    ],
)  # fmt: skip
def test_every_stream_has_its_route(text: str, name: str, route: str) -> None:
    [stream] = streams_of("um", ["BTCUSDT"], [text])
    assert (stream.name, stream.route) == (name, route)


@pytest.mark.parametrize(
    ("market", "pairs", "streams", "variable"),
    [
        ("um", ["BTCUSDT"], ["tickers"], "BINANCE_STREAMS"), ("um", ["BTCUSDT"], ["depth20@250ms"], "BINANCE_STREAMS"),
        ("um", ["BTCUSDT"], ["fundingRate@1s"], "BINANCE_STREAMS"), ("um", ["BTCUSDT"], ["kline_1s"], "BINANCE_STREAMS"),
        ("um", ["BTCUSDT"], ["aggtrade"], "BINANCE_STREAMS"), ("um", ["BTCUSDT"], ["btc usdt@trade"], "BINANCE_STREAMS"),
        ("spot", ["BTCUSDT"], ["markPrice@1s"], "BINANCE_STREAMS"), ("um", ["btcusdt"], ["trade"], "SUPPORTED_PAIRS"),
        ("um", ["BTCUSD_PERP"], ["trade"], "SUPPORTED_PAIRS"), ("cm", ["BTCUSDT"], ["trade"], "SUPPORTED_PAIRS"),
    ],
)  # fmt: skip
def test_what_the_venue_would_acknowledge_and_never_send_is_refused(
    market: str, pairs: list[str], streams: list[str], variable: str
) -> None:
    with pytest.raises(BadSetting) as no:
        streams_of(market, pairs, streams)
    assert no.value.name == variable


def test_only_ascii_letters_are_lowered() -> None:
    assert lower("1000PEPEUSDT") == "1000pepeusdt"
    assert lower("币安人生USDT") == "币安人生usdt"
    assert lower("ÄÖUSDT") == "ÄÖusdt"


def test_the_other_markets_have_one_address_and_no_route() -> None:
    assert {one.route for one in streams_of("spot", PAIRS["spot"], STREAMS["spot"])} == {""}
    assert {one.route for one in streams_of("cm", PAIRS["cm"], STREAMS["cm"])} == {""}
    assert {one.route for one in streams_of("um", PAIRS["um"], STREAMS["um"])} == {"public", "market"}


def test_sockets_share_streams_of_one_route_evenly_and_never_too_many() -> None:
    pairs = [f"X{number}USDT" for number in range(1_025)]
    for most in (1, 7, 200, 1_024, 1_025):
        groups = groups_of(streams_of("um", pairs, ["aggTrade", "trade"]), most)
        assert all(len({one.route for one in group}) == 1 and 0 < len(group) <= most for group in groups)
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
        assert sorted(one.name for group in groups for one in group) == sorted(f"x{n}usdt@{kind}" for n in range(1_025) for kind in ("aggTrade", "trade"))  # fmt: skip
    assert streams_of("um", ["BTCUSDT", "BTCUSDT"], ["trade", "btcusdt@trade"]) == streams_of("um", ["BTCUSDT"], ["trade"])  # fmt: skip


def test_the_predecessors_address_is_understood_and_another_markets_refused() -> None:
    assert address_of("spot", "wss://stream.binance.com:9443/ws") == ADDRESSES["spot"]
    assert address_of("um", "ws://127.0.0.1:8900/") == "ws://127.0.0.1:8900"
    for market, url in (("um", "wss://stream.binance.com:9443/ws"), ("um", "wss://dstream.binance.com"), ("spot", "wss://fstream.binance.com/stream")):  # fmt: skip
        with pytest.raises(BadSetting, match=market):
            address_of(market, url)


def test_bad_streams_stop_the_start_and_name_the_variable() -> None:
    for environ, name in (
        ({"BINANCE_STREAMS": "trade,trades"}, "BINANCE_STREAMS"), ({"SUPPORTED_PAIRS": "BTCUSDT;ETHUSDT"}, "SUPPORTED_PAIRS"),
        ({"BINANCE_WS_URL": "https://fapi.binance.com"}, "BINANCE_WS_URL"), ({"MARKET": "spot", "BINANCE_WS_URL": "wss://fstream.binance.com"}, "BINANCE_WS_URL"),
        ({"MARKET": "cm", "SUPPORTED_PAIRS": "BTCUSDT"}, "SUPPORTED_PAIRS"), ({"BINANCE_STREAMS_PER_SOCKET": "1025"}, "BINANCE_STREAMS_PER_SOCKET"),
    ):  # fmt: skip
        assert [one.name for one in read(environ)[1]] == [name], environ
    for market in ("um", "cm", "spot"):
        assert read({"MARKET": market})[1] == ()
    assert Settings(supported_pairs="BTCUSDT , ETHUSDT").fed_pairs == ["BTCUSDT", "ETHUSDT"]
    assert Settings(nats_consumer_subject="binance.>").feed_subject == "binance.feed"
