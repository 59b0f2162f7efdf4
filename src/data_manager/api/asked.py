"""What callers ask: the words of a query and the members of a body, checked. BadQuery names the one that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from msgspec import DecodeError, json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.holes.ledger import HoleState
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, EARLIEST_MS, LATEST_MS, parse_time
from data_manager.services.runs import PATIENCE_S

_QUERY_BYTES_MAX: Final = 8_192
_BODY_BYTES_MAX: Final = 65_536
_WORDS: Final = ("series", "start", "end", "full", "wait")


class AskedFor(NamedTuple):
    """An audit of these series (None: all) and this span (None: what changed); full: everything. wait_s: patience."""

    series: list[Series] | None
    span: Span | None
    full: bool
    wait_s: float


async def body_of(request: Request, words: Sequence[str] = _WORDS) -> dict[str, Any]:
    """The body as an object; an absent one asks for nothing in particular. words: what it may hold, for the message."""
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > _BODY_BYTES_MAX:
            raise HTTPException(413, f"a body may be {_BODY_BYTES_MAX} bytes long")
    if not chunks.strip():
        return {}
    try:
        body = json.decode(bytes(chunks))
    except (DecodeError, UnicodeDecodeError) as error:
        raise BadQuery("body", None, f"must be a JSON object ({error})") from None
    if not isinstance(body, dict):
        raise BadQuery("body", body, f"must be a JSON object with any of {' '.join(words)}")
    return body


def wanted(body: Mapping[str, Any], market: str) -> AskedFor:
    """What a body asks for."""
    for name in body:
        if name not in _WORDS:
            raise BadQuery(name[:64], body[name], f"is not known here: {' '.join(_WORDS)} are")
    full = body.get("full", False)
    if not isinstance(full, bool):
        raise BadQuery("full", full, "must be true or false")
    named = body.get("series")
    names = [named] if isinstance(named, str) else named
    if names is not None and not (isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        raise BadQuery("series", named, "must be a series id or a list of them; leave it out for all")
    times = {name: _time(body[name], name) for name in ("start", "end") if body.get(name) is not None}
    series = None if names is None else [series_of(one, market) for one in names]
    return AskedFor(series, span_of(times), full, _wait_s(body))


def _wait_s(body: Mapping[str, Any]) -> float:
    wait_s = body.get("wait", PATIENCE_S)
    if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s <= PATIENCE_S:
        raise BadQuery("wait", wait_s, f"must be seconds from 0 to {PATIENCE_S:g}")
    return float(wait_s)


def _time(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadQuery(name, value, "must be ISO 8601 or milliseconds since 1970")
    return str(value)


def given_words(query_string: bytes) -> dict[str, str]:
    """The query's words; BadQuery for one that is there twice."""
    if len(query_string) > _QUERY_BYTES_MAX:
        raise HTTPException(414, f"a query may be {_QUERY_BYTES_MAX} bytes long")
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadQuery(twice[:64], given[twice][:64], "must be given once")
    return given


def words_of(request: Request, *known: str) -> dict[str, str]:
    """The words of the query, none of which may be unknown."""
    given = given_words(request.scope["query_string"])
    for name in given:
        if name not in known:
            raise BadQuery(name[:64], given[name], f"is not a parameter here: {' '.join(known)} are")
    return given


def series_of(text: str | None, market: str) -> Series:
    """A series by its id or the predecessor's name."""
    if not text:
        raise BadQuery("series", text, "must name a series, such as um.candle.BTCUSDT.1h")
    try:
        return parse_series(text[:200], DATASETS, market)
    except BadQuery as error:
        raise BadQuery("series", text[:200], f"{error.field} {error.rule}") from None


def series_id_of(given: Mapping[str, str], market: str) -> str | None:
    """The id of the series that the word series names; None without it."""
    return series_of(given["series"], market).id if "series" in given else None


def span_of(given: Mapping[str, str]) -> Span | None:
    """From start to end, either of which may be left open; None without both."""
    if "start" not in given and "end" not in given:
        return None
    start_ms = parse_time(given["start"], field="start") if "start" in given else EARLIEST_MS
    return Span(start_ms, parse_time(given["end"], field="end") if "end" in given else LATEST_MS)


def span_until(given: Mapping[str, str], now_ms: int, before_ms: int = DAY_MS) -> Span:
    """From start to end; without end until now, without start so long before the end."""
    end_ms = parse_time(given["end"], field="end") if "end" in given else now_ms
    return Span(parse_time(given["start"], field="start") if "start" in given else end_ms - before_ms, end_ms)


def states_of(text: str | None) -> list[HoleState]:
    """States joined by commas; live: all but healed."""
    if text is None:
        return []
    if text == "live":
        return [state for state in HoleState if state is not HoleState.HEALED]
    words = {state.value: state for state in HoleState}
    for word in text.split(","):
        if word not in words:
            raise BadQuery("state", word, f"must be among {' '.join(words)}, or live")
    return [words[word] for word in text.split(",")]
