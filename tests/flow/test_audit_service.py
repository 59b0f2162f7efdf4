"""The audit in the running service: it finds what is missing by itself, and every answer says how complete it is.

On both columns: one process on embedded stores, and a cluster of one process per role on MongoDB's protocol and MariaDB.
"""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from tests import cluster as clusters
from tests.conftest import eventually
from tests.mongo_server import mongo_server
from tests.mysql_server import mysql_server
from tests.servers import running_server
from tests.service import Service, connected, drained, publish

__all__ = ["mongo_server", "mysql_server"]  # fixtures

MINUTE_MS = 60_000
NOW_MS = time.time_ns() // 1_000_000
FIRST_MS = NOW_MS - NOW_MS % MINUTE_MS - 60 * MINUTE_MS
SERIES = "um.candle.BTCUSDT.1m"
MISSING = {7, 30, 31}
QUICK = {
    "audit_interval": 1,
    "enable_backfiller": "false",
    "leader_election_timeout": 2,
    "leader_election_heartbeat_interval": 1,
}


def at(minute: int) -> int:
    return FIRST_MS + minute * MINUTE_MS


def kline(minute: int, symbol: str = "BTCUSDT") -> bytes:
    opened = at(minute)
    candle = {
        "t": opened, "T": opened + MINUTE_MS - 1, "s": symbol, "i": "1m", "f": 100 * minute, "L": 100 * minute + 99,
        "o": "10.5", "c": "10.6", "h": "10.9", "l": "10.1", "v": "12.5", "n": 100, "x": True, "q": "131.2", "V": "6.1",
        "Q": "64.0", "B": "0",
    }  # fmt: skip
    event = {"e": "kline", "E": opened + MINUTE_MS, "s": symbol, "k": candle}
    return json.dumps({"stream": f"{symbol.lower()}@kline_1m", "data": event}).encode()


class Audited(NamedTuple):
    """A service that was fed and audits itself: who stores, who audits and who answers may be three processes."""

    ingest: Service
    work: Service
    api: Service
    url: str

    async def feed(self, *minutes: int) -> None:
        """Publish these candles, and return when they are stored."""
        async with connected(self.url) as client:
            await publish(client, self.ingest.subject, [kline(minute) for minute in minutes])
            await drained(client, self.ingest)

    def words(self, **query: object) -> list[tuple[int, int, str]]:
        """What /condition says of the series."""
        body = self.api.page("/condition", series=SERIES, **query)
        return [(one["start_ms"], one["end_ms"], one["condition"]) for one in body["ranges"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


@pytest.fixture(scope="module", params=["embedded", "cluster"])
def audited(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: NatsServer
) -> Iterator[Audited]:
    """Fifty minutes without three of them, a little while ago."""
    folder = tmp_path_factory.mktemp("audited")
    made = embedded(folder, server) if request.param == "embedded" else clustered(request, folder, server)
    try:
        asyncio.run(made.feed(*(minute for minute in range(50) if minute not in MISSING)))
        yield made
    finally:
        for one in made[:3]:
            one.close()


def embedded(folder: Path, server: NatsServer) -> Audited:
    one = Service(folder, nats_url=server.url, **QUICK)
    asyncio.run(one.start())
    return Audited(one, one, one, server.url)


def clustered(request: pytest.FixtureRequest, folder: Path, server: NatsServer) -> Audited:
    mongo, mysql = request.getfixturevalue("mongo_server"), request.getfixturevalue("mysql_server")
    cluster = clusters.of(folder, server.url, mongo, mysql, **QUICK)
    return Audited(*asyncio.run(cluster.start("ingest", "work", "api")), server.url)


async def test_it_finds_what_is_missing_by_itself(audited: Audited) -> None:
    expected = [(at(7), at(8), "known_hole"), (at(30), at(32), "known_hole")]

    def found() -> bool:
        words = audited.words(start=at(0), end=at(50))
        return [one for one in words if one[2] != "good"] == expected

    await eventually(found, within_s=20, what=f"the holes\n{audited.work.said()}")


async def test_every_answer_says_how_complete_it_is(audited: Audited) -> None:
    query = {"pair": "BTCUSDT", "period": "1m", "start": at(0), "end": at(50)}
    whole = await complete(audited, 47 / 50)
    assert [(one["start_ms"], one["condition"]) for one in whole["coverage"]] == [
        (at(0), "good"), (at(7), "known_hole"), (at(8), "good"), (at(30), "known_hole"), (at(32), "good"),
    ]  # fmt: skip
    assert whole["coverage"] == audited.api.page("/condition", series=SERIES, start=at(0), end=at(50))["ranges"]
    for form in ("json", "ndjson", "csv", "arrow", "parquet"):
        headers = audited.api.get("/data/candles", **query, format=form).headers
        assert headers["x-data-completeness"] == "0.940000"
        assert headers["x-data-condition"] == "good=0.94, known_hole=0.06"
    table = pa.ipc.open_stream(audited.api.get("/data/candles", **query, format="arrow").content).read_all()
    parquet = pq.read_schema(io.BytesIO(audited.api.get("/data/candles", **query, format="parquet").content))
    for schema in (table.schema, parquet):
        assert float(schema.metadata[b"data_completeness"]) == 47 / 50
        assert json.loads(schema.metadata[b"coverage"]) == whole["coverage"]
    page = audited.api.page("/data/candles", **{**query, "limit": 7})
    assert (page["coverage"][-1]["end_ms"], page["metadata"]["data_completeness"]) == (at(7), 1.0)
    nothing = audited.api.page("/data/candles", pair="XYZUSDT", period="1m")
    assert (nothing["coverage"], nothing["metadata"]["data_completeness"]) == ([], None)
    unknown = audited.api.page("/data/candles", pair="XYZUSDT", period="1m", start=at(0), end=at(9))
    assert [one["condition"] for one in unknown["coverage"]] == ["unverified"]


async def complete(audited: Audited, share: float) -> Any:
    """The answer for the fifty minutes, once it is as complete as that."""
    query = {"pair": "BTCUSDT", "period": "1m", "start": at(0), "end": at(50)}

    def page() -> Any:
        return audited.api.page("/data/candles", **query)

    await eventually(
        lambda: page()["metadata"]["data_completeness"] == share, within_s=20, what=str(page()["coverage"])
    )
    return page()


async def test_who_audits_by_itself_says_so_and_an_api_does_when_asked(audited: Audited) -> None:
    assert audited.work.page("/health/readiness")["components"]["auditor"] == "healthy"
    figures = audited.work.figures()
    assert figures.of("audit_cycle_seconds_count") >= 1
    assert figures.of("audit_gaps_detected_total", symbol="BTCUSDT", timeframe="1m") == 3, "two, and that it stopped"
    assert (figures.of("audit_failures_total"), figures.of("audit_leader_status")) == (0, 1)
    done = audited.work.post("/audit/run", {"series": SERIES, "start": at(0), "end": at(50)}).json()
    assert (done["audited"], [one["start_ms"] for one in done["holes"]]) == (1, [at(7), at(30)])
    if audited.api is not audited.work:
        asked = audited.api.post("/audit/run", {"series": SERIES, "start": at(0), "end": at(50)}).json()
        assert (asked["audited"], asked["holes"]) == (1, done["holes"])
        components = audited.api.page("/health/readiness")["components"]
        assert {components[name] for name in ("auditor", "nats", "analytics")} == {"not_configured"}
    ledger = audited.api.page("/audit/holes", series=SERIES, state="live", start=at(0), end=at(50))
    assert ledger["pagination"]["total"] == 2


async def test_the_command_asks_the_service_or_does_it_itself(audited: Audited) -> None:
    found = json.loads(audited.work.command("audit", SERIES, "--full", "--json"))
    assert (found["audited"], found["rows"], found["holes_total"]) == (1, 47, 3)
    span = ("--start", at(0), "--end", at(50))
    named = json.loads(audited.work.command("audit", "candles_BTCUSDT_1m", *span, "--at", audited.work.url, "--json"))
    assert [one["start_ms"] for one in named["holes"]] == [at(7), at(30)]


async def test_what_is_mended_is_healed_without_anybody_asking(audited: Audited) -> None:
    await audited.feed(*MISSING)
    whole = await complete(audited, 1.0)
    assert {one["condition"] for one in whole["coverage"]} == {"good", "healed"}
    ledger = audited.api.page("/audit/holes", series=SERIES, start=at(0), end=at(50))
    assert [one["state"] for one in ledger["data"]] == ["healed", "healed"]


async def test_a_candle_that_is_told_otherwise_is_a_finding_and_degraded(audited: Audited) -> None:
    """Once with a time that lets it replace the first, once with one that does not; the rest stays as it was."""
    first, later = json.loads(kline(20)), json.loads(kline(21))
    first["data"]["k"]["c"], later["data"]["k"]["c"] = "10.7", "10.8"
    later["data"]["E"] += 300
    async with connected(audited.url) as client:
        payloads = [json.dumps(first).encode(), json.dumps(later).encode(), kline(22)]
        await publish(client, audited.ingest.subject, payloads)
        await drained(client, audited.ingest)

    def told() -> list[tuple[int, object, object]]:
        page = audited.api.page("/findings", kind="differs", series=SERIES)["data"]
        return sorted((one["start_ms"], one["evidence"]["held"], one["evidence"]["said"]) for one in page)

    expected = [(at(20), "10.6", "10.7"), (at(21), "10.8", "10.6")]
    await eventually(lambda: told() == expected, within_s=20, what=str(told()))
    degraded = [(at(20), at(22), "degraded")]
    await eventually(
        lambda: [one for one in audited.words(start=at(19), end=at(24)) if one[2] == "degraded"] == degraded,
        within_s=20,
        what=str(audited.words(start=at(19), end=at(24))),
    )
