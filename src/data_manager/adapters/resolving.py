"""Names of hosts as addresses, asked for by threads that hold nothing up.

A resolver may take half a minute to say that there is no network. The event loop asks it in a pool of threads that the
end of the process waits for: a service that stops within five seconds cannot use that.
"""

import asyncio
import socket
import threading
from ipaddress import ip_address

from data_manager.domain.errors import Unavailable

_asked: dict[tuple[str, int], "asyncio.Future[list[str]]"] = {}


async def addresses_of(host: str, port: int) -> list[str]:
    """Every address of the host, in the system's order; host itself where it is an address. Raises Unavailable.

    One question per host is under way at a time, however many wait for its answer. Cancel to give up waiting.
    """
    try:
        return [str(ip_address(host.strip("[]")))]
    except ValueError:
        pass
    key, loop = (host, port), asyncio.get_running_loop()
    answer = _asked.get(key)
    if answer is None or answer.get_loop() is not loop:
        answer = _asked[key] = loop.create_future()
        threading.Thread(target=_ask, args=(host, port, loop, answer), daemon=True, name=f"resolve {host}").start()
    try:
        return await asyncio.shield(answer)
    finally:
        if answer.done():
            _asked.pop(key, None)


def _ask(host: str, port: int, loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[list[str]]") -> None:
    try:
        found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        error = None
    except OSError as no:
        found, error = [], Unavailable(f"{host} has no address: {no.strerror or no}")

    def tell() -> None:
        if error is not None:
            answer.set_exception(error)
            answer.exception()  # whoever waits still has it; nobody may wait any more
        else:
            answer.set_result(list(dict.fromkeys(found)))

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:
        return  # the loop has closed meanwhile: nobody waits
