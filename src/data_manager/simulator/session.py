"""What a socket's control messages do: SUBSCRIBE and its kin, in the venue's words. No I/O.

An acknowledgement validates nothing: names that are no stream, of the wrong case or of another route are taken,
listed, and stay silent.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

STREAMS_MAX: Final = 1_024
_METHODS: Final = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_BURST: Final = 15
_PER_SECOND: Final = 10.0
_ID_MAX: Final = (1 << 64) - 1


class Reply(Struct, frozen=True):
    """What goes back, and the close code and reason where the socket is closed after it."""

    text: bytes
    close: tuple[int, str] | None = None


class Session:
    """One socket's subscriptions. route is the path's: public, market, or empty."""

    def __init__(self, route: str, *, combined: bool, names: list[str]) -> None:
        self.route = route
        self.combined = combined
        self.names: dict[str, None] = dict.fromkeys(names)
        self.opened_ms = 0  # of the exchange's clock

    def handle(self, text: bytes) -> Reply:
        """The answer to one control message."""
        try:
            asked = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _error(3, "Invalid JSON: expected value at line 1 column 1", None, (1008, "Invalid request"))
        if not isinstance(asked, dict):
            return _error(2, "Invalid request: expected an object", None)
        number = asked.get("id")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _ID_MAX:
            return _error(2, "Invalid request: request ID must be an unsigned integer", None)
        method = asked.get("method")
        if method not in _METHODS:
            return _error(2, f"Invalid request: unknown variant `{method}`, expected one of {_METHODS}", number)
        return self._do(str(method), asked.get("params"), number)

    def _do(self, method: str, params: Any, number: int) -> Reply:
        if method == "LIST_SUBSCRIPTIONS":
            return _result(list(self.names), number)
        if not isinstance(params, list):
            return _error(2, "Invalid request: missing field `params`", number)
        if method.endswith("PROPERTY"):
            return self._property(method, params, number)
        if not all(isinstance(name, str) for name in params):
            return _error(2, "Invalid request: stream names must be strings", number)
        if method == "UNSUBSCRIBE":
            for name in params:
                self.names.pop(name, None)
            return _result(None, number)
        if len(self.names.keys() | set(params)) > STREAMS_MAX:
            return Reply(_encoded({"error": {"code": 4, "msg": "Too many subscriptions"}}), (1008, "Invalid request"))
        self.names.update(dict.fromkeys(params))
        return _result(None, number)

    def _property(self, method: str, params: list[Any], number: int) -> Reply:
        if not params or params[0] != "combined":
            return _error(0, "Unknown property", number)
        if method == "GET_PROPERTY":
            return _result(self.combined, number)
        if len(params) > 2:
            return _error(2, "Invalid request: too many parameters", number)
        if len(params) < 2 or not isinstance(params[1], bool):
            return _error(1, "Invalid value type: expected Boolean", number)
        self.combined = params[1]
        return _result(None, number)


class Pace:
    """How many messages a client may send: 10 a second, 15 at once."""

    def __init__(self, now_s: float) -> None:
        self._left = float(_BURST)
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether one more is allowed now."""
        self._left = min(float(_BURST), self._left + (now_s - self._at_s) * _PER_SECOND)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _result(value: Any, number: int) -> Reply:
    return Reply(_encoded({"result": value, "id": number}))


def _error(code: int, message: str, number: int | None, close: tuple[int, str] | None = None) -> Reply:
    told: dict[str, Any] = {"error": {"code": code, "msg": message}}
    return Reply(_encoded(told if number is None else told | {"id": number}), close)


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)
