"""kill -9 in the middle of backfill jobs: whoever comes next goes on, and nothing is missing or there twice."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx2

from data_manager.domain.time import DAY_MS
from tests.conftest import eventually
from tests.faults.conftest import FULL, Told
from tests.servers import WallClock, own_server
from tests.service import Service, running
from tests.simulator.exchange import PassingClock, Running
from tests.simulator.exchange import running as exchange_running

_KILLS = 20 if FULL else 3
_DAYS = 40 if FULL else 10
_PER_PAGE_MS = 150


def start(service: Service, data_type: str, timeframe: str | None, start_ms: int, end_ms: int, **other: Any) -> str:
    """The id of a job that the service takes."""
    body = {
        "symbol": "BTCUSDT",
        "data_type": data_type,
        "timeframe": timeframe,
        "start_time": start_ms,
        "end_time": end_ms,
    }
    answer = httpx2.post(f"{service.url}/backfill/start", json={**body, **other}, timeout=20)
    assert answer.status_code == 200, f"{answer.text}\n{service.said()}"
    return str(answer.json()["job_id"])


async def truth(exchange: Running, path: str, **query: Any) -> Any:
    """What the exchange holds, whatever its budgets and faults."""
    answer = await exchange.client.get(f"/control/truth/fapi/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_killed_amid_jobs_again_and_again(tmp_path: Path, told: Told) -> None:
    now_ms = WallClock().now_ms()
    start_ms = (now_ms - (_DAYS + 2) * DAY_MS) // DAY_MS * DAY_MS
    end_ms = start_ms + _DAYS * DAY_MS
    chance = random.Random(20_261)
    async with (
        exchange_running("BTCUSDT", clock=PassingClock(), start_ms=now_ms) as exchange,
        own_server(tmp_path / "nats") as nats,
    ):
        await exchange.fault("slow", where=["rest"], paths="*lines*", delay_ms=_PER_PAGE_MS)
        service = Service(
            tmp_path / "service", nats_url=nats.url, binance_fapi_base_url=exchange.address, binance_archive_base_url=exchange.address,
            leader_election_timeout=2, leader_election_heartbeat_interval=1, enable_auto_backfill=False, binance_weight_ceiling_percent=95,
        )  # fmt: skip
        async with running(service):
            job = start(service, "candles", "1m", start_ms, end_ms, source="rest")
            archived = start(service, "candles", "5m", start_ms, end_ms, source="archive")
            kills, seen = 0, [0.0]

            def gets_on() -> bool:
                now = service.page(f"/backfill/jobs/{job}")
                assert now["status"] in ("pending", "running", "completed"), service.said()
                return now["progress"] > seen[-1] or now["status"] == "completed"

            while kills < _KILLS and seen[-1] < 100:
                await eventually(gets_on, within_s=20)
                await asyncio.sleep(chance.uniform(0, 2 * _PER_PAGE_MS / 1_000))
                await service.kill()
                kills += 1
                await service.start()
                seen.append(service.page(f"/backfill/jobs/{job}")["progress"])

            def over() -> bool:
                states = [service.page(f"/backfill/jobs/{one}")["status"] for one in (job, archived)]
                assert set(states) <= {"pending", "running", "completed"}, service.said()
                return states == ["completed"] * 2

            await eventually(over, within_s=60, what="the end of both jobs")
            done = service.page(f"/backfill/jobs/{job}")
            assert (done["progress"], done["absent"], done["error_message"]) == (100.0, [], None)
            for period in ("1m", "5m"):
                wanted = await truth(
                    exchange,
                    "klines",
                    symbol="BTCUSDT",
                    interval=period,
                    startTime=start_ms,
                    endTime=end_ms - 1,
                    limit=100_000,
                )
                held = service.rows("/data/candles", pair="BTCUSDT", period=period)
                names = ("open", "high", "low", "close", "volume")
                assert [[row[name] for name in names] for row in held] == [row[1:6] for row in wanted]
                assert len({row["timestamp"] for row in held}) == len(held) == len(wanted)
            assert await service.held() == ["um.candle.BTCUSDT.1m", "um.candle.BTCUSDT.5m"]
            told(
                times=kills,
                attempts=done["attempts"],
                rows=done["records"]["expected"],
                again=done["records"]["duplicate"],
            )
            assert seen == sorted(seen)
            assert done["attempts"] == len([one for one in seen if one < 100]) >= 2, "it went on from where it was"
