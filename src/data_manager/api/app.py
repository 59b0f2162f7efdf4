"""The HTTP application: routes made from the table of datasets, one error body, one boundary around it all.

    server ──> Boundary (id, figures, 500) ──> FastAPI (routing, /docs) ──> Endpoint ──> services/query ──> store

Every route that is here works; what later releases bring is a 404 until then.
"""

from dataclasses import dataclass

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from data_manager.api.boundary import Boundary
from data_manager.api.data import Reading, data_routes
from data_manager.api.errors import HANDLERS, internal
from data_manager.api.health import AskReadiness, Readiness, health_routes
from data_manager.api.metrics import HttpMetrics, metrics_app
from data_manager.ports import Clock, MetaStore, SeriesStore


@dataclass(frozen=True, kw_only=True)
class Components:
    """What the application is made of. source is the kind of store, as answers name it: embedded, mongodb."""

    store: SeriesStore
    meta: MetaStore
    clock: Clock
    market: str
    version: str
    source: str
    readiness: AskReadiness
    registry: CollectorRegistry


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a request: rows of a page, and how long the store may take."""

    rows_default: int = 100
    rows_max: int = 1_000
    query_timeout_s: float = 30.0


def create_app(components: Components, limits: Limits | None = None) -> FastAPI:
    """The application. It opens nothing and closes nothing: its components live longer than it."""
    bounds = limits or Limits()
    reading = Reading(
        store=components.store,
        market=components.market,
        source=components.source,
        limit_default=bounds.rows_default,
        limit_max=bounds.rows_max,
        timeout_s=bounds.query_timeout_s,
    )
    app = FastAPI(
        title="Petrosa Data Manager API",
        version=components.version,
        description=_ABOUT,
        openapi_tags=_TAGS,
        exception_handlers=HANDLERS,
        middleware=[Middleware(Boundary, metrics=HttpMetrics(components.registry), on_error=internal)],
    )
    app.router.routes[:0] = [
        *data_routes(reading),
        *health_routes(components.clock, components.version, components.readiness, components.registry),
    ]
    return app


_ABOUT = """\
Market data, stored exactly once and served as the venue sent it.

Every error has one body: `{"error": {"code", "message", "field", "valid", "request_id"}, "detail": message}`.
`X-Request-ID` is on every answer; give one to have it used. Any origin may read.
"""
_TAGS = [
    {"name": "data", "description": "Rows as the venue sent them: JSON, NDJSON, CSV, Arrow or Parquet."},
    {"name": "health", "description": "For the orchestrator."},
    {"name": "service", "description": "Who answers here, and its figures."},
]

__all__ = ["Components", "Limits", "Readiness", "create_app", "metrics_app"]
