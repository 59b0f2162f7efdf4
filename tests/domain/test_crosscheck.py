"""The same facts told twice: agreement to the last digit, and every difference named."""

import csv
import gzip
from collections.abc import Sequence
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pyarrow import feather

from data_manager.domain.batch import STREAM, Batch, joined, pack
from data_manager.domain.checks.crosscheck import (
    CrossCheck,
    candles_from_aggregates,
    candles_from_candles,
    candles_from_trades,
    empty_bars,
)
from data_manager.domain.checks.revisions import conflicts
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.events import AggTrade, Candle, Event, Number, Trade
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, parse_time
from data_manager.domain.values.decimals import parse_decimals
from data_manager.domain.values.exact import Exact, exact, shown, sums

START_MS = parse_time("2024-01-01T00:00:00Z")


def batch_of(events: Sequence[Event], origin: str = STREAM) -> Batch:
    packed = pack(BY_EVENT[type(events[0])], "um", events, [START_MS + 40 * DAY_MS] * len(events), origin)
    assert packed.refused == []
    return packed.batch


def trade(
    number: int, at_ms: int, price: str, quantity: str, *, sold: bool = False, kind: str | None = "MARKET"
) -> Trade:
    return Trade(
        symbol="BTCUSDT", trade_id=number, price=Number(price), quantity=Number(quantity), traded_ms=START_MS + at_ms,
        buyer_is_maker=sold, kind=kind,
    )  # fmt: skip


def candle(open_ms: int, prices: Sequence[str], volume: str, interval: str = "1m", **more: Any) -> Candle:
    length = {"1m": MINUTE_MS, "5m": 5 * MINUTE_MS, "1h": HOUR_MS}[interval]
    opened, high, low, close = map(Number, prices)
    return Candle(
        symbol="BTCUSDT", interval=interval, open_ms=START_MS + open_ms, open=opened, high=high, low=low, close=close,
        volume=Number(volume), close_ms=START_MS + open_ms + length - 1, closed=True, **more,
    )  # fmt: skip


def told(found: CrossCheck) -> tuple[int, int, int, int]:
    return found.agreed, found.excused, found.differing, found.unjudged


def plain(value: Decimal) -> Number:
    return Number(f"{value:f}")


def bar_of(fills: Sequence[Trade], open_ms: int) -> Candle | None:
    """The candle of a minute by plain Decimals; None when nobody traded."""
    inside = [one for one in fills if START_MS + open_ms <= one.traded_ms < START_MS + open_ms + MINUTE_MS]
    real = [(Decimal(one.price), Decimal(one.quantity), one.buyer_is_maker) for one in inside if Decimal(one.price)]
    if not real:
        return None
    prices = [price for price, _, _ in real]
    with localcontext(prec=100):
        return candle(
            open_ms, [plain(prices[0]), plain(max(prices)), plain(min(prices)), plain(prices[-1])],
            plain(sum((q for _, q, _ in real), Decimal(0))), trades=len(real),
            quote_volume=plain(sum((p * q for p, q, _ in real), Decimal(0))),
            taker_buy_volume=plain(sum((q for _, q, sold in real if not sold), Decimal(0))),
            taker_buy_quote_volume=plain(sum((p * q for p, q, sold in real if not sold), Decimal(0))),
        )  # fmt: skip


prices = st.one_of(st.decimals("0.0001", "99999", places=4).map(plain), st.sampled_from(["7.50", "007", "12E3"]))
quantities = st.one_of(prices, st.sampled_from(["1e-5", "1234567890123456789"]))


@st.composite
def fills(draw: st.DrawFn) -> list[Trade]:
    times = sorted(draw(st.lists(st.integers(0, 6 * MINUTE_MS - 1), min_size=2, max_size=30)))
    return [
        trade(100 + number, at_ms, draw(prices), draw(quantities), sold=draw(st.booleans()))
        for number, at_ms in enumerate(times)
    ]


@given(fills())
def test_candles_made_of_trades_agree_with_plain_decimals(every: list[Trade]) -> None:
    candles = [bar for minute in range(6) if (bar := bar_of(every, minute * MINUTE_MS))]
    whole = candles_from_trades(batch_of(every), batch_of(candles), [Span(START_MS, START_MS + 6 * MINUTE_MS)])
    assert told(whole) == (len(candles), 0, 0, 0)
    edges = candles_from_trades(batch_of(every), batch_of(candles))
    assert told(edges) == (max(0, len(candles) - 2), 0, 0, min(2, len(candles)))


@given(fills(), st.data())
def test_any_other_digit_in_any_field_is_a_difference_of_that_field(every: list[Trade], data: st.DataObject) -> None:
    candles = [bar for minute in range(6) if (bar := bar_of(every, minute * MINUTE_MS))]
    at = data.draw(st.integers(0, len(candles) - 1))
    field = data.draw(st.sampled_from(["volume", "quote_volume", "taker_buy_volume", "trades"]))
    before = getattr(candles[at], field)
    with localcontext(prec=100):
        after = before + 1 if field == "trades" else plain(Decimal(before) + Decimal("0.000000001"))
    candles[at] = replace(candles[at], **{field: after})
    found = candles_from_trades(batch_of(every), batch_of(candles), [Span(START_MS, START_MS + 6 * MINUTE_MS)])
    assert (found.differing, len(found.differences)) == (1, 1)
    (difference,) = found.differences
    assert (difference.field, difference.start_ms) == (field, candles[at].open_ms)
    assert Decimal(difference.held) == Decimal(after)
    assert Decimal(difference.computed) == Decimal(before)
    assert difference.source == "um.trade.BTCUSDT"


def test_placeholders_are_no_price_and_fills_of_the_insurance_fund_may_or_may_not_count() -> None:
    every = [
        trade(1, 0, "10", "1"), trade(2, 1_000, "0", "0", kind="NA"), trade(3, 2_000, "5", "2", kind="INSURANCE_FUND"),
        trade(4, 3_000, "11", "1", sold=True), trade(5, MINUTE_MS, "11", "1"),
    ]  # fmt: skip
    spans = [Span(START_MS, START_MS + MINUTE_MS)]
    with_it, without, wrong = (candle(0, [*prices], volume) for prices, volume in [
        (("10", "11", "5", "11"), "4"), (("10", "11", "10", "11"), "2.000"), (("10", "11", "1", "11"), "2"),
    ])  # fmt: skip
    assert told(candles_from_trades(batch_of(every), batch_of([without]), spans)) == (1, 0, 0, 0)
    assert told(candles_from_trades(batch_of(every), batch_of([with_it]), spans)) == (0, 1, 0, 0)
    found = candles_from_trades(batch_of(every), batch_of([wrong]), spans)
    assert told(found) == (0, 0, 1, 0)
    assert [(one.field, one.held, one.computed) for one in found.differences] == [("low", "1", "10")]
    mixed = candle(0, ["10", "11", "5", "11"], "2")
    assert candles_from_trades(batch_of(every), batch_of([mixed]), spans).differing == 1, (
        "half of one and half of the other"
    )


def test_a_minute_without_trades_is_flat_at_the_close_before_it() -> None:
    every = batch_of([trade(1, 0, "10", "1"), trade(2, 3 * MINUTE_MS, "12", "1")])
    flat, moved = (
        candle(MINUTE_MS, ["10"] * 4, "0", trades=0),
        candle(2 * MINUTE_MS, ["10", "12", "10", "12"], "0", trades=0),
    )
    found = candles_from_trades(every, batch_of([flat, moved]))
    assert told(found) == (1, 0, 1, 0)
    assert [one.field for one in found.differences] == ["high", "close"]
    assert empty_bars(every, "1m") == [Span(START_MS + MINUTE_MS, START_MS + 3 * MINUTE_MS)]
    assert empty_bars(batch_of([trade(1, 0, "10", "1"), trade(3, 3 * MINUTE_MS, "12", "1")]), "1m") == []


def test_a_candle_in_which_an_id_is_missing_is_not_judged() -> None:
    every = [trade(number, number * 20_000, "10", "1") for number in range(12) if number != 7]
    candles = [candle(minute * MINUTE_MS, ["10"] * 4, "3", trades=3) for minute in range(4)]
    assert told(candles_from_trades(batch_of(every), batch_of(candles))) == (1, 0, 0, 3)


def aggregated(every: Sequence[Trade]) -> list[AggTrade]:
    """As the venue does it: fills one after the other at one price and side, within 100 ms of the first."""
    groups: list[list[Trade]] = []
    for one in every:
        head = groups[-1][0] if groups else None
        same = head and (head.price, head.buyer_is_maker) == (one.price, one.buyer_is_maker)
        if head and same and one.traded_ms <= head.traded_ms + 100:
            groups[-1].append(one)
        else:
            groups.append([one])
    return [
        AggTrade(
            symbol="BTCUSDT", agg_id=number, price=group[0].price, quantity=Number(f"{sum(Decimal(one.quantity) for one in group):f}"),
            first_trade_id=group[0].trade_id, last_trade_id=group[-1].trade_id, traded_ms=group[0].traded_ms,
            buyer_is_maker=group[0].buyer_is_maker,
        )
        for number, group in enumerate(groups)
    ]  # fmt: skip


@st.composite
def dense_fills(draw: st.DrawFn) -> list[Trade]:
    """Fills around the edges of minutes, few prices: aggregates that straddle are common."""
    times = sorted(draw(st.lists(st.integers(-150, 150), min_size=6, max_size=40)))
    price, quantity = st.sampled_from(["10", "10.5", "11"]), st.sampled_from(["1", "0.25", "3"])
    near = [(3 + 2 * at // 151) * MINUTE_MS + at for at in times]
    return [
        trade(number, at_ms, draw(price), draw(quantity), sold=draw(st.booleans()))
        for number, at_ms in enumerate(sorted(near))
    ]


@given(dense_fills())
def test_candles_agree_with_aggregates_but_for_what_these_carry_across_an_edge(every: list[Trade]) -> None:
    candles = [bar for minute in range(8) if (bar := bar_of(every, minute * MINUTE_MS))]
    found = candles_from_aggregates(batch_of(aggregated(every)), batch_of(candles), [Span(START_MS, START_MS + DAY_MS)])
    assert found.differing == found.unjudged == 0


def test_more_than_an_aggregate_can_carry_is_a_difference() -> None:
    every = [
        trade(1, 59_950, "10", "1"), trade(2, 59_990, "10", "2"), trade(3, 60_010, "10", "4"), trade(4, 61_000, "11", "8"),
        trade(5, 120_000, "11", "1"),
    ]  # fmt: skip
    aggregates, spans = batch_of(aggregated(every)), [Span(START_MS, START_MS + 2 * MINUTE_MS)]
    true = [candle(0, ["10"] * 4, "3"), candle(MINUTE_MS, ["10", "11", "10", "11"], "12")]
    assert told(candles_from_aggregates(aggregates, batch_of(true), spans)) == (0, 2, 0, 0)
    too_much = [true[0], replace(true[1], volume=Number("15.0001"))]
    assert told(candles_from_aggregates(aggregates, batch_of(too_much), spans)) == (0, 1, 1, 0)
    other_low = [true[0], replace(true[1], low=Number("9.9"), open=Number("9.9"))]
    assert told(candles_from_aggregates(aggregates, batch_of(other_low), spans)) == (0, 1, 1, 0)


def test_coarse_candles_are_judged_only_where_every_fine_one_is_held() -> None:
    fine = [
        candle(minute * MINUTE_MS, ["10", f"{11 + minute}", f"{9 - minute * 0.1:.1f}", "10.5"], "1.10")
        for minute in range(10)
    ]
    coarse = [
        candle(0, ["10.0", "15", "8.6", "10.5"], "5.5", "5m"),
        candle(5 * MINUTE_MS, ["10", "20", "8.1", "10.5"], "5.5", "5m"),
    ]
    assert told(candles_from_candles(batch_of(fine), batch_of(coarse))) == (2, 0, 0, 0)
    assert told(candles_from_candles(batch_of(fine[:7] + fine[8:]), batch_of(coarse))) == (1, 0, 0, 1)
    wrong = [coarse[0], replace(coarse[1], volume=Number("5.500000000001"))]
    found = candles_from_candles(batch_of(fine), batch_of(wrong))
    assert [(one.field, one.held, one.computed) for one in found.differences] == [("volume", "5.500000000001", "5.5")]
    assert found.differences[0].end_ms - found.differences[0].start_ms == 5 * MINUTE_MS


def test_months_are_judged_by_their_days() -> None:
    days = [
        Candle(
            symbol="BTCUSDT", interval="1d", open_ms=START_MS + day * DAY_MS, open=Number("1"), high=Number("2"), low=Number("1"),
            close=Number("2"), volume=Number("1"), close_ms=START_MS + (day + 1) * DAY_MS - 1, closed=True,
        )
        for day in range(31)
    ]  # fmt: skip
    month = replace(days[0], interval="1M", volume=Number("31.0"), close_ms=START_MS + 31 * DAY_MS - 1)
    assert told(candles_from_candles(batch_of(days), batch_of([month]))) == (1, 0, 0, 0)
    assert told(candles_from_candles(batch_of(days[:-1]), batch_of([month]))) == (0, 0, 0, 1)


def test_sums_that_64_bits_cannot_hold_are_exact() -> None:
    column, _ = parse_decimals(["9" * 18] * 40 + ["0.1"])
    total = sums(exact(column), np.array([0]), np.array([41]))
    assert total.text(0) == shown(40 * int("9" * 18) * 10 + 1, 1)
    alike, _ = parse_decimals(["9" * 18] * 40)
    assert sums(exact(alike), np.array([0, 20]), np.array([20, 40])).text(1) == str(20 * int("9" * 18))
    assert exact(parse_decimals(["1e-30", "5"])[0]).text(1) == "5"
    assert Exact(np.array([0]), 3).text(0) == "0"


def test_what_a_revision_said_otherwise_is_named() -> None:
    old = candle(0, ["10", "11", "9", "10"], "5", trades=3)
    new = replace(old, volume=Number("6.0"), trades=4)
    same = replace(old, volume=Number("6"), trades=4, event_ms=START_MS + MINUTE_MS)
    other = candle(MINUTE_MS, ["10", "11", "9", "10"], "5")
    held = batch_of([new, other], "rest:klines")
    gone = [batch_of([candle(HOUR_MS, ["1"] * 4, volume)]) for volume in ("1", "2")]
    revised = joined([batch_of([old]), *gone])
    assert [(one.field, one.held, one.computed, one.source) for one in conflicts(held, revised)] == [
        ("volume", "6.0", "5", STREAM), ("trades", "4", "3", STREAM),
    ]  # fmt: skip
    assert conflicts(held, batch_of([same])) == [], "equal numbers are no conflict, nor is when it was sent"


# ── Recorded ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def recorded_candles(file: Path, interval: str, open_ms: Any) -> Batch:
    with gzip.open(file, "rt") as lines:
        rows = list(csv.reader(lines))
    day = parse_time("2022-12-13") - START_MS
    return batch_of([candle(day + open_ms(row[0]), row[1:5], row[5], interval) for row in rows])


def test_recorded_minutes_make_the_recorded_hours(recordings: Path) -> None:
    folder = recordings / "klines"
    minutes = recorded_candles(folder / "binance_usdm_ADAUSDT_1m_trade_2022-12-13.csv.gz", "1m", int)
    hours = recorded_candles(
        folder / "binance_usdm_ADAUSDT_1h_trade_2022-12-13.csv.gz", "1h", lambda text: int(text[9:11]) * HOUR_MS
    )
    assert told(candles_from_candles(minutes, hours)) == (24, 0, 0, 0)


@pytest.fixture(scope="module")
def xrpeth(recordings: Path) -> tuple[Batch, Batch]:
    """Trades and minutes recorded as floats: to eight decimals these are the venue's numbers again."""
    trades = feather.read_table(recordings / "trades" / "spot_XRPETH_trades_2019-10.feather").to_pylist()
    minutes = feather.read_table(recordings / "klines" / "spot_XRPETH_1m_2019-10.feather").to_pylist()
    fills = [
        trade(int(row["id"]), row["timestamp"] - START_MS, f"{row['price']:.8f}", f"{row['amount']:.8f}", sold=row["side"] == "sell", kind=None)
        for row in trades
    ]  # fmt: skip
    names = ("open", "high", "low", "close")
    candles = [
        candle(
            int(row["date"].timestamp() * 1000) - START_MS,
            [f"{row[name]:.8f}" for name in names],
            f"{row['volume']:.8f}",
        )
        for row in minutes
    ]
    return batch_of(fills), batch_of(candles)


def test_recorded_trades_make_the_recorded_minutes(xrpeth: tuple[Batch, Batch]) -> None:
    fills, candles = xrpeth
    assert told(candles_from_trades(fills, candles)) == (2_467, 0, 0, 2), (
        "first and last: nobody holds what lies beyond"
    )
    whole = [Span(int(candles.key[0]), int(candles.key[-1]) + MINUTE_MS)]
    assert told(candles_from_trades(fills, candles, whole)) == (2_469, 0, 0, 0)


def test_the_minutes_that_are_absent_are_those_in_which_nobody_traded(xrpeth: tuple[Batch, Batch]) -> None:
    fills, candles = xrpeth
    empty = {at for span in empty_bars(fills, "1m") for at in range(span.start_ms, span.end_ms, MINUTE_MS)}
    every = set(range(int(candles.key[0]), int(candles.key[-1]) + 1, MINUTE_MS))
    assert every - set(candles.key.tolist()) == empty
    assert len(empty) == 1_091
