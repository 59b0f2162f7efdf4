"""What runs: the simulated exchange and the service, each a process of its own, and ways to ask both.

    demo ──> data-manager simulate                 the exchange: websockets, REST, archives
      │  ──> demo/service.py                       `run`: nats-server (its child), feed, ingest, audits, heals, API
      └── HTTP to both, and NATS for what is no exchange's

Everything is in one temporary folder and on free ports of 127.0.0.1. Both processes end with us, however we end.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec

from data_manager.adapters.bus.connection import NatsAccess
from data_manager.adapters.bus.publisher import open_publisher
from data_manager.adapters.child import tied
from data_manager.demo.plan import START_MS, Plan
from data_manager.domain.errors import Conflict, DataManagerError, Unavailable
from data_manager.settings import SETTINGS

_START_S: Final = 30.0
_STOP_S: Final = 15.0
_TIMEOUT_S: Final = 60.0
_PAGE: Final = 10_000
_lines = msgspec.json.Decoder(dict[str, Any])


class Failed(DataManagerError):
    """The demonstration did not come out as it must."""


class World:
    """Both processes, running. Made by running()."""

    def __init__(self, plan: Plan, folder: Path, ports: tuple[int, int, int]) -> None:
        self.plan = plan
        self.folder = folder
        self.exchange = ""
        self.api = f"http://127.0.0.1:{ports[0]}"
        self._ports = ports
        self.stopped_s: float | None = None
        self.keep = False  # the folder, when all is over
        self._origin = (START_MS, 0.0)
        self._bus_url = f"nats://127.0.0.1:{ports[2]}"
        self._subject = "binance.futures.websocket.data"
        self._http = httpx2.AsyncClient(timeout=_TIMEOUT_S, limits=httpx2.Limits(max_connections=8))
        self._processes: list[Process] = []

    def now_ms(self) -> int:
        """The exchange's time, which is the service's too."""
        start_ms, since_s = self._origin
        return start_ms + int((time.monotonic() - since_s) * 1_000 * self.plan.speed)

    async def sleep(self, seconds: float) -> None:
        """So many seconds of the exchange's time."""
        await asyncio.sleep(seconds / self.plan.speed)

    # ---- asking --------------------------------------------------------------------------------------------------

    async def ask(self, path: str, **words: Any) -> Any:
        """An answer of the service's API. Raises Failed for one that is not good, Unavailable where none comes."""
        return await self._json("GET", self.api + path, params=words)

    async def post(self, path: str, **body: Any) -> Any:
        """The answer to a POST."""
        return await self._json("POST", self.api + path, json=body)

    async def rows(self, path: str, **words: Any) -> list[dict[str, Any]]:
        """All rows of /data/path within start and end, page by page."""
        found: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            words_now = {"limit": _PAGE, "format": "ndjson", **words, **more}
            page = await self._answer("GET", f"{self.api}/data/{path}", params=words_now)
            found += _lines.decode_lines(page.content)
            if "x-next-cursor" not in page.headers:
                return found
            more = {"cursor": page.headers["x-next-cursor"]}

    async def truth(self, name: str, **words: Any) -> Any:
        """What the exchange's REST would say without any fault or limit."""
        return await self._json("GET", f"{self.exchange}/control/truth/fapi/v1/{name}", params=words)

    async def said(self, stream: str, after_ms: int, until_ms: int) -> list[dict[str, Any]]:
        """What a stream says in (after, until] without any fault."""
        url = f"{self.exchange}/control/truth/streams/{stream}"
        answer = await self._answer("GET", url, params={"after": after_ms, "until": until_ms})
        return _lines.decode_lines(answer.content)

    async def fault(self, kind: str, **words: Any) -> dict[str, Any]:
        """Switch a fault of the exchange on."""
        url = f"{self.exchange}/control/faults"
        fault: dict[str, Any] = await self._json("POST", url, json={"kind": kind, **words})
        return fault

    async def publish(self, *payloads: bytes) -> None:
        """Put these on the bus, as some other publisher would."""
        async with open_publisher(NatsAccess(urls=(self._bus_url,)), self._subject) as publisher:
            await publisher.publish(payloads)
            await publisher.confirm()

    async def _json(self, method: str, url: str, **words: Any) -> Any:
        return msgspec.json.decode((await self._answer(method, url, **words)).content)

    async def _answer(self, method: str, url: str, **words: Any) -> httpx2.Response:
        try:
            answer = await self._http.request(method, url, **words)
        except httpx2.TransportError as error:
            raise Unavailable(f"{url} does not answer ({type(error).__name__})") from error
        if answer.status_code == 409:
            raise Conflict(answer.text)
        if answer.status_code >= 400:
            raise Failed(f"{method} {url} {words}: {answer.status_code} {answer.text[:300]}")
        return answer

    # ---- life ----------------------------------------------------------------------------------------------------

    async def start_exchange(self) -> None:
        """The exchange, and its clock as ours. Raises Unavailable, with the end of its output."""
        words = ["--json", "--port", "0", "--symbols", ",".join(self.plan.symbols), "--seed", str(self.plan.seed)]
        words += ["--start", str(START_MS), "--speed", str(self.plan.speed)]
        process = await self._spawn("exchange", [sys.executable, "-m", "data_manager", "simulate", *words], {})
        self.exchange = json.loads(await self._line(process, "exchange"))["address"]
        asked_s = time.monotonic()
        state = await self._json("GET", f"{self.exchange}/control/state")
        self._origin = (int(state["now_ms"]), (asked_s + time.monotonic()) / 2)

    async def start_service(self) -> float:
        """The service, ready; how many seconds that took."""
        environ = self.plan.settings(self.exchange, str(self.folder / "data"), self._ports)
        start_ms, since_s = self._origin
        pace = [str(start_ms), repr(since_s), str(self.plan.speed)]
        began_s = time.monotonic()
        process = await self._spawn("service", [sys.executable, "-m", "data_manager.demo.service", *pace], environ)
        while not await self._is_ready():
            if process.returncode is not None or time.monotonic() - began_s > _START_S:
                raise Unavailable(f"the service does not start:\n{self.log('service')}")
            await asyncio.sleep(0.02)
        return time.monotonic() - began_s

    async def stop(self) -> None:
        """End both, the service first; as an operator would, then harder."""
        began_s = time.monotonic()
        for process in reversed(self._processes):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            if process is self._processes[-1]:
                self.stopped_s = time.monotonic() - began_s
        self._processes.clear()
        await self._http.aclose()

    def log(self, name: str) -> str:
        """The end of what a process said."""
        file = self.folder / f"{name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-15:]) if file.exists() else ""

    async def _spawn(self, name: str, command: list[str], environ: dict[str, str]) -> Process:
        bare = {word: text for word, text in os.environ.items() if word.lower() not in SETTINGS}
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *tied(command),
                env={**bare, **environ},
                stdin=DEVNULL,
                stdout=PIPE if name == "exchange" else log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    async def _line(self, process: Process, name: str) -> bytes:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise Unavailable(f"the {name} does not start:\n{self.log(name)}")
        return line

    async def _is_ready(self) -> bool:
        try:
            return (await self._http.get(f"{self.api}/health/readiness")).status_code == 200
        except httpx2.TransportError:
            return False


@asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[World]:
    """A world to start things in. In the end everything is stopped, and removed unless world.keep was set."""
    ports = _free_ports(plan.port)
    folder = Path(tempfile.mkdtemp(prefix="data-manager-demo-"))
    world = World(plan, folder, ports)
    try:
        yield world
    finally:
        await asyncio.shield(asyncio.ensure_future(world.stop()))
        if not world.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports(wanted: int) -> tuple[int, int, int]:
    """Ports that are free now, the first of them wanted if that is not 0. Raises Unavailable."""
    held = []
    try:
        for port in (wanted, 0, 0):
            one = socket.socket()
            held.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
        first, second, third = (int(one.getsockname()[1]) for one in held)
    except OSError as error:
        raise Unavailable(f"port {wanted} cannot be used ({error.strerror}): choose another --port") from error
    finally:
        for one in held:
            one.close()
    return first, second, third
