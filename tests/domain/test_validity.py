"""Rules: what cannot be a fact is refused, what is merely odd is kept."""

from data_manager.domain.batch import STREAM, pack
from data_manager.domain.datasets import DATASETS
from data_manager.domain.events import DepthUpdate, Number

UPDATE = DATASETS["depth_update"]


def update(number: int, bids: list[tuple[str, str]], matched_ms: int | None = None) -> DepthUpdate:
    return DepthUpdate(
        symbol="BTCUSDT", update_id=number, first_update_id=number, previous_update_id=number - 1,
        event_ms=1_700_000_000_000, matched_ms=matched_ms,
        bids=[(Number(price), Number(quantity)) for price, quantity in bids], asks=[],
    )  # fmt: skip


def refused(event: DepthUpdate) -> list[str | None]:
    return [one.why.field for one in pack(UPDATE, "um", [event], [1], STREAM).refused]


def test_a_removed_level_has_quantity_zero_and_a_level_must_have_a_price() -> None:
    assert refused(update(1, [("10.5", "0.000"), ("10", "1")])) == []
    assert refused(update(1, [("0", "1")])) == ["bids"]
    assert refused(update(1, [("10", "-1")])) == ["bids"]
    assert refused(update(1, [("10", "NaN")])) == ["bids"]


def test_two_clocks_of_one_fact_a_day_apart_are_refused() -> None:
    assert refused(update(1, [], matched_ms=1_700_000_000_000 - 1_272)) == []
    assert refused(update(1, [], matched_ms=1_699_000_000_000)) == ["matched_ms"]


def test_an_update_without_levels_is_kept() -> None:
    assert refused(update(1, [])) == []
