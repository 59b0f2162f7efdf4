"""Checks: what is wrong is blamed with its span and keys, what is merely unusual is left alone."""

import csv
import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import Decoder, dataset_of
from data_manager.domain.batch import STREAM, Batch, build, pack
from data_manager.domain.checks.astray import astray
from data_manager.domain.checks.rules import CHECKS, KEYS_MAX, Offence, check, no_spike, stale_on_arrival
from data_manager.domain.checks.spikes import REACH, spikes
from data_manager.domain.datasets import BY_EVENT, DATASETS
from data_manager.domain.events import BookTicker, Candle, Depth, Event, Number, Trade
from data_manager.domain.time import MINUTE_MS, parse_time
from data_manager.domain.values.columns import Ints, Texts
from data_manager.domain.values.decimals import Decimals

BASE_MS = parse_time("2024-01-01T00:00:00Z")


def batch_of(events: Sequence[Event], received_ms: int = BASE_MS + 10**9, origin: str = STREAM) -> Batch:
    packed = pack(BY_EVENT[type(events[0])], "um", events, [received_ms] * len(events), origin)
    assert packed.refused == []
    return packed.batch


def with_values(batch: Batch, name: str, changes: dict[int, Any]) -> Batch:
    """The same rows with other values in one column: what a store holds after something went wrong."""
    values = batch.columns[name].values_list()
    for row, value in changes.items():
        values[row] = value
    return Batch(
        batch.dataset, batch.series, batch.codes, {**batch.columns, name: build(batch.dataset.field[name], values)[0]}
    )


def trades(count: int, price: str = "100.5") -> Batch:
    return batch_of(
        [
            Trade(
                symbol="BTCUSDT", trade_id=number, price=Number(price), quantity=Number("1"), traded_ms=BASE_MS + 10 * number,
                buyer_is_maker=False, kind="MARKET",
            )
            for number in range(count)
        ]
    )  # fmt: skip


def candles(count: int) -> Batch:
    return batch_of(
        [
            Candle(
                symbol="BTCUSDT", interval="1m", open_ms=BASE_MS + number * MINUTE_MS, open=Number("10"), high=Number("10.10"),
                low=Number("9.95"), close=Number("10"), volume=Number("5"), taker_buy_volume=Number("5.0"),
                close_ms=BASE_MS + (number + 1) * MINUTE_MS - 1, closed=True,
            )
            for number in range(count)
        ]
    )  # fmt: skip


def told(batch: Batch) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(one.rule, one.field, one.keys) for one in check(batch)]


def test_nothing_is_blamed_where_nothing_is_wrong() -> None:
    assert check(trades(100)) == []
    assert check(candles(100)) == []
    assert check(candles(100).take(slice(0, 0))) == []


def test_prices_out_of_order_are_blamed_to_the_last_digit() -> None:
    whole = candles(40)
    at = [int(key) for key in whole.key]
    assert told(with_values(whole, "high", {7: "9.999"})) == [("ordered_prices", "high", (at[7],))]
    assert told(with_values(whole, "low", {3: "10.0000001", 4: "10.00000001"})) == [
        ("ordered_prices", "high", (at[3], at[4]))
    ]
    assert told(with_values(whole, "high", {7: "10.0"})) == []
    assert told(with_values(whole, "taker_buy_volume", {9: "5.0000001"})) == [("at_most", "taker_buy_volume", (at[9],))]


def test_candles_beside_their_grid_are_blamed() -> None:
    whole = candles(40)
    assert told(with_values(whole, "close_ms", {5: BASE_MS + 6 * MINUTE_MS})) == [
        ("on_grid", "close_ms", (int(whole.key[5]),))
    ]
    moved = with_values(
        with_values(whole, "open_ms", {5: BASE_MS + 5 * MINUTE_MS + 7}), "close_ms", {5: BASE_MS + 6 * MINUTE_MS + 6}
    )
    assert told(moved) == [("on_grid", "close_ms", (BASE_MS + 5 * MINUTE_MS + 7,))]


def test_a_price_of_zero_is_blamed_unless_the_trade_is_a_placeholder() -> None:
    whole = with_values(with_values(trades(60), "price", {5: "0", 9: "0.00"}), "quantity", {5: "0.000", 20: "0"})
    assert told(whole) == [("positive", "price", (9,)), ("positive", "quantity", (20,))]


def test_crossed_books_are_worse_than_locked_ones_and_an_empty_side_is_neither() -> None:
    def ticker(number: int, bid: str, ask: str) -> BookTicker:
        one = Number("1")
        return BookTicker(
            symbol="BTCUSDT", update_id=number, event_ms=BASE_MS + number, clock="venue", bid=Number(bid), bid_quantity=one,
            ask=Number(ask), ask_quantity=one,
        )  # fmt: skip

    books = batch_of(
        [ticker(1, "10", "10.1"), ticker(2, "10.10", "10.1"), ticker(3, "10.2", "10.1"), ticker(4, "10.2", "0")]
    )
    assert [(one.rule, one.severity, one.keys) for one in check(books)] == [
        ("crossed", "critical", (3,)),
        ("locked", "info", (2,)),
    ]


def test_whole_books_are_judged_by_their_best_levels_in_whatever_order() -> None:
    def book(number: int, bids: list[str], asks: list[str]) -> Depth:
        one = Number("1")
        return Depth(
            symbol="BTCUSDT", update_id=number, event_ms=BASE_MS + number, clock="venue", bids=[(Number(price), one) for price in bids],
            asks=[(Number(price), one) for price in asks],
        )  # fmt: skip

    books = batch_of([
        book(1, ["9", "9.5"], ["10", "9.6"]), book(2, ["9", "9.70"], ["10", "9.6"]), book(3, ["9.6"], ["10", "9.60"]), book(4, [], ["1"]),
        book(5, ["123456789012345678901.5"], ["123456789012345678901.4"]),
    ])  # fmt: skip
    assert told(books) == [("crossed", "bids", (2,)), ("crossed", "bids", (5,)), ("locked", "bids", (3,))]


def test_times_that_go_back_against_the_key_or_lie_ahead_of_us_are_blamed_but_not_a_skewed_clock() -> None:
    whole = trades(60)
    assert told(with_values(whole, "traded_ms", {30: BASE_MS - 5_000})) == [("in_time", "", (30,))]
    assert told(with_values(whole, "traded_ms", {30: BASE_MS - 500})) == []
    assert told(with_values(whole, "received_ms", {8: BASE_MS - 30_000})) == []
    assert told(with_values(whole, "received_ms", {8: BASE_MS - 90_000})) == [("in_time", "", (8,))]
    shifted = with_values(whole, "traded_ms", {row: BASE_MS + 10 * row + 3_600_000 for row in range(20, 30)})
    assert told(shifted) == [("in_time", "", tuple(range(20, 30)))], "they are ahead, not the rest late"
    live = with_values(shifted, "received_ms", {row: BASE_MS + 10 * row for row in range(60)})
    assert told(live) == [("in_time", "", tuple(range(20, 30)))], "unless our own clock tells which rows are wrong"


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=60), st.dictionaries(st.integers(0, 59), st.integers(-500, 500))
)
def test_no_more_rows_are_blamed_for_their_times_than_have_wrong_ones(rises: list[int], shifts: dict[int, int]) -> None:
    times, slack = np.cumsum(np.array(rises, np.int64)), 10
    for place, shift in shifts.items():
        times[place % len(times)] += shift
    wrong = astray(times, slack)
    assert wrong.sum() <= len({place % len(times) for place in shifts})
    rest = times[~wrong]
    assert not (rest < np.maximum.accumulate(rest) - 2 * slack).any()


def test_a_long_stretch_that_one_clock_tears_is_told_in_a_moment() -> None:
    times = np.arange(500_000, dtype=np.int64) * 10
    times[5] += 10**9
    assert np.flatnonzero(astray(times, 1_000)).tolist() == [5]


def test_a_row_of_history_is_never_late() -> None:
    rows = [
        Trade(
            symbol="BTCUSDT",
            trade_id=1,
            price=Number("1"),
            quantity=Number("1"),
            traded_ms=BASE_MS,
            buyer_is_maker=True,
        )
    ]
    late = stale_on_arrival(30_000)
    assert [one.rule for one in check(batch_of(rows, BASE_MS + 30_000), [late])] == ["stale_on_arrival"]
    assert check(batch_of(rows, BASE_MS + 29_999), [late]) == []
    assert check(batch_of(rows, BASE_MS + 30_000, "archive:trades"), [late]) == []


@pytest.mark.parametrize("place", [0, 1, 25, 48, 49])
@pytest.mark.parametrize("price", ["10.05", "90", "120", "1005"])
def test_one_price_far_off_is_a_spike_wherever_it_stands(place: int, price: str) -> None:
    assert told(with_values(trades(50), "price", {place: price})) == [("spike", "price", (place,))]


def test_a_market_that_moves_and_stays_is_no_spike() -> None:
    step = [100.0] * 40 + [70.0] * 40
    trend = list(np.exp(np.linspace(0, 5, 400)))
    walk = np.exp(np.cumsum(np.random.default_rng(3).standard_t(4, 50_000) * 0.001))
    calm = [100.0, 100.1] * 30 + [101.5] + [100.0] * 30
    for prices in (step, trend, walk, calm, [5.0] * (2 * REACH)):
        assert not spikes(np.array(prices)).any()


@given(st.integers(1, REACH), st.integers(2 * REACH, 60))
def test_a_run_of_wrong_prices_is_found_whole(length: int, start: int) -> None:
    prices = np.full(100, 50.0)
    prices[start : start + length] = 500.0
    assert np.flatnonzero(spikes(prices)).tolist() == list(range(start, start + length))


def test_a_fill_of_the_insurance_fund_is_no_price_of_the_market() -> None:
    off = with_values(trades(60), "price", {7: "77", 30: "77"})
    assert told(with_values(off, "kind", {7: "INSURANCE_FUND"})) == [("spike", "price", (30,))]


def test_placeholders_and_absent_prices_are_passed_over() -> None:
    prices = np.full(60, 50.0)
    prices[[5, 6, 30, 33]] = [0.0, np.nan, 900.0, 50.5]
    assert np.flatnonzero(spikes(prices)).tolist() == [30]


def test_what_stands_there_twice_is_blamed_once() -> None:
    whole = trades(30)
    twice = whole.take(np.insert(np.arange(30), [4, 4, 20], [4, 4, 20]))
    assert [(one.rule, one.rows, one.keys) for one in check(twice)] == [
        ("told_once", 2, (4, 4)),
        ("told_once", 1, (20,)),
    ]


def test_neighbours_are_one_offence_with_span_and_keys() -> None:
    whole = with_values(trades(100), "quantity", dict.fromkeys((*range(10, 40), 70), "0"))
    assert check(whole, CHECKS["trade"][:2]) == [
        Offence(
            "positive",
            "quantity",
            "critical",
            BASE_MS + 100,
            BASE_MS + 391,
            10,
            39,
            30,
            tuple(range(10, 10 + KEYS_MAX)),
        ),
        Offence("positive", "quantity", "critical", BASE_MS + 700, BASE_MS + 701, 70, 70, 1, (70,)),
    ]


def test_a_candle_is_blamed_from_its_open_to_its_end() -> None:
    [first, second] = check(with_values(candles(40), "volume", {7: "1", 9: "1", 10: "1"}))
    assert (first.start_ms, first.end_ms) == (BASE_MS + 7 * MINUTE_MS, BASE_MS + 8 * MINUTE_MS)
    assert (second.start_ms, second.end_ms) == (BASE_MS + 9 * MINUTE_MS, BASE_MS + 11 * MINUTE_MS)


def test_offences_are_bounded_and_lose_no_row() -> None:
    whole = with_values(trades(1_000), "quantity", dict.fromkeys((*range(0, 600, 2), 900), "0"))
    few = check(whole, CHECKS["trade"][:2], at_most=3)
    assert len(few) == 3
    assert sum(one.rows for one in few) == 301
    assert few[-1].keys == (900,), "cut where most lies between"


def test_rows_without_a_column_are_not_judged_by_it() -> None:
    keys = candles(5).select(["open_ms", "close_ms"])
    assert check(keys) == []
    assert set(CHECKS) <= set(DATASETS)


@pytest.mark.parametrize("name", ["2023-04-05_btcusdt_part1", "2021-04-05_sand-chr-neo-ctk-bat", "2024-08-08_ethusdt"])
def test_nothing_in_a_recorded_capture_is_blamed(recordings: Path, name: str) -> None:
    """Its clock is 1.3 s behind, its ids overtake each other between streams, one trade is the insurance fund's."""
    decode, events = Decoder("um"), {}
    with gzip.open(recordings / "binance_futures" / "ws" / f"{name}.jsonl.gz") as lines:
        for line in lines:
            at = line.index(b'"msg":')
            received_ms = int(line[line.index(b":") + 1 : at - 1]) // 1_000_000
            for outcome in decode(line[at + 6 :].rstrip()[:-1], received_ms):
                assert isinstance(outcome, Event)
                events.setdefault(dataset_of(outcome), []).append((outcome, received_ms))
    for dataset, pairs in events.items():
        batch = pack(dataset, "um", [one for one, _ in pairs], [at for _, at in pairs], STREAM).batch
        assert [one for series in batch.split() for one in check(series)] == []


def test_the_recorded_placeholder_is_no_offence(recordings: Path) -> None:
    with gzip.open(recordings / "binance_futures" / "csv" / "trades_TRXUSDT_2025-03-04.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    every = [
        Trade(
            symbol=row["Symbol"], trade_id=int(row["TradeId"]), price=Number(row["Price"]), quantity=Number(row["Quantity"]),
            traded_ms=int(row["TransactionTime"]), buyer_is_maker=row["IsBuyerMarketMaker"] == "1", kind=row["XUnknownParameter"],
        )
        for row in rows
    ]  # fmt: skip
    assert sum(one.price == "0.0" for one in every) == 1
    assert check(batch_of(every, every[-1].traded_ms)) == []


def test_a_million_trades_are_checked_in_a_moment() -> None:
    rows, random = 1_000_000, np.random.default_rng(5)
    at = np.arange(rows)
    template = trades(1)
    columns = {
        **{name: column.take(np.zeros(rows, np.int64)) for name, column in template.columns.items()},
        "trade_id": Ints(at), "traded_ms": Ints(BASE_MS + at), "kind": Texts.constant("MARKET", rows),
        "price": Decimals(3_000_000 + np.cumsum(random.integers(-9, 10, rows)), 2),
        "quantity": Decimals(random.integers(1, 10**5, rows), 3), "received_ms": Ints(BASE_MS + at + 40),
    }  # fmt: skip
    whole = Batch(template.dataset, template.series, np.zeros(rows, np.int32), columns)
    started = time.process_time()
    assert check(whole) == []
    assert time.process_time() - started < 0.5, "measured 0.04 s on a quiet machine"
    assert no_spike("price").rule == "spike"
