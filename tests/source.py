"""A small true Source: a venue's past in memory, which can lack rows, be away, be slow, throttle, or know only a part.

What it gives is cut into pieces by time, packed like any rows, and comes with the request and a digest of the answer.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec.structs import asdict

from data_manager.domain.batch import Batch, empty, pack
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import DataManagerError
from data_manager.domain.events import Event
from data_manager.domain.span import Span, intersection
from data_manager.domain.time import HOUR_MS
from data_manager.ports.source import Fetched, Offer, Wanted
from tests.servers import WallClock

EVER = Span(0, 4_000_000_000_000)


class SetClock(WallClock):
    """The time of day is what it was set to; everything else is real."""

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def now_ms(self) -> int:
        return self.at_ms


class PastSource:
    """A venue's past. Its switches may be set at any time.

    past: what happened, by series. lacks: tells the events it does not give. troubles: raised one after the other, at
    each piece asked for. reach: what it can be asked for. gate: pieces wait until it is set.
    """

    def __init__(
        self,
        past: dict[Series, Sequence[Event]],
        *,
        name: str = "rest",
        piece_ms: int = HOUR_MS,
        coarse: bool = False,
    ) -> None:
        self.name, self.coarse = name, coarse
        self.past = past
        self.piece_ms = piece_ms
        self.lacks: Callable[[Event], bool] = lambda event: False
        self.troubles: list[DataManagerError | None] = []
        self.reach = EVER
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[Span] = []
        self.received_ms = 1_700_000_000_000
        self.closed = False
        self.listed: bool | None = None

    async def knows(self, series: Series) -> bool | None:
        """See Source.knows."""
        return self.listed

    def offers(self, wanted: Wanted, now_ms: int) -> list[Offer]:
        """See Source.offers."""
        calls = [one for one in DATASETS[wanted.series.dataset].refill if one.startswith(f"{self.name}:")]
        reached = intersection([wanted.span], [self.reach])
        return [Offer(call=calls[0], span=one, seconds=0.1, coarse=self.coarse) for one in reached if calls]

    async def fetch(self, wanted: Wanted, offer: Offer, origin: str) -> AsyncIterator[Fetched]:
        """See Source.fetch."""
        at = offer.span.start_ms
        while at < offer.span.end_ms:
            end = min(at + self.piece_ms - at % self.piece_ms, offer.span.end_ms)
            self.asked.append(Span(at, end))
            await self.gate.wait()
            trouble = self.troubles.pop(0) if self.troubles else None
            if trouble is not None:
                raise trouble
            yield self._answer(wanted.series, Span(at, end), offer.call, origin)
            at = end

    def _answer(self, series: Series, span: Span, call: str, origin: str) -> Fetched:
        dataset = DATASETS[series.dataset]
        events = [
            one for one in self.past.get(series, ()) if span.holds(getattr(one, dataset.time)) and not self.lacks(one)
        ]
        rows: Batch = empty(dataset, (series,))
        refused: Sequence[Any] = ()
        if events:
            packed = pack(dataset, series.market, events, [self.received_ms] * len(events), f"{origin} {call}")
            rows, refused = (packed.batch if len(packed.batch) else rows), packed.refused
        digest = hashlib.sha256(repr([asdict(one) for one in events]).encode()).hexdigest()
        evidence = {
            "request": f"GET /{call}?from={span.start_ms}&to={span.end_ms}",
            "digest": digest,
            "at_ms": self.received_ms,
            "rows": len(events),
        }
        return Fetched(span=span, rows=rows, refused=refused, evidence=evidence)

    async def close(self) -> None:
        """See Source.close."""
        self.closed = True
