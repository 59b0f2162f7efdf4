"""What is known of the data's completeness: audits on demand, the hole ledger, and the condition of any range."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fastapi.routing import APIRoute
from msgspec import structs
from starlette.requests import Request

from data_manager.api.asked import body_of, series_id_of, series_of, span_of, span_until, states_of, wanted, words_of
from data_manager.api.errors import REFUSALS, ErrorBody
from data_manager.api.listing import part_of, part_words
from data_manager.api.routing import Endpoint, PostEndpoint, Reply, answered, asked_by
from data_manager.api.runs import RUN, UNDER_WAY, run_number, under_way
from data_manager.api.truth_schema import (
    AUDIT_BODY,
    AuditDone,
    ConditionFact,
    Coverage,
    Ledger,
    LedgerFact,
)
from data_manager.domain.condition.partition import range_facts
from data_manager.domain.condition.truth import Mark, SeriesTruth
from data_manager.domain.errors import NotFound
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.ports import Clock
from data_manager.ports.truth import TruthStore
from data_manager.services.audit import Audited
from data_manager.services.auditing.desk import HOLES_MAX, Desk, audit_facts
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.conditions import Conditions
from data_manager.services.runs import Outcome

_AUDIT_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": AuditDone},
    202: UNDER_WAY,
    404: {"model": ErrorBody, "description": "Nothing was ever held of that series, or this process does not audit."},
    409: {"model": ErrorBody, "description": "Others audit the same, or too many audits are under way."},
    **REFUSALS,
}


class Truth(NamedTuple):
    """What the routes need. desk: None where the process does not audit, and role says which that is."""

    store: TruthStore
    conditions: Conditions
    desk: Desk | None
    clock: Clock
    market: str
    role: str

    def require_desk(self) -> Desk:
        """Whoever takes requests for audits; NotFound where nobody does."""
        if self.desk is None:
            raise NotFound(f"this process does not audit, its role is {self.role}: ask one of role api, work or all")
        return self.desk


def truth_routes(truth: Truth) -> list[APIRoute]:
    """/condition, /audit/run, /audit/runs/{run}, /audit/holes and /audit/coverage."""
    return [_condition(truth), _holes(truth), _coverage(truth), _run(truth), _status(truth)]


def _condition(truth: Truth) -> APIRoute:
    async def condition(request: Request) -> Reply:
        given = words_of(request, "series", "start", "end")
        series = series_of(given.get("series"), truth.market)
        now_ms = truth.clock.now_ms()
        span = span_until(given, now_ms)
        found = await truth.conditions.condition_of(series, span, now_ms)
        facts = {"completeness": found.completeness, "ranges": range_facts(found.ranges)}
        return answered({"series": series.id, "start_ms": span.start_ms, "end_ms": span.end_ms, **facts})

    return Endpoint(
        "/condition", condition, name="condition", operation_id="get_condition", tags=["truth"],
        summary="What may be believed of a range of a series: a partition of it, and how complete it is.",
        description="Without `end`: up to now; without `start`: the day before the end.",
        responses={200: {"model": ConditionFact}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1h", required=True), asked_by("start", "2023-04-04T00:00:00Z"),
            asked_by("end", "1680652800000"),
        ]},
    )  # fmt: skip


def _holes(truth: Truth) -> APIRoute:
    async def holes(request: Request) -> Reply:
        given = words_of(request, "series", "state", "start", "end", "limit", "offset")
        part = part_of(given, most=HOLES_MAX)
        found, total = await truth.store.holes(
            limit=part.limit,
            offset=part.offset,
            series=series_id_of(given, truth.market),
            states=states_of(given.get("state")),
            span=span_of(given),
        )
        return answered(part.listed([_ledger_fact(entry) for entry in found], total))

    return Endpoint(
        "/audit/holes", holes, name="holes", operation_id="get_holes", tags=["truth"],
        summary="The hole ledger: what is missing, was missing, and what became of it.",
        description="`state`: one or more states joined by commas, or `live` for all but healed.",
        responses={200: {"model": Ledger}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1m"), asked_by("state", "open,healing"),
            asked_by("start", "2023-04-04T00:00:00Z"), asked_by("end", "1680652800000"), *part_words(most=HOLES_MAX),
        ]},
    )  # fmt: skip


def _coverage(truth: Truth) -> APIRoute:
    async def coverage(request: Request) -> Reply:
        series = series_of(words_of(request, "series").get("series"), truth.market)
        [known] = await truth.store.truths([series.id]) or [SeriesTruth(series=series.id)]
        mark = known.mark or Mark(looked_ms=0, swept_ms=0)
        return answered({
            "series": series.id, "rule_version": RULE_VERSION, "looked_ms": mark.looked_ms or None,
            "swept_ms": mark.swept_ms or None, "until_ms": mark.until_ms,
            "spans": [{**structs.asdict(one), "result": one.result.value} for one in known.coverage],
            "flaws": [structs.asdict(one) for one in known.flaws],
        })  # fmt: skip

    return Endpoint(
        "/audit/coverage", coverage, name="coverage", operation_id="get_coverage", tags=["truth"],
        summary="Which spans of a series were audited, when, by which rules, with what result.",
        responses={200: {"model": Coverage}, **REFUSALS},
        openapi_extra={"parameters": [asked_by("series", "um.candle.BTCUSDT.1m", required=True)]},
    )  # fmt: skip


def _run(truth: Truth) -> APIRoute:
    async def run(request: Request) -> Reply:
        asked_for = wanted(await body_of(request), truth.market)
        desk = truth.require_desk()
        asked = await desk.ask(asked_for.series, asked_for.span, full=asked_for.full, patience_s=asked_for.wait_s)
        await truth.conditions.refresh(at_once=True)
        return _outcome(asked)

    return PostEndpoint(
        "/audit/run", run, name="audit_run", operation_id="post_audit_run", tags=["truth"],
        summary="Audit now: what changed since the last audit, a span, or everything.",
        description=(
            "Every member of the body may be left out. `series`: an id or a list of ids; all. `start`, `end`: only "
            "that stretch. `full`: everything from the first row on. `wait`: how many seconds the answer may take "
            "before it is 202 with the way to ask again; 10. By processes of role all and work."
        ),
        responses=_AUDIT_ANSWERS,
        openapi_extra={"requestBody": {"required": False, "content": {"application/json": {"schema": AUDIT_BODY}}}},
    )  # fmt: skip


def _status(truth: Truth) -> APIRoute:
    async def status(request: Request) -> Reply:
        asked = await truth.require_desk().outcome(run_number(request))
        await truth.conditions.refresh(at_once=True)
        return _outcome(asked)

    return Endpoint(
        "/audit/runs/{run}", status, name="audit_status", operation_id="get_audit_run", tags=["truth"],
        summary="How an audit stands that took longer.", responses=_AUDIT_ANSWERS,
        openapi_extra={"parameters": [RUN]},
    )  # fmt: skip


# ── What is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


def _outcome(asked: Outcome[Audited]) -> Reply:
    return under_way(asked, "/audit/runs") if asked.answer is None else answered(audit_facts(asked.answer))


def _ledger_fact(entry: LedgerEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in LedgerFact.model_fields}
