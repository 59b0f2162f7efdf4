"""Rows as bytes: every format says the same of every dataset, and numbers come back letter for letter."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.domain.batch import Batch, build, empty
from data_manager.domain.dataset import Answer, Dataset, Field, Kind, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.time import EARLIEST_MS, LATEST_MS, iso
from data_manager.services.answering import formats
from data_manager.services.answering.formats import FORMATS

TABLE = list(DATASETS.values())
ODD_NUMBERS = [
    "0", "-0", "0.0", "-0.0", "007", "1e-5", "4.5E3", "0.00000001", "-12.50", "+1.5", ".5", "5.",
    "123456789012345678", "1234567890123456789012345678.901234", "0.000000000000000001", "99999999", "10000", "9999.9999",
]  # fmt: skip
WORDS = ["MARKET", "venue", 'say "no"', "a,b", "币安人生", "tab\there", "back\\slash", "", "\x01\x00", "=1+1"]


def _plain_number(scale: int) -> st.SearchStrategy[str]:
    return st.integers(-(10**15), 10**15).map(lambda number: f"{Decimal(number).scaleb(-scale):f}")


def _values(field: Field, rows: int) -> st.SearchStrategy[list[Any]]:
    """That many values of a column, as the venue may send them."""
    number = st.one_of(_plain_number(4), st.sampled_from(ODD_NUMBERS))
    times = field.name.endswith("_ms")
    one: dict[Kind, st.SearchStrategy[Any]] = {
        Kind.INT: st.integers(EARLIEST_MS, LATEST_MS - 1) if times else st.integers(-1, 2**63 - 1),
        Kind.NUMBER: number,
        Kind.TEXT: st.sampled_from(WORDS),
        Kind.FLAG: st.booleans(),
        Kind.LEVELS: st.lists(st.tuples(number, number), max_size=4),
        Kind.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    }
    value = st.none() | one[field.kind] if field.optional else one[field.kind]
    mixed = st.lists(value, min_size=rows, max_size=rows)
    if field.kind is not Kind.NUMBER:
        return mixed
    uniform = st.integers(0, 18).flatmap(lambda scale: st.lists(_plain_number(scale), min_size=rows, max_size=rows))
    return uniform | mixed


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A batch of any dataset. The columns are what can be stored, not what a market would do."""
    dataset = draw(st.sampled_from(TABLE))
    rows = draw(st.integers(0, 12))
    columns = {}
    for field in dataset.fields:
        column, broken = build(field, draw(_values(field, rows)))
        assert not broken
        columns[field.name] = column
    return Batch(dataset, (_series(dataset),), np.zeros(rows, np.int32), columns)


def _series(dataset: Dataset) -> Series:
    return Series("um", dataset.name, "BTCUSDT", "1m" if dataset.has_interval else None)


def expected(batch: Batch) -> list[dict[str, Any]]:
    """The rows as JSON must have them, made the slow way."""
    return [
        {answer.name: _shown(answer, row[answer.column], batch.dataset) for answer in batch.dataset.answer}
        for row in batch.rows()
    ]


def _shown(answer: Answer, value: Any, dataset: Dataset) -> Any:
    if value is None:
        return None
    if answer.form == "time":
        return iso(value)
    if answer.form == "taker_side":
        return "sell" if value else "buy"
    if dataset.field[answer.column].kind is Kind.LEVELS:
        return [{"price": price, "quantity": quantity} for price, quantity in value]
    return value


@settings(max_examples=120, deadline=None)
@given(batches())
def test_json_says_what_the_columns_hold(batch: Batch) -> None:
    want = expected(batch)
    assert json.loads(formats.json_rows(batch)) == want
    assert [json.loads(line) for line in formats.ndjson(batch).split(b"\n") if line] == want


@settings(max_examples=60, deadline=None)
@given(batches())
def test_csv_agrees_with_json(batch: Batch) -> None:
    heads, *rows = csv.reader(io.StringIO(formats.csv(batch).decode(), newline=""))
    assert heads == [answer.name for answer in batch.dataset.answer]
    want = [[_cell(value) for value in row.values()] for row in expected(batch)]
    assert [[json.loads(cell) if cell.startswith("[") else cell for cell in row] for row in rows] == want


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str):
        return "".join(max(letter, " ") for letter in value)
    return value if isinstance(value, list) else json.dumps(value)


@settings(max_examples=60, deadline=None)
@given(batches())
def test_arrow_and_parquet_agree_with_json_in_value(batch: Batch) -> None:
    stream = pa.ipc.open_stream(formats.arrow_stream(batch, {"source": "test"})).read_all()
    assert stream.schema.metadata[b"series"].decode() == batch.series[0].id
    assert stream.schema.metadata[b"source"] == b"test"
    parquet = pq.read_table(io.BytesIO(formats.parquet(batch)))
    for table in (stream, parquet):
        assert [_exact(row) for row in table.to_pylist()] == [_exact(row) for row in expected(batch)]


def _exact(value: Any) -> Any:
    """Decimal text and decimals as one number, times as one instant."""
    if isinstance(value, dict):
        return {name: _exact(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_exact(part) for part in value]
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    if isinstance(value, str) and value[:1] in "+-.0123456789" and value:
        return _exact(datetime.fromisoformat(value)) if value.endswith("Z") else Decimal(value)
    return value


@settings(max_examples=30, deadline=None)
@given(batches())
def test_a_table_for_people_has_every_row_and_head(batch: Batch) -> None:
    heads, rows = formats.table(batch)
    assert heads == [answer.name for answer in batch.dataset.answer]
    for shown, row in zip(rows, expected(batch), strict=True):
        assert all(isinstance(cell, str) for cell in shown)
        for cell, value in zip(shown, row.values(), strict=True):
            assert cell == ("" if value is None else str(value)) or isinstance(value, list)


def test_many_rows_are_written_in_blocks_that_leave_no_seam() -> None:
    dataset, rows = DATASETS["agg_trade"], 9_001
    columns = {}
    for field in dataset.fields:
        at = np.arange(rows).tolist()
        numbers = [f"{one // 7}.{one % 100:02d}" for one in at]
        values: dict[Kind, list[Any]] = {
            Kind.INT: at,
            Kind.NUMBER: numbers,
            Kind.FLAG: [one % 2 == 0 for one in at],
            Kind.TEXT: ["x"] * rows,
        }
        columns[field.name] = build(field, values[field.kind])[0]
    columns["traded_ms"] = build(dataset.field["traded_ms"], [EARLIEST_MS + 977 * one for one in range(rows)])[0]
    batch = Batch(dataset, (_series(dataset),), np.zeros(rows, np.int32), columns)
    assert json.loads(formats.json_rows(batch)) == expected(batch)
    assert len(formats.csv(batch).splitlines()) == rows + 1


@pytest.mark.parametrize("dataset", TABLE, ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_no_rows_is_a_valid_answer_too(dataset: Dataset, form: formats.Format) -> None:
    batch = empty(dataset, (_series(dataset),))
    body = form.encode(batch, {})
    if form.name == "json":
        assert body == b"[]"
    elif form.name == "csv":
        assert body.decode().strip() == ",".join(answer.name for answer in dataset.answer)
    elif form.name == "arrow":
        assert pa.ipc.open_stream(body).read_all().num_rows == 0
    elif form.name == "parquet":
        assert pq.read_table(io.BytesIO(body)).num_rows == 0
    else:
        assert body == b""


def test_times_outside_the_plausible_are_written_all_the_same() -> None:
    dataset = DATASETS["mark_price"]
    instants = [0, EARLIEST_MS - 1, LATEST_MS]
    columns = {
        field.name: build(field, instants if field.name == "event_ms" else _filler(field, len(instants)))[0]
        for field in dataset.fields
    }
    batch = Batch(dataset, (_series(dataset),), np.zeros(len(instants), np.int32), columns)
    assert [row["timestamp"] for row in json.loads(formats.json_rows(batch))] == [iso(ms) for ms in instants]


def _filler(field: Field, rows: int) -> list[Any]:
    fill: dict[Kind, Any] = {Kind.INT: EARLIEST_MS, Kind.NUMBER: "1.0", Kind.TEXT: "x"}
    return [None if field.optional else fill[field.kind]] * rows


def test_an_unknown_format_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadQuery, match="json ndjson csv arrow parquet"):
        formats.require_format("xml")
