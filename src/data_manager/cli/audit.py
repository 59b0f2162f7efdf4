"""`data-manager audit`: look for what is missing or wrong, now, while the service runs or while it does not."""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_manager.domain.dataset import Series
    from data_manager.domain.span import Span
    from data_manager.services.audit import Audited

audits = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
_SHOWN_MAX = 50


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
    as_json: Json = False,
) -> None:
    """Look for what is missing or wrong among the rows held, and enter it into the hole ledger and the coverage.

    Exit code 0: all was audited, whatever is missing; 1: an audit could not be done.
    """
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS

    in_force = settings.load(os.environ)
    wanted = [parse_series(one, DATASETS, in_force.market) for one in series or ()]
    span = _span(start, end)
    quiet_logs()
    done = asyncio.run(_audit(in_force, wanted or None, span, full))
    _say(done, as_json=as_json)
    if done.failed or (strict and done.holes):
        raise typer.Exit(1)


def _span(start: str, end: str) -> "Span | None":
    from data_manager.domain.span import Span
    from data_manager.domain.time import EARLIEST_MS, LATEST_MS, parse_time

    if not (start or end):
        return None
    start_ms = parse_time(start, field="start") if start else EARLIEST_MS
    return Span(start_ms, parse_time(end, field="end") if end else LATEST_MS)


async def _audit(
    in_force: settings.Settings, wanted: "Sequence[Series] | None", span: "Span | None", full: bool
) -> "Audited":
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.services.audit import Auditor
    from data_manager.services.reporting import Reporter

    async with app.reader(in_force) as store, AsyncExitStack() as stack:
        meta = await open_meta(in_force.metadata_url)
        stack.push_async_callback(meta.close)
        reporter = Reporter(meta.keep_findings, waiting_max=1_000_000)
        auditor = Auditor(store, meta, meta, SystemClock(), reporter.report)
        with progress("audit") as tell:
            done = await auditor.run(wanted, span=span, full=full, progress=tell)
        await reporter.keep()
        return done


def _say(done: "Audited", *, as_json: bool) -> None:
    from data_manager.domain.time import iso

    if as_json:
        names = ("series", "start_ms", "end_ms", "kind", "missing", "state")
        holes = [{name: getattr(one, name) for name in names} for one in done.holes]
        facts = {"audited": done.audited, "failed": done.failed, "findings": done.findings, "rows": done.rows}
        say_json({**facts, "holes": holes})
        return
    heads = ("series", "missing from", "to", "rows", "by", "state")
    lines = [
        (
            one.series, iso(one.start_ms), iso(one.end_ms), "?" if one.missing is None else f"{one.missing:,}",
            one.kind, one.state.value,
        )
        for one in done.holes[:_SHOWN_MAX]
    ]  # fmt: skip
    if lines:
        say_table(heads, lines, right=("rows",))
    if len(done.holes) > _SHOWN_MAX:
        typer.echo(f"and {len(done.holes) - _SHOWN_MAX:,} more: --json names all", err=True)
    for name in done.failed:
        typer.echo(f"error: {name} could not be audited: nothing may be said of it", err=True)
    typer.echo(f"{done.audited:,} series audited, {done.rows:,} rows read, {len(done.holes):,} holes", err=True)
