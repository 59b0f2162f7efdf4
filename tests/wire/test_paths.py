"""The venue's path of a column: the same place the decoder blames, and the place where the value stands."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.binance.wire_paths import path_of
from data_manager.domain.errors import Invalid
from data_manager.domain.events import Event
from tests.wire.samples import RECEIVED_MS, SAMPLES, Sample

WORKED_OUT = {"clock", "slot_ms", "rate_type"}  # columns that need not stand in the message


def _events(sample: Sample) -> Iterator[tuple[int, Event]]:
    for place, outcome in enumerate(Decoder(sample.market)(sample.payload, RECEIVED_MS)):
        if isinstance(outcome, Event):
            yield place, outcome


def _at(message: Any, path: str, place: int) -> Any:
    """The value at a path such as data[].k.h, of that row of an array."""
    for name in path.split("."):
        member, array, _ = name.partition("[]")
        message = message[member] if member else message
        message = message[place] if array else message
    return message


SPELT_AS_REST = "funding_rate_event_letters"  # the decoder names these fields as the REST rows have them


@pytest.mark.parametrize(
    "sample", [one for one in SAMPLES if one.name != SPELT_AS_REST], ids=lambda sample: sample.name
)
def test_every_column_stands_where_its_path_says(sample: Sample) -> None:
    message = None
    for place, event in _events(sample):
        message = message or json.loads(sample.payload)
        for field in DATASET_OF[type(event)].fields[:-2]:
            value = getattr(event, field.name)
            path = path_of(event, field.name, sample.payload)
            if path == field.name or field.name in WORKED_OUT or value is None:
                continue
            found = _at(message, path, place)
            if path == "timestamp":
                assert event.clock == "publisher"  # type: ignore[attr-defined]  # no other event is dated by it
            elif field.name in ("bids", "asks"):
                levels = msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
                assert sorted(map(list, levels)) == sorted(level[:2] for level in found)
            else:
                assert found == value, (field.name, path)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_columns_without_a_place_are_those_we_work_out(sample: Sample) -> None:
    for _, event in _events(sample):
        names = {field.name for field in DATASET_OF[type(event)].fields[:-2]}
        unplaced = {name for name in names if path_of(event, name, sample.payload) == name}
        unplaced -= {"bids", "asks"}  # a book's sides have our own names on the wire
        assert unplaced <= WORKED_OUT | ({"event_ms"} if getattr(event, "clock", "") == "ours" else set())


@pytest.mark.parametrize(
    ("frame", "path"),
    [
        ("%s", "p"),
        (" %s", "p"),
        ("[%s]", "[].p"),
        ('{"stream":"x","data":%s}', "data.p"),
        ('{"data":%s,"message_id":"1"}', "data.p"),
        ('{"stream":"x","data":[%s]}', "data[].p"),
        ('{"stream":"x","data": [%s]}', "data[].p"),
    ],
)
def test_the_path_of_a_broken_rule_is_that_of_a_broken_type(frame: str, path: str) -> None:
    trade = '{"e":"trade","E":1680652700000,"T":1680652700000,"s":"BTCUSDT","t":1,"p":%s,"q":"1","m":true}'
    whole = (frame % trade % '"-1"').encode()
    [event] = Decoder()(whole, RECEIVED_MS)
    assert isinstance(event, Event)
    assert path_of(event, "price", whole) == path
    [refused] = Decoder()((frame % trade % "-1").encode(), RECEIVED_MS)
    assert isinstance(refused, Invalid)
    assert refused.field == path
