"""A page of rows as the body of an answer, in the shapes of the contract, each with its tag.

The tag names the body: equal rows, equal question, equal tag, on every replica and after every restart.
"""

import hashlib
from typing import Any, NamedTuple

from msgspec import json

from data_manager.api.routing import Header
from data_manager.domain.condition.partition import range_facts, shares_text
from data_manager.domain.dataset import Dataset
from data_manager.domain.span import Span
from data_manager.domain.time import iso
from data_manager.services.answering.formats import Format, json_rows
from data_manager.services.answering.query import Page, Query
from data_manager.services.conditions import Condition


class Written(NamedTuple):
    """A body and its entity tag."""

    body: bytes
    etag: bytes


class Facts(NamedTuple):
    """What an answer is made of. source: the kind of store."""

    source: str
    query: Query
    page: Page
    form: Format
    condition: Condition


def document(facts: Facts) -> Written:
    """The page as JSON, and its tag. The rows are written once and stand in it twice."""
    query, page = facts.query, facts.page
    series, rows = query.series, json_rows(page.rows)
    asked = _asked(query)
    pagination = {
        "limit": query.limit,
        "offset": query.offset,
        "has_more": page.next_cursor is not None,
        "has_next": page.next_cursor is not None,
        "has_previous": query.offset > 0 or query.cursor is not None,
        "next_cursor": page.next_cursor,
    }
    metadata = {
        "data_completeness": facts.condition.completeness,
        "last_updated": None if page.newest_ms is None else iso(page.newest_ms),
        **_origin(facts.source, query, page.rows.dataset),
        "records_returned": len(page.rows),
    }
    rest = {
        "metadata": metadata,
        "coverage": range_facts(facts.condition.ranges),
        "parameters": asked,
        "pagination": pagination,
        "sort": {"by": page.rows.dataset.answer[0].name, "order": asked["sort_order"]},
    }
    head = json.encode({"pair": series.symbol, **({"period": series.interval} if series.interval else {})})
    tail = json.encode(rest)
    body = b"".join((head[:-1], b',"values":', rows, b',"data":', rows, b",", tail[1:]))
    return Written(body, _tag(rows, tail))


def _asked(query: Query) -> dict[str, Any]:
    """The question as it was understood."""
    series = query.series
    return {
        "pair": series.symbol,
        **({"period": series.interval} if series.interval else {}),
        "start": None if query.start_ms is None else iso(query.start_ms),
        "end": None if query.end_ms is None else iso(query.end_ms),
        "limit": query.limit,
        "offset": query.offset,
        "sort_order": "desc" if query.descending else "asc",
    }


def _origin(source: str, query: Query, dataset: Dataset) -> dict[str, str]:
    series = query.series
    alias = f"{dataset.alias}_{series.symbol}" + (f"_{series.interval}" if series.interval else "")
    return {"source": source, "collection": alias, "series": series.id}


def book(facts: Facts) -> Written:
    """The newest book; empty sides, update id 0 and no time where none is held."""
    query, page = facts.query, facts.page
    found = json.decode(json_rows(page.rows.take(slice(-1, None))))
    newest = found[0] if found else {"bids": [], "asks": [], "update_id": 0, "timestamp": None}
    answer = {
        "pair": query.series.symbol,
        "data": {"bids": newest["bids"], "asks": newest["asks"], "last_update_id": newest["update_id"]},
        "metadata": {
            "data_completeness": facts.condition.completeness,
            "timestamp": newest["timestamp"],
            **_origin(facts.source, query, page.rows.dataset),
        },
        "coverage": range_facts(facts.condition.ranges),
        "parameters": {"pair": query.series.symbol},
    }
    body = json.encode(answer)
    return Written(body, _tag(body))


def rows_alone(facts: Facts) -> Written:
    """The page in a format that has no room for more than rows and, some of them, notes."""
    query, page = facts.query, facts.page
    notes = _origin(facts.source, query, page.rows.dataset)
    notes |= {
        "data_completeness": json.encode(facts.condition.completeness).decode(),
        "coverage": json.encode(range_facts(facts.condition.ranges)).decode(),
    }
    if page.newest_ms is not None:
        notes["last_updated"] = iso(page.newest_ms)
    if page.next_cursor is not None:
        notes["next_cursor"] = page.next_cursor
    body = facts.form.encode(page.rows, notes)
    return Written(body, _tag(body, (page.next_cursor or "").encode(), notes["coverage"].encode()))


def condition_headers(condition: Condition, span: Span | None) -> list[Header]:
    """What a range is worth, for formats without room for it: its completeness, and the share of each condition."""
    if span is None:
        return [(b"x-data-completeness", b"null")]
    said = shares_text(condition.ranges, span)
    complete = "null" if condition.completeness is None else f"{condition.completeness:.6f}"
    if condition.completeness not in (None, 1.0) and complete == "1.000000":
        complete = "0.999999"  # 1 is said only of what lacks nothing
    return [(b"x-data-completeness", complete.encode()), (b"x-data-condition", said.encode())]


def _tag(*parts: bytes) -> bytes:
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return b'W/"' + digest.hexdigest()[:24].encode() + b'"'
