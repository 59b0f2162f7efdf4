"""Batches: pack and unpack is identity, one row per key stays, in whatever order rows come."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.batch import STREAM, joined, pack, settle
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Invalid
from data_manager.domain.events import Candle, Liquidation, Number, Trade

TRADE, CANDLE = DATASETS["trade"], DATASETS["candle"]
BASE_MS = 1_700_000_000_000 - 1_700_000_000_000 % 60_000


def trade(number: int, symbol: str = "BTCUSDT", price: str = "1.50", quantity: str = "2") -> Trade:
    return Trade(
        symbol=symbol, trade_id=number, price=Number(price), quantity=Number(quantity), traded_ms=BASE_MS + number,
        buyer_is_maker=number % 2 == 0, kind="MARKET", event_ms=BASE_MS + number + 3,
    )  # fmt: skip


def candle(minute: int, close: str, *, closed: bool = True, event_ms: int | None = None, high: str = "9") -> Candle:
    open_ms = BASE_MS + minute * 60_000
    return Candle(
        symbol="BTCUSDT", interval="1m", open_ms=open_ms, open=Number("2"), high=Number(high), low=Number("1"),
        close=Number(close), volume=Number("10"), close_ms=open_ms + 59_999, closed=closed,
        event_ms=open_ms + 60_000 if event_ms is None else event_ms,
    )  # fmt: skip


trades = st.lists(
    st.builds(trade, st.integers(0, 50), st.sampled_from(["BTCUSDT", "1000PEPEUSDT", "币安人生USDT"])), max_size=60
)


@given(trades)
def test_pack_keeps_each_fact_once_and_counts_the_repeats(events: list[Trade]) -> None:
    packed = pack(TRADE, "um", events, list(range(len(events))), STREAM)
    facts = {(event.symbol, event.trade_id) for event in events}
    rows = packed.batch.rows()
    symbols = [packed.batch.series[code].symbol for code in packed.batch.codes.tolist()]
    assert [(symbol, row["trade_id"]) for symbol, row in zip(symbols, rows, strict=True)] == sorted(facts)
    assert packed.repeated == len(events) - len(facts)
    assert not packed.refused
    assert all(row["price"] == "1.50" and row["origin"] == "stream" for row in rows)


@given(trades, st.randoms(use_true_random=False), st.integers(0, 60))
def test_merging_is_blind_to_order_and_twice_is_once(events: list[Trade], random: Random, cut: int) -> None:
    whole = pack(TRADE, "um", events, [7] * len(events), STREAM).batch
    shuffled = events[:]
    random.shuffle(shuffled)
    parts = [pack(TRADE, "um", part, [7] * len(part), STREAM).batch for part in (shuffled[:cut], shuffled[cut:])]
    assert settle(joined(parts)).rows() == whole.rows()
    assert settle(joined([whole, *parts])).rows() == whole.rows()


@given(st.permutations(range(4)))
def test_the_most_final_candle_stays_whatever_the_order(order: list[int]) -> None:
    streamed = [
        candle(0, "3", closed=False, event_ms=BASE_MS + 30_000),
        candle(0, "4"),
        candle(0, "5", event_ms=BASE_MS + 62_000),
    ]
    history = pack(CANDLE, "um", [candle(0, "6")], [7], "rest:klines").batch
    batches = [*(pack(CANDLE, "um", [event], [7], STREAM).batch for event in streamed), history]
    row, live = settle(joined([batches[position] for position in order])).rows()
    assert (row["close"], row["origin"]) == ("6", "rest:klines")
    without_history = [batches[position] for position in order if position != 3]
    row, live = settle(joined(without_history)).rows()
    assert row["close"] == "5"
    assert (live["close"], live["closed"]) == ("3", False)  # a state, not a fact: the store decides what it changes


def test_a_refused_row_names_subject_field_value_and_rule() -> None:
    packed = pack(CANDLE, "um", [candle(0, "3"), candle(1, "11", high="10")], [7, 7], STREAM)
    assert len(packed.batch) == 1
    ((refused),) = packed.refused
    assert refused.position == 1
    assert isinstance(refused.why, Invalid)
    assert refused.why.field == "high"
    assert str(refused.why) == f"candle BTCUSDT 1m {BASE_MS + 60_000}: high '10': must not be below close"


def test_a_placeholder_trade_is_a_fact_and_a_price_of_zero_is_not() -> None:
    packed = pack(
        TRADE, "um", [trade(1, price="0", quantity="0"), trade(2, price="0"), trade(3, price="-1")], [7] * 3, STREAM
    )
    assert [row["trade_id"] for row in packed.batch.rows()] == [1]
    assert [refused.position for refused in packed.refused] == [1, 2]


def test_states_of_an_open_candle_stay_in_order_and_each_only_once() -> None:
    states = [
        candle(0, close, closed=False, event_ms=BASE_MS + ms)
        for close, ms in (("3", 250), ("2", 0), ("4", 500), ("3", 250))
    ]
    packed = pack(CANDLE, "um", [*states, candle(0, "5")], [7] * 5, STREAM)
    assert [(row["closed"], row["close"]) for row in packed.batch.rows()] == [
        (True, "5"),
        (False, "2"),
        (False, "3"),
        (False, "4"),
    ]
    assert packed.repeated == 1


def test_a_number_in_a_key_counts_with_all_its_digits_and_without_its_notation() -> None:
    def liquidation(quantity: str) -> Liquidation:
        return Liquidation(
            symbol="BTCUSDT", traded_ms=BASE_MS, price=Number("5"), quantity=Number(quantity), side="SELL",
            average_price=Number("5"), last_filled_quantity=Number("1"), filled_quantity=Number("1"), order_type="LIMIT",
            time_in_force="IOC", status="FILLED",
        )  # fmt: skip

    long = "1234567890123456789012345678901.3"
    events = [liquidation(one) for one in (f"{long}4", f"{long}5", f"{long}40", "7", "7.00")]
    packed = pack(DATASETS["liquidation"], "um", events, [0] * 5, STREAM)
    assert (len(packed.batch), packed.repeated) == (3, 2)
