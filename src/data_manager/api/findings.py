"""What was found to be wrong, of whatever kind: a page of facts, the newest first."""

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import series_id_of, words_of
from data_manager.api.errors import REFUSALS
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, Reply, answered, asked_by
from data_manager.domain.errors import BadQuery
from data_manager.domain.finding import FindingKind, facts, kind_named
from data_manager.ports import MetaStore


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


class Findings(BaseModel):
    """A page of findings, the newest found first."""

    data: list[FindingFact]
    pagination: Pagination


def finding_routes(meta: MetaStore, market: str) -> list[Endpoint]:
    """/findings."""

    async def findings(request: Request) -> Reply:
        given = words_of(request, "kind", "series", "open", "limit", "offset")
        part = part_of(given)
        is_open = _yes_or_no(given.get("open"))
        found, total = await meta.findings(
            limit=part.limit,
            offset=part.offset,
            kind=kind_named(given["kind"]) if "kind" in given else None,
            series=series_id_of(given, market),
            open_only=is_open is True,
            resolved_only=is_open is False,
        )
        return answered(part.listed([facts(one) for one in found], total))

    return [
        Endpoint(
            "/findings", findings, name="findings", operation_id="get_findings", tags=["service"],
            summary="What was found to be wrong, open or past: the newest first.",
            responses={200: {"model": Findings}, **REFUSALS},
            openapi_extra={"parameters": [
                asked_by("kind", "silence", enum=[kind.value for kind in FindingKind]),
                asked_by("series", "um.trade.BTCUSDT"),
                asked_by("open", True, type="boolean", description="true: what stands; false: what is over; both."),
                *part_words(),
            ]},
        ),
    ]  # fmt: skip


def _yes_or_no(text: str | None) -> bool | None:
    """true, false, or not given. Raises BadQuery naming the parameter open."""
    words = {"true": True, "false": False}
    if text is not None and text not in words:
        raise BadQuery("open", text[:64], "must be true or false")
    return None if text is None else words[text]
