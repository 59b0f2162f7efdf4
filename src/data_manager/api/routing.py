"""A route that FastAPI documents and that answers without FastAPI's machinery in between.

FastAPI resolves and validates every parameter of a call in Python, which costs more than our whole answer. Our routes
read their query string with one function (services/answering/query.py), so they take the request and give the answer;
OpenAPI gets its parameters from the same table (schema.py).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from fastapi.routing import APIRoute
from msgspec import json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Header = tuple[bytes, bytes]


class Reply(NamedTuple):
    """A whole answer, ready to be sent."""

    status: int
    headers: list[Header]
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = (b"content-length", str(len(self.body)).encode())
        await send({"type": "http.response.start", "status": self.status, "headers": [*self.headers, length]})
        await send({"type": "http.response.body", "body": self.body})


_JSON: Final[tuple[Header, ...]] = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


def answered(body: Any, status: int = 200, *more: Header) -> Reply:
    """A body as JSON, for now: nobody is to keep it. more: further headers."""
    return Reply(status, [*_JSON, *more], json.encode(body))


def well_or_not(body: Any, well: bool) -> Reply:
    """A body that says how it stands: 200, or 503 with a hint when to ask again."""
    return answered(body) if well else answered(body, 503, (b"retry-after", b"1"))


def asked_by(name: str, example: Any, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    """A word of the query, as OpenAPI describes it. schema: what it may be, text unless it says otherwise."""
    kind = {"type": "string", **schema}
    return {"name": name, "in": "query", "required": required, "schema": kind, "example": example}


Handler = Callable[[Request], Awaitable[Response | Reply]]


class Endpoint(APIRoute):
    """GET path, answered by handler. documentation goes to OpenAPI, and example into its JSON answer."""

    def __init__(self, path: str, handler: Handler, *, example: Any = None, **documentation: Any) -> None:
        async def endpoint(request: Request) -> None:
            """What FastAPI looks at; app below is what runs."""

        super().__init__(path, endpoint, methods=["GET"], response_model=None, **documentation)
        self.app = _app(handler)
        self.example = example


class PostEndpoint(APIRoute):
    """POST path, answered by handler, which may read the body."""

    def __init__(self, path: str, handler: Handler, **documentation: Any) -> None:
        async def endpoint(request: Request) -> None:
            """What FastAPI looks at; app below is what runs."""

        super().__init__(path, endpoint, methods=["POST"], response_model=None, **documentation)
        self.app = _app(handler)


def _app(handler: Handler) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await handler(Request(scope, receive))
        await answer(scope, receive, send)

    return app
