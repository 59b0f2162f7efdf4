"""How it is told: lines with the exchange's time, a line that changes while something is waited for, tables.

On a terminal with colours and a spinner; headless as plain lines; silent when a program reads the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Mark = Literal["·", "✓", "✗", "!"]
_STYLES: dict[str, str] = {"✓": "bold green", "✗": "bold red", "!": "bold yellow", "·": "dim"}
_WIDTH = 120


class Narrator:
    """Tells what happens. clock: the exchange's time, once there is one."""

    def __init__(self, *, headless: bool, silent: bool) -> None:
        self.clock: Callable[[], int] | None = None
        self._console = Console(quiet=silent, highlight=False, no_color=headless, width=_WIDTH if headless else None)
        self._live = self._console.is_terminal and not headless and not silent
        self._chapters = 0

    def title(self, text: str, below: str) -> None:
        """The opening."""
        self._console.print()
        self._console.print(Text(text, style="bold"))
        self._console.print(Text(below, style="dim"))

    def chapter(self, title: str) -> None:
        """The next act begins."""
        self._chapters += 1
        self._console.print()
        self._console.rule(f"[bold]{self._chapters} · {escape(title)}", align="left", style="dim")

    def say(self, text: str, mark: Mark = "·") -> None:
        """One thing, now."""
        self._row(mark, text)

    def done(self, text: str) -> None:
        """Something came out as it must."""
        self._row("✓", text)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
        """Rows under their heads."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for head in heads:
            table.add_column(head, justify="right" if head in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(one if isinstance(one, Text) else Text(str(one)) for one in row))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:
        """While the block runs, a line that can be changed says what is waited for. Only on a terminal."""
        if not self._live:
            yield lambda _: None
            return
        with self._console.status(Text(what)) as status:
            yield lambda text: status.update(Text(text))

    def _row(self, mark: Mark, text: str) -> None:
        if not self._live:
            self._console.print(Text.assemble(f"{self._time()} {mark} {text}"), soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(self._time(), Text(mark, style=_STYLES[mark]), Text(text))
        self._console.print(grid)

    def _time(self) -> str:
        if self.clock is None:
            return " "
        return f"  {datetime.fromtimestamp(self.clock() / 1_000, UTC):%H:%M:%S}"
