"""Certificates over HTTP: issued, listed, given out whole, and verified."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.asked import body_of, series_id_of, series_of, span_of, words_of
from data_manager.api.errors import REFUSALS, ErrorBody
from data_manager.api.listing import Pagination, part_of, part_words
from data_manager.api.routing import Endpoint, PostEndpoint, Reply, answered, asked_by
from data_manager.api.runs import RUN, UNDER_WAY, run_number, under_way
from data_manager.domain.errors import BadQuery
from data_manager.domain.proof.certificate import Certificate
from data_manager.domain.time import parse_time
from data_manager.ports import Clock, Records, SeriesStore
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.telling import certificate_facts, proof_facts
from data_manager.services.keeping.verify import Proof, kept, verify
from data_manager.services.runs import Outcome, Runs, Tell

"""Certificates in one answer."""

_WORDS: Final = ("series", "start", "end")


class CertifiedContents(BaseModel):
    """What the rows are, without the rows."""

    rows: int
    first_key: int | None
    last_key: int | None
    content: Annotated[str, Field(description="One SHA-256 over all values of all rows.")]
    columns: Annotated[dict[str, str], Field(description="The SHA-256 of every column.")]
    block_keys: int
    blocks: Annotated[int | list[list[int]], Field(description="How many there are; in the whole certificate, all.")]
    sources: Annotated[dict[str, int], Field(description="Rows by origin.", examples=[{"stream": 1440}])]
    form: Annotated[int, Field(description="Version of the canonical form.")]


class CertifiedHole(BaseModel):
    """What was known to be missing."""

    start_ms: int
    end_ms: int
    state: str
    missing: int | None


class CertificateFact(BaseModel):
    """What a series held over a span, and what was found out about it."""

    id: str
    series: Annotated[str, Field(examples=["um.candle.BTCUSDT.1m"])]
    start_ms: int
    end_ms: int
    contents: CertifiedContents
    checks: list[str]
    offences: Annotated[dict[str, int], Field(description="Checks that were not passed, and rows each blames.")]
    condition: Annotated[dict[str, int], Field(description="Milliseconds of the span by condition.")]
    holes: list[CertifiedHole]
    holes_total: int
    rule_version: int
    previous: Annotated[str | None, Field(description="The series' certificate before this one.")]
    issued_ms: int


class Certificates(BaseModel):
    """A page of certificates, the newest first."""

    data: list[CertificateFact]
    pagination: Pagination


class MismatchFact(BaseModel):
    """Rows that are not what the certificate says; keys are the first parts, both inclusive."""

    kind: Annotated[
        str, Field(description="changed, missing, doubled, unexpected, block, disorder or certificate (altered).")
    ]
    first_key: int | None
    last_key: int | None
    rows: int


class ChainFact(BaseModel):
    """The certificates before it."""

    links: int
    broken: str | None


class ProofFact(BaseModel):
    """What became of verifying a certificate."""

    holds: bool
    certificate: str
    series: str
    start_ms: int
    end_ms: int
    status: Literal["agrees", "differs", "let_go"]
    mismatches: list[MismatchFact]
    gone: Annotated[list[MismatchFact], Field(description="What went by retention.")]
    columns: Annotated[list[str], Field(description="Fields whose values differ.")]
    rows_certified: int
    rows: int
    chain: ChainFact | None
    seconds: float
    rows_per_second: int | None


class Certifying(NamedTuple):
    """What the routes need."""

    store: SeriesStore
    records: Records
    certifier: Certifier
    runs: Runs[Any]
    clock: Clock
    market: str


def certificate_routes(certifying: Certifying) -> list[APIRoute]:
    """/certificates and what is below."""
    return [_list(certifying), _issue(certifying), _status(certifying), _one(certifying), _verify(certifying)]


def _list(certifying: Certifying) -> APIRoute:
    async def page(request: Request) -> Reply:
        given = words_of(request, "series", "start", "end", "limit", "offset")
        part = part_of(given)
        found, total = await certifying.records.certificates(
            limit=part.limit,
            offset=part.offset,
            series=series_id_of(given, certifying.market),
            span=span_of(given),
        )
        return answered(part.listed([certificate_facts(one) for one in found], total))

    return Endpoint(
        "/certificates", page, name="certificates", operation_id="get_certificates", tags=["truth"],
        summary="Certificates, the newest first.",
        responses={200: {"model": Certificates}, **REFUSALS},
        openapi_extra={"parameters": [
            asked_by("series", "um.candle.BTCUSDT.1m"), asked_by("start", "2023-04-04T00:00:00Z"),
            asked_by("end", "1680652800000"), *part_words(),
        ]},
    )  # fmt: skip


def _issue(certifying: Certifying) -> APIRoute:
    async def issue(request: Request) -> Reply:
        body = await body_of(request, _WORDS)
        for name in body:
            if name not in _WORDS:
                raise BadQuery(name[:64], body[name], f"is not known here: {' '.join(_WORDS)} are")
        named = body.get("series")
        series = series_of(named if isinstance(named, str) else None, certifying.market)
        bounds = (_time(body, "start"), _time(body, "end"))
        span = await certifying.certifier.span_of(series, *bounds)

        async def work(tell: Tell) -> Certificate:
            return await certifying.certifier.certify(series, span, progress=tell)

        return _outcome(await certifying.runs.begin(f"certify {series.id}", work))

    schema = {
        "type": "object",
        "required": ["series"],
        "properties": {
            "series": {"type": "string"},
            "start": {"type": ["string", "integer"]},
            "end": {"type": ["string", "integer"]},
        },
        "example": {"series": "um.trade.BTCUSDT", "start": "2023-04-04T00:00:00Z", "end": "2023-04-05T00:00:00Z"},
    }
    return PostEndpoint(
        "/certificates", issue, name="certify", operation_id="post_certificates", tags=["truth"],
        summary="Issue a certificate of what a series holds over a span.",
        description="Without `start` or `end` what is held bounds it. A span that is not over cannot be certified.",
        responses={201: {"model": CertificateFact}, **_RUNNING},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )  # fmt: skip


def _one(certifying: Certifying) -> APIRoute:
    async def one(request: Request) -> Reply:
        return answered(await kept(certifying.records, request.path_params["certificate_id"]))

    return Endpoint(
        "/certificates/{certificate_id}", one, name="certificate", operation_id="get_certificate", tags=["truth"],
        summary="One certificate, whole, as it was issued: `data-manager verify` takes it as a file.",
        responses={200: {"model": CertificateFact}, 404: _UNKNOWN, **REFUSALS},
        openapi_extra={"parameters": [_ID]},
    )  # fmt: skip


def _verify(certifying: Certifying) -> APIRoute:
    async def prove(request: Request) -> Reply:
        certificate = await kept(certifying.records, request.path_params["certificate_id"])

        async def work(tell: Tell) -> Proof:
            return await verify(certifying.store, certifying.records, certificate, certifying.clock, progress=tell)

        return _outcome(await certifying.runs.begin(f"verify {certificate.id[:12]}", work))

    return PostEndpoint(
        "/certificates/{certificate_id}/verify", prove, name="verify", operation_id="post_verify", tags=["truth"],
        summary="Hold what is held now against a certificate.",
        responses={200: {"model": ProofFact}, **_RUNNING},
        openapi_extra={"parameters": [_ID]},
    )  # fmt: skip


def _status(certifying: Certifying) -> APIRoute:
    async def status(request: Request) -> Reply:
        return _outcome(await certifying.runs.outcome(run_number(request)))

    return Endpoint(
        "/certificates/runs/{run}", status, name="certificate_run", operation_id="get_certificate_run", tags=["truth"],
        summary="How a certificate or a proof stands that takes longer.",
        responses={200: {"model": ProofFact}, 201: {"model": CertificateFact}, **_RUNNING},
        openapi_extra={"parameters": [RUN]},
    )  # fmt: skip


def _outcome(outcome: Outcome[Any]) -> Reply:
    if outcome.answer is None:
        return under_way(outcome, "/certificates/runs")
    if isinstance(outcome.answer, Certificate):
        return answered(certificate_facts(outcome.answer), 201)
    return answered(proof_facts(outcome.answer))


def _time(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadQuery(name, value, "must be ISO 8601 or milliseconds since 1970")
    return parse_time(str(value), field=name)


_ID: Final[dict[str, Any]] = {
    "name": "certificate_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Its id, or the first eight digits of it or more.",
}
_UNKNOWN: Final[dict[str, Any]] = {"model": ErrorBody, "description": "Nothing of that name is known."}
_RUNNING: Final[dict[int | str, dict[str, Any]]] = {
    202: UNDER_WAY,
    404: _UNKNOWN,
    409: {"model": ErrorBody, "description": "Too much that was asked for is under way."},
    500: {"model": ErrorBody, "description": "Rows cannot be read."},
    **REFUSALS,
}
