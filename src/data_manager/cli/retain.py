"""`data-manager retain`: let go now of what is older than its retention, certified first."""

import asyncio
import os
import time
from typing import Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

retentions = typer.Typer()
_SHOWN_MAX = 50
_ASK_AGAIN_S = 0.2


@retentions.command("retain")
def retain(
    series: Annotated[
        list[str] | None, typer.Option(help="Only this one, such as um.trade.BTCUSDT; repeatable.", show_default="all")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is due, and change nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also rows received lately, and damaged ones that cannot be certified.")
    ] = False,
    at: Annotated[
        str,
        typer.Option(help="Ask the service there, such as http://127.0.0.1:8000.", show_default="the one on DATA_DIR"),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Let go of rows that are older than their retention, by their own time and by when they were received.

    Days go as a whole, each certified first and written down afterwards. A service that runs on DATA_DIR does it itself
    and is asked over HTTP; where none runs, this command does it. Exit code 1 when something that is due had to stay
    because it cannot be certified.
    """
    from data_manager.cli.asking import address_of
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS

    in_force = settings.load(os.environ)
    wanted = [parse_series(one, DATASETS, in_force.market) for one in series or ()] or None
    quiet_logs()
    address = address_of(in_force, at)
    with progress("retain") as tell:
        if address is None:
            done = asyncio.run(_retain(in_force, wanted, dry_run, force, tell))
        else:
            body = {"dry_run": dry_run, "force": force} | ({"series": [one.id for one in wanted]} if wanted else {})
            done = _ask(address, body, tell)
    _say(done, as_json=as_json)
    if done["failed"]:
        raise typer.Exit(1)


async def _retain(in_force: settings.Settings, wanted: Any, dry_run: bool, force: bool, tell: Any) -> Any:
    from msgspec import to_builtins

    from data_manager import app

    return to_builtins(await app.retain(in_force, wanted, dry_run=dry_run, force=force, tell=tell))


def _ask(address: str, body: dict[str, Any], tell: Any) -> Any:
    from data_manager.cli.asking import ask

    status, answer = ask(address, "POST", "/retention/run", body)
    while status == 202:
        tell(answer["done"], answer["total"], answer["at"])
        time.sleep(_ASK_AGAIN_S)
        status, answer = ask(address, "GET", answer["href"])
    return answer


def _say(done: Any, *, as_json: bool) -> None:
    from data_manager.domain.time import iso

    if as_json:
        say_json(done)
        return
    heads = ("series", "from", "to", "kept days", "rows", "certificate")
    lines = [
        (
            one["series"], iso(one["start_ms"]), iso(one["end_ms"]), str(one["kept_days"]),
            "?" if one["rows"] is None else f"{one['rows']:,}", (one["certificate"] or "-")[:12],
        )
        for one in done["pieces"][:_SHOWN_MAX]
    ]  # fmt: skip
    if lines:
        say_table(heads, lines, right=("kept days", "rows"))
    if len(done["pieces"]) > _SHOWN_MAX:
        typer.echo(f"and {len(done['pieces']) - _SHOWN_MAX:,} more: --json names them", err=True)
    for name, why in done["failed"].items():
        typer.echo(f"error: {name}: its rows stay, for they cannot be certified: {why}", err=True)
    due = sum(one["rows"] or 0 for one in done["pieces"])
    what = f"{due:,} rows are due" if done["dry_run"] else f"{done['dropped']:,} rows went"
    more = "; more is due than one run may let go" if done["capped"] else ""
    waiting = f"; {done['waiting']:,} old pieces wait, for they were received lately" if done["waiting"] else ""
    typer.echo(f"{what} in {len(done['pieces']):,} pieces{waiting}{more}", err=True)
    if not done["dry_run"]:
        typer.echo(f"{done['doubled']:,} keys stood twice", err=True)
