"""The wire of the websocket: handshake, frames, pings, age; one Socket per connection, beneath uvicorn's HTTP.

    /public/ws  /market/ws  /ws          bare payloads         /ws/<stream>/<stream>…
    /public/stream  /market/stream  …    {"stream", "data"}    /stream?streams=<stream>/<stream>…

The server pings every 3 minutes with its milliseconds, gives up after 10 without a pong, and cuts after 24 hours.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from data_manager.simulator.clock import ExchangeClock
from data_manager.simulator.faults import Faults
from data_manager.simulator.hub import Hub
from data_manager.simulator.session import STREAMS_MAX, Pace, Session

_PATH = re.compile(r"/(?:(public|market|private)/)?(ws|stream)((?:/[^/]+)*)/?")
_URL_MAX: Final = 8_192
_BUFFER_MAX: Final = 64 << 20
_LINGER_S: Final = 1.0


class SocketRules(Struct, frozen=True, kw_only=True):
    """Seconds are the machine's, but for life_ms, which is the exchange's."""

    life_ms: int = 24 * 3_600_000
    ping_every_s: float = 180.0
    pong_within_s: float = 600.0


class Socket(asyncio.Protocol):
    """One connection. uvicorn makes it when a request asks to be upgraded."""

    hub: ClassVar[Hub]
    clock: ClassVar[ExchangeClock]
    faults: ClassVar[Faults]
    rules: ClassVar[SocketRules]

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self._connections = server_state.connections
        self._wire = ServerProtocol(max_size=1 << 20)
        self._transport: asyncio.Transport | None = None
        self.session = Session("", combined=False, names=[])
        now_s = self.clock.wall_s()
        self._pace = Pace(now_s)
        self._pinged_s = now_s
        self._heard_s = now_s
        self._asked: bytes | None = None
        self._opened_ms = self.clock.now_ms()

    # ---- asyncio's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.discard(self)
        self.hub.listeners.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._wire.receive_data(data)
        for event in self._wire.events_received():
            if isinstance(event, Request):
                self._greet(event)
            elif isinstance(event, Frame):
                self._take(event)
        self._flush()

    def eof_received(self) -> bool:
        self._wire.receive_eof()
        self._flush()
        return False

    def shutdown(self) -> None:
        """uvicorn's wish at its end."""
        self.close(1012, "Service restart")

    # ---- the hub's side ----------------------------------------------------------------------------------------

    def send(self, text: bytes) -> None:
        """See Listener.send."""
        if self._transport is None or self._wire.state is not State.OPEN:
            return
        self._wire.send_text(text)
        self._flush()
        if self._transport is not None and self._transport.get_write_buffer_size() > _BUFFER_MAX:
            self.abort()

    def beat(self, now_ms: int) -> None:
        """See Listener.beat."""
        now_s = self.clock.wall_s()
        if now_ms - self._opened_ms >= self.rules.life_ms:
            self.close(1001, "")
        elif self._asked is not None and now_s - self._heard_s > self.rules.pong_within_s:
            self.close(1008, "Pong timeout")
        elif now_s - self._pinged_s >= self.rules.ping_every_s and self._wire.state is State.OPEN:
            if self._asked is None:
                self._heard_s = now_s
            self._asked = b"%d" % now_ms
            self._pinged_s = now_s
            self._wire.send_ping(self._asked)
            self._flush()

    def abort(self) -> None:
        """See Listener.abort."""
        self.hub.listeners.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def close(self, code: int, reason: str) -> None:
        """Say why, and leave shortly after whether or not the other side answers."""
        self.hub.listeners.pop(self, None)
        if self._transport is None:
            return
        try:
            self._wire.send_close(code, reason)
        except InvalidState:  # closing already; to hang up on what still comes would cost the other side the reason
            return
        self._flush()
        asyncio.get_running_loop().call_later(_LINGER_S, self.abort)

    # ---- messages ----------------------------------------------------------------------------------------------

    def _greet(self, request: Request) -> None:
        refusal = self._refusal(request)
        response = self._wire.accept(request) if refusal is None else self._wire.reject(*refusal)
        self._wire.send_response(response)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._leave()
            return
        session = _session_of(request.path)
        assert session is not None, "refused otherwise"
        self.session = session
        self.session.opened_ms = self.clock.now_ms()
        self.hub.listeners[self] = None

    def _refusal(self, request: Request) -> tuple[HTTPStatus, str] | None:
        if self.faults.out("ws"):
            return HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable."
        session = _session_of(request.path)
        for fault in self.faults.of("refuse"):
            return HTTPStatus(fault.status), "refused by a fault switch\n"
        if len(request.path) > _URL_MAX:
            return HTTPStatus.REQUEST_URI_TOO_LONG, "URI Too Long\n"
        if session is None or len(session.names) > STREAMS_MAX:
            return HTTPStatus.BAD_REQUEST, "Invalid request\n"
        return None

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.hub.listeners.pop(self, None)
            self._leave()
            return
        if not self._pace.take(self.clock.wall_s()):
            self.close(1008, "Too many requests")
        elif frame.opcode is Opcode.PONG:
            if bytes(frame.data) == self._asked:
                self._asked = None
                self._heard_s = self.clock.wall_s()
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._answer(bytes(frame.data))

    def _answer(self, text: bytes) -> None:
        reply = self.session.handle(text)
        self.send(reply.text)
        if reply.close is not None:
            self.close(*reply.close)

    def _flush(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for part in self._wire.data_to_send():
            if part:
                self._transport.write(part)
            else:
                self._leave()

    def _leave(self) -> None:
        """Close the connection once what is on its way is out."""
        if self._transport is not None and not self._transport.is_closing():
            for part in self._wire.data_to_send():
                if part:
                    self._transport.write(part)
            self._transport.close()


def sockets(hub: Hub, clock: ExchangeClock, faults: Faults, rules: SocketRules) -> type[Socket]:
    """The class of an exchange's sockets, as uvicorn wants it."""
    return type("ExchangeSocket", (Socket,), {"hub": hub, "clock": clock, "faults": faults, "rules": rules})


def _session_of(target: str) -> Session | None:
    """The session that a path asks for; None where it asks for none."""
    parts = urlsplit(target)
    found = _PATH.fullmatch(parts.path)
    if found is None:
        return None
    route, mode, tail = found.groups()
    if mode == "ws":
        if parts.query:
            return None
        names = [unquote(name) for name in tail.split("/") if name]
    else:
        if tail:
            return None
        names = [name for name in parse_qs(parts.query).get("streams", [""])[0].split("/") if name]
    return Session(route or "", combined=mode == "stream", names=names)
