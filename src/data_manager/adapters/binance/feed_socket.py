"""One websocket of the venue: opened, subscribed, read until it ends.

It tells what came and when; whether that is enough, feed_line.py decides. An acknowledgement only says that the venue
has read a message: it comes for names that are none, and the streams may stay silent all the same.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from data_manager.domain.errors import Throttled, Unavailable
from data_manager.ports import Clock
from data_manager.ports.feed import Heard

NAMES_MAX: Final = 200  # of one SUBSCRIBE
STREAMS_MAX: Final = 1_024  # of one socket: with one more the venue ends it
_PAUSE_S: Final = 0.25  # between two messages: the venue takes 10 a second, our pongs included
_OPEN_S: Final = 10.0
_ACK_S: Final = 10.0
_CLOSE_S: Final = 1.0
_PING_S: Final = 30.0  # finds a dead line beneath streams that may be silent
_FRAME_BYTES_MAX: Final = 4 << 20
_FRAMES_WAITING_MAX: Final = 256
_SAMPLE_S: Final = 0.25
_REFUSED_S: Final = 60.0  # without a word how long: after 403, 418, 429, 451
_NONE: Final = Raw(b"")


class _Error(Struct):
    code: int = 0
    msg: str = ""


class _Frame(Struct):
    """Everything that comes: {"stream","data"}, {"result","id"} or {"error"[,"id"]}."""

    stream: str | None = None
    data: Raw = _NONE
    id: int | None = None
    error: _Error | None = None


class _Head(Struct):
    at_ms: int | None = msgspec.field(default=None, name="E")


_frame = msgspec.json.Decoder(_Frame)
_head = msgspec.json.Decoder(_Head)


class Socket:
    """Made by opened(). Instants are the clock's monotonic seconds; marks are the venue's milliseconds, or ours."""

    def __init__(
        self, connection: ClientConnection, names: Sequence[str], clock: Clock, take: Callable[[Heard], None]
    ) -> None:
        self.names = names
        self.opened_ms = clock.now_ms()
        self.opened_s = self.subscribed_s = clock.monotonic_s()
        self.due_s = float("inf")  # when it is to be replaced
        self.heard_s: dict[str, float] = {}  # when each stream spoke last
        self.first: dict[str, int] = {}  # mark of the first message of each
        self.last: dict[str, int] = {}  # highest mark of each: of every message while marking, else of some
        self.marking = False
        self.frames = 0
        self.lag_ms: int | None = None  # our clock minus the venue's, of a message every now and then
        self.lag_low_ms = 0  # the least of them: clocks may disagree, and only more than this is delay
        self.ended = asyncio.Event()
        self.reason = ""  # why it ended
        self._connection = connection
        self._clock = clock
        self._hand_over = take
        self._unanswered: set[int] = set()
        self._answered = asyncio.Event()
        self._refusal = ""
        self._sample_s = 0.0
        self._reader = asyncio.create_task(self._read(), name="feed socket")

    async def subscribe(self) -> None:
        """Ask for all names, slowly enough, and wait for the acknowledgements. Raises Unavailable."""
        groups = [self.names[at : at + NAMES_MAX] for at in range(0, len(self.names), NAMES_MAX)]
        self._unanswered = set(range(1, len(groups) + 1))
        try:
            for number, names in enumerate(groups, 1):
                if number > 1:
                    await asyncio.sleep(_PAUSE_S)
                message = {"method": "SUBSCRIBE", "params": names, "id": number}
                await self._connection.send(msgspec.json.encode(message), text=True)
            async with asyncio.timeout(_ACK_S):
                await self._answered.wait()
        except TimeoutError as error:
            raise Unavailable(f"no answer to SUBSCRIBE within {_ACK_S:.0f} s") from error
        except ConnectionClosed as error:
            raise Unavailable(f"ended while subscribing: {_ending(error)}") from error
        if self._refusal:
            raise Unavailable(f"SUBSCRIBE refused: {self._refusal}")
        self.subscribed_s = self._clock.monotonic_s()

    @property
    def behind_ms(self) -> int:
        """How much later than at its best it delivers."""
        return 0 if self.lag_ms is None else self.lag_ms - self.lag_low_ms

    async def close(self) -> None:
        """Say goodbye, and read on until the venue has answered: nothing it had sent by then is lost."""
        try:
            async with asyncio.timeout(2 * _CLOSE_S):
                await self._connection.close()
        except TimeoutError:
            pass  # it does not answer: that was all
        await self.drop()

    async def drop(self) -> None:
        """Leave at once. Raises what a bug in the reading raised."""
        self._connection.transport.abort()
        await asyncio.wait({self._reader}, timeout=_CLOSE_S)
        if self._reader.done():
            self._reader.result()
        self.abandon()

    def abandon(self) -> None:
        """The same, for who cannot wait."""
        self._connection.transport.abort()
        self._reader.cancel()

    async def _read(self) -> None:
        receive = self._connection.recv
        try:
            while True:
                self._take(await receive(decode=False))
        except ConnectionClosed as end:
            self.reason = _ending(end)
        finally:
            self.ended.set()
            self._answered.set()
            self._refusal = self._refusal or self.reason

    def _take(self, message: bytes) -> None:
        try:
            frame = _frame.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._hand_over(Heard(self._clock.now_ms(), "", message))  # whoever reads it says what is wrong with it
            return
        if frame.stream is None or not bytes(frame.data):
            self._control(frame, message)
            return
        self.frames += 1
        name, data, now_s, now_ms = frame.stream, bytes(frame.data), self._clock.monotonic_s(), self._clock.now_ms()
        self.heard_s[name] = now_s
        if self.marking or name not in self.first or now_s >= self._sample_s:
            self._mark(name, data, now_s, now_ms)
        self._hand_over(Heard(now_ms, name, data))

    def _mark(self, name: str, data: bytes, now_s: float, now_ms: int) -> None:
        at_ms = _time_of(data)
        mark = now_ms if at_ms is None else at_ms
        self.first.setdefault(name, mark)
        self.last[name] = max(mark, self.last.get(name, mark))
        if at_ms is None:
            return
        self._sample_s = now_s + _SAMPLE_S
        self.lag_low_ms = now_ms - at_ms if self.lag_ms is None else min(self.lag_low_ms, now_ms - at_ms)
        self.lag_ms = now_ms - at_ms

    def _control(self, frame: _Frame, message: bytes) -> None:
        if frame.error is not None:
            self._refusal = f"{frame.error.msg} (code {frame.error.code})"
            self._answered.set()
        elif frame.id is not None:
            self._unanswered.discard(frame.id)
            if not self._unanswered:
                self._answered.set()
        else:
            self._hand_over(Heard(self._clock.now_ms(), "", message))


async def opened(url: str, names: Sequence[str], clock: Clock, take: Callable[[Heard], None]) -> Socket:
    """A socket that is subscribed; its messages go to take. Raises Unavailable, Throttled."""
    assert len(names) <= STREAMS_MAX, "one more ends the socket"
    try:
        connection = await connect(
            url, compression=None, open_timeout=_OPEN_S, ping_interval=_PING_S, ping_timeout=_PING_S,
            close_timeout=_CLOSE_S, max_size=_FRAME_BYTES_MAX, max_queue=_FRAMES_WAITING_MAX,
        )  # fmt: skip
    except InvalidStatus as error:
        raise _refused(url, error) from error
    except (OSError, TimeoutError, WebSocketException, ValueError) as error:  # ValueError: sent elsewhere
        raise Unavailable(f"cannot connect to {url}: {_in_words(error)}") from error
    socket = Socket(connection, names, clock, take)
    try:
        await socket.subscribe()
    except BaseException:
        await socket.drop()
        raise
    return socket


def _time_of(data: bytes) -> int | None:
    """When the venue sent it; None where it does not say (a spot book) and for arrays."""
    try:
        return _head.decode(data).at_ms
    except msgspec.DecodeError:
        return None


def _refused(url: str, error: InvalidStatus) -> Unavailable:
    status = error.response.status_code
    told = f"{url} answers {status} {HTTPStatus(status).phrase if status in set(HTTPStatus) else ''}".rstrip()
    if status in (403, 418, 429, 451):
        wait = error.response.headers.get("Retry-After", "")
        return Throttled(told, retry_after_s=float(wait) if re.fullmatch(r"\d{1,6}", wait) else _REFUSED_S)
    return Unavailable(told)


def _ending(end: ConnectionClosed) -> str:
    """Who ended it, and why."""
    for who, close, first in (("the venue", end.rcvd, end.rcvd_then_sent), ("us", end.sent, not end.rcvd_then_sent)):
        if close is not None and first:
            return f"closed by {who}: {close.code} {close.reason}".rstrip()
    return "the connection broke"


def _in_words(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_OPEN_S:.0f} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
