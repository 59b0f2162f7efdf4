"""The port behind the rows of every dataset."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.span import Span


class Receipt(Struct, frozen=True):
    """What an append did, row for row: new + changed + duplicate = rows given."""

    new: int = 0
    changed: int = 0
    duplicate: int = 0

    def __add__(self, other: "Receipt") -> "Receipt":
        return Receipt(self.new + other.new, self.changed + other.changed, self.duplicate + other.duplicate)


class Extent(Struct, frozen=True):
    """What is held of one series. Times are of the dataset's time column, in ms UTC, both inclusive."""

    rows: int
    first_key: int
    last_key: int
    first_ms: int
    last_ms: int


class StoreSizes(Struct, frozen=True, kw_only=True):
    """How much room a store takes, in bytes; None where this kind of store cannot tell.

    data_bytes: rows before compression. storage_bytes: on disk, without indexes. index_bytes: indexes on disk.
    """

    rows: int | None = None
    data_bytes: int | None = None
    storage_bytes: int
    index_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        """What a budget is compared with: the larger of data and storage, and the indexes.

        Hosted tiers count data before compression, a disk what is on it: the larger never runs out unseen.
        """
        return max(self.data_bytes or 0, self.storage_bytes) + (self.index_bytes or 0)


class SeriesStore(Protocol):
    """Rows of every dataset, once each. See docs/data-path.md for who calls what."""

    @property
    def kind(self) -> str:
        """What kind of store it is, as answers name it: embedded, mongodb."""
        ...

    @property
    def deletes_by_itself(self) -> bool | None:
        """Whether the database behind it removes what outlived its retention; None: not known yet. Else we have to."""
        ...

    async def append(self, batch: Batch) -> Receipt:
        """Keep the rows of a batch (one dataset, any number of series). Durable on return; twice changes nothing.

        A row whose key is held is a duplicate, or replaces the held one by the dataset's Keep rule (changed; the old
        row is kept as a revision). Rows the dataset calls live (an open candle) replace the live state of their
        series and are never data: changed when newer than what is held, duplicate otherwise.
        Raises Unavailable (try again: what was kept by then is a duplicate) or Corrupt.
        """
        ...

    async def scan(
        self,
        series: Series,
        span: Span | None = None,
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        descending: bool = False,
        offset: int = 0,
        after: int | None = None,
    ) -> Batch:
        """Rows of one series whose time column lies in span, in key order.

        limit counts from the start, or with descending from the end; the rows come back in the order asked for.
        after: only rows whose first key part lies beyond it in the direction of reading (above; below with
        descending), so that a reader goes on where it stopped whatever was appended meanwhile. Where a key has
        several parts, rows share a first part: to stop among them, go on from the part before with an offset.
        columns None means all. A series that holds nothing gives an empty batch. Raises Corrupt, Unavailable.
        """
        ...

    async def last(self, series: Series, n: int) -> Batch:
        """The n newest rows by key, ascending."""
        ...

    async def live(self, series: Series) -> Batch:
        """The live row of a series (the open candle): one row or none."""
        ...

    async def revisions(self, series: Series) -> Batch:
        """Rows of a series that were replaced, as they were: by key, those of one key oldest first."""
        ...

    async def extent(self, series: Series) -> Extent | None:
        """What is held of a series; None when nothing is."""
        ...

    async def count(self, series: Series, span: Span | None = None) -> int:
        """Rows whose time column lies in span."""
        ...

    async def keys(self, series: Series, span: Span | None = None) -> Batch:
        """The audited columns only (key, time, what continuity needs), ascending by key."""
        ...

    async def drop(self, series: Series, span: Span) -> int:
        """Delete the rows whose time column lies in span; how many there were."""
        ...

    async def series(self) -> list[Series]:
        """Every series that holds a row, sorted."""
        ...

    def version(self, series: Series) -> int | None:
        """A number that differs whenever an answer about the series may differ; None where the store cannot tell.

        It changes no earlier than the rows can be read.
        """
        ...

    async def sizes(self) -> StoreSizes:
        """How much room everything takes. Raises Unavailable."""
        ...

    async def problems(self, now_ms: int) -> list[str]:
        """What is not as it should be in the store's own house (indexes, retention), a line each. May take long."""
        ...

    async def healthy(self) -> bool:
        """Whether a trivial question is answered; Unavailable says why not."""
        ...

    async def close(self) -> None:
        """Finish what is under way and let go of the files."""
        ...
