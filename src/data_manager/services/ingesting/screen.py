"""Screen: what a flush must not store although it decoded well, found before its rows are packed.

Two things that no row tells by itself: whether its time has come yet (our clock tells), and whether a book is of the
symbol that its label names (the prices of others tell). Everything else is a rule of the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from data_manager.domain.batch import Refused
from data_manager.domain.dataset import Dataset
from data_manager.domain.errors import Invalid
from data_manager.domain.events import Event
from data_manager.domain.validity import AHEAD, from_the_future
from data_manager.services.ingesting.labels import Labels


class Waiting(Protocol):
    """Events of one dataset, and when each was received."""

    events: list[Event]

    @property
    def received_ms(self) -> list[int]:
        """In the order of the events."""
        ...


class Screen:
    """Call it once per flush with all that waits; see __call__."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels

    def __call__(self, held: Mapping[Dataset, Waiting]) -> list[tuple[Dataset, list[Refused]]]:
        """What to take out, by dataset and by position ascending; datasets that lose nothing are absent."""
        received = {dataset: waiting.received_ms for dataset, waiting in held.items()}
        early = {
            dataset: from_the_future(dataset, waiting.events, received[dataset]) for dataset, waiting in held.items()
        }
        for dataset, waiting in held.items():
            self._labels.learn(dataset, _without(waiting.events, early[dataset]))
        found: list[tuple[Dataset, list[Refused]]] = []
        for dataset, waiting in held.items():
            why: dict[int, Invalid] = dict(self._labels.judge(dataset, waiting.events, received[dataset]))
            why |= {at: _too_early(dataset, waiting.events[at], column) for at, column in early[dataset].items()}
            if why:
                found.append((dataset, [Refused(at, why[at]) for at in sorted(why)]))
        return found


def _without(told: Sequence[Event], positions: Mapping[int, object]) -> Sequence[Event]:
    return [event for at, event in enumerate(told) if at not in positions] if positions else told


def _too_early(dataset: Dataset, event: Event, column: str) -> Invalid:
    why = Invalid(column, getattr(event, column), AHEAD)
    why.args = (f"{dataset.name} {event.symbol} {getattr(event, dataset.key[0])}: {why.args[0]}",)
    return why
