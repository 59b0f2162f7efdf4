"""A certificate notices every change of every value, and names the row; how rows are cut or kept changes nothing."""

import gzip
import hashlib
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from data_manager.adapters.binance.wire import Decoder, dataset_of
from data_manager.domain.batch import STREAM, Batch, build, joined, pack, settle
from data_manager.domain.dataset import Kind, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.events import Candle, DepthUpdate, Event, Liquidation, Metric, Number, Trade
from data_manager.domain.proof.canonical import FORM, facts, normal, row_hashes, streams
from data_manager.domain.proof.certificate import (
    Certificate,
    Contents,
    Fingerprint,
    KnownHole,
    block_keys,
    id_of,
    issue,
)
from data_manager.domain.proof.locate import Mismatch, Verdict, Verifier
from data_manager.domain.span import Span
from data_manager.domain.time import parse_time
from data_manager.domain.values.columns import Flags, Floats, Ints, Texts
from data_manager.domain.values.decimals import Decimals, parse_decimals

BASE_MS = parse_time("2024-01-01T00:00:00Z")
ROWS = 60
KEYS = 16  # per block


def batch_of(events: Sequence[Event], origin: str = STREAM, received_ms: int = BASE_MS) -> Batch:
    packed = pack(dataset_of(events[0]), "um", events, [received_ms] * len(events), origin)
    assert packed.refused == []
    return packed.batch


def trade(number: int) -> Trade:
    return Trade(
        symbol="BTCUSDT", trade_id=number, price=Number(f"{10 + number % 7}.50"), quantity=Number("2.000" if number % 5 else "0.1"),
        traded_ms=BASE_MS + 10 * number, buyer_is_maker=number % 3 == 0, kind=None if number % 4 else "MARKET", event_ms=BASE_MS,
    )  # fmt: skip


def update(number: int) -> DepthUpdate:
    levels = [(Number(f"{100 - step}.5"), Number("0" if step % 2 else "1.25")) for step in range(number % 4)]
    return DepthUpdate(
        symbol="BTCUSDT", update_id=number, first_update_id=number, previous_update_id=None if number % 5 == 0 else number - 1,
        event_ms=BASE_MS + number, bids=levels, asks=levels[::-1],
    )  # fmt: skip


def candle(number: int) -> Candle:
    low = Number(str(number % 5 + 1))
    return Candle(
        symbol="BTCUSDT", interval="1m", open_ms=BASE_MS + number * 60_000, open=low, high=Number("9"), low=low, close=Number("9.0"),
        volume=Number("12345678901234567890.5"), trades=number, close_ms=BASE_MS + number * 60_000 + 59_999, closed=True,
    )  # fmt: skip


def liquidation(number: int) -> Liquidation:
    one, two = Number("1"), Number(str(number % 3 + 9))
    return Liquidation(
        symbol="BTCUSDT", traded_ms=BASE_MS + number // 3, price=two, quantity=one, side="SELL", average_price=one,
        last_filled_quantity=one, filled_quantity=one, order_type="LIMIT", time_in_force="IOC", status="FILLED",
    )  # fmt: skip


def metric(number: int) -> Metric:
    return Metric(
        symbol="BTCUSDT", interval="1h", as_of_ms=BASE_MS + number, metric="m", method="x", window="1d",
        value=None if number % 6 == 0 else number / 7, inputs_have=number, inputs_need=9,
    )  # fmt: skip


KINDS = (trade, update, candle, liquidation, metric)
WHOLE = {make: batch_of([make(number) for number in range(ROWS)]) for make in KINDS}
wholes = st.sampled_from(list(WHOLE.values()))


def width(batch: Batch) -> int:
    return KEYS * (60_000 if batch.dataset.name == "candle" else 1)


def contents(batches: Iterable[Batch], per_block: int = KEYS) -> Contents:
    fingerprint = Fingerprint(per_block)
    for batch in batches:
        fingerprint.update(batch)
    return fingerprint.finish()


def certificate(batch: Batch, per_block: int | None = None) -> Certificate:
    return issue(
        contents([batch], per_block or width(batch)), series=batch.series[0].id, span=Span(BASE_MS, BASE_MS + 1), checks=("told_once",),
        offences={}, condition={}, holes=(), rule_version=1, previous=None, issued_ms=5,
    )  # fmt: skip


def verdict(given: Certificate, *batches: Batch) -> Verdict:
    verifier = Verifier(given)
    for batch in batches:
        verifier.update(batch)
    return verifier.verdict()


def cut(batch: Batch, places: Iterable[int]) -> list[Batch]:
    edges = [0, *sorted(places), len(batch)]
    return [batch.take(slice(start, end)) for start, end in pairwise(edges)]


# ── What does not change the content ─────────────────────────────────────────────────────────────────────────────────


@given(wholes, st.lists(st.integers(0, ROWS), max_size=8))
def test_how_the_rows_are_cut_into_batches_changes_nothing(whole: Batch, places: list[int]) -> None:
    assert contents(cut(whole, places), width(whole)) == contents([whole], width(whole))


@given(wholes, st.integers(1, 1000))
def test_the_content_does_not_depend_on_the_size_of_the_blocks(whole: Batch, per_block: int) -> None:
    assert contents([whole], per_block * 60_000).content == contents([whole], 1 << 30).content


@given(st.permutations(range(9)))
def test_rows_that_share_the_first_part_of_their_key_may_come_in_any_order(order: list[int]) -> None:
    whole = WHOLE[liquidation].take(slice(0, 9))
    order.sort(key=lambda number: number // 3)
    assert contents([whole.take(np.array(order))]) == contents([whole])


def test_what_is_ours_and_how_a_number_is_written_do_not_count() -> None:
    streamed = batch_of([trade(number) for number in range(9)])
    fetched = [
        replace(trade(n), event_ms=None, price=Number(trade(n).price + "00"), quantity=Number("0" + trade(n).quantity))
        for n in range(9)
    ]
    healed = batch_of(fetched, "archive:trades", BASE_MS + 999)
    assert isinstance(healed.columns["quantity"], Decimals)
    assert healed.columns["quantity"].odd
    assert contents([healed]).content == contents([streamed]).content
    assert contents([healed]).sources == {"archive:trades": 9}


def test_time_counts_where_it_is_the_key() -> None:
    assert "event_ms" in {field.name for field in facts(DATASETS["ticker"])}
    assert {field.name for field in facts(DATASETS["trade"])} == {
        "trade_id",
        "price",
        "quantity",
        "traded_ms",
        "buyer_is_maker",
        "kind",
    }
    assert "closed" not in {field.name for field in facts(DATASETS["candle"])}


same_numbers = [
    ("1.10", "1.1"), ("0.000", "0"), ("-0.0", "0"), ("1e3", "1000.0"), ("007", "7"), ("1e-5", "0.00001"),
    ("123456789012345678901.50", "123456789012345678901.5"), ("9223372036854775807", "9223372036854775807.0"), ("1e33", "1" + "0" * 33),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), same_numbers)
def test_equal_numbers_have_one_form(one: str, other: str) -> None:
    forms = {tuple(int(part[0]) for part in normal(parse_decimals([text])[0])) for text in (one, other)}
    assert len(forms) == 1


def test_absent_is_not_zero_and_unequal_numbers_have_two_forms() -> None:
    texts = ["0", "1", "1.1", "11", "-1", "123456789012345678901.5", "123456789012345678901.6", "1e-30", None]
    columns, _ = parse_decimals(texts)
    assert len(set(zip(*(part.tolist() for part in normal(columns)), strict=True))) == len(texts)


def word(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


def number(text: str | None) -> tuple[bytes, bytes]:
    """Mantissa and scale of the form, by the text alone."""
    if text is None:
        return bytes(8), b"\xfe"
    whole, _, fraction = f"{Decimal(text):f}".partition(".")
    fraction = fraction.rstrip("0")
    mantissa = int(whole + fraction)
    if abs(mantissa) < 2**63:
        return struct.pack("<q", mantissa), bytes([len(fraction)])
    return word(f"{mantissa}e-{len(fraction)}"), b"\xff"


def item(kind: Kind, optional: bool, value: Any) -> tuple[bytes, ...]:
    """What one value adds to each stream of its column, as the table of the form says it."""
    match kind:
        case Kind.INT:
            present = (bytes([value is not None]),) if optional else ()
            return (struct.pack("<q", value or 0), *present)
        case Kind.NUMBER:
            return number(value)
        case Kind.TEXT:
            return (bytes(8) if value is None else word(value),)
        case Kind.FLAG:
            return (bytes([value]),)
        case Kind.FLOAT:
            return (struct.pack("<d", float("nan") if value is None else value),)
        case Kind.LEVELS:
            sides = [number(part) for pair in value for part in pair]
            price, quantity = sides[::2], sides[1::2]
            parts = [b"".join(one[place] for one in side) for side in (price, quantity) for place in (0, 1)]
            return (struct.pack("<i", len(value)), *parts)


def plainly(batch: Batch) -> str:
    """The content hash, value by value."""
    columns = {}
    for field in facts(batch.dataset):
        items = [item(field.kind, field.optional, value) for value in batch.columns[field.name].values_list()]
        digests = [hashlib.sha256(b"".join(parts)).digest() for parts in zip(*items, strict=True)]
        columns[field.name] = hashlib.sha256(b"".join(digests)).hexdigest()
    return hashlib.sha256(msgspec.json.encode([FORM, len(batch), columns])).hexdigest()


@pytest.mark.parametrize("make", [trade, update, candle, metric])
def test_the_content_is_what_the_table_of_the_form_says(make: Callable[[int], Event]) -> None:
    assert contents([WHOLE[make]]).content == plainly(WHOLE[make])


def test_the_sums_of_the_blocks_are_what_they_were_when_certificates_were_issued() -> None:
    """Other sums, or another table, need another FORM: certificates are kept for years."""
    sums = {make.__name__: contents([WHOLE[make]], width(WHOLE[make])).blocks[0].sum_h for make in KINDS}
    assert (FORM, sums) == (1, PINNED)


PINNED = {
    "trade": 7608147041020071659, "update": 18370832286947017987, "candle": 9211910648874263894,
    "liquidation": 3884855872058332067, "metric": 12539862896180108205,
}  # fmt: skip


# ── What does ────────────────────────────────────────────────────────────────────────────────────────────────────────


def flipped(batch: Batch, name: str, row: int) -> Batch:
    """The same rows with one other value."""
    column: Any = batch.columns[name]
    values = column.values_list()
    value = values[row]
    match column:
        case Ints():
            values[row] = (value or 0) + 1
        case Flags():
            values[row] = not value
        case Floats():
            values[row] = (value or 0.0) + 1.5
        case Decimals():
            values[row] = f"{value or 1}1"
        case Texts():
            values[row] = f"{value}x"
        case _:
            values[row] = [*value, (Number("7"), Number("7"))]
    other, broken = build(batch.dataset.field[name], values)
    assert broken == {}
    return Batch(batch.dataset, batch.series, batch.codes, {**batch.columns, name: other})


@st.composite
def values(draw: st.DrawFn) -> tuple[Batch, str, int]:
    whole = draw(wholes)
    names = [field.name for field in facts(whole.dataset) if field.name != whole.dataset.key[0]]
    return whole, draw(st.sampled_from(names)), draw(st.integers(0, ROWS - 1))


@given(values())
def test_any_other_value_is_noticed_and_its_row_and_column_named(case: tuple[Batch, str, int]) -> None:
    whole, name, row = case
    found = verdict(certificate(whole), flipped(whole, name, row))
    key = int(whole.key[row])
    assert found.mismatches == (Mismatch("changed", key, key, 1),)
    assert found.columns == (name,) or (len(whole.dataset.key) > 1 and name in found.columns)


@given(wholes, st.integers(0, ROWS - 1), st.lists(st.integers(0, ROWS), max_size=4), st.sampled_from((1, 2, KEYS)))
def test_a_dropped_row_is_named(whole: Batch, row: int, places: list[int], rows_per_block: int) -> None:
    """Also where it was the only one of its block."""
    rest = whole.take(np.delete(np.arange(ROWS), row))
    key = int(whole.key[row])
    certified = certificate(whole, width(whole) * rows_per_block // KEYS)
    assert verdict(certified, *cut(rest, [min(place, ROWS - 1) for place in places])).mismatches == (
        Mismatch("missing", key, key, 1),
    )


@given(wholes, st.integers(0, ROWS - 1), st.lists(st.integers(0, ROWS), max_size=4))
def test_a_doubled_row_is_named(whole: Batch, row: int, places: list[int]) -> None:
    twice = whole.take(np.insert(np.arange(ROWS), row, row))
    key = int(whole.key[row])
    assert verdict(certificate(whole), *cut(twice, places)).mismatches == (Mismatch("doubled", key, key, 1),)


@given(st.integers(0, ROWS - 2))
def test_a_row_that_came_and_one_that_went_are_named(row: int) -> None:
    whole = batch_of([trade(2 * number) for number in range(ROWS)])
    moved = flipped(whole, "trade_id", row)
    assert verdict(certificate(whole), moved).mismatches == (
        Mismatch("missing", 2 * row, 2 * row, 1), Mismatch("unexpected", 2 * row + 1, 2 * row + 1, 1),
    )  # fmt: skip
    added = settle(joined([whole, batch_of([trade(2 * row + 1)])]))
    assert verdict(certificate(whole), added).mismatches == (Mismatch("unexpected", 2 * row + 1, 2 * row + 1, 1),)


@given(st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=20))
def test_many_dropped_rows_are_at_least_named_by_their_blocks(gone: set[int]) -> None:
    whole = WHOLE[trade]
    rest = whole.take(np.array([row for row in range(ROWS) if row not in gone]))
    found = verdict(certificate(whole), rest)
    blamed = {key for one in found.mismatches for key in range(one.first_key or 0, (one.last_key or 0) + 1)}
    assert gone <= blamed
    assert {key // KEYS for key in blamed} == {key // KEYS for key in gone}
    assert sum(one.rows for one in found.mismatches) == len(gone)


def test_several_changed_rows_in_one_block_name_the_block_and_in_several_each() -> None:
    whole = WHOLE[trade]
    twice = flipped(flipped(whole, "price", 3), "quantity", 9)
    found = verdict(certificate(whole), twice)
    assert found.mismatches == (Mismatch("block", 0, 15, 1),)
    assert found.columns == ("price", "quantity")
    apart = flipped(flipped(whole, "price", 3), "price", 29)
    assert [one.first_key for one in verdict(certificate(whole), apart).mismatches] == [3, 29]


def test_rows_beyond_those_certified_and_blocks_that_are_gone_are_named() -> None:
    whole = WHOLE[trade]
    more = settle(joined([whole, batch_of([trade(900), trade(901)])]))
    assert verdict(certificate(whole), more).mismatches == (Mismatch("unexpected", 900, 901, 2),)
    assert verdict(certificate(whole), whole.take(slice(16, ROWS))).mismatches == (Mismatch("missing", 0, 15, 16),)
    assert [one.rows for one in verdict(certificate(whole)).mismatches] == [16, 16, 16, 12]


def test_disorder_is_noticed() -> None:
    whole = WHOLE[trade]
    order = np.arange(ROWS)
    order[[20, 21]] = [21, 20]
    assert [one.kind for one in verdict(certificate(whole), whole.take(order)).mismatches] == ["disorder"]


def test_an_unchanged_series_agrees_and_a_changed_certificate_does_not() -> None:
    given = certificate(WHOLE[trade])
    assert verdict(given, WHOLE[trade]).agrees
    assert verdict(given, WHOLE[trade]).columns == ()
    for forged in (
        replace(given, checks=("told_once", "no_spike")),
        replace(given, previous="x"),
        replace(given, issued_ms=6),
    ):
        assert [one.kind for one in verdict(forged, WHOLE[trade]).mismatches] == ["certificate"]
    other = replace(given, contents=replace(given.contents, content="0" * 64))
    assert not verdict(replace(other, id=id_of(other)), WHOLE[trade]).agrees
    with pytest.raises(BadQuery, match="form"):
        Verifier(replace(given, contents=replace(given.contents, form=FORM + 1)))


def test_a_certificate_survives_its_way_through_json() -> None:
    given = replace(certificate(WHOLE[update]), holes=(KnownHole(1, 2, "open", None),))
    read = msgspec.json.decode(msgspec.json.encode(given), type=Certificate)
    assert read == given
    assert id_of(read) == id_of(given)


def test_nothing_has_contents_too() -> None:
    nothing = contents([])
    assert (nothing.rows, nothing.first_key, nothing.blocks) == (0, None, ())
    assert contents([WHOLE[trade].take(slice(0, 0))]) == nothing
    assert nothing.content != contents([WHOLE[trade]]).content


def test_blocks_hold_about_four_thousand_rows_however_far_apart_the_keys_are() -> None:
    assert block_keys(5_000_000, 1, 5_000_000) == 4_096
    assert block_keys(1_440, 0, 1_440 * 60_000) == 1 << 27
    assert block_keys(0, 5, 5) >= 1
    assert block_keys(600, 1, 600, fine=True) == 1
    assert block_keys(100_000, 1, 100_000, fine=True) == 128
    assert block_keys(5_000_000, 1, 5_000_000, fine=True) == 4_096
    assert block_keys(1, 0, 2**62) == 2**32


def test_a_recorded_capture_has_one_content_however_it_is_kept(recordings: Path) -> None:
    decode = Decoder("um")
    events: dict[type[Event], list[Event]] = {}
    with gzip.open(recordings / "binance_futures" / "ws" / "2021-07-22_sushi-akro-keep-ctk.jsonl.gz") as lines:
        for line in lines:
            for outcome in decode(line[line.index(b'"msg":') + 6 :].rstrip()[:-1], BASE_MS):
                if isinstance(outcome, Event) and outcome.symbol == "SUSHIUSDT":
                    events.setdefault(type(outcome), []).append(outcome)
    for every in events.values():
        closed = [event for event in every if getattr(event, "closed", True)]
        if closed:
            whole = batch_of(closed)
            pages = [batch_of(closed[at : at + 7], "rest:page") for at in range(0, len(closed), 7)]
            assert contents(pages, 1 << 20).content == contents([whole], 1 << 10).content


def test_a_million_trades_are_certified_in_a_moment() -> None:
    rows = 1_000_000
    at = np.arange(rows)
    random = np.random.default_rng(5)
    columns = {
        "trade_id": Ints(at), "price": Decimals(random.integers(1, 10**7, rows), 2), "quantity": Decimals(random.integers(1, 10**5, rows), 3),
        "traded_ms": Ints(BASE_MS + at), "buyer_is_maker": Flags(at % 2 == 0), "kind": Texts.constant("MARKET", rows),
        "origin": Texts.constant(STREAM, rows),
    }  # fmt: skip
    whole = Batch(DATASETS["trade"], (Series("um", "trade", "BTCUSDT"),), np.zeros(rows, np.int32), columns)
    started = time.process_time()
    found = contents(cut(whole, range(0, rows, 65_536)), 4_096)
    assert time.process_time() - started < 1.0, "measured 0.15 s on a quiet machine"
    assert (found.rows, len(found.blocks)) == (rows, 245)
    hashes = row_hashes(rows, streams(whole))
    assert len(np.unique(hashes)) == rows
