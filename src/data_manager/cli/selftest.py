"""`data-manager selftest`: known faults are put into a copy of data, and the auditor is scored by what it finds."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from data_manager.services.selftest.playing import Stage, Wire
    from data_manager.services.selftest.running import Result

selftests = typer.Typer()
_MINUTES, _MINUTES_SHORT = 20, 14


@selftests.command("selftest")
def selftest(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recordings, as --recording names them.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses what goes wrong, and the generated market.")] = 1,
    recording: Annotated[
        list[Path] | None,
        typer.Option(help="Use this recording instead of a generated market; repeatable.", show_default=False),
    ] = None,
    market: Annotated[str, typer.Option(help="Of the recordings.", show_default="MARKET")] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="Only this class of fault; repeatable.", show_default="all")
    ] = None,
    tolerance_s: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=86_400,
            help="Weaken the auditor: it tells no hole of so many seconds or less.",
            show_default="what MIN_GAP_SIZE_SECONDS leaves untold",
        ),
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="A shorter market, for every day.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Put known faults into a copy of data, and score how well they are found.

    The copy goes the real way (decode, buffer, pack, append, audit) into a store of its own in a temporary folder; the
    data of the service is not touched, and no service need run. Exit code 1 when a lost row, a doubled one, a broken
    chain or a tampered row is not found exactly, or anything is reported there, or of the generated market without
    faults, that was not put in.
    """
    in_force = settings.load(os.environ)
    told_from_ms = in_force.min_gap_size_seconds * 1_000 if tolerance_s is None else tolerance_s * 1_000 + 1
    minutes = _MINUTES_SHORT if short else _MINUTES
    quiet_logs()
    tapes, of = [*(recording or ()), *(files or ())], market or in_force.market
    grace_ms = in_force.gap_tolerance_seconds * 1_000
    work = selftest_of(seed, tapes, of, only or [], minutes=minutes, told_from_ms=told_from_ms, grace_ms=grace_ms)
    done = asyncio.run(work)
    if as_json:
        say_json({"passed": done.passed, "untested": done.untested, **_facts(done)})
    else:
        _say(done)
    if not done.passed:
        raise typer.Exit(1)


async def selftest_of(
    seed: int,
    files: "Sequence[Path]",
    market: str,
    only: "Sequence[str]",
    *,
    minutes: int = _MINUTES_SHORT,
    told_from_ms: int = 0,
    grace_ms: int = 10_000,
) -> "Result":
    """The self-test of these recordings, or without any of a market generated from the seed."""
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.domain.dataset import MARKETS
    from data_manager.domain.errors import BadQuery
    from data_manager.services.selftest.running import auditor_of, selftest
    from data_manager.services.selftest.tape import generated, recorded

    if market not in MARKETS:
        raise BadQuery("market", market, f"must be one of {' '.join(MARKETS)}")
    tape = recorded(files) if files else generated(seed, minutes)
    with TemporaryDirectory(prefix="data-manager-selftest-") as folder, progress("self-test") as tell:
        template = Path(folder) / "metadata.sqlite"
        await (await open_meta(f"sqlite:///{template}")).close()
        numbers = count()

        @asynccontextmanager
        async def open_stage() -> "AsyncIterator[Stage]":
            async with _stage(Path(folder) / str(next(numbers)), template) as stage:
                yield stage

        return await selftest(
            tape,
            _wire(market if files else "um"),
            open_stage,
            seed=seed,
            only=only,
            clean_tape=not files,
            auditors=partial(auditor_of, told_from_ms=told_from_ms, grace_ms=grace_ms),
            grace_ms=grace_ms,
            tell=tell,
        )


@asynccontextmanager
async def _stage(folder: Path, template: Path) -> "AsyncIterator[Stage]":
    """An empty store and empty metadata in the folder, which is gone afterwards."""
    from data_manager.adapters.meta.sql import open_meta
    from data_manager.adapters.store.embedded import EmbeddedStore
    from data_manager.services.selftest.playing import Stage

    await asyncio.to_thread(_furnish, folder, template)
    meta = await open_meta(f"sqlite:///{folder / template.name}", migrate=False)
    store = EmbeddedStore(folder, 64 << 20)
    try:
        yield Stage(store, meta)
    finally:
        await store.close()
        await meta.close()
        shutil.rmtree(folder)


def _furnish(folder: Path, template: Path) -> None:
    folder.mkdir()
    shutil.copy(template, folder / template.name)


def _wire(market: str) -> "Wire":
    from data_manager.adapters.binance.wire import DATASET_OF, LABELLED, Decoder
    from data_manager.adapters.binance.wire_paths import path_of
    from data_manager.services.selftest.playing import Wire

    return Wire(Decoder(market), DATASET_OF, LABELLED, path_of, market)


def _facts(done: "Result") -> dict[str, object]:
    from msgspec import to_builtins

    facts: dict[str, object] = to_builtins(done)
    return facts


def _say(done: "Result") -> None:
    heads = ("fault", "put in", "found", "recall", "precision", "delay median", "delay max", "")
    lines = [
        (
            one.fault, f"{one.put:,}", f"{one.found:,}", _share(one.recall), _share(one.precision),
            _seconds(one.delay_median_s), _seconds(one.delay_max_s),
            "must be 1" if one.fault in done.required else "",
        )
        for one in done.scores
    ]  # fmt: skip
    say_table(heads, lines, right=heads[1:-1])
    if done.untested:
        typer.echo(f"the tape has no place for {', '.join(done.untested)}: not tested", err=True)
    for one in done.scores:
        for missed in one.missed:
            typer.echo(f"{one.fault}: not found: {missed}", err=True)
        for false in one.false:
            typer.echo(f"{one.fault}: false alarm: {false}", err=True)
    if done.clean and done.clean_tape:
        typer.echo(f"{done.clean:,} things were reported of the market without any fault", err=True)
    typer.echo(
        f"{done.messages:,} messages, audited every {done.audit_every_s:g} s of the tape, seed {done.seed}: "
        f"{'passed' if done.passed else 'failed'}",
        err=True,
    )


def _share(share: float | None) -> str:
    """Three digits, but 1 only of what is whole."""
    if share is None:
        return "-"
    return "1" if share == 1 else f"{min(share, 0.999):.3f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
