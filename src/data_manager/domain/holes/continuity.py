"""What "missing" means: one small rule per way a record can be numbered or timed.

Each rule answers holes(): given the audited columns of one series inside a span, ascending by key, which stretches
lack rows that must exist. Pure arithmetic on arrays; nothing here decides whose fault a hole is or how to mend it.

    rule        a hole is                                    counted   reaches the edges of the span
    Grid        expected open times nobody holds             yes       yes
    Numbered    a jump in the ids                            yes       no: ids outside are unknown
    Chained     a row that does not name the one before it   no        no: the same
    Schedule    multiples of the step in force               yes       yes
    MaxSilence  a stretch without rows                       no        yes
    Sparse      nothing can be said                          -         -

A span without rows is a hole for the rules that reach the edges and says nothing for the others: to see an outage by
ids, let the span begin at a row that is held.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.span import Span
from data_manager.domain.time import INTERVALS_MS, SECOND_MS, floor_open_ms

Ints = NDArray[np.int64]
Columns = Mapping[str, Ints]


class Hole(Struct, frozen=True):
    """Rows that must exist and are not held. The missing ones have a time in [start_ms, end_ms).

    missing: how many, None where that cannot be counted. after, before: the keys of the held neighbours, None where
    the hole reaches an edge of the span. kind: grid, ids, chain, schedule or silence.
    """

    start_ms: int
    end_ms: int
    missing: int | None
    after: int | None
    before: int | None
    kind: str


class Continuity(Struct, frozen=True):
    """Base of the rules. columns: what holes() reads besides the key and the time column."""

    columns: ClassVar[tuple[str, ...]] = ()
    verifiable: ClassVar[bool] = True

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        """Holes of one series inside span, in order of key.

        columns: int64 arrays of equal length, the rows whose time lies in span, ascending by key; a key may stand
        there more than once (a series with a natural key of several parts). Absent numbers are negative.
        """
        raise NotImplementedError


class Grid(Continuity, frozen=True):
    """One row at every multiple of the interval (calendar-aware: 1w opens Monday, 1M on the first).

    Expected are the open times inside the span, edges included; a span that ends amid a candle expects that candle.
    Rows that stand beside the grid fill no place. 3d is anchored on the epoch, unless most of the rows held agree on
    another day: the venue does not document its anchor.
    """

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        assert interval is not None, "a grid needs an interval"
        opens = columns[key]
        length = INTERVALS_MS[interval]
        if length is None:
            months = opens.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
            on_grid = months[np.asarray(_months_ms(months)) == opens]
            return _grid_holes(on_grid, 1, _month_from(span.start_ms), _month_from(span.end_ms), span, _months_ms)
        anchor = _anchor(opens, interval, length)
        first = span.start_ms + (anchor - span.start_ms) % length
        end = span.end_ms + (anchor - span.end_ms) % length
        return _grid_holes(_on_grid(opens, anchor, length), length, first, end, span, lambda at: at)


_BURNED_FEW: Final = 20
_BURNED_SHARE: Final = 0.05


class Numbered(Continuity, frozen=True):
    """Ids rise by exactly one. Only what lies between two held rows can be missed.

    burned: so many ids in a row the venue may burn. A stream tells of them, history does not: between two rows of one
    answer of a source so many are no hole, though holes() names them, unless the answer leaves out too many of them.
    """

    burned: int = 0

    def may_be_burned(self, ids: int, rows: int) -> bool:
        """Whether an answer of so many rows may leave out so many ids: four in a thousand were measured."""
        return ids <= max(_BURNED_FEW, rows * _BURNED_SHARE)

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        ids = columns[key]
        at = _where(ids, lambda rise: rise > 1)
        missing = (ids[at + 1] - ids[at] - 1).tolist()
        return _between(at, ids, columns[time], missing, "ids")


class Chained(Continuity, frozen=True):
    """Each row names the one before it: previous_update_id, or first_update_id - 1 where the venue names none.

    How many rows a broken link stands for is not known.
    """

    columns: ClassVar[tuple[str, ...]] = ("first_update_id", "previous_update_id")

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        at = _broken_links(columns, key)
        return _between(at, columns[key], columns[time], [None] * len(at), "chain")


def segments(columns: Columns, *, key: str) -> list[tuple[int, int]]:
    """Stretches of a Chained series without a broken link, as row positions [start, end); together all rows."""
    rows = len(columns[key])
    cuts = (_broken_links(columns, key) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, rows], strict=True)) if rows else []


class Schedule(Continuity, frozen=True):
    """One row per settlement of a schedule whose step is data: it differs by symbol and changes in mid-history.

    steps_ms must divide one another, and a step settles at its multiples since the epoch (8 h: 00, 08 and 16 UTC).
    Which one is in force is read from the rows:

    - A step is *proven* where two gaps in a row have its length and lie on its multiples.
    - Between two rows the coarser of the nearest proven steps on either side is in force, and its multiples strictly
      between them are missing. So a change 8h -> 4h -> 1h -> 4h is no hole, nor is the odd gap a change can leave
      (13:00, then 16:00), while a single gap of 8 h among gaps of 4 h is a missed settlement.
    - Where nothing is proven, the coarsest step that fits every row held is in force.
    - Up to the edges of the span the nearest proven step goes on. Without any row the step is unknown: a span that
      holds a settlement of the coarsest step is a hole that cannot be counted.

    Of the explanations the fewest missing rows wins. What this cannot see: a settlement missed within one coarse step
    of a change (it looks like a change a little earlier or later), and every second settlement missed over several.
    What it may claim too early: a change to a coarser step before its second gap is held.
    """

    steps_ms: tuple[int, ...]

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        slots = np.unique(columns[key])
        slots = slots[slots % min(self.steps_ms) == 0]
        step = self._steps(slots)
        # An instant before the span and its end stand in for the neighbours beyond the edges.
        left = np.concatenate([[span.start_ms - 1], slots])
        right = np.concatenate([slots, [span.end_ms]])
        first = (left // step + 1) * step
        missing = (right - 1) // step - left // step
        return [
            Hole(
                int(first[i]),
                int(min(first[i] + missing[i] * step[i], right[i])),
                int(missing[i]) if len(slots) else None,
                int(left[i]) if i > 0 else None,
                int(right[i]) if i < len(slots) else None,
                "schedule",
            )
            for i in np.flatnonzero(missing > 0).tolist()
        ]

    def _steps(self, slots: Ints) -> Ints:
        """The step in force up to the first row, between each two, and after the last: one more than there are rows."""
        gaps = np.diff(slots)
        lies = np.isin(gaps, self.steps_ms) & (slots[:-1] % np.maximum(gaps, 1) == 0)
        twice = lies[1:] & (gaps[1:] == gaps[:-1])
        proven = np.concatenate([twice, [False]]) | np.concatenate([[False], twice]) if len(gaps) else lies
        if not proven.any():
            fitting = [step for step in self.steps_ms if not (slots % step).any()]
            return np.full(len(slots) + 1, max(fitting), np.int64)
        known = np.where(proven, gaps, 0)
        before = np.concatenate([[0], _filled(known), [0]])
        after = np.concatenate([[0], _filled(known[::-1])[::-1], [0]])
        before[-1], after[0] = before[-2], after[1]
        steps: Ints = np.maximum(before, after)
        return steps


PAUSES: Final = 500
"""So many pauses before a silence tell how long is too long for a series."""

_PAUSES_LEAST: Final = 20  # fewer tell nothing
_SILENCE_LEAST_MS: Final = 10 * SECOND_MS


class MaxSilence(Continuity, frozen=True):
    """No silence longer than the series' own pauses explain; longer than silence_ms where these are not known.

    holes() tells every stretch in which nothing is held, between neighbours or at an edge of the span, that is longer
    than shortest_ms; patience_ms() says which of them are too long, by the pauses around each.
    """

    silence_ms: int

    @property
    def shortest_ms(self) -> int:
        """No silence so short, or shorter, is a hole of any series."""
        return min(self.silence_ms, _SILENCE_LEAST_MS)

    def patience_ms(self, pauses: Ints) -> int:
        """Longer silence is a hole. pauses: the last PAUSES of the series before it, or as many as there are.

        A slow series may be silent for five times the pause that only one in twenty is longer than. A quick one, of
        which PAUSES are known, not even for silence_ms: twenty times the longest of them is too long.
        """
        if len(pauses) < _PAUSES_LEAST:
            return self.silence_ms
        at = round(0.95 * (len(pauses) - 1))
        slow_ms = 5 * int(np.partition(pauses, at)[at])
        quick_ms = max(self.shortest_ms, 20 * int(pauses.max())) if len(pauses) >= PAUSES else self.silence_ms
        return max(slow_ms, min(self.silence_ms, quick_ms))

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        times, keys = columns[time], columns[key]
        if len(_where(times, lambda rise: rise < 0)):  # streams are ordered by key, clocks need not agree
            order = np.argsort(times, kind="stable")
            times, keys = times[order], keys[order]
        at = _where(times, lambda rise: rise > self.shortest_ms)
        left = np.concatenate([[span.start_ms], times[at], times[-1:]])
        right = np.concatenate([times[:1], times[at + 1], [span.end_ms]])
        start = [span.start_ms, *(times[at] + 1).tolist(), *(times[-1:] + 1).tolist()]
        after = [None, *keys[at].tolist(), *keys[-1:].tolist()]
        before = [*keys[:1].tolist(), *keys[at + 1].tolist(), None]
        silent = (right - left > self.shortest_ms).tolist()
        holes = zip(silent, start, right.tolist(), after, before, strict=True)
        return [Hole(begin, end, None, prior, later, "silence") for long, begin, end, prior, later in holes if long]


class Sparse(Continuity, frozen=True):
    """Rows come when they come: nothing can be said about what is missing."""

    verifiable: ClassVar[bool] = False

    def holes(self, columns: Columns, *, key: str, time: str, span: Span, interval: str | None = None) -> list[Hole]:
        return []


# ── Grid ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

ToMs = Callable[[Ints], Ints]


def _grid_holes(places: Ints, step: int, first: int, end: int, span: Span, to_ms: ToMs) -> list[Hole]:
    """Holes among places that should run first, first + step, … below end. Places are milliseconds or months."""
    at = _where(places, lambda rise: rise > step)
    low = np.concatenate([[first], places[at] + step, places[-1:] + step])
    high = np.concatenate([places[:1], places[at + 1], [end]])
    start, until = to_ms(low).tolist(), np.minimum(to_ms(high), span.end_ms).tolist()
    after = [None, *to_ms(places[at]).tolist(), *to_ms(places[-1:]).tolist()]
    before = [*to_ms(places[:1]).tolist(), *to_ms(places[at + 1]).tolist(), None]
    missing = ((high - low) // step).tolist()
    holes = zip(start, until, missing, after, before, strict=True)
    return [Hole(*hole, "grid") for hole in holes if hole[2] > 0]


def _anchor(opens: Ints, interval: str, length: int) -> int:
    """Where the grid stands, modulo its length."""
    if interval == "3d" and len(opens):
        remainders, counts = np.unique(opens % length, return_counts=True)
        return int(remainders[np.argmax(counts)])
    return floor_open_ms(0, interval) % length


def _on_grid(opens: Ints, anchor: int, length: int) -> Ints:
    """The opens that stand on the grid. Looks only at the first and at the jumps when nothing is wrong."""
    jumps = _where(opens, lambda rise: rise != length)
    if len(opens) and (opens[0] - anchor) % length == 0 and not ((opens[jumps + 1] - opens[jumps]) % length).any():
        return opens
    kept: Ints = opens[(opens - anchor) % length == 0]
    return kept


def _months_ms(months: Ints) -> Ints:
    ms: Ints = months.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
    return ms


def _month_from(ms: int) -> int:
    """The first month that opens at ms or later, counted from 1970-01."""
    month = np.array([ms], "datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    return int(month[0]) + int(_months_ms(month)[0] < ms)


# ── Shared ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_BLOCK = 1 << 16
"""Rows looked at in one go: differences of a block stay in the processor's cache."""


def _where(values: Ints, odd: Callable[[Ints], NDArray[np.bool_]]) -> Ints:
    """Positions i for which the rise from values[i] to values[i + 1] is odd."""
    found = []
    for at in range(0, len(values) - 1, _BLOCK):
        block = values[at : at + _BLOCK + 1]
        found.append(np.flatnonzero(odd(block[1:] - block[:-1])) + at)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _between(at: Ints, keys: Ints, times: Ints, missing: Sequence[int | None], kind: str) -> list[Hole]:
    """Holes between the rows at and at + 1. Missing rows may share the millisecond of either neighbour."""
    start = np.minimum(times[at], times[at + 1]).tolist()
    end = (np.maximum(times[at], times[at + 1]) + 1).tolist()
    rows = zip(start, end, missing, keys[at].tolist(), keys[at + 1].tolist(), strict=True)
    return [Hole(*row, kind) for row in rows]


def _broken_links(columns: Columns, key: str) -> Ints:
    """Positions of rows whose successor does not name them."""
    held = columns[key][:-1]
    previous, first = columns["previous_update_id"][1:], columns["first_update_id"][1:]
    links = np.where(previous >= 0, previous == held, first == held + 1)
    return np.flatnonzero(~links)


def _filled(known: Ints) -> Ints:
    """Each 0 replaced by the last other number before it, if there is one."""
    last = np.maximum.accumulate(np.where(known > 0, np.arange(len(known)), 0))
    filled: Ints = known[last]
    return filled
