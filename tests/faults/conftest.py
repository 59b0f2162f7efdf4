"""What the fault tests share: how long they may be, and what they tell for the table (tests/summary.py).

FAULTS=full (`make faults`) breaks things as often and as long as the promise asks for; otherwise the same tests run
shortened. Either way every test prints a line of the table at the end: what its services counted, what is lost and
doubled (tests/account.py), and what it was told besides.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.account import Account, opened
from tests.summary import FULL

__all__ = ["FULL", "Told", "pytest_runtest_makereport", "told"]
_account = pytest.StashKey[Account]()
_seen = pytest.StashKey[dict[str, object]]()
Told = Callable[..., None]


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """told(times=50, seconds_to_recover=1.3, rows=44_893): for the table; later words add to earlier ones.

    times: how often something was broken. seconds_to_recover: the longest that it took. These two have columns.
    """
    figures = request.node.stash.setdefault(_seen, {})
    return lambda **more: figures.update(more)


@pytest.fixture(autouse=True)
def _accounting(request: pytest.FixtureRequest) -> Iterator[None]:
    with opened() as account:
        request.node.stash[_account] = account
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # a generator, as pluggy wants it
    """Carry the figures over to the report."""
    report = yield
    account = item.stash.get(_account, None)
    if account is not None:
        report.figures = {"columns": account.columns(), "told": item.stash.get(_seen, {})}
    return report
