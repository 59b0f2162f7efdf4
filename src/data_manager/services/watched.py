"""What is watched, as arrays: the facts of every series and stream, and the verdicts over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from data_manager.domain.batch import Batch, event_ms_of
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.values.columns import Ints, Mask

NO_LAG: Final = np.iinfo(np.int64).max
_AGAIN_S: Final = 10.0  # what is silent is asked about so often
_log = structlog.get_logger(__name__)

Times = NDArray[np.int64]
Subject = Series | str
"""What is watched: a series, or a stream by the metrics' label event_type."""

EVERYTHING: Final = ""
"""The subject that stands for all streams together: what ails the bus ails every one of them."""


class Subjects:
    """What is known of every series and stream, as arrays; a subject's place in them is its slot."""

    def __init__(self, silence_s: float, subjects_max: int) -> None:
        self.names: list[Subject] = []
        self._silence_s = silence_s
        self._subjects_max = subjects_max + 1  # EVERYTHING besides
        self._slots: dict[Subject, int] = {}
        self._full = False
        self.heard_s = np.empty(0)  # in listening time; -inf: not in this run
        self.asked_s = np.empty(0)  # likewise: when the store was asked for its newest row; -inf: never
        self.limit_s = np.empty(0)  # silent after
        self.event_ms: Times = np.empty(0, np.int64)  # newest ever; -1: none
        self.received_ms: Times = np.empty(0, np.int64)  # newest of the last batch
        self.lag_ms: Times = np.empty(0, np.int64)  # least of this turn; NO_LAG: nothing came that names its time
        self.rows: Times = np.empty(0, np.int64)
        self.stream: Times = np.empty(0, np.int64)  # the slot of a series' stream; -1: is a stream itself
        self.everything: Final = 0  # its slot: it is the first
        self._add(EVERYTHING)

    def __len__(self) -> int:
        return len(self.names)

    def series(self) -> list[tuple[Series, int]]:
        """Every series with its slot, by id."""
        known = [(name, slot) for name, slot in self._slots.items() if isinstance(name, Series)]
        return sorted(known, key=lambda one: one[0].id)

    def heard_of(self, batch: Batch, at_s: float) -> None:
        """The hot path: a dozen operations on arrays of one value per series, whatever the number of rows."""
        offsets = batch.offsets
        rows, starts = np.diff(offsets), offsets[:-1]
        slots = self._slots_of(batch.series)
        present = (rows > 0) & (slots >= 0)
        if not present.all():  # all rows of a series were refused, or there is no room for it
            rows, starts, slots = rows[present], starts[present], slots[present]
            if not len(slots):
                return
        received = batch.columns["received_ms"]
        assert isinstance(received, Ints)
        event_ms = np.maximum.reduceat(event_ms_of(batch), starts)
        received_ms = np.maximum.reduceat(received.values, starts)
        lag_ms = np.where(event_ms < 0, NO_LAG, received_ms - event_ms)
        self.event_ms[slots] = np.maximum(self.event_ms[slots], event_ms)
        self.lag_ms[slots] = np.minimum(self.lag_ms[slots], lag_ms)
        self.received_ms[slots] = received_ms
        self.rows[slots] += rows
        self.heard_s[slots] = at_s

    def sum_streams(self) -> None:
        """A stream was heard when one of its series was, and is as fresh as the freshest."""
        n = len(self)
        own = np.flatnonzero((self.stream[:n] >= 0) & self.heard())
        streams = self.stream[own]
        summed = np.unique(streams)
        self.rows[summed], self.received_ms[summed] = 0, -1
        np.add.at(self.rows, streams, self.rows[own])
        for array in (self.heard_s, self.event_ms, self.received_ms):
            np.maximum.at(array, streams, array[own])
        np.minimum.at(self.lag_ms, streams, self.lag_ms[own])

    def silent(self, now_s: float) -> Mask:
        """Mask of those that have not been heard for too long; it says nothing of those never heard."""
        n = len(self)
        quiet: Mask = now_s - self.heard_s[:n] > self.limit_s[:n]
        return quiet

    def heard(self) -> Mask:
        """Mask of those heard in this run, or known to have been stored by another replica."""
        heard: Mask = self.heard_s[: len(self)] > -np.inf
        return heard

    def unasked(self, silent: Mask) -> Mask:
        """Of what is silent: the series that the store was not asked about since they are, and their streams."""
        own = np.flatnonzero(silent & (self.stream[: len(self)] >= 0))
        waiting = own[~self._asked(own)]
        mask: Mask = np.zeros(len(self), np.bool_)
        mask[waiting] = True
        mask[self.stream[waiting]] = True
        return mask

    def to_ask(self, now_s: float, raised: Mask, most: int) -> list[Series]:
        """Silent series to ask the store about, those first that it was asked about longest ago."""
        ours = self.heard()
        ours[: len(raised)] |= raised
        own = np.flatnonzero(self.silent(now_s) & ours & (self.stream[: len(self)] >= 0))
        due = own[~self._asked(own) | (now_s - self.asked_s[own] >= _AGAIN_S)]
        first = due[np.argsort(self.asked_s[due], kind="stable")][:most]
        return [name for name in map(self.names.__getitem__, first.tolist()) if isinstance(name, Series)]

    def _asked(self, silent: Times) -> Mask:
        """Of these slots, which are silent: whether the store was asked since they are."""
        asked: Mask = self.asked_s[silent] > self.heard_s[silent] + self.limit_s[silent]
        return asked

    def stored_elsewhere(self, slot: int, event_ms: int, received_ms: int, at_s: float) -> None:
        """A row of the store, received at_s by some replica; nothing when we know it, or a newer one."""
        news = event_ms > self.event_ms[slot] if event_ms >= 0 else received_ms > self.received_ms[slot]
        if news:
            self.event_ms[slot] = max(event_ms, int(self.event_ms[slot]))
            self.received_ms[slot] = max(received_ms, int(self.received_ms[slot]))
            self.heard_s[slot] = max(at_s, float(self.heard_s[slot]))

    def forgive(self, silent: Mask, at_s: float) -> None:
        """Nothing could be heard for a while: all but these have as long as if they had been heard just now."""
        patient = self.heard()
        patient[: len(silent)] &= ~silent
        self.heard_s[: len(self)][patient] = at_s

    def move(self, by_ms: int, since_s: float, now_ms: int) -> None:
        """Our clock was set: instants it named are now called otherwise. What was heard since since_s may name it by
        either setting, and is taken as received now."""
        self.received_ms[self.received_ms >= 0] += by_ms
        self.received_ms[self.heard_s >= since_s] = now_ms

    def begin_turn(self) -> None:
        """Lags are judged turn by turn."""
        self.lag_ms[:] = NO_LAG

    def slot_of(self, subject: Subject) -> int | None:
        """Its slot, a new one if need be; None when there is no room."""
        slot = self._slots.get(subject)
        return slot if slot is not None else self._add(subject)

    def _slots_of(self, series: Sequence[Series]) -> Times:
        """The slots of these, -1 where there is no room."""
        try:
            return np.fromiter(map(self._slots.__getitem__, series), np.int64, len(series))
        except KeyError:  # a new one
            slots = map(self.slot_of, series)
            return np.array([-1 if slot is None else slot for slot in slots], np.int64)

    def _add(self, subject: Subject) -> int | None:
        stream, limit_s = -1, 0.0
        if isinstance(subject, Series):
            dataset = DATASETS[subject.dataset]
            limit_s = self._patience_s(dataset)
            label = self.slot_of(dataset.wire)
            if label is not None:
                stream = label
                self.limit_s[stream] = max(self.limit_s[stream], limit_s)
        slot = len(self.names)
        if slot >= self._subjects_max:
            if not self._full:
                _log.error("too many series to watch: those beyond are not", subjects_max=slot)
            self._full = True
            return None
        if slot == len(self.rows):
            self._grow(max(64, 2 * slot))
        self.names.append(subject)
        self._slots[subject] = slot
        self.stream[slot], self.limit_s[slot] = stream, limit_s
        return slot

    def _patience_s(self, dataset: Dataset) -> float:
        if dataset.fresh_within_ms is None:
            return float("inf")
        return max(self._silence_s, dataset.fresh_within_ms / 1000)

    def _grow(self, size: int) -> None:
        empty: Mapping[str, Any] = {
            "heard_s": -np.inf, "asked_s": -np.inf, "limit_s": 0.0, "event_ms": -1, "received_ms": -1, "lag_ms": NO_LAG,
            "rows": 0, "stream": -1,
        }  # fmt: skip
        for name, value in empty.items():
            held = getattr(self, name)
            setattr(self, name, np.concatenate([held, np.full(size - len(held), value, held.dtype)]))


class Verdicts:
    """One judgement per slot, with hysteresis: it changes when the same was found turns times in a row."""

    def __init__(self, turns: int) -> None:
        self.raised: Mask = np.zeros(0, np.bool_)
        self.since_ms: Times = np.zeros(0, np.int64)  # when what was found last began to differ from what holds
        self._turns = turns
        self._streak: Times = np.zeros(0, np.int64)

    def presume(self, slot: int | None) -> None:
        """It was raised in an earlier run."""
        if slot is not None:
            self._reach(slot + 1)
            self.raised[slot] = True

    def is_raised(self, slot: int) -> bool:
        """Whether it is; what was never judged is not."""
        return slot < len(self.raised) and bool(self.raised[slot])

    def turn(self, wrong: Mask, known: Mask | None, now_ms: int) -> list[int]:
        """One judgement of the slots that are known; the slots whose verdict changed by it."""
        n = len(wrong)
        self._reach(n)
        differs = wrong != self.raised[:n]
        if known is not None:
            differs &= known
        streak = self._streak[:n]
        self.since_ms[:n][differs & (streak == 0)] = now_ms
        streak[differs] += 1
        streak[~differs if known is None else ~differs & known] = 0
        changed = np.flatnonzero(streak >= self._turns)
        self.raised[changed] = ~self.raised[changed]
        streak[changed] = 0
        return [int(slot) for slot in changed]

    def _reach(self, n: int) -> None:
        more = n - len(self.raised)
        if more > 0:
            self.raised = np.concatenate([self.raised, np.zeros(more, np.bool_)])
            self.since_ms = np.concatenate([self.since_ms, np.zeros(more, np.int64)])
            self._streak = np.concatenate([self._streak, np.zeros(more, np.int64)])
