"""Processes of ours without the second that imports cost: forked from one that has made them, and done nothing else.

What runs in them is `python -m` data-manager, or one of the programs of the tests that break something and then become
it, with a command line, an environment, a session and streams of its own, as from a shell; only that our modules were
loaded before. FAULTS=full starts every process from nothing.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers import ended_with_us
from tests.summary import FULL

PROGRAM = [sys.executable, "-m", "data_manager"]
"""data-manager, as a command line."""

_PARENT = Path(__file__).with_name("warm_parent.py")
_COMMAND_S = 120.0


class Warm:
    """A process: as much of subprocess.Popen as tests ask for."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], out: Path, log: Path) -> None:
        """command: see may_be_warm. out is written anew, log is appended to; they may be the same."""
        _, _, module, *arguments = command
        given: dict[str, object] = {"module": module, "arguments": arguments, "environ": dict(environ)}
        given |= {"out": str(out), "log": str(log)}
        out.write_bytes(b"")  # who looks at once finds it empty
        self.returncode: int | None = None
        self.pid = int(_told(given))
        ended_with_us(self.pid)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = _told({"ended": self.pid})
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing to one that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, within_s: float = 60.0) -> int:
        """Its exit code, once it has ended. Raises TimeoutError."""
        started = time.monotonic()
        while (code := self.poll()) is None:
            if time.monotonic() - started > within_s:
                raise TimeoutError(f"process {self.pid} still runs after {within_s} s")
            time.sleep(0.005)
        return code


def run(arguments: Sequence[object], environ: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
    """One command of data-manager, done."""
    words = [str(one) for one in arguments]
    if not may_be_warm(PROGRAM):
        return subprocess.run([*PROGRAM, *words], env=environ, capture_output=True, timeout=_COMMAND_S, check=False)
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out", Path(folder) / "err"
        process = Warm([*PROGRAM, *words], environ, out, log)
        try:
            code = process.wait(_COMMAND_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, code, out.read_bytes(), log.read_bytes())


def started(command: Sequence[str], environ: Mapping[str, str], out: Path, log: Path) -> subprocess.Popen[bytes] | Warm:
    """The command as a process, warm if it may be. out is written anew, log is appended to; they may be the same."""
    if may_be_warm(command):
        return Warm(command, environ, out, log)
    with out.open("wb"), out.open("ab") as said, log.open("ab") as logged:
        process = subprocess.Popen(command, env=environ, stdout=said, stderr=logged, start_new_session=True)
    ended_with_us(process.pid)
    return process


def may_be_warm(command: Sequence[str]) -> bool:
    """Whether it is a module of ours, run by our Python, and nobody asked for everything from the beginning."""
    ours = list(command[:2]) == PROGRAM[:2] and command[2].startswith(("data_manager", "tests."))
    return ours and not FULL and sys.platform == "linux"


def _told(what: Mapping[str, object]) -> Any:
    """What the parent of all of them answers."""
    parent = _parent()
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps(what) + "\n")
    parent.stdin.flush()
    return json.loads(parent.stdout.readline())


@cache
def _parent() -> subprocess.Popen[str]:
    command = [sys.executable, "-P", str(_PARENT)]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # who forks has one thread
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=alone, start_new_session=True)
