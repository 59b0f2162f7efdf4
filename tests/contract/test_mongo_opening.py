"""Opening a store: what an operator got wrong is said with the setting to change, and no password with it."""

from collections.abc import Mapping
from typing import Any

import pytest
from bson.decimal128 import Decimal128

from data_manager.adapters.mongo.access import Abilities, MongoAccess
from data_manager.adapters.mongo.errors import Refused, waiting
from data_manager.adapters.mongo.store import open_mongo
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadSetting, Corrupt, Unavailable
from data_manager.services.databases import Databases
from tests.contract.rows import batch_of, trade
from tests.mongo_server import HELLO, AnyServer, Keeper, MongoServer, obedient, opened, raw, scripted
from tests.servers import WallClock

SECRET = "hunter2/@:?"
ENCODED = "hunter2%2F%40%3A%3F"


async def refusal(access: MongoAccess) -> BadSetting:
    with pytest.raises(BadSetting) as caught:
        await open_mongo(access)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert ENCODED not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    return caught.value


async def test_a_login_that_is_refused(mongo_server: AnyServer) -> None:
    url = mongo_server.url.replace("mongodb://", f"mongodb://somebody:{ENCODED}@")
    error = await refusal(MongoAccess(url=url, database="petrosa"))
    assert error.name == "MONGODB_URL"
    assert "refuses the login" in str(error)


async def test_a_login_that_is_refused_given_in_parts() -> None:
    def say(command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if "saslStart" in command:
            return {"ok": 0.0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed."}
        return obedient(command)

    async with scripted(say) as url:
        host, _, port = url.removeprefix("mongodb://").rstrip("/").partition(":")
        access = MongoAccess(host=host, port=int(port), user="somebody", password=SECRET, database="petrosa")
        error = await refusal(access)
    assert error.name == "MONGODB_USER"
    assert "somebody" in str(error)
    assert SECRET not in repr(access)


async def test_missing_privileges_name_the_role_and_the_database() -> None:
    def say(command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if "insert" in command:
            return {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized on petrosa to execute"}
        return obedient(command)

    async with scripted(say) as url:
        error = await refusal(MongoAccess(url=url, database="petrosa"))
    assert error.name == "MONGODB_DB"
    assert "readWrite" in str(error)
    assert "petrosa" in str(error)


async def test_a_server_too_old_for_the_driver() -> None:
    async with scripted(lambda _: {**HELLO, "maxWireVersion": 6}) as url:
        error = await refusal(MongoAccess(url=url, database="petrosa"))
    assert error.name == "MONGODB_URL"
    assert "wire version 6" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        f"mongodb://user:{SECRET}@host",
        f"mongodb://user:{SECRET}@host:70000/",
        f"mongodb://user:{SECRET}",
        "mongodb://",
        f"http://user:{ENCODED}@host",
    ],
)
async def test_a_url_that_is_none(url: str) -> None:
    error = await refusal(MongoAccess(url=url, database="petrosa"))
    assert error.name == "MONGODB_URL"
    assert "percent-encoded" in str(error)


async def test_an_option_that_nobody_knows_is_not_left_out_in_silence() -> None:
    for option in ("replicSet=rs0", "readPreference=nearby"):
        error = await refusal(MongoAccess(url=f"mongodb://user:{ENCODED}@host/?w=1&{option}", database="petrosa"))
        assert error.name == "MONGODB_URL"
        assert f"among w, {option.partition('=')[0]}" in str(error)


@pytest.mark.parametrize("name", ["a b", "", "a/b", "a$b", "a.b", "admin", "config", "local"])
async def test_a_database_name_that_is_none(mongo_server: AnyServer, name: str) -> None:
    assert (await refusal(MongoAccess(url=mongo_server.url, database=name))).name == "MONGODB_DB"


async def test_rows_go_to_the_database_that_is_named_and_not_to_that_of_the_url(own_mongo: MongoServer) -> None:
    access = MongoAccess(url=f"{own_mongo.url}elsewhere", database="petrosa")
    async with opened(access) as store:
        await store.append(batch_of([trade(1)]))
    with raw(access) as client:
        assert "trades_BTCUSDT" in client["petrosa"].list_collection_names()
        assert client["elsewhere"].list_collection_names() == []


async def test_rows_of_a_later_release_are_left_alone(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access):
        pass
    with raw(mongo_access) as client:
        client[mongo_access.database]["data_manager.layout"].update_one({"_id": "rows"}, {"$set": {"format": 2}})
    error = await refusal(mongo_access)
    assert error.name == "MONGODB_DB"
    assert "install the later release" in str(error)


async def test_a_server_that_does_not_keep_what_was_written_is_not_trusted() -> None:
    async with scripted(obedient) as url:
        with pytest.raises(Corrupt, match="does not give back"):
            await open_mongo(MongoAccess(url=url, database="petrosa"))


class RefusesDecimals(Keeper):
    def insert(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if "a" in command["documents"][0]:
            return {"ok": 0.0, "code": 2, "errmsg": "no such type"}
        return super().insert(command)


class HangsUpOnDecimals(Keeper):
    def insert(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return None if "a" in command["documents"][0] else super().insert(command)


class HangsUpOnce(HangsUpOnDecimals):
    asked = 0

    def insert(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        self.asked += "a" in command["documents"][0]
        return super().insert(command) if self.asked == 1 else Keeper.insert(self, command)


class RoundsDecimals(Keeper):
    def insert(self, command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        for document in command["documents"]:
            document.update({"a": Decimal128("1.1")} if "a" in document else {})
        return super().insert(command)


class ForgetsAges(Keeper):
    def createindexes(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        for index in command["indexes"]:
            index.pop("expireAfterSeconds")
        return super().createindexes(command)


@pytest.mark.parametrize(
    ("keeper", "exact", "expires"),
    [
        (Keeper, True, True), (RefusesDecimals, False, True), (HangsUpOnDecimals, False, True), (HangsUpOnce, True, True),
        (RoundsDecimals, False, True), (ForgetsAges, True, False),
    ],
)  # fmt: skip
async def test_abilities_follow_what_comes_back(keeper: type[Keeper], exact: bool, expires: bool) -> None:
    async with (
        scripted(keeper()) as url,
        opened(MongoAccess(url=url, database="petrosa", expire_by_index=True)) as store,
    ):
        assert (store.abilities.exact_decimals, store.abilities.expires_by_index) == (exact, expires)
        told = Databases(store, store, "", WallClock(), name="petrosa", bytes_max=0)  # of the second only its health
        assert (await told.facts())["databases"]["rows"]["retention"] == ("index" if expires else "engine")
        assert store.abilities.server == "MongoDB 8.0.1"


def test_what_waits_and_what_must_be_mended_while_it_runs() -> None:
    with pytest.raises(Unavailable, match="MONGODB_DB") as caught, waiting("database x on y:1"):
        raise Refused("MONGODB_DB", "may not write")
    assert caught.value.retry_after_s == 5


@pytest.mark.parametrize(
    ("code", "message"), [(8000, "you are over your space quota, using 513 MB of 512 MB"), (14031, "disk full")]
)
async def test_a_full_server_is_unavailable_and_says_so(code: int, message: str) -> None:
    errors = [{"index": 0, "code": code, "errmsg": message}]

    def say(command: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"ok": 1.0, "n": 0, "writeErrors": errors} if "insert" in command else obedient(command)

    async with scripted(say) as url:
        with pytest.raises(Unavailable, match="takes no more"):
            await open_mongo(MongoAccess(url=url, database="petrosa"))


async def test_abilities_are_what_the_canary_showed(mongo_access: MongoAccess) -> None:
    async with opened(mongo_access) as store:
        exact = store.abilities.exact_decimals
        await store.append(batch_of([trade(1, price="1.10")]))
        assert (await store.scan(Series("um", "trade", "BTCUSDT"))).rows()[0]["price"] == "1.10"
        assert len(store.abilities.report()) == 3
    with raw(mongo_access) as client:
        (document,) = client[mongo_access.database]["trades_BTCUSDT"].find()
        assert document["price"] == (Decimal128("1.10") if exact else "1.10")
        assert client[mongo_access.database]["data_manager.canary"].count_documents({}) == 0


def test_a_report_says_what_a_server_lacks() -> None:
    able = Abilities(server="MongoDB 8.0.1", exact_decimals=True, expires_by_index=True, replicated=True)
    assert [line.partition(":")[0] for line in able.report()] == ["server", "numbers", "retention"]
    assert "Decimal128" in able.report()[1]
    assert "TTL" in able.report()[2]


async def test_rows_expire_by_index_only_where_that_is_wished() -> None:
    async with scripted(Keeper()) as url, opened(MongoAccess(url=url, database="petrosa")) as store:
        assert not store.abilities.expires_by_index
        assert store.abilities.report()[2] == "retention: by our retention engine"
