"""The HTTP application: routes made from the table of datasets, one error body, one boundary around it all.

    server ──> Boundary (id, figures, errors) ──> Endpoint ──> services/query ──> store
                        └──> FastAPI: /docs, /openapi.json, 404, 405

Every route that is here works; what later releases bring is a 404 until then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.types import ASGIApp

from data_manager.api.alerts import alert_routes
from data_manager.api.backfill import Backfill, backfill_routes
from data_manager.api.boundary import Boundary
from data_manager.api.cache import AnswerCache
from data_manager.api.certificates import Certifying, certificate_routes
from data_manager.api.data import Reading, data_routes
from data_manager.api.databases import AskFacts, database_routes
from data_manager.api.errors import HANDLERS, answer_to
from data_manager.api.findings import finding_routes
from data_manager.api.health import AskReadiness, Readiness, health_routes
from data_manager.api.inspect import inspect_routes
from data_manager.api.metrics import HttpMetrics, metrics_app
from data_manager.api.retention import Retaining, Retains, retention_routes
from data_manager.api.routing import Endpoint, Reply
from data_manager.api.series_health import Standing, series_health_routes
from data_manager.api.truth import Truth, truth_routes
from data_manager.api.truth_views import view_routes
from data_manager.domain.errors import NotFound
from data_manager.domain.retention import Days
from data_manager.ports import Clock, Records, SeriesStore
from data_manager.ports.source import Source
from data_manager.services.auditing.desk import Desk
from data_manager.services.backfilling.office import Office
from data_manager.services.conditions import Conditions
from data_manager.services.health import HealthBook
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.retain import ROWS_MAX
from data_manager.services.runs import Runs


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long rows are kept, and who lets them go: None where this process does not."""

    retains: Retains | None = None
    days: Days = field(default_factory=dict)
    enabled: bool = True
    interval_s: int = 900
    rows_max: int = ROWS_MAX


@dataclass(frozen=True, kw_only=True)
class Components:
    """What the application is made of.

    reads: whether the routes that read rows are there; liveness, readiness and the other figures are always.
    desk: takes requests for audits; None where the role does not audit. backfills: whether requests for jobs are taken.
    sources: whom backfill will ask; None: not known here.
    """

    store: SeriesStore
    meta: Records
    clock: Clock
    market: str
    version: str
    readiness: AskReadiness
    registry: CollectorRegistry
    conditions: Conditions
    desk: Desk | None
    ingest: AskFacts
    databases: AskFacts
    connections: AskFacts
    book: HealthBook | None = None  # None: one is made
    channels: Mapping[str, str] = field(default_factory=dict)  # where each channel of the alerts leads, by name
    retention: Retention = field(default_factory=Retention)
    runs: Runs[Any] = field(default_factory=lambda: Runs("run"))  # work that was asked for
    reads: bool = True
    role: str = "all"
    backfills: bool = True
    sources: Sequence[Source] | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds: rows of a page, how long the store may take for one, and the bytes of answers kept."""

    rows_default: int = 100
    rows_max: int = 1_000
    query_timeout_s: float = 30.0
    cache_bytes: int = 33_554_432


def create_app(components: Components, limits: Limits | None = None) -> FastAPI:
    """The application. It opens nothing and closes nothing: its components live longer than it."""
    bounds = limits or Limits()
    reading = Reading(
        store=components.store,
        market=components.market,
        source=components.store.kind,
        version=components.store.version,
        conditions=components.conditions,
        cache=AnswerCache(bounds.cache_bytes),
        limit_default=bounds.rows_default,
        limit_max=bounds.rows_max,
        timeout_s=bounds.query_timeout_s,
    )
    app = _Application(
        title="Petrosa Data Manager API",
        version=components.version,
        description=_ABOUT,
        openapi_tags=_TAGS,
        exception_handlers=HANDLERS,
        redirect_slashes=False,
    )
    app.metrics = HttpMetrics(components.registry)
    app.router.routes[:0] = [
        *(data_routes(reading) if components.reads else [_no_rows(components.role)]),
        *health_routes(components.clock, components.version, components.readiness, components.registry),
        *database_routes(components.clock, components.databases, components.connections),
        *inspect_routes(components.meta, components.ingest),
        *finding_routes(components.meta, components.market),
        *backfill_routes(
            Backfill(
                Office(components.meta, components.clock, components.conditions.life_of, components.sources),
                components.market,
                components.backfills,
            )
        ),
        *truth_routes(
            Truth(
                components.meta,
                components.conditions,
                components.desk,
                components.clock,
                components.market,
                components.role,
            )
        ),
        *series_health_routes(
            Standing(
                components.book or HealthBook(components.store, components.conditions, components.clock),
                components.meta,
                components.clock,
                components.market,
                components.store.kind,
            )
        ),
        *certificate_routes(
            Certifying(
                components.store,
                components.meta,
                Certifier(components.store, components.meta, components.conditions, components.clock),
                components.runs,
                components.clock,
                components.market,
            )
        ),
        *retention_routes(
            Retaining(
                components.retention.retains,
                components.meta,
                components.conditions,
                components.runs,
                components.market,
                components.retention.days,
                components.retention.enabled,
                components.retention.interval_s,
                components.retention.rows_max,
            )
        ),
        *alert_routes(components.meta, components.channels, components.market),
        *view_routes(components.meta, components.conditions, components.clock, components.market),
    ]
    return app


class _Application(FastAPI):
    metrics: HttpMetrics

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's own layers, and the boundary around them."""
        direct = {route.path: route for route in self.router.routes if isinstance(route, Endpoint)}
        return Boundary(super().build_middleware_stack(), direct, self.metrics, answer_to)

    def openapi(self) -> dict[str, Any]:
        """As FastAPI makes it, with our examples: it would leave out every null of theirs."""
        described = super().openapi()
        for route in self.router.routes:
            if isinstance(route, Endpoint) and route.example is not None:
                answers = described["paths"][route.path]["get"]["responses"]
                answers["200"]["content"]["application/json"]["example"] = route.example
        return described


def _no_rows(role: str) -> Endpoint:
    """In place of the routes that read rows, where they are not."""

    async def refuse(request: Request) -> Reply:
        why = "ENABLE_API is off" if role in ("all", "api") else f"its role is {role}"
        raise NotFound(f"this process serves no rows, {why}: ask one of role api or all")

    return Endpoint("/data/{rest:path}", refuse, include_in_schema=False)


_ABOUT = """\
Market data, stored exactly once and served as the venue sent it.

Every error has one body: `{"error": {"code", "message", "field", "valid", "request_id"}, "detail": message}`.
`X-Request-ID` is on every answer; give one to have it used. Any origin may read.
"""
_TAGS = [
    {"name": "data", "description": "Rows as the venue sent them: JSON, NDJSON, CSV, Arrow or Parquet."},
    {"name": "truth", "description": "What may be believed of the data: audits, holes, the condition of any range."},
    {"name": "health", "description": "For the orchestrator."},
    {"name": "backfill", "description": "Jobs that fetch the past."},
    {"name": "service", "description": "Who answers here, and its figures."},
]

__all__ = ["Components", "Limits", "Readiness", "create_app", "metrics_app"]
