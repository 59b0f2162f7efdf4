"""The outermost layer of every request: its id, its figures, who may read the answer, and the last line of defence.

A plain ASGI layer: one wrapped send, no task, no copy of the body. A GET of a route of ours goes straight to it, with
or without a slash at the end; everything else (documentation, wrong methods, what does not exist) FastAPI answers.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_manager.api.metrics import HttpMetrics
from data_manager.api.routing import Endpoint

REQUEST_ID = "data_manager.request_id"
"""Where the scope of a request holds its id."""

_OURS = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ANY_ORIGIN = (b"access-control-allow-origin", b"*")
_EXPOSED = (b"access-control-expose-headers", b"x-request-id, x-next-cursor, etag, retry-after")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Accept, Content-Type, If-None-Match, X-Request-ID",
    "Access-Control-Max-Age": "86400",
}

_GONE = 499  # counted where nothing was answered: the caller or the server went away

OnError = Callable[[Request, Exception], Awaitable[Response]]


class Boundary:
    """Wraps an application. direct: its routes without path parameters. on_error: the answer to what was raised."""

    def __init__(self, app: ASGIApp, direct: Mapping[str, Endpoint], metrics: HttpMetrics, on_error: OnError) -> None:
        self._app = app
        self._direct = direct
        self._metrics = metrics
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        method, given = scope["method"], dict(scope["headers"])
        request_id = _request_id(given.get(b"x-request-id"))
        inner = {**scope, "method": "GET"} if method == "HEAD" else scope  # the server leaves the body of HEAD away
        inner[REQUEST_ID] = request_id.decode()
        status = answered = 0

        async def sending(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id), _ANY_ORIGIN]
                if b"origin" in given:
                    headers.append(_EXPOSED)
                message["headers"] = headers
            else:
                answered += len(message.get("body", b""))
            await send(message)

        try:
            if method == "OPTIONS" and b"access-control-request-method" in given:
                await Response(status_code=204, headers=_PREFLIGHT)(inner, receive, sending)
            else:
                await self._route(inner)(inner, receive, sending)
        except Exception as error:
            answer = await self._on_error(Request(inner), error)
            if answer.status_code >= 500:
                self._metrics.failed(_endpoint(inner), error)
            if status:
                raise  # too late to answer: the server closes the connection
            await answer(inner, receive, sending)
        finally:
            asked = given.get(b"content-length", b"")
            self._metrics.observe(
                method,
                _endpoint(inner),
                status or _GONE,
                perf_counter() - started,
                int(asked) if asked.isdigit() else 0,
                answered,
            )

    def _route(self, scope: Scope) -> ASGIApp:
        path = scope["path"]
        found = self._direct.get(path) or self._direct.get(path.removesuffix("/"))
        if found is None or scope["method"] != "GET":
            return self._app
        scope["route"] = found
        return found.app


def _request_id(given: bytes | None) -> bytes:
    """The caller's id where it is one that a log can hold, else a new one."""
    if given is not None and _OURS.fullmatch(given):
        return given
    return secrets.token_hex(8).encode()


def _endpoint(scope: Scope) -> str:
    """The path of the route that answered, or the framework's word for it; one word for paths that do not exist."""
    found = getattr(scope.get("route"), "path", None) or getattr(scope.get("endpoint"), "__name__", "unmatched")
    return str(found)
