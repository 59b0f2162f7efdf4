"""Labelled books and times to come: what is taken out before packing, what is believed, and what is told of it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import DATASET_OF, LABELLED, Decoder
from data_manager.domain.dataset import Dataset
from data_manager.domain.datasets import DATASETS
from data_manager.domain.events import Event
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.time import DAY_MS
from data_manager.services.ingesting.labels import Labels
from data_manager.services.ingesting.screen import Screen
from tests.servers import SteppingClock

NOW_MS = 1_700_000_000_000
DEPTH = DATASETS["depth"]


class Rows:
    """Events of one dataset, as a flush holds them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.received_ms: list[int] = []


class Bench:
    """A screen with a decoder before it: payloads in, the messages of what was taken out out."""

    def __init__(self, market: str = "spot", tolerance: float = 0.1) -> None:
        self.clock = SteppingClock(NOW_MS)
        self.labels = Labels(market, LABELLED, self.clock, tolerance=tolerance)
        self._screen = Screen(self.labels)
        self._decode = Decoder(market)

    def flush(self, *payloads: bytes, received_ms: int = NOW_MS) -> list[str]:
        held: dict[Dataset, Rows] = {}
        for payload in payloads:
            for outcome in self._decode(payload, received_ms):
                assert isinstance(outcome, Event), outcome
                rows = held.setdefault(DATASET_OF[type(outcome)], Rows())
                rows.events.append(outcome)
                rows.received_ms.append(received_ms)
        return [f"{one.why.reason}: {one.why}" for _, refused in self._screen(held) for one in refused]

    def turns(self, count: int) -> list[Finding]:
        return [finding for _ in range(count) for finding in self.labels.findings()]


def trade(symbol: str, price: str, at_ms: int = NOW_MS, **more: Any) -> bytes:
    data = {"e": "trade", "E": at_ms, "s": symbol, "t": 1, "p": price, "q": "1", "T": at_ms, "m": True, **more}
    return json.dumps(data).encode()


def book(label: str, bid: str | None, ask: str | None, at_ms: int = NOW_MS, update_id: int = 1) -> bytes:
    sides = {"bids": [[bid, "1"]] if bid else [], "asks": [[ask, "1"]] if ask else []}
    second, ms = divmod(at_ms - NOW_MS, 1_000)
    assert 0 <= second < 2_000
    sent = f"2023-11-14T22:{13 + (20 + second) // 60:02d}:{(20 + second) % 60:02d}.{ms:03d}Z"  # from NOW_MS on
    frame = {"stream": f"{label}@depth20@100ms", "data": {"lastUpdateId": update_id, **sides}, "timestamp": sent}
    return json.dumps(frame).encode()


@pytest.fixture
def bench() -> Bench:
    """It knows what BTCUSDT and ETHUSDT cost."""
    bench = Bench()
    assert bench.flush(trade("BTCUSDT", "60000"), trade("ETHUSDT", "3000")) == []
    return bench


# ---- books ---------------------------------------------------------------------------------------------------------


def test_a_book_of_another_symbol_is_taken_out_and_the_true_one_named(bench: Bench) -> None:
    [why] = bench.flush(book("btcusdt", "2999.5", "3000.5"), book("btcusdt", "59999", "60001"))
    assert why.startswith("mislabelled: stream 'BTCUSDT'")
    assert "ETHUSDT" in why
    assert "60000" in why


def test_books_are_judged_by_prices_of_the_same_flush() -> None:
    bench = Bench()
    eth_as_btc = book("btcusdt", "2999.5", "3000.5")
    assert len(bench.flush(eth_as_btc, trade("ETHUSDT", "3000"), trade("BTCUSDT", "60000"))) == 1


@pytest.mark.parametrize(
    "told",
    [
        {"e": "aggTrade", "E": NOW_MS, "s": "BTCUSDT", "a": 1, "p": "60000", "q": "1", "f": 1, "l": 1, "T": NOW_MS, "m": False},
        {"u": 1, "s": "BTCUSDT", "b": "60000", "B": "1", "a": "60001", "A": "1"},
        {
            "e": "24hrTicker", "E": NOW_MS, "s": "BTCUSDT", "p": "1", "P": "1", "w": "1", "x": "1", "c": "1", "Q": "1", "b": "60000",
            "B": "1", "a": "60001", "A": "1", "o": "1", "h": "1", "l": "1", "v": "1", "q": "1", "O": NOW_MS, "C": NOW_MS, "F": 1,
            "L": 1, "n": 1,
        },
    ],
    ids=["aggregate trade", "book ticker", "ticker"],
)  # fmt: skip
def test_whatever_names_its_symbol_tells_the_price(told: dict[str, Any]) -> None:
    bench = Bench()
    assert len(bench.flush(json.dumps(told).encode(), book("btcusdt", "2999.5", "3000.5"))) == 1


def test_a_book_that_names_its_symbol_is_not_judged(bench: Bench) -> None:
    own = book("btcusdt", "2999.5", "3000.5").replace(b'"lastUpdateId"', b'"s": "BTCUSDT", "lastUpdateId"')
    assert bench.flush(own) == []


@pytest.mark.parametrize(
    ("bid", "ask"),
    [
        ("65900", "66000"),
        ("54600", "54700"),
        ("100", "90000"),
        (None, "60001"),
        ("59999", None),
        (None, None),
        ("59000", "58000"),
    ],
)
def test_what_the_market_may_have_done_is_believed(bench: Bench, bid: str | None, ask: str | None) -> None:
    assert bench.flush(book("btcusdt", bid, ask)) == []


@pytest.mark.parametrize(
    ("bid", "ask"), [("70000", "70001"), ("50000", "50001"), (None, "50000"), ("70000", None), ("1", "1.1")]
)
def test_what_it_cannot_have_done_is_not(bench: Bench, bid: str | None, ask: str | None) -> None:
    assert len(bench.flush(book("btcusdt", bid, ask))) == 1


def test_a_jump_with_trades_is_followed(bench: Bench) -> None:
    for price in (50_000, 40_000, 80_000, 20_000):
        at_ms = NOW_MS + 100
        trades = [trade("BTCUSDT", str(price), at_ms), book("btcusdt", str(price - 1), str(price + 1), at_ms)]
        assert bench.flush(*trades) == []


@pytest.mark.parametrize("wrong", ["600000", "6000", "0.6"])
def test_one_price_with_a_wrong_digit_takes_no_good_book_out_and_no_bad_one_in(bench: Bench, wrong: str) -> None:
    good, bad = ("59999", "60001"), ("29999", "30001")
    assert len(bench.flush(trade("BTCUSDT", wrong, NOW_MS + 10), book("btcusdt", *good, NOW_MS + 20))) == 0
    assert len(bench.flush(book("btcusdt", *good, NOW_MS + 30), book("btcusdt", *bad, NOW_MS + 40))) == 1
    bench.flush(trade("BTCUSDT", "60002", NOW_MS + 50))
    assert len(bench.flush(book("btcusdt", *good, NOW_MS + 60), book("btcusdt", *bad, NOW_MS + 70))) == 1
    bench.flush(trade("BTCUSDT", "60003", NOW_MS + 80))
    assert len(bench.flush(book("btcusdt", wrong, wrong, NOW_MS + 90))) == 1, "it is not believed for long"


def test_a_symbol_that_seldom_trades_is_judged_by_its_newest_price_alone(bench: Bench) -> None:
    bench.flush(trade("BTCUSDT", "61000", NOW_MS + 1_800_000))
    assert len(bench.flush(book("btcusdt", "30000", "30001", NOW_MS + 1_800_000))) == 1


def test_an_old_price_refuses_nothing_the_market_may_have_done_since(bench: Bench) -> None:
    half_as_much_again = ("90000", "90001")
    assert len(bench.flush(book("btcusdt", *half_as_much_again, NOW_MS + 60_000))) == 1
    assert bench.flush(book("btcusdt", *half_as_much_again, NOW_MS + 600_000)) == []
    assert len(bench.flush(book("btcusdt", "2999", "3001", NOW_MS + 600_000))) == 1, "a twentieth of it is too much"


@given(st.floats(0.01, 1e6), st.floats(0, 0.0999), st.floats(0, 0.0999), st.integers(0, 1_900_000))
def test_a_book_around_the_price_is_never_taken_out(price: float, below: float, above: float, later_ms: int) -> None:
    bench = Bench()
    bid, ask = (format(price * (1 - below), ".10f"), format(price * (1 + above), ".10f"))
    assert bench.flush(trade("XUSDT", format(price, ".10f")), trade("YUSDT", "7")) == []
    assert bench.flush(book("xusdt", bid, ask, NOW_MS + later_ms)) == []


def test_placeholders_and_junk_are_no_prices() -> None:
    bench = Bench()
    assert bench.flush(trade("BTCUSDT", "0", q="0", X="NA"), trade("ETHUSDT", "NaN"), trade("BNBUSDT", "-5")) == []
    assert bench.flush(*(book(label, "1", "2") for label in ("btcusdt", "ethusdt", "bnbusdt"))) == []


def test_prices_that_are_no_numbers_are_left_to_the_rules(bench: Bench) -> None:
    assert bench.flush(book("btcusdt", "x", "NaN"), book("btcusdt", "Infinity", "y")) == []


# ---- what is told of it ----------------------------------------------------------------------------------------------


def eth_as_btc(count: int, start: int = 0) -> list[bytes]:
    return [
        book("btcusdt", "2999.5", "3000.5", NOW_MS + 100 * number, number) for number in range(start, start + count)
    ]


def test_one_finding_for_many_books_and_its_end(bench: Bench) -> None:
    bench.flush(*eth_as_btc(5))
    [raised] = bench.turns(5)
    assert (raised.kind, raised.series, raised.open) == (FindingKind.MISLABELLED, "spot.depth.BTCUSDT", True)
    assert (raised.start_ms, raised.end_ms) == (NOW_MS, None)
    assert (raised.evidence["books"], raised.evidence["near_the_price_of"]) == (5, "ETHUSDT 5")
    assert bench.labels.open == 1
    bench.flush(*eth_as_btc(7, start=5), received_ms=NOW_MS + 4_321)
    *_, resolved = bench.turns(100)
    assert (resolved.id, resolved.open, resolved.end_ms) == (raised.id, False, NOW_MS + 4_322)
    assert resolved.evidence["books"] == 12
    assert resolved.evidence["last_event_ms"] == NOW_MS + 1_100
    assert bench.labels.open == 0
    assert bench.turns(100) == []


def test_one_or_two_are_no_finding(bench: Bench) -> None:
    bench.flush(*eth_as_btc(2))
    assert bench.turns(200) == []


def test_another_run_goes_on_with_what_was_open(bench: Bench) -> None:
    bench.flush(*eth_as_btc(5))
    [raised] = bench.turns(1)
    later = Bench()
    later.labels.adopt([raised])
    assert later.labels.open == 1
    [resolved] = later.turns(100)
    assert (resolved.id, resolved.open, resolved.evidence["books"]) == (raised.id, False, 5)


def test_books_stored_before_there_was_a_price_are_named_when_the_first_two_contradict_them() -> None:
    bench = Bench()
    assert bench.flush(*eth_as_btc(4)) == []
    assert bench.turns(3) == []
    bench.flush(trade("BTCUSDT", "60000", NOW_MS + 500))
    assert bench.turns(3) == [], "one price may be a wrong one"
    bench.flush(trade("BTCUSDT", "60001", NOW_MS + 600))
    [found] = bench.turns(3)
    assert (found.kind, found.series, found.severity, found.open) == (
        FindingKind.MISLABELLED, "spot.depth.BTCUSDT", "critical", True,
    )  # fmt: skip
    assert (found.start_ms, found.end_ms, found.evidence["books"]) == (NOW_MS, NOW_MS + 1, 4)
    assert (found.evidence["first_event_ms"], found.evidence["last_event_ms"]) == (NOW_MS, NOW_MS + 300)


def test_books_stored_before_there_was_a_price_are_not_named_when_it_fits() -> None:
    bench = Bench()
    assert bench.flush(*eth_as_btc(4)) == []
    bench.flush(trade("BTCUSDT", "31000", NOW_MS + 400))
    bench.flush(trade("BTCUSDT", "3100", NOW_MS + 500))
    assert bench.turns(100) == []


# ---- times to come ---------------------------------------------------------------------------------------------------


def kline(open_ms: int, sent_ms: int) -> bytes:
    k = {
        "t": open_ms, "T": open_ms + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": "10", "c": "10", "h": "10",
        "l": "10", "v": "1", "n": 2, "x": True, "q": "10", "V": "1", "Q": "10", "B": "0",
    }  # fmt: skip
    return json.dumps({"e": "kline", "E": sent_ms, "s": "BTCUSDT", "k": k}).encode()


def mark(at_ms: int, next_funding_ms: int) -> bytes:
    data = {
        "e": "markPriceUpdate",
        "E": at_ms,
        "s": "BTCUSDT",
        "p": "1",
        "i": "1",
        "P": "1",
        "r": "0",
        "T": next_funding_ms,
    }
    return json.dumps(data).encode()


FUTURE_MS = NOW_MS + DAY_MS + 1


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (trade("BTCUSDT", "1", FUTURE_MS), "traded_ms"),
        (trade("BTCUSDT", "1", FUTURE_MS - 1), None),
        (trade("BTCUSDT", "1", 1_500_000_000_000), None),  # replayed years later
        (mark(NOW_MS, NOW_MS + 400 * DAY_MS), None),
        (mark(FUTURE_MS, NOW_MS), "event_ms"),
        (kline(FUTURE_MS, FUTURE_MS), "open_ms"),
        (kline(NOW_MS, FUTURE_MS), "event_ms"),
        (kline(NOW_MS - 30 * DAY_MS, NOW_MS), None),
    ],
)
def test_what_has_not_happened_is_taken_out(payload: bytes, says: str | None) -> None:
    said = Bench("um").flush(payload)
    assert [f" {says} " in one and "a day after" in one for one in said] == ([True] if says else [])


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30))
def test_exactly_the_rows_a_day_ahead_of_their_receiving_are_taken_out(rows: Sequence[tuple[int, int]]) -> None:
    """Clocks that jump between rows included."""
    decode, held = Decoder("um"), Rows()
    for number, (event, received) in enumerate(rows):
        at_ms = NOW_MS + event * DAY_MS
        held.events += [one for one in decode(trade("BTCUSDT", "1", at_ms, t=number), 0) if isinstance(one, Event)]
        held.received_ms.append(NOW_MS + received * DAY_MS)
    found = Screen(Labels("um", LABELLED, SteppingClock()))({DATASETS["trade"]: held})
    positions = [one.position for _, refused in found for one in refused]
    assert positions == [at for at, (event, received) in enumerate(rows) if event > received + 1]


def test_a_price_to_come_is_not_learnt() -> None:
    bench = Bench()
    assert len(bench.flush(trade("BTCUSDT", "1", FUTURE_MS), book("btcusdt", "60000", "60001"))) == 1
    bench.flush(trade("BTCUSDT", "60000"))
    assert bench.turns(10) == []
