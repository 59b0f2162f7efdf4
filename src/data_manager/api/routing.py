"""A route that FastAPI documents and that answers without FastAPI's machinery in between.

FastAPI resolves and validates every parameter of a call in Python, which costs more than our whole answer. Our routes
read their query string with one function (services/answering/query.py), so they take the request and give the answer;
OpenAPI gets its parameters from the same table (schema.py).
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fastapi.routing import APIRoute
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
