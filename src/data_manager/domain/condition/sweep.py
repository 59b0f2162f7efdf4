"""Claims laid over one another: at every instant the uppermost one counts.

rank 3            ────────
rank 2    ────────────         ──────
rank 1        ───────────────────────────
answer    2222222233333333111112222222211
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, Protocol, TypeVar


class Claim(Protocol):
    """Anything said of the instants start_ms <= t < end_ms."""

    @property
    def start_ms(self) -> int: ...

    @property
    def end_ms(self) -> int: ...


T = TypeVar("T", bound=Claim)


def uppermost(claims: Iterable[T], rank: Callable[[T], Any]) -> Iterator[tuple[int, int, T]]:
    """(start_ms, end_ms, claim) in order of time, disjoint, wherever at least one claim holds.

    Of claims with equal rank any may be given, so a rank should tell all that differ. Neighbours are not merged.
    O(n log n) for n claims.
    """
    order = sorted(claims, key=rank, reverse=True)
    begins = sorted(range(len(order)), key=lambda place: order[place].start_ms)
    edges = sorted({edge for claim in order for edge in (claim.start_ms, claim.end_ms)})
    standing: list[int] = []
    at = 0
    for start, end in pairwise(edges):
        while at < len(begins) and order[begins[at]].start_ms <= start:
            heappush(standing, begins[at])
            at += 1
        while standing and order[standing[0]].end_ms <= start:
            heappop(standing)
        if standing:
            yield start, end, order[standing[0]]
