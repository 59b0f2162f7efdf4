"""A service that runs, asked over HTTP by commands that it can answer better than they could themselves."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from data_manager import settings
from data_manager.domain.errors import BadQuery, Conflict, Corrupt, DataManagerError, NotFound, Unavailable

_TIMEOUT_S = 30.0
_BY_STATUS: Mapping[int, type[DataManagerError]] = {404: NotFound, 409: Conflict, 500: Corrupt, 503: Unavailable}


def address_of(in_force: settings.Settings, at: str) -> str | None:
    """Where a service answers: at, if given; else that of the one that runs on DATA_DIR, None when there is none."""
    from data_manager.service.front import announced

    if at:
        if urlsplit(at).scheme not in ("http", "https") or not urlsplit(at).netloc:
            raise BadQuery("at", at, "must be an address such as http://127.0.0.1:8000")
        return at.rstrip("/")
    address = announced(in_force)
    try:
        if address is not None:
            ask(address, "GET", "/health/liveness")
    except DataManagerError:
        return None  # it was killed, and somebody else has its number
    return address


def ask(address: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer. Raises what the service says is wrong, and Unavailable where nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(address + path, method=method, data=data, headers={"content-type": "application/json"})
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        raise _told(error) from error
    except (URLError, TimeoutError, ValueError) as error:
        raise Unavailable(f"no service answers at {address} ({getattr(error, 'reason', error)})") from error


def _told(error: HTTPError) -> DataManagerError:
    """The service's error as ours."""
    try:
        facts = json.load(error)["error"]
        message, field = str(facts["message"]), facts.get("field")
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"{error.url} answers {error.code} {error.reason}")
    if error.code == 422:
        return _Refused(str(field), message)
    return _BY_STATUS.get(error.code, Unavailable)(message)


class _Refused(BadQuery):
    """A refusal in the service's own words."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, None, message)
        self.args = (message,)
