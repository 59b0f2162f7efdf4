"""What was traded, as columns; and a bounded memory for what was made once.

Prices are whole numbers of the contract's price unit, quantities of its quantity unit, both int64 columns.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Final, Generic, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.simulator.noise import Index

Mask = NDArray[np.bool_]
Kept = TypeVar("Kept")


class Aggregates(Struct, frozen=True):
    """Aggregate trades of one contract, ascending by id. Trade ids first_id to last_id, some of them burned."""

    agg_id: Index
    at_ms: Index  # of the first fill
    price: Index
    quantity: Index
    plain_quantity: Index  # without the fills of retail price improvement
    buyer_is_maker: Mask
    first_id: Index
    fills: Index  # how many; the first_id + fills ids behind are the last one's burned
    burned: Index  # 0 or 1: an id right behind the last fill that no trade got
    chance: NDArray[np.uint64]  # what the rest is drawn from

    def __len__(self) -> int:
        return len(self.agg_id)

    @property
    def last_id(self) -> Index:
        return self.first_id + self.fills - 1

    def take(self, rows: slice | Index | Mask) -> "Aggregates":
        return Aggregates(*(getattr(self, name)[rows] for name in self.__struct_fields__))

    def between(self, start_ms: int, end_ms: int) -> "Aggregates":
        """Those with start_ms <= at_ms < end_ms."""
        low, high = np.searchsorted(self.at_ms, (start_ms, end_ms))
        return self.take(slice(int(low), int(high)))


class Fills(Struct, frozen=True):
    """Single trades of one contract, ascending by id."""

    trade_id: Index
    at_ms: Index
    price: Index
    quantity: Index
    buyer_is_maker: Mask
    improved: Mask  # a fill of retail price improvement

    def __len__(self) -> int:
        return len(self.trade_id)

    def take(self, rows: slice | Index | Mask) -> "Fills":
        return Fills(*(getattr(self, name)[rows] for name in self.__struct_fields__))

    def between(self, start_ms: int, end_ms: int) -> "Fills":
        """Those with start_ms <= at_ms < end_ms."""
        low, high = np.searchsorted(self.at_ms, (start_ms, end_ms))
        return self.take(slice(int(low), int(high)))


class Bursts(Struct, frozen=True):
    """Ids that no trade got: the placeholder trades of the wire, and the insurance fund's fills."""

    trade_id: Index
    at_ms: Index
    insurance: Mask


AGGREGATE_FIELDS: Final = Aggregates.__struct_fields__
FILL_FIELDS: Final = Fills.__struct_fields__


def joined(parts: list[Aggregates]) -> Aggregates:
    """One after the other."""
    return Aggregates(*(np.concatenate([getattr(part, name) for part in parts]) for name in AGGREGATE_FIELDS))


class Bounded(Generic[Kept]):
    """At most so many results; the one not asked for longest goes first. Safe between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._lock = Lock()

    def get(self, name: Hashable, make: Callable[[], Kept]) -> Kept:
        """What make() gave for this name; made now where it is not kept. Two threads may both make it."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made = make()
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self._kept)
