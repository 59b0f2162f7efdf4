"""The exchange on one port: REST, websocket, archives and the control endpoint, beneath uvicorn.

/fapi/v1/…  /public/…  /market/…  /ws  /stream  /data/futures/um/…        as the venue's hosts have them
/control/state                                                            the clock, sockets, budgets
/control/faults[/{id}]     GET  POST  DELETE                              switches (faults.py)
/control/truth/fapi/v1/…                                                  answers without faults, budgets and walls
/control/truth/streams/NAME?after=&until=                                 what a stream says in (after, until]
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from data_manager.domain.errors import BadQuery, NotFound, Unavailable
from data_manager.domain.time import SECOND_MS
from data_manager.ports import Clock
from data_manager.simulator.answers import Raw, packed
from data_manager.simulator.archives import Archives, absent
from data_manager.simulator.books import Books
from data_manager.simulator.clock import ExchangeClock
from data_manager.simulator.contracts import universe
from data_manager.simulator.faults import Faults, parse
from data_manager.simulator.hub import Hub
from data_manager.simulator.limits import WEIGHT_PER_MINUTE, Limits
from data_manager.simulator.market import Market, Tape
from data_manager.simulator.quotes import Quotes
from data_manager.simulator.recorded import ENDPOINTS, RecordedFeed, RecordedTape, read
from data_manager.simulator.rest import Rest
from data_manager.simulator.streams import Feed, Streams
from data_manager.simulator.ws import SocketRules, sockets

_THIN_MAX: Final = 10  # times that books are sent less often on a fast clock, so that none is silent for 10 s
_BODY_MAX: Final = 65_536
_PORT_MAX: Final = 65_535


class Plan(Struct, frozen=True, kw_only=True):
    """What exchange to be. Times are milliseconds; None is now."""

    host: str = "127.0.0.1"
    port: int = 8_900
    symbols: tuple[str, ...] = ()
    seed: int = 1
    start_ms: int | None = None
    listed_ms: int | None = None
    speed: float = 1.0
    activity: float = 1.0
    recordings: tuple[Path, ...] = ()
    weight_per_minute: int = WEIGHT_PER_MINUTE
    retry_after: bool = True
    rules: SocketRules = SocketRules()


class Exchange:
    """All parts of one exchange, wired. run() serves it."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        _require(plan)
        self.plan = plan
        tape, feed, start_ms = _sources(plan, clock)
        self.clock = ExchangeClock(clock, start_ms=start_ms, speed=plan.speed)
        self.faults = Faults(self.clock, plan.seed)
        self.tape = tape
        quotes, books = Quotes(tape, plan.seed), Books(plan.seed, thin(plan.speed))
        self.limits = Limits(self.clock, limit=plan.weight_per_minute, tell_when=plan.retry_after)
        self.rest = Rest(
            tape, quotes, books, self.clock, self.limits, self.faults, only=ENDPOINTS if plan.recordings else ()
        )
        self.archives = None if plan.recordings else Archives(tape, quotes, plan.seed, self.clock, self.faults)
        self.hub = Hub(feed or Streams(tape, quotes, books), self.clock, self.faults)
        self._stopped = asyncio.Event()

    async def run(self, say: Callable[[str], None]) -> None:
        """Serve until stop(), or until the process is told to end. Raises Unavailable when the port is taken."""
        loop = asyncio.get_running_loop()
        async with self.serving() as address:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stopped.set)
            say(address)
            await self._stopped.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve while the block runs; its address, http://127.0.0.1:PORT."""
        listening = _listening(self.plan.host, self.plan.port)
        config = uvicorn.Config(
            self.application(), http="httptools", log_level="error", lifespan="off", access_log=False,
            ws=sockets(self.hub, self.clock, self.faults, self.plan.rules), server_header=False,
            timeout_graceful_shutdown=2, timeout_keep_alive=75,
        )  # fmt: skip
        server = _Server(config)
        with closing(listening):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve(sockets=[listening]), name="simulator server")
                beating = tasks.create_task(self.hub.run(), name="simulator beat")
                try:
                    await server.ready.wait()
                    yield f"http://{self.plan.host}:{listening.getsockname()[1]}"
                finally:
                    server.should_exit = True
                    beating.cancel()

    def stop(self) -> None:
        """End run()."""
        self._stopped.set()

    def application(self) -> Starlette:
        """The HTTP side."""
        every = ["GET", "POST", "DELETE"]
        return Starlette(
            routes=[
                Route("/fapi/{rest:path}", self._rest, methods=[*every, "PUT"]),
                Route("/futures/data/{rest:path}", self._rest, methods=[*every, "PUT"]),
                Route("/data/{rest:path}", self._archive, methods=["GET", "HEAD"]),
                Route("/control/state", self._state, methods=["GET"]),
                Route("/control/faults", self._switches, methods=every),
                Route("/control/faults/{fault}", self._switch, methods=["GET", "DELETE"]),
                Route("/control/truth/streams/{name}", self._said, methods=["GET"]),
                Route("/control/truth/{rest:path}", self._true, methods=["GET"]),
            ]
        )

    async def _rest(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            message = f"Path {request.url.path}, Method {request.method} is invalid"
            return _json({"code": -5000, "msg": message}, 404)
        address = request.client.host if request.client else ""
        for fault in self.faults.matching("slow", request.url.path):
            await self.clock.sleep_wall(fault.delay_ms / 1_000)
        params = request.query_params
        answer = partial(self.rest.answer, doubled=len(params.multi_items()) > len(params))
        raw = await run_in_threadpool(answer, request.url.path, params, request.headers, address)
        return _response(await run_in_threadpool(packed, raw, request.headers.get("accept-encoding", "")))

    async def _archive(self, request: Request) -> Response:
        for fault in self.faults.matching("slow", request.url.path):
            await self.clock.sleep_wall(fault.delay_ms / 1_000)
        if self.archives is None:
            return _response(absent(request.url.path))
        return _response(await run_in_threadpool(self.archives.get, request.url.path))

    async def _true(self, request: Request) -> Response:
        path = request.url.path.removeprefix("/control/truth")
        return _controlled(request) or _response(await run_in_threadpool(self.rest.truth, path, request.query_params))

    async def _said(self, request: Request) -> Response:
        """Every event of a stream, a line each, whoever listened and whatever faults there were."""
        if (refusal := _controlled(request)) is not None:
            return refusal
        name, now_ms = request.path_params["name"], self.clock.now_ms()
        try:
            after_ms, until_ms = (int(request.query_params[word]) for word in ("after", "until"))
        except (KeyError, ValueError):
            return _json({"error": "after and until must be milliseconds"}, 422)
        if self.hub.feed.route(name) is None:
            return _json({"error": f"{name} is no stream"}, 404)
        until_ms = min(until_ms, now_ms)
        events = await run_in_threadpool(self.hub.feed.events, name, after_ms, until_ms, 0)
        return Response(b"\n".join(event.payload for event in events), media_type="application/x-ndjson")

    async def _state(self, request: Request) -> Response:
        if (refusal := _controlled(request)) is not None:
            return refusal
        return _json({
            "now_ms": self.clock.now_ms(), "speed": self.clock.speed, "seed": self.plan.seed,
            "symbols": list(self.tape.contracts), "sockets": len(self.hub.listeners),
            "streams": sorted({name for one in self.hub.listeners for name in one.session.names}),
            "events_sent": self.hub.figures.sent, "beat_late_ms": self.hub.figures.late_ms,
            "weight_used": self.limits.used(request.client.host if request.client else ""),
            "faults": len(self.faults.all()),
        })  # fmt: skip

    async def _switches(self, request: Request) -> Response:
        if (refusal := _controlled(request)) is not None:
            return refusal
        if request.method == "GET":
            return _json(self.faults.all())
        if request.method == "DELETE":
            return _json({"removed": self.faults.clear()})
        try:
            words = msgspec.json.decode(await _body(request))
            if not isinstance(words, dict):
                raise BadQuery("fault", words, "must be an object")
            return _json(self.faults.add(parse(words)), 201)
        except (msgspec.DecodeError, BadQuery) as error:
            return _json({"error": str(error)}, 422)

    async def _switch(self, request: Request) -> Response:
        if (refusal := _controlled(request)) is not None:
            return refusal
        name = request.path_params["fault"]
        try:
            if request.method == "DELETE":
                return _json(self.faults.remove(name))
            return _json(self.faults.find(name))
        except NotFound as error:
            return _json({"error": str(error)}, 404)


def thin(speed: float) -> int:
    """How many steps of a book are one on a clock of this speed."""
    return max(1, min(_THIN_MAX, round(speed)))


def _sources(plan: Plan, clock: Clock) -> tuple[Tape, Feed | None, int]:
    """What happened, what the streams send (None: what follows from that), and when the clock begins."""
    if plan.recordings:
        recording = read(plan.recordings)
        start_ms = recording.start_ms if plan.start_ms is None else plan.start_ms
        return RecordedTape(recording), RecordedFeed(recording), start_ms
    start_ms = clock.now_ms() if plan.start_ms is None else plan.start_ms
    contracts = universe(plan.symbols, plan.seed, start_ms, activity=plan.activity, listed_ms=plan.listed_ms)
    return Market(contracts, plan.seed), None, start_ms


def _require(plan: Plan) -> None:
    if not 0 < plan.speed <= 100_000:
        raise BadQuery("speed", plan.speed, "must be above 0 and at most 100000")
    if not 0 < plan.activity <= 1_000:
        raise BadQuery("activity", plan.activity, "must be above 0 and at most 1000")
    if not 0 <= plan.port <= _PORT_MAX:
        raise BadQuery("port", plan.port, f"must be 0 (any free one) to {_PORT_MAX}")
    if plan.weight_per_minute < 1:
        raise BadQuery("weight", plan.weight_per_minute, "must be at least 1 a minute")
    if plan.rules.ping_every_s <= 0:
        raise BadQuery("ping-every", plan.rules.ping_every_s, "must be above 0 seconds")
    if plan.rules.life_ms < SECOND_MS:
        raise BadQuery("life", plan.rules.life_ms, "must be at least a second")


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listening(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Unavailable(f"{host}:{port} cannot be opened ({error.strerror}): choose another --port") from error
    return listening


def _controlled(request: Request) -> Response | None:
    """The refusal for whoever is not on this machine: these switches are not for a network."""
    host = request.client.host if request.client else ""
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = False
    return None if local else _json({"error": "the control endpoint answers this machine only"}, 403)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _BODY_MAX:
            raise BadQuery("body", len(body), f"at most {_BODY_MAX} bytes")
    return bytes(body)


def _response(raw: Raw) -> Response:
    headers: dict[str, str] = dict(raw.headers)
    if raw.promised is not None:
        headers["content-length"] = str(raw.promised)
    return Response(raw.body, raw.status, headers, media_type=raw.media)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
