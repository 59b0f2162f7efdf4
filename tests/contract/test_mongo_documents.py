"""Rows as BSON and back, without a server: exact numbers, dates, ids and names. Whatever server there is, this runs."""

from decimal import Decimal
from typing import Any

import bson
import numpy as np
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.mongo.decimals import decode_decimals, encode_decimals, fixed_text
from data_manager.adapters.mongo.documents import decode, encode
from data_manager.adapters.mongo.layout import collection_of, ids_of, key_bound, keys_between, rows_of, series_of
from data_manager.domain.batch import Batch, key_parts, settle
from data_manager.domain.dataset import MARKETS, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Corrupt, DamagedRows
from data_manager.domain.events import FundingRate, Liquidation, Number
from data_manager.domain.span import Span
from data_manager.domain.time import INTERVALS_MS
from data_manager.domain.values.decimals import parse_decimals
from tests.contract.rows import BASE_MS, agg_trade, batch_of, candle, depth_update, liquidation, trade

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_MS)
BATCHES = {
    "trade": batch_of([trade(1, price="0.00010"), trade(2, price="12345678901234567890.5"), trade(3, price="1e-7")]),
    "agg_trade": batch_of([agg_trade(5)]),
    "candle": batch_of([candle(0), candle(1, "-0")]),
    "depth_update": batch_of([depth_update(n) for n in range(7)]),
    "liquidation": batch_of([liquidation(1), liquidation(1, "2"), liquidation(1, side="BUY")]),
}

digits = st.text("0123456789", min_size=1, max_size=17)
plain = st.builds(lambda sign, whole, rest: f"{sign}{whole}.{rest}", st.sampled_from(["", "-"]), digits, digits)
long = st.builds(lambda whole, rest: f"{whole}.{rest}", st.integers(1, 10**16).map(str), digits)
other = st.builds(lambda number, power: f"{number}e{power}", digits, st.integers(-60, 60))
texts = st.one_of(
    plain,
    long,
    other,
    digits,
    st.sampled_from(["0.00", "-0", "-0.00", "1.10", "+5", "007", ".5", "5.", "1E+3", "9" * 34]),
)


def through_bson(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [bson.decode(bson.encode(one), OPTIONS) for one in documents]


@pytest.mark.parametrize("exact", [True, False], ids=["Decimal128", "text"])
@given(values=st.lists(st.none() | texts, min_size=1, max_size=60))
def test_numbers_come_back_letter_for_letter(exact: bool, values: list[str | None]) -> None:
    column, broken = parse_decimals(values)
    assert not broken
    stored = through_bson([{"v": one} for one in encode_decimals(column, exact=exact)])
    back = decode_decimals([one["v"] for one in stored])
    assert back.values_list() == values
    assert back.same(column).all()


@pytest.mark.parametrize(
    "text",
    ["1.10", "0.00", "-0.00", "-0", "0", "0.0000001", "123456789012345678.9", "9" * 34, "0." + "0" * 33 + "1", "-7.50"],
)
def test_what_decimal128_gives_back_is_decimal128(text: str) -> None:
    (stored,) = encode_decimals(parse_decimals([text])[0], exact=True)
    assert type(stored) is Decimal128
    assert stored.to_decimal() == Decimal(text)  # what every other reader of the database sees
    assert fixed_text(stored) == text


@pytest.mark.parametrize("text", ["1e3", "1E-5", "+5", "007", ".5", "5."])
def test_what_it_would_write_otherwise_stays_text(text: str) -> None:
    assert encode_decimals(parse_decimals([text])[0], exact=True) == [text]


@pytest.mark.parametrize("value", [Decimal128("NaN"), Decimal128("Infinity"), "one", 1.5, 7])
def test_what_is_no_number_of_ours_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_decimals([Decimal128("1"), value])


def test_numbers_that_others_wrote_in_other_forms_are_read_exactly() -> None:
    assert decode_decimals([Decimal128("1E+3"), Decimal128("2.50")]).values_list() == ["1000", "2.50"]


@pytest.mark.parametrize("exact", [True, False], ids=["Decimal128", "text"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_batch_comes_back_as_it_was(batch: Batch, exact: bool) -> None:
    back = decode(batch.dataset, batch.series[0], through_bson(encode(batch, exact=exact)))
    assert back.rows() == batch.rows()
    assert back.series == batch.series
    for name, column in batch.columns.items():
        assert type(back.columns[name]) is type(column)
        assert back.columns[name].same(column).all()


def test_times_are_dates_and_levels_name_their_parts() -> None:
    document = encode(BATCHES["depth_update"], exact=True)[3]
    assert document["event_ms"] == DatetimeMS(BASE_MS + 3)
    as_others_read = bson.decode(bson.encode(document), CodecOptions(tz_aware=True))
    assert as_others_read["received_ms"].isoformat() == "2023-11-14T22:14:00+00:00"
    assert document["bids"][1] == {"price": Decimal128("99.5"), "quantity": Decimal128("0")}
    assert document["update_id"] == document["_id"] == 3


def test_columns_that_no_row_of_a_batch_has_take_no_room() -> None:
    assert "matched_ms" not in encode(BATCHES["depth_update"], exact=True)[0]


@pytest.mark.parametrize(
    "damage",
    [
        {"price": "one"},
        {"price": None},
        {"traded_ms": "2023-11-14"},
        {"traded_ms": 5},
        {"buyer_is_maker": 1},
        {"origin": 7},
        {"trade_id": 2.5},
    ],
)
def test_a_document_that_we_cannot_have_written_is_corrupt(damage: dict[str, Any]) -> None:
    batch = BATCHES["trade"]
    documents = encode(batch, exact=True)
    with pytest.raises(Corrupt, match=f"trades_BTCUSDT.*{next(iter(damage))}"):
        decode(batch.dataset, batch.series[0], [documents[0], {**documents[1], **damage}])


def test_where_documents_are_damaged_is_told_by_keys_and_times() -> None:
    batch = BATCHES["trade"]
    documents = encode(batch, exact=True)
    times, keys = batch.time_ms.tolist(), batch.key.tolist()
    for first, last in ((1, 1), (1, 2), (0, 0)):
        damaged = [{**one, "price": "1.x"} if first <= at <= last else one for at, one in enumerate(documents)]
        with pytest.raises(DamagedRows) as raised:
            decode(batch.dataset, batch.series[0], damaged)
        told = raised.value
        assert (told.first_key, told.last_key) == (keys[first], keys[last])
        assert (told.start_ms, told.end_ms) == (min(times[first : last + 1]), max(times[first : last + 1]) + 1)
    liquidations = BATCHES["liquidation"]
    [one, *_] = encode(liquidations, exact=True)
    with pytest.raises(DamagedRows) as raised:
        decode(liquidations.dataset, liquidations.series[0], [{**one, "status": 5}])
    assert raised.value.first_key == int(liquidations.key[0])


@pytest.mark.parametrize("side", [[{"price": "1"}], [{"price": "1", "quantity": None}], [["1", "2"]], "1"])
def test_damaged_levels_are_corrupt(side: object) -> None:
    batch = BATCHES["depth_update"]
    with pytest.raises(Corrupt, match="bids"):
        decode(batch.dataset, batch.series[0], [{**encode(batch, exact=True)[0], "bids": side}])


@pytest.mark.parametrize(
    ("series", "name"),
    [
        (Series("um", "trade", "BTCUSDT"), "trades_BTCUSDT"),
        (Series("um", "candle", "BTCUSDT", "1m"), "candles_BTCUSDT_1m"),
        (Series("um", "candle", "BTCUSDT", "1M"), "candles_BTCUSDT_1M"),
        (Series("um", "candle", "BTCUSDT_261225", "1h"), "candles_BTCUSDT_261225_1h"),
        (Series("um", "depth", "币安人生USDT"), "depth_币安人生USDT"),
        (Series("um", "funding_rate", "ETHUSDT"), "funding_rates_ETHUSDT"),
        (Series("um", "ticker", "1000SHIBUSDT"), "tickers_1000SHIBUSDT"),
        (Series("spot", "trade", "BTCUSDT"), "spot.trades_BTCUSDT"),
        (Series("cm", "depth_update", "BTCUSD_PERP"), "cm.depth_updates_BTCUSD_PERP"),
    ],
)
def test_a_series_has_the_predecessors_name(series: Series, name: str) -> None:
    assert collection_of(series) == name
    assert series_of(name) == series


def test_no_two_series_share_a_collection() -> None:
    symbols = {"um": ["BTCUSDT", "BTCUSDT_261225", "DEPTHUSDT"], "spot": ["BTCUSDT"], "cm": ["BTCUSD_PERP"]}
    all_series = [
        Series(market, dataset.name, symbol, interval)
        for market in MARKETS
        for symbol in symbols[market]
        for dataset in DATASETS.values()
        for interval in (INTERVALS_MS if dataset.has_interval else [None])
    ]
    names = {collection_of(series): series for series in all_series}
    assert len(names) == len(all_series)
    assert {name: series_of(name) for name in names} == names


@pytest.mark.parametrize(
    "name",
    ["", "trades_", "trades_btcusdt", "candles_BTCUSDT", "candles_BTCUSDT_2m", "klines_1h", "um.trades_BTCUSDT", "spot.um.trades_BTCUSDT",
     "cm.trades_BTCUSDT", "data_manager.live", "system.views", "analytics_correlation_matrix"],
)  # fmt: skip
def test_other_collections_are_nobodys_series(name: str) -> None:
    assert series_of(name) is None


@pytest.mark.parametrize(
    "symbol", ["$cmd", "a\0b", "BTC.USDT", "system.users", "BTCUSDT_1h", "", "x" * 300, "../../etc"]
)
def test_no_other_name_reaches_the_server(symbol: str) -> None:
    with pytest.raises(BadQuery):
        collection_of(Series("um", "trade", symbol))


def liquidations(*parts: tuple[int, str, str, str]) -> Batch:
    events = [
        Liquidation(
            symbol="BTCUSDT", traded_ms=BASE_MS + late, price=Number(price), quantity=Number(quantity), side=side, average_price=Number("5"),
            last_filled_quantity=Number("1"), filled_quantity=Number("1"), order_type="LIMIT", time_in_force="IOC", status="FILLED",
        )
        for late, price, quantity, side in parts
    ]  # fmt: skip
    return batch_of(events)


amounts = st.sampled_from(
    [
        "1",
        "1.0",
        "10",
        "5",
        "5.5",
        "55",
        "0.05",
        "1e2",
        "100",
        "12345678901234567890123456789012.34",
        "12345678901234567890123456789012.35",
    ]
)


@given(
    st.lists(st.tuples(st.integers(0, 3), amounts, amounts, st.sampled_from(["BUY", "SELL"])), min_size=1, max_size=12)
)
def test_ids_of_keys_of_several_parts_are_equal_and_sort_as_the_keys_do(parts: list[tuple[int, str, str, str]]) -> None:
    batch = liquidations(*parts)
    ids = ids_of(batch)
    assert len(set(ids)) == len(
        {(late, Decimal(price), Decimal(quantity), side) for late, price, quantity, side in parts}
    )
    assert ids == sorted(ids)
    order = np.lexsort(key_parts(batch)[::-1])
    assert [ids[row] for row in order.tolist()] == ids


def test_a_text_in_a_key_cannot_pass_for_two() -> None:
    events = [
        FundingRate(symbol="BTCUSDT", slot_ms=BASE_MS, rate_type=kind, funding_ms=BASE_MS, funding_rate=Number("0.1"))
        for kind in ("a b", "a", "a\\u0020b", "a\x00b", "a\nb")
    ]
    assert len(set(ids_of(settle(batch_of(events))))) == 5


def test_bounds_of_keys() -> None:
    assert keys_between(DATASETS["trade"], 5, None) == {"_id": {"$gte": 5}}
    assert key_bound(DATASETS["trade"], 2**63) == 2**63 - 1
    assert key_bound(DATASETS["liquidation"], -5) == "0" * 19
    assert key_bound(DATASETS["liquidation"], BASE_MS) <= ids_of(liquidations((0, "1", "1", "BUY")))[0]
    assert key_bound(DATASETS["liquidation"], BASE_MS + 1) > ids_of(liquidations((0, "999", "1", "SELL")))[0]


def test_a_span_is_asked_of_the_id_where_the_key_is_the_time() -> None:
    span = Span(BASE_MS, BASE_MS + 10)
    assert rows_of(DATASETS["candle"], span) == {"_id": {"$gte": BASE_MS, "$lt": BASE_MS + 10}}
    assert rows_of(DATASETS["candle"], span, BASE_MS + 3) == {"_id": {"$gte": BASE_MS + 4, "$lt": BASE_MS + 10}}
    assert rows_of(DATASETS["candle"], span, BASE_MS + 3, descending=True) == {
        "_id": {"$gte": BASE_MS, "$lt": BASE_MS + 3}
    }
    times = {"$gte": DatetimeMS(BASE_MS), "$lt": DatetimeMS(BASE_MS + 10)}
    assert rows_of(DATASETS["trade"], span, 7) == {"_id": {"$gte": 8}, "traded_ms": times}
    assert rows_of(DATASETS["trade"], span) == {"traded_ms": times}
    assert rows_of(DATASETS["trade"], None) == {"_id": {"$gte": -(2**63)}}
    assert rows_of(DATASETS["liquidation"], None) == {"_id": {"$gte": "0", "$lt": ":"}}
