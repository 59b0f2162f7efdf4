"""Commands that run the service, and the one that feeds it recordings."""

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json
from data_manager.domain.errors import Unavailable

if TYPE_CHECKING:
    from data_manager.services.replay import ReplayProgress, ReplayReport


class Role(StrEnum):
    """What a process does."""

    ALL = "all"
    INGEST = "ingest"
    WORK = "work"
    API = "api"


service = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]


@service.command("run")
@service.command("up", hidden=True)
def run(as_json: Json = False) -> None:
    """Run everything on this machine: bus, live data from the exchange, store, API. Also called `up`.

    Starts its own nats-server unless NATS_URL names one. Ctrl-C stops it cleanly.
    """
    in_force = settings.load(os.environ)
    own_server, feeds = in_force.nats_url is None, in_force.enable_feed
    _serve(in_force, role=Role.ALL, own_server=own_server, feeds=feeds, as_json=as_json)


@service.command("serve")
def serve(
    role: Annotated[Role, typer.Option(help="What this process does.")] = Role.ALL,
    as_json: Json = False,
) -> None:
    """Run the service against a bus that exists (NATS_URL).

    ingest takes events from the bus into the store; work does what one replica does for all; api answers questions;
    all does the three. Every role may have any number of replicas where the store is MongoDB.
    """
    _serve(settings.load(os.environ), role=role, own_server=False, as_json=as_json)


def _serve(in_force: settings.Settings, *, role: Role, own_server: bool, as_json: bool, feeds: bool = False) -> None:
    gc.disable()  # what is imported and opened stays: looking for garbage in it is a tenth of a start. run() enables it
    try:
        import structlog

        from data_manager import app

        def say(banner: str, where: dict[str, str]) -> None:
            if as_json:
                say_json({"message": banner, **where})
            else:
                typer.echo(banner)
            for warning in settings.warnings(os.environ):
                structlog.get_logger(__name__).warning("a setting is not what it seems", reason=warning)

        _in_loop(app.run(in_force, role=role.value, own_server=own_server, feeds=feeds, say=say))
    finally:
        gc.enable()


@service.command("replay")
def replay(
    files: Annotated[list[Path], typer.Argument(help="Recordings: JSON lines, gzipped or not.", show_default=False)],
    speed: Annotated[str, typer.Option(help="max, or a number: 1 is the recorded pace.")] = "max",
    raw: Annotated[bool, typer.Option("--raw", help="Send bare messages, without the publisher's envelope.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Interleave the files by receive time.")] = False,
    subject: Annotated[str, typer.Option(help="Instead of NATS_CONSUMER_SUBJECT.")] = "",
    nats_url: Annotated[str, typer.Option("--nats-url", help="Instead of NATS_URL.")] = "",
    as_json: Json = False,
) -> None:
    """Publish recordings on the bus, as the publisher would have sent them."""
    from data_manager import app
    from data_manager.services.replay import parse_speed

    instead = {"NATS_CONSUMER_SUBJECT": subject, "NATS_URL": nats_url}
    in_force = settings.load({**os.environ, **{name: text for name, text in instead.items() if text}})
    pace = parse_speed(speed)
    quiet_logs()
    try:
        with progress("replay") as tell:
            report = _in_loop(app.replay(in_force, files, speed=pace, raw=raw, merge=merge, progress=_bar(tell)))
    except Unavailable as error:
        raise Unavailable(f"{error}; start the service (make run), or name its bus with NATS_URL") from error
    _say_report(report, as_json=as_json)
    if report.stopped:
        raise typer.Exit(130)


def _bar(tell: Callable[[int, int, str], None]) -> "Callable[[ReplayProgress], None]":
    def on_progress(at: "ReplayProgress") -> None:
        tell(at.bytes_read, at.bytes_total, f"{at.messages:,} messages  {at.file}")

    return on_progress


def _say_report(report: "ReplayReport", *, as_json: bool) -> None:
    if as_json:
        say_json(report)
        return
    rate = report.messages / report.seconds if report.seconds else 0.0
    said = f"{report.messages:,} messages ({report.bytes / 1e6:,.1f} MB) of {report.files} files"
    stopped = ", stopped before the end" if report.stopped else ""
    typer.echo(f"{said} in {report.seconds:.1f} s, {rate:,.0f} a second{stopped}")


def _in_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run work to its end on uvloop; what it returns."""
    from data_manager.adapters.loop import Loop

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)
