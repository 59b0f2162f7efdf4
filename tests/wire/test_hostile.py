"""Random, truncated, mutated and hostile bytes: outcomes come out, errors never."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import DATASET_OF, LABELLED, MAX_ROWS, Decoder
from data_manager.domain.dataset import MARKETS, Kind
from data_manager.domain.errors import Rejected, Undecodable
from data_manager.domain.events import Event, Ignored, Outcome
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import EARLIEST_MS, LATEST_MS

from .samples import RECEIVED_MS, SAMPLES

DECODERS = {market: Decoder(market) for market in MARKETS}
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
TRADE = next(sample.payload for sample in SAMPLES if sample.name == "trade_um_bare")
ENVELOPED = next(sample.payload for sample in SAMPLES if sample.name == "trade_um_enveloped")
BOOK = next(sample.payload for sample in SAMPLES if sample.name == "depth_spot_partial_enveloped")


def _check(payload: bytes, market: str = "um") -> list[Outcome]:
    """Decode, and hold every outcome against what the rest of the house relies on."""
    outcomes = DECODERS[market](payload, RECEIVED_MS)
    assert isinstance(outcomes, list)
    assert outcomes
    for outcome in outcomes:
        if isinstance(outcome, Event):
            _check_event(outcome, market)
        else:
            assert isinstance(outcome, (Rejected, Ignored))
            assert len(str(outcome)) < 1_000
            str(outcome).encode()
    return outcomes


def _check_event(event: Event, market: str) -> None:
    dataset = DATASET_OF[type(event)]
    assert is_symbol(event.symbol, market)
    for field in dataset.fields[:-2]:
        value = getattr(event, field.name)
        if value is None:
            assert field.optional
        elif field.kind is Kind.INT:
            assert type(value) is int
            assert -1 <= value < 2**63
            assert not field.name.endswith("_ms") or EARLIEST_MS <= value < LATEST_MS
        elif field.kind is Kind.FLAG:
            assert type(value) is bool
        elif field.kind is Kind.LEVELS:
            pairs = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
            assert all(isinstance(text, str) for level in pairs for text in level)
        else:
            assert isinstance(value, str)
            assert field.kind is not Kind.TEXT or len(value) <= 32
            value.encode()


def _refused(payload: bytes, market: str = "um") -> None:
    outcomes = _check(payload, market)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Event)]


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x00")
@settings(deadline=None)
def test_random_bytes(payload: bytes) -> None:
    _refused(payload)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
letters = st.sampled_from([*"estTpqmXEabBAukiofLUlShcvnVQxwCOFPzr"]) | st.sampled_from([
    "pu", "nq", "ap", "st", "ps", "lastUpdateId", "bids", "asks", "symbol", "fundingTime", "fundingRate", "markPrice",
    "stream", "data", "timestamp", "message_id", "result", "id", "error", "service", "version", "status",
])  # fmt: skip
kinds = st.sampled_from(["trade", "aggTrade", "kline", "depthUpdate", "bookTicker", "markPriceUpdate", "24hrTicker",
                         "forceOrder", "fundingRate", "BTCUSDT", "btcusdt@depth20", "!ticker@arr", "1.0", "1m"])  # fmt: skip
times = st.integers(EARLIEST_MS - 2, LATEST_MS + 2)
values = st.recursive(
    scalars | kinds | times,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters | st.text(max_size=3), inner, max_size=8),
    max_leaves=20,
)


@given(values, st.sampled_from(MARKETS))
@settings(max_examples=200, deadline=None)
def test_random_json(value: Any, market: str) -> None:
    _check(json.dumps(value).encode(), market)


@given(st.dictionaries(letters, values, max_size=12), kinds)
@settings(max_examples=100, deadline=None)
def test_random_fields_of_a_known_kind(row: dict[str, Any], kind: str) -> None:
    for message in ({**row, "e": kind}, {"stream": f"btcusdt@{kind}", "data": {**row, "e": kind}}, [row, {"e": kind}]):
        _check(json.dumps(message).encode())


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_cut_off_at_every_byte(sample: Any) -> None:
    """What is left of an object or an array is no JSON: never an event from half a message."""
    for length in range(len(sample.payload)):
        outcomes = _check(sample.payload[:length], sample.market)
        if sample.payload[:1] in (b"{", b"["):
            assert [type(outcome) for outcome in outcomes] == [Undecodable]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_mutated_payloads(sample: Any) -> None:
    """Bytes changed, removed, doubled and swapped, pieces of other payloads set in; the seed is the payload's name."""
    dice = random.Random(sample.name)
    for _ in range(150):
        payload = bytearray(sample.payload)
        for _ in range(dice.randint(1, 4)):
            _mutate(payload, dice)
        _check(bytes(payload), dice.choice(MARKETS))


def _mutate(payload: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(payload) + 1)
    other = dice.choice(SAMPLES).payload
    start = dice.randrange(len(other))
    match dice.randrange(5):
        case 0 if at < len(payload):
            payload[at] = dice.randrange(256)
        case 1:
            del payload[at : at + dice.randint(1, 20)]
        case 2:
            payload[at:at] = payload[at : at + 30]
        case 3:
            payload[at:at] = other[start : start + dice.randint(1, 60)]
        case _:
            payload[at:at] = dice.choice([b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"-1", b"1e9", b"\\ud800"])


ODD = (None, True, -1, 0, 1, 1.5, 2**63, 10**30, "", "-1", "NaN", "x" * 99, [], [[]], [["1"]], {}, {"e": "trade"})


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_value_replaced_by_something_odd(sample: Any) -> None:
    try:
        message = json.loads(sample.payload)
    except ValueError:
        return  # a payload that is no JSON has no values
    for put in [*_values_of(message)]:
        for odd in ODD:
            _check(json.dumps(put(odd)).encode(), sample.market)


def _values_of(message: Any) -> Iterator[Callable[[Any], Any]]:
    """Functions that give the message with one of its values replaced: one function for every value in it."""
    yield lambda odd: odd
    places = message.items() if isinstance(message, dict) else enumerate(message) if isinstance(message, list) else ()
    for key, value in [*places]:
        for put in _values_of(value):
            yield lambda odd, key=key, put=put: _with(message, key, put(odd))


def _with(message: Any, key: Any, value: Any) -> Any:
    copy = message.copy()
    copy[key] = value
    return copy


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    for market in MARKETS:
        _refused(path.read_bytes(), market)


def _trade(old: bytes, new: bytes) -> bytes:
    assert TRADE.count(old) == 1
    return TRADE.replace(old, new)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"[" * 100_000, id="arrays in arrays"),
        pytest.param(b'{"a":' * 100_000, id="objects in objects"),
        pytest.param(b'{"stream":"x","data":' * 20_000, id="frames in frames"),
        pytest.param(b"[" * 900 + b"]" * 900, id="deep but whole"),
        pytest.param(_trade(b'"st":1', b'"z":' + b"[" * 200_000 + b"]" * 200_000), id="bomb in an unknown field"),
        pytest.param(_trade(b'"BTCUSDT"', b'"' + b"A" * 10_000_000 + b'"'), id="10 MB symbol"),
        pytest.param(_trade(b'"st":1', b'"st":' + b" " * (1 << 20) + b"1"), id="over 1 MiB"),
        pytest.param(_trade(b'"MARKET"', b'"' + b"A" * 33 + b'"'), id="long word"),
        pytest.param(_trade(b'"MARKET"', b'"\xff\xfe"'), id="invalid UTF-8"),
        pytest.param(_trade(b'"st":1', b'"z":"\xff"'), id="invalid UTF-8 in an unknown field"),
        pytest.param(_trade(b'"st":1', b'"\xc3\x28":1'), id="invalid UTF-8 in a key"),
        pytest.param(_trade(b'"MARKET"', b'"\\ud800"'), id="lone surrogate"),
        pytest.param(_trade(b'"MARKET"', b'"\xed\xa0\x80"'), id="lone surrogate in UTF-8"),
        pytest.param(_trade(b'"st":1', b'"\\udc00":1'), id="lone surrogate in an unknown key"),
        pytest.param(_trade(b'"st":1', b'"e":"kline"'), id="two kinds"),
        pytest.param(_trade(b"7000000001", b"9" * 30), id="id of 30 digits"),
        pytest.param(_trade(b"7000000001", b"9" * 100_000), id="id of 100,000 digits"),
        pytest.param(_trade(b"7000000001", b"9223372036854775808"), id="id beyond 64 bits"),
        pytest.param(_trade(b"7000000001", b"-1"), id="negative id"),
        pytest.param(_trade(b"7000000001", b"7000000001.0"), id="float for an id"),
        pytest.param(_trade(b"7000000001", b"7e9"), id="exponent for an id"),
        pytest.param(_trade(b"7000000001", b'"7000000001"'), id="text for an id"),
        pytest.param(_trade(b"7000000001", b"true"), id="flag for an id"),
        pytest.param(_trade(b"1790000000120", b"1790000000"), id="seconds"),
        pytest.param(_trade(b"1790000000120", b"1790000000120000"), id="microseconds"),
        pytest.param(_trade(b"1790000000120", b"0"), id="the epoch"),
        pytest.param(_trade(b'"110123.40"', b"110123.40"), id="number for a price"),
        pytest.param(_trade(b'"110123.40"', b"NaN"), id="NaN"),
        pytest.param(_trade(b'"110123.40"', b"null"), id="null for a price"),
        pytest.param(_trade(b'"110123.40"', b'["110123.40"]'), id="array for a price"),
        pytest.param(_trade(b'"m":true', b'"m":1'), id="1 for true"),
        pytest.param(_trade(b'"BTCUSDT"', b'"btcusdt"'), id="lower case symbol"),
        pytest.param(_trade(b'"BTCUSDT"', b'"BTC\\u0000USDT"'), id="NUL in the symbol"),
        pytest.param(_trade(b'"BTCUSDT"', b'"../../etc"'), id="a path for a symbol"),
        pytest.param(_trade(b'"BTCUSDT"', b'""'), id="empty symbol"),
        pytest.param(_trade(b'"MARKET"', b'"MAR\x00KET"'), id="NUL"),
        pytest.param(b"\xef\xbb\xbf" + TRADE, id="byte order mark"),
        pytest.param(TRADE.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(TRADE + TRADE, id="two messages"),
        pytest.param(TRADE[:-1] + b",}", id="trailing comma"),
        pytest.param(TRADE.replace(b'"', b"'"), id="single quotes"),
        pytest.param(b"[" + b"0," * MAX_ROWS + b"0]", id="too many rows"),
        pytest.param(b"[" + b"{}," * MAX_ROWS + b"{}]", id="too many objects"),
        pytest.param(b'[[{"e":"trade"}],1,null,"x"]', id="rows of rows"),
    ],
)
def test_hostile_messages_are_refused(payload: bytes) -> None:
    _refused(payload)
    _refused(b'{"stream":"btcusdt@trade","data":' + payload + b"}")


def test_a_flood_of_rows_is_one_dead_letter() -> None:
    assert len(_check(b"[" + b"0," * 300_000 + b"0]")) == 1


def test_a_message_that_is_too_large_is_not_parsed() -> None:
    (outcome,) = _check(b'"' + b"x" * (10 << 20))
    assert isinstance(outcome, Undecodable)
    assert str(outcome) == "10485761 bytes: a market message has at most 1048576"


def test_of_a_doubled_key_the_last_counts() -> None:
    """As with every common JSON reader; both paths agree on it."""
    for payload in (_trade(b'"st":1', b'"p":"2"'), _trade(b'"st":1', b'"p":"2","E" : 1790000000124')):
        (outcome,) = _check(payload)
        assert msgspec.structs.asdict(outcome)["price"] == "2"


names = st.text(st.sampled_from("AZ09_USDTPERP币ªſ٣a ") | st.characters(), max_size=50)


@given(names | st.builds(str.__add__, names, st.sampled_from(["USD_PERP", "_261225", "USD_261225"])))
@example("BTCUSD_261225")
@example("币安人生USDT")
def test_the_decoder_takes_exactly_the_symbols_that_can_be_asked_for(symbol: str) -> None:
    if not symbol.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in symbol):
        return  # half of a pair is no JSON text
    payload = _trade(b'"s":"BTCUSDT"', b'"s":' + json.dumps(symbol).encode())
    assert payload != TRADE or symbol == "BTCUSDT"
    for market in MARKETS:
        (outcome,) = _check(payload, market)
        assert isinstance(outcome, Event) == is_symbol(symbol, market)
        assert not isinstance(outcome, Event) or outcome.symbol == symbol


@pytest.mark.parametrize(
    "timestamp",
    [b'"now"', b'""', b"7", b"null", b'"9999-99-99T00:00:00Z"', b'"0001-01-01T00:00:00+23:59"', b'"1970-01-01T00:00:00Z"',
     b'"9999-12-31T23:59:59.999999-23:59Z"', b"{}"],
    ids=bytes.decode,
)  # fmt: skip
def test_a_timestamp_that_is_none_leaves_our_clock(timestamp: bytes) -> None:
    (outcome,) = _check(BOOK.replace(b'"2025-10-20T12:34:56.789012Z"', timestamp), "spot")
    event = msgspec.structs.asdict(outcome)
    assert (event["event_ms"], event["clock"]) == (RECEIVED_MS, "ours")


@pytest.mark.parametrize("label", [b"null", b"7", b'""', b'"' + b"x" * 5_000 + b'"', b'"@"', b'"!!@@"', b'"\\u0000"'])
def test_a_label_that_is_none_takes_no_trade_away(label: bytes) -> None:
    (outcome,) = _check(ENVELOPED.replace(b'"btcusdt@trade"', label))
    assert isinstance(outcome, Event)


@pytest.mark.parametrize(
    "label", [b"null", b"7", b'""', b'"btcusdt"', b'"@depth20"', b'"!depth@arr"', b'"b.c@depth20"']
)
def test_a_book_whose_label_names_no_symbol_is_refused(label: bytes) -> None:
    _refused(BOOK.replace(b'"btcusdt@depth20@100ms"', label), "spot")


@pytest.mark.parametrize("named", [b'"s":"ETHUSDT",', b'"symbol":"ETHUSDT",', b'"x":1,"s":"ETHUSDT",'])
def test_a_book_that_names_its_symbol_does_not_ask_the_label(named: bytes) -> None:
    (labelled,) = _check(BOOK, "spot")
    (own,) = _check(BOOK.replace(b'"lastUpdateId"', named + b'"lastUpdateId"'), "spot")
    assert (labelled.symbol, type(labelled) in LABELLED) == ("BTCUSDT", True)  # type: ignore[union-attr]
    assert (own.symbol, type(own) in LABELLED) == ("ETHUSDT", False)  # type: ignore[union-attr]
    assert {**_fields(own), "symbol": None} == {**_fields(labelled), "symbol": None}


@pytest.mark.parametrize("known", [b"", b'"x":1,'])  # read by one typed decode, and by the closer look
@pytest.mark.parametrize("name", [b'"(symbol)"', b'"(clock)"'])
def test_nobody_can_name_what_we_work_out(name: bytes, known: bytes) -> None:
    (plain,) = _check(BOOK, "spot")
    (outcome,) = _check(BOOK.replace(b'"lastUpdateId"', known + name + b':"ETHUSDT","lastUpdateId"'), "spot")
    assert (type(outcome), outcome) == (type(plain), plain)


def _fields(outcome: Outcome) -> dict[str, Any]:
    return msgspec.structs.asdict(outcome)
