"""The process whose children the processes of tests/warm.py are: it loads the program, and then forks when it is told to.

    {"module", "arguments", "environ", "out", "log"}   ──> a child becomes `python -m module`; the answer is its id
    {"ended": id}                                      ──> its exit code, negative for a signal; null while it runs

A line of JSON each way. It ends with its standard input, as whoever started it does.
"""

import importlib
import json
import os
import runpy
import sys
import time
from contextlib import suppress
from typing import Any

_LOADED = (
    "alembic.command", "asyncmy", "data_manager.adapters.binance.wire", "data_manager.adapters.bus.opening",
    "data_manager.adapters.meta.migrate", "data_manager.adapters.meta.sql", "data_manager.adapters.mongo.store",
    "data_manager.adapters.store.embedded", "data_manager.adapters.store.readonly", "data_manager.app",
    "data_manager.cli", "data_manager.service.running", "uvloop",
)  # fmt: skip


def fork_when_told() -> dict[str, Any] | None:
    """In the parent None, at its end; in each child what it was told."""
    for line in sys.stdin:
        told = json.loads(line)
        if "ended" in told:
            _say(_exit_code(told["ended"]))
            continue
        child = os.fork()
        if not child:
            return dict(told)
        _say(child)
    return None


def _say(answer: int | None) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201


def _exit_code(child: int) -> int | None:
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def become(*, module: str, arguments: list[str], environ: dict[str, str], out: str, log: str) -> None:
    """Be that program, with all that a shell would give it. out is written anew, log is appended to."""
    os.setsid()
    for number, file, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_TRUNC | os.O_APPEND), (2, log, os.O_APPEND)):
        opened = os.open(file, mode | (os.O_WRONLY | os.O_CREAT if number else 0), 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - what the parent was told stays with the parent
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.path.insert(0, os.getcwd())  # as -m does
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in _LOADED:
        with suppress(ImportError):  # what is amiss shows in the child
            importlib.import_module(name)
    given = fork_when_told()
    if given is not None:
        become(**given)
