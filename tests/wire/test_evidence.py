"""Do we read the venue right? Every variant of docs/wire-evidence.md has a payload, and every payload its snapshot."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from data_manager.adapters.binance import wire, wire_words
from data_manager.adapters.binance.wire import DATASET_OF, Decoder, dataset_of, trace_parent
from data_manager.domain.datasets import BY_EVENT, DATASETS
from data_manager.domain.errors import BadSetting, Rejected
from data_manager.domain.events import Trade

from .samples import FOLDER, SAMPLES, Sample

_EVIDENCE = Path(__file__).parents[2] / "docs" / "wire-evidence.md"
_OBJECTS = [sample for sample in SAMPLES if sample.payload.startswith(b"{") and sample.name != "truncated"]


def _by_name(sample: Sample) -> str:
    return sample.name


@pytest.mark.parametrize("sample", SAMPLES, ids=_by_name)
def test_payload_gives_its_snapshot(sample: Sample) -> None:
    assert sample.decoded() == sample.outcomes


_TRADE = {"e": "trade", "E": 1680652700455, "s": "币安人生USDT", "t": 1, "p": 1.5}
_BOOK = {"lastUpdateId": 1, "bids": [["1"]], "asks": []}


@pytest.mark.parametrize(
    ("row", "stream", "series"),
    [
        (_TRADE, "trade", "um.trade.币安人生USDT"),
        (_TRADE | {"s": "../x"}, "trade", None),
        (_TRADE | {"s": "BTCUSD_PERP"}, "trade", None),
        ({"e": "kline", "E": 1, "s": "BTCUSDT", "k": {"s": "BTCUSDT", "i": "1M"}}, "kline", "um.candle.BTCUSDT.1M"),
        ({"e": "kline", "E": 1, "s": "BTCUSDT", "k": {"s": "BTCUSDT", "i": "1H"}}, "kline", None),
        ({"e": "forceOrder", "E": 1, "o": {"s": "BTCUSDT"}}, "forceOrder", "um.liquidation.BTCUSDT"),
        (_BOOK, "depth", None),  # its label may be wrong
        (_BOOK | {"s": "ETHUSDT"}, "depth", "um.depth.ETHUSDT"),
        ({"e": "mystery", "s": "BTCUSDT"}, None, None),
    ],
    ids=str,
)
def test_of_what_is_rejected_stream_and_series_are_told_as_far_as_they_can_be_read(
    row: dict[str, Any], stream: str | None, series: str | None
) -> None:
    (why,) = Decoder("um")(msgspec.json.encode({"stream": "btcusdt@depth20@100ms", "data": row}), 0)
    assert isinstance(why, Rejected)
    assert (why.stream, why.series) == (stream, series)


def test_evidence_table_and_payloads_agree() -> None:
    named = re.findall(r"`(\w+)\.jsonl`", _EVIDENCE.read_text())
    assert sorted(named) == sorted(path.stem for path in FOLDER.iterdir())


def test_every_dataset_of_the_venue_has_a_payload() -> None:
    shown = {outcome["dataset"] for sample in SAMPLES for outcome in sample.outcomes if "dataset" in outcome}
    assert shown == DATASETS.keys() - {"metric"}  # which we derive ourselves


@pytest.mark.parametrize("sample", _OBJECTS, ids=_by_name)
def test_unknown_fields_change_nothing(sample: Sample) -> None:
    """At the top and in every object below, at the front and at the end."""
    news = '"zz":{"a":[1,{"b":null}]},"CLOCK":"x"'
    text = sample.payload.decode()
    assert _gist(sample.decoded(text.replace("{", f"{{{news},").replace(",}", "}").encode())) == _gist(sample.outcomes)
    if "{}" not in text:
        assert _gist(sample.decoded(text.replace("}", f",{news}}}").encode())) == _gist(sample.outcomes)


@pytest.mark.parametrize("sample", _OBJECTS, ids=_by_name)
def test_order_of_keys_and_blanks_change_nothing(sample: Sample) -> None:
    """The typed path and the closer look mean the same: odd spellings take the second."""
    message = json.loads(sample.payload, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    for text in (json.dumps(message), json.dumps(message, indent=2), json.dumps(message, ensure_ascii=False)):
        assert _gist(sample.decoded(text.encode())) == _gist(sample.outcomes)


def _gist(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in outcome.items() if name != "message"} for outcome in outcomes]


def test_wire_structs_are_their_domain_events() -> None:
    """Same columns in the same order, so generic code may take them by name or by position."""
    for kind in wire_words.EVENTS:
        domain = kind.__mro__[1]
        assert kind.__struct_fields__ == domain.__struct_fields__
        assert DATASET_OF[kind] is BY_EVENT[domain]
    assert DATASET_OF.keys() >= BY_EVENT.keys()


def test_decoded_trade_works_as_a_trade() -> None:
    sample = next(sample for sample in SAMPLES if sample.name == "trade_um")
    (trade,) = Decoder("um")(sample.payload, 0)
    assert isinstance(trade, Trade)
    assert trade.price == "61800.30"
    assert dataset_of(trade) is DATASETS["trade"]
    assert isinstance(trade, get_args(wire.Outcome))


def test_unknown_market_is_refused() -> None:
    with pytest.raises(BadSetting, match="MARKET='usdm'"):
        Decoder("usdm")


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        ({"_otel_trace_context": {"traceparent": PARENT, "tracestate": "a=b"}}, PARENT),
        ({"_otel_trace_headers": {"traceparent": PARENT}}, PARENT),
        ({"_otel_trace_context": {}, "_otel_trace_headers": {"traceparent": PARENT}}, PARENT),
        ({"_otel_trace_context": "junk", "_otel_trace_headers": {"traceparent": PARENT}}, PARENT),
        ({"_otel_trace_context": {"traceparent": "00-xyz"}}, None),
        ({"_otel_trace_context": {"traceparent": 7}}, None),
        ({"_trace_context": {"traceparent": PARENT}}, None),
        ({}, None),
    ],
)
def test_trace_parent(envelope: dict[str, Any], expected: str | None) -> None:
    payload = msgspec.json.encode({"stream": "btcusdt@trade", "data": {}, **envelope})
    assert trace_parent(payload) == expected


@pytest.mark.parametrize(
    "payload",
    [b"", b"_otel", b'{"_otel_trace_context":', b'"_otel_trace_context"', b'["_otel_trace_context"]', b"\xff" + b'"_otel_trace_',
     b'{"_otel_trace_context":' + b"[" * 100_000, b'{"_otel_trace_context":1' + b" " * (1 << 20) + b"}"],
    ids=str,
)  # fmt: skip
def test_trace_parent_of_rubbish_is_none(payload: bytes) -> None:
    assert trace_parent(payload) is None
