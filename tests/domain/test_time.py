"""Milliseconds, intervals and the texts people write for them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.domain.errors import BadQuery
from data_manager.domain.time import (
    DAY_MS,
    EARLIEST_MS,
    INTERVALS_MS,
    LATEST_MS,
    datetime_of,
    floor_open_ms,
    iso,
    ms_of,
    next_open_ms,
    parse_bound,
    parse_duration,
    parse_time,
    require_interval,
)

instants = st.integers(EARLIEST_MS, LATEST_MS - 1)
intervals = st.sampled_from(list(INTERVALS_MS))
AT_MS = 1_680_652_800_010  # 2023-04-05T00:00:00.010Z


@given(instants, intervals)
def test_every_instant_lies_in_exactly_one_candle(ms: int, interval: str) -> None:
    opened = floor_open_ms(ms, interval)
    following = next_open_ms(opened, interval)
    assert opened <= ms < following
    assert floor_open_ms(opened, interval) == opened
    assert floor_open_ms(following - 1, interval) == opened
    assert floor_open_ms(following, interval) == following


@given(instants, intervals)
def test_a_candle_is_as_long_as_its_interval_says(ms: int, interval: str) -> None:
    opened = floor_open_ms(ms, interval)
    length = next_open_ms(opened, interval) - opened
    assert length == INTERVALS_MS[interval] or (interval == "1M" and 28 * DAY_MS <= length <= 31 * DAY_MS)


@given(instants)
def test_weeks_open_on_monday_and_months_on_the_first_at_midnight_utc(ms: int) -> None:
    monday, first = datetime_of(floor_open_ms(ms, "1w")), datetime_of(floor_open_ms(ms, "1M"))
    assert monday.isoweekday() == 1
    assert first.day == 1
    assert monday.time() == first.time() == datetime(2000, 1, 1, tzinfo=UTC).time()


def test_a_month_before_the_epoch_and_across_the_year() -> None:
    assert floor_open_ms(-1, "1M") == -31 * DAY_MS
    assert next_open_ms(parse_time("2023-12-01"), "1M") == parse_time("2024-01-01")


@pytest.mark.parametrize("text", ["", "1", "1H", "2m", "60m", "1s", "1m ", "1mo", "1 m"])
def test_only_the_venues_intervals_are_intervals(text: str) -> None:
    with pytest.raises(BadQuery) as caught:
        require_interval(text, field="timeframe")
    assert caught.value.field == "timeframe"
    assert "1m 3m 5m" in str(caught.value)


@given(instants)
def test_a_time_survives_its_own_text(ms: int) -> None:
    assert parse_time(iso(ms)) == ms
    assert parse_time(str(ms)) == ms
    assert ms_of(datetime_of(ms)) == ms
    assert len(iso(ms)) == len("2023-04-05T00:00:00.010Z")


@given(instants, st.integers(-14 * 60, 14 * 60))
def test_a_time_with_a_zone_is_that_instant(ms: int, minutes: int) -> None:
    local = datetime_of(ms).astimezone(timezone(timedelta(minutes=minutes)))
    assert ms_of(local) == ms
    assert parse_time(local.isoformat(timespec="milliseconds")) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2023-04-05T00:00:00.010Z", AT_MS),
        ("2023-04-05T00:00:00.010+00:00", AT_MS),
        ("2023-04-05T00:00:00.010+00:00Z", AT_MS),
        ("2023-04-05T00:00:00.010+00:00+00:00", AT_MS),
        ("2023-04-05T00:00:00.010", AT_MS),
        ("2023-04-05 00:00:00.010", AT_MS),
        ("2023-04-05T00:00:00.010999", AT_MS),
        ("2023-04-05T00:00:00.010999123Z", AT_MS),
        ("2023-04-05T02:00:00.010+0200", AT_MS),
        ("2023-04-05T02:00:00.010 02:00", AT_MS),
        ("2023-04-04T21:00:00.010-03:00", AT_MS),
        ("  2023-04-05T00:00:00.010Z\n", AT_MS),
        ("1680652800010", AT_MS),
        ("2023-04-05", AT_MS - 10),
        ("2023-04-05Z", AT_MS - 10),
        ("2023-04-05T00:00", AT_MS - 10),
        ("2023-04-05T00:00:00Z", AT_MS - 10),
    ],
)
def test_what_people_and_programs_write_is_understood(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", EARLIEST_MS),
        ("1970-01-01", EARLIEST_MS),
        ("2009-12-31T23:59:59.999Z", EARLIEST_MS),
        ("2010-01-01T00:00:00Z", EARLIEST_MS),
        ("2023-04-05T00:00:00.010+00:00Z", AT_MS),
        ("1680652800010", AT_MS),
        ("2099-12-31T23:59:59.999Z", LATEST_MS - 1),
        ("2100-01-01", LATEST_MS - 1),
        ("9999-12-31T23:59:59", LATEST_MS - 1),
        ("9999999999999", LATEST_MS - 1),
    ],
)
def test_a_bound_may_lie_beyond_all_events(text: str, ms: int) -> None:
    assert parse_bound(text) == ms


@pytest.mark.parametrize(
    "text", ["1680652800", "1680652800010000", "-1", "00", "1970-13-01", "0001-01-01", "1969-12-31", ""]
)
def test_a_bound_in_seconds_or_microseconds_or_of_no_calendar_is_refused(text: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_bound(text, field="end")
    assert caught.value.field == "end"


@pytest.mark.parametrize(
    "text",
    [
        "1680652800",  # seconds
        "1680652800010000",  # microseconds
        "1680652800010000000",  # nanoseconds
        "-1680652800010",
        "0",
        "1680652800010.5",
        "1.68e12",
        "9" * 5_000,
        "",
        "now",
        "yesterday",
        "2023",
        "2023-04",
        "2023-13-01",
        "2023-02-29",
        "2023-04-05T25:00:00Z",
        "2023-04-05T00:00:00+99:00",
        "2023-04-05T00:00:00 UTC",
        "05/04/2023",
        "2009-12-31T23:59:59.999Z",
        "2100-01-01",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2023-04-05T00:00:00Z; DROP TABLE datasets",
        "../x",
        "\x00",
        "２０２３-04-05",
    ],
)
def test_anything_else_names_the_field_and_what_would_be_valid(text: str) -> None:
    with pytest.raises(BadQuery, match="ISO 8601") as caught:
        parse_time(text, field="end")
    assert caught.value.field == "end"


@given(st.text(max_size=40) | st.from_regex(r"\d{4}-\d{2}-\d{2}[T ]?[\d:.]{0,20}[Z+\-\d: ]{0,16}", fullmatch=True))
def test_no_text_ends_in_another_error(text: str) -> None:
    try:
        ms = parse_time(text)
    except BadQuery:
        return
    assert EARLIEST_MS <= ms < LATEST_MS


def test_durations() -> None:
    assert [parse_duration(text) for text in ("500ms", "30s", "15m", "24h", "30d", "2w")] == [
        500, 30_000, 900_000, DAY_MS, 30 * DAY_MS, 14 * DAY_MS,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "1 h", "1H", "1y", "9" * 10 + "h", "١h"])
def test_a_duration_needs_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_duration(text, field="window")
    assert caught.value.field == "window"
