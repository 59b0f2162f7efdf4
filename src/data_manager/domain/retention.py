"""Retention: how long rows are kept, in which pieces they go, and how what went is told from what is missing.

A series goes piece by piece: whole UTC days, or whole candles where a candle is longer than a day. A row is as old as
the later of its own time and the time we received it: a recording of 2021 that was replayed yesterday is a day old.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import BadSetting
from data_manager.domain.holes.continuity import Chained, Continuity, Hole, Numbered
from data_manager.domain.span import Span, difference, intersection
from data_manager.domain.time import DAY_MS, INTERVALS_MS, floor_open_ms, next_open_ms

DAYS_MAX: Final = 36_500
_DAY: Final = "1d"
_THREE_DAYS: Final = "3d"
_RULE: Final = (
    "must be words such as trade=30, candle.1m=365 or depth=forever, joined by commas: a dataset, an interval where it "
    f"has one, and days from 1 to {DAYS_MAX}"
)

Days = Mapping[str, int | None]
"""By dataset (candle) or dataset and interval (candle.1m) the days its rows are kept; None: for ever."""


def parse_days(text: str, datasets: Mapping[str, Dataset], name: str = "RETENTION_DAYS") -> Days:
    """Days that differ from the table: "trade=30,candle.1m=365,depth=forever". Raises BadSetting naming the word."""
    found: dict[str, int | None] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        whose, sign, days = word.partition("=")
        dataset, _, interval = whose.partition(".")
        known = dataset in datasets and (not interval or (datasets[dataset].has_interval and interval in INTERVALS_MS))
        whole = days == "forever" or (days.isascii() and days.isdigit() and 1 <= int(days[:9]) <= DAYS_MAX)
        if not (sign and known and whole):
            raise BadSetting(name, word, _RULE)
        found[whose] = None if days == "forever" else int(days)
    return found


def kept_days(series: Series, dataset: Dataset, days: Days) -> int | None:
    """How many days rows of the series are kept, None for ever: as days says, else as the table of datasets does."""
    for name in (f"{series.dataset}.{series.interval}", series.dataset):
        if name in days:
            return days[name]
    declared = dataset.retention_days
    return declared if declared is None or isinstance(declared, int) else declared.get(series.interval or "")


def days_by_name(datasets: Iterable[Dataset], days: Days) -> dict[str, int | None]:
    """The days in force, by dataset, or by dataset and interval where it has intervals."""
    found: dict[str, int | None] = {}
    for dataset in datasets:
        for interval in INTERVALS_MS if dataset.has_interval else (None,):
            name = f"{dataset.name}.{interval}" if interval else dataset.name
            found[name] = kept_days(Series("", dataset.name, "", interval), dataset, days)
    return found


def piece_of(series: Series, row_ms: int) -> Span:
    """The piece that a row of this time goes with."""
    length = INTERVALS_MS[series.interval] if series.interval else 0
    if series.interval == _THREE_DAYS:  # where the venue anchors it is not documented: each candle is its own
        return Span(row_ms, row_ms + 3 * DAY_MS)
    unit = str(series.interval) if length is None or length > DAY_MS else _DAY
    start_ms = floor_open_ms(row_ms, unit)
    return Span(start_ms, next_open_ms(start_ms, unit))


# ── What went ────────────────────────────────────────────────────────────────────────────────────────────────────────

LET_GO: Final = "let go by retention"
"""Why there are no rows, as a condition tells it."""


class LetGo(Struct, frozen=True, order=True):
    """Rows that were held and went: their times lie in [start_ms, end_ms), their keys from first_key to last_key."""

    start_ms: int
    end_ms: int
    first_key: int
    last_key: int


def grown(gone: Iterable[LetGo], more: Iterable[LetGo]) -> tuple[LetGo, ...]:
    """All of them in order of time, those that touch or overlap made one."""
    merged: list[LetGo] = []
    for one in sorted([*gone, *more]):
        last = merged[-1] if merged else None
        if last is None or one.start_ms > last.end_ms:
            merged.append(one)
        else:
            merged[-1] = LetGo(
                last.start_ms,
                max(last.end_ms, one.end_ms),
                min(last.first_key, one.first_key),
                max(last.last_key, one.last_key),
            )
    return tuple(merged)


def spans_of(gone: Iterable[LetGo]) -> list[Span]:
    """When their rows were, in order of time and disjoint."""
    return [Span(one.start_ms, one.end_ms) for one in gone]


def still_gone(gone: Sequence[LetGo], span: Span, holes: Iterable[Hole]) -> tuple[LetGo, ...]:
    """What of it is gone still, when an audit of span found these holes: where it found none, rows came back."""
    outside = [
        replace(one, start_ms=part.start_ms, end_ms=part.end_ms)
        for one in gone
        for part in difference([Span(one.start_ms, one.end_ms)], [span])
    ]
    inside = [
        LetGo(
            part.start_ms,
            part.end_ms,
            one.first_key if hole.after is None else max(one.first_key, hole.after + 1),
            one.last_key if hole.before is None else min(one.last_key, hole.before - 1),
        )
        for one in gone
        for hole in holes
        for part in intersection([Span(one.start_ms, one.end_ms)], [Span(hole.start_ms, hole.end_ms)])
    ]
    return grown(outside, inside)


def unexplained(holes: Iterable[Hole], gone: Sequence[LetGo], continuity: Continuity) -> list[Hole]:
    """What of the holes is missing and did not go by retention."""
    return [rest for hole in holes for rest in _unexplained(hole, gone, continuity)]


def _unexplained(hole: Hole, gone: Sequence[LetGo], continuity: Continuity) -> list[Hole]:
    met = [one for one in gone if one.start_ms < hole.end_ms and one.end_ms > hole.start_ms]
    if not met:
        return [hole]
    if isinstance(continuity, Chained):  # which ids there were nobody knows: the chain is cut, and we know by whom
        return []
    if isinstance(continuity, Numbered) and hole.after is not None and hole.before is not None:
        return _ids_between(hole, hole.after, hole.before, met)
    rest = difference([Span(hole.start_ms, hole.end_ms)], spans_of(met))
    return [
        replace(
            hole,
            start_ms=part.start_ms,
            end_ms=part.end_ms,
            missing=None,
            after=hole.after if part.start_ms == hole.start_ms else None,
            before=hole.before if part.end_ms == hole.end_ms else None,
        )
        for part in rest
    ]


def _ids_between(hole: Hole, after: int, before: int, met: Sequence[LetGo]) -> list[Hole]:
    """The ids of a hole that did not go: before, between and behind those that did."""
    lows = [(hole.start_ms, after), *((one.end_ms, one.last_key) for one in met)]
    highs = [*((one.start_ms, one.first_key) for one in met), (hole.end_ms, before)]
    return [
        replace(hole, start_ms=min(start_ms, end_ms - 1), end_ms=end_ms, missing=high - low - 1, after=low, before=high)
        for (start_ms, low), (end_ms, high) in zip(lows, highs, strict=True)
        if high - low > 1
    ]
