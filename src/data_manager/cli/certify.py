"""`data-manager certify` and `verify`: what is held is proven, and any row that is another one later is named."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table
from data_manager.domain.errors import BadQuery

if TYPE_CHECKING:
    from data_manager.domain.dataset import Series
    from data_manager.domain.proof.certificate import Certificate
    from data_manager.domain.proof.locate import Mismatch
    from data_manager.domain.span import Span
    from data_manager.services.keeping.verify import Proof

certificates = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
Start = Annotated[str, typer.Option(help="First time, inclusive: ISO 8601 or milliseconds.")]
End = Annotated[str, typer.Option(help="Last time, exclusive.")]
_SHOWN_MAX = 50


@certificates.command("certify")
def certify(
    series: Annotated[str, typer.Argument(help="Such as um.trade.BTCUSDT or candles_BTCUSDT_1h.")],
    start: Start = "",
    end: End = "",
    as_json: Json = False,
) -> None:
    """Issue a certificate of what a series holds: content hash, counts, checks, sources, known holes.

    Without --start and --end: of everything that is held. Works while the service runs. What was not audited, or is
    missing, stands in the certificate. With --json it is the certificate itself, which `verify` takes as a file.
    """
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS

    in_force = settings.load(os.environ)
    wanted = parse_series(series, DATASETS, in_force.market)
    bounds = _time(start, "start"), _time(end, "end")
    quiet_logs()
    certificate = asyncio.run(_certify(in_force, wanted, *bounds))
    if as_json:
        say_json(certificate)
    else:
        _say_certificate(certificate)


@certificates.command("verify")
def verify(
    what: Annotated[
        str,
        typer.Argument(
            help="A certificate's id (or how it begins), a file that holds one, or a series; all certificates.",
            show_default=False,
        ),
    ] = "",
    start: Start = "",
    end: End = "",
    as_json: Json = False,
) -> None:
    """Hold what is held now against certificates: the newest of each span.

    Exit code 1 when a row is another, missing, doubled or new since, when a certificate or its chain was altered, or
    when the rows of the one that was named went by retention, so that nothing can be proven.
    """
    from data_manager.services.keeping.telling import proofs_facts

    in_force = settings.load(os.environ)
    asked = _asked(what, _span(start, end), in_force.market)
    quiet_logs()
    proofs = asyncio.run(_verify(in_force, asked))
    if as_json:
        say_json(proofs_facts(proofs))
    else:
        _say_proofs(proofs)
    named = asked.certificate_id is not None or asked.file is not None
    if any(not one.holds and (named or one.status != "let_go") for one in proofs):
        raise typer.Exit(1)


class _Asked(NamedTuple):
    """What to verify: one certificate, by id or in a file, or all of a series (None: of all) within a span."""

    certificate_id: str | None = None
    file: "Certificate | None" = None
    series: "Series | None" = None
    span: "Span | None" = None


def _asked(what: str, span: "Span | None", market: str) -> _Asked:
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS

    if not what:
        return _Asked(span=span)
    if Path(what).is_file():
        return _Asked(file=_from_file(Path(what)))
    if what.endswith(".json") or "/" in what:
        raise BadQuery("file", what, "is not there")
    if len(what) >= 8 and set(what) <= set("0123456789abcdef"):
        return _Asked(certificate_id=what)
    return _Asked(series=parse_series(what, DATASETS, market), span=span)


def _from_file(path: Path) -> "Certificate":
    from msgspec import DecodeError, json

    from data_manager.domain.proof.certificate import Certificate

    try:
        return json.decode(path.read_bytes(), type=Certificate)
    except (DecodeError, UnicodeDecodeError, OSError) as error:
        raise BadQuery("file", str(path), f"must hold a certificate, as certify --json prints it ({error})") from error


def _time(text: str, field: str) -> int | None:
    from data_manager.domain.time import parse_time

    return parse_time(text, field=field) if text else None


def _span(start: str, end: str) -> "Span | None":
    from data_manager.domain.span import Span
    from data_manager.domain.time import EARLIEST_MS, LATEST_MS

    if not (start or end):
        return None
    start_ms, end_ms = _time(start, "start"), _time(end, "end")
    return Span(EARLIEST_MS if start_ms is None else start_ms, LATEST_MS if end_ms is None else end_ms)


async def _certify(
    in_force: settings.Settings, series: "Series", start_ms: int | None, end_ms: int | None
) -> "Certificate":
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.service.auditing import conditions_of
    from data_manager.services.keeping.certify import Certifier

    async with app.reader(in_force) as store, AsyncExitStack() as stack:
        meta = await open_meta(in_force.metadata_url)
        stack.push_async_callback(meta.close)
        clock = SystemClock()
        certifier = Certifier(store, meta, conditions_of(in_force, meta), clock)
        with progress("certify") as tell:
            span = await certifier.span_of(series, start_ms, end_ms)
            return await certifier.certify(series, span, progress=tell)


async def _verify(in_force: settings.Settings, asked: _Asked) -> "list[Proof]":
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.services.keeping.verify import chosen, kept, verify

    async with app.reader(in_force) as store, AsyncExitStack() as stack:
        meta = await open_meta(in_force.metadata_url)
        stack.push_async_callback(meta.close)
        clock = SystemClock()
        with progress("verify") as tell:
            if asked.file is not None:
                known = await meta.certificate(asked.file.id) if asked.file.id else None
                return [await verify(store, meta, asked.file, clock, chained=known is not None, progress=tell)]
            ids = [asked.certificate_id] if asked.certificate_id else await chosen(meta, asked.series, asked.span)
            return [await verify(store, meta, await kept(meta, one), clock, progress=tell) for one in ids]


def _say_certificate(one: "Certificate") -> None:
    from data_manager.domain.time import iso

    contents, length = one.contents, one.end_ms - one.start_ms
    shares = ", ".join(f"{word} {_share(ms, length)}" for word, ms in one.condition.items()) or "nothing"
    sources = ", ".join(f"{name} {rows:,}" for name, rows in contents.sources.items()) or "none"
    facts = {
        "certificate": one.id,
        "series": one.series,
        "from": iso(one.start_ms),
        "to": iso(one.end_ms),
        "rows": f"{contents.rows:,}",
        "content": contents.content,
        "sources": sources,
        "condition": shares,
        "known holes": f"{one.holes_total:,}",
        "checks passed": ", ".join(one.checks) or "none",
        "rows blamed": ", ".join(f"{name} {rows:,}" for name, rows in one.offences.items()) or "none",
        "follows upon": one.previous or "nothing: it is the first of its series",
    }
    for name, text in facts.items():
        typer.echo(f"{name:14} {text}")


def _share(part_ms: int, whole_ms: int) -> str:
    """In per cent: 100 is said of the whole only, and 0 of nothing at all."""
    if 0 < part_ms < whole_ms / 10_000:
        return "<0.01%"
    return f"{part_ms * 10_000 // whole_ms / 100:.2f}%"


def _say_proofs(proofs: "list[Proof]") -> None:
    from data_manager.domain.time import iso
    from data_manager.services.keeping.verify import speed

    heads = ("certificate", "series", "from", "to", "rows", "verdict", "chain")
    lines = [
        (
            one.certificate[:12], one.series, iso(one.start_ms), iso(one.end_ms), f"{one.rows:,}", one.status,
            "not kept here" if one.chain is None else one.chain.broken or f"whole, {one.chain.links} before it",
        )
        for one in proofs
    ]  # fmt: skip
    say_table(heads, lines, right=("rows",))
    for one in proofs:
        for mismatch in one.mismatches[:_SHOWN_MAX]:
            typer.echo(f"error: {one.series}: {_told(one, mismatch)}", err=True)
        if len(one.mismatches) > _SHOWN_MAX:
            typer.echo(f"and {len(one.mismatches) - _SHOWN_MAX:,} more: --json names all", err=True)
    gone = sum(one.status == "let_go" for one in proofs)
    if gone:
        typer.echo(f"{gone:,} of rows that went by retention: nothing can be proven of them any more", err=True)
    rate = speed(proofs)
    pace = "" if rate is None else f" at {rate:,.0f} rows/s"
    typer.echo(f"{sum(one.rows for one in proofs):,} rows read{pace}", err=True)


def _told(proof: "Proof", one: "Mismatch") -> str:
    """trade_id 548331095 is changed (price); trade_id 7 to 9: 3 rows missing"""
    from data_manager.domain.datasets import DATASETS

    key = DATASETS[proof.series.split(".")[1]].key[0]
    columns = f" ({', '.join(proof.columns)})" if one.kind in ("changed", "block") and proof.columns else ""
    if one.kind == "certificate":
        return f"certificate {proof.certificate[:12]} was altered: it is not what its id says"
    if one.kind == "disorder":
        return f"rows behind {key} {one.first_key} are not in order: nothing more can be said"
    if one.first_key == one.last_key:
        return f"{key} {one.first_key} is {one.kind}{columns}"
    what = "rows are not what they were" if one.kind == "block" else f"rows {one.kind}"
    return f"{key} {one.first_key} to {one.last_key}: at least {one.rows:,} {what}{columns}"
