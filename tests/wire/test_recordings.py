"""Every message of every recording decodes to what it is; counts are those of the recordings' own README."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.domain.datasets import DATASETS
from data_manager.domain.events import Event

from .samples import RECEIVED_MS, SAMPLES

MARKET_OF = {"binance_futures": "um", "binance_coinm": "cm", "binance_spot": "spot"}
# Messages by stream, as the README of the recordings counts them.
COUNTS = {
    "binance_futures/ws/2021-04-05_sand-chr-neo-ctk-bat": {"depth_update": 4_423, "book_ticker": 3_424, "agg_trade": 574},
    "binance_futures/ws/2021-07-22_sushi-akro-keep-ctk": {
        "depth_update": 764, "book_ticker": 613, "agg_trade": 91, "candle": 67,
    },
    "binance_futures/ws/2023-04-04_btcusdt": {
        "book_ticker": 6_765, "depth_update": 4_322, "trade": 2_197, "mark_price": 99,
    },
    "binance_futures/ws/2023-04-05_btcusdt_part1": {
        "book_ticker": 17_899, "trade": 6_254, "depth_update": 5_622, "mark_price": 200,
    },
    "binance_futures/ws/2024-08-08_btcusdt": {"book_ticker": 66_089, "trade": 21_313, "depth_update": 6_551},
    "binance_futures/ws/2024-08-08_ethusdt": {"book_ticker": 53_992, "trade": 14_076, "depth_update": 6_586},
    "binance_coinm/ws/2021-07-22_ten-symbols": {
        "book_ticker": 2_240, "depth_update": 2_047, "agg_trade": 51, "candle": 33,
    },
    "binance_coinm/ws/2024-08-08_btcusd_perp": {"depth_update": 26_847, "book_ticker": 19_136, "trade": 2_286},
    "binance_spot/ws/2021-04-04_dot-btc-eth": {"depth_update": 2_688, "agg_trade": 1_910, "candle": 118},
    "binance_spot/ws/2021-10-12_nkn-blz-lrc-rune": {
        "depth_update": 177, "book_ticker": 84, "agg_trade": 2, "candle": 2,
    },
    "binance_spot/ws/2024-08-08_btcusdt": {"book_ticker": 28_040, "trade": 9_757, "depth_update": 3_451},
}  # fmt: skip
OTHERS = {
    "2021-07-22_kraken_futures": 7_175,
    "2022-05-13_okx": 410,
    "2023-05-24_gateio_futures": 450,
    "2024-12-01_bybit_xrpusdt_ob500": 50,
    "2025-01-26_hyperliquid_btc": 55,
}
_TAIL = (
    b',"timestamp":"2025-10-20T12:34:56.789012Z","message_id":"6f1c2e0a-53a4-4c0e-9b1f-0b2c7c5a9f10",'
    b'"source":"binance-websocket","version":"1.0"}'
)


def messages(path: Path) -> Iterator[bytes]:
    """The recorded messages of a file, byte for byte."""
    with gzip.open(path) as lines:
        for line in lines:
            message = line.rstrip(b"\n")
            yield message[message.index(b'"msg":') + 6 : -1] if message.startswith(b'{"recv_ns"') else message


@pytest.mark.parametrize("name", COUNTS)
def test_every_message_is_the_event_it_should_be(recordings: Path, name: str) -> None:
    """Alone and in the publisher's envelope, under the stream name the publisher makes up for it."""
    decode = Decoder(MARKET_OF[name.partition("/")[0]])
    counted: Counter[str] = Counter()
    for number, message in enumerate(messages(recordings / f"{name}.jsonl.gz")):
        (event,) = map(_with_pairs, decode(message, RECEIVED_MS))
        assert isinstance(event, Event), (event, message)
        counted[DATASET_OF[type(event)].name] += 1
        (enveloped,) = map(_with_pairs, decode(_envelope(message), RECEIVED_MS))
        if enveloped != event:
            assert _but_its_time(enveloped) == _but_its_time(event)
        if number % 97 == 0:
            _check_texts(event, json.loads(message)["data"])
    assert counted == COUNTS[name]


def _with_pairs(outcome: Any) -> Any:
    """The outcome with levels left as text read."""
    texts = [name for name in ("bids", "asks") if isinstance(getattr(outcome, name, None), msgspec.Raw)]
    for name in texts:
        pairs = [(price, quantity) for price, quantity in msgspec.json.decode(getattr(outcome, name))]
        msgspec.structs.force_setattr(outcome, name, pairs)
    return outcome


def _envelope(combined: bytes) -> bytes:
    """As the publisher sends it: its own stream name, which for a change of the book is that of a partial book."""
    at = combined.index(b'"data":')
    label = combined[: at - 2].removeprefix(b'{"stream":"')
    symbol, _, stream = label.partition(b"@")
    made_up = {b"depth": b"depth20@100ms", b"kline_1m": b"kline"}.get(stream.partition(b"@")[0], stream)
    return b'{"stream":"' + symbol + b"@" + made_up + b'",' + combined[at:-1] + _TAIL


def _but_its_time(event: Any) -> dict[str, Any]:
    """A spot best bid and ask names no time: alone it has ours, in the envelope the publisher's."""
    assert DATASET_OF[type(event)] is DATASETS["book_ticker"]
    assert event.clock in ("ours", "publisher")
    return {name: getattr(event, name) for name in event.__struct_fields__ if name not in ("event_ms", "clock")}


def _check_texts(event: Event, data: dict[str, Any]) -> None:
    """Numbers keep the venue's text: every value of the event stands in the message as it is."""
    flat = [data, data.get("k", {})]
    raw = {str(value) for part in flat for value in part.values()} | {"venue", "ours", "None"}
    for name, value in msgspec.structs.asdict(event).items():
        if isinstance(value, list):
            assert [[*level] for level in value] == data["b" if name == "bids" else "a"]
        elif (name, getattr(event, "clock", "")) != ("event_ms", "ours"):
            assert str(value) in raw, name


@pytest.mark.parametrize("name", OTHERS)
def test_other_venues_are_no_events(recordings: Path, name: str) -> None:
    decoders = [Decoder(market) for market in MARKET_OF.values()]
    count = 0
    for message in messages(recordings / "other_exchanges" / "ws" / f"{name}.jsonl.gz"):
        count += 1
        for decode in decoders:
            for payload in (message, b'{"stream":"btcusdt@depth20@100ms","data":' + message + _TAIL):
                assert not [outcome for outcome in decode(payload, RECEIVED_MS) if isinstance(outcome, Event)], message
    assert count == OTHERS[name]


def test_futures_changes_list_bids_rising_and_spot_ones_falling(recordings: Path) -> None:
    """The evidence behind the rule of wire_books.py; docs/wire-evidence.md quotes these figures."""
    counted: Counter[tuple[str, str]] = Counter()
    for name in COUNTS:
        market = "spot" if "spot" in name else "futures"
        for message in messages(recordings / f"{name}.jsonl.gz"):
            if b'"depthUpdate"' in message:
                counted[market, _order(_SIDES.decode(message).data.b)] += 1
                counted[market, "looks whole"] += _looks_whole(_SIDES.decode(message).data)
    assert counted == {
        ("futures", "rising"): 47_374, ("futures", "few"): 57_162 - 47_374, ("futures", "looks whole"): 0,
        ("spot", "falling"): 5_471, ("spot", "few"): 6_316 - 5_471, ("spot", "looks whole"): 238,
    }  # fmt: skip


class _Sides(msgspec.Struct):
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]


class _Message(msgspec.Struct):
    data: _Sides


_SIDES = msgspec.json.Decoder(_Message)


def _order(bids: list[tuple[str, str]]) -> str:
    prices = [float(price) for price, _ in bids]
    if len(prices) < 2:
        return "few"
    if prices == sorted(prices):
        return "rising"
    return "falling" if prices == sorted(prices, reverse=True) else "mixed"


def _looks_whole(sides: _Sides) -> bool:
    few = len(sides.b) <= 20 and len(sides.a) <= 20
    return few and _order(sides.b) == "falling" and all(float(quantity) for _, quantity in sides.b + sides.a)


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample.source], ids=lambda sample: sample.name)
def test_recorded_payloads_are_recorded(recordings: Path, sample: Any) -> None:
    """What a payload file calls recorded stands in its source, byte for byte."""
    path = recordings / sample.source
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    row = sample.payload
    if sample.origin == "enveloped":
        row = row[row.index(b'"data":') + 7 : row.index(b',"timestamp":"2025-10-20')]
    assert sample.origin in ("recorded", "enveloped")
    assert row in content
