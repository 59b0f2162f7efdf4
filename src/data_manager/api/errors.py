"""One JSON error body for every route, and which status each of our errors becomes.

    {"error": {"code", "message", "field", "valid", "request_id"}, "detail": message}

detail repeats the message under the name the predecessor's clients read. What went wrong inside is logged with the
request id; the body tells none of it.
"""

import math
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from msgspec import json
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from data_manager.api.boundary import REQUEST_ID
from data_manager.domain.errors import BadQuery, Conflict, Corrupt, DataManagerError, NotFound, Unavailable

_log = structlog.get_logger(__name__)
_SHOWN_MAX = 80  # of a caller's value in a message
_INTERNAL = "something broke on our side; the log has the details under this request id"


class Error(BaseModel):
    """What went wrong."""

    code: str = Field(description="Stable word for programs.", examples=["bad_query"])
    message: str = Field(examples=["period '2m': must be one of 1m 3m 5m"])
    field: str | None = Field(description="The parameter that is wrong.", examples=["period"])
    valid: str | None = Field(description="What would be valid.", examples=["must be one of 1m 3m 5m"])
    request_id: str = Field(
        description="As in the header X-Request-ID; the log knows it.", examples=["5f0c1d7e9a3b2c44"]
    )


class ErrorBody(BaseModel):
    """The body of every error."""

    error: Error
    detail: str = Field(description="The message again.", examples=["period '2m': must be one of 1m 3m 5m"])


def error_answer(
    request: Request,
    status: int,
    code: str,
    message: str,
    *,
    field: str | None = None,
    valid: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The one error body."""
    error = {
        "code": code,
        "message": message,
        "field": field,
        "valid": valid,
        "request_id": request.scope.get(REQUEST_ID, ""),
    }
    body = json.encode({"error": error, "detail": message})
    return Response(body, status, headers, media_type="application/json")


async def _bad_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadQuery)
    shown = repr(error.value)
    shown = shown if len(shown) <= _SHOWN_MAX else shown[: _SHOWN_MAX - 1] + "…"
    message = f"{error.field} {shown}: {error.rule}"
    return error_answer(request, 422, "bad_query", message, field=error.field, valid=error.rule)


async def _not_found(request: Request, error: Exception) -> Response:
    return error_answer(request, 404, "not_found", str(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)
    seconds = max(1, math.ceil(error.retry_after_s))
    message = f"a store is away, /health/databases says which; try again in {seconds} s"
    return error_answer(request, 503, "unavailable", message, headers={"Retry-After": str(seconds)})


async def _conflict(request: Request, error: Exception) -> Response:
    return error_answer(request, 409, "conflict", str(error))


async def _corrupt(request: Request, error: Exception) -> Response:
    _log.error("corrupt rows asked for", request_id=request.scope.get(REQUEST_ID), exc_info=error)
    message = "stored rows failed their check and are not served; the log has the details under this request id"
    return error_answer(request, 500, "corrupt", message)


async def _internal(request: Request, error: Exception) -> Response:
    """Anything nobody expected: logged with its traceback, told with its request id only."""
    _log.error(
        "request failed",
        request_id=request.scope.get(REQUEST_ID),
        method=request.method,
        path=request.scope["path"][:200],
        exc_info=error,
    )
    return error_answer(request, 500, "internal", _INTERNAL)


async def _http(request: Request, error: Exception) -> Response:
    """What the framework says by itself: no such route, wrong method, a body too large."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:_SHOWN_MAX]
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return error_answer(request, 404, "not_found", f"there is no {path}", valid="see /docs or /openapi.json")
    if error.status_code == 405:
        valid = headers.get("Allow", "GET")
        message = f"{request.method} is not possible on {path}: only {valid}"
        return error_answer(request, 405, "method_not_allowed", message, valid=valid, headers=headers)
    status = HTTPStatus(error.status_code)
    message = str(error.detail or status.phrase)
    return error_answer(request, error.status_code, status.name.lower(), message, headers=headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """A body or parameter that the framework validated: its first complaint."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return error_answer(request, 422, "bad_query", f"{field}: {first['msg']}", field=field, valid=str(first["msg"]))


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    BadQuery: _bad_query,
    NotFound: _not_found,
    Unavailable: _unavailable,
    Conflict: _conflict,
    Corrupt: _corrupt,
    DataManagerError: _internal,
    HTTPException: _http,
    RequestValidationError: _invalid,
}
"""By class; the closest base of an error answers for it."""


async def answer_to(request: Request, error: Exception) -> Response:
    """The one error body for any error; what none of the handlers is for was not expected."""
    handler = next((HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS), _internal)
    return await handler(request, error)


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    406: {"model": ErrorBody, "description": "No format that Accept asks for."},
    422: {"model": ErrorBody, "description": "A parameter is wrong: field names it, valid says what would be valid."},
    503: {"model": ErrorBody, "description": "A store is away; Retry-After says when to try again."},
}
"""What OpenAPI says of errors."""

REFUSALS: dict[int | str, dict[str, Any]] = {code: DOCUMENTED[code] for code in (422, 503)}
"""Of any question that a store is asked for."""
