"""Which message says which row. What planting chooses from: messages that say one fact each, series by series."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import BadQuery
from data_manager.domain.events import Event
from data_manager.services.buffer import Decode
from data_manager.services.envelope import Enveloper
from data_manager.services.replay import Recording
from data_manager.services.selftesting.tape import Message

_MESSAGES_MAX = 1_000_000


class Told(NamedTuple):
    """A message that says one row: its position on the tape, the row's series, key and time."""

    position: int
    received_ms: int
    payload: bytes
    series: Series
    dataset: Dataset
    event: Event
    key: int
    time_ms: int


class Tape(NamedTuple):
    """Messages by time of receipt, and what they say by series; the rows of a series ascend by key, one per key."""

    messages: Sequence[Message]
    rows: Mapping[Series, Sequence[Told]]

    @property
    def start_ms(self) -> int:
        """When the first message was received."""
        return self.messages[0].received_ms

    @property
    def end_ms(self) -> int:
        """When the last one was."""
        return self.messages[-1].received_ms


def read(messages: Iterable[Message], decode: Decode, dataset_of: Mapping[type, Dataset], market: str) -> Tape:
    """The tape of these messages. Open candles and messages of several rows are on it, and nothing is planted there."""
    ordered = sorted(messages, key=lambda one: one.received_ms)
    rows: dict[Series, dict[int, Told]] = {}
    for position, message in enumerate(ordered):
        outcomes = decode(message.payload, message.received_ms)
        event = outcomes[0]
        if len(outcomes) == 1 and isinstance(event, Event):
            dataset = dataset_of[type(event)]
            if dataset.live is None or getattr(event, dataset.live):
                told = _told(position, message, dataset, event, market)
                rows.setdefault(told.series, {}).setdefault(told.key, told)
    return Tape(ordered, {series: [held[key] for key in sorted(held)] for series, held in sorted(rows.items())})


def _told(position: int, message: Message, dataset: Dataset, event: Event, market: str) -> Told:
    series = Series(market, dataset.name, event.symbol, getattr(event, "interval", None))
    key, time_ms = getattr(event, dataset.key[0]), getattr(event, dataset.time)
    return Told(position, message.received_ms, message.payload, series, dataset, event, key, time_ms)


def recorded(files: Sequence[Path]) -> list[Message]:
    """The messages of recordings, as `data-manager replay` would publish them.

    Raises NotFound, Invalid and Corrupt like a replay; BadQuery for lines that do not say when they were received
    (without that there is no time to measure in) and for more messages than fit into memory.
    """
    found: list[Message] = []
    enveloper = Enveloper()
    for file in files:
        with Recording(file) as recording:
            for one in recording:
                if one.recv_ns is None:
                    raise BadQuery("recording", file.name, "every line must say when it was received (recv_ns)")
                if len(found) >= _MESSAGES_MAX:
                    raise BadQuery("recording", file.name, f"at most {_MESSAGES_MAX:,} messages in all")
                found.append(Message(one.recv_ns // 1_000_000, enveloper.wrap(one, 0)))
    if not found:
        raise BadQuery("recording", " ".join(file.name for file in files), "must hold a message")
    return found
