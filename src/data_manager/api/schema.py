"""What OpenAPI says of the data routes: made from the table of datasets and the words of a query, nothing by hand."""

from collections.abc import Iterable
from typing import Any

from data_manager.domain.condition.partition import Condition
from data_manager.domain.dataset import Answer, Dataset, Kind
from data_manager.domain.time import INTERVALS_MS
from data_manager.services.answering.formats import FORMATS
from data_manager.services.answering.query import OFFSET_MAX, words

Schema = dict[str, Any]

_TIME = "2023-04-05T00:00:00.000Z"
_INSTANT = "ISO 8601 (UTC where no zone is given) or milliseconds since 1970"
_LEVEL = {
    "type": "object",
    "properties": {"price": {"type": "string"}, "quantity": {"type": "string"}},
    "required": ["price", "quantity"],
}
_BY_KIND: dict[Kind, tuple[Schema, Any]] = {
    Kind.INT: ({"type": "integer", "format": "int64"}, 3595721600),
    Kind.NUMBER: (
        {"type": "string", "description": "A decimal number, letter for letter as the venue sent it."},
        "27999.90",
    ),
    Kind.TEXT: ({"type": "string"}, "…"),
    Kind.FLAG: ({"type": "boolean"}, True),
    Kind.FLOAT: ({"type": "number"}, 0.0123),
    Kind.LEVELS: ({"type": "array", "items": _LEVEL}, [{"price": "27999.90", "quantity": "1.250"}]),
}
_BY_FORM: dict[str, tuple[Schema, Any]] = {
    "time": ({"type": "string", "format": "date-time"}, _TIME),
    "taker_side": ({"type": "string", "enum": ["buy", "sell"]}, "buy"),
}
_NULLABLE_TEXT: Schema = {"type": ["string", "null"]}


def parameters(dataset: Dataset, limit_default: int, limit_max: int) -> list[Schema]:
    """The query parameters of a dataset's route."""
    described = {
        "pair": _parameter("The venue's symbol, in capital letters.", {"type": "string"}, "BTCUSDT", required=True),
        "period": _parameter("Candle interval; case matters.", _one_of(INTERVALS_MS), "1h", required=True),
        "start": _parameter(f"First instant, inclusive: {_INSTANT}.", {"type": "string"}, _TIME),
        "end": _parameter(f"Last instant, exclusive: {_INSTANT}.", {"type": "string"}, "1680739200000"),
        "limit": _parameter("Rows of a page.", _between(1, limit_max, limit_default), limit_default),
        "offset": _parameter(
            "Rows to skip; to go through many pages, follow the cursor.", _between(0, OFFSET_MAX, 0), 0
        ),
        "sort_order": _parameter("Order of the rows.", {**_one_of(("asc", "desc")), "default": "asc"}, "asc"),
        "cursor": _parameter("pagination.next_cursor of the page before: go on from there.", {"type": "string"}),
        "format": _parameter("Format of the rows; goes before the header Accept.", _one_of(FORMATS), "json"),
    }
    return [{"name": word, "in": "query", **described[word]} for word in (*words(dataset), "format")]


def _parameter(text: str, schema: Schema, example: Any = None, *, required: bool = False) -> Schema:
    described = {"required": required, "description": text, "schema": schema}
    return described if example is None else {**described, "example": example}


def _one_of(choices: Iterable[str]) -> Schema:
    return {"type": "string", "enum": list(choices)}


def _between(least: int, most: int, default: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


def rows(dataset: Dataset) -> tuple[Schema, Schema]:
    """Schema and example of one row."""
    members = {answer.name: _member(dataset, answer) for answer in dataset.answer}
    schema = {
        "type": "object",
        "description": dataset.description,
        "properties": {name: schema for name, (schema, _) in members.items()},
        "required": list(members),
    }
    return schema, {name: example for name, (_, example) in members.items()}


def _member(dataset: Dataset, answer: Answer) -> tuple[Schema, Any]:
    field = dataset.field[answer.column]
    schema, example = _BY_FORM.get(answer.form) or _BY_KIND[field.kind]
    return ({**schema, "type": [schema["type"], "null"]} if field.optional else schema), example


def page(dataset: Dataset, source: str) -> tuple[Schema, Schema]:
    """Schema and example of a page of rows as JSON."""
    row, row_example = rows(dataset)
    period = {"period": {"type": "string"}} if dataset.has_interval else {}
    period_example = {"period": "1h"} if dataset.has_interval else {}
    many = {"type": "array", "items": row}
    asked = {"pair": "BTCUSDT", **period_example}
    collection = "_".join([dataset.alias, *asked.values()])
    properties = {
        "pair": {"type": "string"},
        **period,
        "values": many,
        "data": {**many, "description": "The same rows as values."},
        "metadata": _METADATA,
        "coverage": _COVERAGE,
        "parameters": {"type": "object", "description": "What was asked for, as it was understood."},
        "pagination": _PAGINATION,
        "sort": _object(by={"type": "string"}, order={"type": "string", "enum": ["asc", "desc"]}),
    }
    example: Schema = {
        **asked,
        "values": [row_example],
        "data": [row_example],
        "metadata": {
            "data_completeness": 1.0,
            "last_updated": _TIME,
            "source": source,
            "collection": collection,
            "series": ".".join(["um", dataset.name, *asked.values()]),
            "records_returned": 1,
        },
        "coverage": [
            {"start_ms": 1680652800000, "end_ms": 1680652860000, "condition": "good", "reason": "audited"}
        ],
        "parameters": {**asked, "start": _TIME, "end": None, "limit": 1, "offset": 0, "sort_order": "asc"},
        "pagination": {
            "limit": 1, "offset": 0, "has_more": False, "has_next": False, "has_previous": False, "next_cursor": None,
        },
        "sort": {"by": "timestamp", "order": "asc"},
    }  # fmt: skip
    return {"type": "object", "properties": properties, "required": list(properties)}, example


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_FRACTION: Schema = {
    "type": ["number", "null"],
    "minimum": 0,
    "maximum": 1,
    "description": "Covered / expected time of the span the answer speaks of; null: nobody knows.",
}
_COVERAGE: Schema = {
    "type": "array",
    "description": "Partitions the span the answer speaks of; empty where it speaks of none.",
    "items": _object(
        start_ms={"type": "integer"},
        end_ms={"type": "integer"},
        condition=_one_of(word.value for word in Condition),
        reason={"type": "string"},
    ),
}
_METADATA = _object(
    data_completeness=_FRACTION,
    last_updated={**_NULLABLE_TEXT, "description": "Time of the newest row held of this series; null: none is held."},
    source={"type": "string", "description": "Kind of store."},
    collection={"type": "string", "description": "The predecessor's name of the series."},
    series={"type": "string", "description": "The series: market.dataset.symbol(.interval)."},
    records_returned={"type": "integer"},
)
_PAGINATION = _object(
    limit={"type": "integer"},
    offset={"type": "integer"},
    has_more={"type": "boolean"},
    has_next={"type": "boolean", "description": "As has_more."},
    has_previous={"type": "boolean"},
    next_cursor={**_NULLABLE_TEXT, "description": "Give it as cursor to go on; null: nothing follows."},
)

BOOK = _object(
    pair={"type": "string"},
    data=_object(
        bids={"type": "array", "items": _LEVEL},
        asks={"type": "array", "items": _LEVEL},
        last_update_id={"type": "integer", "description": "0: no book is held."},
    ),
    metadata=_object(
        timestamp={**_NULLABLE_TEXT, "description": "When the book was so; null: no book is held."},
        source={"type": "string"},
        collection={"type": "string"},
        series={"type": "string"},
        data_completeness=_FRACTION,
    ),
    coverage=_COVERAGE,
    parameters={"type": "object"},
)
"""The newest book alone."""
