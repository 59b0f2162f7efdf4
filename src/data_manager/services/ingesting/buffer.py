"""What waits between two flushes: decoded events by dataset, the deliveries they came in, and the dead.

    add ──> count ──> take ──> Held, which one flush stores and acknowledges

Bounded by its limits: whoever fills it has it flushed when it is full. One Held may be on its way to the store while
the next one fills, never two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Rejected
from data_manager.domain.events import Event, Outcome
from data_manager.ports import DeadLetter, Delivery
from data_manager.telemetry import Tally

Decode = Callable[[bytes, int], Sequence[Outcome]]
"""What a payload says, and when it came."""


class Limits(NamedTuple):
    """When a flush is due: enough waits, or the last one began so long ago.

    dead_…: dead letters that may wait for their store.
    """

    rows: int = 10_000
    size_bytes: int = 8 * 1024 * 1024
    age_ms: int = 2
    dead_max: int = 10_000
    dead_bytes_max: int = 32 * 1024 * 1024


class Rows:
    """Events of one dataset and the deliveries they came in, side by side."""

    __slots__ = ("counted", "deliveries", "events")

    def __init__(self) -> None:
        self.counted = 0
        self.events: list[Any] = []  # all events; asking each whether it is one costs more than keeping it
        self.deliveries: list[Delivery] = []

    @property
    def received_ms(self) -> list[int]:
        """When each came."""
        return [one.received_ms for one in self.deliveries]

    def without(self, positions: Set[int]) -> None:
        """Leave out the events at these positions."""
        self.events = [one for at, one in enumerate(self.events) if at not in positions]
        self.deliveries = [one for at, one in enumerate(self.deliveries) if at not in positions]

    def of(self, series: Series) -> Iterator[int]:
        """Positions of the events of one series."""
        for position, event in enumerate(self.events):
            if event.symbol == series.symbol and getattr(event, "interval", None) == series.interval:
                yield position


class Dead:
    """A dead letter that is not kept yet, and the message it is of."""

    __slots__ = ("delivery", "event_type", "letter")

    def __init__(self, delivery: Delivery, event_type: str, why: Rejected) -> None:
        self.delivery = delivery
        self.event_type = event_type
        self.letter = DeadLetter(
            received_ms=delivery.received_ms,
            subject=delivery.subject,
            reason=why.reason,
            field=why.field,
            message=str(why),
            payload=delivery.payload,
        )


class Held(NamedTuple):
    """What one flush takes."""

    rows: dict[Dataset, Rows]
    deliveries: list[Delivery]
    dead: list[Dead]


class Buffer:
    """Decoded events by dataset, between two flushes."""

    def __init__(self, market: str, dataset_of: Mapping[type, Dataset], tally: Tally, limits: Limits) -> None:
        self.market = market
        self.tally = tally
        self.limits = limits
        self.unkept: list[Dead] = []  # flushed, and on their way to their store
        self._flushing: Sequence[Delivery] = ()
        self._dataset_of = dataset_of
        self._rows: dict[Dataset, Rows] = {}
        self._rows_of: dict[type, Rows] = {}  # the same by class of event
        self._deliveries: list[Delivery] = []
        self._dead: list[Dead] = []
        self._events = 0
        self._size_bytes = 0

    def add(self, deliveries: Sequence[Delivery], decode: Decode) -> None:
        """Take what decoding makes of each of these."""
        self._deliveries += deliveries
        self._size_bytes += sum([len(one.payload) for one in deliveries])
        self.tally.messages += len(deliveries)
        rows_of = self._rows_of
        for delivery in deliveries:  # the hot loop
            for outcome in decode(delivery.payload, delivery.received_ms):
                rows = rows_of.get(outcome.__class__)
                if rows is None:
                    self._add_other(delivery, outcome)
                else:
                    rows.events.append(outcome)
                    rows.deliveries.append(delivery)

    def _add_other(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take the first event of its class since the last flush, or what is no event."""
        if isinstance(outcome, Event):
            dataset = self._dataset_of[type(outcome)]
            rows = self._rows_of[type(outcome)] = self._rows.setdefault(dataset, Rows())
            rows.events.append(outcome)
            rows.deliveries.append(delivery)
        elif isinstance(outcome, Rejected):
            event_type = outcome.stream or "unknown"
            self.tally.received[event_type] += 1
            self.tally.in_flight += 1
            self.tally.refuse(event_type, outcome)
            self._dead.append(Dead(delivery, event_type, outcome))
        else:
            self.tally.ignored[outcome.reason] += 1

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

    def waits(self) -> bool:
        """Whether there is anything to flush."""
        return bool(self._deliveries)

    def full(self) -> bool:
        """Whether as much waits as may."""
        return self._events >= self.limits.rows or self._size_bytes >= self.limits.size_bytes

    def take(self) -> Held:
        """Everything that waits; the buffer is empty afterwards. Tell flushed() when it is safe."""
        self.count()
        held = Held(self._rows, self._deliveries, self._dead)
        self._rows, self._rows_of, self._deliveries, self._dead = {}, {}, [], []
        self._events = self._size_bytes = 0
        self._flushing = held.deliveries
        return held

    def count_kept(self, dead: Sequence[Dead]) -> None:
        """These dead letters are in their store: rejected, and in flight no more."""
        self.tally.rejected.update((one.event_type, one.letter.reason) for one in dead)
        self.tally.in_flight -= len(dead)

    def flushed(self) -> None:
        """What was taken last is stored."""
        self._flushing = ()
        self.note_oldest()

    def note_oldest(self) -> None:
        """Enter since when the oldest delivery waits; a delivery with unkept dead letters waits too."""
        firsts = [one.delivery.received_ms for one in self.unkept[:1]]
        firsts += [one.received_ms for waiting in (self._flushing, self._deliveries) for one in waiting[:1]]
        self.tally.oldest_unflushed_ms = min(firsts, default=None)
