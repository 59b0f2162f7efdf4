"""Book sides: pairs or the venue's text of them become the same columns, and what is neither is named."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from data_manager.domain.values.levels import Levels, parse_levels, plain_levels
from tests.domain.test_decimals import numbers

sides = st.lists(st.lists(st.tuples(numbers, numbers), max_size=4), max_size=6)


@given(sides, st.data())
def test_levels_keep_their_pairs(rows: list[list[tuple[str, str]]], data: st.DataObject) -> None:
    levels, broken = parse_levels(rows)
    assert not broken
    assert levels.values_list() == rows
    assert Levels.joined([levels, levels]).values_list() == rows + rows
    chosen = data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=8)) if rows else []
    assert levels.take(np.array(chosen, np.int64)).values_list() == [rows[row] for row in chosen]
    assert levels.take(slice(1, 3)).values_list() == rows[1:3]
    assert levels.same(levels).all()


def test_a_broken_level_names_its_row() -> None:
    _, broken = parse_levels([[("1", "2")], [], [("3", "4"), ("x", "5")]])
    assert list(broken) == [2]


@given(sides, st.booleans())
def test_the_venues_text_gives_the_same_columns_as_its_pairs(rows: list[list[tuple[str, str]]], blanks: bool) -> None:
    separators = (", ", ": ") if blanks else (",", ":")
    texts = [json.dumps(row, separators=separators).encode() for row in rows]
    levels, broken = parse_levels([Raw(text) for text in texts])
    assert not broken
    assert levels.values_list() == rows
    for text, row in zip(texts, rows, strict=True):
        assert plain_levels(text) in (len(row), None)


HOSTILE = [
    b"{}", b"null", b"5", b'"x"', b'["1","2"]', b"[[1,2]]", b'[["1"]]', b'[["1","2","3"]]', b'[["1","2"],"3"]',
    b'[["1,2","3"]]', b'[["1","2"],["x","3"]]', b'[["",""]]', b'[["1.2.3","4"]]', b'[["-","4"]]', b"[[[[", b"[" * 100_000,
    b'[["1","2"]', b'[["\xff","2"]]', b'[["\\ud800","2"]]',
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:24]))
def test_text_that_is_no_side_is_named_and_spoils_no_other_row(text: bytes) -> None:
    good = Raw(b'[["1.50","2"],["1.25","0"]]')
    levels, broken = parse_levels([good, Raw(text), good])
    assert list(broken) == [1]
    assert levels.take(np.array([0, 2])).values_list() == [[("1.50", "2"), ("1.25", "0")]] * 2
