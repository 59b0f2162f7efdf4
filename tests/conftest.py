"""What several folders of tests need: the recordings, and a wait that is not a sleep."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the recorded market data: RECORDINGS_DIR, else shared/data beside the repository."""
    folder = Path(os.environ.get("RECORDINGS_DIR", _DEFAULT))
    assert folder.is_dir(), f"no recordings at {folder}: set RECORDINGS_DIR"
    return folder


Check = Callable[[], bool] | Callable[[], Awaitable[bool]]


async def eventually(check: Check, *, within_s: float = 10.0, what: str = "") -> None:
    """Return as soon as check() is true; fail after within_s seconds, naming what was waited for."""
    deadline = time.monotonic() + within_s
    while True:
        found = check()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or check}"
        await asyncio.sleep(0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the recordings is marked so: `-m "not recordings"` runs the rest."""
    for item in items:
        if "recordings" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.recordings)
