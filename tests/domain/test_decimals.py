"""Numbers survive as they came: the venue's text in, the same text out, whatever the digits."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.values.decimals import Decimals, parse_decimals

plain = st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**15), max_value=10**15).map(
    lambda number: format(number, "f")
)
venue_like = st.builds(
    lambda whole, digits: f"{whole}.{digits}" if digits else str(whole),
    st.integers(-(10**12), 10**12),
    st.text("0123456789", max_size=8),
)
odd = st.sampled_from(["-0", "-0.00", "1e-8", "1E+5", "007", "00.10", ".5", "5.", "9223372036854775808", "1" * 34])
numbers = st.one_of(plain, venue_like, odd).filter(lambda text: len(Decimal(text).as_tuple().digits) <= 34)
NO_NUMBERS = [
    "", " ", "NaN", "Infinity", "-inf", "1_000", "٣", "0x1F", "1.2.3", "+-1", "1e999", "1e", "--1", "1" * 35, "1" * 200,
    "a", "\ud800", "1,5", "1 ",
]  # fmt: skip
MANY = 60  # beyond the point where the array kernels take over


@given(st.lists(st.one_of(numbers, st.none())))
def test_text_in_is_text_out(texts: list[str | None]) -> None:
    column, broken = parse_decimals(texts)
    assert not broken
    assert column.values_list() == texts


@given(st.lists(numbers, min_size=1, max_size=5))
def test_few_and_many_values_are_read_alike(texts: list[str]) -> None:
    many = texts * MANY
    column, broken = parse_decimals(many)
    assert not broken
    assert column.values_list() == many
    few, _ = parse_decimals(texts)
    assert few.values_list() == column.values_list()[: len(texts)]
    assert [few.decimal(row) for row in range(len(texts))] == [column.decimal(row) for row in range(len(texts))]


@pytest.mark.parametrize("copies", [1, MANY])
@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_named_and_spoils_no_other_row(text: str, copies: int) -> None:
    column, broken = parse_decimals([*["1.50"] * copies, text, *["2.25"] * copies])
    assert list(broken) == [copies]
    values = column.values_list()
    assert values[:copies] == ["1.50"] * copies
    assert values[copies + 1 :] == ["2.25"] * copies


@given(st.lists(st.tuples(numbers, numbers), min_size=1))
def test_compare_is_exact(pairs: list[tuple[str, str]]) -> None:
    left, _ = parse_decimals([one for one, _ in pairs])
    right, _ = parse_decimals([other for _, other in pairs])
    expected = [int(Decimal(one).compare(Decimal(other))) for one, other in pairs]
    assert left.compare(right).tolist() == expected
    assert left.signs().tolist() == [int(Decimal(one).compare(Decimal(0))) for one, _ in pairs]
    assert left.same(right).tolist() == [sign == 0 for sign in expected]


@given(st.lists(st.lists(st.one_of(numbers, st.none()), max_size=6), min_size=1, max_size=5), st.data())
def test_take_and_join_move_rows_and_nothing_else(parts: list[list[str | None]], data: st.DataObject) -> None:
    column = Decimals.joined([parse_decimals(part)[0] for part in parts])
    texts = [text for part in parts for text in part]
    assert column.values_list() == texts
    rows = data.draw(st.lists(st.integers(0, max(0, len(texts) - 1)), max_size=10)) if texts else []
    assert column.take(np.array(rows, np.int64)).values_list() == [texts[row] for row in rows]


@given(st.lists(st.one_of(numbers, st.none())))
def test_arrow_holds_the_same_numbers(texts: list[str | None]) -> None:
    column, _ = parse_decimals(texts)
    shown = column.arrow().to_pylist()
    assert [None if value is None else Decimal(value) for value in shown] == [
        None if text is None else Decimal(text) for text in texts
    ]
