"""A publisher of the present moment: trades that happen now, steadily, and what a reference reads from them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.service import Service, connected, publish
from tests.truth import Line

_PAUSE_S = 0.02


class Ticks:
    """Every symbol trades every few milliseconds, by the venue's clock, which is right. sent: all of it so far."""

    def __init__(self, symbols: int) -> None:
        self.sent: list[Line] = []
        self._symbols = [f"COIN{number}USDT" for number in range(symbols)]
        self._stopped = False

    def stop(self) -> None:
        """No more after those under way."""
        self._stopped = True

    async def publish_all(self, url: str, service: Service) -> None:
        """Until stopped. sent holds only what the server has."""
        async with connected(url) as client:
            while not self._stopped:
                lines = [self._trade(symbol, len(self.sent) // len(self._symbols)) for symbol in self._symbols]
                await publish(client, service.subject, [line.enveloped for line in lines])
                self.sent += lines
                await asyncio.sleep(_PAUSE_S)

    def _trade(self, symbol: str, number: int) -> Line:
        now_ns = time.time_ns()
        ms = now_ns // 1_000_000
        data = {
            "e": "trade",
            "E": ms,
            "T": ms,
            "s": symbol,
            "t": number,
            "p": "1.5",
            "q": "2",
            "X": "MARKET",
            "m": True,
        }
        message = json.dumps({"stream": f"{symbol.lower()}@trade", "data": data}, separators=(",", ":"))
        return Line(now_ns, message.encode(), data)


@asynccontextmanager
async def ticking(url: str, service: Service, symbols: int) -> AsyncIterator[Ticks]:
    """Ticks beside the block; at its end the server has all that were sent."""
    ticks = Ticks(symbols)
    async with asyncio.TaskGroup() as group:
        group.create_task(ticks.publish_all(url, service), name="ticks")
        yield ticks
        ticks.stop()
