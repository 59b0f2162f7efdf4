"""A lane of a pull consumer: an inbox, and at most one request for messages to it.

-> $JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>   reply <inbox>.7   {"batch":10000,"max_bytes":…,"expires":…}
<- messages, each with its own reply subject: the token that acknowledges it
<- 100 now and then while there are none; 404, 408, 409 when the request is over before it was filled
"""

import asyncio
from typing import Any, Final, Protocol, Self

import msgspec
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.js import api

from data_manager.adapters.bus.connection import Arrived

_SILENT_MAX: Final = 3  # heartbeats missed in a row before we stop believing it
_EXPIRES_S: Final = 60.0
_TOO_LARGE: Final = "Message Size Exceeds MaxBytes"
_OVER: Final = ("Batch Completed", _TOO_LARGE, "Leadership Change", "Server Shutdown")


class Taker(Protocol):
    """Whom a lane works for. Called by nats-py's reader: nothing here may raise."""

    def keep(self, message: Arrived) -> int:
        """Take a message; how much of the request's bytes it used."""
        ...

    def ask_again(self) -> None:
        """The lane is free."""
        ...

    def lose(self, why: str) -> None:
        """The consumer is gone, or the server said something unknown."""
        ...


class Lane(asyncio.Future[Any]):
    """One inbox with at most one pull request under way.

    A subscription made with a future has set_result() called with each message by nats-py's reader itself: no queue in
    between, hence no second bound and no slow-consumer drops, and no task switch per message.
    """

    def __init__(self, taker: Taker, client: Client, next_subject: str, heartbeat_s: float) -> None:
        super().__init__()
        self.left = 0  # messages the request under way may still bring
        self.bytes_left = 0
        self._taker = taker
        self._client = client
        self._inbox = client.new_inbox()
        self._request = 0
        self._next = next_subject
        self._heartbeat_s = heartbeat_s
        self._asked = 0  # what left was at first
        self._giant = False  # the next message is larger than a whole request of ours
        self._signs = 0  # statuses heard
        self._known = (0, 0, 0)
        self._silent = 0
        self._subscription: Subscription | None = None

    @classmethod
    async def opened(cls, taker: Taker, client: Client, next_subject: str, heartbeat_s: float) -> Self:
        lane = cls(taker, client, next_subject, heartbeat_s)
        lane._subscription = await client.subscribe(f"{lane._inbox}.*", future=lane)
        return lane

    async def ask(self, rows: int, size: int, *, within_s: float | None = None) -> None:
        """Send a request, open until it is filled or for a minute, or within_s, and then without heartbeats.

        Each has its own reply subject, so that a late word about an old one is known as such.
        """
        self._request += 1
        self._silent = 0
        bound = {"batch": 1} if self._giant else {"batch": rows, "max_bytes": size}
        self._giant = False
        self.left = self._asked = bound["batch"]
        self.bytes_left = size
        bound["expires"] = int((within_s or _EXPIRES_S) * 1e9)
        if within_s is None:
            bound["idle_heartbeat"] = int(self._heartbeat_s * 1e9)
        await self._client.publish(self._next, msgspec.json.encode(bound), reply=f"{self._inbox}.{self._request}")

    async def drain(self) -> None:
        """Unsubscribe and collect what the server had sent by then: the server reads the UNSUB before it says so."""
        if self._subscription is not None:
            await self._subscription.drain()  # type: ignore[no-untyped-call]  # nats-py annotates only some methods

    def cancelled(self) -> bool:
        """Asked before each message."""
        return False

    def set_result(self, message: Arrived) -> None:
        """A message, or the server's word about a request."""
        if not message.reply:
            self._hear(message)
            return
        self.left -= 1
        self.bytes_left -= self._taker.keep(message)
        if self.left == 0:
            self._over()

    def _hear(self, message: Arrived) -> None:
        headers = message.headers or {}
        code, text = headers.get(api.Header.STATUS, ""), headers.get(api.Header.DESCRIPTION, "")
        self._signs += 1
        if code == "100" or message.subject != f"{self._inbox}.{self._request}":
            return  # a heartbeat, or about a request that is over
        if code in ("404", "408") or text in _OVER:
            self._giant = text == _TOO_LARGE and self.left == self._asked
            self._over()
        else:
            self._taker.lose(f"{code} {text}".strip())

    def _over(self) -> None:
        self.left = self.bytes_left = 0
        self._taker.ask_again()

    def silent(self) -> bool:
        """Called once per heartbeat interval: whether too many passed without a sign."""
        now = (self._request, self.left, self._signs)
        self._silent = self._silent + 1 if self.left > 0 and now == self._known else 0
        self._known = now
        return self._silent >= _SILENT_MAX

    def still_silent(self) -> bool:
        """The same, looked at again without counting."""
        return self._silent >= _SILENT_MAX and self._known == (self._request, self.left, self._signs)
