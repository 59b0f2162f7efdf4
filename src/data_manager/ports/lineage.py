"""The port behind lineage. Beside MetaStore, by the same adapters."""

from collections.abc import Sequence
from typing import Protocol

from data_manager.domain.lineage import LineageRecord
from data_manager.domain.span import Span


class LineageStore(Protocol):
    """What was done to rows. Raises Unavailable and Corrupt like the rest of the metadata."""

    async def keep_lineage(self, records: Sequence[LineageRecord]) -> None:
        """Keep the newest version of each record, by id; durable on return."""
        ...

    async def lineage(
        self,
        *,
        limit: int,
        offset: int = 0,
        series: str | None = None,
        transformation: str | None = None,
        span: Span | None = None,
        under_way: bool = False,
    ) -> tuple[list[LineageRecord], int]:
        """A page of records, the newest first, and how many there are in all.

        span: only those that share an instant with it. under_way: only those whose end nobody has told.
        """
        ...
