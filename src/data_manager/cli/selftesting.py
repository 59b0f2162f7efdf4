"""`data-manager selftest`: does the service find what is wrong? Faults are planted, its answers scored."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from data_manager.services.selftesting.trial import Trial

selftests = typer.Typer()
_SHOWN_MAX = 10


@selftests.command("selftest")
def selftest(
    seed: Annotated[int, typer.Option(min=0, help="One seed is one market and one set of faults.")] = 1,
    minutes: Annotated[int, typer.Option(min=5, max=240, help="How much of a market is made, in its own time.")] = 10,
    recording: Annotated[
        list[Path] | None,
        typer.Option(
            help="Plant into this instead: a recording of MARKET, as for replay; repeatable.", show_default=""
        ),
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="Only this class of fault; repeatable.", show_default="all")
    ] = None,
    every_s: Annotated[int, typer.Option("--every-s", min=1, max=3_600, help="Data seconds from audit to audit.")] = 60,
    tolerance_s: Annotated[
        int | None,
        typer.Option(
            "--tolerance-s", min=0, help="Holes shorter than this are not told.", show_default="MIN_GAP_SIZE_SECONDS"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Plant faults into a copy of data, let the real service take it in and audit it, and score what it says.

    Nothing of yours is touched: all of it happens in a temporary folder. Recall is the share of faults that were
    answered as they must be, precision the share of answers that had a cause, delay the time from fault to answer in
    the time of the data. Exit code 1 when a dropped or doubled row or a broken chain was missed, or something was said
    there, or of the undamaged market, without a cause.
    """
    from data_manager.service import selftesting
    from data_manager.services.selftesting.planting import require_faults
    from data_manager.services.selftesting.playing import Options

    in_force = settings.load(os.environ)
    tolerated_s = in_force.min_gap_size_seconds if tolerance_s is None else tolerance_s
    options, faults = Options(every_s, tolerated_s * 1_000), require_faults(fault or ())
    quiet_logs()
    with progress("self-test") as tell:
        work = selftesting.selftest(
            options,
            seed=seed,
            minutes=minutes,
            recordings=recording or (),
            market=in_force.market,
            faults=faults,
            progress=tell,
        )
        done = asyncio.run(work)
    if as_json:
        say_json(done)
    else:
        _say(done)
    if not done.passed:
        raise typer.Exit(1)


def _say(done: "Trial") -> None:
    heads = ("fault", "planted", "answered", "without cause", "recall", "precision", "delay s", "at most s")
    lines = [
        (
            one.fault, str(one.planted), str(one.answered), str(len(one.without_cause)), _share(one.recall),
            _share(one.precision), _figure(one.delay_median_s), _figure(one.delay_max_s),
        )
        for one in done.scores
    ]  # fmt: skip
    say_table(heads, lines, right=heads[1:])
    for one in done.scores:
        for what in [*(f"missed: {name}" for name in one.missed), *one.without_cause][:_SHOWN_MAX]:
            typer.echo(f"{one.fault}: {what}", err=True)
    typer.echo(
        f"seed {done.seed}: {done.messages:,} messages of {done.series} series in {done.data_s:,.0f} s, audited every "
        f"{done.audit_every_s} s: {'passed' if done.passed else 'FAILED'}",
        err=True,
    )


def _share(value: float | None) -> str:
    """Never rounded to a whole that it is not."""
    return "-" if value is None else f"{int(value * 1_000) / 1_000:.3f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
