"""Snapshots and differences tell the same book, and trades happen at its best prices."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.simulator.books import Books, Side
from data_manager.simulator.contracts import universe
from data_manager.simulator.market import Market
from data_manager.simulator.quotes import Quotes
from data_manager.simulator.streams import Streams
from tests.simulator.exchange import DAY, NOW

CONTRACTS = universe((), 3, NOW)
some_contract = st.sampled_from([one for one in CONTRACTS.values() if one.status(NOW) == "TRADING"])
some_step = st.integers((NOW - 300 * DAY) // 50, NOW // 50)
quick = settings(max_examples=15, deadline=None)


def streams(thin: int = 1) -> Streams:
    market = Market(CONTRACTS, 3)
    return Streams(market, Quotes(market, 3), Books(3, thin))


def apply(held: dict[int, int], side: Side) -> None:
    for price, quantity in zip(side.price.tolist(), side.quantity.tolist(), strict=True):
        if quantity:
            held[price] = quantity
        else:
            held.pop(price, None)


def whole(side: Side) -> dict[int, int]:
    return dict(zip(side.price.tolist(), side.quantity.tolist(), strict=True))


@quick
@given(some_contract, some_step, st.sampled_from([2, 5, 10]), st.sampled_from([1, 7]))
def test_differences_chained_give_the_book_at_the_end(contract, step: int, stride: int, thin: int) -> None:
    books = Books(3, thin)
    step = step // thin // 10 * 10
    start = books.book(contract, step, 2_000)
    bids, asks = whole(start.bids), whole(start.asks)
    assert len(bids) > 1_000
    last = start.update_id
    for at in range(step + stride, step + 12 * stride + 1, stride):
        change = books.change(contract, at - stride, at)
        assert change.previous_id == last
        assert last < change.first_id <= change.final_id
        last = change.final_id
        apply(bids, change.bids)
        apply(asks, change.asks)
    end = books.book(contract, step + 12 * stride, 2_000)
    assert (bids, asks, last) == (whole(end.bids), whole(end.asks), end.update_id)


@quick
@given(some_contract, some_step)
def test_a_book_is_ordered_and_its_top_is_the_same_at_any_depth(contract, step: int) -> None:
    books = Books(3)
    deep, shallow = books.book(contract, step, 1_000), books.book(contract, step, 5)
    for whole_side, top in ((deep.bids, shallow.bids), (deep.asks, shallow.asks)):
        assert np.array_equal(whole_side.price[:5], top.price)
        assert np.array_equal(whole_side.quantity[:5], top.quantity)
        assert len(whole_side.price) == 1_000
        assert (whole_side.quantity > 0).all()
    assert (np.diff(deep.bids.price) < 0).all()
    assert (np.diff(deep.asks.price) > 0).all()
    assert deep.bids.price[0] < deep.asks.price[0]


@quick
@given(some_contract, some_step)
def test_best_prices_are_those_of_the_book(contract, step: int) -> None:
    books = Books(3)
    told = {book.at_ms // 50: book for book in books.best(contract, step, step + 40)}
    assert told
    current = None
    for at in range(step, step + 41):
        current = told.get(at, current)
        book = books.book(contract, at, 1)
        if current is not None:
            for one, other in ((current.bids, book.bids), (current.asks, book.asks)):
                assert (one.price[0], one.quantity[0]) == (other.price[0], other.quantity[0])


def test_orders_take_the_best_price_first() -> None:
    contract, market, books = CONTRACTS["BTCUSDT"], Market(CONTRACTS, 3), Books(3)
    found = market.aggregates(contract, NOW - 600_000, NOW)
    before = 0
    for at_ms, price, maker in zip(
        found.at_ms.tolist(), found.price.tolist(), found.buyer_is_maker.tolist(), strict=True
    ):
        if at_ms != before:
            book = books.book(contract, at_ms // 50, 1)
            assert price == int((book.bids if maker else book.asks).price[0])
        before = at_ms


@pytest.mark.parametrize("name", ["ethusdt@depth@100ms", "ethusdt@depth", "ethusdt@depth@500ms"])
def test_a_local_book_built_by_the_venues_rules_equals_the_exchange(name: str) -> None:
    feed, books, contract = streams(), Books(3), CONTRACTS["ETHUSDT"]
    buffered = [json.loads(event.payload) for event in feed.events(name, NOW - 2_000, NOW + 4_000, 0)]
    snapshot = books.book(contract, books.snapshot_step(NOW), 1_000)
    [first] = [n for n, event in enumerate(buffered) if event["U"] <= snapshot.update_id <= event["u"]]
    scale = 10**contract.price_precision
    bids = dict(whole(snapshot.bids).items())
    previous = None
    for event in buffered[first:]:
        assert previous is None or event["pu"] == previous
        previous = event["u"]
        for price, quantity in event["b"]:
            units = round(float(price) * scale)
            size = round(float(quantity) * 10**contract.quantity_precision)
            bids.pop(units, None) if size == 0 else bids.update({units: size})
    last = books.book(contract, event["T"] // 50, 500)
    best = sorted(bids, reverse=True)[:500]
    assert {price: bids[price] for price in best} == whole(last.bids)


def test_partial_books_are_the_top_of_the_book_and_chained() -> None:
    feed, books, contract = streams(), Books(3), CONTRACTS["ETHUSDT"]
    events = [json.loads(event.payload) for event in feed.events("ethusdt@depth20@100ms", NOW, NOW + 2_000, 0)]
    assert len(events) == 20
    for before, event in itertools.pairwise(events):
        assert event["pu"] == before["u"]
    book = books.book(contract, events[-1]["T"] // 50, 20)
    assert len(events[-1]["b"]) == len(events[-1]["a"]) == 20
    assert round(float(events[-1]["b"][0][0]) * 100) == int(book.bids.price[0])


def test_on_a_fast_clock_books_are_sent_less_often_but_stay_chained() -> None:
    events = [json.loads(event.payload) for event in streams(10).events("ethusdt@depth@100ms", NOW, NOW + 20_000, 0)]
    assert len(events) == 20
    assert all(after["pu"] == before["u"] for before, after in itertools.pairwise(events))


@given(st.integers(NOW - DAY, NOW), st.sampled_from([1, 4]))
def test_a_snapshot_is_a_state_that_every_depth_stream_passes(at_ms: int, thin: int) -> None:
    books = Books(3, thin)
    step = books.snapshot_step(at_ms)
    assert all(step % stride == 0 for stride in (2, 5, 10))
    assert 0 <= at_ms - step * books.step_ms < 500 * thin
