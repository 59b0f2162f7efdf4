"""MongoDB or the metadata database is away for a minute while the publisher goes on: nothing is lost, all of it is said.

With MongoDB away nothing is pulled beyond what the queue may hold, and every read is refused: an empty answer would say
that there is nothing. With the metadata away rows go on, and what could not be read waits.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_manager.domain.errors import Unavailable
from tests.cluster import all_ready
from tests.conftest import eventually
from tests.contract.rows import batch_of, trade
from tests.faults.conftest import FULL, Told
from tests.faults.health import MEMORY_MAX_MIB, peak_mib
from tests.faults.outbox import publishing
from tests.faults.stage import Stage, few_books
from tests.mongo_server import MongoServer, opened, program
from tests.service import asked
from tests.truth import lines_of, paths_of, rows_of

AWAY_S = 60.0 if FULL else 4.0
QUEUE = 200
COUNT = 6_000 if FULL else 1_500
RECORDINGS = ("2021-04-05_sand-chr-neo-ctk-bat", "2023-04-04_btcusdt")
READS = ("/data/trades", "/data/mark_prices", "/data/candles")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Iterator[Stage]:
    lines = few_books(lines_of(*paths_of(recordings, "um", RECORDINGS)))
    one = Stage(tmp_path_factory.mktemp("stage"), program(), lines, message_queue_size=QUEUE)
    try:
        asyncio.run(one.open("ingest-1", "api-1"))
        yield one
    finally:
        one.close()


async def test_mongodb_is_away_while_the_publisher_goes_on(stage: Stage, told: Told) -> None:
    ingest, api = stage.some_replica, stage.cluster.api
    payloads = stage.next(COUNT, garbage=10)
    async with publishing(stage.nats.url, ingest, payloads, len(payloads) / (1.5 * AWAY_S)) as outbox:
        await eventually(lambda: ingest.figures().of("rows_new_total") >= COUNT // 10, within_s=30, what="rows before")
        await stage.kill("mongo")
        gone_s, sent = time.monotonic(), outbox.sent
        pulled = ingest.figures().of("messages_received_total", event_type="raw")
        await eventually(lambda: stage.refuses(ingest, "mongo"), what="ingest is not ready")
        told(seconds_to_notice=time.monotonic() - gone_s)
        await eventually(lambda: ingest.figures().of("circuit_breaker_open", breaker="store") == 1, what="breaker open")
        refusals, slowest_s = 0, 0.0
        while refusals == 0 or time.monotonic() - gone_s < AWAY_S:
            slowest_s = max(slowest_s, await refused(stage))
            refusals += len(READS)
        figures = ingest.figures()
        assert figures.of("messages_received_total", event_type="raw") <= pulled + 2 * QUEUE, "it pulls no more"
        assert figures.of("events_in_flight") <= 2 * QUEUE
        figures.require_law()
        assert stage.refuses(api, "mongo")
        assert {one.get("/health/liveness").status_code for one in (ingest, api)} == {200}
        asked_s = time.monotonic()
        databases = ingest.get("/health/databases")
        assert time.monotonic() - asked_s < 3, "as long as a person waits"
        assert (databases.status_code, api.get("/health/databases").status_code) == (503, 503)
        assert "does not answer: 127.0.0.1:" in databases.json()["databases"]["rows"]["reason"], "in the driver's words"
        assert ingest.page("/health/ingest")["pending"] > 0
        assert outbox.sent - sent > COUNT // 4, "the publisher went on"
        told(seconds_away=AWAY_S, refusals=refusals, seconds_to_refuse=slowest_s)
        await stage.start("mongo")
        well_s = time.monotonic()
        await all_ready([ingest, api])
        told(times=1, seconds_to_recover=time.monotonic() - well_s)
    await stage.settled(told)
    told(seconds_to_catch_up=time.monotonic() - well_s, peak_mib=peak_mib(ingest))
    assert peak_mib(ingest) < MEMORY_MAX_MIB
    assert ingest.figures().of("circuit_breaker_open", breaker="store") == 0


async def refused(stage: Stage) -> float:
    """Each read is answered 503 with Retry-After; how long the slowest took."""
    slowest_s = 0.0
    for path in READS:
        asked_s = time.monotonic()
        period = {"period": "1m"} if path == "/data/candles" else {}
        answer = await asyncio.to_thread(stage.cluster.api.get, path, pair="SANDUSDT", **period)
        slowest_s = max(slowest_s, time.monotonic() - asked_s)
        assert answer.status_code == 503, f"{path}: {answer.status_code} {answer.text}"
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "unavailable"
    assert slowest_s < 5.0, "as long as a client waits"
    return slowest_s


async def test_many_questions_that_fail_together_leave_the_driver_well(tmp_path: Path, told: Told) -> None:
    """The search for a server ends for all series of an append at the same moment, and callers give up besides."""
    server, failed = MongoServer(tmp_path, program()), 0
    server.start()
    batches = [batch_of([trade(n, f"{word}{number}USDT") for number in range(12) for n in range(3)]) for word in "ABC"]
    try:
        async with opened(server.access(patience_s=0.5)) as store:
            for batch in batches:
                await store.append(batch)
            server.kill()
            until_s = time.monotonic() + (30.0 if FULL else 4.0)
            while time.monotonic() < until_s:
                for patience_s in (5.0, 0.5, 0.3):
                    under_way = [asyncio.wait_for(store.append(batch), patience_s) for batch in batches]
                    answers = await asyncio.gather(*under_way, return_exceptions=True)
                    assert {type(one) for one in answers} <= {Unavailable, TimeoutError}
                    failed += len(answers)
            await asyncio.to_thread(server.start)
            well_s = time.monotonic()
            for batch in batches:
                receipt = await asyncio.wait_for(store.append(batch), 5.0)
                assert receipt.duplicate == len(batch)
            told(times=1, failed=failed, seconds_to_recover=time.monotonic() - well_s)
    finally:
        server.kill()


async def test_the_metadata_database_is_away_and_rows_go_on(stage: Stage, told: Told) -> None:
    ingest, api, before = stage.some_replica, stage.cluster.api, stage.rows
    new = ingest.figures().of("rows_new_total")
    payloads = stage.next(COUNT, garbage=30)
    await stage.kill("mysql")
    gone_s = time.monotonic()
    await eventually(lambda: stage.refuses(ingest, "mysql"), what="ingest is not ready")
    async with publishing(stage.nats.url, ingest, payloads, len(payloads) / (AWAY_S / 2)):
        pass
    stored = new + stage.rows - before
    await eventually(lambda: ingest.figures().of("rows_new_total") == stored, within_s=30, what="all rows all the same")
    await eventually(lambda: time.monotonic() - gone_s >= AWAY_S, within_s=AWAY_S + 1)
    assert stage.refuses(ingest, "mysql")
    assert stage.refuses(api, "mysql")
    letters = api.get("/dead-letters")
    assert (letters.status_code, int(letters.headers["retry-after"]) >= 1) == (503, True)
    path, query = asked(next(iter(rows_of(stage.published))))
    assert api.page(path, **query, start="2015-01-01", limit=5)["values"], "rows are still served"
    await stage.start("mysql")
    well_s = time.monotonic()
    await all_ready([ingest, api])
    told(times=1, seconds_away=AWAY_S, seconds_to_recover=time.monotonic() - well_s)
    await stage.settled(told)
