"""One question about one series, asked in the same words by the API and the command line.

Which rows: from start on where start is given, else the newest (before end, where that is given); with descending
always the newest. In which order: sort_order, ascending by default.

    nothing        the newest rows, ascending                start       the first rows from start on, ascending
    end            the newest before end, ascending          start, end  the first of the span, ascending
    … and desc     the newest of what was asked for, newest first

A page ends with a cursor where more rows follow. It holds the key it stopped at, so that rows which arrive meanwhile
are neither skipped nor given twice.
"""

import base64
import binascii
from collections.abc import Mapping
from functools import cache
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series, make_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.span import Span
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import EARLIEST_MS, LATEST_MS, parse_bound
from data_manager.ports import SeriesStore

OFFSET_MAX = 1_000_000
_TEXT_MAX = 512  # of a parameter: more is no symbol, no time and no cursor

_Int64 = Annotated[int, Meta(ge=-(2**63) + 1, le=2**63 - 2)]
_Ms = Annotated[int, Meta(ge=EARLIEST_MS, lt=LATEST_MS)]


class Cursor(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a page stopped, in the answer to what. seen: rows given so far whose first key part is key."""

    series: str
    start_ms: _Ms | None
    end_ms: _Ms | None
    descending: bool
    key: _Int64
    seen: Annotated[int, Meta(ge=1, le=OFFSET_MAX)]


class Query(Struct, frozen=True, kw_only=True):
    """Rows of one series. start_ms is inclusive, end_ms exclusive; None is open."""

    series: Series
    start_ms: int | None = None
    end_ms: int | None = None
    limit: int
    offset: int = 0
    descending: bool = False
    cursor: Cursor | None = None

    @property
    def forward(self) -> bool:
        """Whether the rows are taken from the start of the span; otherwise from its end."""
        return self.start_ms is not None and not self.descending

    @property
    def span(self) -> Span | None:
        """The span asked for; None is everything."""
        if self.start_ms is None and self.end_ms is None:
            return None
        return Span(
            EARLIEST_MS if self.start_ms is None else self.start_ms, LATEST_MS if self.end_ms is None else self.end_ms
        )

    @property
    def is_newest(self) -> bool:
        """Whether the newest rows of all are asked for."""
        return self.span is None and self.cursor is None and not self.offset


class Page(NamedTuple):
    """Rows in the order asked for; the cursor of what follows, if anything does; the time of the newest row held."""

    rows: Batch
    next_cursor: str | None
    newest_ms: int | None


def words(dataset: Dataset) -> tuple[str, ...]:
    """What a question about a dataset may name."""
    period = ("period",) if dataset.has_interval else ()
    return ("pair", *period, "start", "end", "limit", "offset", "sort_order", "cursor")


def parse(
    dataset: Dataset,
    market: str,
    given: Mapping[str, str],
    *,
    limit_default: int = 100,
    limit_max: int = 1_000,
    also: tuple[str, ...] = (),
) -> Query:
    """The question that these words ask. Raises BadQuery naming the word that is wrong and what would be valid.

    also: words that are the caller's own and pass.
    """
    allowed = (*words(dataset), *also)
    for name, text in given.items():
        if name not in allowed:
            raise BadQuery(name[:64], text[:64], f"is not a parameter here: {' '.join(allowed)} are")
        if len(text) > _TEXT_MAX:
            raise BadQuery(name, f"{text[:64]}…", f"must be at most {_TEXT_MAX} characters long")
    cursor = _cursor(given["cursor"]) if "cursor" in given else None
    query = Query(
        series=_series(dataset, market, given),
        start_ms=parse_bound(given["start"], field="start") if "start" in given else None,
        end_ms=parse_bound(given["end"], field="end") if "end" in given else None,
        limit=whole(given, "limit", min(limit_default, limit_max), 1, limit_max),
        offset=whole(given, "offset", 0, 0, OFFSET_MAX),
        descending=_descending(given),
        cursor=cursor,
    )
    if cursor is not None:
        return _continued(query, cursor, given)
    if query.start_ms is not None and query.end_ms is not None and query.start_ms >= query.end_ms:
        raise BadQuery("start", given["start"], f"must lie before end ({given['end']})")
    return query


def _series(dataset: Dataset, market: str, given: Mapping[str, str]) -> Series:
    pair = given.get("pair", "")
    if not is_symbol(pair, market) and is_symbol(pair.upper(), market):
        raise BadQuery("pair", pair, f"must be in capital letters: {pair.upper()}")
    return make_series(dataset, market, pair, given.get("period"))


def whole(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number out of the words given; BadQuery outside its bounds."""
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
        hint = "; to go further, follow the cursor" if name == "offset" else ""
        raise BadQuery(name, text, f"must be a whole number from {least} to {most}{hint}")
    return int(text)


def _descending(given: Mapping[str, str]) -> bool:
    order = given.get("sort_order", "asc")
    if order.lower() not in ("asc", "desc"):
        raise BadQuery("sort_order", order, "must be asc or desc")
    return order.lower() == "desc"


def _cursor(text: str) -> Cursor:
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        return msgspec.msgpack.decode(packed, type=Cursor)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise BadQuery("cursor", text, "must be the next_cursor of an answer, letter for letter") from None


def _text(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(cursor)).rstrip(b"=").decode()


def _continued(query: Query, cursor: Cursor, given: Mapping[str, str]) -> Query:
    """The question the cursor goes on with. What it names besides must be what the first page was asked for."""
    same = {
        "pair": cursor.series == query.series.id,
        "start": cursor.start_ms == query.start_ms,
        "end": cursor.end_ms == query.end_ms,
        "sort_order": cursor.descending == query.descending,
        "offset": False,
    }
    for name, unchanged in same.items():
        if name in given and not unchanged:
            rule = "leave it out with a cursor" if name == "offset" else "is not what the cursor's first page asked for"
            raise BadQuery(name, given[name], rule)
    return msgspec.structs.replace(query, start_ms=cursor.start_ms, end_ms=cursor.end_ms, descending=cursor.descending)


async def fetch(store: SeriesStore, query: Query) -> Page:
    """The page of rows that answers the question. Raises what the store raises."""
    rows = await _read(store, query)
    more = len(rows) > query.limit
    if more:
        rows = rows.take(slice(0, query.limit) if query.forward else slice(1, None))
    cursor = _text(_stopped(query, rows)) if more else None
    newest = rows if query.is_newest else await store.last(query.series, 1)
    newest_ms = int(newest.time_ms[-1]) if len(newest) else None
    return Page(_reversed(rows) if query.descending else rows, cursor, newest_ms)


async def _read(store: SeriesStore, query: Query) -> Batch:
    """Ascending; one row more than asked for where there are more, at the end or (not forward) at the beginning."""
    names = _columns(DATASETS[query.series.dataset])
    if query.is_newest:
        return (await store.last(query.series, query.limit + 1)).select(names)
    after, skip = None, query.offset
    if query.cursor is not None:
        after, skip = _resumed(query, query.cursor)
    rows = await store.scan(
        query.series,
        query.span,
        columns=names,
        limit=query.limit + 1,
        offset=skip,
        descending=not query.forward,
        after=after,
    )
    return rows if query.forward else _reversed(rows)


@cache
def _columns(dataset: Dataset) -> tuple[str, ...]:
    """The columns that an answer shows, and those that order it."""
    return tuple(dict.fromkeys((*dataset.key, dataset.time, *(answer.column for answer in dataset.answer))))


def _resumed(query: Query, cursor: Cursor) -> tuple[int, int]:
    """after and offset of the scan that goes on behind the cursor.

    A key of one part cannot come twice. Of a longer one several rows may share the first part: those seen are skipped.
    """
    if len(DATASETS[query.series.dataset].key) == 1:
        return cursor.key, 0
    return cursor.key + (-1 if query.forward else 1), cursor.seen


def _stopped(query: Query, rows: Batch) -> Cursor:
    edge = int(rows.key[-1 if query.forward else 0])
    seen = 1 if len(rows.dataset.key) == 1 else int((rows.key == edge).sum())
    if query.cursor is not None and query.cursor.key == edge:
        seen += query.cursor.seen
    return Cursor(query.series.id, query.start_ms, query.end_ms, query.descending, edge, seen)


def _reversed(rows: Batch) -> Batch:
    return rows.take(slice(None, None, -1))
