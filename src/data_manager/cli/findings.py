"""`data-manager findings`: what was found to be wrong, while the service runs or while it does not."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from data_manager import settings
from data_manager.cli.output import quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from data_manager.domain.finding import Finding

found = typer.Typer()


@found.command("findings")
def findings(
    series: Annotated[
        str | None,
        typer.Argument(help="Only of this one, such as um.trade.BTCUSDT or candles_BTCUSDT_1h.", show_default=False),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as silence.")] = None,
    is_open: Annotated[
        bool | None, typer.Option("--open/--resolved", help="Only what stands, or only what is over.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to skip.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """List what was found to be wrong: silence, drops, holes, drifted indexes, ..., with the evidence of each."""
    from data_manager import app
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS
    from data_manager.domain.finding import facts, kind_named

    async def ask() -> "tuple[list[Finding], int]":
        async with app.metadata(in_force) as meta:
            return await meta.findings(
                limit=limit,
                offset=offset,
                kind=wanted,
                series=of,
                open_only=is_open is True,
                resolved_only=is_open is False,
            )

    in_force = settings.load(os.environ)
    wanted = None if kind is None else kind_named(kind)
    of = None if series is None else parse_series(series, DATASETS, in_force.market).id
    quiet_logs()
    page, total = asyncio.run(ask())
    if as_json:
        pagination = {"limit": limit, "offset": offset, "total": total, "has_more": offset + len(page) < total}
        say_json({"data": [facts(one) for one in page], "pagination": pagination})
        return
    say_table(("found", "severity", "kind", "of", "from", "to", "state", "evidence"), [_line(one) for one in page])
    typer.echo(f"{len(page)} of {total}", err=True)


def _line(one: "Finding") -> tuple[str, ...]:
    from data_manager.domain.time import iso

    of, until = one.series or one.stream or "", "" if one.end_ms is None else iso(one.end_ms)
    evidence = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in one.evidence.items())
    state = "open" if one.open else "over"
    return (iso(one.found_ms), one.severity, one.kind.value, of, iso(one.start_ms), until, state, evidence)
