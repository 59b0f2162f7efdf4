"""What the command line says: tables for people, JSON for programs, one clear line for an error."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import typer

from data_manager.domain.errors import BadQuery, BadSetting, DataManagerError
from data_manager.settings import BadSettings


def say_json(value: Any, *, err: bool = False) -> None:
    """value as one line of JSON on standard output, or on standard error."""
    typer.echo(msgspec.json.encode(value), err=err)


def say_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Rows under their heads: drawn on a terminal; aligned and uncut elsewhere. right: heads of columns of numbers."""
    if sys.stdout.isatty():
        _draw(heads, rows, right)
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            text.rjust(width) if head in right else text.ljust(width)
            for head, text, width in zip(heads, row, widths, strict=True)
        ]
        typer.echo("  ".join(cells).rstrip())


def _draw(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def say_error(error: Exception, *, as_json: bool) -> int:
    """The error on standard error, one line per problem; the exit code that goes with it."""
    problems = [_facts(problem) for problem in (error.problems if isinstance(error, BadSettings) else (error,))]
    if as_json:
        say_json({"error": problems[0], "errors": problems}, err=True)
    for facts in () if as_json else problems:
        typer.echo(f"error: {facts['message']}", err=True)
    return 2 if isinstance(error, typer.TyperException | BadQuery | BadSetting) else 1


def _facts(error: Exception) -> dict[str, Any]:
    """As the API's error body has them."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
    code = words if isinstance(error, DataManagerError) else "usage"
    field = getattr(error, "field", None) or getattr(error, "name", None)  # the caller's, or the operator's
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    return {"code": code, "message": message, "field": field, "valid": getattr(error, "rule", None)}


def quiet_logs() -> None:
    """Only warnings, and on standard error: standard output is for what the command answers.

    Tracebacks come without the values of variables: a password may be among them.
    """
    import logging

    import structlog

    structlog.reset_defaults()
    plain = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*structlog.get_config()["processors"][:-1], plain],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error while the block runs. The function given takes what is done, of how much, and a remark.

    Nothing is drawn where standard error is not a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[at]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, at="")
        yield lambda done, total, at: bar.update(task, completed=done, total=total, at=at)
