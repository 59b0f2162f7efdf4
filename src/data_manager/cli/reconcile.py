"""`data-manager reconcile`: is what is held what the exchange says, and do its own sources agree?"""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from data_manager.services.reconciling import Reconciled

reconciles = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
_SHOWN_MAX = 50


@reconciles.command("reconcile")
def reconcile(
    series: Annotated[
        str, typer.Argument(help="Such as um.candle.BTCUSDT.1m or candles_BTCUSDT_1h.", show_default=False)
    ],
    start: Annotated[str, typer.Option(help="From then on: ISO 8601 or milliseconds.", show_default=False)],
    end: Annotated[str, typer.Option(help="Before then; now.")] = "",
    source: Annotated[str, typer.Option(help="auto (all), rest or archive.")] = "auto",
    as_json: Json = False,
) -> None:
    """Compare what is held with REST and the archives row by row, these with one another, and candles with trades.

    Every difference names the row, the field and both values, and is a finding until a later look finds none. What the
    exchange does by its own rules is excused: placeholders of burned ids, fills of the insurance fund. Nothing is
    changed: `backfill` of the span takes what history says. Exit code 1 when something differs.
    """
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS
    from data_manager.domain.errors import BadQuery
    from data_manager.domain.span import Span
    from data_manager.domain.time import iso, parse_time
    from data_manager.services.backfilling.asking import require_choice

    in_force = settings.load(os.environ)
    one = parse_series(series, DATASETS, in_force.market)
    start_ms = parse_time(start)
    end_ms = parse_time(end, field="end") if end else SystemClock().now_ms()
    if end_ms <= start_ms:
        raise BadQuery("--end", iso(end_ms), f"must lie after --start ({iso(start_ms)})")
    choice = require_choice(source)
    quiet_logs()
    with progress("reconcile") as tell:
        work = app.reconcile(in_force, one, Span(start_ms, end_ms), source=choice, progress=tell)
        done = asyncio.run(work)
    _say(done, as_json=as_json)
    if done.differing:
        raise typer.Exit(1)


def _say(done: "Reconciled", *, as_json: bool) -> None:
    from data_manager.domain.time import iso

    if as_json:
        say_json(done)
        return
    for one in done.unoffered:
        typer.echo(f"nobody can be asked from {iso(one.start_ms)} to {iso(one.end_ms)}", err=True)
    heads = ("compared", "with", "agree", "excused", "differ", "could not be judged")
    sums = [
        (one.what, one.to, f"{one.agreed:,}", f"{one.excused:,}", f"{one.differing:,}", f"{one.unjudged:,}")
        for one in done.compared
    ]
    say_table(heads, sums, right=heads[2:])
    if done.differences:
        lines = [
            (
                iso(one.at_ms), " ".join(map(str, one.key)), one.what, one.field or "", one.held or "", one.said or "",
                one.source,
            )
            for one in done.differences[:_SHOWN_MAX]
        ]  # fmt: skip
        say_table(("time", "key", "what", "field", "held", "said", "by"), lines)
    if len(done.differences) > _SHOWN_MAX:
        typer.echo(f"and {len(done.differences) - _SHOWN_MAX:,} more: --json names them", err=True)
