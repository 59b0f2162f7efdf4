"""`data-manager backfill` and `backfill-jobs`: fetch a part of the past, and look after the jobs that do it."""

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from data_manager.domain.job import Job
    from data_manager.services.backfilling.office import Office

backfills = typer.Typer()
jobs = typer.Typer(name="backfill-jobs", no_args_is_help=True, help="List, show, cancel and retry backfill jobs.")
backfills.add_typer(jobs)
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id.", show_default=False)]


@backfills.command("backfill")
def backfill(
    series: Annotated[
        list[str], typer.Argument(help="Such as um.candle.BTCUSDT.1m or candles_BTCUSDT_1h.", show_default=False)
    ],
    start: Annotated[str, typer.Option(help="From then on: ISO 8601 or milliseconds.", show_default=False)],
    end: Annotated[str, typer.Option(help="Before then; now.")] = "",
    source: Annotated[str, typer.Option(help="auto, rest or archive.")] = "auto",
    priority: Annotated[int, typer.Option(help="1 goes first, 10 last.")] = 5,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is done.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a part of the past of some series from the exchange or its archives.

    While a service runs it does the work, and --wait waits for it; otherwise the command does the work itself. What is
    interrupted goes on where it stopped when it is asked for again. Exit code 1 when a job failed or was cancelled.
    """
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.domain.dataset import parse_series
    from data_manager.domain.datasets import DATASETS
    from data_manager.domain.time import parse_time
    from data_manager.service.errand import Asked
    from data_manager.services.backfilling.asking import require_choice, require_source

    in_force = settings.load(os.environ)
    wanted = [require_source(parse_series(one, DATASETS, in_force.market)) for one in series]
    end_ms = parse_time(end, field="end") if end else SystemClock().now_ms()
    asked = Asked(wanted, parse_time(start), end_ms, priority, require_choice(source))
    quiet_logs()
    with progress("backfill") as tell:
        done = asyncio.run(app.backfill(in_force, asked, wait=wait, tell=_bar(tell)))
    _say(done, as_json=as_json)
    if any(job.state.value in ("failed", "cancelled") for job in done):
        raise typer.Exit(1)


def _bar(tell: Any) -> Any:
    """One bar over all jobs."""
    seen: list[Job] = []

    def told(now: "Sequence[Job]", remark: str) -> None:
        if now:
            seen[:] = now
        over = sum(not job.open for job in seen)
        rows = sum(job.fetched for job in seen)
        said = remark or f"{over} of {len(seen)} done, {rows:,} rows"
        tell(round(sum(job.progress for job in seen) * 1_000), len(seen) * 1_000, said)

    return told


@jobs.command("list")
def listed(
    status: Annotated[
        list[str] | None, typer.Option(help="pending, running, completed, failed, cancelled or open; repeatable; all.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to skip.")] = 0,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    from data_manager.domain.errors import BadQuery
    from data_manager.domain.job import OPEN, JobState
    from data_manager.services.backfilling.telling import job_facts

    words = {state.value: {state} for state in JobState} | {"open": {*OPEN}}
    for word in status or ():
        if word not in words:
            raise BadQuery("status", word, f"must be one of {' '.join(words)}")
    states = [state for state in JobState if any(state in words[word] for word in status or ())]

    async def ask(office: "Office") -> "tuple[list[Job], int]":
        return await office.jobs(limit=limit, offset=offset, states=states)

    found, total = _ask(ask)
    if as_json:
        facts = [job_facts(job) for job in found]
        say_json({"jobs": facts, "total_count": total})
        return
    _table(found)
    typer.echo(f"{len(found)} of {total}", err=True)


@jobs.command("show")
def show(job_id: JobId, as_json: Json = False) -> None:
    """Show one job: how far it is, what came of its rows, and what the source lacks."""
    _say_one(_ask(lambda office: office.job(job_id)), as_json=as_json)


@jobs.command("cancel")
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Stop a job; what it fetched stays."""
    _say_one(_ask(lambda office: office.cancel(job_id)), as_json=as_json)


@jobs.command("retry")
def retry(job_id: JobId, as_json: Json = False) -> None:
    """Open a failed or cancelled job again: it goes on where it stopped, as soon as a service runs."""
    _say_one(_ask(lambda office: office.retry(job_id)), as_json=as_json)


def _ask(question: Any) -> Any:
    from data_manager import app
    from data_manager.adapters.clock import SystemClock
    from data_manager.services.backfilling.office import Office

    async def work() -> Any:
        async with app.metadata(in_force) as meta:
            return await question(Office(meta, SystemClock()))

    in_force = settings.load(os.environ)
    quiet_logs()
    return asyncio.run(work())


def _say(done: "Sequence[Job]", *, as_json: bool) -> None:
    from data_manager.services.backfilling.telling import job_facts

    if as_json:
        say_json({"jobs": [job_facts(job) for job in done]})
    else:
        _table(done)
        _say_absent(done)


def _say_one(job: "Job", *, as_json: bool) -> None:
    from data_manager.services.backfilling.telling import job_facts

    if as_json:
        say_json(job_facts(job))
        return
    _table([job])
    _say_absent([job])


def _table(found: "Sequence[Job]") -> None:
    from data_manager.domain.time import iso
    from data_manager.services.backfilling.telling import percent

    heads = ("job", "series", "from", "to", "status", "%", "fetched", "new", "why")
    lines = [
        (
            job.id, job.series, iso(job.span.start_ms), iso(job.span.end_ms), job.state.value, f"{percent(job):.2f}",
            f"{job.fetched:,}", f"{job.new + job.changed:,}", job.error or "",
        )
        for job in found
    ]  # fmt: skip
    say_table(heads, lines, right=("%", "fetched", "new"))


def _say_absent(found: "Sequence[Job]") -> None:
    """What the source lacks, which is no failure."""
    from data_manager.domain.time import iso

    lacks = [(job, one) for job in found for one in job.absent]
    if lacks:
        heads = ("series", "absent at the source from", "to", "rows", "asked", "in doubt")
        lines = [
            (
                job.series,
                iso(one.start_ms),
                iso(one.end_ms),
                "?" if one.missing is None else f"{one.missing:,}",
                one.call,
                one.doubt or "",
            )
            for job, one in lacks
        ]
        say_table(heads, lines, right=("rows",))
    more = sum(job.absent_more for job in found)
    if more:
        typer.echo(f"and {more:,} more", err=True)
