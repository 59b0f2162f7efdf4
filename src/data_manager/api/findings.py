"""What was found to be wrong, of whatever kind: a page of facts, the newest first."""

from typing import Annotated, Any, Final

from msgspec import json
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.data import given_words
from data_manager.api.errors import DOCUMENTED
from data_manager.api.routing import Endpoint, Header, Reply
from data_manager.domain.dataset import parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.finding import FindingKind, kind_named
from data_manager.ports import MetaStore
from data_manager.services.answering.query import OFFSET_MAX, whole

_FINDINGS_MAX: Final = 1_000
_HEADERS: list[Header] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_WORDS: Final = ("kind", "series", "open", "limit", "offset")


class FindingFact(BaseModel):
    """One thing that is, or was, wrong with one series, with one stream, or with all we take (both null)."""

    id: Annotated[str, Field(description="The same for the same thing found again.")]
    kind: Annotated[str, Field(examples=["silence"], description=", ".join(kind.value for kind in FindingKind))]
    series: Annotated[str | None, Field(examples=["um.trade.BTCUSDT"])]
    stream: Annotated[str | None, Field(description="The event type, as metrics name it.", examples=["trade"])]
    severity: Annotated[str, Field(description="info, warning or critical.", examples=["warning"])]
    start_ms: Annotated[int, Field(examples=[1680652740000])]
    end_ms: Annotated[int | None, Field(description="Exclusive; null while it lasts.", examples=[1680652800000])]
    evidence: dict[str, str | int | None]
    found_ms: int
    resolved_ms: Annotated[int | None, Field(description="When it was put right or passed; null: open.")]


class FindingsPagination(BaseModel):
    """Which part of all that were asked for this is."""

    limit: int
    offset: int
    total: int
    has_more: bool


class Findings(BaseModel):
    """A page of findings, the newest found first."""

    data: list[FindingFact]
    pagination: FindingsPagination


def finding_routes(meta: MetaStore, market: str) -> list[Endpoint]:
    """/findings."""

    async def findings(request: Request) -> Reply:
        given = given_words(request.scope["query_string"])
        for name in given:
            if name not in _WORDS:
                raise BadQuery(name[:64], given[name], f"is not a parameter here: {' '.join(_WORDS)} are")
        limit, offset = whole(given, "limit", 100, 1, _FINDINGS_MAX), whole(given, "offset", 0, 0, OFFSET_MAX)
        is_open = _yes_or_no(given.get("open"))
        found, total = await meta.findings(
            limit=limit,
            offset=offset,
            kind=kind_named(given["kind"]) if "kind" in given else None,
            series=_series_id(given.get("series"), market),
            open_only=is_open is True,
            resolved_only=is_open is False,
        )
        pagination = {"limit": limit, "offset": offset, "total": total, "has_more": offset + len(found) < total}
        return Reply(200, _HEADERS, json.encode({"data": found, "pagination": pagination}))

    return [
        Endpoint(
            "/findings", findings, name="findings", operation_id="get_findings", tags=["service"],
            summary="What was found to be wrong, open or past: the newest first.",
            responses={200: {"model": Findings}, **{code: DOCUMENTED[code] for code in (422, 503)}},
            openapi_extra={"parameters": [
                _query("kind", {"type": "string", "enum": [kind.value for kind in FindingKind]}),
                _query("series", {"type": "string", "examples": ["um.trade.BTCUSDT"]}),
                _query("open", {"type": "boolean", "description": "true: what stands; false: what is over; both."}),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": _FINDINGS_MAX, "default": 100}),
                _query("offset", {"type": "integer", "minimum": 0, "maximum": OFFSET_MAX, "default": 0}),
            ]},
        ),
    ]  # fmt: skip


def _series_id(text: str | None, market: str) -> str | None:
    """The id of the series a text names, aliases included. Raises BadQuery naming the parameter series."""
    if text is None:
        return None
    try:
        return parse_series(text[:200], DATASETS, market).id
    except BadQuery as error:
        raise BadQuery("series", text[:200], f"{error.field} {error.rule}") from None


def _yes_or_no(text: str | None) -> bool | None:
    """true, false, or not given. Raises BadQuery naming the parameter open."""
    words = {"true": True, "false": False}
    if text is not None and text not in words:
        raise BadQuery("open", text[:64], "must be true or false")
    return None if text is None else words[text]


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}
