"""What is known of the data's completeness: audits on demand, the hole ledger, and the condition of any range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi.routing import APIRoute
from msgspec import DecodeError, json
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from data_manager.api.data import given_words
from data_manager.api.errors import DOCUMENTED, ErrorBody
from data_manager.api.routing import Endpoint, Handler, Header, Reply
from data_manager.domain.condition import Condition as Word
from data_manager.domain.condition import Range, share
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, EARLIEST_MS, LATEST_MS, parse_time
from data_manager.ports import Clock
from data_manager.ports_truth import TruthStore
from data_manager.services.audit import Audited
from data_manager.services.auditing.desk import Asked, Desk
from data_manager.services.conditions import Condition, Conditions
from data_manager.services.query import OFFSET_MAX, whole

HOLES_MAX: Final = 10_000
"""Holes in one answer."""

_BODY_BYTES_MAX: Final = 65_536
_HEADERS: list[Header] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_WORDS = ("series", "start", "end", "full")


class HoleFact(BaseModel):
    """Rows that must exist and are not held: they have times in [start_ms, end_ms)."""

    series: Annotated[str, Field(examples=["um.candle.BTCUSDT.1m"])]
    start_ms: Annotated[int, Field(examples=[1680652740000])]
    end_ms: Annotated[int, Field(examples=[1680652800000])]
    kind: Annotated[str, Field(description="grid, ids, chain, schedule or silence.", examples=["grid"])]
    missing: Annotated[int | None, Field(description="How many rows; null where that cannot be counted.")]


class AuditDone(BaseModel):
    """What an audit came to."""

    audited: Annotated[int, Field(description="Series that could be audited.")]
    failed: Annotated[list[str], Field(description="Series that could not: nothing is known of them.")]
    findings: Annotated[int, Field(description="Findings that began, changed or ended.")]
    holes: Annotated[list[HoleFact], Field(description=f"All that is missing now, at most {HOLES_MAX}.")]
    holes_total: int


class AuditUnderWay(BaseModel):
    """An audit that takes longer."""

    run: int
    status: Literal["running"]
    href: Annotated[str, Field(examples=["/audit/runs/7"])]


class LedgerFact(HoleFact):
    """A hole and its life."""

    id: str
    state: Annotated[str, Field(description=", ".join(state.value for state in HoleState))]
    after: Annotated[int | None, Field(description="Key of the row held before it.")]
    before: Annotated[int | None, Field(description="Key of the row held after it.")]
    found_ms: int
    seen_ms: int
    healed_ms: int | None
    attempts: int
    recheck_ms: int | None
    history: Annotated[list[dict[str, Any]], Field(description="Each step: at_ms, state, by, why, evidence.")]


class LedgerPagination(BaseModel):
    """Which part of the ledger this is."""

    limit: int
    offset: int
    total: int
    has_more: bool


class Ledger(BaseModel):
    """A page of the hole ledger, by series and time."""

    data: list[LedgerFact]
    pagination: LedgerPagination


class RangeFact(BaseModel):
    """A stretch of one condition."""

    start_ms: int
    end_ms: int
    condition: Annotated[str, Field(description=", ".join(word.value for word in Word), examples=["good"])]
    reason: Annotated[str, Field(examples=["audited"])]


class ConditionFact(BaseModel):
    """The condition of a range; ranges partition it."""

    series: str
    start_ms: int
    end_ms: int
    completeness: Annotated[float | None, Field(description="Covered / expected time, 0 to 1; null: nobody knows.")]
    ranges: list[RangeFact]


def range_facts(ranges: list[Range]) -> list[dict[str, Any]]:
    """Ranges as they stand in answers."""
    return [
        {"start_ms": one.start_ms, "end_ms": one.end_ms, "condition": one.condition.value, "reason": one.reason}
        for one in ranges
    ]


def condition_headers(condition: Condition, span: Span) -> list[Header]:
    """What a range is worth, for formats without room for it: its completeness, and the share of each condition."""
    shares = share(condition.ranges, span)
    said = ", ".join(f"{word.value}={shares[word]:.6g}" for word in Word if word in shares)
    complete = "null" if condition.completeness is None else f"{condition.completeness:.6f}"
    if condition.completeness not in (None, 1.0) and complete == "1.000000":
        complete = "0.999999"  # 1 is said only of what lacks nothing
    return [(b"x-data-completeness", complete.encode()), (b"x-data-condition", said.encode())]


def truth_routes(truth: TruthStore, conditions: Conditions, desk: Desk, clock: Clock, market: str) -> list[APIRoute]:
    """/condition, /audit/run, /audit/runs/{run} and /audit/holes."""

    async def condition(request: Request) -> Reply:
        given = _given(request, ("series", "start", "end"))
        series = _series(given.get("series"), market)
        now_ms = clock.now_ms()
        end_ms = parse_time(given["end"], field="end") if "end" in given else now_ms
        start_ms = parse_time(given["start"], field="start") if "start" in given else end_ms - DAY_MS
        span = _span(start_ms, end_ms)
        found = await conditions.condition_of(series, span, now_ms)
        facts = {"completeness": found.completeness, "ranges": range_facts(found.ranges)}
        return _reply({"series": series.id, "start_ms": start_ms, "end_ms": end_ms, **facts})

    async def run(request: Request) -> Reply:
        series, span, full = _wanted(await _body(request), market)
        return _outcome(await desk.ask(series, span, full=full))

    async def under_way(request: Request) -> Reply:
        number = request.path_params["run"]
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise BadQuery("run", number[:64], "must be the number of an audit that was asked for")
        return _outcome(await desk.outcome(int(number)))

    async def holes(request: Request) -> Reply:
        given = _given(request, ("series", "state", "start", "end", "limit", "offset"))
        limit, offset = whole(given, "limit", 100, 1, HOLES_MAX), whole(given, "offset", 0, 0, OFFSET_MAX)
        found, total = await truth.holes(
            limit=limit,
            offset=offset,
            series=_series(given["series"], market).id if "series" in given else None,
            states=_states(given.get("state")),
            span=_asked_span(given),
        )
        pagination = {"limit": limit, "offset": offset, "total": total, "has_more": offset + len(found) < total}
        return _reply({"data": [_ledger_fact(entry) for entry in found], "pagination": pagination})

    errors: dict[int | str, dict[str, Any]] = {code: DOCUMENTED[code] for code in (422, 503)}
    conflict = {"model": ErrorBody, "description": "Others audit the same, or too many audits are under way."}
    unknown = {"model": ErrorBody, "description": "Nothing was ever held of that series."}
    long = {"model": AuditUnderWay, "description": "It takes longer: ask again at href."}
    done: dict[int | str, dict[str, Any]] = {
        200: {"model": AuditDone},
        202: long,
        404: unknown,
        409: conflict,
        **errors,
    }
    return [
        Endpoint(
            "/condition", condition, name="condition", operation_id="get_condition", tags=["truth"],
            summary="What may be believed of a range of a series: a partition of it, and how complete it is.",
            description="Without `end`: up to now; without `start`: the day before the end.",
            responses={200: {"model": ConditionFact}, **errors},
            openapi_extra={"parameters": [
                _query("series", "um.candle.BTCUSDT.1h", required=True), _query("start", "2023-04-04T00:00:00Z"),
                _query("end", "1680652800000"),
            ]},
        ),
        Endpoint(
            "/audit/holes", holes, name="holes", operation_id="get_holes", tags=["truth"],
            summary="The hole ledger: what is missing, was missing, and what became of it.",
            description="`state`: one or more states joined by commas, or `live` for all but healed.",
            responses={200: {"model": Ledger}, **errors},
            openapi_extra={"parameters": [
                _query("series", "um.candle.BTCUSDT.1m"), _query("state", "open,healing"),
                _query("start", "2023-04-04T00:00:00Z"), _query("end", "1680652800000"), _query("limit", "100"),
                _query("offset", "0"),
            ]},
        ),
        PostEndpoint(
            "/audit/run", run, name="audit_run", operation_id="post_audit_run", tags=["truth"],
            summary="Audit now: what changed since the last audit, a span, or everything.",
            description=(
                "Every member of the body may be left out. `series`: an id or a list of ids; all. `start`, `end`: only "
                "that stretch. `full`: everything from the first row on. Answers when the audit is done."
            ),
            responses=done,
            openapi_extra={"requestBody": {"required": False, "content": {"application/json": {"schema": _BODY}}}},
        ),
        Endpoint(
            "/audit/runs/{run}", under_way, name="audit_status", operation_id="get_audit_run", tags=["truth"],
            summary="How an audit stands that took longer.", responses=done,
            openapi_extra={"parameters": [
                {"name": "run", "in": "path", "required": True, "schema": {"type": "integer"}},
            ]},
        ),
    ]  # fmt: skip


class PostEndpoint(APIRoute):
    """POST path, answered by handler, which may read the body."""

    def __init__(self, path: str, handler: Handler, **documentation: Any) -> None:
        async def endpoint(request: Request) -> None:
            """What FastAPI looks at; app below is what runs."""

        super().__init__(path, endpoint, methods=["POST"], response_model=None, **documentation)
        self.app = _app(handler)


def _app(handler: Handler) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await handler(Request(scope, receive))
        await answer(scope, receive, send)

    return app


_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "series": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "start": {"type": ["string", "integer"]},
        "end": {"type": ["string", "integer"]},
        "full": {"type": "boolean", "default": False},
    },
    "example": {"series": "um.candle.BTCUSDT.1m", "start": "2023-04-04T00:00:00Z", "end": "2023-04-05T00:00:00Z"},
}


# ── What was asked ───────────────────────────────────────────────────────────────────────────────────────────────────


async def _body(request: Request) -> dict[str, Any]:
    """The body as an object; an absent one asks for nothing in particular."""
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
        raise BadQuery("body", body, f"must be a JSON object with any of {' '.join(_WORDS)}")
    return body


def _wanted(body: Mapping[str, Any], market: str) -> tuple[list[Series] | None, Span | None, bool]:
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
    series = None if names is None else [_series(one, market) for one in names]
    return series, _asked_span(times), full


def _time(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadQuery(name, value, "must be ISO 8601 or milliseconds since 1970")
    return str(value)


def _given(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    given = given_words(request.scope["query_string"])
    for name in given:
        if name not in known:
            raise BadQuery(name[:64], given[name], f"is not a parameter here: {' '.join(known)} are")
    return given


def _series(text: str | None, market: str) -> Series:
    if not text:
        raise BadQuery("series", text, "must name a series, such as um.candle.BTCUSDT.1h")
    try:
        return parse_series(text[:200], DATASETS, market)
    except BadQuery as error:
        raise BadQuery("series", text[:200], f"{error.field} {error.rule}") from None


def _asked_span(given: Mapping[str, str]) -> Span | None:
    if "start" not in given and "end" not in given:
        return None
    start_ms = parse_time(given["start"], field="start") if "start" in given else EARLIEST_MS
    return _span(start_ms, parse_time(given["end"], field="end") if "end" in given else LATEST_MS)


def _span(start_ms: int, end_ms: int) -> Span:
    return Span(start_ms, end_ms)  # raises BadQuery naming start


def _states(text: str | None) -> list[HoleState]:
    if text is None:
        return []
    if text == "live":
        return [state for state in HoleState if state is not HoleState.HEALED]
    words = {state.value: state for state in HoleState}
    for word in text.split(","):
        if word not in words:
            raise BadQuery("state", word, f"must be among {' '.join(words)}, or live")
    return [words[word] for word in text.split(",")]


# ── What is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


def _outcome(asked: Asked) -> Reply:
    if asked.done is None:
        href = f"/audit/runs/{asked.number}"
        body = json.encode({"run": asked.number, "status": "running", "href": href})
        return Reply(202, [*_HEADERS, (b"location", href.encode())], body)
    return _reply(audit_facts(asked.done))


def audit_facts(done: Audited) -> dict[str, Any]:
    """What an audit came to, as answers have it."""
    return {
        "audited": done.audited,
        "failed": done.failed,
        "findings": done.findings,
        "holes": [_hole_fact(entry) for entry in done.holes[:HOLES_MAX]],
        "holes_total": len(done.holes),
    }


def _hole_fact(entry: LedgerEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in HoleFact.model_fields}


def _ledger_fact(entry: LedgerEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in LedgerFact.model_fields}


def _reply(body: Any) -> Reply:
    return Reply(200, _HEADERS, json.encode(body))


def _query(name: str, example: str, *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": {"type": "string"}, "example": example}
