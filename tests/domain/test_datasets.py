"""The table of datasets: what generic code relies on holds for every row."""

import re
from collections.abc import Callable

import pytest

from data_manager.domain.dataset import MARKETS, PROVENANCE, Dataset, Kind, make_series
from data_manager.domain.datasets import BY_EVENT, DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.time import INTERVALS_MS

every_dataset = pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)


def test_the_rows_of_the_design_are_there() -> None:
    assert set(DATASETS) == {
        "trade", "agg_trade", "candle", "depth", "depth_update", "book_ticker", "mark_price", "funding_rate", "ticker",
        "liquidation", "metric",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["name", "path", "alias", "event"])
def test_names_are_unique(word: str) -> None:
    words = [getattr(dataset, word) for dataset in DATASETS.values()]
    assert len(set(words)) == len(words)


def test_tables_find_every_dataset() -> None:
    assert all(DATASETS[dataset.name] is dataset for dataset in DATASETS.values())
    assert set(BY_EVENT.values()) == set(DATASETS.values())


@every_dataset
def test_names_can_stand_in_ids_routes_and_labels(dataset: Dataset) -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in (dataset.name, dataset.path, dataset.alias))


@every_dataset
def test_key_and_time_are_columns_that_always_hold_a_value(dataset: Dataset) -> None:
    for name in (*dataset.key, dataset.time):
        assert not dataset.field[name].optional
    assert dataset.field[dataset.key[0]].kind is Kind.INT
    assert dataset.field[dataset.time].kind is Kind.INT


@every_dataset
def test_what_continuity_and_answers_read_are_columns(dataset: Dataset) -> None:
    named = [*dataset.continuity.columns, *dataset.audited_columns, *(answer.column for answer in dataset.answer)]
    assert set(named) <= set(dataset.field)
    assert all(dataset.field[name].kind is Kind.INT for name in dataset.continuity.columns)
    assert dataset.audited_columns[: len(dataset.key)] == dataset.key
    assert dataset.time in dataset.audited_columns


@every_dataset
def test_rules_name_columns(dataset: Dataset) -> None:
    assert {rule.field for rule in dataset.rules} <= set(dataset.field)


@every_dataset
def test_answers_have_names_of_their_own_and_forms_that_fit(dataset: Dataset) -> None:
    names = [answer.name for answer in dataset.answer]
    assert len(set(names)) == len(names)
    assert dataset.answer[0].name == "timestamp"
    assert dataset.answer[0].column == dataset.time
    fits: dict[str, Callable[[Kind], bool]] = {
        "plain": lambda _: True,
        "time": lambda kind: kind is Kind.INT,
        "taker_side": lambda kind: kind is Kind.FLAG,
    }
    assert all(fits[answer.form](dataset.field[answer.column].kind) for answer in dataset.answer)


@every_dataset
def test_columns_are_the_events_own_then_where_they_came_from(dataset: Dataset) -> None:
    assert dataset.fields[-2:] == PROVENANCE
    assert not {"symbol", "interval"} & set(dataset.field)
    assert [field.name for field in dataset.fields[:-2]] == [
        name for name in dataset.event.__struct_fields__ if name not in ("symbol", "interval")
    ]


@every_dataset
def test_times_end_in_ms_and_are_whole_numbers(dataset: Dataset) -> None:
    assert all(field.kind is Kind.INT for field in dataset.fields if field.name.endswith("_ms"))
    assert dataset.time.endswith("_ms")


@every_dataset
def test_retention_is_declared_for_every_interval(dataset: Dataset) -> None:
    days = dataset.retention_days
    if dataset.has_interval and not isinstance(days, int | None):
        assert set(days) == set(INTERVALS_MS)
        assert all(kept > 0 for kept in days.values())
    else:
        assert days is None or (isinstance(days, int) and days > 0)


@every_dataset
def test_live_names_a_flag(dataset: Dataset) -> None:
    assert dataset.live is None or dataset.field[dataset.live].kind is Kind.FLAG


@every_dataset
def test_the_catalogue_gets_one_sentence(dataset: Dataset) -> None:
    assert dataset.description.endswith(".")
    assert len(dataset.description) <= 500, "longer than the column of the metadata table"


@pytest.mark.parametrize("market", MARKETS)
def test_a_refused_symbol_is_answered_with_ones_of_its_market(market: str) -> None:
    with pytest.raises(BadQuery) as refused:
        make_series(DATASETS["trade"], market, "btcusdt", None)
    examples = refused.value.rule.partition("such as ")[2].partition(":")[0].split(" or ")
    for symbol in examples:
        assert make_series(DATASETS["trade"], market, symbol, None).symbol == symbol
    assert ("_PERP" in refused.value.rule) == (market == "cm")
