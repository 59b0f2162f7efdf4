"""`data-manager simulate`: the simulated exchange, and its fault switches from the command line."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import typer

from data_manager.cli.output import say_json, say_table
from data_manager.domain.errors import BadQuery, Unavailable

simulate = typer.Typer(name="simulate", invoke_without_command=True)
Json = Annotated[bool, typer.Option("--json", help="Say it as JSON.")]
At = Annotated[str, typer.Option("--at", help="Address of the simulator.")]
_ADDRESS = "http://127.0.0.1:8900"


@simulate.callback()
def run(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8_900,
    host: Annotated[str, typer.Option(help="Leave it at loopback.")] = "127.0.0.1",
    symbols: Annotated[str, typer.Option(help="Joined by commas; the default twenty and the odd ones.")] = "",
    seed: Annotated[int, typer.Option(help="One seed is one market, everywhere and always.")] = 1,
    start: Annotated[str, typer.Option(help="What the exchange's clock shows at first; now.")] = "",
    listed: Annotated[str, typer.Option(help="When all symbols were listed; each has a date of its own.")] = "",
    speed: Annotated[float, typer.Option(help="So many times as fast runs the exchange's clock.")] = 1.0,
    activity: Annotated[float, typer.Option(help="So many times as much is traded.")] = 1.0,
    from_recordings: Annotated[
        str, typer.Option("--from-recordings", help="Files to replay instead, joined by commas.")
    ] = "",
    weight: Annotated[int, typer.Option(help="Request weight per minute.")] = 2_400,
    life: Annotated[str, typer.Option(help="Sockets are cut after this time of the exchange's clock.")] = "24h",
    ping_every_s: Annotated[float, typer.Option("--ping-every", help="Seconds between pings.")] = 180.0,
    faults: Annotated[
        list[str] | None, typer.Option("--fault", help="A switch that is on from the start; see `simulate fault`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Be the exchange: REST, websocket and archives on one loopback port, of a market made from a seed.

    Nothing of it is real, and nothing leaves this machine. docs/simulator.md has the addresses and the switches.
    """
    if context.invoked_subcommand is not None:
        return
    from data_manager.adapters.clock import SystemClock
    from data_manager.domain.time import parse_duration, parse_time
    from data_manager.simulator.app import Exchange, Plan
    from data_manager.simulator.faults import parse
    from data_manager.simulator.ws import SocketRules

    plan = Plan(
        host=host, port=port, symbols=_listed(symbols), seed=seed, speed=speed, activity=activity,
        start_ms=parse_time(start, field="start") if start else None,
        listed_ms=parse_time(listed, field="listed") if listed else None,
        recordings=tuple(Path(name) for name in _listed(from_recordings)), weight_per_minute=weight,
        rules=SocketRules(life_ms=parse_duration(life, field="life"), ping_every_s=ping_every_s),
    )  # fmt: skip
    exchange = Exchange(plan, SystemClock())
    for words in faults or ():
        exchange.faults.add(parse(_words(words.split())))

    def say(address: str) -> None:
        if as_json:
            say_json({"address": address, "symbols": list(exchange.tape.contracts), "seed": seed})
            return
        typer.echo(f"simulated exchange at {address}: seed {seed}, {len(exchange.tape.contracts)} symbols")

    _in_loop(exchange.run(say))


@simulate.command("fault")
def fault(
    kind: Annotated[str, typer.Argument(help="stall lose double late status missing …; docs/simulator.md has all.")],
    words: Annotated[
        list[str] | None, typer.Argument(help="Such as streams=btcusdt@* share=0.1 status=503.", show_default=False)
    ] = None,
    address: At = _ADDRESS,
    as_json: Json = False,
) -> None:
    """Break something: switch a fault on in a simulator that runs."""
    added = _ask(address, "POST", "/control/faults", _words([f"kind={kind}", *(words or ())]))
    if as_json:
        say_json(added)
    else:
        typer.echo(f"{added['id']}: {added['kind']} is on")


@simulate.command("faults")
def faults(address: At = _ADDRESS, as_json: Json = False) -> None:
    """List the switches that are on."""
    found = _ask(address, "GET", "/control/faults")
    if as_json:
        say_json(found)
        return
    say_table(("id", "kind", "what"), [(one["id"], one["kind"], json.dumps(one)) for one in found])


@simulate.command("mend")
def mend(
    fault_id: Annotated[str, typer.Argument(help="One switch; all without it.", show_default=False)] = "",
    address: At = _ADDRESS,
    as_json: Json = False,
) -> None:
    """Switch a fault off."""
    removed = _ask(address, "DELETE", f"/control/faults/{fault_id}" if fault_id else "/control/faults")
    if as_json:
        say_json(removed)
    else:
        typer.echo(f"{removed['kind']} is off" if fault_id else f"{removed['removed']} off")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _words(pairs: list[str]) -> dict[str, Any]:
    """kind=stall streams=btcusdt@* as what the control endpoint takes. The first word may be the bare kind."""
    found: dict[str, Any] = {}
    for place, pair in enumerate(pairs):
        name, equals, text = pair.partition("=")
        if not equals and place > 0:
            raise BadQuery("fault", pair, "must be name=value")
        if not equals:
            name, text = "kind", name
        found[name] = text.split(",") if name == "where" else text
    return found


def _ask(address: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    if urlsplit(address).scheme != "http":
        raise BadQuery("at", address, "must be an address such as http://127.0.0.1:8900")
    request = Request(address + path, method=method, data=None if body is None else json.dumps(body).encode())
    try:
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise BadQuery("fault", path, json.load(error).get("error", error.reason)) from error
    except URLError as error:
        raise Unavailable(f"no simulator at {address} ({error.reason}): start it with data-manager simulate") from error


def _in_loop(work: Any) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
