"""`data-manager audit`: look for what is missing or wrong, now, while the service runs or while it does not."""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_manager.domain.dataset import Series
    from data_manager.domain.span import Span

audits = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
_SHOWN_MAX = 50
_ASK_AGAIN_S = 0.2


@audits.command("audit")
def audit(
    series: Annotated[
        list[str] | None,
        typer.Argument(help="Such as um.trade.BTCUSDT or candles_BTCUSDT_1h; all.", show_default=False),
    ] = None,
    start: Annotated[str, typer.Option(help="Only from then on: ISO 8601 or milliseconds.")] = "",
    end: Annotated[str, typer.Option(help="Only before then.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Everything, not only what changed.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 when rows are missing.")] = False,
    at: Annotated[
        str,
        typer.Option(help="Ask the service there, such as http://127.0.0.1:8000.", show_default="the one on DATA_DIR"),
    ] = "",
    as_json: Json = False,
) -> None:
    """Look for what is missing or wrong among the rows held, and enter it into the hole ledger and the coverage.

    A service that runs on DATA_DIR does it itself and is asked over HTTP; where none runs, this command does it. Exit
    code 0: all was audited, whatever is missing; 1: an audit could not be done.
    """
    from data_manager.cli.asking import address_of

    in_force = settings.load(os.environ)
    wanted, span = _wanted(in_force, series or ()), _span(start, end)
    quiet_logs()
    address = address_of(in_force, at)
    if address is None:
        done = asyncio.run(_audit(in_force, wanted or None, span, full))
    else:
        body = {"series": [one.id for one in wanted], "start": start, "end": end, "full": full or None}
        done = _ask(address, {name: value for name, value in body.items() if value})
    _say(done, as_json=as_json)
    if done["failed"] or (strict and done["holes_total"]):
        raise typer.Exit(1)


def _wanted(in_force: settings.Settings, series: "Sequence[str]") -> "list[Series]":
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS

    return [parse_series(one, DATASETS, in_force.market) for one in series]


def _span(start: str, end: str) -> "Span | None":
    from data_manager.domain.span import Span
    from data_manager.domain.time import EARLIEST_MS, LATEST_MS, parse_time

    if not (start or end):
        return None
    start_ms = parse_time(start, field="start") if start else EARLIEST_MS
    return Span(start_ms, parse_time(end, field="end") if end else LATEST_MS)


def _ask(address: str, body: dict[str, Any]) -> Any:
    """What the service's audit came to, with a bar while it goes on."""
    from data_manager.cli.asking import ask

    with progress("audit") as tell:
        status, answer = ask(address, "POST", "/audit/run", {**body, "wait": 1})
        while status == 202:
            tell(answer["done"], answer["total"], answer["at"])
            time.sleep(_ASK_AGAIN_S)
            status, answer = ask(address, "GET", answer["href"])
    return answer


async def _audit(
    in_force: settings.Settings, wanted: "Sequence[Series] | None", span: "Span | None", full: bool
) -> Any:
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.services.audit import Auditor
    from data_manager.services.auditing.desk import audit_facts
    from data_manager.services.reporting import Reporter

    async with app.reader(in_force) as store, AsyncExitStack() as stack:
        meta = await open_meta(in_force.metadata_url)
        stack.push_async_callback(meta.close)
        reporter = Reporter(meta.keep_findings, waiting_max=1_000_000)
        auditor = Auditor(
            store,
            meta,
            meta,
            SystemClock(),
            reporter.report,
            grace_ms=in_force.gap_tolerance_seconds * 1_000,
            told_from_ms=in_force.min_gap_size_seconds * 1_000,
        )
        with progress("audit") as tell:
            done = await auditor.run(wanted, span=span, full=full, progress=tell)
        await reporter.keep()
        return audit_facts(done)


def _say(done: Any, *, as_json: bool) -> None:
    from data_manager.domain.time import iso

    if as_json:
        say_json(done)
        return
    heads = ("series", "missing from", "to", "rows", "by", "state")
    lines = [
        (
            one["series"], iso(one["start_ms"]), iso(one["end_ms"]),
            "?" if one["missing"] is None else f"{one['missing']:,}", one["kind"], _word(one["state"]),
        )
        for one in done["holes"][:_SHOWN_MAX]
    ]  # fmt: skip
    if lines:
        say_table(heads, lines, right=("rows",))
    if done["holes_total"] > _SHOWN_MAX:
        typer.echo(f"and {done['holes_total'] - _SHOWN_MAX:,} more: --json names them", err=True)
    for name in done["failed"]:
        typer.echo(f"error: {name} could not be audited: nothing may be said of it", err=True)
    for name in done.get("unjudged", ()):
        typer.echo(f"{name}: nothing can be said of that span: see `GET /condition`", err=True)
    crossed = done["cross_checked"]
    judged = crossed["agreed"] + crossed["excused"] + crossed["differing"]
    if judged:
        typer.echo(f"{judged:,} candles compared with what makes them up, {crossed['differing']:,} differ", err=True)
    said = f"{done['audited']:,} series audited, {done['rows']:,} rows read, {done['holes_total']:,} holes"
    typer.echo(said, err=True)


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))
