"""Backfill over HTTP: what is asked for is done, told truly, and wrong words are named with what would be valid."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from data_manager.adapters.meta.sql import SqlMetaStore
from data_manager.api.app import Components, Readiness, create_app
from data_manager.domain.condition.partition import Life
from data_manager.domain.errors import Unavailable
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.time import DAY_MS, HOUR_MS, iso
from data_manager.services.backfill import Backfiller
from data_manager.services.conditions import Conditions
from tests.flow.test_api import listening, no_facts
from tests.flow.test_backfill import MINUTE, NOW_MS, START_MS, candles, span
from tests.fresh_meta import fresh_meta
from tests.memory import MemoryStore
from tests.source import PastSource, SetClock

ASKED = {
    "symbol": "BTCUSDT", "data_type": "candles", "timeframe": "1m", "start_time": "2023-04-04T00:00:00Z", "end_time": "2023-04-04T02:00:00Z",
}  # fmt: skip


class Stage:
    def __init__(
        self, meta: SqlMetaStore, client: httpx2.AsyncClient, source: PastSource, store: MemoryStore, clock: SetClock
    ) -> None:
        self.meta, self.client, self.source, self.store, self.clock = meta, client, source, store, clock
        self.backfiller = Backfiller([source], store.append, clock, owner="me", at_once=2)

    async def run(self) -> None:
        await self.backfiller.turn(self.meta)

    async def start(self, status: int = 200, **other: Any) -> Any:
        answer = await self.client.post("/backfill/start", json={**ASKED, **other})
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, expected: int = 200, **query: Any) -> Any:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == expected, answer.text
        return answer.json()

    async def post(self, path: str, status: int = 200) -> Any:
        answer = await self.client.post(path)
        assert answer.status_code == status, answer.text
        return answer.json()


def components(meta: SqlMetaStore, store: MemoryStore, clock: SetClock, **other: Any) -> Components:
    async def readiness() -> Readiness:
        return Readiness(ready=True, status="healthy", components={}, reasons=[])

    return Components(
        store=store, meta=meta, clock=clock, market="um", version="9.9.9", readiness=readiness, registry=CollectorRegistry(),
        conditions=Conditions(meta, clock), desk=None, ingest=no_facts, databases=no_facts, connections=no_facts, **other,
    )  # fmt: skip


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    async with fresh_meta(tmp_path) as one:
        yield one


@pytest.fixture
async def stage(meta: SqlMetaStore) -> AsyncIterator[Stage]:
    store, clock = MemoryStore(), SetClock(NOW_MS)
    async with listening(create_app(components(meta, store, clock))) as client:
        yield Stage(meta, client, PastSource({MINUTE: candles(0, 1_440)}), store, clock)


async def test_a_job_from_its_request_to_its_end(stage: Stage) -> None:
    stage.source.lacks = lambda event: getattr(event, "open_ms", 0) == span(30, 31).start_ms
    asked = await stage.start(priority=2)
    assert {name: asked[name] for name in ("status", "progress", "records_fetched", "records_inserted", "started_at", "completed_at")} == {
        "status": "pending", "progress": 0.0, "records_fetched": 0, "records_inserted": 0, "started_at": None, "completed_at": None,
    }  # fmt: skip
    assert asked["request"] == {
        "symbol": "BTCUSDT", "data_type": "candles", "timeframe": "1m", "start_time": "2023-04-04T00:00:00.000Z",
        "end_time": "2023-04-04T02:00:00.000Z", "priority": 2, "source": "auto",
    }  # fmt: skip
    assert asked["created_at"] == iso(NOW_MS)
    await stage.run()
    done = await stage.get(f"/backfill/jobs/{asked['job_id']}")
    assert (done["status"], done["progress"], done["records_fetched"], done["records_inserted"]) == (
        "completed",
        100.0,
        119,
        119,
    )
    assert done["records"] == {
        "expected": 120, "fetched": 119, "new": 119, "changed": 0, "duplicate": 0, "refused": 0, "burned": 0,
    }  # fmt: skip
    [lack] = done["absent"]
    assert (lack["start_ms"], lack["missing"], lack["call"]) == (span(30, 31).start_ms, 1, "rest:klines")
    assert lack["evidence"]["digest"]
    assert lack["doubt"] is None
    assert done["completed_at"] == iso(NOW_MS)


async def test_the_same_again_is_the_same_job_and_times_may_be_milliseconds(stage: Stage) -> None:
    first = await stage.start()
    again = await stage.start(
        data_type="candle", start_time=START_MS + HOUR_MS, end_time=str(START_MS + 2 * HOUR_MS), priority=1
    )
    assert (again["job_id"], again["request"]["priority"]) == (first["job_id"], 1)
    page = await stage.get("/backfill/jobs")
    assert page["jobs"] == page["data"] == [again]
    assert (page["total_count"], page["pagination"]) == (1, {"limit": 100, "offset": 0, "total": 1, "has_more": False})


async def test_pages_by_state_and_series(stage: Stage) -> None:
    jobs = [
        await stage.start(start_time=START_MS + day * DAY_MS, end_time=START_MS + day * DAY_MS + HOUR_MS)
        for day in range(4)
    ]
    await stage.post(f"/backfill/jobs/{jobs[0]['job_id']}/cancel")
    assert (await stage.get("/backfill/jobs", status="cancelled"))["total_count"] == 1
    opened = await stage.get("/backfill/jobs", status="open", limit=2, offset=1)
    assert (opened["total_count"], len(opened["jobs"]), opened["pagination"]["has_more"]) == (3, 2, False)
    assert (await stage.get("/backfill/jobs", series="candles_BTCUSDT_1m"))["total_count"] == 4
    assert (await stage.get("/backfill/jobs", series="um.trade.BTCUSDT"))["total_count"] == 0
    assert "running" in (await stage.get("/backfill/jobs", 422, status="gone"))["error"]["valid"]
    assert (await stage.get("/backfill/jobs", 422, limit=1_001))["error"]["field"] == "limit"


async def test_cancel_and_retry_and_what_they_refuse(stage: Stage) -> None:
    job = (await stage.start())["job_id"]
    assert (await stage.post(f"/backfill/jobs/{job}/retry", 409))["error"]["code"] == "conflict"
    assert (await stage.post(f"/backfill/jobs/{job}/cancel"))["status"] == "cancelled"
    assert "is cancelled" in (await stage.post(f"/backfill/jobs/{job}/cancel", 409))["detail"]
    assert (await stage.post(f"/backfill/jobs/{job}/retry"))["status"] == "pending"
    stage.source.troubles = [Unavailable("away")]
    await stage.run()
    waiting = await stage.get(f"/backfill/jobs/{job}")
    assert (waiting["status"], waiting["error_message"], waiting["failures"]) == ("pending", "away", 1)
    assert waiting["next_try_at"] > iso(NOW_MS)
    for path in ("/backfill/jobs/nope", "/backfill/jobs/nope/cancel", "/backfill/jobs/nope/retry"):
        answer = await (stage.get(path, 404) if path.endswith("nope") else stage.post(path, 404))
        assert answer["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("other", "field", "valid"),
    [
        ({"symbol": "btc"}, "symbol", "must be a um symbol such as BTCUSDT"),
        ({"symbol": None}, "symbol", "is required"),
        ({"symbol": 7}, "symbol", "must be text"),
        ({"data_type": "depth"}, "data_type", "possible are trades agg_trades candles mark_prices funding"),
        ({"timeframe": "1s"}, "timeframe", "1m 3m 5m"),
        ({"timeframe": None}, "timeframe", "1m 3m 5m"),
        ({"start_time": "yesterday"}, "start_time", "ISO 8601"),
        ({"start_time": ASKED["end_time"], "end_time": ASKED["start_time"]}, "end_time", "must lie after start_time"),
        ({"end_time": NOW_MS + 60_000}, "end_time", f"up to {iso(NOW_MS)} can be done"),
        ({"priority": 0}, "priority", "1 (first) to 10"),
        ({"priority": "high"}, "priority", "1 (first) to 10"),
        ({"source": "magic"}, "source", "auto rest archive"),
        ({"limit": 5}, "limit", "symbol data_type timeframe"),
    ],
)
async def test_a_wrong_word_is_named_with_what_would_be_valid(
    stage: Stage, other: dict[str, Any], field: str, valid: str
) -> None:
    error = (await stage.start(422, **other))["error"]
    assert error["field"] == field
    assert valid in error["message"]
    assert (await stage.get("/backfill/jobs"))["total_count"] == 0


async def test_what_was_never_listed_then_cannot_be_asked_for(stage: Stage) -> None:
    life = Life(listed_ms=START_MS + HOUR_MS)
    await stage.meta.keep_lives(
        [SymbolLife(market="um", symbol="BTCUSDT", life=life, source="exchangeInfo", told_ms=NOW_MS)]
    )
    app = create_app(made := components(stage.meta, stage.store, stage.clock))
    await made.conditions.refresh()
    async with listening(app) as client:
        error = (await client.post("/backfill/start", json=ASKED)).json()["error"]
    assert (error["field"], "from then on can be done" in error["message"]) == ("start_time", True)


async def test_switched_off_it_says_so_and_takes_nothing(stage: Stage) -> None:
    async with listening(create_app(components(stage.meta, stage.store, stage.clock, backfills=False))) as client:
        answer = await client.post("/backfill/start", json=ASKED)
        assert (answer.status_code, "ENABLE_BACKFILLER" in answer.text) == (409, True)
        assert (await client.get("/backfill/jobs")).json()["jobs"] == []


async def test_many_at_once_are_one_job(stage: Stage) -> None:
    answers = await asyncio.gather(*(stage.start() for _ in range(8)))
    assert len({one["job_id"] for one in answers}) == 1


async def test_the_documentation_has_the_shapes(stage: Stage) -> None:
    described = await stage.get("/openapi.json")
    for path in ("/backfill/start", "/backfill/jobs", "/backfill/jobs/{job_id}", "/backfill/jobs/{job_id}/cancel"):
        assert path in described["paths"]
    assert "start_time" in str(described["paths"]["/backfill/start"]["post"]["requestBody"])
