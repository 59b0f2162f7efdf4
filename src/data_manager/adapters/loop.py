"""The event loop of processes that serve: uvloop, but for the names of hosts.

A resolver may take half a minute to say that there is no network. Loops ask it in a pool of threads that the end of the
process waits for; a service that stops within five seconds cannot use that, whoever in it looks up a name. Here each
question has a thread that holds nothing up.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvloop

_Found = list[tuple[Any, Any, int, str, Any]]


class Loop(uvloop.Loop):
    """Made by asyncio.Runner(loop_factory=Loop)."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[tuple[Any, ...], asyncio.Future[_Found]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - theirs
        proto: int = 0,
        flags: int = 0,
    ) -> _Found:
        """As the loop's own. The same question is under way once, however many wait for its answer."""
        key = (host, port, family, type, proto, flags)
        answer = self._asked.get(key)
        if answer is None:
            answer = self._asked[key] = self.create_future()
            answer.add_done_callback(lambda _: self._asked.pop(key, None))
            threading.Thread(target=self._ask, args=(key, answer), daemon=True, name=f"resolve {host}").start()
        return await asyncio.shield(answer)

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **more: Any
    ) -> tuple[Any, Any]:
        """As the loop's own; the host's addresses are tried one after the other."""
        if host is None:
            return await super().create_connection(protocol_factory, host, port, **more)
        if more.get("ssl") and more.get("server_hostname") is None:
            more["server_hostname"] = host
        wanted = {word: more.pop(word, 0) for word in ("family", "proto", "flags")}
        failure: OSError | None = None
        for _, _, _, _, (address, *_) in await self.getaddrinfo(host, port, type=socket.SOCK_STREAM, **wanted):
            try:
                return await super().create_connection(protocol_factory, address, port, **more)
            except OSError as error:
                failure = failure or error
        raise failure or OSError(f"{host} has no address")

    def _ask(self, key: tuple[Any, ...], answer: asyncio.Future[_Found]) -> None:
        host, port, family, kind, proto, flags = key
        try:
            found, error = socket.getaddrinfo(host, port, family, kind, proto, flags), None
        except OSError as no:
            found, error = [], no

        def tell() -> None:
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)
                answer.exception()  # whoever waits still has it; by now there may be nobody

        try:
            self.call_soon_threadsafe(tell)
        except RuntimeError:
            return  # the loop was closed meanwhile
