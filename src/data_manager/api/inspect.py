"""What an operator looks into: how ingest is doing, and what could not be kept as data."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from msgspec import structs
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import words_of
from data_manager.api.errors import DOCUMENTED, REFUSALS, ErrorBody
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, Header, Reply, answered, asked_by
from data_manager.domain.errors import NotFound
from data_manager.ports import MetaStore

AskIngest = Callable[[], Awaitable[dict[str, Any]]]

_BYTES: list[Header] = [
    (b"content-type", b"application/octet-stream"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),  # whoever may publish wrote it: a browser must not run it
    (b"content-disposition", b"attachment"),
]


class SeriesFact(BaseModel):
    """What is known of one series since the start."""

    series: Annotated[str, Field(examples=["um.trade.BTCUSDT"])]
    last_event_ms: Annotated[int | None, Field(description="By the venue's clock, UTC.", examples=[1680652799999])]
    events: Annotated[int, Field(examples=[8451])]
    state: Annotated[
        str,
        Field(
            description="live, silent, stale, or unknown where nothing of it could be stored yet.", examples=["live"]
        ),
    ]


class Ingest(BaseModel):
    """received = new + changed + duplicate + rejected + dropped + in_flight, at every moment; ignored stands apart."""

    received: int
    new: int
    changed: int
    duplicate: int
    rejected: int
    dropped: int
    in_flight: int
    ignored: Annotated[int, Field(description="Messages that are no market data, such as subscribe acks.")]
    rate_per_s: Annotated[float, Field(description="Events a second over the last ten seconds.")]
    lag_ms: Annotated[int | None, Field(description="Our clock minus the venue's, event stored last.")]
    oldest_unflushed_ms: Annotated[int | None, Field(description="Age of the oldest event not yet stored.")]
    pending: Annotated[int | None, Field(description="Messages the bus holds for us; null where it cannot tell.")]
    series: list[SeriesFact]


class Letter(BaseModel):
    """A message, or one event of it, that could not be kept. Equal ones are one, with a count."""

    id: str
    received_ms: Annotated[int, Field(description="Of the newest.")]
    first_received_ms: int
    subject: str
    reason: Annotated[str, Field(examples=["invalid"])]
    field: Annotated[str | None, Field(examples=["data.p"])]
    message: str
    sample: Annotated[str, Field(description="The first bytes.")]
    payload_bytes: int
    whole: Annotated[bool, Field(description="Whether the payload is kept in full and can be replayed.")]
    count: int


class Letters(BaseModel):
    """A page of dead letters, the newest first."""

    data: list[Letter]
    pagination: Pagination


def inspect_routes(meta: MetaStore, ingest: AskIngest) -> list[Endpoint]:
    """/health/ingest, /dead-letters and their payloads."""

    async def status(request: Request) -> Reply:
        return answered(await ingest())

    async def letters(request: Request) -> Reply:
        given = words_of(request, "limit", "offset", "reason")
        part = part_of(given)
        found, total = await meta.dead_letters(limit=part.limit, offset=part.offset, reason=given.get("reason"))
        return answered(part.listed([structs.asdict(letter) for letter in found], total))

    async def payload(request: Request) -> Reply:
        letter_id = request.path_params["letter_id"]
        found = await meta.dead_payload(letter_id)
        if found is None:
            raise NotFound(f"no dead letter {letter_id[:64]!r} is kept whole: GET /dead-letters lists them")
        return Reply(200, _BYTES, found)

    return [
        Endpoint(
            "/health/ingest", status, name="ingest", operation_id="get_ingest", tags=["health"],
            summary="What became of every event, how far behind we are, and each series' last event.",
            responses={200: {"model": Ingest}},
        ),
        Endpoint(
            "/dead-letters", letters, name="dead_letters", operation_id="get_dead_letters", tags=["service"],
            summary="What could not be kept as data, with the reason: the newest first.",
            responses={200: {"model": Letters}, **REFUSALS},
            openapi_extra={"parameters": [
                asked_by("reason", "invalid", examples=["invalid", "undecodable", "mislabelled"]), *part_words(),
            ]},
        ),
        Endpoint(
            "/dead-letters/{letter_id}/payload", payload, name="dead_payload", operation_id="get_dead_payload",
            tags=["service"],
            summary="The whole payload of one, byte for byte; 404 where only a part of it is kept.",
            responses={
                200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
                404: {"model": ErrorBody, "description": "No such letter, or only a part of it is kept."},
                503: DOCUMENTED[503],
            },
            openapi_extra={"parameters": [
                {"name": "letter_id", "in": "path", "required": True, "schema": {"type": "string"}},
            ]},
        ),
    ]  # fmt: skip
