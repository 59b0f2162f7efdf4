"""MongoStore: the SeriesStore of a cluster. One document per row, one collection per series, any number of replicas.

    append   per series: insert what is new, compare what may be held (writing); then the open candles (live)
    scan     one find per question, filtered, sorted and cut by the server; documents become columns here
    layout   names and ids                documents   rows as BSON
    access   connection and abilities     indexes     what each collection should have, and has

Writes are acknowledged by a majority and journalled; what decides whether a row is held is read majority committed
where there are replicas: a duplicate is only called one when losing the primary cannot lose it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np
import structlog
from pymongo import timeout

from data_manager.adapters.mongo import indexes
from data_manager.adapters.mongo.access import (
    Abilities,
    Client,
    Collection,
    Database,
    MongoAccess,
    connect,
    still_ours,
)
from data_manager.adapters.mongo.documents import decode, encode
from data_manager.adapters.mongo.errors import waiting
from data_manager.adapters.mongo.indexes import Drift
from data_manager.adapters.mongo.layout import (
    LIVE,
    OF_THE_HOUSE,
    REVISIONS,
    Document,
    collection_of,
    ids_of,
    keys_between,
    rows_of,
)
from data_manager.adapters.mongo.live import keep_live, live_row
from data_manager.adapters.mongo.undisturbed import all_of, undisturbed
from data_manager.adapters.mongo.writing import Rows, keep, version_of
from data_manager.adapters.store.accepting import NO_KEY
from data_manager.domain.batch import Batch, empty, event_ms_of, live_rows, ranks
from data_manager.domain.dataset import Dataset, Keep, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.ports import Extent, Receipt, StoreSizes

_log = structlog.get_logger(__name__)
_SURE_S = 5.0
_HEALTHY_S = 1.5
_ROWS_A_BATCH = 10_000  # documents per answer of the server, and per piece of a drop


async def open_mongo(access: MongoAccess) -> MongoStore:
    """A store on that server. Raises BadSetting for what an operator must change, Unavailable when nobody answers."""
    client, database, abilities = await connect(access)
    return MongoStore(client, database, abilities, access.where)


class MongoStore:
    """SeriesStore on MongoDB. Any number of processes may have the same database open and write."""

    kind = "mongodb"

    def __init__(self, client: Client, database: Database, abilities: Abilities, where: str) -> None:
        self.abilities = abilities
        self.where = where
        self._client = client
        self._database = database
        self._last_keys: dict[Series, int] = {}  # known to have been held; rows beyond may be new, others are looked up
        self._sure_until_s = 0.0  # monotonic: so long nobody asks whether the rows are of our format
        self._drifts: dict[Series, list[Drift]] = {}  # what stood in the way of an index when a series was first met

    @property
    def deletes_by_itself(self) -> bool:
        """See SeriesStore.deletes_by_itself: by an index with an age."""
        return self.abilities.expires_by_index

    # ---- append --------------------------------------------------------------------------------------------------

    @undisturbed
    async def append(self, batch: Batch) -> Receipt:
        """See SeriesStore.append. Raised Unavailable, a part may be kept: those rows are duplicates the next time."""
        if not len(batch):
            return Receipt()
        with waiting(self.where):
            await self._still_ours()
            last_keys = await self._met(batch.series)
            open_rows = live_rows(batch)
            receipt = await self._keep(batch if not open_rows.any() else batch.take(~open_rows), last_keys)
            if batch.dataset.live is None:
                return receipt
            newer = await keep_live(self._database[LIVE], batch, last_keys, exact=self.abilities.exact_decimals)
            return receipt + Receipt(changed=newer, duplicate=int(open_rows.sum()) - newer)

    async def _keep(self, batch: Batch, last_keys: Mapping[Series, int]) -> Receipt:
        ids, documents = ids_of(batch), encode(batch, exact=self.abilities.exact_decimals)
        revisions = self._database[REVISIONS]

        async def one(position: int) -> Receipt:
            rows = slice(int(batch.offsets[position]), int(batch.offsets[position + 1]))
            if rows.start == rows.stop:
                return Receipt()
            series, part = batch.series[position], Rows(batch.of(position), ids[rows], documents[rows])
            receipt = await keep(self._collection(series), revisions, part, last_keys[series])
            self._last_keys[series] = max(int(part.batch.key[-1]), self._last_keys.get(series, NO_KEY))
            return receipt

        return sum(await all_of(one, range(len(batch.series))), Receipt())

    async def _met(self, series: Sequence[Series]) -> dict[Series, int]:
        """The last keys known of these series; one met for the first time gets its indexes and is asked for its own."""
        await all_of(self._meet, [one for one in series if one not in self._last_keys])
        return {one: self._last_keys[one] for one in series}

    async def _meet(self, series: Series) -> None:
        drifts = await indexes.ensure(self._database, series, self.abilities)
        if drifts:
            self._drifts[series] = drifts
            _log.error("indexes differ from what they should be", series=series.id, drift=[str(one) for one in drifts])
        last = await self._key(series, -1)
        self._last_keys[series] = NO_KEY if last is None else last

    # ---- reading -------------------------------------------------------------------------------------------------

    @undisturbed
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
        """See SeriesStore.scan."""
        dataset = DATASETS[series.dataset]
        if limit == 0:  # to the server 0 means: no limit
            return empty(dataset, (series,), columns or None)
        wanted = rows_of(dataset, span, after, descending=descending)
        with waiting(self.where):
            await self._still_ours()
            cursor = self._collection(series).find(wanted, list(columns) if columns else None, batch_size=_ROWS_A_BATCH)
            cursor = cursor.sort("_id", -1 if descending else 1).skip(offset).limit(limit or 0)
            return decode(dataset, series, await cursor.to_list(), columns)

    async def last(self, series: Series, n: int) -> Batch:
        """See SeriesStore.last."""
        rows = await self.scan(series, limit=n, descending=True)
        return rows.take(np.arange(len(rows))[::-1])

    @undisturbed
    async def live(self, series: Series) -> Batch:
        """See SeriesStore.live."""
        dataset = DATASETS[series.dataset]
        with waiting(self.where):
            row = await live_row(self._database[LIVE], dataset, series)
            last = await self._key(series, -1) if len(row) else None
        return row if last is None or last < int(row.key[0]) else empty(dataset, (series,))

    @undisturbed
    async def extent(self, series: Series) -> Extent | None:
        """See SeriesStore.extent. rows is the server's own counter, which an unclean shutdown of it may leave wrong."""
        dataset = DATASETS[series.dataset]
        with waiting(self.where):
            rows = self._collection(series).estimated_document_count()
            first, last, held = await asyncio.gather(self._key(series, 1), self._key(series, -1), rows)
            earliest, latest = first, last
            if dataset.time != dataset.key[0]:
                earliest, latest = await asyncio.gather(self._time(series, 1), self._time(series, -1))
        if first is None or last is None or earliest is None or latest is None:
            return None
        return Extent(held, first, last, earliest, latest)

    @undisturbed
    async def count(self, series: Series, span: Span | None = None) -> int:
        """See SeriesStore.count."""
        with waiting(self.where):
            return await self._collection(series).count_documents(rows_of(DATASETS[series.dataset], span))

    async def keys(self, series: Series, span: Span | None = None) -> Batch:
        """See SeriesStore.keys."""
        return await self.scan(series, span, columns=DATASETS[series.dataset].audited_columns)

    @undisturbed
    async def series(self) -> list[Series]:
        """See SeriesStore.series."""
        with waiting(self.where):
            known = await indexes.held_collections(self._database)
            held = await all_of(self._holds_any, known)
        return list(compress(known, held))

    @undisturbed
    async def revisions(self, series: Series) -> Batch:
        """Rows that were replaced, as they were: by key, then oldest first."""
        dataset = DATASETS[series.dataset]
        with waiting(self.where):
            found = self._database[REVISIONS].find({"_id": {"$gte": f"{series.id} ", "$lt": f"{series.id}!"}})
            old = [document["row"] for document in await found.to_list()]
            ids = list({row["_id"]: None for row in old})
            held = await self._collection(series).find({"_id": {"$in": ids}}).to_list()
        versions = [version_of(document) for document in held]  # one that stands is about to be replaced, or was not
        gone = [row for row in old if version_of(row) not in versions]
        rows = decode(dataset, series, gone)
        return rows.take(np.lexsort([event_ms_of(rows), ranks(rows), rows.key]))

    def version(self, series: Series) -> int | None:
        """None: other replicas write too, so nobody here can tell whether the rows of a series have changed."""
        return None

    async def _holds_any(self, series: Series) -> bool:
        """Whether there is a row, be it readable or not."""
        wanted = keys_between(DATASETS[series.dataset], None, None)
        return await self._collection(series).find_one(wanted, {"_id": 1}) is not None

    async def _key(self, series: Series, way: int) -> int | None:
        """The first (way 1) or last (-1) key, its first part; None when nothing is held."""
        rows = await self._first(series, keys_between(DATASETS[series.dataset], None, None), way)
        return int(rows.key[0]) if len(rows) else None

    async def _time(self, series: Series, way: int) -> int | None:
        """The earliest (way 1) or latest (-1) time; None when nothing is held."""
        rows = await self._first(series, {DATASETS[series.dataset].time: {"$type": "date"}}, way)
        return int(rows.time_ms[0]) if len(rows) else None

    async def _first(self, series: Series, wanted: Document, way: int) -> Batch:
        """The first or last row of those wanted, by the one field that is asked about."""
        dataset: Dataset = DATASETS[series.dataset]
        [by] = wanted
        names = list(dict.fromkeys((dataset.key[0], dataset.time)))
        found: list[Document] = await self._collection(series).find(wanted, names).sort(by, way).limit(1).to_list()
        return decode(dataset, series, found, names)

    # ---- keeping house -------------------------------------------------------------------------------------------

    @undisturbed
    async def drop(self, series: Series, span: Span) -> int:
        """See SeriesStore.drop. In pieces; raised Unavailable, those before are gone."""
        collection, wanted = self._collection(series), rows_of(DATASETS[series.dataset], span)
        dropped, page = 0, _ROWS_A_BATCH
        with waiting(self.where):
            await self._still_ours()
            while page == _ROWS_A_BATCH:
                ids = await collection.find(wanted, {"_id": 1}).sort("_id", 1).limit(_ROWS_A_BATCH).to_list()
                page = len(ids)
                if ids:
                    until = {**wanted.get("_id", {}), "$lte": ids[-1]["_id"]}
                    dropped += (await collection.delete_many({**wanted, "_id": until})).deleted_count
            await self._forget_revisions(series, span)
        self._last_keys.pop(series, None)
        return dropped

    async def _forget_revisions(self, series: Series, span: Span) -> None:
        """What was replaced goes with what replaced it; only rows keyed by their time are ever replaced."""
        dataset = DATASETS[series.dataset]
        if dataset.on_conflict is Keep.FINAL and dataset.time == dataset.key[0]:
            mine = {"$gte": f"{series.id} ", "$lt": f"{series.id}!"}
            keys = rows_of(dataset, span)["_id"]
            await self._database[REVISIONS].delete_many({"_id": mine, "row._id": keys})

    @undisturbed
    async def migrate(self) -> list[str]:
        """Bring every collection's indexes and retention up to date; what was done, one line each. Can be repeated."""
        with waiting(self.where):
            return await indexes.migrate(self._database, self.abilities)

    @undisturbed
    async def drift(self) -> list[Drift]:
        """Where indexes, or the layout of rows, are not what they should be. Changes nothing."""
        with waiting(self.where):
            return await indexes.compare(self._database, self.abilities)

    @undisturbed
    async def overdue(self, now_ms: int) -> dict[Series, int]:
        """Rows that outlived their retention and are still there, by series, counted."""
        with waiting(self.where):
            return await indexes.overdue(self._database, now_ms)

    async def problems(self, now_ms: int) -> list[str]:
        """See SeriesStore.problems: drifted indexes, and rows that outlived their retention, counted."""
        late = await self.overdue(now_ms) if self.abilities.expires_by_index else {}
        lines = [
            f"{series.id}: {rows} rows outlived their retention and are still there" for series, rows in late.items()
        ]
        return [str(one) for one in await self.drift()] + lines

    @undisturbed
    async def sizes(self) -> StoreSizes:
        """See SeriesStore.sizes. Of our database alone, so that a login needs no more than readWrite on it."""
        with waiting(self.where):
            stats = await self._database.command("dbStats")
            no_rows = sum([await self._database[name].estimated_document_count() for name in OF_THE_HOUSE])
        return StoreSizes(
            rows=max(0, int(stats["objects"]) - no_rows),
            data_bytes=int(stats["dataSize"]),
            storage_bytes=int(stats["storageSize"]),
            index_bytes=int(stats["indexSize"]),
        )

    @undisturbed
    async def healthy(self) -> bool:
        """Whether the server answers. Raises Unavailable with the reason when it does not, Outdated: see still_ours.

        It is sooner than those who ask lose patience: the driver goes on looking for a server that refuses connections.
        """
        with waiting(self.where), timeout(_HEALTHY_S):
            self._sure_until_s = 0.0
            await self._still_ours()
        return True

    async def close(self) -> None:
        """See SeriesStore.close."""
        await self._client.close()

    async def _still_ours(self) -> None:
        """Raises Outdated at most a few seconds after a later release has changed the format of the rows."""
        now_s = time.monotonic()
        if now_s >= self._sure_until_s:
            await still_ours(self._database, self.where)
            self._sure_until_s = now_s + _SURE_S

    def _collection(self, series: Series) -> Collection:
        return self._database[collection_of(series)]
