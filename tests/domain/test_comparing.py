"""Every planted difference is found and nothing else is: precision and recall 1, whatever is planted where."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.batch import STREAM, Batch, empty, pack
from data_manager.domain.checks.comparing import DIFFERENCES_MAX, Comparison, RowDifference, compare
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT, DATASETS
from data_manager.domain.events import Event, FundingRate, Number, Trade
from tests.contract.rows import agg_trade, batch_of, candle, trade

TRADES, CANDLES = Series("um", "trade", "BTCUSDT"), Series("um", "candle", "BTCUSDT", "1m")


def changed(event: Event, **fields: Any) -> Event:
    return type(event)(**{**{name: getattr(event, name) for name in event.__struct_fields__}, **fields})


def of_history(event: Trade, **fields: Any) -> Event:
    """As an archive has it: no kind, no time of sending."""
    return changed(event, kind=None, event_ms=None, **fields)


def placeholder(number: int) -> Trade:
    return changed(trade(number), price=Number("0"), quantity=Number("0"), kind="NA")  # type: ignore[return-value]


def rows(events: Sequence[Event], series: Series, origin: str = STREAM) -> Batch:
    dataset = DATASETS[series.dataset]
    return pack(dataset, "um", events, [1] * len(events), origin).batch if events else empty(dataset, (series,))


def said(comparison: Comparison) -> list[tuple[str, int, str | None]]:
    return [(one.what, one.key[0], one.field) for one in comparison.differences]


OTHER_FIELDS = {
    "price": Number("77.7"),
    "quantity": Number("9"),
    "traded_ms": 1_700_000_040_001,
    "buyer_is_maker": None,
}
FATES = st.sampled_from(["same", "same", "same", "same", "missing", "extra", "placeholder", "insurance", *OTHER_FIELDS])


@given(st.lists(FATES, max_size=60))
def test_planted_differences_are_found_and_nothing_else(fates: list[str]) -> None:
    held: list[Event] = []
    history: list[Event] = []
    planted = []
    for number, fate in enumerate(fates, 1):
        one = trade(number)
        if fate == "missing":
            history.append(of_history(one))
            planted.append(("missing", number, None))
        elif fate == "extra":
            held.append(one)
            planted.append(("extra", number, None))
        elif fate == "placeholder":
            held.append(placeholder(number))
        elif fate == "insurance":
            held.append(changed(one, kind="INSURANCE_FUND", price=Number("1234")))
        elif fate in OTHER_FIELDS:
            value = OTHER_FIELDS[fate] if OTHER_FIELDS[fate] is not None else not one.buyer_is_maker
            held.append(changed(one, **{fate: value}))
            history.append(of_history(one))
            planted.append(("changed", number, fate))
        else:
            held.append(one)
            history.append(of_history(one, price=Number("1.5")))  # 1.50: the same number
    found = compare(rows(held, TRADES), rows(history, TRADES, "job:a archive:trades"), "archive:trades")
    assert sorted(said(found), key=str) == sorted(planted, key=str)
    excused = sum(fate in ("placeholder", "insurance") for fate in fates)
    assert (found.excused, found.differing) == (excused, len(planted))
    assert found.agreed == sum(fate == "same" for fate in fates)


def test_a_difference_names_row_field_both_values_and_who_said_it() -> None:
    held = batch_of([candle(0), candle(1, close="2.5")])
    said_so = batch_of([candle(0), candle(1, close="2.75")], "job:a rest:klines")
    [one] = compare(held, said_so, "rest:klines").differences
    moment = candle(1).open_ms
    assert one == RowDifference("changed", CANDLES.id, (moment,), moment, "close", "2.5", "2.75", "rest:klines")


def test_what_one_side_does_not_tell_is_no_difference_and_neither_is_who_told_it() -> None:
    held = [changed(candle(0), first_trade_id=5, last_trade_id=9, trades=7), changed(candle(1), trades=None)]
    fetched = [changed(candle(0), trades=7, event_ms=None), candle(1)]
    assert compare(batch_of(held), batch_of(fetched, "rest"), "rest:klines").differing == 0
    more = [changed(agg_trade(1), plain_quantity=Number("2")), agg_trade(2)]
    assert compare(batch_of(more), batch_of([agg_trade(1), agg_trade(2)], "archive"), "archive:aggTrades").agreed == 2


def test_keys_of_several_parts_are_told_apart() -> None:
    def settled(kind: str, rate: str) -> FundingRate:
        at = 1_700_006_400_000
        return FundingRate(symbol="BTCUSDT", slot_ms=at, rate_type=kind, funding_ms=at, funding_rate=Number(rate))

    held = batch_of([settled("Regular", "0.1"), settled("Special", "0.3")])
    found = compare(held, batch_of([settled("Regular", "0.10")], "rest"), "rest:fundingRate")
    assert [(one.what, one.key[1]) for one in found.differences] == [("extra", "Special")]


@pytest.mark.parametrize("count", [0, 1, 2 * DIFFERENCES_MAX])
def test_all_are_counted_and_the_first_are_named(count: int) -> None:
    nothing = rows([], TRADES)
    found = compare(rows([trade(number) for number in range(count)], TRADES), nothing, "x")
    assert (found.differing, len(found.differences)) == (count, min(count, DIFFERENCES_MAX))
    assert compare(nothing, rows([trade(number) for number in range(count)], TRADES), "x").differing == count
    assert BY_EVENT[Trade].untold is not None
