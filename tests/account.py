"""What a test finds a service to have counted, kept, lost and doubled: a line of the table of faults (tests/summary.py).

Whoever checks the law of conservation, or compares what is held with what has to be, says here what it saw; nobody
listens unless a test of faults runs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PARTS = ("received", "new", "changed", "duplicate", "rejected", "dropped")
"""Of the law, as they are counted: what is in flight at the end of a test is nothing."""

_open: list["Account"] = []


class Account:
    """Of one test."""

    def __init__(self) -> None:
        self._counted: dict[object, tuple[int, ...]] = {}  # by service, in the life it is in
        self._lost: int | None = None
        self._doubled: int | None = None

    def columns(self) -> dict[str, int | None]:
        """The parts of the law over all services, and what is lost and doubled; None: nobody looked."""
        sums = [sum(column) for column in zip(*self._counted.values(), strict=True)] or [None] * len(PARTS)
        return {**dict(zip(PARTS, sums, strict=True)), "lost": self._lost, "doubled": self._doubled}

    def count(self, service: object, parts: Iterable[int]) -> None:
        """What it counts now. Replaces what it counted before: its counters only rise, or begin again with a life."""
        self._counted[service] = tuple(parts)

    def compare(self, expected: Mapping[str, Iterable[str]], held: Mapping[str, Iterable[str]]) -> None:
        """Lost is what is nowhere; doubled is what is there once more than it has to be, or otherwise. By series."""
        self._lost = self._doubled = 0
        for series in expected.keys() | held.keys():
            due, there = Counter(expected.get(series, ())), Counter(held.get(series, ()))
            self._lost += (due - there).total()
            self._doubled += (there - due).total()


@contextmanager
def opened() -> Iterator[Account]:
    """An account for as long as a test runs."""
    account = Account()
    _open.append(account)
    try:
        yield account
    finally:
        _open.remove(account)


def counted(service: object, **parts: Any) -> None:
    """parts: by the names of PARTS."""
    for account in _open:
        account.count(service, (parts[name] for name in PARTS))


def compared(expected: Mapping[str, Iterable[str]], held: Mapping[str, Iterable[str]]) -> None:
    """Before it fails for it, whoever compares says so."""
    for account in _open:
        account.compare(expected, held)
