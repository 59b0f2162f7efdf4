"""The real service as a child process: started as an operator starts it, asked over HTTP, stopped or killed.

Its output goes to files in its folder; an assertion that fails here shows them.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import api
from nats.js.errors import NotFoundError
from prometheus_client.parser import text_string_to_metric_families

from data_manager.adapters.store.readonly import ReadOnlyStore
from data_manager.domain.datasets import DATASETS
from data_manager.settings import SETTINGS
from tests.account import compared, counted
from tests.conftest import eventually
from tests.servers import fresh
from tests.warm import PROGRAM, Warm, run, started

_WINDOW = 2_000  # messages published for one ack
_STREAM_BYTES = 256 * 2**20
_START_S, _STOP_S, _DRAIN_S = 30.0, 5.0, 60.0


class Service:
    """`data-manager serve` (or run) with a DATA_DIR of its own. start() again after stop() or kill() is a restart."""

    def __init__(
        self,
        folder: Path,
        *,
        nats_url: str = "",
        command: str = "serve",
        program: Sequence[str] = (),
        arguments: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """settings: variables of the environment, by field name of Settings. Both ports are free ones.

        arguments: of the command. program: another command line than data-manager's own, such as one that breaks something and then becomes it.
        """
        self.folder = folder
        self.data_dir = folder / "data"
        self.names = {"nats_stream": fresh("MARKET"), "nats_consumer_subject": fresh("market.data")}
        given: dict[str, object] = {"data_dir": self.data_dir, "api_port": 0, "metrics_port": 0, **self.names}
        if nats_url:  # a server of many tests has no room for a stream of the usual size for each
            given["nats_stream_max_bytes"] = _STREAM_BYTES
        given |= {"nats_url": nats_url, "nats_reconnect_time_wait": 0.1, "enable_feed": False, **settings}
        self.environ = {**bare_environment(), **{name.upper(): str(value) for name, value in given.items()}}
        self.url = self.metrics_url = ""
        self.program = list(program) or data_manager()
        self._command = [command, *arguments]
        self._process: subprocess.Popen[bytes] | Warm | None = None
        self._http = httpx2.Client(timeout=20)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def subject(self) -> str:
        """What it listens to."""
        return self.environ["NATS_CONSUMER_SUBJECT"]

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    # ---- life ----------------------------------------------------------------------------------------------------

    async def start(self, *, ready: bool = True) -> None:
        """Start it and wait until it is ready, or (ready=False) until it answers at all."""
        assert not self.running, "it runs already"
        self._process = started([*self.program, *self._command], self.environ, self._out, self._log)
        await eventually(self._has_addresses, within_s=_START_S, what="the banner with the addresses")
        await eventually(lambda: self._answers(ready=ready), within_s=_START_S, what="readiness")

    async def stop(self) -> float:
        """SIGTERM; how many seconds it took. Fails when the exit code is not 0 or it takes too long."""
        assert self._process is not None
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        await self._ended(_STOP_S)
        assert self._process.returncode == 0, self.said()
        return time.monotonic() - started

    async def kill(self) -> None:
        """SIGKILL: nothing is said, nothing is flushed."""
        assert self._process is not None
        self._process.kill()
        await self._ended(_STOP_S)

    async def exit_code(self) -> int:
        """Wait until it ends by itself."""
        assert self._process is not None
        await self._ended(_START_S)
        return int(self._process.wait())

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End it, however it stands."""
        self._http.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def _ended(self, within_s: float) -> None:
        await eventually(lambda: not self.running, within_s=within_s, what=f"the end of the process\n{self.said()}")

    def _has_addresses(self) -> bool:
        assert self.running, f"it ended at once\n{self.said()}"
        found = re.findall(r"(API|metrics) +(http://[0-9.:]+)", self._out.read_text())
        self.url, self.metrics_url = dict(found).get("API", ""), dict(found).get("metrics", "")
        return bool(self.url)

    def _answers(self, *, ready: bool) -> bool:
        assert self.running, f"it ended\n{self.said()}"
        try:
            return self.get("/health/readiness" if ready else "/health/liveness").status_code == 200
        except httpx2.TransportError:
            return False  # it is about to end, or to answer

    # ---- what it says --------------------------------------------------------------------------------------------

    @property
    def _out(self) -> Path:
        return self.folder / "service.out"

    @property
    def _log(self) -> Path:
        return self.folder / "service.log"

    def said(self) -> str:
        """The end of its output, for a message."""
        files = [file for file in (self._out, self._log) if file.exists()]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-4_000:]}" for file in files)

    def logged(self, text: str) -> int:
        """How often the log of all its lives holds that text."""
        return self._log.read_text(errors="replace").count(text)

    def get(self, path: str, **query: object) -> httpx2.Response:
        """An answer of the API, whatever its status."""
        return self._http.get(f"{self.url}{path}", params={name: str(value) for name, value in query.items()})

    def post(self, path: str, body: object) -> httpx2.Response:
        """An answer of the API to a body, whatever its status."""
        return self._http.post(f"{self.url}{path}", json=body)

    def page(self, path: str, **query: object) -> Any:
        """The JSON of an answer that must be 200."""
        answer = self.get(path, **query)
        assert answer.status_code == 200, f"{path} {query}: {answer.status_code} {answer.text}\n{self.said()}"
        return answer.json()

    def rows(self, path: str, **query: object) -> list[dict[str, Any]]:
        """All rows, page by page along the cursor."""
        rows: list[dict[str, Any]] = []
        more: dict[str, object] = {}
        while True:
            page = self.page(path, limit=1_000, **{"start": "2015-01-01", **query, **more})
            assert page["values"] == page["data"]
            rows += page["values"]
            if not page["pagination"]["has_more"]:
                return rows
            more = {"cursor": page["pagination"]["next_cursor"]}

    def lines(self, path: str, **query: object) -> list[str]:
        """All rows as NDJSON lines, page by page."""
        lines: list[str] = []
        more: dict[str, object] = {}
        while True:
            answer = self.get(path, limit=1_000, format="ndjson", **{"start": "2015-01-01", **query, **more})
            assert answer.status_code == 200, answer.text
            lines += answer.text.splitlines()
            if "x-next-cursor" not in answer.headers:
                return lines
            more = {"cursor": answer.headers["x-next-cursor"]}

    async def held(self) -> list[str]:
        """Ids of all series, as another process finds them in the store."""
        store = ReadOnlyStore(self.data_dir, 1 << 20)
        try:
            return [series.id for series in await store.series()]
        finally:
            await store.close()

    async def require(self, rows: Mapping[str, Sequence[str]]) -> None:
        """Fails unless exactly these series are held, and of each exactly these rows (tests/truth.py)."""
        held = {series: self.lines(path, **query) for series in await self.held() for path, query in [asked(series)]}
        compared(rows, held)
        assert list(held) == sorted(rows)
        for series, expected in rows.items():
            assert held[series] == expected, f"{series}\n{self.said()}"

    def figures(self) -> "Figures":
        """Its metrics now."""
        return Figures(self._http.get(f"{self.metrics_url}/metrics").text, self.folder)

    def command(self, *arguments: object) -> bytes:
        """Standard output of a command with the same settings, which must succeed."""
        return command(self.environ, *arguments)


class Figures:
    """A scrape. service: who was asked."""

    def __init__(self, text: str, service: object = None) -> None:
        self._service = service
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def of(self, name: str, **labels: str) -> int:
        """The sum of data_manager_<name> over all samples with these labels."""
        found = [
            sample.value
            for sample in self._samples
            if sample.name == f"data_manager_{name}" and labels.items() <= sample.labels.items()
        ]
        return round(sum(found))

    def require_law(self) -> None:
        """received = new + changed + duplicate + rejected + dropped + in flight, by the exported figures alone."""
        received = self.of("messages_received_total") - self.of("messages_received_total", event_type="raw")
        names = ("rows_new_total", "rows_changed_total", "rows_duplicate_total", "messages_failed_total")
        new, changed, duplicate, rejected = (self.of(name) for name in names)
        dropped, in_flight = self.of("events_dropped_total"), self.of("events_in_flight")
        counted(
            self._service, received=received, new=new, changed=changed, duplicate=duplicate, rejected=rejected,
            dropped=dropped,
        )  # fmt: skip
        parts = [new, changed, duplicate, rejected, dropped, in_flight]
        assert received == sum(parts), (received, parts)
        assert self.of("conservation_missing") == 0


def asked(series: str) -> tuple[str, dict[str, str]]:
    """Path and parameters of a query for a series such as um.candle.BTCUSDT.1m."""
    _, dataset, pair, *period = series.split(".")
    return f"/data/{DATASETS[dataset].path}", {"pair": pair, **({"period": period[0]} if period else {})}


def data_manager() -> list[str]:
    """The program, as a command line."""
    return list(PROGRAM)


def bare_environment() -> dict[str, str]:
    """The environment without any setting of ours."""
    return {name: value for name, value in os.environ.items() if name.lower() not in SETTINGS}


def command(environ: dict[str, str], *arguments: object) -> bytes:
    """Standard output of one command, which must succeed."""
    done = run(arguments, environ)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout[-500:]!r}\n{done.stderr.decode()}"
    return done.stdout


@asynccontextmanager
async def running(service: Service, *, ready: bool = True) -> AsyncIterator[Service]:
    """The service, started; ended however the block ends."""
    try:
        await service.start(ready=ready)
        yield service
    finally:
        service.close()


@contextmanager
def running_for_many(service: Service) -> Iterator[Service]:
    """The same for module fixtures, outside of any event loop."""
    try:
        asyncio.run(service.start())
        yield service
    finally:
        service.close()


# ---- the other side of the bus ------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client that does not come back by itself: when the server goes, what is under way fails."""
    client = Client()
    await client.connect(url, connect_timeout=2, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def publish(client: Client, subject: str, payloads: Sequence[bytes]) -> None:
    """All of them into the stream behind the subject, in order: on return the stream has them.

    The last of each window is acknowledged; on one connection that stands for those before it.
    """
    js = client.jetstream(timeout=3)
    for start in range(0, len(payloads), _WINDOW):
        *most, last = payloads[start : start + _WINDOW]
        for payload in most:
            await client.publish(subject, payload)
        await js.publish(subject, last)


async def drained(client: Client, service: Service) -> None:
    """Return when the service has acknowledged everything the stream holds."""
    js = client.jetstream(timeout=5)
    names = service.environ["NATS_STREAM"], service.environ.get("NATS_CONSUMER", "petrosa-data-manager")
    info: api.ConsumerInfo | None = None

    async def done() -> bool:
        nonlocal info
        try:
            stream = await js.stream_info(names[0])
            info = await js.consumer_info(*names)
        except (NotFoundError, NatsError):
            return False  # not created yet, or the server is busy
        read = info.delivered.stream_seq >= stream.state.last_seq  # the server counts num_pending a moment later
        return read and info.num_pending == 0 and info.num_ack_pending == 0

    try:
        await eventually(done, within_s=_DRAIN_S)
    except AssertionError:
        raise AssertionError(f"not drained: {info}\n{service.said()}") from None


async def feed(url: str, service: Service, payloads: Sequence[bytes]) -> None:
    """Publish to the service, and return when it has stored and acknowledged all of it."""
    async with connected(url) as client:
        await publish(client, service.subject, payloads)
        await drained(client, service)


def dead_letters(service: Service) -> list[dict[str, Any]]:
    """All of them, by the command line."""
    found = json.loads(service.command("dead-letters", "--json", "--limit", 10_000))
    letters: list[dict[str, Any]] = found["data"]
    assert found["pagination"]["total"] == len(letters)
    return letters
