"""What several folders of tests need: the recordings, a wait that is not a sleep, and which come first."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.summary import summarize

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the recorded market data: RECORDINGS_DIR, else shared/data beside the repository."""
    folder = Path(os.environ.get("RECORDINGS_DIR", _DEFAULT))
    assert folder.is_dir(), f"no recordings at {folder}: set RECORDINGS_DIR"
    return folder


Check = Callable[[], bool] | Callable[[], Awaitable[bool]]


async def eventually(check: Check, *, within_s: float = 10.0, what: str = "") -> None:
    """Return when check() is true; fail after within_s seconds, naming what was waited for.

    The longer it takes the less often it is asked, so that those who wait leave the machine to those who work.
    """
    started = time.monotonic()
    while True:
        found = check()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        waited = time.monotonic() - started
        assert waited < within_s, f"not within {within_s} s: {what or check}"
        await asyncio.sleep(min(max(waited / 20, 0.01), 0.1))


_FIRST = ("faults", "contract", "flow", "simulator")
"""Folders whose files take longest. A run on several processes gives them away file by file, in this order, and in each
folder those last that want the stand-in for MongoDB, which may still have to be built."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the recordings is marked so: `-m "not recordings"` runs the rest."""
    items.sort(key=_turn)
    for item in items:
        if "recordings" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.recordings)


def _turn(item: pytest.Item) -> tuple[int, bool]:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return _FIRST.index(folder) if folder in _FIRST else len(_FIRST), "cluster" in item.path.name


@pytest.fixture(autouse=True)
def _same_logging() -> Iterator[None]:
    """A command that ran inside the test may have sent the log to a stream that ends with the test."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    if logging.root.handlers != handlers:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The table of faults, and what was left out."""
    summarize(terminalreporter)
