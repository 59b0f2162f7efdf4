"""The condition as people look at it: all series day by day, and the longest clean segments of one."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi.routing import APIRoute
from msgspec import structs
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import series_of, span_until, words_of
from data_manager.api.errors import REFUSALS
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, Reply, answered, asked_by
from data_manager.domain.condition.calendar import by_day, clean_segments, days_of
from data_manager.domain.condition.partition import Condition as Word
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, iso
from data_manager.ports import Clock, Records
from data_manager.services.answering.query import whole
from data_manager.services.conditions import Conditions

SERIES_MAX: Final = 2_000
DAYS_MAX: Final = 366
SEGMENTS_MAX: Final = 10_000

_DAYS: Final = 30  # without a start
_AT_ONCE: Final = 25  # series between two turns of others
_WORDS: Final = ", ".join(word.value for word in Word)


class DayFact(BaseModel):
    """A UTC day of a series."""

    condition: Annotated[str, Field(description=f"The worst of it that could be judged: {_WORDS}.", examples=["good"])]
    completeness: Annotated[float | None, Field(description="Covered / expected time; null: nobody knows.")]
    shares: Annotated[dict[str, float], Field(description="Of each condition, together 1.", examples=[{"good": 1.0}])]


class SeriesDays(BaseModel):
    """A series, day by day."""

    series: Annotated[str, Field(examples=["um.candle.BTCUSDT.1m"])]
    days: Annotated[list[DayFact], Field(description="One for each of days above, in the same order.")]


class Matrix(BaseModel):
    """Every series that was ever audited or counted, by id."""

    start_ms: int
    end_ms: int
    days: Annotated[list[str], Field(examples=[["2023-04-04", "2023-04-05"]])]
    data: list[SeriesDays]
    pagination: Pagination


class SegmentFact(BaseModel):
    """A stretch in which nothing is missing, wrong or unknown."""

    start_ms: int
    end_ms: int
    length_ms: int
    condition: Annotated[str, Field(description="good, or healed where something in it was mended.")]
    first_key: Annotated[int | None, Field(description="Of its first row, where the hole before it tells.")]
    last_key: Annotated[int | None, Field(description="Of its last row, where the hole after it tells.")]


class Segments(BaseModel):
    """The clean stretches of a span."""

    series: str
    start_ms: int
    end_ms: int
    total: Annotated[int, Field(description="How many there are.")]
    clean_ms: Annotated[int, Field(description="How long they are together.")]
    segments: list[SegmentFact]


def view_routes(records: Records, conditions: Conditions, clock: Clock, market: str) -> list[APIRoute]:
    """/condition/matrix and /condition/segments."""
    return [_matrix(records, conditions, clock, market), _segments(conditions, clock, market)]


def _matrix(records: Records, conditions: Conditions, clock: Clock, market: str) -> APIRoute:
    async def matrix(request: Request) -> Reply:
        given = words_of(request, "start", "end", "dataset", "pair", "limit", "offset")
        part = part_of(given, most=SERIES_MAX, default=500)
        now_ms = clock.now_ms()
        days = _days(span_until(given, now_ms, _DAYS * DAY_MS))
        await conditions.refresh()
        names = {one.series.id for one in await records.statistics()} | set(conditions.known())
        wanted = sorted(name for name in names if _matches(name, given))
        data = []
        for number, name in enumerate(wanted[part.offset : part.offset + part.limit]):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            series = parse_series(name, DATASETS, market)
            data.append({"series": name, "days": _facts(conditions, series, days, now_ms)})
        starts = range(days.start_ms, days.end_ms, DAY_MS)
        return answered({
            "start_ms": days.start_ms, "end_ms": days.end_ms, "days": [iso(at)[:10] for at in starts],
            **part.listed(data, len(wanted)),
        })  # fmt: skip

    return Endpoint(
        "/condition/matrix", matrix, name="condition_matrix", operation_id="get_condition_matrix", tags=["truth"],
        summary="The condition of every series, day by day.",
        description="Whole UTC days; without `start` the last thirty. `dataset` and `pair` narrow it down.",
        responses={200: {"model": Matrix}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("start", "2023-04-04"), asked_by("end", "2023-04-06"), asked_by("dataset", "candle"),
            asked_by("pair", "BTCUSDT"), *part_words(most=SERIES_MAX, default=500),
        ]},
    )  # fmt: skip


def _days(asked: Span) -> Span:
    days = days_of(asked)
    if days.end_ms - days.start_ms > DAYS_MAX * DAY_MS:
        raise BadQuery("start", iso(days.start_ms), f"must be at most {DAYS_MAX} days before end ({iso(days.end_ms)})")
    return days


def _matches(name: str, given: dict[str, str]) -> bool:
    _, dataset, symbol = name.split(".")[:3]
    return given.get("dataset", dataset) == dataset and given.get("pair", symbol) == symbol


def _facts(conditions: Conditions, series: Series, days: Span, now_ms: int) -> list[dict[str, Any]]:
    found = conditions.said(series, days, now_ms)
    return [structs.asdict(day) for day in by_day(found.ranges, days, conditions.life_of(series))]


def _segments(conditions: Conditions, clock: Clock, market: str) -> APIRoute:
    async def segments(request: Request) -> Reply:
        given = words_of(request, "series", "start", "end", "order", "limit")
        limit, order = whole(given, "limit", 10, 1, SEGMENTS_MAX), given.get("order", "longest")
        if order not in ("longest", "time"):
            raise BadQuery("order", order, "must be longest or time")
        series, now_ms = series_of(given.get("series"), market), clock.now_ms()
        span = span_until(given, now_ms)
        found = await conditions.condition_of(series, span, now_ms)
        clean = clean_segments(found.ranges, conditions.known_of(series)[0].holes)
        total, clean_ms = len(clean), sum(one.length_ms for one in clean)
        if order == "longest":
            clean.sort(key=lambda one: (-one.length_ms, one.start_ms))
        facts = [structs.asdict(one) for one in clean[:limit]]
        about = {"series": series.id, "start_ms": span.start_ms, "end_ms": span.end_ms}
        return answered({**about, "total": total, "clean_ms": clean_ms, "segments": facts})

    return Endpoint(
        "/condition/segments", segments, name="segments", operation_id="get_condition_segments", tags=["truth"],
        summary="The clean segments of a series: stretches in which nothing is missing, wrong or unknown.",
        description="`order`: longest (first), or time. Without `start`: the day before `end`, which is now.",
        responses={200: {"model": Segments}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.depth_update.BTCUSDT", required=True), asked_by("start", "2023-04-04T00:00:00Z"),
            asked_by("end", "1680652800000"), asked_by("order", "longest"), asked_by("limit", "10"),
        ]},
    )  # fmt: skip
