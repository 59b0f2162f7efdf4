"""Ingest: every delivery goes into the store or into the dead letters; never into nothing.

    pull ──> decode ──> buffer ──> pack, check ──> append ──> dead letters ──> ack

The order of the last three is the promise: a message is acknowledged only when every event of it is durable, as a row
or as a dead letter. Whatever stops us in between, an unacknowledged message comes again, and twice is once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import structlog

from data_manager.domain.batch import STREAM, Batch, Packed, pack
from data_manager.domain.columns import Ints
from data_manager.domain.dataset import Dataset
from data_manager.domain.errors import Rejected, Unavailable
from data_manager.domain.events import Event, Outcome
from data_manager.ports import Bus, Clock, DeadLetter, Delivery, Dropped, Receipt
from data_manager.telemetry import Tally

_log = structlog.get_logger(__name__)
_SLICE = 1_000  # deliveries decoded before others get a turn on the event loop
_QUIET_S = 0.002

Decode = Callable[[bytes, int], Sequence[Outcome]]
Append = Callable[[Batch], Awaitable[Receipt]]
KeepDead = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class Limits(NamedTuple):
    """When a flush is due: whichever comes first. dead_max: dead letters that may wait for their store."""

    rows: int = 10_000
    size_bytes: int = 8 * 1024 * 1024
    age_ms: int = 3
    dead_max: int = 10_000


def _unheard(_: object) -> None:
    """Nobody wants to know."""


class Ports(NamedTuple):
    """What ingest talks to. append and insist_dead try until their store answers; keep_dead raises Unavailable.

    saw is told of every batch that was stored, let_go of what the bus had to drop. Both return at once.
    """

    bus: Bus
    decode: Decode
    append: Append
    keep_dead: KeepDead
    insist_dead: KeepDead
    clock: Clock
    saw: Callable[[Batch], None] = _unheard
    let_go: Callable[[Sequence[Dropped]], None] = _unheard


async def ingest(ports: Ports, buffer: Buffer) -> None:
    """Move every delivery into the store or into the dead letters, until the bus was told to stop."""
    async for deliveries in ports.bus.batches(_QUIET_S):
        for some in _slices(deliveries):
            for delivery in some:
                buffer.add(delivery, ports.decode(delivery.payload, delivery.received_ms))
            buffer.count()
            if buffer.full():
                await flush(ports, buffer)
            else:
                await asyncio.sleep(0)
        note_drops(ports, buffer.tally)
        if buffer.due(ports.clock):
            await flush(ports, buffer)
    note_drops(ports, buffer.tally)
    await flush(ports, buffer)


def note_drops(ports: Ports, tally: Tally) -> None:
    """Count what the bus let go, and pass it on."""
    if drops := ports.bus.drops():
        tally.dropped += sum(drop.count for drop in drops)
        ports.let_go(drops)


async def flush(ports: Ports, buffer: Buffer) -> None:
    """Append what waits, keep the dead, then ack: only here is anything acknowledged."""
    held = buffer.take()
    tally = buffer.tally
    started = ports.clock.monotonic_s()
    batches: list[tuple[Dataset, Packed]] = []
    for dataset, rows in held.rows.items():
        packed = pack(dataset, buffer.market, rows.events, [one.received_ms for one in rows.deliveries], STREAM)
        for refused in packed.refused:
            buffer.add_dead(rows.deliveries[refused.position], refused.why, dataset.wire)
        tally.in_flight -= len(packed.refused)
        batches.append((dataset, packed))
    receipts = await asyncio.gather(*(ports.append(packed.batch) for _, packed in batches))
    for (dataset, packed), receipt in zip(batches, receipts, strict=True):
        tally.stored(dataset.wire, receipt + Receipt(duplicate=packed.repeated))
        tally.in_flight -= len(packed.batch) + packed.repeated
        _note_lag(tally, packed.batch)
        ports.saw(packed.batch)
    tally.flushes += 1
    tally.store_seconds += ports.clock.monotonic_s() - started
    unkept = await _keep_dead(ports, buffer)
    buffer.note_oldest()
    await ports.bus.ack([one for one in held.deliveries if id(one) not in unkept] if unkept else held.deliveries)


async def _keep_dead(ports: Ports, buffer: Buffer) -> set[int]:
    """Store the dead letters, and ack the messages of those that had to wait; the ids of deliveries still to wait.

    The rows go on without the metadata store: only messages with dead letters stay unacknowledged, up to a bound.
    """
    dead = buffer.dead
    if not dead:
        return set()
    try:
        keep = ports.keep_dead if len(dead) <= buffer.limits.dead_max else ports.insist_dead
        await keep([one.letter for one in dead])
    except Unavailable as error:
        _log.warning("dead letters wait", waiting=len(dead), reason=str(error))
        for one in dead:
            one.waited = True
        return {id(one.delivery) for one in dead}
    buffer.dead = []
    await ports.bus.ack([one.delivery for one in dead if one.waited])
    return set()


class Rows:
    """Events of one dataset and the deliveries they came in, side by side."""

    __slots__ = ("counted", "deliveries", "events")

    def __init__(self) -> None:
        self.counted = 0
        self.events: list[Any] = []  # all events; asking each whether it is one costs more than keeping it
        self.deliveries: list[Delivery] = []


class Dead:
    """A dead letter that is not kept yet. waited: its message was left out of an ack because of that."""

    __slots__ = ("delivery", "letter", "waited")

    def __init__(self, delivery: Delivery, letter: DeadLetter) -> None:
        self.delivery = delivery
        self.letter = letter
        self.waited = False


class Held(NamedTuple):
    """What one flush takes."""

    rows: dict[Dataset, Rows]
    deliveries: list[Delivery]


class Buffer:
    """Decoded events by dataset, between two flushes. Bounded by the limits; the caller flushes when due."""

    def __init__(self, market: str, dataset_of: Mapping[type, Dataset], tally: Tally, limits: Limits) -> None:
        self.market = market
        self.tally = tally
        self.limits = limits
        self.dead: list[Dead] = []
        self._dataset_of = dataset_of
        self._rows: dict[Dataset, Rows] = {}
        self._rows_of: dict[type, Rows] = {}  # the same by class of event
        self._deliveries: list[Delivery] = []
        self._events = 0
        self._size_bytes = 0

    def add(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        """Take what decoding made of one delivery."""
        self._deliveries.append(delivery)
        self._size_bytes += len(delivery.payload)
        self.tally.messages += 1
        for outcome in outcomes:
            rows = self._rows_of.get(outcome.__class__)
            if rows is not None:
                rows.events.append(outcome)
                rows.deliveries.append(delivery)
            else:
                self._add_other(delivery, outcome)

    def _add_other(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take the first event of its class since the last flush, or what is no event."""
        if isinstance(outcome, Event):
            dataset = self._dataset_of[type(outcome)]
            rows = self._rows_of[type(outcome)] = self._rows.setdefault(dataset, Rows())
            rows.events.append(outcome)
            rows.deliveries.append(delivery)
        elif isinstance(outcome, Rejected):
            self.tally.received["unknown"] += 1
            self.add_dead(delivery, outcome, "unknown")
        else:
            self.tally.ignored[outcome.reason] += 1

    def add_dead(self, delivery: Delivery, why: Rejected, event_type: str) -> None:
        """Take an event that breaks a rule."""
        self.tally.rejected[event_type, why.reason] += 1
        letter = DeadLetter(
            received_ms=delivery.received_ms,
            subject=delivery.subject,
            reason=why.reason,
            field=why.field,
            message=str(why),
            payload=delivery.payload,
        )
        self.dead.append(Dead(delivery, letter))

    def count(self) -> None:
        """Enter what was added since the last call into the tally."""
        for dataset, rows in self._rows.items():
            added = len(rows.events) - rows.counted
            rows.counted += added
            self._events += added
            self.tally.received[dataset.wire] += added
            self.tally.in_flight += added
        if self.tally.oldest_unflushed_ms is None:
            self.note_oldest()

    def note_oldest(self) -> None:
        """Enter since when the oldest delivery waits; a delivery with unkept dead letters waits too."""
        waiting = [one.delivery.received_ms for one in self.dead[:1]]
        waiting += [one.received_ms for one in self._deliveries[:1]]
        self.tally.oldest_unflushed_ms = min(waiting, default=None)

    def full(self) -> bool:
        """Whether as much waits as may."""
        return self._events >= self.limits.rows or self._size_bytes >= self.limits.size_bytes

    def due(self, clock: Clock) -> bool:
        """Whether what waits should be flushed now that nothing more is at hand."""
        if not self._deliveries:
            return False
        return self.full() or clock.now_ms() - self._deliveries[0].received_ms >= self.limits.age_ms

    def take(self) -> Held:
        """Everything that waits; the buffer is empty afterwards."""
        self.count()
        held = Held(self._rows, self._deliveries)
        self._rows, self._rows_of, self._deliveries = {}, {}, []
        self._events = self._size_bytes = 0
        return held


def _slices(deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    rest = iter(deliveries)
    while some := list(islice(rest, _SLICE)):
        yield some


def _note_lag(tally: Tally, batch: Batch) -> None:
    """Remember how far behind the venue's clock the row received last reached us."""
    event, received = batch.columns["event_ms"], batch.columns["received_ms"]
    assert isinstance(event, Ints)
    assert isinstance(received, Ints)
    stated = np.flatnonzero(event.present & np.ones(len(batch), np.bool_))
    if len(stated):
        last = stated[received.values[stated].argmax()]
        tally.lag_ms = int(received.values[last] - event.values[last])
