"""Retention over HTTP: how long what is kept, what went, and letting go now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple, Protocol

from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import body_of, series_id_of, series_of, span_of, words_of
from data_manager.api.errors import DOCUMENTED, REFUSALS, ErrorBody
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, PostEndpoint, Reply, answered, asked_by
from data_manager.api.runs import RUN, UNDER_WAY, run_number, under_way
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Conflict
from data_manager.domain.retention import Days, days_by_name
from data_manager.ports import Records
from data_manager.services.conditions import Conditions
from data_manager.services.keeping.retain import TRANSFORMATION, Progress, Retained
from data_manager.services.keeping.telling import let_go_facts, retained_facts
from data_manager.services.runs import Outcome, Runs, Tell

"""Records in one answer."""

_WORDS: Final = ("series", "dry_run", "force")


class RetentionPolicy(BaseModel):
    """How long rows are kept."""

    enabled: Annotated[bool, Field(description="Whether old rows go again and again; on demand they go all the same.")]
    interval_s: int
    rows_max: Annotated[int, Field(description="Rows one run may let go, give or take a day of one series.")]
    days: Annotated[
        dict[str, int | None],
        Field(description="Days by dataset and interval; null: for ever.", examples=[{"trade": 7, "candle.1m": 7}]),
    ]
    last: Annotated[dict[str, Any] | None, Field(description="The last run by this process.")]


class RetentionPiece(BaseModel):
    """A day of one series, or a candle that is longer than a day."""

    series: str
    start_ms: int
    end_ms: int
    kept_days: int
    rows: int | None
    dropped: Annotated[int | None, Field(description="Null in a dry run.")]
    certificate: str | None


class RetentionDone(BaseModel):
    """What a run came to."""

    pieces: list[RetentionPiece]
    dropped: int
    waiting: Annotated[int, Field(description="Pieces that are old, but whose rows were received lately.")]
    doubled: Annotated[int, Field(description="Keys that were met twice.")]
    capped: Annotated[bool, Field(description="More is due than one run may let go.")]
    failed: Annotated[dict[str, str], Field(description="By series, why some of its rows cannot be certified.")]
    dry_run: bool
    seconds: float


class RetentionRecord(BaseModel):
    """What went once: exact span, rows, and the certificate of what they were."""

    series: str
    start_ms: int
    end_ms: int
    rows: int | None
    at_ms: int
    done: bool
    certificate: str | None
    dropped: int | None = None
    first_key: int | None
    last_key: int | None
    kept_days: int
    forced: bool
    by: str


class RetentionRecords(BaseModel):
    """A page of what went, the newest first."""

    data: list[RetentionRecord]
    pagination: Pagination


class Retains(Protocol):
    """Who lets rows go in this process."""

    async def retain_now(
        self, series: Sequence[Series] | None, *, dry_run: bool, force: bool, tell: Progress
    ) -> Retained:
        """See service/keeping.py."""
        ...

    def last_run(self) -> Retained | None:
        """The last run over all series."""
        ...


class Retaining(NamedTuple):
    """What the routes need. retains is None where the role has no such part."""

    retains: Retains | None
    records: Records
    conditions: Conditions
    runs: Runs[Any]
    market: str
    days: Days
    enabled: bool
    interval_s: int
    rows_max: int


def retention_routes(retaining: Retaining) -> list[APIRoute]:
    """/retention and what is below."""
    return [_policy(retaining), _records(retaining), _run(retaining), _status(retaining)]


def _policy(retaining: Retaining) -> APIRoute:
    async def policy(request: Request) -> Reply:
        words_of(request)
        last = None if retaining.retains is None else retaining.retains.last_run()
        facts = {
            "enabled": retaining.enabled,
            "interval_s": retaining.interval_s,
            "rows_max": retaining.rows_max,
            "days": days_by_name(DATASETS.values(), retaining.days),
            "last": None if last is None else retained_facts(last),
        }
        return answered(facts)

    return Endpoint(
        "/retention", policy, name="retention", operation_id="get_retention", tags=["truth"],
        summary="How long rows are kept, and the last run of retention.",
        responses={200: {"model": RetentionPolicy}, 422: DOCUMENTED[422]},
    )  # fmt: skip


def _records(retaining: Retaining) -> APIRoute:
    async def records(request: Request) -> Reply:
        given = words_of(request, "series", "start", "end", "limit", "offset")
        part = part_of(given)
        found, total = await retaining.records.lineage(
            limit=part.limit,
            offset=part.offset,
            series=series_id_of(given, retaining.market),
            transformation=TRANSFORMATION,
            span=span_of(given),
        )
        return answered(part.listed([let_go_facts(one) for one in found], total))

    return Endpoint(
        "/retention/records", records, name="retention_records", operation_id="get_retention_records", tags=["truth"],
        summary="What went by retention: exact spans, counts and certificates, the newest first.",
        responses={200: {"model": RetentionRecords}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1m"), asked_by("start", "2023-04-04T00:00:00Z"),
            asked_by("end", "1680652800000"), *part_words(),
        ]},
    )  # fmt: skip


def _run(retaining: Retaining) -> APIRoute:
    async def run(request: Request) -> Reply:
        series, dry_run, force = _wanted(await body_of(request, _WORDS), retaining.market)
        retains = retaining.retains
        if retains is None:
            raise Conflict("this process lets no rows go: ask one of role all or work")

        async def work(tell: Tell) -> Retained:
            done = await retains.retain_now(series, dry_run=dry_run, force=force, tell=tell)
            await retaining.conditions.refresh(at_once=True)  # whoever is told that rows went is told so of them too
            return done

        return _outcome(await retaining.runs.begin("retention", work))

    schema = {
        "type": "object",
        "properties": {
            "series": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "dry_run": {"type": "boolean", "default": False},
            "force": {"type": "boolean", "default": False},
        },
        "example": {"series": "um.trade.BTCUSDT", "dry_run": True},
    }
    return PostEndpoint(
        "/retention/run", run, name="retain", operation_id="post_retention_run", tags=["truth"],
        summary="Let go now of what is older than its retention.",
        description=(
            "`series`: an id or a list of ids; all. `dry_run`: say what is due and change nothing. `force`: also rows "
            "that were received lately, and damaged ones that cannot be certified. By the process that leads."
        ),
        responses=_ANSWERS,
        openapi_extra={"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}},
    )  # fmt: skip


def _status(retaining: Retaining) -> APIRoute:
    async def status(request: Request) -> Reply:
        return _outcome(await retaining.runs.outcome(run_number(request)))

    return Endpoint(
        "/retention/runs/{run}", status, name="retention_run", operation_id="get_retention_run", tags=["truth"],
        summary="How a run of retention stands that takes longer.", responses=_ANSWERS,
        openapi_extra={"parameters": [RUN]},
    )  # fmt: skip


def _wanted(body: dict[str, Any], market: str) -> tuple[list[Series] | None, bool, bool]:
    for name, value in body.items():
        if name not in _WORDS:
            raise BadQuery(name[:64], value, f"is not known here: {' '.join(_WORDS)} are")
    flags = [body.get(name, False) for name in ("dry_run", "force")]
    for name, flag in zip(("dry_run", "force"), flags, strict=True):
        if not isinstance(flag, bool):
            raise BadQuery(name, flag, "must be true or false")
    named = body.get("series")
    names = [named] if isinstance(named, str) else named
    if names is not None and not (isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        raise BadQuery("series", named, "must be a series id or a list of them; leave it out for all")
    return None if names is None else [series_of(one, market) for one in names], flags[0], flags[1]


def _outcome(outcome: Outcome[Any]) -> Reply:
    if outcome.answer is None:
        return under_way(outcome, "/retention/runs")
    return answered(retained_facts(outcome.answer))


_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": RetentionDone},
    202: UNDER_WAY,
    404: {"model": ErrorBody, "description": "Nothing of that name is known."},
    409: {"model": ErrorBody, "description": "Another replica leads, or too much is under way."},
    **REFUSALS,
}
