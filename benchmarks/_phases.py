"""What was under way while the slowest messages waited: ingest and the embedded store, phase by phase.

Phases overlap: several threads are at work, and a flush contains its append. "each of the slowest" is how many
milliseconds of a phase fell between the publishing of one of the slowest 2 % of the messages and its being durable, on
average; "each of the others" the same for the rest. A phase that differs by about as much as the messages do is where
to look. Watching costs about a tenth of a millisecond per flush.
"""

import gc
import inspect
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from _report import table
from numpy.typing import NDArray

from data_manager.adapters.bus.nats_jetstream import NatsJetStream
from data_manager.adapters.store import embedded
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.services import ingest
from data_manager.services.ingesting.buffer import Buffer

_SLOWEST = 0.02
_COMMIT, _COLLECTOR = "      commit", "garbage collector"
_WATCHED: tuple[tuple[Any, str, str], ...] = (
    (Buffer, "add", "decode"),
    (ingest, "flush", "flush"),
    (ingest, "pack", "  pack"),
    (EmbeddedStore, "append", "  append, with the way to the writer's thread and back"),
    (EmbeddedStore, "_write", "    writer's thread"),
    (EmbeddedStore, "_accept", "      new, changed or known"),
    (EmbeddedStore, "_insert", "      insert"),
    (None, "", _COMMIT),
    (EmbeddedStore, "_publish", "      show to readers"),
    (NatsJetStream, "ack", "  ack"),
    (EmbeddedStore, "_fold", "fold, pauses included"),
    (embedded, "fold", "  one series of it"),
    (EmbeddedStore, "_commit", "  its commit"),
    (EmbeddedStore, "_checkpoint", "checkpoint"),
    (None, "", _COLLECTOR),
)

Spans = dict[str, list[tuple[int, int]]]
"""By phase, each time it was under way: from and to, in nanoseconds of the clock that messages are stamped with."""


@contextmanager
def watched_phases() -> Iterator[Spans]:
    """What is under way inside the block."""
    spans: Spans = {phase: [] for _, _, phase in _WATCHED}
    collecting = [0]

    def collector(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            collecting[0] = time.time_ns()
        else:
            spans[_COLLECTOR].append((collecting[0], time.time_ns()))

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
            began = time.time_ns()
            try:
                return super().execute(sql, *given)
            finally:
                if sql == "COMMIT":
                    spans[_COMMIT].append((began, time.time_ns()))

    with ExitStack() as stack:
        for owner, name, phase in _WATCHED:
            if owner is not None:
                _put(stack, owner, name, _timed(getattr(owner, name), spans[phase]))
        _put(stack, sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
        gc.callbacks.append(collector)
        stack.callback(gc.callbacks.remove, collector)
        yield spans


def _put(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """In its place until the stack closes."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _timed(work: Callable[..., Any], spans: list[tuple[int, int]]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(work):

        async def awaited(*given: Any) -> Any:
            began = time.time_ns()
            try:
                return await work(*given)
            finally:
                spans.append((began, time.time_ns()))

        return awaited

    def called(*given: Any) -> Any:
        began = time.time_ns()
        try:
            return work(*given)
        finally:
            spans.append((began, time.time_ns()))

    return called


def print_phases(title: str, spans: Spans, published: NDArray[np.int64], durable: NDArray[np.int64]) -> None:
    """The table for these messages."""
    took = durable - published
    slow = took >= np.quantile(took, 1 - _SLOWEST)
    heads = ("times", "p50 ms", "p99 ms", "worst ms", "each of the slowest ms", "each of the others ms")
    with table(title, "phase", *heads) as rows:
        for phase, seen in spans.items():
            if seen:
                began, ended = np.array(seen, np.int64).T
                lengths = (ended - began) / 1e6
                within = (_under_way(began, ended, durable) - _under_way(began, ended, published)) / 1e6
                figures = (*np.quantile(lengths, [0.5, 0.99]), lengths.max(), within[slow].mean(), within[~slow].mean())
                rows.append((phase, f"{len(seen):,}", *(f"{one:.2f}" for one in figures)))
        rows.append(("message", f"{len(took):,}", *(f"{one / 1e6:.2f}" for one in (
            *np.quantile(took, [0.5, 0.99]), took.max(), took[slow].mean(), took[~slow].mean()
        ))))  # fmt: skip


def _under_way(began: NDArray[np.int64], ended: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Nanoseconds that the spans were under way before each instant, in all."""
    total: NDArray[np.int64] = np.zeros(len(at), np.int64)
    for sign, edges in ((1, np.sort(began)), (-1, np.sort(ended))):
        sums = np.concatenate([[0], np.cumsum(edges - edges[0])])
        before = np.searchsorted(edges, at)
        total += sign * (before * (at - edges[0]) - sums[before])
    return total
