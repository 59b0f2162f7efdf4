"""UTC milliseconds and candle intervals.

Data is int64 milliseconds since the epoch everywhere; text and datetime exist only at the human edge, and are
converted here. Intervals are the venue's words and case matters: 1m is a minute, 1M a calendar month.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from data_manager.domain.errors import BadQuery

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS

# What a millisecond time of a market event can be. Seconds and microseconds of our age fall outside on either side.
EARLIEST_MS: Final = 1_262_304_000_000  # 2010-01-01
LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01

_MONDAY_MS: Final = 4 * DAY_MS  # 1970-01-05, the first Monday after the epoch
_MONTH: Final = "1M"
INTERVALS_MS: Final[dict[str, int | None]] = {
    "1m": MINUTE_MS, "3m": 3 * MINUTE_MS, "5m": 5 * MINUTE_MS, "15m": 15 * MINUTE_MS, "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS, "2h": 2 * HOUR_MS, "4h": 4 * HOUR_MS, "6h": 6 * HOUR_MS, "8h": 8 * HOUR_MS, "12h": 12 * HOUR_MS,
    "1d": DAY_MS, "3d": 3 * DAY_MS, "1w": WEEK_MS, _MONTH: None,
}  # fmt: skip
"""Every interval the venue has, with its length; None where the calendar decides."""


def require_interval(text: str, *, field: str = "period") -> str:
    """text itself, if it names an interval; BadQuery otherwise."""
    if text not in INTERVALS_MS:
        raise BadQuery(
            field, text, f"must be one of {' '.join(INTERVALS_MS)} (case matters: 1m is a minute, 1M a month)"
        )
    return text


def floor_open_ms(ms: int, interval: str) -> int:
    """Open time of the candle that holds the instant ms. 1w opens on Monday, 1M on the first, both 00:00 UTC."""
    length = INTERVALS_MS[interval]
    if length is None:
        at = datetime_of(ms)
        return ms_of(at.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    anchor = _MONDAY_MS if length == WEEK_MS else 0
    return ms - (ms - anchor) % length


def next_open_ms(open_ms: int, interval: str) -> int:
    """Open time of the candle after the one that opens at open_ms."""
    length = INTERVALS_MS[interval]
    if length is not None:
        return open_ms + length
    at = datetime_of(open_ms)
    return ms_of(at.replace(year=at.year + at.month // 12, month=at.month % 12 + 1))


def opens_candle(ms: int, interval: str) -> bool:
    """Whether a candle of that interval opens there. Of 3d one may on any day: its anchor is not documented."""
    return floor_open_ms(ms, "1d" if interval == "3d" else interval) == ms


def datetime_of(ms: int) -> datetime:
    """The aware UTC datetime of ms."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def ms_of(at: datetime) -> int:
    """Milliseconds of an aware datetime; anything finer than a millisecond is cut off."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def iso(ms: int) -> str:
    """ms as 2023-04-05T00:00:00.010Z: UTC, always three digits of a second."""
    at = datetime_of(ms)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?))?((?:Z|[+-]\d{2}:?\d{2})*)$", re.ASCII
)


def parse_time(text: str, *, field: str = "start") -> int:
    """Milliseconds from what people and programs write: ISO 8601 or an integer of milliseconds.

    A time without a zone is UTC. The doubled zone some callers send ("+00:00Z") is taken as the first one.
    Raises BadQuery for anything else, and for times before 2010 or after 2100 (seconds, microseconds).
    """
    text = text.strip()
    if re.fullmatch(r"-?[0-9]{5,18}", text):
        ms = int(text)
    else:
        ms = _parse_iso(text.replace(" ", "+") if re.search(r"T.* \d{2}:?\d{2}$", text) else text, field)
    if not EARLIEST_MS <= ms < LATEST_MS:
        raise BadQuery(field, text, "must lie between 2010 and 2100, as ISO 8601 or in milliseconds since 1970")
    return ms


def parse_bound(text: str, *, field: str = "start") -> int:
    """parse_time for an end of a span that may lie before all market events, or after them: 0, 1970, the year 9999.

    Then it is the first or the last instant that parse_time knows. Seconds and microseconds are refused as there.
    """
    text = text.strip()
    beyond = _parse_iso(text, field) if _YEAR_BEYOND.match(text) else _BEYOND.get(text)
    if beyond is None:
        return parse_time(text, field=field)
    return min(max(beyond, EARLIEST_MS), LATEST_MS - 1)


_YEAR_BEYOND = re.compile(r"(19[7-9]|200|2[1-9]\d|[3-9]\d\d)\d-", re.ASCII)
_BEYOND: Final = {"0": 0, "9999999999999": LATEST_MS}  # of numbers only what nobody can mean otherwise


def _parse_iso(text: str, field: str) -> int:
    found = _ISO.fullmatch(text)
    if found is not None:
        day, clock, zones = found.groups()
        zone = re.match(r"Z|[+-]\d{2}:?\d{2}", zones)
        try:
            at = datetime.fromisoformat(f"{day}T{clock or '00:00'}{zone.group() if zone else 'Z'}")
        except ValueError:
            pass  # a day or an hour that does not exist: the message below says what would
        else:
            return ms_of(at)
    raise BadQuery(field, text, "must be ISO 8601 (2023-04-05T00:00:00Z) or milliseconds since 1970")


_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d|w)", re.ASCII)
_UNITS_MS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": WEEK_MS}


def parse_duration(text: str, *, field: str = "window") -> int:
    """Milliseconds from 500ms, 30s, 15m, 24h, 30d, 2w; BadQuery otherwise."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadQuery(field, text, "must be a whole number and a unit out of ms s m h d w, such as 24h")
    return int(found[1]) * _UNITS_MS[found[2]]
