"""GET /data/…: the rows of every dataset, by one handler. The routes are made from the table of datasets."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from data_manager.api.asked import given_words
from data_manager.api.cache import AnswerCache, Kept, Question
from data_manager.api.errors import DOCUMENTED
from data_manager.api.negotiation import (
    COMPRESS_FROM_BYTES,
    accepted_coding,
    accepted_format,
    compressed,
    has_already,
)
from data_manager.api.pages import Facts, book, condition_headers, document, rows_alone
from data_manager.api.routing import Endpoint, Header, Reply
from data_manager.api.schema import BOOK, parameters
from data_manager.api.schema import page as page_schema
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Unavailable
from data_manager.domain.values.levels import Levels
from data_manager.ports import SeriesStore
from data_manager.services.answering.formats import FORMATS, Format, require_format
from data_manager.services.answering.query import Page, Query, fetch, parse
from data_manager.services.conditions import Conditions, answered_span

NEWEST_ALONE = frozenset(("depth",))
"""Paths that answer the newest book alone when asked for nothing but a pair, as the first release did."""

_THREAD_ROWS, _THREAD_BYTES = 8_000, 262_144  # above these (rows and book levels), others need not wait for the work
_JSON: Header = (b"content-type", b"application/json")
_ALWAYS: list[Header] = [(b"cache-control", b"no-cache"), (b"vary", b"Accept, Accept-Encoding")]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the data routes need. source is the kind of store, as metadata.source tells it; version as in Components."""

    store: SeriesStore
    market: str
    source: str
    version: Callable[[Series], int | None]
    conditions: Conditions
    cache: AnswerCache
    limit_default: int = 100
    limit_max: int = 1_000
    timeout_s: float = 30.0


def data_routes(reading: Reading) -> list[Endpoint]:
    """One route per dataset that is kept as it came; derived ones have routes of their own."""
    return [_route(reading, dataset) for dataset in DATASETS.values() if "recompute" not in dataset.refill]


def _route(reading: Reading, dataset: Dataset) -> Endpoint:
    async def handler(request: Request) -> Reply:
        return await _answer(reading, dataset, request)

    schema, example = page_schema(dataset, reading.source)
    return Endpoint(
        f"/data/{dataset.path}",
        handler,
        name=f"data_{dataset.path}",
        operation_id=f"get_data_{dataset.path}",
        tags=["data"],
        summary=dataset.description,
        description=_DESCRIPTION + (_BOOK_DESCRIPTION if dataset.path in NEWEST_ALONE else ""),
        example=example,
        response_description="Rows; their order and which ones they are is said above.",
        responses=DOCUMENTED,
        openapi_extra={
            "parameters": parameters(dataset, min(reading.limit_default, reading.limit_max), reading.limit_max),
            "responses": {"200": {"content": _content(dataset, schema)}, "304": _NOT_MODIFIED},
        },
    )


_DESCRIPTION = """\
Which rows: with `start`, the first from there on (before `end`, if given); without it, the **newest** (before `end`).
With `sort_order=desc` always the newest, newest first; otherwise ascending by key. There is no default `start`: the
predecessor's 24 hours back are not applied. Rows are those of the closed past: an open candle is not among them.

Times are UTC with milliseconds, numbers the venue's text, ids and counts integers, and what the venue did not say is
null. A pair of which nothing is held is answered with no rows and `last_updated` null. Formats other than JSON carry
the cursor in the header `X-Next-Cursor`. Answers have an `ETag`; a request with `If-None-Match` gets 304 when nothing
changed.

How complete it is, each answer says itself: `coverage` partitions the span it speaks of (see `GET /condition`), and
`metadata.data_completeness` is covered / expected time of that span, from 0 to 1, or null where nobody knows. The
headers `X-Data-Completeness` and `X-Data-Condition` say the same in every format, and so does the schema of Arrow and
Parquet.
"""
_BOOK_DESCRIPTION = (
    "\nAsked for a `pair` alone (as JSON), the answer is the newest book held: `data` with `bids` and `asks`."
)
_NOT_MODIFIED = {"description": "The caller's If-None-Match names what would be answered."}


def _content(dataset: Dataset, schema: dict[str, Any]) -> dict[str, Any]:
    others = {one.media_type: {"schema": {"type": "string"}} for one in FORMATS.values() if one.name != "json"}
    whole = {"oneOf": [schema, BOOK]} if dataset.path in NEWEST_ALONE else schema
    return {FORMATS["json"].media_type: {"schema": whole}, **others}


async def _answer(reading: Reading, dataset: Dataset, request: Request) -> Reply:
    headers: dict[bytes, bytes] = dict(request.scope["headers"])
    accept, codings = headers.get(b"accept", b""), headers.get(b"accept-encoding", b"")
    question = (dataset.path, request.scope["query_string"], accept, codings)
    kept = reading.cache.get(question)
    if (
        kept is None
        or kept.version != reading.version(kept.series)
        or not reading.conditions.holds(kept.series, kept.known, kept.until_ms)
    ):
        kept = await _made(reading, dataset, question)
        if kept.version is not None:
            reading.cache.put(question, kept)
    if b"if-none-match" in headers and has_already(headers[b"if-none-match"], kept.etag):
        return Reply(304, [*_ALWAYS, (b"etag", kept.etag)], b"")
    return kept.reply


async def _made(reading: Reading, dataset: Dataset, question: Question) -> Kept:
    """The answer, read and written now. The version is taken before the rows, so that it is never too new for them."""
    _, query_string, accept, codings = question
    given = given_words(query_string)
    form = require_format(given["format"]) if "format" in given else accepted_format(accept)
    if form is None:
        raise HTTPException(406, f"Accept names none of {', '.join(one.media_type for one in FORMATS.values())}")
    alone = dataset.path in NEWEST_ALONE and form.name == "json" and given.keys() <= {"pair", "format"}
    limit_default = 1 if alone else reading.limit_default
    query = parse(
        dataset, reading.market, given, limit_default=limit_default, limit_max=reading.limit_max, also=("format",)
    )
    version = reading.version(query.series)
    page = await _fetch(reading, query)
    span = answered_span(query, page)
    said = reading.conditions.at_hand(query.series, span)
    facts = Facts(reading.source, query, page, form, said.condition)
    write = book if alone else document if form.name == "json" else rows_alone
    written = await asyncio.to_thread(write, facts) if _weight(page.rows) > _THREAD_ROWS else write(facts)
    body, coding = await _coded(written.body, codings)
    headers = [*_ALWAYS, (b"etag", written.etag), *_about(query, page, form), *condition_headers(said.condition, span)]
    return Kept(query.series, version, Reply(200, [*headers, *coding], body), written.etag, said.version, said.until_ms)


def _weight(rows: Batch) -> int:
    """How much there is to write: rows, and levels of books."""
    return len(rows) + sum(len(column.prices) for column in rows.columns.values() if isinstance(column, Levels))


async def _fetch(reading: Reading, query: Query) -> Page:
    try:
        async with asyncio.timeout(reading.timeout_s):
            return await fetch(reading.store, query)
    except TimeoutError:
        raise Unavailable(f"no answer from the store within {reading.timeout_s} s") from None


def _about(query: Query, page: Page, form: Format) -> list[Header]:
    """Headers that tell of the rows."""
    if form.name == "json":
        return [_JSON]
    headers: list[Header] = [(b"content-type", form.media_type.encode())]
    name = quote(f"{query.series.id}.{form.suffix}")
    headers.append((b"content-disposition", f"attachment; filename*=UTF-8''{name}".encode()))
    if page.next_cursor is not None:
        headers.append((b"x-next-cursor", page.next_cursor.encode()))
    return headers


async def _coded(body: bytes, codings: bytes) -> tuple[bytes, list[Header]]:
    """The body in the coding the caller likes best, where that is worth it, and the header that says so."""
    coding = accepted_coding(codings) if codings else None
    if coding is None or len(body) < COMPRESS_FROM_BYTES:
        return body, []
    large = len(body) > _THREAD_BYTES
    packed = await asyncio.to_thread(compressed, body, coding) if large else compressed(body, coding)
    return packed, [(b"content-encoding", coding.encode())]
