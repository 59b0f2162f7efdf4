"""A tape played through the real path: bus, buffer, screen, append, watch and audit, in the time of the data.

Step by step, what came is ingested as ever and the watch judges. Every audit_every_s the auditor has its turn, and two
more when the tape is over and nothing on it is too young any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from data_manager.domain.canonical import row_hashes, streams
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.finding import Finding
from data_manager.domain.time import SECOND_MS
from data_manager.ports import BusState, DeadLetter, Delivery, Dropped, Records, SeriesStore
from data_manager.services.audit import GRACE_MS, Auditor
from data_manager.services.buffer import Buffer, Decode, Limits
from data_manager.services.ingest import PathOf, Ports, ingest
from data_manager.services.labels import Labels
from data_manager.services.screen import Screen
from data_manager.services.selftesting.tape import Message
from data_manager.services.watch import Watch
from data_manager.telemetry import Tally

AUDIT_EVERY_S: Final = 60
_JUDGED_MS: Final = 2 * SECOND_MS  # from one judgement of the watch to the next: what is longer is no listening to it
_LAST_TURNS: Final = 2  # what one audit suspects the next one confirms
_SUBJECT: Final = "selftest"

OpenStores = Callable[[], AbstractAsyncContextManager[tuple[SeriesStore, Records]]]


class Tools(NamedTuple):
    """The real things, given by who knows them. open_stores: empty ones, forgotten when they are closed."""

    market: str
    decode: Decode
    dataset_of: Mapping[type, Dataset]
    labelled: frozenset[type]
    path_of: PathOf
    open_stores: OpenStores


class Options(NamedTuple):
    """tolerance_ms: holes shorter than this are not told, as by MIN_GAP_SIZE_SECONDS. step_ms: so exact are delays."""

    audit_every_s: int = AUDIT_EVERY_S
    tolerance_ms: int = 0
    step_ms: int = _JUDGED_MS


class Account(NamedTuple):
    """All that was said of a tape, in the time of the data, and what is held in the end.

    findings: every version of each. duplicates: by step and event type. content: by series id the key and the hash of
    each row. unaccounted: events missing from the conservation law, messages that were not acknowledged, and audits
    that could not be done.
    """

    findings: Sequence[tuple[int, Finding]]
    dead: Sequence[tuple[int, DeadLetter]]
    duplicates: Mapping[tuple[int, str], int]
    content: Mapping[str, frozenset[tuple[int, int]]]
    unaccounted: int


async def play(messages: Sequence[Message], tools: Tools, options: Options, start_ms: int, end_ms: int) -> Account:
    """Everything from the first message to the last turn. start_ms, end_ms: of the undamaged tape."""
    async with tools.open_stores() as (store, meta):
        player = _Player(store, meta, tools, options, start_ms)
        at = 0
        for step_ms in range(start_ms + options.step_ms, end_ms + 2 * options.step_ms, options.step_ms):
            since = at
            while at < len(messages) and messages[at].received_ms < step_ms:
                at += 1
            await player.step(messages[since:at], step_ms)
        assert at == len(messages), "nothing on a tape comes after its end"
        for turn in range(_LAST_TURNS):
            await player.audit(end_ms + GRACE_MS + turn)
        return await player.account()


class _Player:
    def __init__(self, store: SeriesStore, meta: Records, tools: Tools, options: Options, start_ms: int) -> None:
        self._store = store
        self._meta = meta
        self._options = options
        self._next_audit_ms = start_ms + options.audit_every_s * SECOND_MS
        self._clock = _DataClock(start_ms)
        self._findings: list[tuple[int, Finding]] = []
        self._unkept: list[Finding] = []
        self._dead: list[tuple[int, DeadLetter]] = []
        self._duplicates: Counter[tuple[int, str]] = Counter()
        self._tally = Tally()
        self._bus = _Hand()
        self._labels = Labels(tools.market, tools.labelled, self._clock)
        self._watch = Watch(self._clock, self._tally, self._report)
        self._buffer = Buffer(tools.market, tools.dataset_of, self._tally, Limits())
        self._ports = Ports(
            self._bus,
            tools.decode,
            store.append,
            self._keep_dead,
            self._clock,
            saw=self._watch.saw,
            screen=Screen(self._labels),
            path_of=tools.path_of,
        )
        self._auditor = Auditor(store, meta, meta, self._clock, self._report, told_from_ms=options.tolerance_ms)

    async def step(self, messages: Sequence[Message], at_ms: int) -> None:
        """Ingest these, and let those who watch have their say."""
        for moment_ms in range(self._clock.now_ms() + _JUDGED_MS, at_ms, _JUDGED_MS):
            self._clock.set(moment_ms)
            self._watch.judge()
        self._clock.set(at_ms)
        if messages:
            before = self._tally.duplicate.copy()
            self._bus.hold([Delivery(_SUBJECT, one.payload, one.received_ms) for one in messages])
            await ingest(self._ports, self._buffer)
            for wire, count in (self._tally.duplicate - before).items():
                self._duplicates[at_ms, wire] += count
        self._report(self._labels.findings())
        self._watch.judge()
        if at_ms >= self._next_audit_ms:
            self._next_audit_ms += self._options.audit_every_s * SECOND_MS
            await self.audit(at_ms)

    async def audit(self, at_ms: int) -> None:
        """One turn over all series."""
        self._clock.set(at_ms)
        await self._auditor.run()
        unkept, self._unkept = self._unkept, []
        await self._meta.keep_findings(unkept)

    async def account(self) -> Account:
        """Everything that was said until now."""
        content = {series.id: await self._held(series) for series in await self._store.series()}
        unaccounted = abs(self._tally.missing()) + self._bus.unacknowledged + self._auditor.failures.total()
        return Account(self._findings, self._dead, self._duplicates, content, unaccounted)

    async def _held(self, series: Series) -> frozenset[tuple[int, int]]:
        rows = await self._store.scan(series)
        return frozenset(zip(rows.key.tolist(), row_hashes(len(rows), streams(rows)).tolist(), strict=True))

    def _report(self, findings: Sequence[Finding]) -> None:
        self._findings += [(self._clock.now_ms(), one) for one in findings]
        self._unkept += findings

    async def _keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        await self._meta.keep_dead(letters)
        self._dead += [(self._clock.now_ms(), one) for one in letters]


class _DataClock:
    """Shows the time of the data. Who sleeps is woken at once: time passes between the steps."""

    def __init__(self, start_ms: int) -> None:
        self._start_ms = self._now_ms = start_ms

    def set(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return (self._now_ms - self._start_ms) / SECOND_MS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class _Hand:
    """A bus that hands over what it was given and then was told to stop."""

    def __init__(self) -> None:
        self._held: list[Delivery] = []
        self.unacknowledged = 0

    def hold(self, deliveries: list[Delivery]) -> None:
        self._held = deliveries
        self.unacknowledged += len(deliveries)

    async def batches(self, quiet_s: float) -> AsyncIterator[list[Delivery]]:
        held, self._held = self._held, []
        yield held

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.unacknowledged -= len(deliveries)

    def stop(self) -> None:
        pass

    def drops(self) -> list[Dropped]:
        return []

    def missed_since(self, since_ms: int) -> Dropped | None:
        return None

    async def state(self) -> BusState:
        return BusState(connected=True)

    async def close(self) -> None:
        pass
