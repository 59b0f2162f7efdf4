"""What the fault tests share: how long they may be, and the table of what they saw.

FAULTS=full (`make faults`) breaks things as often and as long as the promise asks for; otherwise the same tests run
shortened. Either way every test that was told figures prints a line of the table at the end.
"""

import os
from collections.abc import Callable

import pytest
from _pytest.terminal import TerminalReporter

FULL = os.environ.get("FAULTS", "") == "full"
"""Whether the whole suite was asked for."""

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


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The table."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.getreports(kind)]
    lines = [
        (one.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " "), one.outcome, one.duration, one.figures)
        for one in reports
        if getattr(one, "figures", None)
    ]
    if not lines:
        return
    terminalreporter.section(f"faults ({'full' if FULL else 'shortened: make faults runs all of it'})")
    width = max(len(name) for name, *_ in lines)
    for name, outcome, seconds, figures in lines:
        shown = ", ".join(f"{what.replace('_', ' ')} {_text(value)}" for what, value in figures.items())
        terminalreporter.write_line(f"{name:{width}}  {outcome}  {seconds:6.1f} s  {shown}")


def _text(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
