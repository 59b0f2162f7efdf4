"""The health of what is held: of a pair, of everything, series by series, and over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, get_args

from fastapi.routing import APIRoute
from msgspec import structs
from starlette.requests import Request

from data_manager.api.asked import series_id_of, series_of, span_of, span_until, words_of
from data_manager.api.errors import REFUSALS, ErrorBody
from data_manager.api.listing import part_of, part_words
from data_manager.api.routing import Endpoint, Reply, answered, asked_by
from data_manager.api.series_health_schema import History, Notes, PairHealth, SeriesHealths, Summary
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, NotFound
from data_manager.domain.health import Grade, grade, overall, repairs
from data_manager.domain.symbols import is_symbol
from data_manager.domain.time import DAY_MS, HOUR_MS, iso, require_interval
from data_manager.ports import Clock
from data_manager.ports.health import Grain, HealthLog, HealthRow
from data_manager.services.health import HealthBook, SeriesHealth
from data_manager.services.health_log import HOURS_KEPT_MS, POINTS_MAX, HealthPoint, history, row_of

_AGE_MAX_S: Final = 5.0  # what is said of all series may be so old
_GRAINS: Final[Mapping[str, Grain]] = {"1h": "hour", "1d": "day"}
_LENGTHS_MS: Final = {"1h": HOUR_MS, "1d": DAY_MS}
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": ErrorBody, "description": "Nothing was ever held of it."}, **REFUSALS,
}  # fmt: skip


class Standing(NamedTuple):
    """What the routes need. source is the kind of store."""

    book: HealthBook
    log: HealthLog
    clock: Clock
    market: str
    source: str


def series_health_routes(standing: Standing) -> list[APIRoute]:
    """/health, /health/summary, /health/series, /health/history and /audit/log."""
    return [_pair(standing), _summary(standing), _series(standing), _history(standing), _log(standing)]


def _pair(standing: Standing) -> APIRoute:
    async def pair_health(request: Request) -> Reply:
        given = words_of(request, "pair", "period")
        pair, period = given.get("pair", ""), given.get("period")
        if not is_symbol(pair[:64], standing.market):
            raise BadQuery("pair", pair[:64], f"must be a {standing.market} symbol in capital letters")
        interval = None if period is None else require_interval(period)
        found, held = await standing.book.of_pair(standing.market, pair, interval)
        span = found.window
        metadata = {
            "last_audit": _iso(found.audited_ms),
            "data_source": standing.source,
            "series": found.series.id,
            "start": None if span is None else iso(span.start_ms),
            "end": None if span is None else iso(span.end_ms),
            "held": [one.id for one in held],
        }
        facts = {"health": health_facts(row_of(found, found.now_ms)), "metadata": metadata}
        return answered({"pair": pair, "period": period, **facts, "parameters": {"pair": pair, "period": period}})

    return Endpoint(
        "/health", pair_health, name="health", operation_id="get_health", tags=["truth"],
        summary="How well a pair's series stands.",
        description=(
            "With `period` it speaks of the candles of that interval. Without, of the pair's trades, or where none are "
            "held of its first series in the order of the datasets; `metadata.series` names it. 404 only when nothing "
            "was ever held of the pair; what is not known is null."
        ),
        responses={200: {"model": PairHealth}, **_UNKNOWN},
        openapi_extra={"parameters": [asked_by("pair", "BTCUSDT", required=True), asked_by("period", "1m")]},
    )  # fmt: skip


def _summary(standing: Standing) -> APIRoute:
    async def summary(request: Request) -> Reply:
        words_of(request)
        every = await standing.book.every(_AGE_MAX_S)
        total, mended = overall(one.health for one in every), repairs(one.repair for one in every)
        data = {
            "total_datasets": total.total,
            "healthy_datasets": total.healthy,
            "degraded_datasets": total.degraded,
            "unhealthy_datasets": total.unhealthy,
            "unknown_datasets": total.unknown,
            "overall_score": total.score,
            "status": grade(total.score),
            "open_holes": sum(one.open_holes for one in every),
            "mttd_ms": mended.mttd_ms,
            "mttr_ms": mended.mttr_ms,
        }
        now_ms = max((one.now_ms for one in every), default=standing.clock.now_ms())
        metadata = {"last_updated": iso(now_ms), "source": "data-manager"}
        return answered({"data": data, "metadata": metadata, "parameters": {}})

    return Endpoint(
        "/health/summary", summary, name="health_summary", operation_id="get_health_summary", tags=["truth"],
        summary="How many series stand how, and how quickly holes are found and mended.",
        responses={200: {"model": Summary}, **REFUSALS},
    )  # fmt: skip


def _series(standing: Standing) -> APIRoute:
    async def series(request: Request) -> Reply:
        given = words_of(request, "series", "pair", "dataset", "status", "limit", "offset")
        part = part_of(given)
        wanted = _wanted(given, standing.market)
        every = [one for one in await standing.book.every(_AGE_MAX_S) if wanted(one)]
        page = every[part.offset : part.offset + part.limit]
        return answered(part.listed([series_facts(one) for one in page], len(every)))

    return Endpoint(
        "/health/series", series, name="health_series", operation_id="get_health_series", tags=["truth"],
        summary="Every series with its score, the parts of it and their weights.",
        responses={200: {"model": SeriesHealths}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1m"), asked_by("pair", "BTCUSDT"), asked_by("dataset", "candle"),
            asked_by("status", "unhealthy"), *part_words(),
        ]},
    )  # fmt: skip


def _history(standing: Standing) -> APIRoute:
    async def over_time(request: Request) -> Reply:
        given = words_of(request, "series", "start", "end", "interval")
        series = series_of(given.get("series"), standing.market)
        span = span_until(given, standing.clock.now_ms())
        interval = given.get("interval", "1h" if span.end_ms - span.start_ms <= HOURS_KEPT_MS else "1d")
        if interval not in _GRAINS:
            raise BadQuery("interval", interval[:64], f"must be one of {' '.join(_GRAINS)}")
        if (span.end_ms - span.start_ms) // _LENGTHS_MS[interval] > POINTS_MAX:
            raise BadQuery("start", given.get("start"), f"must lie at most {POINTS_MAX} x {interval} before end")
        points = await history(standing.log, series.id, span, _GRAINS[interval])
        if all(one.row is None for one in points) and not await standing.book.knows(series):
            raise NotFound(f"nothing was ever held of {series.id}: GET /health/series lists what is held")
        asked = {"series": series.id, "start": iso(span.start_ms), "end": iso(span.end_ms), "interval": interval}
        data = [_point_facts(one) for one in points]
        return answered({"series": series.id, "interval": interval, "data": data, "parameters": asked})

    return Endpoint(
        "/health/history", over_time, name="health_history", operation_id="get_health_history", tags=["truth"],
        summary="The health of a series by hour or day: the worst that was known of each.",
        description=(
            "Without `end`: until now; without `start`: the day before the end. `interval`: 1h, kept for a week, or "
            "1d, kept for HEALTH_RETENTION_DAYS; by default 1h up to a week."
        ),
        responses={200: {"model": History}, **_UNKNOWN},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1m", required=True), asked_by("start", "2023-04-04T00:00:00Z"),
            asked_by("end", "1680652800000"), asked_by("interval", "1h"),
        ]},
    )  # fmt: skip


def _log(standing: Standing) -> APIRoute:
    async def log(request: Request) -> Reply:
        given = words_of(request, "series", "kind", "start", "end", "limit", "offset")
        part = part_of(given)
        kind = given.get("kind")
        if kind not in (None, "gap", "health_check"):
            raise BadQuery("kind", kind[:64], "must be gap or health_check")
        found, total = await standing.log.notes(
            limit=part.limit,
            offset=part.offset,
            kind=kind,
            series=series_id_of(given, standing.market),
            span=span_of(given),
        )
        return answered(part.listed(found, total))

    return Endpoint(
        "/audit/log", log, name="audit_log", operation_id="get_audit_log", tags=["truth"],
        summary="The audit log: gaps and what became of them, and when health was looked at.",
        responses={200: {"model": Notes}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1m"), asked_by("kind", "gap"),
            asked_by("start", "2023-04-04T00:00:00Z"), asked_by("end", "1680652800000"), *part_words(),
        ]},
    )  # fmt: skip


# ── What was asked ───────────────────────────────────────────────────────────────────────────────────────────────────


def _wanted(given: Mapping[str, str], market: str) -> Callable[[SeriesHealth], bool]:
    """Whether a question asks for a series. Raises BadQuery naming the word that is wrong."""
    series = series_of(given["series"], market) if "series" in given else None
    pair, dataset, status = given.get("pair"), given.get("dataset"), given.get("status")
    if pair is not None and not is_symbol(pair[:64], market):
        raise BadQuery("pair", pair[:64], f"must be a {market} symbol in capital letters")
    for name, text, valid in (("dataset", dataset, tuple(DATASETS)), ("status", status, get_args(Grade))):
        if text is not None and text not in valid:
            raise BadQuery(name, text[:64], f"must be one of {' '.join(valid)}")

    def asked_for(one: SeriesHealth) -> bool:
        return (
            series in (None, one.series)
            and pair in (None, one.series.symbol)
            and dataset in (None, one.series.dataset)
            and status in (None, one.health.grade)
        )

    return asked_for


# ── What is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


def health_facts(row: HealthRow) -> dict[str, Any]:
    """The one schema of health."""
    return {
        "status": grade(row.score),
        "completeness": row.completeness,
        "freshness_sec": row.freshness_s,
        "gaps": row.gaps,
        "duplicates": row.duplicates,
        "consistency_score": row.consistency,
        "quality_score": row.score,
    }


_NOTHING: Final = HealthRow(
    series="", grain="now", slot_ms=0, at_ms=0, completeness=None, freshness_s=None, gaps=None, duplicates=None,
    consistency=None, score=None,
)  # fmt: skip


def _point_facts(point: HealthPoint) -> dict[str, Any]:
    row = point.row
    as_of = None if row is None else iso(row.at_ms)
    return {"timestamp": iso(point.start_ms), "as_of": as_of, **health_facts(row or _NOTHING)}


def series_facts(one: SeriesHealth) -> dict[str, Any]:
    """All of one series."""
    series = one.series
    return {
        "series": series.id,
        "market": series.market,
        "dataset": series.dataset,
        "pair": series.symbol,
        "period": series.interval,
        "health": health_facts(row_of(one, one.now_ms)),
        "parts": [structs.asdict(part) for part in one.health.parts],
        "window": one.window,
        "freshness": _freshness_facts(one),
        "rows": one.rows,
        "first_ms": one.first_ms,
        "last_ms": one.last_ms,
        "holes": {
            "open": one.open_holes,
            "found": one.repair.holes,
            "healed": one.repair.healed,
            "mttd_ms": one.repair.mttd_ms,
            "mttr_ms": one.repair.mttr_ms,
        },
        "error_budget": one.budget,
        "last_audit": _iso(one.audited_ms),
    }


def _freshness_facts(one: SeriesHealth) -> dict[str, Any] | None:
    if one.freshness is None:
        return None
    stale = one.freshness.stale and one.awaited
    ages = {"age_ms": one.freshness.age_ms, "limit_ms": one.freshness.limit_ms, "stale": stale}
    return {**ages, "awaited": one.awaited, "cadence": one.cadence}


def _iso(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)
