"""The indexes we own, in one place: what each collection should have, what it has, and the difference said aloud.

An index other than _id_ is needed where a question of times cannot be answered by _id, and, if that is wished, where
rows expire by themselves. An index of ours whose rows are not to expire any more is made anew. Nothing else here is
ever dropped or renamed: what somebody else made is reported, with the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson.datetime_ms import DatetimeMS
from msgspec import Struct
from pymongo import timeout
from pymongo.errors import OperationFailure

from data_manager.adapters.mongo.access import Abilities, Collection, Database
from data_manager.adapters.mongo.errors import NOT_IMPLEMENTED
from data_manager.adapters.mongo.layout import OURS, collection_of, series_of
from data_manager.domain.dataset import Dataset, Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.time import DAY_MS

TIME_INDEX = "dm_time"
TTL_SLACK_MS = 10 * 60_000
"""The server's own thread removes expired rows once a minute; later than this they are overdue."""

_INDEXING_S = 3_600.0  # an index over many rows takes its time
_CONFLICTS = (85, 86)  # an index with these keys has another name; one with this name has other keys or options
_NO_COLLECTION = 26


class Index(Struct, frozen=True):
    """One index. expire_after_s: rows go that long after the time in the (only) key; None keeps them."""

    name: str
    keys: tuple[tuple[str, int], ...]
    expire_after_s: int | None = None


class Drift(Struct, frozen=True):
    """A difference between what a collection should have and what it has, and what to do about it."""

    collection: str
    index: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"collection {self.collection}, index {self.index}: {self.problem}; {self.fix}"


def retention_s(series: Series) -> int | None:
    """How long rows of a series are kept, None for ever."""
    days = DATASETS[series.dataset].retention_days
    if days is not None and not isinstance(days, int):
        days = days.get(series.interval or "")
    return None if days is None else days * DAY_MS // 1000


def desired(series: Series, abilities: Abilities) -> tuple[Index, ...]:
    """The indexes the collection of a series should have, besides _id_."""
    dataset: Dataset = DATASETS[series.dataset]
    expire_after_s = retention_s(series) if abilities.expires_by_index else None
    if dataset.time == dataset.key[0] and expire_after_s is None:
        return ()
    return (Index(TIME_INDEX, ((dataset.time, 1),), expire_after_s),)


async def ensure(database: Database, series: Series, abilities: Abilities) -> list[Drift]:
    """Create what the series' collection lacks; what stands in the way is returned, and left as it is."""
    collection = database[collection_of(series)]
    drifts = []
    for index in desired(series, abilities):
        try:
            await _create(collection, index)
        except OperationFailure as error:
            if error.code not in _CONFLICTS:
                raise
            drifts += differences(collection.name, [index], await _actual(collection))
    return drifts


async def migrate(database: Database, abilities: Abilities) -> list[str]:
    """Give every collection of ours its indexes and today's retention; what was done, one line each.

    Can be repeated, and goes on where a killed one stopped. What it cannot mend, compare() tells.
    """
    done = []
    for series in await held_collections(database):
        collection = database[collection_of(series)]
        before = {index.name: index for index in await _actual(collection)}
        done += await _stop_expiry(collection, before, desired(series, abilities))
        for index in desired(series, abilities):
            held = before.get(index.name)
            if held is None and not any(other.keys == index.keys for other in before.values()):
                with timeout(_INDEXING_S):
                    await _create(collection, index)
                done.append(f"{collection.name}: created {index.name}")
            elif held is not None and held.keys == index.keys and held != index:
                done += await _adjust(database, collection.name, held, index)
    return done


async def compare(database: Database, abilities: Abilities) -> list[Drift]:
    """Every difference between the indexes there should be and those there are, over all collections of ours."""
    drifts: list[Drift] = []
    for series in await held_collections(database):
        collection = database[collection_of(series)]
        drifts += differences(collection.name, desired(series, abilities), await _actual(collection))
        drifts += await _foreign_rows(collection, DATASETS[series.dataset])
    return drifts


async def overdue(database: Database, now_ms: int, slack_ms: int = TTL_SLACK_MS) -> dict[Series, int]:
    """Rows older than their retention that are still there, by series: counted, because an index proves nothing."""
    found = {}
    for series in await held_collections(database):
        kept_s = retention_s(series)
        if kept_s is not None:
            limit = DatetimeMS(now_ms - kept_s * 1000 - slack_ms)
            rows = await database[collection_of(series)].count_documents(
                {DATASETS[series.dataset].time: {"$lt": limit}}
            )
            if rows:
                found[series] = rows
    return found


async def held_collections(database: Database) -> list[Series]:
    """The series that have a collection, sorted; it may be empty."""
    names = await database.list_collection_names(authorizedCollections=True, nameOnly=True)
    found = (series_of(name) for name in names if not name.startswith(f"{OURS}."))
    return sorted(series for series in found if series is not None)


async def _create(collection: Collection, index: Index) -> None:
    options: dict[str, Any] = {} if index.expire_after_s is None else {"expireAfterSeconds": index.expire_after_s}
    await collection.create_index(list(index.keys), name=index.name, **options)


async def _stop_expiry(collection: Collection, held: dict[str, Index], wanted: Iterable[Index]) -> list[str]:
    """Drop an index of ours by which rows expire that are not to: an age cannot be taken from an index in place."""
    ours = held.get(TIME_INDEX)
    ages = {index.name: index.expire_after_s for index in wanted}
    if ours is None or ours.expire_after_s is None or ages.get(TIME_INDEX) is not None:
        return []
    await collection.drop_index(TIME_INDEX)
    del held[TIME_INDEX]
    return [f"{collection.name}: rows no longer expire after {ours.expire_after_s} s"]


async def _adjust(database: Database, collection: str, held: Index, wanted: Index) -> list[str]:
    """Set the retention of an index of ours to today's; nothing when the server cannot: then it is drift."""
    if held.expire_after_s is None or wanted.expire_after_s is None:
        return []
    change = {"name": wanted.name, "expireAfterSeconds": wanted.expire_after_s}
    try:
        await database.command({"collMod": collection, "index": change})
    except OperationFailure as error:
        if error.code not in NOT_IMPLEMENTED:
            raise
        return []
    return [f"{collection}: rows now expire after {wanted.expire_after_s} s instead of {held.expire_after_s} s"]


async def _actual(collection: Collection) -> list[Index]:
    """The indexes of a collection, besides _id_."""
    try:
        listed = await (await collection.list_indexes()).to_list()
    except OperationFailure as error:
        if error.code != _NO_COLLECTION:
            raise
        return []
    return [_index(one) for one in listed if one["name"] != "_id_"]


def _index(listed: Mapping[str, Any]) -> Index:
    keys = tuple((str(field), int(way) if isinstance(way, int | float) else 0) for field, way in listed["key"].items())
    expire = listed.get("expireAfterSeconds")
    return Index(listed["name"], keys, None if expire is None else int(expire))


def differences(collection: str, wanted: Iterable[Index], actual: Sequence[Index]) -> list[Drift]:
    """What distinguishes the indexes a collection has (besides _id_) from those it should have."""
    by_name = {index.name: index for index in actual}
    drifts = []
    for index in wanted:
        held = by_name.pop(index.name, None)
        if held is None:
            twin = next((other for other in actual if other.keys == index.keys), None)
            drifts.append(_missing(collection, index, twin))
        elif held != index:
            problem = f"has {_options(held)} instead of {_options(index)}"
            drifts.append(Drift(collection, index.name, problem, "drop it and run `data-manager migrate`"))
    fix = "drop it, or let its owner say why"
    drifts += [Drift(collection, one.name, f"is none of ours ({_options(one)})", fix) for one in by_name.values()]
    return drifts


def _missing(collection: str, index: Index, twin: Index | None) -> Drift:
    if twin is None:
        return Drift(collection, index.name, "is missing", "run `data-manager migrate`")
    problem = f"cannot be made: {twin.name} has the same key ({_options(twin)})"
    return Drift(collection, index.name, problem, f"drop {twin.name} and run `data-manager migrate`")


def _options(index: Index) -> str:
    keys = ", ".join(f"{field} {way}" for field, way in index.keys)
    return f"keys {keys}; " + (
        "no expiry" if index.expire_after_s is None else f"expiry after {index.expire_after_s} s"
    )


async def _foreign_rows(collection: Collection, dataset: Dataset) -> list[Drift]:
    """Rows that somebody else wrote under ids of another kind: the predecessor's were SYMBOL_ms."""
    kinds = ["string", "objectId"] if len(dataset.key) == 1 else ["long", "int", "objectId"]
    found = await collection.find_one({"_id": {"$type": kinds}}, {"_id": 1})
    if found is None:
        return []
    problem = f"holds documents of another layout, such as _id {found['_id']!r}"
    return [Drift(collection.name, "_id_", problem, "move them to another collection, or choose another MONGODB_DB")]
