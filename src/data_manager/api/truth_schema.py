"""The shapes of what the truth routes answer, as OpenAPI tells them."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from data_manager.api.listing import Pagination
from data_manager.domain.condition.partition import Condition as Word
from data_manager.domain.holes.ledger import HoleState
from data_manager.services.auditing.desk import HOLES_MAX
from data_manager.services.runs import PATIENCE_S


class HoleFact(BaseModel):
    """Rows that must exist and are not held: they have times in [start_ms, end_ms)."""

    series: Annotated[str, Field(examples=["um.candle.BTCUSDT.1m"])]
    start_ms: Annotated[int, Field(examples=[1680652740000])]
    end_ms: Annotated[int, Field(examples=[1680652800000])]
    kind: Annotated[str, Field(description="grid, ids, chain, schedule or silence.", examples=["grid"])]
    missing: Annotated[int | None, Field(description="How many rows; null where that cannot be counted.")]
    state: Annotated[str, Field(description=", ".join(state.value for state in HoleState))]


class CrossChecked(BaseModel):
    """Candles that were judged by finer candles or trades of the same symbol."""

    agreed: int
    excused: Annotated[int, Field(description="Differ as the venue's own rules allow.")]
    differing: int
    unjudged: Annotated[int, Field(description="Not all that they are judged by is held.")]


class AuditDone(BaseModel):
    """What an audit came to."""

    audited: Annotated[int, Field(description="Series that could be audited.")]
    failed: Annotated[list[str], Field(description="Series that could not: nothing is known of them.")]
    unjudged: Annotated[
        list[str],
        Field(
            description="Series of which nothing can be said in the span, as before their first row or in the future."
        ),
    ]
    findings: Annotated[
        int, Field(description="All that stands, whoever found it: holes, rows that are wrong, what was not audited.")
    ]
    changed: Annotated[int, Field(description="Findings that this run began, changed or ended.")]
    rows: Annotated[int, Field(description="Rows read.")]
    holes: Annotated[list[HoleFact], Field(description=f"All that is missing now, at most {HOLES_MAX}.")]
    holes_total: int
    cross_checked: CrossChecked


class LedgerFact(HoleFact):
    """A hole and its life."""

    id: str
    after: Annotated[int | None, Field(description="Key of the row held before it.")]
    before: Annotated[int | None, Field(description="Key of the row held after it.")]
    found_ms: int
    seen_ms: int
    healed_ms: int | None
    attempts: int
    recheck_ms: int | None
    history: Annotated[list[dict[str, Any]], Field(description="Each step: at_ms, state, by, why, evidence.")]


class Ledger(BaseModel):
    """A page of the hole ledger, by series and time."""

    data: list[LedgerFact]
    pagination: Pagination


class AuditedSpan(BaseModel):
    """A span and what became of its audit. At every instant the newest audit counts."""

    start_ms: int
    end_ms: int
    result: Annotated[str, Field(description="pass, warn, fail, or unknown: it could not be done.", examples=["pass"])]
    rule_version: int
    audited_ms: Annotated[int, Field(description="When; of joined spans the oldest time.")]


class FlawFact(BaseModel):
    """Something wrong with a span besides holes."""

    start_ms: int
    end_ms: int
    reason: Annotated[str, Field(examples=["spike", "unlike candle.1m"])]
    lost: Annotated[bool, Field(description="Its rows are not there.")]


class Coverage(BaseModel):
    """All that the audits looked at of a series; times are null where they never did."""

    series: str
    rule_version: Annotated[int, Field(description="Of the rules now: what older ones said is unverified.")]
    looked_ms: Annotated[int | None, Field(description="When the last audit looked.")]
    swept_ms: Annotated[int | None, Field(description="When the last one that looked at everything began.")]
    until_ms: Annotated[int | None, Field(description="What lies before it was judged.")]
    spans: list[AuditedSpan]
    flaws: list[FlawFact]


class RangeFact(BaseModel):
    """A stretch of one condition."""

    start_ms: int
    end_ms: int
    condition: Annotated[str, Field(description=", ".join(word.value for word in Word), examples=["good"])]
    reason: Annotated[str, Field(examples=["audited"])]


class ConditionFact(BaseModel):
    """The condition of a range; ranges partition it."""

    series: str
    start_ms: int
    end_ms: int
    completeness: Annotated[float | None, Field(description="Covered / expected time, 0 to 1; null: nobody knows.")]
    ranges: list[RangeFact]


AUDIT_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "series": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "start": {"type": ["string", "integer"]},
        "end": {"type": ["string", "integer"]},
        "full": {"type": "boolean", "default": False},
        "wait": {"type": "number", "minimum": 0, "maximum": PATIENCE_S, "default": PATIENCE_S},
    },
    "example": {"series": "um.candle.BTCUSDT.1m", "start": "2023-04-04T00:00:00Z", "end": "2023-04-05T00:00:00Z"},
}
"""The body of POST /audit/run."""
