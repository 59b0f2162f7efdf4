"""Which files the archive has, by the venue's rules: their names, what they span, and when they are published. Pure.

    <root>/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-03-04.zip           and .CHECKSUM beside it
    <root>/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2026-02.zip

Files of candles are taken by the month where a month is out and enough of it is wanted, else by the day; those of
trades by the day, since a month of them may have gigabytes; funding there is by the month only.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from data_manager.domain.dataset import Series
from data_manager.domain.span import Span
from data_manager.domain.time import (
    DAY_MS,
    HOUR_MS,
    INTERVALS_MS,
    MINUTE_MS,
    datetime_of,
    floor_open_ms,
    next_open_ms,
    parse_time,
)

ROOTS: Final = {"um": "/data/futures/um", "cm": "/data/futures/cm", "spot": "/data/spot"}
_FIRST_MS: Final = {"um": parse_time("2019-12-31"), "cm": parse_time("2020-08-01"), "spot": parse_time("2017-08-01")}
_DAY_OUT_MS: Final = 9 * HOUR_MS  # after its end: seen from 08:32 to 09:00
_MONTH_OUT_MS: Final = 15 * DAY_MS  # after its end: the first Monday, or "before mid-month"
_LATE_MS: Final = 2 * DAY_MS  # a file that is not there so long after it should be is not only late
_DAYS_FOR_A_MONTH: Final = 3  # so many days wanted are worth fetching the month
_FOLDERS: Final = {"1M": "1mo"}
_FILE_S: Final = 0.2
_ROWS_PER_DAY: Final = 1_000_000  # of trades: a busy contract
_ROWS_PER_S: Final = 300_000


class Kind(Struct, frozen=True):
    """How files of one call are laid out. fine: by the day and streamed, since one may have millions of rows."""

    call: str
    folder: str
    days: bool = True
    months: bool = True
    fine: bool = False
    coarse: bool = False
    by_pair: bool = False
    markets: tuple[str, ...] = ("um", "cm", "spot")


KINDS: Final = {
    kind.call: kind
    for kind in (
        Kind("archive:klines", "klines"),
        Kind("archive:aggTrades", "aggTrades", fine=True),
        Kind("archive:trades", "trades", fine=True),
        Kind("archive:markPriceKlines", "markPriceKlines", coarse=True, markets=("um", "cm")),
        Kind("archive:fundingRate", "fundingRate", days=False, markets=("um", "cm")),
    )
}
"""By call, what can be had from the archive."""

INDEX_PRICES: Final = Kind("archive:indexPriceKlines", "indexPriceKlines", by_pair=True)
"""Files that are read beside those of mark prices; nothing is refilled with them alone."""


class File(Struct, frozen=True):
    """One zip. path is that of its address."""

    kind: Kind
    series: Series
    span: Span
    is_day: bool

    @property
    def name(self) -> str:
        """Its last part, which rows name as where they come from."""
        label = _FOLDERS.get(_interval(self), _interval(self)) or self.kind.folder
        moment = datetime_of(self.span.start_ms)
        return (
            f"{_symbol(self)}-{label}-{moment:%Y-%m-%d}.zip"
            if self.is_day
            else f"{_symbol(self)}-{label}-{moment:%Y-%m}.zip"
        )

    @property
    def path(self) -> str:
        interval = _interval(self)
        folder = f"{_FOLDERS.get(interval, interval)}/" if interval else ""
        each = "daily" if self.is_day else "monthly"
        return f"{ROOTS[self.series.market]}/{each}/{self.kind.folder}/{_symbol(self)}/{folder}{self.name}"

    @property
    def out_ms(self) -> int:
        """When it is published at the latest, as a rule."""
        return self.span.end_ms + (_DAY_OUT_MS if self.is_day else _MONTH_OUT_MS)

    def late(self, now_ms: int) -> bool:
        """Whether its absence may still mean that it is late."""
        return now_ms < self.out_ms + _LATE_MS

    @property
    def accepts(self) -> Span:
        """Times its rows may have: a long candle may reach over the edge, settlements jitter around their slots."""
        return Span(self.span.start_ms - self.margin_ms, self.span.end_ms + self.margin_ms)

    @property
    def margin_ms(self) -> int:
        """How far a row's time in the file may be from where we put it."""
        length_ms = _length_ms(self.series)
        return length_ms if length_ms > DAY_MS else 0 if self.kind.days else HOUR_MS

    @property
    def has_days(self) -> bool:
        """Whether the same rows come by the day too."""
        return self.kind.days and _length_ms(self.series) <= DAY_MS

    @property
    def rows_per_day(self) -> int | None:
        """How many rows every day of it has, where that is known."""
        return DAY_MS // _length_ms(self.series) if self.series.interval and self.has_days else None

    @property
    def seconds(self) -> float:
        """How long it takes among others: some are on their way together, and then its rows are read and stored."""
        return _FILE_S + (_ROWS_PER_DAY / _ROWS_PER_S if self.kind.fine else 0.0)


def files(kind: Kind, series: Series, span: Span, now_ms: int) -> Sequence[File]:
    """The files to be asked for span, in order of time, each published by now as a rule; none where none can be."""
    if series.market not in kind.markets:
        return []
    return list(_files(kind, series, span, now_ms))


def days_of(month: File, span: Span) -> list[File]:
    """The files of those days of a month that span touches."""
    low_ms, high_ms = max(month.span.start_ms, span.start_ms), min(month.span.end_ms, span.end_ms)
    return [_day(month.kind, month.series, at_ms) for at_ms in range(low_ms - low_ms % DAY_MS, high_ms, DAY_MS)]


def month_of(kind: Kind, series: Series, ms: int) -> File:
    """The file of the month that holds the instant."""
    start_ms = floor_open_ms(ms, "1M")
    return File(kind, series, Span(start_ms, next_open_ms(start_ms, "1M")), is_day=False)


def beside(file: File, kind: Kind) -> File:
    """The file of another kind that spans the same."""
    return File(kind, file.series, file.span, file.is_day)


def _files(kind: Kind, series: Series, span: Span, now_ms: int) -> Iterator[File]:
    at_ms = max(span.start_ms, _FIRST_MS[series.market])
    has_days = month_of(kind, series, at_ms).has_days
    while at_ms < span.end_ms:
        month = month_of(kind, series, at_ms)
        end_ms = min(month.span.end_ms, span.end_ms)
        wanted_days = -(-(end_ms - at_ms) // DAY_MS)
        if kind.months and month.out_ms <= now_ms and not (kind.fine or (has_days and wanted_days < _DAYS_FOR_A_MONTH)):
            yield month
        elif has_days:
            days = (_day(kind, series, day_ms) for day_ms in range(at_ms - at_ms % DAY_MS, end_ms, DAY_MS))
            yield from (day for day in days if day.out_ms <= now_ms)
        at_ms = month.span.end_ms


def _day(kind: Kind, series: Series, ms: int) -> File:
    start_ms = ms - ms % DAY_MS
    return File(kind, series, Span(start_ms, start_ms + DAY_MS), is_day=True)


def _interval(file: File) -> str:
    return file.series.interval or ("1m" if "Price" in file.kind.folder else "")


def _length_ms(series: Series) -> int:
    """Of a candle; other rows belong to the minute they stand in."""
    return (INTERVALS_MS[series.interval] or 31 * DAY_MS) if series.interval else MINUTE_MS


def _symbol(file: File) -> str:
    return file.series.symbol.partition("_")[0] if file.kind.by_pair else file.series.symbol
