"""What a process shows to who starts it: its sockets, its banner, where it can be found, and that it can be stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from data_manager import __version__
from data_manager.domain.errors import BadSetting
from data_manager.settings import Settings

if TYPE_CHECKING:
    from data_manager.service.running import Role, Service


def listen(settings: Settings, stack: AsyncExitStack, role: Role) -> dict[str, socket.socket]:
    """The sockets we serve on, bound before anything is started. Raises BadSetting naming the port that is taken."""
    wanted = {"METRICS_PORT": (settings.metrics_host, settings.metrics_port)}
    if settings.enable_api or role != "all":
        wanted["API_PORT"] = (settings.api_host, settings.api_port)
    return {name: bound(stack, name, host, port) for name, (host, port) in wanted.items()}


def bound(stack: AsyncExitStack, name: str, host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises BadSetting that calls the port by this name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((host, port))
        one.listen(2048)
    except OSError as error:
        raise BadSetting(name, port, f"cannot listen on {host}:{port} ({error.strerror}): choose another") from error
    return one


@contextmanager
def signals(stopping: asyncio.Event) -> Iterator[None]:
    """Within, SIGINT and SIGTERM set the event."""
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stopping.set)
    try:
        yield
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(one)


_ANNOUNCED = "service.json"


@contextmanager
def announcing(settings: Settings, role: Role, sockets: dict[str, socket.socket]) -> Iterator[None]:
    """Within, commands on this DATA_DIR find the process that works there; a cluster's has no such folder in common."""
    if role not in ("all", "work") or "API_PORT" not in sockets or settings.rows_url is not None:
        yield
        return
    host, port = sockets["API_PORT"].getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    file = settings.data_dir / _ANNOUNCED
    with suppress(OSError):  # commands do without it
        file.write_text(json.dumps({"pid": os.getpid(), "api": address}), encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()


def announced(settings: Settings) -> str | None:
    """The address of the API of the service that works on DATA_DIR; None when none does, or it serves none."""
    try:
        found = json.loads((settings.data_dir / _ANNOUNCED).read_bytes())
        pid, address = int(found["pid"]), str(found["api"])
        os.kill(pid, 0)  # asks only whether it is there
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address


def whereabouts(settings: Settings, service: Service) -> dict[str, str]:
    """Where everything is that this process has, by name."""

    def at(name: str) -> str:
        host, port = service.sockets[name].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    api = {"api": at("API_PORT")} if "API_PORT" in service.sockets else {}
    found = {"version": __version__, "role": service.parts.role, **api, "metrics": f"{at('METRICS_PORT')}/metrics"}
    if service.parts.ingesting is not None:
        found["bus"] = "NATS_URL" if settings.nats_url else f"nats://127.0.0.1:{settings.nats_own_port}"
        found["subject"] = settings.nats_consumer_subject
    kinds = service.parts.databases.kinds
    rows = str(settings.data_dir.resolve()) if kinds["rows"] == "embedded" else kinds["rows"]
    return found | {"rows": rows, "metadata": kinds["metadata"]}


_BESIDE = {"api": "   (documentation at /docs)"}


def banner(settings: Settings, service: Service) -> str:
    """What a person who started it reads first."""
    role, ingests = service.parts.role, service.parts.ingesting is not None
    beside = _BESIDE if settings.nats_url else _BESIDE | {"bus": " (our own)"}
    lines = [f"Petrosa Data Manager {__version__}{'' if role == 'all' else f', role {role}'}", ""]
    for name, where in whereabouts(settings, service).items():
        if name not in ("version", "role"):
            lines.append(f"  {'API' if name == 'api' else name:9} {where}{beside.get(name, '')}")
    lines.append("")
    if service.parts.feeding is not None:
        feed = service.parts.feeding.feed
        lines += [f"  Live data comes from {feed.address}: {len(feed.streams)} streams on {len(feed.lines)} sockets."]
    elif ingests:
        lines += [
            "  Waiting for events on the bus. To feed it recordings:",
            "    .venv/bin/data-manager replay FILE.jsonl.gz --speed max",
        ]
    return "\n".join([*lines, "  Ctrl-C stops it; everything received by then is stored."])
