"""The service with a store that takes its time, and takes nothing while a file exists.

python -m tests.faults.stubborn SECONDS FILE serve
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_manager.adapters.store import embedded
from data_manager.domain.batch import Batch
from data_manager.domain.errors import Unavailable
from data_manager.ports import Receipt


def stubborn_store(seconds: float, refused: Path) -> type[embedded.EmbeddedStore]:
    """The embedded store, each of whose commits takes so long."""

    class StubbornStore(embedded.EmbeddedStore):
        def _write(self, batches: Sequence[Batch]) -> list[Receipt]:
            time.sleep(seconds)
            if refused.exists():
                raise Unavailable("the store takes no writes: the test says so")
            return super()._write(batches)

    return StubbornStore


def main() -> None:
    """Put the store into the program, and become it."""
    from data_manager import cli

    seconds, refused = float(sys.argv[1]), Path(sys.argv[2])
    del sys.argv[1:3]
    embedded.EmbeddedStore = stubborn_store(seconds, refused)  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    main()
