"""Commands about the installation itself: settings, environment, database, version."""

import asyncio
import os
import platform
from collections.abc import Sequence
from typing import Annotated

import typer

from data_manager import __version__, settings
from data_manager.cli.output import quiet_logs, say_json, say_table
from data_manager.domain.errors import BadQuery

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

    quiet_logs()

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
def migrate(
    to: Annotated[
        str, typer.Option(metavar="REVISION", help="Bring the metadata to this revision, back as well as forth.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Only say what would be done; exit code 1 when that is anything.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really go back.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the databases to the layout of this version: tables, indexes. Doing it twice changes nothing.

    With --to an earlier revision, before an earlier version of the program is installed: what only the later one can
    hold is lost. A service of this version that starts afterwards brings it forward again.
    """
    from data_manager.service import migrating

    if to and check:
        raise BadQuery("check", True, "says what a migration to this version would do: leave out --to")
    in_force = settings.load(os.environ)
    quiet_logs()
    if check:
        _say_pending(asyncio.run(migrating.check(in_force)), as_json=as_json)
        return
    done = asyncio.run(migrating.move_to(in_force, to, undo=yes) if to else migrating.migrate(in_force))
    if as_json:
        say_json({"applied": done})
    else:
        typer.echo("\n".join(done) or "already up to date")


def _say_pending(pending: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        say_json({"up_to_date": not pending, "pending": pending})
    else:
        typer.echo("\n".join(pending) or "up to date")
    if pending:
        raise typer.Exit(1)


@installation.command("version")
def version(as_json: Json = False) -> None:
    """Print the version of the program and of what it runs on."""
    facts = {"version": __version__, "python": platform.python_version(), "system": platform.platform(terse=True)}
    if as_json:
        say_json(facts)
    else:
        typer.echo(f"data-manager {__version__} (Python {facts['python']}, {facts['system']})")
