"""Numbers read together: exactly those that a mantissa and a scale give back letter for letter, or none at all."""

import re
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from data_manager.domain.values.numerals import DIGITS_PLAIN, read_plain

PLAIN = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
written = st.text("0123456789.-", max_size=22) | st.from_regex(PLAIN, fullmatch=True).filter(
    lambda text: len(text) < 22
)


def is_plain(text: str) -> bool:
    """By the rule, one number at a time."""
    digits = len(text.strip("-").replace(".", ""))
    return PLAIN.fullmatch(text) is not None and digits <= DIGITS_PLAIN and not (text[0] == "-" and Decimal(text) == 0)


@given(st.lists(written, min_size=1, max_size=6))
@example(["0.10", "-5", "7"])
@example(["1.", ".1"])
@example(["1..2", "3"])
@example(["-", "1"])
@example(["1-", "1"])
@example(["9" * 18, "0." + "9" * 17])
@example(["9" * 19])
def test_all_are_plain_or_none_is_read(texts: list[str]) -> None:
    found = read_plain(",".join(texts).encode(), len(texts))
    assert (found is not None) == all(map(is_plain, texts))
    if found is not None:
        mantissas, scales = found
        assert [Decimal(m).scaleb(-s) for m, s in zip(mantissas.tolist(), scales.tolist(), strict=True)] == [
            Decimal(text) for text in texts
        ]
        assert scales.tolist() == [len(text.partition(".")[2]) for text in texts]


@given(st.binary(max_size=40), st.integers(0, 5))
def test_other_bytes_and_another_count_are_not_read(text: bytes, count: int) -> None:
    texts = text.split(b",")
    found = read_plain(text, count)
    if found is not None:
        assert len(texts) == count
        assert all(is_plain(one.decode("ascii")) for one in texts)
