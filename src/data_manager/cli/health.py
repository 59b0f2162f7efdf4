"""`data-manager health`: how well each series stands, while the service runs or while it does not."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from data_manager import settings
from data_manager.cli.output import quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_manager.domain.dataset import Series
    from data_manager.services.health import SeriesHealth

healths = typer.Typer()


@healths.command("health")
def health(
    series: Annotated[
        list[str] | None,
        typer.Argument(help="Such as um.trade.BTCUSDT or candles_BTCUSDT_1h; all.", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 unless all are healthy.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Show how well each series stands: its score and what pulls it down. What is not known is shown as ?."""
    from data_manager.api.series_health import series_facts
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS

    in_force = settings.load(os.environ)
    wanted = [parse_series(one, DATASETS, in_force.market) for one in series or ()]
    quiet_logs()
    found = asyncio.run(_ask(in_force, wanted))
    if as_json:
        say_json({"data": [series_facts(one) for one in found]})
    else:
        _say(found)
    if strict and any(one.health.grade != "healthy" for one in found):
        raise typer.Exit(1)


async def _ask(in_force: settings.Settings, wanted: "Sequence[Series]") -> "list[SeriesHealth]":
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.domain.errors import NotFound
    from data_manager.service.auditing import conditions_of
    from data_manager.services.health import HealthBook

    async with app.reader(in_force) as store, app.metadata(in_force) as meta:
        promised = in_force.completeness_target_percent / 100
        book = HealthBook(store, conditions_of(in_force, meta), SystemClock(), promised=promised)
        if not wanted:
            return await book.every()
        found = []
        for one in wanted:
            found.append(await book.of(one))
            if not await book.knows(one):
                raise NotFound(f"nothing was ever held of {one.id}")
        return found


def _say(found: "Sequence[SeriesHealth]") -> None:
    from data_manager.domain.health import overall
    from data_manager.services.health_log import row_of

    lines = []
    for one in found:
        row = row_of(one, one.now_ms)
        lines.append(
            (
                one.series.id, one.health.grade, _number(row.score), _number(row.completeness), _number(row.gaps),
                _number(row.freshness_s), _number(row.consistency), _number(row.duplicates),
            )
        )  # fmt: skip
    heads = ("series", "status", "score", "completeness %", "gaps", "age s", "valid %", "doubled")
    say_table(heads, lines, right=heads[2:])
    total = overall(one.health for one in found)
    said = f"{total.healthy} healthy, {total.degraded} degraded, {total.unhealthy} unhealthy, {total.unknown} unknown"
    typer.echo(f"{total.total} series: {said}; score {_number(total.score)}", err=True)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,}"
