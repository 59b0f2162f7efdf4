"""The open candle of each series: one document per series, replaced by newer states, removed when the candle closes.

A state is written only over the version it was compared with; who loses looks again. Another replica may close the
candle while we write a late state of it: readers therefore pass over a live row that a held row has reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pymongo import DeleteOne, InsertOne, ReplaceOne
from pymongo.errors import BulkWriteError

from data_manager.adapters.mongo.access import Collection
from data_manager.adapters.mongo.documents import decode, encode
from data_manager.adapters.mongo.errors import duplicates
from data_manager.adapters.mongo.layout import Document
from data_manager.adapters.mongo.writing import version_of
from data_manager.adapters.store.accepting import Accepted, accept
from data_manager.domain.batch import Batch, empty, joined
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.errors import Unavailable

_ROUNDS_MAX = 100
_Write = InsertOne[Document] | ReplaceOne[Document] | DeleteOne


async def keep_live(collection: Collection, batch: Batch, last_keys: Mapping[Series, int], *, exact: bool) -> int:
    """Bring the live rows up to date with a batch, its closed rows included; how many of its states were newer.

    last_keys: of each of its series before this batch. A state that another replica overtakes between our write and
    our next look counts as not newer. Raises what the driver raises, Corrupt, or Unavailable.
    """
    newer = 0
    for _ in range(_ROUNDS_MAX):
        held = await _held(collection, batch.series)
        plan = _plan(batch, last_keys, held)
        writes = [
            _write(batch.dataset, series, row, held.get(series), exact)
            for series, row in plan.live.items()
            if row is not None or series in held  # what the batch itself closes may never have been written
        ]
        if await _all_done(collection, writes):
            return newer + plan.receipt.changed
        now = await _held(collection, batch.series)
        lost = {series for series, row in plan.live.items() if not _stands(row, now.get(series))}
        won = [part for part in batch.split() if part.series[0] not in lost]
        if won:
            newer += _plan(joined(won), last_keys, held).receipt.changed
        if not lost:
            return newer
        batch = joined([part for part in batch.split() if part.series[0] in lost])
    raise Unavailable(f"{collection.name}: other writers keep changing the live rows of {len(batch.series)} series")


async def live_row(collection: Collection, dataset: Dataset, series: Series) -> Batch:
    """The live row of a series as it was written last: one row or none."""
    document = (await _held(collection, (series,))).get(series)
    return decode(dataset, series, [] if document is None else [document])


async def _held(collection: Collection, series: Sequence[Series]) -> dict[Series, Document]:
    by_id = {one.id: one for one in series}
    found = await collection.find({"_id": {"$in": list(by_id)}}).to_list()
    return {by_id[document["_id"]]: document for document in found}


def _plan(batch: Batch, last_keys: Mapping[Series, int], held: Mapping[Series, Document]) -> Accepted:
    """What becomes of the live rows; its receipt counts the newer states as changed."""
    live = {series: decode(batch.dataset, series, [document]) for series, document in held.items()}
    before = np.array([last_keys[series] for series in batch.series], np.int64)
    return accept(batch, before, lambda series, *_: empty(batch.dataset, (series,)), live)


def _write(dataset: Dataset, series: Series, row: Batch | None, held: Document | None, exact: bool) -> _Write:
    if row is None:
        assert held is not None, "only what is held can be removed"
        return DeleteOne(version_of(held, *dataset.key))
    document = {**encode(row, exact=exact)[0], "_id": series.id}
    return InsertOne(document) if held is None else ReplaceOne(version_of(held, *dataset.key), document)


async def _all_done(collection: Collection, writes: list[_Write]) -> bool:
    """Whether every write found what it was planned over."""
    if not writes:
        return True
    try:
        done = await collection.bulk_write(writes, ordered=False)
    except BulkWriteError as error:
        duplicates(error)
        return False
    return done.inserted_count + done.matched_count + done.deleted_count == len(writes)


def _stands(row: Batch | None, document: Document | None) -> bool:
    """Whether the document is what we wanted to leave behind."""
    if row is None or document is None:
        return row is None and document is None
    held = decode(row.dataset, row.series[0], [document])
    return all(bool(column.same(held.columns[name]).all()) for name, column in row.columns.items())
