"""Figures of the HTTP side. The names are the predecessor's; an endpoint is a route's path, never a caller's text."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BYTES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class HttpMetrics:
    """Counts of one application, in the registry given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        route = ["method", "endpoint"]
        self._requests = Counter(
            "data_manager_requests", "Requests answered.", [*route, "status_code"], registry=registry
        )
        self._seconds = Histogram(
            "data_manager_request_duration_seconds",
            "From request to last byte.",
            route,
            buckets=_SECONDS,
            registry=registry,
        )
        self._asked = Histogram(
            "data_manager_request_size_bytes", "Body of the request.", route, buckets=_BYTES, registry=registry
        )
        self._answered = Histogram(
            "data_manager_response_size_bytes", "Body of the answer.", route, buckets=_BYTES, registry=registry
        )
        self._errors = Counter(
            "data_manager_errors", "Requests that failed on our side.", ["endpoint", "error_type"], registry=registry
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram, Histogram, Histogram]] = {}

    def observe(self, method: str, endpoint: str, status: int, seconds: float, asked: int, answered: int) -> None:
        """Count one request. asked and answered are bytes of the bodies."""
        found = self._known.get((method, endpoint, status))
        if found is None:
            found = self._known[method, endpoint, status] = self._of(method, endpoint, status)
        requests, duration, request_bytes, response_bytes = found
        requests.inc()
        duration.observe(seconds)
        request_bytes.observe(asked)
        response_bytes.observe(answered)

    def _of(self, method: str, endpoint: str, status: int) -> tuple[Counter, Histogram, Histogram, Histogram]:
        verb = method if method in _METHODS else "OTHER"
        return (
            self._requests.labels(verb, endpoint, str(status)),
            self._seconds.labels(verb, endpoint),
            self._asked.labels(verb, endpoint),
            self._answered.labels(verb, endpoint),
        )

    def failed(self, endpoint: str, error: BaseException) -> None:
        """Count a request that ended with an error of ours."""
        self._errors.labels(endpoint, type(error).__name__).inc()


def scrape(registry: CollectorRegistry, accept: str) -> Response:
    """Every figure of the registry, in the dialect that accept asks for."""
    encode, content_type = choose_encoder(accept)
    return Response(encode(registry), headers={"Content-Type": content_type})


def metrics_app(registry: CollectorRegistry) -> ASGIApp:
    """A server's whole application for the metrics port: GET /metrics, and nothing else. It has no lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here: serve this application with lifespan off")
        request = Request(scope)
        if scope["path"].rstrip("/") != "/metrics":
            answer: Response = PlainTextResponse("only /metrics is here\n", 404)
        elif request.method not in ("GET", "HEAD"):
            answer = PlainTextResponse("only GET\n", 405, headers={"Allow": "GET"})
        else:
            answer = scrape(registry, request.headers.get("accept", ""))
        await answer(scope, receive, send)

    return app
