"""`data-manager dead-letters`: what could not be kept as data, listed, shown, replayed after a fix, or dropped."""

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import progress, quiet_logs, say_json, say_table
from data_manager.domain.errors import BadQuery, NotFound, Unavailable

if TYPE_CHECKING:
    from data_manager.ports import KeptDeadLetter
    from data_manager.services.dead_letters.replay import Reader, Replayed, Tried

dead_letters = typer.Typer(name="dead-letters")
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Only this one, by the beginning of its id; repeatable.")]

_ID_SHOWN = 12


@dead_letters.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to skip.")] = 0,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """List the messages that could not be kept as data, with the reason of each; or do something about them."""
    from data_manager import app

    async def ask() -> "tuple[list[KeptDeadLetter], int]":
        async with app.metadata(in_force) as meta:
            return await meta.dead_letters(limit=limit, offset=offset, reason=reason)

    if context.invoked_subcommand is not None:
        return
    in_force = settings.load(os.environ)
    quiet_logs()
    letters, total = asyncio.run(ask())
    if as_json:
        say_json({"data": letters, "pagination": {"total": total, "limit": limit, "offset": offset}})
        return
    heads = ("id", "newest", "count", "reason", "field", "what is wrong", "subject", "begins")
    say_table(heads, [_line(letter) for letter in letters], right=("count",))
    typer.echo(f"{len(letters)} of {total}", err=True)


def _line(letter: "KeptDeadLetter") -> tuple[str, ...]:
    from data_manager.domain.time import iso

    begins = letter.sample[:60].replace("\n", "\\n")
    newest, field = iso(letter.received_ms), letter.field or ""
    shown = letter.id[:_ID_SHOWN]
    return (shown, newest, str(letter.count), letter.reason, field, letter.message, letter.subject, begins)


@dead_letters.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The beginning of its id.")],
    as_json: Json = False,
) -> None:
    """Write the whole payload of one to standard output, byte for byte; with --json, what is known of it."""
    import sys

    from data_manager import app
    from data_manager.services.dead_letters.replay import select

    async def ask() -> "tuple[KeptDeadLetter, bytes | None]":
        async with app.metadata(in_force) as meta:
            [letter] = await select(meta, [letter_id])
            return letter, await meta.dead_payload(letter.id)

    in_force = settings.load(os.environ)
    quiet_logs()
    letter, payload = asyncio.run(ask())
    if as_json:
        say_json(letter)
        return
    if payload is None:
        raise NotFound(f"of the {letter.payload_bytes:,} bytes of dead letter {letter.id} only a part is kept")
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()


@dead_letters.command("replay")
def replay(
    reason: Reason = None,
    ids: Ids = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of each now.")] = False,
    as_json: Json = False,
) -> None:
    """Put them on the bus again, after a fix; those that the stream has are removed.

    The running service takes them as it takes everything; what it still cannot keep is a dead letter again. Nothing is
    removed where no JetStream stream acknowledges it.
    """
    in_force = settings.load(os.environ)
    quiet_logs()
    if dry_run:
        _say_tried(asyncio.run(_try(in_force, ids or (), reason)), as_json=as_json)
        return
    try:
        report = asyncio.run(_replay(in_force, ids or (), reason))
    except Unavailable as error:
        raise Unavailable(f"{error}; what is not with the stream stays here") from error
    _say_replayed(report, as_json=as_json)


async def _try(in_force: settings.Settings, ids: Sequence[str], reason: str | None) -> "list[Tried]":
    from data_manager import app
    from data_manager.services.dead_letters.replay import select, tried

    async with app.metadata(in_force) as meta:
        return await tried(meta, await select(meta, ids, reason), _reader(in_force))


def _reader(in_force: settings.Settings) -> "Reader":
    from data_manager.adapters.binance.wire import DATASET_OF, Decoder
    from data_manager.adapters.clock import SystemClock
    from data_manager.services.dead_letters.replay import Reader

    decode = Decoder(in_force.market, shared=in_force.subject_is_shared)
    return Reader(decode, DATASET_OF, in_force.market, SystemClock())


async def _replay(in_force: settings.Settings, ids: Sequence[str], reason: str | None) -> "Replayed":
    from data_manager import app
    from data_manager.adapters.bus.acknowledged import open_acknowledged
    from data_manager.service.access import nats_access
    from data_manager.services.dead_letters.replay import replay as put_back
    from data_manager.services.dead_letters.replay import select

    async with app.metadata(in_force) as meta:
        letters = await select(meta, ids, reason)
        access = nats_access(in_force, in_force.nats_servers)
        async with open_acknowledged(access) as publisher:
            with progress("replay") as tell:
                return await put_back(meta, letters, publisher, in_force.nats_consumer_subject, tell)


def _say_tried(found: "Sequence[Tried]", *, as_json: bool) -> None:
    good = sum(one.now is not None and one.now.good for one in found)
    if as_json:
        say_json({"data": [_facts(one) for one in found], "letters": len(found), "would_parse": good})
        return
    heads = ("id", "count", "reason", "field", "now")
    say_table(heads, [_line_now(one) for one in found], right=("count",))
    typer.echo(f"{good} of {len(found)} would be taken now; nothing was changed", err=True)


def _line_now(one: "Tried") -> tuple[str, ...]:
    letter = one.letter
    return (letter.id[:_ID_SHOWN], str(letter.count), letter.reason, letter.field or "", _now(one))


def _facts(one: "Tried") -> dict[str, Any]:
    letter = one.letter
    known = {"id": letter.id, "reason": letter.reason, "field": letter.field, "count": letter.count}
    return {**known, "replayable": one.now is not None, "now": one.now}


def _now(one: "Tried") -> str:
    if one.now is None:
        return f"cannot be replayed: of its {one.letter.payload_bytes:,} bytes only a part is kept"
    stored = [f"{count} {name}" for name, count in one.now.stored.items()]
    parts = [f"would be taken: {', '.join(stored)}"] if stored else []
    parts += [f"still refused: {why}" for why in one.now.refused[:3]]
    parts += [f"is no market data: {reason}" for reason in one.now.ignored[:1]]
    return "; ".join(parts)


def _say_replayed(report: "Replayed", *, as_json: bool) -> None:
    if as_json:
        say_json(report)
        return
    typer.echo(f"{report.published:,} messages published, {report.removed:,} of {report.letters:,} letters removed")
    for count, why in (
        (report.came_again, "came again meanwhile, and stay"),
        (report.unacknowledged, "stay: no stream captures the subject, so nobody says that they are safe"),
        (report.partial, "cannot be replayed: only a part of them is kept"),
        (report.elsewhere, "cannot be replayed: NATS_CONSUMER_SUBJECT does not say where to"),
    ):
        if count:
            typer.echo(f"{count:,} {why}", err=True)


@dead_letters.command("drop")
def drop(
    reason: Reason = None,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Every one of them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really.")] = False,
    as_json: Json = False,
) -> None:
    """Remove them for good."""
    from data_manager import app
    from data_manager.services.dead_letters.replay import select

    async def remove() -> tuple[int, int]:
        async with app.metadata(in_force) as meta:
            letters = await select(meta, ids or (), reason)
            seen = {letter.id: letter.count for letter in letters}
            return len(letters), await meta.forget_dead(seen) if yes else 0

    if not (reason or ids or everything):
        raise BadQuery("reason", None, "say which: --reason, --id or --all")
    in_force = settings.load(os.environ)
    quiet_logs()
    found, removed = asyncio.run(remove())
    if not yes:
        raise BadQuery("yes", False, f"{found:,} dead letters would be removed for good: add --yes")
    if as_json:
        say_json({"letters": found, "removed": removed})
    else:
        typer.echo(f"{removed:,} of {found:,} dead letters removed")
