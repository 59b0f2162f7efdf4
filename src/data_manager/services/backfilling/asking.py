"""What may be asked for: the words of a request, checked, as a job. The same for the API, the command line and heals.

A span is half open and is cut to what can be had whole: candles that are over, rows that are settled. What cannot be
had is refused with the part that can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from uuid import uuid4

from data_manager.domain.condition.partition import Life
from data_manager.domain.dataset import Dataset, Series, make_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.holes.continuity import Schedule
from data_manager.domain.job import PRIORITIES, Choice, Job, Target
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, MINUTE_MS, floor_open_ms, iso, next_open_ms
from data_manager.services.audit import GRACE_MS

CHOICES: Final[tuple[Choice, ...]] = ("auto", "rest", "archive")
PRIORITY: Final = 5
"""Of who names none."""

_SETTLEMENT_MS: Final = 2 * MINUTE_MS  # so long after its slot a funding rate is out

LifeOf = Callable[[Series], Life]


class Names(NamedTuple):
    """What the fields are called where the request came from, for its complaints."""

    symbol: str = "symbol"
    dataset: str = "data_type"
    interval: str = "timeframe"
    start: str = "start_time"
    end: str = "end_time"


def can_be_had_again(dataset: Dataset) -> bool:
    """Whether any source can be asked for it."""
    return any(":" in call for call in dataset.refill)


def series_asked(market: str, data_type: str, symbol: str, timeframe: str | None, names: Names | None = None) -> Series:
    """The series that these words name. Raises BadQuery with the field's name and what would be valid."""
    called = names or Names()
    dataset = _dataset(data_type, called.dataset)
    _require_source(dataset, called.dataset, data_type)
    try:
        return make_series(dataset, market, symbol, timeframe)
    except BadQuery as error:
        field = {"pair": called.symbol, "period": called.interval}.get(error.field, error.field)
        raise BadQuery(field, error.value, error.rule) from None


def require_source(series: Series) -> Series:
    """The series, if anybody can be asked for its past; BadQuery otherwise."""
    _require_source(DATASETS[series.dataset], "series", series.id)
    return series


def _require_source(dataset: Dataset, field: str, value: str) -> None:
    if not can_be_had_again(dataset):
        raise BadQuery(field, value, f"nobody can be asked for its past: possible are {' '.join(_words())}")


def _dataset(word: str, field: str) -> Dataset:
    for dataset in DATASETS.values():
        if word in (dataset.name, dataset.path, dataset.alias, dataset.wire):
            return dataset
    raise BadQuery(field, word, f"must be one of {' '.join(_words())}")


def _words() -> list[str]:
    """What GET /data/… calls the datasets that can be had again."""
    return [dataset.path for dataset in DATASETS.values() if can_be_had_again(dataset)]


def span_asked(series: Series, start_ms: int, end_ms: int, now_ms: int, life: Life, names: Names | None = None) -> Span:
    """The part of [start_ms, end_ms) to fetch. Raises BadQuery where that is not all that was meant, or nothing."""
    called = names or Names()
    if end_ms <= start_ms:
        raise BadQuery(called.end, iso(end_ms), f"must lie after {called.start} ({iso(start_ms)})")
    if now_ms < end_ms <= now_ms + GRACE_MS:
        end_ms = now_ms  # the caller's clock is a little ahead of ours
    if start_ms >= now_ms:
        raise BadQuery(called.start, iso(start_ms), f"lies in the future: up to {iso(now_ms)} can be done")
    if end_ms > now_ms:
        raise BadQuery(called.end, iso(end_ms), f"lies in the future: up to {iso(now_ms)} can be done")
    listed_ms, delisted_ms = life.listed_ms, life.delisted_ms
    if listed_ms is not None and start_ms < listed_ms:
        possible = "nothing of it can be done" if end_ms <= listed_ms else "from then on can be done"
        raise BadQuery(called.start, iso(start_ms), f"{series.symbol} was listed at {iso(listed_ms)}: {possible}")
    if delisted_ms is not None and end_ms > delisted_ms:
        possible = "nothing of it can be done" if start_ms >= delisted_ms else "until then can be done"
        raise BadQuery(called.end, iso(end_ms), f"{series.symbol} was delisted at {iso(delisted_ms)}: {possible}")
    settled_ms = _settled_ms(series, now_ms)
    span = whole(series, Span(start_ms, min(end_ms, settled_ms)), now_ms) if start_ms < settled_ms else None
    if span is not None:
        return span
    if series.interval is None:
        rule = f"is too short a while ago: up to {iso(settled_ms)} can be done"
        raise BadQuery(called.start, iso(start_ms), rule)
    rule = f"no candle of {series.interval} that opens from {called.start} on is over by then, and by now"
    raise BadQuery(called.end, iso(end_ms), rule)


def _settled_ms(series: Series, now_ms: int) -> int:
    """Up to when all rows are out that there will be, so that a job that ends there finds somebody to ask."""
    dataset = DATASETS[series.dataset]
    if series.interval == "3d":  # of the others whole() knows which are over
        return now_ms - GRACE_MS - 3 * DAY_MS + 1
    if series.interval is not None:
        return now_ms
    if isinstance(dataset.continuity, Schedule):
        return now_ms - _SETTLEMENT_MS
    return floor_open_ms(now_ms - GRACE_MS, "1m") if dataset.coarse else now_ms - GRACE_MS


def whole(series: Series, span: Span, now_ms: int) -> Span | None:
    """The opening times in span of candles that are over, as a span; None when there is none. Others: the span."""
    interval = series.interval
    if interval is None or interval == "3d":  # its anchor is not documented
        return span
    start_ms, end_ms = _at_or_after(span.start_ms, interval), _at_or_after(span.end_ms, interval)
    end_ms = min(end_ms, floor_open_ms(now_ms - GRACE_MS, interval))
    return Span(start_ms, end_ms) if start_ms < end_ms else None


def _at_or_after(ms: int, interval: str) -> int:
    open_ms = floor_open_ms(ms, interval)
    return open_ms if open_ms == ms else next_open_ms(open_ms, interval)


def new_job(
    series: Series,
    wanted: Sequence[Target],
    now_ms: int,
    *,
    by: str,
    priority: int = PRIORITY,
    source: Choice = "auto",
) -> Job:
    """A pending job for these stretches, disjoint and in order. Raises BadQuery for a priority beyond its bounds."""
    if priority not in PRIORITIES:
        raise BadQuery("priority", priority, f"must be {PRIORITIES[0]} (first) to {PRIORITIES[-1]}")
    return Job(
        id=uuid4().hex,
        series=series.id,
        wanted=tuple(wanted),
        source=source,
        priority=priority,
        by=by,
        created_ms=now_ms,
        updated_ms=now_ms,
        run_from_ms=now_ms,
    )


def require_choice(text: str) -> Choice:
    """text, if it names a choice of sources."""
    for choice in CHOICES:
        if text == choice:
            return choice
    raise BadQuery("source", text, f"must be one of {' '.join(CHOICES)}")
