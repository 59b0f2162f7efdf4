"""The checks of rules.py over rows that come page by page; what lies across two pages is judged like the rest."""

from collections import Counter
from typing import Final

import numpy as np

from data_manager.domain.batch import Batch, joined
from data_manager.domain.checks.rules import CHECKS, Check
from data_manager.domain.dataset import Dataset

_NEIGHBOURS: Final = 32
"""So many rows on either side a check looks at."""


class Checking:
    """Takes the rows of one series in key order, whole rows, in pages of any size. offences: rows blamed, by check."""

    def __init__(self, dataset: Dataset) -> None:
        self.offences: Counter[str] = Counter()
        self._checks = [one for one in CHECKS.get(dataset.name, ()) if one.severity != "info"]
        self._held: Batch | None = None  # judged rows, for those that follow, and then rows that are not judged yet
        self._judged = 0

    @property
    def names(self) -> list[str]:
        """Of the checks that are made."""
        return [name_of(one) for one in self._checks]

    def update(self, page: Batch) -> None:
        """The next rows."""
        rows = page if self._held is None else joined([self._held, page])
        until = len(rows) - _NEIGHBOURS
        if until > self._judged:
            self._judge(rows, until)
            begin = max(0, until - _NEIGHBOURS)
            rows, self._judged = rows.take(slice(begin, len(rows))), until - begin
        self._held = rows

    def finish(self) -> None:
        """There are no more rows."""
        if self._held is not None:
            self._judge(self._held, len(self._held))
            self._held = None

    def _judge(self, rows: Batch, until: int) -> None:
        for one in self._checks:
            if rows.columns.keys() >= {one.field, *one.columns} - {""}:
                blamed = int(np.count_nonzero(one.broken(rows)[self._judged : until]))
                if blamed:
                    self.offences[name_of(one)] += blamed


def name_of(check: Check) -> str:
    """positive.price; told_once, which is about no column."""
    return f"{check.rule}.{check.field}" if check.field else check.rule
