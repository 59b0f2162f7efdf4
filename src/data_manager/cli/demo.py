"""`data-manager demo`: the whole loop, played on this machine with no internet."""

import asyncio
import signal
from typing import Annotated, Any

import typer

from data_manager.cli.output import quiet_logs, say_json

demos = typer.Typer()


@demos.command("demo")
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="Plain lines, no colours.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="In under a minute.")] = False,
    seed: Annotated[int, typer.Option(help="One seed is one market.")] = 1,
    duration: Annotated[
        float | None, typer.Option(help="About so many seconds, 40 to 3600; 120.", show_default=False)
    ] = None,
    symbols: Annotated[int, typer.Option(help="How many symbols trade, 5 to 20.")] = 20,
    port: Annotated[int, typer.Option(help="Of the API; 0: any free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Only say how it came out, as JSON.")] = False,
) -> None:
    """See the whole loop on this machine: live data, an outage, the holes found, healed and certified, the truth kept.

    Starts a simulated exchange, a nats-server and the service in a folder of its own, breaks things, and compares in
    the end what is held with what the exchange knows to be true. Exit code 0 only if that is the same, row for row.
    Time goes faster than yours, by as much as the duration asks for.
    """
    from data_manager.demo.acts import play
    from data_manager.demo.narrator import Narrator
    from data_manager.demo.plan import plan_of

    plan = plan_of(seed=seed, fast=fast, duration_s=duration, port=port, symbols=symbols)
    quiet_logs()
    outcome = _in_loop(play(plan, Narrator(headless=headless, silent=as_json)))
    if as_json:
        say_json(outcome.facts())
    if not outcome.holds:
        raise typer.Exit(1)


def _in_loop(work: Any) -> Any:
    """Run it to its end; SIGTERM ends it as Ctrl-C does, with everything that it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with asyncio.Runner() as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
