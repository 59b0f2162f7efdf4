"""Backfill over HTTP: jobs are asked for, listed, looked at, cancelled and retried, in the contract's shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import body_of, series_id_of, words_of
from data_manager.api.errors import DOCUMENTED, REFUSALS, ErrorBody
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, PostEndpoint, Reply, answered, asked_by
from data_manager.domain.errors import BadQuery, Conflict
from data_manager.domain.job import Job, JobState
from data_manager.domain.time import parse_time
from data_manager.services.backfilling.asking import PRIORITY, require_choice, series_asked
from data_manager.services.backfilling.office import Office
from data_manager.services.backfilling.telling import job_facts

"""Jobs in one answer."""

_REQUIRED: Final = ("symbol", "data_type", "start_time", "end_time")
_WORDS: Final = ("symbol", "data_type", "timeframe", "start_time", "end_time", "priority", "source")


class BackfillRequest(BaseModel):
    """What is to be fetched."""

    symbol: Annotated[str, Field(examples=["BTCUSDT"])]
    data_type: Annotated[str, Field(description="As in GET /data/…, or a dataset's name.", examples=["candles"])]
    timeframe: Annotated[str | None, Field(description="Where the dataset has intervals.", examples=["1m"])] = None
    start_time: Annotated[str, Field(description="ISO 8601 or milliseconds.", examples=["2023-04-04T00:00:00Z"])]
    end_time: Annotated[str, Field(description="Exclusive.", examples=["2023-04-05T00:00:00Z"])]
    priority: Annotated[int, Field(description="1 goes first, 10 last.", ge=1, le=10)] = PRIORITY
    source: Annotated[str, Field(description="auto, rest or archive.", examples=["auto"])] = "auto"


class BackfillRecords(BaseModel):
    """Rows by what became of them; fetched = new + changed + duplicate, refused ones broke a rule."""

    expected: Annotated[int | None, Field(description="Rows of a source that lacks nothing; null: nobody knows.")]
    fetched: int
    new: int
    changed: int
    duplicate: int
    refused: int
    burned: Annotated[int, Field(description="Trade ids that answers leave out, taken for burned by the venue.")]


class BackfillStretch(BaseModel):
    """A part of the time wanted, half open."""

    start_ms: int
    end_ms: int


class BackfillAbsent(BackfillStretch):
    """Where the sources lack rows: they were asked, and evidence holds each request, the answer's digest and its time.

    What the second one said stands under second_….
    """

    missing: int | None
    call: Annotated[str, Field(description="Who was asked, by commas.", examples=["archive:klines, rest:klines"])]
    evidence: dict[str, Any]
    doubt: Annotated[
        str | None, Field(description="Why it is no proof: another source could not be asked, or rows were refused.")
    ]


class BackfillJob(BaseModel):
    """A job and how it stands."""

    job_id: str
    status: Annotated[str, Field(description=", ".join(state.value for state in JobState))]
    request: BackfillRequest
    progress: Annotated[float, Field(description="Per cent of the time wanted.", examples=[42.5])]
    records_fetched: int
    records_inserted: Annotated[int, Field(description="New and changed ones.")]
    created_at: str
    started_at: str | None
    completed_at: Annotated[str | None, Field(description="When it ended, however.")]
    error_message: str | None
    series: Annotated[str, Field(examples=["um.candle.BTCUSDT.1m"])]
    start_ms: int
    end_ms: int
    stretches: list[BackfillStretch]
    records: BackfillRecords
    absent: Annotated[list[BackfillAbsent], Field(description="What the source lacks, the first hundred stretches.")]
    absent_total: int
    coarse: Annotated[bool, Field(description="Some of it came coarser than what was lost.")]
    requested_by: Annotated[str, Field(description="api, cli, audit (auto-heal) or finding.")]
    attempts: int
    failures: Annotated[int, Field(description="In a row, without anything new finished.")]
    next_try_at: str | None
    heartbeat_at: str | None
    taken_over_by: Annotated[str | None, Field(description="The job it became a part of.")]


class BackfillJobs(BaseModel):
    """A page of jobs, the newest first; jobs and data are the same."""

    jobs: list[BackfillJob]
    data: list[BackfillJob]
    total_count: int
    pagination: Pagination


class Backfill(NamedTuple):
    """What the routes need. on: whether anybody is to run jobs."""

    office: Office
    market: str
    on: bool


def backfill_routes(backfill: Backfill) -> list[APIRoute]:
    """/backfill/start, /backfill/jobs, /backfill/jobs/{job_id} and what can be done to a job."""
    office = backfill.office

    async def start(request: Request) -> Reply:
        _require_on(backfill)
        body = _checked(await body_of(request, _WORDS))
        series = series_asked(backfill.market, body["data_type"], body["symbol"], body.get("timeframe"))
        job = await office.ask(
            series,
            parse_time(body["start_time"], field="start_time"),
            parse_time(body["end_time"], field="end_time"),
            by="api",
            priority=body.get("priority", PRIORITY),
            source=require_choice(body.get("source", "auto")),
        )
        return _told(job)

    async def listed(request: Request) -> Reply:
        given = words_of(request, "status", "series", "limit", "offset")
        part = part_of(given)
        series = series_id_of(given, backfill.market)
        states = _states(given.get("status"))
        found, total = await office.jobs(limit=part.limit, offset=part.offset, states=states, series=series)
        facts = [job_facts(job) for job in found]
        return answered({"jobs": facts, **part.listed(facts, total), "total_count": total})

    async def one(request: Request) -> Reply:
        return _told(await office.job(request.path_params["job_id"]))

    async def cancel(request: Request) -> Reply:
        return _told(await office.cancel(request.path_params["job_id"]))

    async def retry(request: Request) -> Reply:
        _require_on(backfill)
        return _told(await office.retry(request.path_params["job_id"]))

    job: dict[int | str, dict[str, Any]] = {200: {"model": BackfillJob}, 503: DOCUMENTED[503]}
    unknown: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such job."}}
    conflict: dict[int | str, dict[str, Any]] = {
        409: {"model": ErrorBody, "description": "The job is over (or not over), or backfill is switched off."}
    }
    body = {"required": True, "content": {"application/json": {"schema": BackfillRequest.model_json_schema()}}}
    path = {"parameters": [{"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}]}
    return [
        PostEndpoint(
            "/backfill/start", start, name="backfill_start", operation_id="post_backfill_start", tags=["backfill"],
            summary="Fetch a part of the past of a series. What an open job covers already is answered with that job.",
            description=_START, responses={**job, 422: DOCUMENTED[422], **conflict},
            openapi_extra={"requestBody": body},
        ),
        Endpoint(
            "/backfill/jobs", listed, name="backfill_jobs", operation_id="get_backfill_jobs", tags=["backfill"],
            summary="Jobs, the newest first.",
            description="`status`: one or more states joined by commas, or `open` for pending and running.",
            responses={200: {"model": BackfillJobs}, **REFUSALS},
            openapi_extra={"parameters": [
                asked_by("status", "running"), asked_by("series", "um.candle.BTCUSDT.1m"), *part_words(),
            ]},
        ),
        Endpoint(
            "/backfill/jobs/{job_id}", one, name="backfill_job", operation_id="get_backfill_job", tags=["backfill"],
            summary="One job: progress, counts, and what the source lacks.", responses={**job, **unknown},
            openapi_extra=path,
        ),
        PostEndpoint(
            "/backfill/jobs/{job_id}/cancel", cancel, name="backfill_cancel", operation_id="post_backfill_cancel",
            tags=["backfill"], summary="Stop a job; what it fetched stays.",
            responses={**job, **unknown, **conflict}, openapi_extra=path,
        ),
        PostEndpoint(
            "/backfill/jobs/{job_id}/retry", retry, name="backfill_retry", operation_id="post_backfill_retry",
            tags=["backfill"], summary="Open a failed or cancelled job again: it goes on where it stopped.",
            responses={**job, **unknown, **conflict}, openapi_extra=path,
        ),
    ]  # fmt: skip


_START: Final = """\
The span is half open and cut to what is settled. A span that lies in the future, or before the symbol was listed,
is refused, and the message says which part can be done. A job is `completed` when all of it was asked for: what the
source lacks is named in `absent` with the evidence. It is `failed` when asking did not work, never completed with holes
nobody names.
"""


def _require_on(backfill: Backfill) -> None:
    if not backfill.on:
        raise Conflict("backfill is switched off here: set ENABLE_BACKFILLER=true")


def _checked(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body's members, by their types. Raises BadQuery naming the one that is wrong."""
    for name in body:
        if name not in _WORDS:
            raise BadQuery(name[:64], body[name], f"is not known here: {' '.join(_WORDS)} are")
    checked = {name: value for name, value in body.items() if value is not None}
    for name in _REQUIRED:
        if name not in checked:
            raise BadQuery(name, None, f"is required, as are {' '.join(_REQUIRED)}")
    for name, value in checked.items():
        if name == "priority":
            _require_whole(name, value)
        elif name in ("start_time", "end_time"):
            checked[name] = _time(name, value)
        elif not isinstance(value, str):
            raise BadQuery(name, value, "must be text")
    return checked


def _require_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadQuery(name, value, "must be a whole number from 1 (first) to 10")


def _time(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadQuery(name, value, "must be ISO 8601 or milliseconds since 1970")
    return str(value)


def _states(text: str | None) -> list[JobState]:
    if text is None:
        return []
    if text == "open":
        return [JobState.PENDING, JobState.RUNNING]
    words = {state.value: state for state in JobState}
    for word in text.split(","):
        if word not in words:
            raise BadQuery("status", word, f"must be among {' '.join(words)}, or open")
    return [words[word] for word in text.split(",")]


def _told(job: Job) -> Reply:
    return answered(job_facts(job))
