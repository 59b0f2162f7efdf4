"""Commands about the installation itself: settings, environment, database, version."""

import asyncio
import os
import platform
from typing import Annotated

import typer

from data_manager import __version__, settings
from data_manager.cli.output import quiet_logs, say_json, say_table

installation = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]


@installation.command("config")
def config(as_json: Json = False) -> None:
    """Print every setting in force with unit, default and source. Credentials are hidden."""
    in_force = settings.load(os.environ)
    rows = settings.describe(in_force, os.environ)
    for warning in settings.warnings(os.environ):
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        say_json([row._asdict() for row in rows])
        return
    heads = ("setting", "value", "unit", "default", "source", "meaning")
    say_table(heads, [(row.name, row.value, row.unit, row.default, row.source, row.meaning) for row in rows])


@installation.command("doctor")
def doctor(as_json: Json = False) -> None:
    """Check this machine and these settings, and say how to mend what is wrong. Exit code 1 if anything is."""
    from data_manager.doctor import Check, checks

    async def all_checks() -> list[Check]:
        return [check async for check in checks(os.environ)]

    found = asyncio.run(all_checks())
    if as_json:
        say_json(found)
    else:
        marks = {True: "ok", None: "look", False: "FAIL"}
        say_table(
            ("", "check", "found", "what to do"),
            [(marks[check.ok], check.name, check.detail, check.fix) for check in found],
        )
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


@installation.command("migrate")
def migrate(as_json: Json = False) -> None:
    """Bring the metadata database to the layout of this version. Doing it twice changes nothing."""
    from data_manager import app

    in_force = settings.load(os.environ)
    quiet_logs()
    applied = asyncio.run(app.migrate(in_force))
    if as_json:
        say_json({"applied": applied})
    else:
        typer.echo("\n".join(applied) or "already up to date")


@installation.command("version")
def version(as_json: Json = False) -> None:
    """Print the version of the program and of what it runs on."""
    facts = {"version": __version__, "python": platform.python_version(), "system": platform.platform(terse=True)}
    if as_json:
        say_json(facts)
    else:
        typer.echo(f"data-manager {__version__} (Python {facts['python']}, {facts['system']})")
