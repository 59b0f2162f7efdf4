"""The order book of a contract at any instant, and what changed between two.

    ask 64,320.2 | 1.204        every price within _REACH ticks of the best has a size that changes a few times a
    ask 64,320.1 | 0.310        minute to a few times an hour of seconds, each at its own beat; a quarter is empty;
    bid 64,320.0 | 2.250        the best price of each side is never empty
    bid 64,319.9 | 0.017

The book is a function of the contract and the step (50 ms of the exchange's clock, times thin). So any two steps give
the difference between them, and differences chained one after the other give exactly the book at the last.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from data_manager.simulator.contracts import Contract
from data_manager.simulator.noise import Bits, Index, bits, field, key_of
from data_manager.simulator.path import STEP_MS, mid_ticks
from data_manager.simulator.tape import Bounded

_REACH: Final = 1_400  # ticks on each side; about 1,050 of them hold something
_SNAPSHOT_STEPS: Final = 10  # every stream's speed divides it: a snapshot is a state that each of them passes
_BEAT: Final = 2  # steps after which the best sizes change


class Side(Struct, frozen=True):
    """Levels from the best price outwards."""

    price: Index
    quantity: Index


class Book(Struct, frozen=True):
    """Both sides at one step."""

    update_id: int
    at_ms: int
    bids: Side
    asks: Side


class Change(Struct, frozen=True):
    """What a diff event says: absolute sizes of the levels that changed, 0 for those that are gone."""

    first_id: int
    final_id: int
    previous_id: int
    at_ms: int
    bids: Side
    asks: Side


class Books:
    """Books of all contracts. thin: on a clock that runs thin times faster, so many steps are one."""

    def __init__(self, seed: int, thin: int = 1) -> None:
        self._seed = seed
        self.step_ms = STEP_MS * thin
        self._mids: Bounded[int] = Bounded(4_096)

    def update_id(self, contract: Contract, step: int) -> int:
        """The id of the last update up to a step. Ids rise in jumps, as the venue's do."""
        [drawn] = bits(key_of(self._seed, contract.symbol, "update"), np.array([step]))
        return step * 353 + int(drawn) % 300

    def snapshot_step(self, at_ms: int) -> int:
        """The newest step that a snapshot may be of."""
        return at_ms // self.step_ms // _SNAPSHOT_STEPS * _SNAPSHOT_STEPS

    def book(self, contract: Contract, step: int, levels: int) -> Book:
        """The best levels of each side, fewer where there are not so many."""
        mid = self._mid(contract, step)
        reach = min(_REACH, 2 * levels + 40)
        sides = []
        for side, best, away in (("bid", mid, -1), ("ask", mid + 1, 1)):
            prices = best + away * np.arange(reach)
            sizes = self._sizes(contract, side, prices, step, best)
            held = np.flatnonzero(sizes)[:levels]
            sides.append(Side(prices[held] * contract.tick, sizes[held]))
        return Book(self.update_id(contract, step), step * self.step_ms, *sides)

    def change(self, contract: Contract, before: int, step: int) -> Change:
        """From the step before to this one."""
        old, new = self._mid(contract, before), self._mid(contract, step)
        sides = []
        for side, shift, away in (("bid", 0, -1), ("ask", 1, 1)):
            ends = np.array([old + shift, new + shift])
            edges = np.concatenate([ends, ends + away * (_REACH - 1)])
            prices = np.arange(int(edges.min()), int(edges.max()) + 1)
            was = self._within(contract, side, prices, before, old + shift, away)
            now = self._within(contract, side, prices, step, new + shift, away)
            moved = np.flatnonzero(was != now)[::away]
            sides.append(Side(prices[moved] * contract.tick, now[moved]))
        previous = self.update_id(contract, before)
        return Change(previous + 1, self.update_id(contract, step), previous, step * self.step_ms, *sides)

    def best(self, contract: Contract, first: int, last: int) -> list[Book]:
        """The best level of each side after each step of first to last at which either changed."""
        steps = np.arange(first - 1, last + 1)
        mids = mid_ticks(self._seed, contract, steps * self.step_ms)
        bids = self._best_sizes(contract, "bid", mids, steps)
        asks = self._best_sizes(contract, "ask", mids + 1, steps)
        state = np.stack([mids, bids, asks])
        found = np.flatnonzero((state[:, 1:] != state[:, :-1]).any(axis=0)) + 1
        return [
            self._best_at(contract, int(steps[at]), mids[at : at + 1], bids[at : at + 1], asks[at : at + 1])
            for at in found.tolist()
        ]

    def _best_at(self, contract: Contract, step: int, mid: Index, bid: Index, ask: Index) -> Book:
        sides = Side(mid * contract.tick, bid), Side((mid + 1) * contract.tick, ask)
        return Book(self.update_id(contract, step), step * self.step_ms, *sides)

    def _mid(self, contract: Contract, step: int) -> int:
        def make() -> int:
            return int(mid_ticks(self._seed, contract, np.array([step * self.step_ms]))[0])

        return self._mids.get((contract.symbol, step), make)

    def _within(self, contract: Contract, side: str, prices: Index, step: int, best: int, away: int) -> Index:
        """Sizes at these prices, 0 beyond the book."""
        distance = (prices - best) * away
        sizes = self._sizes(contract, side, prices, step, best)
        return np.where((distance >= 0) & (distance < _REACH), sizes, 0)

    def _sizes(self, contract: Contract, side: str, prices: Index, step: int, best: int) -> Index:
        level = bits(key_of(self._seed, contract.symbol, side, "level"), prices)
        beat = 5 + field(level, 8, 7) % 6  # a level keeps its size for 32 to 1,024 steps
        epoch = step + field(level, 16, 10) >> beat
        drawn = bits(key_of(self._seed, contract.symbol, side, "size"), (prices << 24) + epoch)
        sizes = np.where(field(drawn, 0, 2) == 0, 0, _quantity(contract, drawn))
        sizes[prices == best] = self._best_sizes(contract, side, np.array([best]), np.array([step]))[0]
        return sizes

    def _best_sizes(self, contract: Contract, side: str, prices: Index, steps: Index) -> Index:
        drawn = bits(key_of(self._seed, contract.symbol, side, "best"), (prices << 24) + steps // _BEAT)
        return _quantity(contract, drawn)


def _quantity(contract: Contract, drawn: Bits) -> Index:
    share = field(drawn, 8, 24) / (1 << 24)
    sizes: Index = 1 + (contract.quantity_scale * (share * share)).astype(np.int64)
    return sizes
