"""The bodies of what is said of the health of series, for OpenAPI."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from data_manager.api.listing import Pagination
from data_manager.domain.health import DEGRADED_FROM, HEALTHY_FROM, Grade

_Percent = Annotated[float | None, Field(description="0 to 100, rounded down; null: not known.", examples=[99.93])]
_Time = Annotated[str | None, Field(examples=["2023-04-05T00:00:00.000Z"])]


class HealthFact(BaseModel):
    """How well a series stands. Null is not known, which is neither 0 nor 100."""

    status: Annotated[
        Grade,
        Field(description=f"By quality_score: healthy from {HEALTHY_FROM:g}, degraded from {DEGRADED_FROM:g}."),
    ]
    completeness: Annotated[
        float | None, Field(description="Covered / expected time of the window in per cent.", examples=[99.93])
    ]
    freshness_sec: Annotated[int | None, Field(description="Age of the newest row.", examples=[2])]
    gaps: Annotated[int | None, Field(description="Holes in the window that are not healed.", examples=[1])]
    duplicates: Annotated[int | None, Field(description="Rows whose key stands there twice.", examples=[0])]
    consistency_score: Annotated[float | None, Field(description="Rows that break no check, in per cent.")]
    quality_score: _Percent


class HealthMetadata(BaseModel):
    """What the figures rest on."""

    last_audit: _Time
    data_source: Annotated[str, Field(examples=["embedded"])]
    series: Annotated[str, Field(description="Of which the figures speak.", examples=["um.trade.BTCUSDT"])]
    start: _Time
    end: Annotated[str | None, Field(description="start to end: the window of completeness and gaps.")]
    held: Annotated[list[str], Field(description="All series held of the pair.")]


class PairHealth(BaseModel):
    """The health of one series of a pair."""

    pair: str
    period: str | None
    health: HealthFact
    metadata: HealthMetadata
    parameters: dict[str, Any]


class SummaryFacts(BaseModel):
    """How many series stand how. A dataset is a series here, as in the predecessor's catalogue."""

    total_datasets: int
    healthy_datasets: int
    degraded_datasets: int
    unhealthy_datasets: int
    unknown_datasets: Annotated[int, Field(description="Of which nobody knows: counted, and in no score.")]
    overall_score: Annotated[float | None, Field(description="Mean of those that are known.")]
    status: Grade
    open_holes: int
    mttd_ms: Annotated[int | None, Field(description="Mean time until a hole was seen, over the last 30 days.")]
    mttr_ms: Annotated[int | None, Field(description="Mean time from then until it was healed.")]


class Summary(BaseModel):
    """Every series at once."""

    data: SummaryFacts
    metadata: dict[str, Any]
    parameters: dict[str, Any]


class PartFact(BaseModel):
    """One part of a score: quality_score = 100 * sum(weight * value) / sum(weight) over those that apply."""

    name: Annotated[str, Field(examples=["completeness"])]
    value: Annotated[float | None, Field(description="0 to 1; null: not known.")]
    weight: float
    applies: Annotated[bool, Field(description="Whether it means anything for this series.")]


class Window(BaseModel):
    """Half open."""

    start_ms: int
    end_ms: int


class CadenceFact(BaseModel):
    """How often rows come, learned from the newest ones."""

    median_ms: int
    usual_max_ms: int
    rows: int


class FreshnessFact(BaseModel):
    """The age of the newest row against the series' own cadence."""

    age_ms: int
    limit_ms: Annotated[int, Field(description="Up to this age it is fresh.")]
    stale: bool
    awaited: Annotated[
        bool, Field(description="Whether rows are due at all: false for recordings and delisted symbols.")
    ]
    cadence: CadenceFact | None


class HoleFigures(BaseModel):
    """Holes of the series: open now, and those of the last 30 days."""

    open: int
    found: int
    healed: int
    mttd_ms: int | None
    mttr_ms: int | None


class Budget(BaseModel):
    """What a promise of completeness allows to be missing over 30 days: fractions. left below 0: broken."""

    promised: float
    allowed: float
    spent: float
    left: float


class SeriesHealthFact(BaseModel):
    """One series, its score and what that is made of."""

    series: Annotated[str, Field(examples=["um.candle.BTCUSDT.1m"])]
    market: str
    dataset: str
    pair: str
    period: str | None
    health: HealthFact
    parts: list[PartFact]
    window: Window | None
    freshness: FreshnessFact | None
    rows: int | None
    first_ms: int | None
    last_ms: int | None
    holes: HoleFigures
    error_budget: Budget | None
    last_audit: _Time


class SeriesHealths(BaseModel):
    """A page of series, by id."""

    data: list[SeriesHealthFact]
    pagination: Pagination


class HistoryPoint(HealthFact):
    """The worst that was known of an hour or day; unknown with nulls where nobody looked."""

    timestamp: Annotated[str, Field(description="When it begins.", examples=["2023-04-05T00:00:00.000Z"])]
    as_of: Annotated[str | None, Field(description="When the figures were taken; before the hour: unchanged since.")]


class History(BaseModel):
    """The health of a series over time."""

    series: str
    interval: Annotated[str, Field(examples=["1h"])]
    data: list[HistoryPoint]
    parameters: dict[str, Any]


class NoteFact(BaseModel):
    """A row of the audit log. series null: about all of them."""

    id: str
    kind: Annotated[str, Field(description="gap or health_check.")]
    series: str | None
    severity: Annotated[str | None, Field(description="high (a gap of more than an hour), medium, or null.")]
    result: Annotated[str, Field(description="pass, warn, fail or unknown.")]
    details: dict[str, Any]
    start_ms: int
    end_ms: int
    at_ms: int


class Notes(BaseModel):
    """A page of the audit log, the newest first."""

    data: list[NoteFact]
    pagination: Pagination
