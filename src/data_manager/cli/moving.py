"""Commands that carry rows from one store to another."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

moving = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]


@moving.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Where to; made when absent.", show_default=False)],
    series: Annotated[
        list[str] | None,
        typer.Argument(help="Such as um.trade.BTCUSDT or candles_BTCUSDT_1h; all.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write every row of the store into a folder of Parquet files, for `import` or for any tool that reads Parquet.

    Started again, whether it was interrupted or not, it writes what is missing in the folder or has changed since. The
    service may run meanwhile.
    """
    from data_manager import app
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS
    from data_manager.services.moving import export as write

    in_force = settings.load(os.environ)
    wanted = [parse_series(one, DATASETS, in_force.market) for one in series or ()]
    quiet_logs()

    async def work() -> list[tuple[str, int, int]]:
        async with app.reader(in_force) as store:
            with progress("export") as tell:
                parcels = await write(store, folder, wanted, progress=tell)
        names = sorted({one.series for one in parcels} | {one.id for one in wanted})
        mine = {name: [one.rows for one in parcels if one.series == name] for name in names}
        return [(name, len(rows), sum(rows)) for name, rows in mine.items()]

    found = asyncio.run(work())
    if as_json:
        rows = [{"series": name, "files": files, "rows": rows} for name, files, rows in found]
        say_json({"folder": str(folder), "series": rows, "rows": sum(one["rows"] for one in rows)})
        return
    say_table(
        ("series", "files", "rows"),
        [(name, f"{files:,}", f"{rows:,}") for name, files, rows in found],
        right=("files", "rows"),
    )


@moving.command("import")
def bring_in(
    folder: Annotated[Path, typer.Argument(help="What `export` wrote.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Append what `export` wrote to the store that the settings name, and prove row for row that it arrived.

    Can be stopped and started again, and done twice: what the store holds is not written again, but proved again. The
    embedded store takes it only while no service has it open.
    """
    from data_manager import app
    from data_manager.services.moving import bring_in as read

    in_force = settings.load(os.environ)
    quiet_logs()

    async def work() -> list[dict[str, object]]:
        async with app.writer(in_force) as store:
            with progress("import") as tell:
                arrivals = [one async for one in read(folder, store, progress=tell)]
        names = sorted({one.series for one in arrivals})
        by_series = [[one for one in arrivals if one.series == name] for name in names]
        return [
            {
                "series": mine[0].series,
                "rows": sum(one.rows for one in mine),
                "new": sum(one.new for one in mine),
                "changed": sum(one.changed for one in mine),
                "duplicate": sum(one.duplicate for one in mine),
                "verified": all(one.verified for one in mine),
            }
            for mine in by_series
        ]

    found = asyncio.run(work())
    if as_json:
        say_json({"folder": str(folder), "series": found})
    else:
        heads = ("series", "rows", "new", "changed", "duplicate", "verified")
        lines = [
            tuple(
                f"{one[head]:,}" if isinstance(one[head], int) and head != "verified" else str(one[head])
                for head in heads
            )
            for one in found
        ]
        say_table(heads, lines, right=heads[1:-1])
    if not all(one["verified"] for one in found):
        typer.echo("error: what the store holds differs from the export in the series that are not verified", err=True)
        raise typer.Exit(1)
