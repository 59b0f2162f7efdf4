"""A simulated exchange inside the test's process, on a clock that the test moves by hand."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect

from data_manager.domain.time import parse_time
from data_manager.simulator.app import Exchange, Plan

NOW = parse_time("2026-03-05T12:34:56.789Z")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class HandClock:
    """Time stands still until the test moves it. Sleeping is real, so that beats go on."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_ms(self) -> int:
        return NOW + round(self.at_s * 1_000)

    def monotonic_s(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


class PassingClock(HandClock):
    """Time passes as it does, and answers that come late do."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Running:
    """A served exchange and how to talk to it."""

    def __init__(self, exchange: Exchange, clock: HandClock, address: str, client: httpx2.AsyncClient) -> None:
        self.exchange = exchange
        self.clock = clock
        self.address = address
        self.client = client

    async def get(self, path: str, **params: Any) -> httpx2.Response:
        """One answer; path without /fapi/v1/ in front, or whole."""
        target = path if path.startswith("/") else f"/fapi/v1/{path}"
        return await self.client.get(target, params={name: str(value) for name, value in params.items()})

    async def rows(self, path: str, **params: Any) -> Any:
        """The body of an answer that has to be good."""
        answer = await self.get(path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def error(self, path: str, **params: Any) -> tuple[int, int, str]:
        """Status, code and message of an answer that has to be an error."""
        answer = await self.get(path, **params)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["code"], answer.json()["msg"]

    async def fault(self, kind: str, **words: Any) -> str:
        """Switch a fault on; its id."""
        answer = await self.client.post("/control/faults", json={"kind": kind, **words})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def mend(self) -> None:
        assert (await self.client.delete("/control/faults")).status_code == 200

    def socket(self, path: str, **options: Any) -> connect:
        return connect(self.address.replace("http", "ws") + path, **options)

    async def forward(self, seconds: float) -> None:
        """Let time pass; on return the beat that saw it has been."""
        self.clock.at_s += seconds
        beats = self.exchange.hub.figures.beats
        async with asyncio.timeout(10):
            while self.exchange.hub.figures.beats < beats + 2:
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(*symbols: str, clock: HandClock | None = None, **plan: Any) -> AsyncIterator[Running]:
    """An exchange with these symbols (BTCUSDT and ETHUSDT) that starts at NOW. clock: instead of one moved by hand."""
    clock = clock or HandClock()
    made = Plan(port=0, symbols=symbols or ("BTCUSDT", "ETHUSDT"), **{"start_ms": NOW, **plan})
    exchange = Exchange(made, clock)
    async with exchange.serving() as address, httpx2.AsyncClient(base_url=address, timeout=20) as client:
        yield Running(exchange, clock, address, client)


async def told(socket: ClientConnection, *, within_s: float = 5.0) -> Any:
    """The next message, parsed."""
    async with asyncio.timeout(within_s):
        return json.loads(await socket.recv())


async def asked(socket: ClientConnection, method: str, params: Sequence[Any] | None, number: Any = 1) -> Any:
    """What a control message is answered; events in between are passed over."""
    message = {"method": method, "id": number} | ({} if params is None else {"params": params})
    await socket.send(json.dumps(message))
    while True:
        answer = await told(socket)
        if isinstance(answer, dict) and ("result" in answer or "error" in answer):
            return answer


async def drained(socket: ClientConnection, *, quiet_s: float = 0.1) -> list[Any]:
    """All messages up to a pause."""
    found = []
    while True:
        try:
            async with asyncio.timeout(quiet_s):
                found.append(json.loads(await socket.recv()))
        except TimeoutError:
            return found
