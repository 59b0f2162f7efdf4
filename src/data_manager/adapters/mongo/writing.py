"""Appending rows of one series: new ones inserted, better ones put in the place of what is held, by value.

    beyond the last key we know of   inserted at once; the server says which keys somebody else was quicker with
    not beyond it                    looked up first: re-inserting what is held costs the server far more than a look

Any number of replicas append at once. Two things are atomic on the server, and all else follows from them: an insert
under an _id that is free, and a replacement of exactly the version we compared with. Who loses either, looks again.
The old version is written to the revisions before it is replaced: a crash in between leaves a revision that equals
what is held, never a version that nobody has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from data_manager.adapters.mongo.access import Collection
from data_manager.adapters.mongo.documents import decode, encode
from data_manager.adapters.mongo.errors import duplicates
from data_manager.adapters.mongo.layout import Document, ids_of
from data_manager.adapters.store.accepting import accept
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Keep, Series
from data_manager.domain.errors import Unavailable
from data_manager.ports import Receipt

_ROUNDS_MAX = 200  # each lost round is a round another replica won; so many in a row is no contest but a fault
_IDS_AT_ONCE = 1_000
_DENSE = 4  # keys that fill a quarter of their range or more are asked for as a range
_NONE_IS_FRESH = np.array([np.iinfo(np.int64).max])  # as last key: every row is compared with what is held
VERSION = ("event_ms", "origin", "received_ms")
"""What tells versions of one row apart. The rule of replacement never lets one come back."""


@dataclass(frozen=True)
class Rows:
    """Closed rows of one series, and what they are as documents."""

    batch: Batch
    ids: Sequence[Any]
    documents: Sequence[Document]

    @classmethod
    def of(cls, batch: Batch, *, exact: bool) -> Rows:
        """Of a batch of one series."""
        return cls(batch, ids_of(batch), encode(batch, exact=exact))


async def keep(collection: Collection, revisions: Collection, rows: Rows, last_key: int) -> Receipt:
    """Insert or replace. last_key: the last key known to be held; it may be out of date, in either direction.

    Raises what the driver raises, Corrupt, or Unavailable; rows kept by then are duplicates at the next attempt.
    """
    beyond = rows.batch.key > last_key
    fresh = np.flatnonzero(beyond).tolist()
    unsure = np.flatnonzero(~beyond).tolist()
    new = changed = 0
    for attempt in range(_ROUNDS_MAX):
        absent, better = await _compare(collection, rows, unsure)
        inserted, met = await _insert(collection, rows, fresh + absent)
        replaced = await _replace(collection, revisions, rows, better)
        new, changed, fresh = new + inserted, changed + replaced, []
        first_stays = rows.batch.dataset.on_conflict is Keep.FIRST
        unsure = sorted([*([] if first_stays else met), *(better if replaced < len(better) else ())])
        if not unsure:
            return Receipt(new, changed, len(rows.ids) - new - changed)
        if attempt > 2:
            await asyncio.sleep(0.001 * attempt)  # what the winner wrote may not be majority committed yet
    raise Unavailable(f"{collection.name}: other writers keep changing the same {len(unsure)} rows")


async def _compare(
    collection: Collection, rows: Rows, positions: Sequence[int]
) -> tuple[list[int], dict[int, Document]]:
    """Of rows that may be held: those that are not, and those to replace, each with the document it is better than."""
    if not positions:
        return [], {}
    given = rows.batch.take(np.array(positions, np.int64))
    first_stays = given.dataset.on_conflict is Keep.FIRST
    found = await _look_up(collection, given, [rows.ids[at] for at in positions], ids_only=first_stays)
    held = {document["_id"]: document for document in found}
    absent = [at for at in positions if rows.ids[at] not in held]
    if first_stays:
        return absent, {}
    here = [at for at in positions if rows.ids[at] in held]
    (series,) = rows.batch.series
    known = decode(given.dataset, series, [held[rows.ids[at]] for at in here])
    better = _better(rows, here, known)
    return absent, {at: held[rows.ids[at]] for at in better}


def _better(rows: Rows, positions: Sequence[int], known: Batch) -> list[int]:
    """Of rows whose keys are held: those the dataset's rule puts in the place of what is held."""
    if not positions:
        return []
    given = rows.batch.take(np.array(positions, np.int64))
    accepted = accept(given, _NONE_IS_FRESH, lambda *_: known, {})
    better = set(ids_of(accepted.rows))
    return [at for at in positions if rows.ids[at] in better]


async def _look_up(collection: Collection, given: Batch, ids: Sequence[Any], *, ids_only: bool) -> list[Document]:
    projection = {"_id": 1} if ids_only else None
    found: list[Document] = []
    for wanted in _filters(given, ids):
        found += await collection.find({"_id": wanted}, projection, batch_size=10_000).to_list()
    return found


def _filters(given: Batch, ids: Sequence[Any]) -> Iterable[Document]:
    first, last = int(given.key[0]), int(given.key[-1])
    if len(given.dataset.key) == 1 and last - first < _DENSE * len(ids):
        yield {"$gte": Int64(first), "$lte": Int64(last)}
        return
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield {"$in": list(ids[start : start + _IDS_AT_ONCE])}


async def _insert(collection: Collection, rows: Rows, positions: Sequence[int]) -> tuple[int, list[int]]:
    """How many were inserted, as the server counted, and the rows whose key was held."""
    if not positions:
        return 0, []
    try:
        await collection.insert_many([rows.documents[at] for at in positions], ordered=False)
    except BulkWriteError as error:
        met = [positions[index] for index in duplicates(error)]
        return int(error.details["nInserted"]), met
    return len(positions), []


async def _replace(collection: Collection, revisions: Collection, rows: Rows, better: Mapping[int, Document]) -> int:
    """Put rows in the place of the documents they were found better than; how many still were what they had been."""
    if not better:
        return 0
    (series,) = rows.batch.series
    await _keep_revisions(revisions, [revision(series, document) for document in better.values()])
    done = await collection.bulk_write(
        [ReplaceOne(version_of(document), rows.documents[at]) for at, document in better.items()], ordered=False
    )
    return done.matched_count


async def _keep_revisions(revisions: Collection, documents: Sequence[Document]) -> None:
    try:
        await revisions.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        duplicates(error)  # somebody kept it before us, or we did in an attempt that failed later


def version_of(document: Mapping[str, Any], *more: str) -> Document:
    """A filter that this version of a document meets, and no other version of it. more: fields to compare besides."""
    return {"_id": document["_id"], **{name: document.get(name) for name in (*VERSION, *more)}}


def revision(series: Series, document: Mapping[str, Any]) -> Document:
    """What the revisions keep of a replaced row: the row, under an id that its version decides."""
    version = [document.get(name) for name in VERSION]
    words = [str(int(one) if isinstance(one, DatetimeMS) else one) for one in (document["_id"], *version)]
    return {"_id": " ".join([series.id, *words]), "series": series.id, "row": dict(document)}
