"""All rows of a series, in parts that fit into memory."""

from collections.abc import AsyncIterator, Sequence

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.span import Span
from data_manager.ports import SeriesStore


async def pages(
    store: SeriesStore,
    series: Series,
    span: Span | None = None,
    *,
    rows: int,
    after: int | None = None,
    columns: Sequence[str] | None = None,
) -> AsyncIterator[Batch]:
    """Rows of the span in key order, about so many at a time; rows that share a first key stay together.

    after: only those with first keys beyond it. columns must hold the key.
    """
    limit = rows
    while True:
        part = await store.scan(series, span, columns=columns, limit=limit, after=after)
        full = len(part) == limit
        if full and part.key[0] == part.key[-1]:
            limit *= 2
            continue
        if full:
            part = part.take(part.key < part.key[-1])
        if len(part):
            yield part
            after = int(part.key[-1])
        if not full:
            return
        limit = rows
