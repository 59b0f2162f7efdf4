"""What the service says of itself: who it is, whether it lives, whether it is ready, and its figures."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from msgspec import Struct
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from data_manager.api.metrics import scrape
from data_manager.api.routing import Endpoint, Reply, answered, well_or_not
from data_manager.domain.time import iso
from data_manager.ports import Clock

_EXAMPLE_TIME = "2023-04-05T00:00:00.000Z"


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether requests should come here. components: a state per part; reasons: why not, in words for an operator."""

    ready: bool
    status: Literal["healthy", "degraded", "unhealthy"]
    components: dict[str, str]
    reasons: list[str]


AskReadiness = Callable[[], Awaitable[Readiness]]
_Time = Annotated[str, Field(examples=[_EXAMPLE_TIME])]


class Service(BaseModel):
    """Who answers here."""

    service: Annotated[str, Field(examples=["petrosa-data-manager"])]
    version: Annotated[str, Field(examples=["1.0.0"])]
    status: Annotated[str, Field(examples=["operational"])]


class Alive(BaseModel):
    """The event loop runs; nothing else is asked."""

    status: Annotated[str, Field(examples=["ok"])]
    timestamp: _Time
    version: Annotated[str, Field(examples=["1.0.0"])]


class Ready(BaseModel):
    """Whether requests should come here."""

    ready: bool
    status: Literal["healthy", "degraded", "unhealthy"]
    components: Annotated[dict[str, str], Field(examples=[{"nats": "healthy", "store": "healthy"}])]
    timestamp: _Time
    reasons: Annotated[list[str], Field(description="Why not, in words.", examples=[[]])]


def health_routes(clock: Clock, version: str, readiness: AskReadiness, registry: CollectorRegistry) -> list[Endpoint]:
    """/, /health/liveness, /health/readiness and /metrics."""

    async def root(request: Request) -> Response | Reply:
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/docs", 307, {"Vary": "Accept"})
        body = {"service": "petrosa-data-manager", "version": version, "status": "operational"}
        return answered(body, 200, (b"vary", b"Accept"))

    async def liveness(request: Request) -> Reply:
        body = {"status": "ok", "timestamp": iso(clock.now_ms()), "version": version}
        return answered(body)

    async def ready(request: Request) -> Reply:
        found = await readiness()
        body = {
            "ready": found.ready,
            "status": found.status,
            "components": found.components,
            "timestamp": iso(clock.now_ms()),
            "reasons": found.reasons,
        }
        return well_or_not(body, found.ready)

    async def metrics(request: Request) -> Response:
        return scrape(registry, request.headers.get("accept", ""))

    return [
        Endpoint(
            "/", root, name="root", operation_id="get_root", tags=["service"],
            summary="Who answers here (a browser is sent to /docs).", responses={200: {"model": Service}},
        ),
        Endpoint(
            "/health/liveness", liveness, name="liveness", operation_id="get_liveness", tags=["health"],
            summary="Whether the process lives; asks no store and no bus.", responses={200: {"model": Alive}},
        ),
        Endpoint(
            "/health/readiness", ready, name="readiness", operation_id="get_readiness", tags=["health"],
            summary="Whether requests should come here, and if not, why.",
            responses={200: {"model": Ready}, 503: {"model": Ready, "description": "Not ready: reasons say why."}},
        ),
        Endpoint(
            "/metrics", metrics, name="metrics", operation_id="get_metrics", tags=["service"],
            summary="Every figure, for Prometheus.", response_class=Response,
            openapi_extra={"responses": {"200": {"content": {"text/plain": {"schema": {"type": "string"}}}}}},
        ),
    ]  # fmt: skip
