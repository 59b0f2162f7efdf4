"""Ingest: every delivery goes into the store or into the dead letters; never into nothing.

    pull ──> decode ──> buffer ┐
                               └──> pack, check ──> append ──> ack          one flush at a time
                                                      └──> dead letters ──> ack of their messages, beside the flushes

The order in a flush is the promise: a message is acknowledged only when every event of it is durable, as a row or as a
dead letter. Whatever stops us in between, an unacknowledged message comes again, and twice is once. While a flush is
on its way, what comes next is decoded into the buffer; when that is full too, nothing more is pulled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import structlog

from data_manager.domain.batch import STREAM, Batch, Packed, Refused, pack
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Corrupt, Damaged, Mislabelled, Rejected
from data_manager.domain.events import Event
from data_manager.domain.values.columns import Ints
from data_manager.ports import Bus, Clock, Delivery, Dropped, Receipt
from data_manager.services.dead_letters.burying import Burying, KeepDead
from data_manager.services.ingesting.buffer import Buffer, Dead, Decode, Held, Rows
from data_manager.telemetry import Tally

_log = structlog.get_logger(__name__)
_SLICE = 1_000  # deliveries decoded before others get a turn on the event loop
_QUIET_S = 0.1  # so often the drops of the bus are asked for when nothing comes

Append = Callable[[Batch], Awaitable[Receipt]]
Screen = Callable[[Mapping[Dataset, Rows]], Iterable[tuple[Dataset, Sequence[Refused]]]]
PathOf = Callable[[Event, str, bytes], str]
Shed = Callable[[MutableMapping[Dataset, Rows]], Iterable[tuple[Dataset, Rows]]]


def _unheard(_: object) -> None:
    """Nobody wants to know."""


def _all_alike(_: Dataset, __: Sequence[Event]) -> None:
    """Nobody compares."""


def _all_pass(_: Mapping[Dataset, Rows]) -> Iterable[tuple[Dataset, Sequence[Refused]]]:
    """Nothing is taken out."""
    return ()


def _all_kept(_: MutableMapping[Dataset, Rows]) -> Iterable[tuple[Dataset, Rows]]:
    """Nothing is let go."""
    return ()


def _as_we_say(_: Event, column: str, __: bytes) -> str:
    """Columns keep our names."""
    return column


class Ports(NamedTuple):
    """What ingest talks to. append and keep_dead try until their store answers.

    saw is told of every batch that was stored, let_go of what the bus had to drop, came_again of the events of a flush
    some of which were held already or came twice. All three return at once. screen names
    what must not be stored although it decoded well, path_of the place in the payload that a column was read from.
    shed takes out of a flush what is let go for want of room in the store.
    """

    bus: Bus
    decode: Decode
    append: Append
    keep_dead: KeepDead
    clock: Clock
    saw: Callable[[Batch], None] = _unheard
    let_go: Callable[[Sequence[Dropped]], None] = _unheard
    screen: Screen = _all_pass
    path_of: PathOf = _as_we_say
    shed: Shed = _all_kept
    came_again: Callable[[Dataset, Sequence[Event]], None] = _all_alike


async def ingest(ports: Ports, buffer: Buffer) -> None:
    """Move every delivery into the store or into the dead letters, until the bus was told to stop."""
    flusher = Flusher(ports, buffer)
    try:
        async for deliveries in ports.bus.batches(_QUIET_S):
            for some in _slices(deliveries, min(_SLICE, buffer.limits.rows)):
                buffer.add(some, ports.decode)
                buffer.count()
                await flusher.make_room()
            note_drops(ports, buffer.tally)
            flusher.when_due(quiet=not deliveries)
        note_drops(ports, buffer.tally)
        await flusher.rest()
    finally:
        flusher.cancel()


def note_drops(ports: Ports, tally: Tally) -> None:
    """Count what the bus let go, and pass it on."""
    if drops := ports.bus.drops():
        count = sum(drop.count for drop in drops)
        tally.messages += count
        tally.dropped += count
        ports.let_go(drops)


class Flusher:
    """Sees to it that what waits is flushed, by one flush at a time, while the caller goes on filling the buffer.

    A flush costs by the call more than by the row. So after one that was not full comes a rest as long as it took, up
    to the age that rows may have: where they are quick, half of the time at most goes into flushes.

    What a flush raises comes out of whichever method is called next.
    """

    def __init__(self, ports: Ports, buffer: Buffer) -> None:
        self._ports = ports
        self._buffer = buffer
        self._burying = Burying(ports.keep_dead, ports.bus.ack, buffer, ports.clock)
        self._under_way: asyncio.Task[None] | None = None
        self._not_before_s = float("-inf")  # by the monotonic clock: earlier than this a flush waits for company
        self._more = False  # the caller has more at hand: a flush now would be a small one

    async def make_room(self) -> None:
        """Return when the buffer may take more; lets others have their turn on the event loop in any case."""
        self._more = True
        if not self._buffer.full():
            await asyncio.sleep(0)
            return
        await self._idle()
        if self._buffer.full():  # a flush that was due may have taken it all
            self._under_way = asyncio.create_task(flush(self._ports, self._buffer, self._burying), name="flush")
            await asyncio.sleep(0)  # it takes what waits as soon as it runs

    def when_due(self, *, quiet: bool) -> None:
        """Nothing more is at hand: what waits is to be flushed, at once if it is some time since the last flush, and
        what comes then too. quiet: nothing came for a while, so that dead letters need not wait for others."""
        self._more = False
        if quiet:
            self._burying.hurry()
        if self._under_way is not None and self._under_way.done():
            self._under_way.result()
            self._under_way = None
        if self._under_way is None and self._buffer.waits():
            self._under_way = asyncio.create_task(self._flush_due(), name="flush when due")

    async def rest(self) -> None:
        """Flush all that waits; return when it is safe."""
        await self._idle()
        await flush(self._ports, self._buffer, self._burying)
        await self._burying.rest()

    def cancel(self) -> None:
        """Leave what is not stored yet to be delivered again."""
        self._burying.cancel()
        if self._under_way is not None:
            self._under_way.cancel()

    async def _flush_due(self) -> None:
        clock = self._ports.clock
        while self._buffer.waits() and not self._more:
            wait_s = self._not_before_s - clock.monotonic_s()
            if wait_s > 0 and not self._buffer.full():
                await clock.sleep(wait_s)
            began_s = clock.monotonic_s()
            await flush(self._ports, self._buffer, self._burying)
            ended_s = clock.monotonic_s()
            age_s = self._buffer.limits.age_ms / 1_000
            self._not_before_s = max(began_s + age_s, ended_s + min(ended_s - began_s, age_s))

    async def _idle(self) -> None:
        if self._under_way is not None:
            await self._under_way
            self._under_way = None


async def flush(ports: Ports, buffer: Buffer, burying: Burying) -> None:
    """Append what waits, hand over the dead, then ack what has none: the others are acknowledged with their dead."""
    held = buffer.take()
    started = ports.clock.monotonic_s()
    for dataset, rows in ports.shed(held.rows):
        _count_shed(buffer.tally, dataset, len(rows.events))
    for dataset, refused in ports.screen(held.rows):
        _refuse(ports, buffer, held, dataset, refused)
        held.rows[dataset].without({one.position for one in refused})
    parts = [_packed(ports, buffer, held, dataset, rows) for dataset, rows in held.rows.items() if rows.events]
    storing = [_store(ports, buffer.tally, held, part) for part in parts]
    await (storing[0] if len(storing) == 1 else asyncio.gather(*storing))  # one part is what quiet times bring
    buffer.tally.flushes += 1
    buffer.tally.store_seconds += ports.clock.monotonic_s() - started
    burying.add(held.dead)
    buffer.flushed()
    dead = {id(one.delivery) for one in held.dead}
    await ports.bus.ack([one for one in held.deliveries if id(one) not in dead] if dead else held.deliveries)
    await burying.make_room()


class _Part(NamedTuple):
    """The rows of one dataset in a flush. refused: positions of those that broke a rule."""

    dataset: Dataset
    rows: Rows
    packed: Packed
    refused: frozenset[int]

    def sound(self, positions: Iterable[int] | None = None) -> list[int]:
        """Those of the positions, all by default, that broke no rule."""
        among = range(len(self.rows.events)) if positions is None else positions
        return [at for at in among if at not in self.refused]


def _packed(ports: Ports, buffer: Buffer, held: Held, dataset: Dataset, rows: Rows) -> _Part:
    packed = pack(dataset, buffer.market, rows.events, rows.received_ms, STREAM)
    _refuse(ports, buffer, held, dataset, packed.refused)
    return _Part(dataset, rows, packed, frozenset(refused.position for refused in packed.refused))


def _count_shed(tally: Tally, dataset: Dataset, events: int) -> None:
    tally.received[dataset.wire] -= events  # dropped events are received ones too, counted there alone
    tally.in_flight -= events
    tally.dropped += events


def _refuse(ports: Ports, buffer: Buffer, held: Held, dataset: Dataset, refused: Sequence[Refused]) -> None:
    """Events that broke a rule; their letters name the field as the venue does."""
    rows = held.rows[dataset]
    for one in refused:
        delivery, event, why = rows.deliveries[one.position], rows.events[one.position], one.why
        if why.field is not None:
            why.field = ports.path_of(event, why.field, delivery.payload)
        if not isinstance(why, Mislabelled):  # whose that is, is just what is in doubt
            interval = event.interval if dataset.has_interval else None
            why.series = Series(buffer.market, dataset.name, event.symbol, interval).id
        _bury(buffer.tally, held, dataset, delivery, why)


def _bury(tally: Tally, held: Held, dataset: Dataset, delivery: Delivery, why: Rejected) -> None:
    """An event becomes a dead letter; it is in flight until that is kept."""
    tally.refuse(dataset.wire, why)
    held.dead.append(Dead(delivery, dataset.wire, why))


async def _store(ports: Ports, tally: Tally, held: Held, part: _Part) -> None:
    try:
        receipt = await ports.append(part.packed.batch)
    except Corrupt:
        await _store_around_damage(ports, tally, held, part)
        return
    positions = part.sound()
    _enter(ports, tally, part, positions, part.packed.batch, receipt)
    if receipt.duplicate or receipt.changed or part.packed.repeated:
        ports.came_again(part.dataset, [part.rows.events[at] for at in positions])


async def _store_around_damage(ports: Ports, tally: Tally, held: Held, part: _Part) -> None:
    """Somewhere in the store there is damage that an append ran into: series by series, and the dead letters get the
    events of the damaged ones, to be replayed when it is mended."""
    for rows in part.packed.batch.split():
        [series] = rows.series
        positions = part.sound(part.rows.of(series))
        try:
            receipt = await ports.append(rows)
        except Corrupt as error:
            _log.error("damage in the store", series=series.id, events=len(positions), reason=str(error))
            for at in positions:
                why = Damaged(f"{series.id}: what is held there is damaged: {error}")
                why.series = series.id
                _bury(tally, held, part.dataset, part.rows.deliveries[at], why)
        else:
            _enter(ports, tally, part, positions, rows, receipt)


def _enter(ports: Ports, tally: Tally, part: _Part, positions: Sequence[int], batch: Batch, receipt: Receipt) -> None:
    """Count what the append of a batch did, and tell who watches. positions: the events it was made of, of which some
    may be repeated."""
    wire = part.dataset.wire
    tally.stored(wire, receipt + Receipt(duplicate=len(positions) - len(batch)))
    tally.in_flight -= len(positions)
    tally.took[wire].add(ports.clock.now_ms() - np.array([part.rows.deliveries[at].received_ms for at in positions]))
    _note_lag(tally, batch)
    ports.saw(batch)


def _slices(deliveries: Sequence[Delivery], length: int) -> Iterator[list[Delivery]]:
    rest = iter(deliveries)
    while some := list(islice(rest, length)):
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
