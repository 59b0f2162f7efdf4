"""Auto-heal on the cluster's column: rows in MongoDB, metadata in SQLite and in MySQL or MariaDB."""

from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.mongo.access import MongoAccess
from data_manager.adapters.mongo.store import open_mongo
from tests.flow.test_healing import AGGREGATES, MINUTES, House, aggregate, minutes
from tests.mysql_server import FreshDatabase
from tests.source import PastSource


async def test_holes_heal_wherever_rows_and_metadata_are(
    mongo_access: MongoAccess, fresh_database: FreshDatabase
) -> None:
    store, meta = await open_mongo(mongo_access), await open_meta(await fresh_database())
    try:
        past = {MINUTES: minutes(range(180)), AGGREGATES: [aggregate(number) for number in range(300)]}
        house = House(meta, store, PastSource(past))
        await house.hold(minutes([*range(10), *range(20, 50), *range(51, 180)]))
        await house.hold([aggregate(number) for number in (*range(50), *range(200, 250))])
        await house.audit()
        await house.heal()
        assert await house.states() == [(10, 20, "healed"), (50, 51, "healed")]
        assert await house.held() == [*range(180)]
        assert await house.held(AGGREGATES) == [*range(250)]
        assert sorted(str(series) for series, _ in house.certified) == [AGGREGATES.id, MINUTES.id]
    finally:
        await store.close()
        await meta.close()
