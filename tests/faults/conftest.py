"""What the fault tests share: how long they may be, and what they tell for the table (tests/summary.py).

FAULTS=full (`make faults`) breaks things as often and as long as the promise asks for; otherwise the same tests run
shortened. Either way every test that was told figures prints a line of the table at the end.
"""

from collections.abc import Callable

import pytest

from tests.summary import FULL

__all__ = ["FULL", "Told", "pytest_runtest_makereport", "told"]
_seen = pytest.StashKey[dict[str, object]]()
Told = Callable[..., None]


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """told(kills=50, rows=44_893): figures for the table; may be called again, later words add to earlier ones."""
    figures = request.node.stash.setdefault(_seen, {})
    return lambda **more: figures.update(more)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # a generator, as pluggy wants it
    """Carry the figures over to the report."""
    report = yield
    report.figures = item.stash.get(_seen, None)
    return report
