"""A tape played through the real path, on its own clock: decode, buffer, screen, pack, append, watch, and audits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, NamedTuple

from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.events import Event
from data_manager.domain.finding import Finding
from data_manager.domain.proof.canonical import row_hashes, streams
from data_manager.domain.time import SECOND_MS
from data_manager.ports import BusState, Clock, DeadLetter, Delivery, Dropped, Records, SeriesStore
from data_manager.services.audit import Auditor
from data_manager.services.ingest import PathOf, Ports, ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.services.ingesting.labels import Labels
from data_manager.services.ingesting.screen import Screen
from data_manager.services.selftest.tape import Decode, Message
from data_manager.services.watch import Watch
from data_manager.telemetry import Tally

_AT_ONCE: Final = 500  # messages of one read
_AT_ONCE_MS: Final = 10 * SECOND_MS  # and so much of the tape: what is learnt from one message is for those after it
_ASK_S: Final = 0.05
_JUDGED_MS: Final = 2 * SECOND_MS  # from one judgement of the watch to the next: what is longer is no listening to it
_LAST_LOOKS_MS: Final = (1, SECOND_MS)  # after nothing is too young: what is missing is seen, and seen again

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


Content = frozenset[tuple[int, int]]
"""Of every row of a series the first part of its key, and the hash of all it says."""


class Played(NamedTuple):
    """What was to be seen of a tape: all that was reported, every version of each finding, and what is held."""

    truths: list[SeriesTruth]
    findings: list[Finding]
    dead: list[DeadLetter]
    duplicates: Counter[str]  # by event type
    contents: dict[str, Content]  # by series
    unaccounted: int  # events the conservation law misses, messages nobody acknowledged, audits that were not done


async def play(
    messages: Sequence[Message], stage: Stage, wire: Wire, auditors: Auditors, *, audit_every_ms: int, grace_ms: int
) -> Played:
    """Play it, audit every so often and at the end, and tell what came of it. grace_ms: of the auditors."""
    clock = TapeClock(messages[0].at_ms)
    findings: list[Finding] = []
    dead: list[DeadLetter] = []
    auditor = auditors(stage.store, stage.records, clock, findings.extend)
    tally = Tally()
    labels = Labels(wire.market, wire.labelled, clock)
    watch = Watch(clock, tally, findings.extend)

    def judge() -> None:
        watch.judge()
        findings.extend(labels.findings())

    bus = _TapeBus(messages, clock, auditor, judge, audit_every_ms)

    async def bury(letters: Sequence[DeadLetter]) -> None:
        dead.extend(letters)
        await stage.records.keep_dead(letters)

    ports = Ports(
        bus, wire.decode, stage.store.append, bury, clock, saw=watch.saw, screen=Screen(labels), path_of=wire.path_of
    )
    await ingest(ports, Buffer(wire.market, wire.dataset_of, tally, Limits()))
    for after_ms in _LAST_LOOKS_MS:
        clock.now = messages[-1].at_ms + grace_ms + after_ms
        await auditor.run()
    contents = {one.id: await _content(stage.store, one) for one in await stage.store.series()}
    unaccounted = abs(tally.missing()) + bus.unacked + auditor.failures.total()
    return Played(await stage.records.truths(), findings, dead, Counter(tally.duplicate), contents, unaccounted)


async def _content(store: SeriesStore, series: Series) -> Content:
    rows = await store.scan(series)
    return frozenset(zip(rows.key.tolist(), row_hashes(len(rows), streams(rows)).tolist(), strict=True))


class _TapeBus:
    """A Bus that reads the tape and sets the clock; between two stretches, when all is stored, there is an audit.

    judge is called all the time, as the watch over streams needs it.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        clock: TapeClock,
        auditor: Auditor,
        judge: Callable[[], None],
        audit_every_ms: int,
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._auditor = auditor
        self._judge = judge
        self._every_ms = audit_every_ms
        self.unacked = 0
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
                self._go_on(next_ms)
                await self._auditor.run()
                next_ms += self._every_ms * (1 + (message.at_ms - next_ms) // self._every_ms)
            some.append(Delivery("selftest", message.payload, message.at_ms, str(at)))
        async for part in self._handed(some):
            yield part

    def _go_on(self, until_ms: int) -> None:
        """The time of the tape passes."""
        for moment_ms in range(self._clock.now + _JUDGED_MS, until_ms + 1, _JUDGED_MS):
            self._clock.now = moment_ms
            self._judge()
        self._clock.now = max(self._clock.now, until_ms)

    async def _handed(self, some: list[Delivery]) -> AsyncIterator[list[Delivery]]:
        if some:
            self._go_on(some[-1].received_ms)
        self.unacked += len(some)
        self._stored.clear()
        yield some
        while self.unacked:
            yield []
            with suppress(TimeoutError):  # a flush that failed never comes: then it says so when it is asked again
                await asyncio.wait_for(self._stored.wait(), _ASK_S)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See Bus.ack."""
        self.unacked -= len(deliveries)
        if not self.unacked:
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
