"""`data-manager feed`: the exchange's live streams onto the bus, in a process of its own."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import say_json
from data_manager.domain.errors import BadQuery

if TYPE_CHECKING:
    from data_manager.service.feeding import Feeder

feeds = typer.Typer()


@feeds.command("feed")
def feed(
    pairs: Annotated[str, typer.Option(help="Instead of SUPPORTED_PAIRS, joined by commas.")] = "",
    streams: Annotated[str, typer.Option(help="Instead of BINANCE_STREAMS, joined by commas.")] = "",
    exchange: Annotated[str, typer.Option(help="Instead of BINANCE_WS_URL.")] = "",
    subject: Annotated[str, typer.Option(help="Instead of NATS_CONSUMER_SUBJECT.")] = "",
    nats_url: Annotated[str, typer.Option("--nats-url", help="Instead of NATS_URL.")] = "",
    seconds: Annotated[float | None, typer.Option(help="End after so many.", show_default=False)] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", min=0, max=65_535, help="Serve metrics there; 0: any free port.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Take live data from the exchange and put it on the bus, in the publisher's envelope, until Ctrl-C.

    `run` does this by itself. Exit code 0 also when the exchange was away: what came of it is in the last line.
    """
    from data_manager import app

    if seconds is not None and seconds <= 0:
        raise BadQuery("seconds", seconds, "must be above 0")
    instead = {
        "SUPPORTED_PAIRS": pairs, "BINANCE_STREAMS": streams, "BINANCE_WS_URL": exchange,
        "NATS_CONSUMER_SUBJECT": subject, "NATS_URL": nats_url,
    }  # fmt: skip
    in_force = settings.load({**os.environ, **{name: text for name, text in instead.items() if text}})
    with _status() as tell:
        work = _in_loop(app.feed(in_force, seconds=seconds, metrics_port=metrics_port, say=tell))
    if as_json:
        say_json(work.facts())
    else:
        typer.echo(_summary(work))


@contextmanager
def _status() -> "Iterator[Callable[[Feeder], None]]":
    """One line on a terminal that says how it stands, made anew every second; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("connecting") as status:
        yield lambda work: status.update(_now(work))


def _now(work: "Feeder") -> str:
    states, opened = work.feed.states(), sum(line.current is not None for line in work.feed.lines)
    silent = states["silent"] + states["never heard"]
    said = [
        f"{opened} of {len(work.feed.lines)} sockets",
        f"{states['live']} of {states.total()} streams speak" + (f", {silent} are silent" if silent else ""),
        f"{work.feed.heard.total():,} messages",
        f"{work.outbox.confirmed:,} on the bus",
    ]
    if work.reason is not None:
        said.append(work.reason)
    return " · ".join(said)


def _summary(work: "Feeder") -> str:
    said = f"{work.feed.heard.total():,} messages heard, {work.outbox.confirmed:,} on the bus for sure"
    lost = work.feed.dropped + work.outbox.too_large
    left = sum(work.left().values())
    return said + (f", {lost:,} let go" if lost else "") + (f", {left:,} unconfirmed" if left else "")


def _in_loop(work: Any) -> Any:
    from data_manager.adapters.loop import Loop

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(work)
