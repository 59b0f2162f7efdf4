"""`data-manager alerts`: what fires, what was sent and what did not arrive; and whether alerts would arrive at all."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_manager import settings
from data_manager.cli.output import quiet_logs, say_json, say_table

if TYPE_CHECKING:
    from data_manager.domain.alert import Message
    from data_manager.ports.alerts import Channel

alerts = typer.Typer(name="alerts")
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]


@alerts.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, the newest fired first.")] = 50,
    as_json: Json = False,
) -> None:
    """List the alerts that fire, and whether messages about them arrive; or send a test through every channel."""
    if context.invoked_subcommand is not None:
        return
    in_force = settings.load(os.environ)
    quiet_logs()
    found = asyncio.run(_ask(in_force, everything, limit))
    if as_json:
        say_json(found)
        return
    heads = ("severity", "kind", "about", "since", "state", "what")
    say_table(heads, [_line(one) for one in found["data"]])
    for channel in found["channels"]:
        trouble = f"; last error: {channel['error']}" if channel["error"] else ""
        states = ", ".join(f"{channel[name]:,} {name.replace('_', ' ')}" for name in ("sent", "waiting", "given_up"))
        typer.echo(f"{channel['name']} ({channel['to'] or 'not configured'}): {states}{trouble}", err=True)
    typer.echo(f"{len(found['data'])} of {found['total']}", err=True)


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["severity"], one["kind"], one["series"] or one["stream"] or "everything", one["since"], one["state"],
        one["text"],
    )  # fmt: skip


async def _ask(in_force: settings.Settings, everything: bool, limit: int) -> dict[str, Any]:
    from data_manager import app
    from data_manager.services.alerting.telling import alert_facts, channel_facts

    async with app.metadata(in_force) as meta:
        found, total = await meta.alerts(limit=limit, firing=None if everything else True)
        leads_to = {one.name: one.shown for one in _channels(in_force)}
        channels = await channel_facts(meta, leads_to)
    return {"data": [alert_facts(one) for one in found], "total": total, "channels": channels}


def _channels(in_force: settings.Settings) -> "list[Channel]":
    from data_manager.service.access import nats_access
    from data_manager.service.channels import alert_channels

    return alert_channels(in_force, nats_access(in_force, in_force.nats_servers))


@alerts.command("test")
def send_test(as_json: Json = False) -> None:
    """Send a test alert through every configured channel. Exit code 1 when it does not arrive at one of them."""
    in_force = settings.load(os.environ)
    quiet_logs()
    outcomes = asyncio.run(_send(_channels(in_force)))
    if as_json:
        say_json({"channels": outcomes})
    else:
        rows = [
            (one["name"], "ok" if one["error"] is None else "FAIL", one["to"], one["error"] or "") for one in outcomes
        ]
        say_table(("channel", "", "to", "why"), rows)
    if any(one["error"] is not None for one in outcomes):
        raise typer.Exit(1)


async def _send(channels: "list[Channel]") -> list[dict[str, Any]]:
    from data_manager.adapters.clock import SystemClock
    from data_manager.domain.alert import test_message

    message = test_message([one.name for one in channels], SystemClock().now_ms())
    errors = await asyncio.gather(*(_sent(one, message) for one in channels))
    return [{"name": one.name, "to": one.shown, "error": error} for one, error in zip(channels, errors, strict=True)]


async def _sent(channel: "Channel", message: "Message") -> str | None:
    """Why it did not arrive; None when it did."""
    from data_manager.domain.errors import Rejected, Unavailable

    try:
        async with asyncio.timeout(10):
            await channel.send(message)
    except (Rejected, Unavailable, TimeoutError) as error:
        return str(error) or "no answer in time"
    return None
