"""Reaching a MongoDB server: where it is, who we are, and what it can do.

The database is the one that is named, never one from the path of a URL. A server's abilities are found out once, by
writing a canary and reading it back, not by its name or version: servers that speak the protocol without being MongoDB
keep other things than they accept.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qsl

import structlog
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from msgspec import Struct
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import AutoReconnect, DuplicateKeyError, InvalidName, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from data_manager.adapters.mongo.errors import NOT_IMPLEMENTED, Refused, translated
from data_manager.adapters.mongo.layout import CANARY, FORMAT, LAYOUT, Document
from data_manager.domain.errors import BadSetting, Corrupt, Outdated

Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]
Collection = AsyncCollection[Document]

_log = structlog.get_logger(__name__)
_CANARY_INDEX = "dm_canary"
_OF_THE_SERVER = ("admin", "config", "local")
_CONNECT_MS = 5_000  # a connection, encrypted, from far away


class MongoAccess(Struct, frozen=True, kw_only=True):
    """Where the server is and who we are. url, when given, says both; otherwise host, port, user, password do.

    expire_by_index: let the server delete rows that are older than their retention; else our retention engine does.
    """

    database: str
    url: str = ""
    host: str = "localhost"
    port: int = 27017
    user: str = ""
    password: str = ""
    patience_s: float = 2.0  # how long one attempt may look for a server that answers: who reads is refused after it
    operation_s: float = 60.0  # how long one answer of the server may take
    connections_max: int = 32
    expire_by_index: bool = False

    def __repr__(self) -> str:
        return f"MongoAccess({self.where})"

    __str__ = __repr__

    @property
    def where(self) -> str:
        """Database and servers, as messages name them: without login, options or path."""
        servers = re.sub(r"^mongodb(\+srv)?://", "", self.url).rpartition("@")[2] if self.url else ""
        return f"database {self.database} on {re.split('[/?]', servers)[0] or f'{self.node}:{self.port}'}"

    @property
    def node(self) -> str:
        """host as it stands before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host


class Abilities(Struct, frozen=True, kw_only=True):
    """What a server can do, as its canary showed, and what it calls itself."""

    server: str
    exact_decimals: bool  # Decimal128 comes back as it went; else numbers are the venue's text
    expires_by_index: bool  # TTL indexes are wanted, and the server has them; else our retention engine deletes
    replicated: bool  # a replica set or a sharded cluster: what is read before an ack must be majority committed

    def report(self) -> list[str]:
        """A line per ability, for people."""
        return [
            f"server: {self.server}, {'replicated' if self.replicated else 'a single node'}",
            f"numbers: {'Decimal128' if self.exact_decimals else 'text, because this server does not keep Decimal128'}",
            f"retention: {'by TTL index, uncertified' if self.expires_by_index else 'by our retention engine'}",
        ]


async def connect(access: MongoAccess) -> tuple[Client, Database, Abilities]:
    """A client, the database with durable writes, and the server's abilities.

    Raises BadSetting for what an operator must change (credentials, privileges, database, a server too old, a URL that
    is none), Unavailable when no server answers.
    """
    client = _client(access)
    try:
        with translated(access.where):
            database = _database(client, access)
            hello = await database.command("hello")
            build = await database.command("buildInfo")
            abilities = await _probe(access, database, hello, build)
            await _require_format(database)
    except Refused as error:
        await client.close()
        name = "MONGODB_URL" if access.url and error.setting == "MONGODB_USER" else error.setting
        raise BadSetting(name, _shown(access, name), str(error)) from error
    except BaseException:
        await client.close()
        raise
    _log.info("MongoDB", where=access.where, abilities=abilities.report())
    level = ReadConcern("majority" if abilities.replicated else None)
    return client, database.with_options(read_concern=level), abilities


def _client(access: MongoAccess) -> Client:
    login: dict[str, Any] = {"username": access.user, "password": access.password} if access.user else {}
    place: dict[str, Any] = {"host": access.url} if access.url else {"host": access.node, "port": access.port, **login}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of an option that it does not know, and would leave out
            return AsyncMongoClient(
                **place,
                tz_aware=True,
                datetime_conversion=DatetimeConversion.DATETIME_MS,
                uuidRepresentation="standard",
                appname="petrosa-data-manager",
                serverSelectionTimeoutMS=round(access.patience_s * 1000),
                connectTimeoutMS=_CONNECT_MS,
                socketTimeoutMS=round(access.operation_s * 1000),
                maxPoolSize=access.connections_max,
            )
    except UserWarning:
        options = ", ".join(dict(parse_qsl(access.url.partition("?")[2], keep_blank_values=True)))
        rule = f"has an option that the driver does not know, or whose value it cannot use, among {options}"
        raise BadSetting("MONGODB_URL", _shown(access, "MONGODB_URL"), rule) from None
    except (PyMongoError, ValueError, TypeError):
        pass  # the driver's message may quote a password, and so may its traceback
    name = "MONGODB_URL" if access.url else "MONGODB_HOST"
    raise BadSetting(
        name,
        "***" if access.url else access.host,
        "must read mongodb://USER:PASSWORD@HOST:PORT/?OPTIONS, with user and password percent-encoded",
    )


def _database(client: Client, access: MongoAccess) -> Database:
    options: CodecOptions[Document] = client.codec_options
    if access.database in _OF_THE_SERVER:
        raise BadSetting("MONGODB_DB", access.database, "belongs to the server itself: name a database of ours")
    durable = WriteConcern(w="majority", j=True, wtimeout=round(access.operation_s * 800))  # it says so before we stop
    try:
        return client.get_database(access.database, codec_options=options, write_concern=durable)
    except InvalidName as error:
        raise BadSetting("MONGODB_DB", access.database, f"is no name of a database: {error}") from error


def _shown(access: MongoAccess, setting: str) -> str:
    """The setting's value as a message may show it."""
    if setting == "MONGODB_URL":
        return f"mongodb://***@{access.where.rpartition(' on ')[2]}"
    return {"MONGODB_DB": access.database, "MONGODB_HOST": access.host}.get(setting, access.user or "***")


async def still_ours(database: Database, where: str) -> None:
    """Raises Outdated when a later release has changed the format of the rows since we connected."""
    found = await database[LAYOUT].find_one({"_id": "rows"})
    if found is not None and found["format"] > FORMAT:
        fix = "replace this process by one of the later release"
        raise Outdated(f"{where} holds rows of format {found['format']}, this release knows up to {FORMAT}: {fix}")


async def _require_format(database: Database) -> None:
    """Mark a new database with our format; refuse one that a later release has written."""
    layout = database[LAYOUT]
    found = await layout.find_one({"_id": "rows"})
    if found is None:
        with suppress(DuplicateKeyError):  # another replica was first: all the same
            await layout.insert_one({"_id": "rows", "format": FORMAT})
    elif found["format"] > FORMAT:
        raise Refused(
            "MONGODB_DB",
            f"holds rows of format {found['format']}, this release reads up to {FORMAT}: install the later release",
        )


# ---- the canary -----------------------------------------------------------------------------------------------------


async def _probe(access: MongoAccess, database: Database, hello: Document, build: Document) -> Abilities:
    """Everything we shall ask of the server later, once: what it refuses is known before the first row."""
    canary = database[CANARY]
    plain = {
        "key": Int64(2**53 + 1),
        "at": DatetimeMS(1_700_000_000_001),
        "text": "币安 1.10",
        "levels": [{"price": "1"}],
    }
    if not await _comes_back(canary, plain):
        raise Corrupt(f"{access.where} does not give back what was written: integers, dates, texts or lists differ")
    exact = await _keeps_decimals(access, database)
    expires = access.expire_by_index and await _takes_ttl(canary)
    await database.command("dbStats")
    await database.list_collection_names(filter={"name": CANARY})
    return Abilities(
        server=_server(build),
        exact_decimals=exact,
        expires_by_index=expires,
        replicated="setName" in hello or hello.get("msg") == "isdbgrid",
    )


def _server(build: Document) -> str:
    version = build.get("version", "of unknown version")
    other = next((name.removesuffix("Version") for name in build if name.endswith("dbVersion")), None)
    return f"MongoDB {version}" if other is None else f"{other}, which speaks as MongoDB {version}"


async def _comes_back(canary: Collection, fields: Document) -> bool:
    given = {"_id": token_hex(12), **fields}
    await canary.insert_one(given)
    found = await canary.find_one({"_id": given["_id"]})
    await canary.delete_one({"_id": given["_id"]})
    return found == given


async def _keeps_decimals(access: MongoAccess, database: Database) -> bool:
    """Whether Decimal128 comes back as it went.

    A server may refuse it, change it, or hang up. Each attempt has a connection of its own, so that no other suffers;
    a server that hung up is asked a second time, for it may have been the network.
    """
    numbers = {
        "a": Decimal128("1.10"),
        "b": Decimal128("-0.00"),
        "c": Decimal128("1234567890123456789012345678901.234"),
    }
    for _ in range(2):
        async with _client(access) as client:
            try:
                return await _comes_back(_database(client, access)[CANARY], numbers)
            except OperationFailure:
                return False
            except AutoReconnect:
                await database.command("ping")  # away altogether? then this says so
    return False


async def _takes_ttl(canary: Collection) -> bool:
    """Whether an index with an age is created and still has it when it is listed."""
    try:
        await canary.create_index([("at", 1)], name=_CANARY_INDEX, expireAfterSeconds=3600)
    except OperationFailure as error:
        if error.code in NOT_IMPLEMENTED:
            return False
        raise
    listed = await (await canary.list_indexes()).to_list()
    return any(one["name"] == _CANARY_INDEX and one.get("expireAfterSeconds") == 3600 for one in listed)
