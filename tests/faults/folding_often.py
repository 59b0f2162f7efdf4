"""The service with a store that folds its journal into chunks after few rows instead of many."""

from data_manager.adapters.store.embedded import EmbeddedStore, FoldAt
from data_manager.cli import main

ROWS = 1_000


def fold_often() -> None:
    """From now on every store that is opened does."""
    EmbeddedStore.__init__.__defaults__ = (FoldAt(rows=ROWS, entries=64),)


if __name__ == "__main__":
    fold_often()
    main()
