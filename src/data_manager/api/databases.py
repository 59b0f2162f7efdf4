"""What stands behind the service: the databases, and the connections to them and to the bus."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.routing import Endpoint, Reply, answered, well_or_not
from data_manager.domain.time import iso
from data_manager.ports import Clock

AskFacts = Callable[[], Awaitable[dict[str, Any]]]


class Database(BaseModel):
    """Whether it answers a trivial question, and how quickly, and whether it takes what is written."""

    kind: Annotated[str, Field(examples=["embedded", "mongodb", "sqlite", "mysql"])]
    status: Literal["healthy", "unhealthy"]
    reason: Annotated[str | None, Field(description="Why it is not healthy, in words.")]
    latency_ms: Annotated[
        float | None, Field(description="Of the answer to a trivial question; null when there was none.")
    ]


class RowsDatabase(Database):
    """The store of the rows, and how full it is. Sizes are in bytes, and null while they are not known."""

    rows: int | None
    data_bytes: Annotated[int | None, Field(description="Rows before compression.")]
    storage_bytes: Annotated[int | None, Field(description="On disk, without indexes.")]
    index_bytes: int | None
    used_bytes: Annotated[int | None, Field(description="What is compared with bytes_max.")]
    bytes_max: Annotated[int | None, Field(description="STORE_BYTES_MAX; null: no bound.")]
    shed: Annotated[
        list[str] | None, Field(description="Datasets let go for want of room; null where this process stores nothing.")
    ]
    days_to_full: Annotated[float | None, Field(description="At the growth of the last week.")]
    retention: Annotated[
        Literal["index", "engine"] | None,
        Field(
            description="Who deletes what is too old: the database, by an index with an age, or we; null: not known."
        ),
    ]


class BothDatabases(BaseModel):
    """The two of them."""

    rows: RowsDatabase
    metadata: Database


class Databases(BaseModel):
    """healthy when both are."""

    status: Literal["healthy", "unhealthy"]
    databases: BothDatabases
    timestamp: str


class Bus(BaseModel):
    """The connection to NATS."""

    connected: bool
    reason: str | None
    durable: Annotated[bool, Field(description="Whether what we do not take is kept for us.")]
    pending: int | None
    reconnects: int
    errors: int
    errors_by_type: Annotated[dict[str, int], Field(description="connection, subscription, general; absent: none.")]
    dropped: int


class BreakerState(BaseModel):
    """Whether calls go through (closed), fail and wait (open), or are tried again (half-open)."""

    state: Literal["closed", "open", "half-open"]
    failures: int
    reason: str | None


class LeaseFacts(BaseModel):
    """Who does the work that one replica does for all."""

    name: str
    we_are: str
    leading: bool
    holder: str | None
    epoch: int
    leaderless_s: float | None
    reason: str | None
    taken: int
    lost: int


class SourceState(BreakerState):
    """Where the past is asked for: a market's REST, or the archive, which has no budget."""

    requests: int | None = None
    weight_used: Annotated[int | None, Field(description="In this minute, by our address.")] = None
    weight_ceiling: int | None = None
    waited_s: float | None = None
    halts: Annotated[int | None, Field(description="Refusals: 429 and 418.")] = None
    halted_s: float | None = None
    clock_ahead_ms: int | None = None


class Connections(BaseModel):
    """Of this process. nats and lease are null where its role has none."""

    nats: Bus | None
    breakers: dict[str, BreakerState]
    lease: LeaseFacts | None
    sources: dict[str, SourceState]
    timestamp: str


def database_routes(clock: Clock, databases: AskFacts, connections: AskFacts) -> list[Endpoint]:
    """/health/databases and /health/connections."""

    async def ask_databases(request: Request) -> Reply:
        body = {**await databases(), "timestamp": iso(clock.now_ms())}
        return well_or_not(body, body["status"] == "healthy")

    async def ask_connections(request: Request) -> Reply:
        return answered({**await connections(), "timestamp": iso(clock.now_ms())})

    return [
        Endpoint(
            "/health/databases", ask_databases, name="databases", operation_id="get_databases", tags=["health"],
            summary="Whether the databases answer, how full they are, and when they will be.",
            responses={200: {"model": Databases}, 503: {"model": Databases, "description": "One does not answer."}},
        ),
        Endpoint(
            "/health/connections", ask_connections, name="connections", operation_id="get_connections",
            tags=["health"], summary="The connections of this process: bus, circuit breakers, lease.",
            responses={200: {"model": Connections}},
        ),
    ]  # fmt: skip
