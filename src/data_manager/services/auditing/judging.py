"""What a page of rows says: which span it speaks for, the holes in it, and where the next audit goes on.

    rule               speaks for                                       goes on
    Grid               whole candles, up to the last one that is over   some candles back
    Numbered, Chained  between two rows that are held                   after a clean cut some rows back
    MaxSilence         from a row that is held up to the end given      at a row some rows back
    Schedule           the whole series, each time: it is short         at the beginning
    Sparse             nothing                                          some rows back, for the checks

A clean cut is a place in the order of keys where all times before lie before all times after: what is judged on one
side of it cannot change what was judged on the other, although clocks and keys need not agree.
"""

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt
from data_manager.domain.holes.continuity import Chained, Continuity, Grid, Hole, Numbered, Schedule, Sparse
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, INTERVALS_MS, floor_open_ms, next_open_ms
from data_manager.domain.values.columns import Ints, Mask, Texts

REREAD: Final = 32
"""Rows looked at again by the next audit: what comes a little late lands there, and checks see neighbours."""

SCHEDULE_GRACE_MS: Final = HOUR_MS
"""The venue publishes a settlement some time after it."""

_LOOK_BACK: Final = 4_096  # rows in which a clean cut is looked for first
_THREE_DAYS: Final = "3d"

Times = NDArray[np.int64]


class Judged(Struct, frozen=True):
    """The span that the rows speak for, None when for none, and the holes in it."""

    span: Span | None
    holes: list[Hole]


class Resume(Struct, frozen=True):
    """Where the next audit goes on; both None: at the beginning."""

    from_ms: int | None
    anchor_key: int | None


class Disordered(Exception):
    """Rows came later with times of what was judged before: judge the whole series again."""


def bracketed(continuity: Continuity) -> bool:
    """Whether a rule says something only between two rows."""
    return isinstance(continuity, Numbered | Chained)


def reread_whole(series: Series) -> bool:
    """Whether a series is so short, or its rule needs so much of it, that each audit reads all."""
    continuity = DATASETS[series.dataset].continuity
    length = INTERVALS_MS[series.interval] if series.interval else None
    return isinstance(continuity, Schedule) or (isinstance(continuity, Grid) and (length is None or length >= DAY_MS))


def row_end_ms(series: Series, row_ms: int) -> int:
    """Where the instants end that a row speaks of: a candle's end, or the millisecond after it."""
    grid = isinstance(DATASETS[series.dataset].continuity, Grid) and series.interval
    return next_open_ms(row_ms, str(series.interval)) if grid else row_ms + 1


def settled_ms(series: Series, now_ms: int, grace_ms: int) -> int:
    """Rows of this time and younger may be on their way. grace_ms: of most; settlements are published later."""
    late = isinstance(DATASETS[series.dataset].continuity, Schedule)
    return now_ms - (max(grace_ms, SCHEDULE_GRACE_MS) if late else grace_ms)


def whole_until_ms(series: Series, row_ms: int, settled_ms: int) -> int:
    """settled_ms, or the end of the last candle that is over by then. row_ms: of a row, for its place on the grid."""
    if not isinstance(DATASETS[series.dataset].continuity, Grid) or not series.interval:
        return settled_ms
    length = INTERVALS_MS[series.interval]
    if series.interval == _THREE_DAYS and length:  # where the venue anchors it is not documented
        return settled_ms - (settled_ms - row_ms) % length
    return floor_open_ms(settled_ms, series.interval)


def judge(series: Series, rows: Batch, *, from_ms: int | None, end_ms: int, last: bool) -> Judged:
    """Holes among rows, ascending by key, from the anchor of the audit before (or the first row) on.

    end_ms: rows at or after it are too young, and nothing is said of it. last: no older rows follow beyond these.
    Raises Disordered, and Corrupt when no clean cut divides a page from the next.
    """
    dataset = DATASETS[series.dataset]
    if isinstance(dataset.continuity, Sparse) or (from_ms is None and not len(rows)):
        return Judged(None, [])
    if bracketed(dataset.continuity):
        return _between_rows(series, rows, from_ms, end_ms, last)
    times = rows.time_ms
    start = int(times.min()) if from_ms is None else from_ms
    if not last:
        end_ms = min(end_ms, _page_end(series, rows))
    if start >= end_ms:
        return Judged(None, [])
    span = Span(start, end_ms)
    inside = (times >= start) & (times < end_ms)
    return Judged(span, holes_of(series, rows if inside.all() else rows.take(inside), span))


def holes_of(series: Series, rows: Batch, span: Span) -> list[Hole]:
    """The holes that the series' own rule finds."""
    dataset = DATASETS[series.dataset]
    rows = as_fine_as_lost(dataset, rows)
    columns = {name: _filled(rows, name) for name in dataset.audited_columns if isinstance(rows.columns[name], Ints)}
    return dataset.continuity.holes(columns, key=dataset.key[0], time=dataset.time, span=span, interval=series.interval)


def as_fine_as_lost(dataset: Dataset, rows: Batch) -> Batch:
    """Without the rows that stand in for others, coarser than what was lost: they fill no hole."""
    origin = rows.columns.get("origin")
    if not dataset.coarse or not isinstance(origin, Texts):
        return rows
    coarse = np.array([any(call in word for call in dataset.coarse) for word in origin.words], np.bool_)
    return rows.take(~coarse[origin.codes]) if coarse.any() else rows


def resume(series: Series, rows: Batch, judged: Judged, before_ms: int | None, *, later: bool = True) -> Resume:
    """Where to go on after these rows. before_ms: the earliest instant that has to be looked at again.

    later: another audit does, and rows may have come by then; not the same one with its next page.
    """
    continuity = DATASETS[series.dataset].continuity
    if isinstance(continuity, Sparse) and len(rows):
        return Resume(None, int(rows.key[max(len(rows) - REREAD, 0)]))
    if reread_whole(series) or judged.span is None:
        return Resume(None, None)
    before_ms = judged.span.end_ms if before_ms is None else before_ms
    if isinstance(continuity, Grid):
        length = INTERVALS_MS[series.interval or ""] or 0
        from_ms = max(judged.span.start_ms, min(judged.span.end_ms - REREAD * length, before_ms - length))
        return Resume(from_ms, from_ms)
    old = int(np.flatnonzero(rows.time_ms < judged.span.end_ms)[-1]) + 1 if len(rows) else 0
    if bracketed(continuity):
        torn = [one.after for one in judged.holes if one.after is not None] if later else []
        return _after_a_cut(rows.time_ms[:old], rows.key, np.isin(rows.key[:old], torn), judged.span, before_ms)
    return _at_a_row(rows.time_ms[:old], rows.key, judged.span, before_ms)


def _after_a_cut(times: Times, keys: Times, torn: Mask, span: Span, before_ms: int) -> Resume:
    """At the row before a cut, so that what lies between it and the next row is judged again.

    torn: after which rows some are missing. No cut is made there: that hole begins at the row before it.
    """
    floor_ms, most = span.start_ms - 1, len(times) - 2
    at = _cut(times, floor_ms, most - REREAD, before_ms, torn=torn)
    if at is None:
        at = _cut(times, floor_ms, most, before_ms, first=True, torn=torn)
    return Resume(None, None) if at is None else Resume(int(times[: at + 1].max()) + 1, int(keys[at]))


def _at_a_row(times: Times, keys: Times, span: Span, before_ms: int) -> Resume:
    """At the row after a cut, so that silence is measured from a row."""
    if not len(times):
        return Resume(None, None)
    at = _cut(times, span.start_ms - 1, len(times) - 2 - REREAD, before_ms, after=True)
    place = 0 if at is None else at + 1
    return Resume(span.start_ms if at is None else int(times[place:].min()), int(keys[place]))


# ── Between rows ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _between_rows(series: Series, rows: Batch, from_ms: int | None, end_ms: int, last: bool) -> Judged:
    old = np.flatnonzero(rows.time_ms < end_ms)
    rows = rows.take(slice(0, int(old[-1]) + 1 if len(old) else 0))  # a time far ahead amid others burns no id
    if len(rows) < 2:
        return Judged(None, [])
    times = rows.time_ms
    start = int(times.min()) if from_ms is None else from_ms
    if from_ms is not None and int(times[1:].min()) < from_ms:
        raise Disordered
    if last:
        end = int(times.max()) + 1
    else:
        at = _divided(series, times)
        end = int(times[: at + 1].max()) + 1
        rows = rows.take(slice(0, at + 2))
    end = min(end, end_ms)
    if start >= end:
        return Judged(None, [])
    return Judged(Span(start, end), holes_of(series, rows, Span(start, end)))


def _page_end(series: Series, rows: Batch) -> int:
    """Up to where a page of rows that more follow upon speaks, by a rule that reaches the edges."""
    if isinstance(DATASETS[series.dataset].continuity, Grid):
        return row_end_ms(series, int(rows.key[-1]))
    return int(rows.time_ms[_divided(series, rows.time_ms) + 1 :].min())


def _divided(series: Series, times: Times) -> int:
    """The last clean cut of a page."""
    at = _cut(times, int(times[0]) - 1, len(times) - 2, int(times.max()) + 1)
    if at is None:
        raise Corrupt(f"{series}: the times of {len(times):,} rows go up and down so that nothing divides them")
    return at


def _cut(
    times: Times,
    floor_ms: int,
    most: int,
    before_ms: int,
    *,
    first: bool = False,
    after: bool = False,
    torn: Mask | None = None,
) -> int | None:
    """The last (or first) position up to most after which there is a clean cut, and which is not torn.

    All times before the cut lie before before_ms; with after, so does one that follows. floor_ms: what went before the
    rows ends here. Looks at the end of the rows, and at all of them if there is none.
    """
    if most < 0:
        return None
    for begin in dict.fromkeys((0,) if first else (max(0, most - _LOOK_BACK), 0)):
        before = max(floor_ms, int(times[:begin].max())) if begin else floor_ms
        high = np.maximum(np.maximum.accumulate(times[begin:]), before)[:-1]
        low = np.minimum.accumulate(times[begin:][::-1])[::-1][1:]
        found = np.flatnonzero((high < low) & ((low if after else high) < before_ms)) + begin
        found = found[found <= most]
        if torn is not None:
            found = found[~torn[found]]
        if len(found):
            return int(found[0 if first else -1])
    return None


def _filled(rows: Batch, name: str) -> Times:
    column = rows.columns[name]
    assert isinstance(column, Ints)
    return column.values if column.absent is None else column.filled(-1)
