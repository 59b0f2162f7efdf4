"""A tape played through the real path: decode, buffer, pack, append, and audits again and again, on its own clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, NamedTuple

from data_manager.domain.dataset import Dataset
from data_manager.domain.events import Event
from data_manager.domain.finding import Finding
from data_manager.domain.time import SECOND_MS
from data_manager.domain.truth import SeriesTruth
from data_manager.ports import BusState, Clock, DeadLetter, Delivery, Dropped, Records, SeriesStore
from data_manager.services.audit import GRACE_MS, Auditor
from data_manager.services.conditions import Conditions
from data_manager.services.ingest import PathOf, Ports, ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.services.ingesting.labels import Labels
from data_manager.services.ingesting.screen import Screen
from data_manager.services.keeping.certify import Certifier
from data_manager.services.selftest.tape import Decode, Message
from data_manager.telemetry import Tally

_AT_ONCE: Final = 500  # messages of one read
_AT_ONCE_MS: Final = 10 * SECOND_MS  # and so much of the tape: what is learnt from one message is for those after it
_ASK_S: Final = 0.05
_LAST_LOOKS_MS: Final = (GRACE_MS + 1, GRACE_MS + SECOND_MS)  # after the end: what is missing is seen, and seen again

Auditors = Callable[[SeriesStore, Records, Clock, Callable[[Sequence[Finding]], None]], Auditor]


class Wire(NamedTuple):
    """How the venue is read."""

    decode: Decode
    dataset_of: Mapping[type, Dataset]
    labelled: frozenset[type]
    path_of: PathOf
    market: str

    def dataset(self, event: Event) -> Dataset:
        """Of an event."""
        return self.dataset_of[type(event)]


class Stage(NamedTuple):
    """Where a tape is played: an empty store and empty metadata."""

    store: SeriesStore
    records: Records


OpenStage = Callable[[], AbstractAsyncContextManager[Stage]]


class TapeClock:
    """Stands where the tape stands."""

    def __init__(self, now_ms: int) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        """See Clock."""
        return self.now

    def monotonic_s(self) -> float:
        """See Clock."""
        return self.now / SECOND_MS

    async def sleep(self, seconds: float) -> None:
        """Others have their turn; the tape goes on by itself."""
        await asyncio.sleep(0)


class Played(NamedTuple):
    """What was to be seen of a tape: all that was reported, and what is held."""

    truths: list[SeriesTruth]
    findings: list[Finding]
    dead: list[DeadLetter]
    duplicates: Counter[str]  # by event type
    contents: dict[str, str]  # content hash by series
    missing: int  # of the conservation law


async def play(
    messages: Sequence[Message], stage: Stage, wire: Wire, auditors: Auditors, *, audit_every_ms: int
) -> Played:
    """Play it, audit every so often and at the end, and tell what came of it."""
    clock = TapeClock(messages[0].at_ms)
    findings: list[Finding] = []
    dead: list[DeadLetter] = []
    auditor = auditors(stage.store, stage.records, clock, findings.extend)
    bus = _TapeBus(messages, clock, auditor, audit_every_ms)
    tally = Tally()

    async def bury(letters: Sequence[DeadLetter]) -> None:
        dead.extend(letters)
        await stage.records.keep_dead(letters)

    ports = Ports(
        bus, wire.decode, stage.store.append, bury, clock, screen=Screen(Labels(wire.market, wire.labelled, clock)),
        path_of=wire.path_of,
    )  # fmt: skip
    await ingest(ports, Buffer(wire.market, wire.dataset_of, tally, Limits()))
    for after_ms in _LAST_LOOKS_MS:
        clock.now = messages[-1].at_ms + after_ms
        await auditor.run()
    certifier = Certifier(stage.store, stage.records, Conditions(stage.records, clock), clock)
    contents = {}
    for series in await stage.store.series():
        span = await certifier.span_of(series, None, None)
        contents[series.id] = (await certifier.read(series, span)).contents.content
    truths = await stage.records.truths()
    return Played(truths, findings, dead, Counter(tally.duplicate), contents, tally.missing())


class _TapeBus:
    """A Bus that reads the tape and sets the clock; between two stretches, when all is stored, there is an audit."""

    def __init__(self, messages: Sequence[Message], clock: TapeClock, auditor: Auditor, audit_every_ms: int) -> None:
        self._messages = messages
        self._clock = clock
        self._auditor = auditor
        self._every_ms = audit_every_ms
        self._unacked = 0
        self._stored = asyncio.Event()

    async def batches(self, quiet_s: float) -> AsyncIterator[list[Delivery]]:
        """See Bus.batches."""
        next_ms = self._messages[0].at_ms + self._every_ms
        some: list[Delivery] = []
        for at, message in enumerate(self._messages):
            late = some and message.at_ms - some[0].received_ms >= _AT_ONCE_MS
            if message.at_ms >= next_ms or late or len(some) >= _AT_ONCE:
                async for part in self._handed(some):
                    yield part
                some = []
            if message.at_ms >= next_ms:
                self._clock.now = next_ms
                await self._auditor.run()
                next_ms += self._every_ms * (1 + (message.at_ms - next_ms) // self._every_ms)
            self._clock.now = max(self._clock.now, message.at_ms)
            some.append(Delivery("selftest", message.payload, message.at_ms, str(at)))
        async for part in self._handed(some):
            yield part

    async def _handed(self, some: list[Delivery]) -> AsyncIterator[list[Delivery]]:
        self._unacked += len(some)
        self._stored.clear()
        yield some
        while self._unacked:
            yield []
            with suppress(TimeoutError):  # a flush that failed never comes: then it says so when it is asked again
                await asyncio.wait_for(self._stored.wait(), _ASK_S)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See Bus.ack."""
        self._unacked -= len(deliveries)
        if not self._unacked:
            self._stored.set()

    def stop(self) -> None:
        """See Bus.stop. It ends where the tape does."""

    def drops(self) -> list[Dropped]:
        """See Bus.drops."""
        return []

    def missed_since(self, since_ms: int) -> Dropped | None:
        """See Bus.missed_since."""
        return None

    async def state(self) -> BusState:
        """See Bus.state."""
        return BusState(connected=True)

    async def close(self) -> None:
        """See Bus.close."""
