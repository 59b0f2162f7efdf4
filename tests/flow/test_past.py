"""The sources in a running service: a job asks whichever is cheaper, and what was asked can be seen from outside."""

from pathlib import Path
from typing import Any

import httpx2

from data_manager.domain.time import DAY_MS, HOUR_MS, iso
from data_manager.simulator.app import Exchange, Plan
from tests.conftest import eventually
from tests.servers import WallClock, free_port
from tests.service import Service, running


async def test_the_past_comes_from_archives_and_rest_and_is_all_there(tmp_path: Path) -> None:
    clock = WallClock()
    today_ms = clock.now_ms() // DAY_MS * DAY_MS
    plan = Plan(port=0, symbols=("SOLUSDT",), activity=0.05, listed_ms=today_ms - 40 * DAY_MS)
    async with Exchange(plan, clock).serving() as address:
        settings = {
            "binance_fapi_base_url": address, "binance_archive_base_url": address, "nats_own_port": free_port(),
            "enable_auto_backfill": False, "binance_rate_limit": "1000/min",
        }  # fmt: skip
        async with running(Service(tmp_path, command="run", **settings)) as service:
            start_ms, end_ms = today_ms - 2 * DAY_MS, clock.now_ms() // HOUR_MS * HOUR_MS - HOUR_MS
            lost = {"kind": "missing", "where": ["archive"], "from_ms": today_ms - 10 * HOUR_MS, "until_ms": today_ms - 9 * HOUR_MS}  # fmt: skip
            async with httpx2.AsyncClient(base_url=address) as client:
                for dataset in ("klines", "aggTrades"):  # the archive lacks an hour of yesterday, and REST does not
                    assert (await client.post("/control/faults", json={**lost, "dataset": dataset})).status_code == 201
            asked = {"symbol": "SOLUSDT", "start_time": iso(start_ms), "end_time": iso(end_ms)}
            jobs = [
                service.post("/backfill/start", asked | words).json()["job_id"]
                for words in ({"data_type": "candles", "timeframe": "1m"}, {"data_type": "agg_trades"}, {"data_type": "funding"})
            ]  # fmt: skip

            def states() -> list[str]:
                return [service.page(f"/backfill/jobs/{job}")["status"] for job in jobs]

            await eventually(lambda: not {"pending", "running"} & set(states()), within_s=60)
            assert states() == ["completed"] * 3
            async with httpx2.AsyncClient(base_url=address, timeout=30) as client:

                async def truth(path: str, **params: Any) -> Any:
                    query = {"symbol": "SOLUSDT", "startTime": start_ms, "endTime": end_ms - 1, "limit": 10**6, **params}  # fmt: skip
                    return (await client.get(f"/control/truth/fapi/v1/{path}", params=query)).json()

                candles = await truth("klines", interval="1m")
                held = service.rows("/data/candles", pair="SOLUSDT", period="1m", start=start_ms, end=end_ms)
                assert [row["close"] for row in held] == [row[4] for row in candles]
                aggregates = await truth("aggTrades")
                held = service.rows("/data/agg_trades", pair="SOLUSDT", start=start_ms, end=end_ms)
                assert [row["agg_id"] for row in held] == [row["a"] for row in aggregates]
                rates = await truth("fundingRate")
                held = service.rows("/data/funding", pair="SOLUSDT", start=start_ms, end=end_ms)
                assert [row["funding_rate"] for row in held] == [row["fundingRate"] for row in rates]
            sources = service.page("/health/connections")["sources"]
            assert sources["rest.um"]["state"] == sources["archive"]["state"] == "closed"
            assert sources["rest.um"]["weight_ceiling"] == 1_000, "less than 60 % of 2,400"
            assert sources["rest.um"]["requests"] >= 3
            figures = service.figures()
            assert figures.of("source_requests_total", source="rest.um") == sources["rest.um"]["requests"]
            assert figures.of("source_halts_total", source="rest.um") == 0
            assert list((tmp_path / "data" / "downloads").iterdir()) == [], "the archive was asked, and left nothing"
