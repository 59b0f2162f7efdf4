"""Which depthUpdate is a whole book, and are books best first, exactly?"""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.binance.wire_books import best_first
from data_manager.domain.events import Number

PUBLISHER = "btcusdt@depth20@100ms"
Sides = tuple[list[list[str]], list[list[str]]]
WHOLE: Sides = ([["100.2", "1"], ["100.1", "2"]], [["100.3", "1"], ["100.4", "2"]])


def _decoded(label: str | None, sides: Sides, market: str = "um", **changed: object) -> str:
    data = {"e": "depthUpdate", "E": 1790000000303, "T": 1790000000300, "s": "BTCUSDT", "U": 5, "u": 9, "pu": 4,
            "b": sides[0], "a": sides[1]} | changed  # fmt: skip
    message = data if label is None else {"stream": label, "data": {k: v for k, v in data.items() if v is not None}}
    (outcome,) = Decoder(market)(msgspec.json.encode(message), 0)
    return DATASET_OF[type(outcome)].name if type(outcome) in DATASET_OF else str(outcome)


@pytest.mark.parametrize(
    ("label", "sides", "expected"),
    [
        (PUBLISHER, WHOLE, "depth"),
        (None, WHOLE, "depth"),
        ("btcusdt@depth5@500ms", WHOLE, "depth"),
        ("btcusdt@depth@100ms", WHOLE, "depth_update"),
        ("btcusdt@depth@0ms", WHOLE, "depth_update"),
        ("btcusdt@depth", WHOLE, "depth_update"),
        (PUBLISHER, (WHOLE[0][::-1], WHOLE[1]), "depth_update"),
        (PUBLISHER, (WHOLE[0][:1], WHOLE[1]), "depth_update"),
        (PUBLISHER, ([], WHOLE[1]), "depth_update"),
        (PUBLISHER, ([], []), "depth_update"),
        (PUBLISHER, ([*WHOLE[0], ["99", "0"]], WHOLE[1]), "depth_update"),
        (PUBLISHER, (WHOLE[0], [["100.3", "0.000"]]), "depth_update"),
        (PUBLISHER, ([*WHOLE[0], ["100.15", "1"]], WHOLE[1]), "depth_update"),
        (PUBLISHER, ([["100.2", "1"], ["99.9", "2"]], WHOLE[1]), "depth"),
        (PUBLISHER, ([["100.2", "1"], ["99.9", "2"]], []), "depth"),
        (PUBLISHER, ([[str(100 - n), "1"] for n in range(21)], []), "depth_update"),
        (PUBLISHER, ([[str(100 - n), "1"] for n in range(20)], WHOLE[1]), "depth"),
        ("btcusdt@depth5", ([[str(100 - n), "1"] for n in range(6)], WHOLE[1]), "depth_update"),
        (PUBLISHER, ([["price", "1"], ["99", "1"]], []), "depth_update"),
    ],
)
def test_whole_only_if_everything_speaks_for_it(label: str | None, sides: Sides, expected: str) -> None:
    assert _decoded(label, sides) == expected


def test_spot_changes_list_bids_falling_and_are_changes_all_the_same() -> None:
    """238 of the 6,316 changes in the spot recordings would pass for a whole book but for the pu they lack."""
    assert _decoded(PUBLISHER, WHOLE, market="spot", pu=None) == "depth_update"


def test_futures_change_must_name_the_one_before() -> None:
    assert _decoded("btcusdt@depth", WHOLE, pu=None).startswith("data.pu None: must name the update before")


prices = st.decimals("0.0001", "100000", places=4).map(lambda price: price.normalize()).map(lambda price: f"{price:f}")
levels = st.lists(st.tuples(prices, st.just("1")), max_size=12)


@given(levels, levels)
@settings(deadline=None)
def test_best_first_sorts_by_exact_value(bids: list[tuple[Number, Number]], asks: list[tuple[Number, Number]]) -> None:
    sorted_bids, sorted_asks = best_first(bids, asks)
    assert sorted_bids == sorted(bids, key=lambda level: -Decimal(level[0]))
    assert sorted_asks == sorted(asks, key=lambda level: Decimal(level[0]))


@given(st.data())
@settings(deadline=None)
def test_best_first_of_texts_that_look_alike(data: st.DataObject) -> None:
    """The short cut by text order must not be fooled by widths that happen to add up."""
    texts = st.from_regex(r"[1-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True)
    ladder = sorted(data.draw(st.lists(texts, min_size=2, max_size=6)), reverse=True)  # in the order of texts
    bids, _ = best_first([(Number(price), Number("1")) for price in ladder], [])
    assert [Decimal(price) for price, _ in bids] == sorted(map(Decimal, ladder), reverse=True)


def test_prices_floats_cannot_tell_apart_are_sorted_exactly() -> None:
    near, nearer = Number("0.1000000000000000055"), Number("0.1000000000000000056")
    assert float(near) == float(nearer)
    bids, asks = best_first([(near, Number("1")), (nearer, Number("1"))], [(nearer, Number("1")), (near, Number("1"))])
    assert [price for price, _ in bids] == [nearer, near]
    assert [price for price, _ in asks] == [near, nearer]


def test_prices_that_are_no_numbers_keep_their_order() -> None:
    odd = [(Number("abc"), Number("1")), (Number("NaN"), Number("1")), (Number("2"), Number("1"))]
    assert best_first(odd, odd) == (odd, odd)
