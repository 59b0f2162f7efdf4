"""What a run of the tests says before its closing line: the faults it saw through, and the tests it left out.

In a run on several processes the workers' reports arrive here, in the one that the terminal belongs to.
"""

import os

import pytest
from _pytest.reports import TestReport
from _pytest.terminal import TerminalReporter

FULL = os.environ.get("FAULTS", "") == "full"
"""Whether the whole suite of faults was asked for."""

MISSING = {
    "no MariaDB: ": "install mariadb-server, or name a database that may be emptied in TEST_MYSQL_URL",
    "no MongoDB: ": "install mongod, or Go to build a stand-in, or name a server that runs in TEST_MONGODB_URL",
}
"""Which server is not there, and what to do about it."""


def left_out(what: str, why: str = "") -> None:
    """Leave this test out, or fail where nothing may be left out. what: a word of MISSING."""
    because = f"{what}{MISSING[what]}{why and f' ({why})'}"
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(because)


def summarize(terminal: TerminalReporter) -> None:
    """Print it."""
    _faults(terminal)
    for what, fix in MISSING.items():
        skipped = [one for one in terminal.getreports("skipped") if what in str(one.longrepr)]
        for one in skipped:
            one.longrepr = (__file__, None, f"Skipped: {what}{fix}")  # of one place: pytest folds them into one
        if skipped:
            terminal.write_line(f"!!! {len(skipped)} tests did NOT run: {what}{fix}", red=True, bold=True)


def _faults(terminal: TerminalReporter) -> None:
    """A line for each test that was told figures."""
    lines = [
        (one.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " "), one.outcome, one.duration, figures)
        for kind in ("passed", "failed")
        for one in terminal.getreports(kind)
        if isinstance(one, TestReport) and (figures := getattr(one, "figures", None))
    ]
    if not lines:
        return
    terminal.section(f"faults ({'full' if FULL else 'shortened: make faults runs all of it'})")
    width = max(len(name) for name, *_ in lines)
    for name, outcome, seconds, figures in sorted(lines):
        shown = ", ".join(f"{what.replace('_', ' ')} {_text(value)}" for what, value in figures.items())
        terminal.write_line(f"{name:{width}}  {outcome}  {seconds:6.1f} s  {shown}")


def _text(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
