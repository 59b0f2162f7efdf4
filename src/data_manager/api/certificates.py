"""Certificates over HTTP: issued, listed, given out whole, and verified."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from fastapi.routing import APIRoute
from msgspec import json
from pydantic import BaseModel, Field
from starlette.requests import Request

from data_manager.api.errors import DOCUMENTED, ErrorBody
from data_manager.api.routing import Endpoint, Header, PostEndpoint, Reply
from data_manager.api.truth_asked import body_of, series_of, span_of, words_of
from data_manager.domain.errors import BadQuery
from data_manager.domain.proof.certificate import Certificate
from data_manager.domain.time import parse_time
from data_manager.ports import Clock, Records, SeriesStore
from data_manager.services.answering.query import OFFSET_MAX, whole
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.telling import certificate_facts, proof_facts
from data_manager.services.keeping.verify import Proof, kept, verify
from data_manager.services.runs import Outcome, Runs, Tell

CERTIFICATES_MAX: Final = 1_000
"""Certificates in one answer."""

_WORDS: Final = ("series", "start", "end")
_HEADERS: list[Header] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


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


class CertificatePagination(BaseModel):
    """Which part of all certificates this is."""

    limit: int
    offset: int
    total: int
    has_more: bool


class Certificates(BaseModel):
    """A page of certificates, the newest first."""

    data: list[CertificateFact]
    pagination: CertificatePagination


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


class RunUnderWay(BaseModel):
    """Work that takes longer."""

    run: int
    status: Literal["running"]
    href: Annotated[str, Field(examples=["/certificates/runs/7"])]
    done: int
    total: int
    at: str


class Certifying(NamedTuple):
    """What the routes need."""

    store: SeriesStore
    records: Records
    certifier: Certifier
    runs: Runs
    clock: Clock
    market: str


def certificate_routes(certifying: Certifying) -> list[APIRoute]:
    """/certificates and what is below."""
    return [_list(certifying), _issue(certifying), _status(certifying), _one(certifying), _verify(certifying)]


def _list(certifying: Certifying) -> APIRoute:
    async def page(request: Request) -> Reply:
        given = words_of(request, "series", "start", "end", "limit", "offset")
        limit, offset = whole(given, "limit", 100, 1, CERTIFICATES_MAX), whole(given, "offset", 0, 0, OFFSET_MAX)
        found, total = await certifying.records.certificates(
            limit=limit,
            offset=offset,
            series=series_of(given["series"], certifying.market).id if "series" in given else None,
            span=span_of(given),
        )
        pagination = {"limit": limit, "offset": offset, "total": total, "has_more": offset + len(found) < total}
        return _reply(200, {"data": [certificate_facts(one) for one in found], "pagination": pagination})

    return Endpoint(
        "/certificates", page, name="certificates", operation_id="get_certificates", tags=["truth"],
        summary="Certificates, the newest first.",
        responses={200: {"model": Certificates}, **_ERRORS},
        openapi_extra={"parameters": [
            _query("series", "um.candle.BTCUSDT.1m"), _query("start", "2023-04-04T00:00:00Z"),
            _query("end", "1680652800000"), _query("limit", "100"), _query("offset", "0"),
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
        return _reply(200, await kept(certifying.records, request.path_params["certificate_id"]))

    return Endpoint(
        "/certificates/{certificate_id}", one, name="certificate", operation_id="get_certificate", tags=["truth"],
        summary="One certificate, whole, as it was issued: `data-manager verify` takes it as a file.",
        responses={200: {"model": CertificateFact}, 404: _UNKNOWN, **_ERRORS},
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
        openapi_extra={"parameters": [
            {"name": "run", "in": "path", "required": True, "schema": {"type": "integer"}},
        ]},
    )  # fmt: skip


def run_number(request: Request) -> int:
    """The number in the path. Raises BadQuery."""
    number = request.path_params["run"]
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise BadQuery("run", number[:64], "must be the number of work that was asked for")
    return int(number)


def under_way(outcome: Outcome, path: str) -> Reply:
    """202: ask again there."""
    href, progress = f"{path}/{outcome.number}", outcome.progress
    facts = {"done": progress.done, "total": progress.total, "at": progress.at}
    body = json.encode({"run": outcome.number, "status": "running", "href": href, **facts})
    return Reply(202, [*_HEADERS, (b"location", href.encode())], body)


def _outcome(outcome: Outcome) -> Reply:
    if not outcome.over:
        return under_way(outcome, "/certificates/runs")
    if isinstance(outcome.answer, Certificate):
        return _reply(201, certificate_facts(outcome.answer))
    return _reply(200, proof_facts(outcome.answer))


def _time(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadQuery(name, value, "must be ISO 8601 or milliseconds since 1970")
    return parse_time(str(value), field=name)


def _reply(status: int, body: Any) -> Reply:
    return Reply(status, _HEADERS, json.encode(body))


def _query(name: str, example: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "example": example}


_ID: Final[dict[str, Any]] = {
    "name": "certificate_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Its id, or the first eight digits of it or more.",
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {code: DOCUMENTED[code] for code in (422, 503)}
_UNKNOWN: Final[dict[str, Any]] = {"model": ErrorBody, "description": "Nothing of that name is known."}
_RUNNING: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": RunUnderWay, "description": "It takes longer: ask again at href."},
    404: _UNKNOWN,
    409: {"model": ErrorBody, "description": "Too much that was asked for is under way."},
    500: {"model": ErrorBody, "description": "Rows cannot be read."},
    **_ERRORS,
}
