"""What the benchmarks share: the recordings, a table, and how much time the hypervisor took from us meanwhile."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

RECORDINGS = Path(os.environ.get("RECORDINGS_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
CAPTURES = sorted((RECORDINGS / "binance_futures" / "ws").glob("*.jsonl.gz"))


def payloads(captures: Sequence[Path], most: int = 1_000_000) -> list[bytes]:
    """Messages of the captures in the publisher's envelope, in recorded order."""
    from data_manager.services.envelope import Enveloper
    from data_manager.services.replay import Recording

    wrap = Enveloper().wrap
    found: list[bytes] = []
    for capture in captures:
        with Recording(capture) as recording:
            recording.require()
            for recorded in recording:
                found.append(wrap(recorded, recorded.recv_ns or 0))
                if len(found) == most:
                    return found
    return found


@contextmanager
def table(title: str, *heads: str) -> Iterator[list[tuple[str, ...]]]:
    """Rows added inside the block, printed aligned at its end, with the steal of the time in between."""
    rows: list[tuple[str, ...]] = []
    before = _ticks()
    yield rows
    total, stolen = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print(title)
    for row in (heads, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  " + "  ".join(cells))
    print(
        f"  ({os.cpu_count()} cores, Python {sys.version.split()[0]}, CPU steal {100 * stolen / max(total, 1):.1f} %)\n"
    )


FIGURES = "BENCH_FIGURES"
"""The variable that names the file for the table of all benchmarks; without it a benchmark prints its own alone."""


def figure(what: str, measured: str, *, baseline: str = "", ratio: float | None = None, target: str = "") -> None:
    """A line of the table that __main__.py prints of all benchmarks. ratio: measured / baseline."""
    path = os.environ.get(FIGURES)
    if path is not None:
        line = (what, measured, baseline, "" if ratio is None else f"{ratio:.2f}", target)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")


def _ticks() -> tuple[int, int]:
    with open("/proc/stat", encoding="ascii") as file:
        counted = [int(word) for word in file.readline().split()[1:]]
    return sum(counted[:8]), counted[7]
