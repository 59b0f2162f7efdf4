"""Findings: twice is once, and a later version never knows less."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.finding import FindingKind, finding_id, found

NOW_MS = 1_700_000_000_000
SUBJECTS = st.tuples(
    st.sampled_from(FindingKind),
    st.sampled_from([None, "um.trade.BTCUSDT", "um.candle.BTCUSDT.1m", "um.candle.BTCUSDT.1M"]),
    st.sampled_from([None, "trade", "depth"]),
    st.integers(0, 5),
)


def finding(**other: Any) -> Any:
    given = {"kind": FindingKind.SILENCE, "severity": "warning", "start_ms": NOW_MS, "found_ms": NOW_MS, "evidence": {}}
    return found(**{**given, **other})


@given(SUBJECTS, SUBJECTS)
def test_an_id_says_what_was_found_of_what_since_when(one: Any, other: Any) -> None:
    assert (finding_id(*one) == finding_id(*other)) == (one == other)
    assert len(finding_id(*one)) == 32


def test_found_again_it_is_the_same() -> None:
    again = finding(found_ms=NOW_MS + 9, severity="critical", end_ms=NOW_MS + 5, evidence={"events": 7})
    assert again.id == finding().id
    assert again.open


@given(st.integers(-10, 10))
def test_resolving_ends_it_and_the_span_holds_an_instant(after_ms: int) -> None:
    over = finding().resolved(NOW_MS + 100, NOW_MS + after_ms)
    assert not over.open
    assert over.resolved_ms == NOW_MS + 100
    assert over.end_ms == NOW_MS + max(after_ms, 1)
    assert over.id == finding().id


def test_an_end_that_is_known_stays() -> None:
    assert finding(end_ms=NOW_MS + 5).resolved(NOW_MS + 100, NOW_MS + 50).end_ms == NOW_MS + 5


def test_an_empty_span_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="instant"):
        finding(end_ms=NOW_MS)


def test_evidence_is_small() -> None:
    kept = finding(evidence={"text": "x" * 10_000, "count": 2**60, "unknown": None}).evidence
    assert len(kept["text"]) == 200
    assert (kept["count"], kept["unknown"]) == (2**60, None)
    assert finding(evidence={"text": "\ud800"}).evidence["text"].encode() == b"\\ud800"
