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
    """A table with a line for each test of faults."""
    reports = [
        one
        for kind in ("passed", "failed")
        for one in terminal.getreports(kind)
        if isinstance(one, TestReport) and hasattr(one, "figures") and (one.when == "call" or one.failed)
    ]
    if not reports:
        return
    terminal.section(f"faults ({'full' if FULL else 'shortened: make faults runs all of it'})")
    lines = [_HEAD, *sorted(map(_line, reports))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, _LEFT, strict=True)
        text = "  ".join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in cells)
        terminal.write_line(text.rstrip())
    terminal.write_line(
        "received to dropped: as counted by the lives that met the end of the test, all replicas together"
    )
    terminal.write_line("lost, doubled: of what is held, beside what has to be; -: the test looks at something else")


_PARTS = ("received", "new", "changed", "duplicate", "rejected", "dropped", "lost", "doubled")
_HEAD = ("what was broken", "", "took s", "times", *_PARTS, "recovered s", "and")
_LEFT = [name in ("what was broken", "", "and") for name in _HEAD]


def _line(report: TestReport) -> tuple[str, ...]:
    columns, told = report.figures["columns"], dict(report.figures["told"])
    name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    times, recovered = told.pop("times", None), told.pop("seconds_to_recover", None)
    besides = ", ".join(f"{what.replace('_', ' ')} {_text(value)}" for what, value in told.items())
    took = f"{report.duration:.1f}"
    parts = (_text(columns[part]) for part in _PARTS)
    return name, report.outcome, took, _text(times), *parts, _text(recovered), besides


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
