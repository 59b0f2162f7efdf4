"""serve --role: each role does its part and says what it is ready for; together they are one service."""

from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.flow.test_inspect import TRADE
from tests.servers import free_port, own_server
from tests.service import Service, feed, running

TRADES = [TRADE % (number, b"28145.10") for number in range(1, 101)]


async def test_three_processes_share_the_work_on_one_data_dir(tmp_path: Path) -> None:
    """The embedded store has one writer; who only reads may be another process."""
    async with own_server(tmp_path / "nats") as server:
        ingest = Service(tmp_path / "ingest", nats_url=server.url, arguments=["--role", "ingest"])
        shared = {"data_dir": ingest.data_dir}
        api = Service(tmp_path / "api", nats_url="nats://127.0.0.1:1", arguments=["--role", "api"], **shared)
        work = Service(tmp_path / "work", nats_url="nats://127.0.0.1:1", arguments=["--role", "work"], **shared)
        async with running(ingest), running(api), running(work):
            await feed(server.url, ingest, TRADES)
            assert ingest.page("/health/ingest")["new"] == 100
            elsewhere = ingest.get("/data/trades", pair="BTCUSDT")
            assert (elsewhere.status_code, "role is ingest" in elsewhere.json()["detail"]) == (404, True)
            assert len(api.rows("/data/trades", pair="BTCUSDT")) == 100
            refused = api.get("/health/ingest")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
            assert "role is api" in refused.json()["detail"]
            assert api.page("/health/connections")["nats"] is None
            await eventually(lambda: work.page("/health/connections")["lease"]["leading"])
            lease = work.page("/health/connections")["lease"]
            assert (lease["leading"], lease["epoch"], lease["holder"]) == (True, 1, lease["we_are"])
            assert work.figures().of("audit_leader_status") == 1
            assert work.page("/health/readiness")["components"]["nats"] == "not_configured"
            day = {"start_time": "2024-01-01T00:00:00Z", "end_time": "2024-01-02T00:00:00Z"}
            job = {"symbol": "BTCUSDT", "data_type": "candles", "timeframe": "1h", **day}
            assert api.post("/backfill/start", job).json()["status"] == "pending"
            told = "backfill: 1 jobs wait: another process writes the embedded store"
            await eventually(lambda: told in str(work.page("/health/readiness")["reasons"]), within_s=30, what="why")
            assert work.page("/health/readiness")["status"] == "degraded"
            for one in (api, work, ingest):
                assert await one.stop() < 5.0


async def test_an_api_may_come_up_before_there_is_anything_to_read(tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats") as server:
        api = Service(tmp_path / "api", arguments=["--role", "api"], data_dir=tmp_path / "data")
        async with running(api, ready=False):
            away = api.get("/data/trades", pair="BTCUSDT")
            assert (away.status_code, away.headers["retry-after"]) == (503, "1")
            assert api.get("/health/liveness").status_code == 200
            not_ready = api.get("/health/readiness")
            assert (not_ready.status_code, not_ready.json()["components"]["store"]) == (503, "unhealthy")
            assert not_ready.headers["retry-after"] == "1"
            databases = api.get("/health/databases")
            assert (databases.status_code, databases.headers["retry-after"]) == (503, "1")
            ingest = Service(tmp_path / "ingest", nats_url=server.url, data_dir=tmp_path / "data")
            async with running(ingest):
                await feed(server.url, ingest, TRADES[:3])
                await eventually(lambda: api.get("/health/readiness").status_code == 200, what="readiness of the api")
                assert len(api.rows("/data/trades", pair="BTCUSDT")) == 3


async def test_databases_and_connections_of_one_machine(tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats") as server:
        service = Service(tmp_path, nats_url=server.url, store_bytes_max=10**9)
        async with running(service):
            await feed(server.url, service, TRADES)
            found = service.page("/health/databases")
            rows, metadata = found["databases"]["rows"], found["databases"]["metadata"]
            assert (found["status"], rows["kind"], metadata["kind"]) == ("healthy", "embedded", "sqlite")
            assert rows["bytes_max"] == 10**9
            assert 0 < rows["used_bytes"] == rows["storage_bytes"]
            assert rows["rows"] is rows["days_to_full"] is rows["reason"] is None
            assert rows["retention"] == "engine"
            assert 0 <= metadata["latency_ms"] < 2_000
            connections = service.page("/health/connections")
            assert (connections["nats"]["connected"], connections["nats"]["durable"]) == (True, True)
            assert {name: one["state"] for name, one in connections["breakers"].items()} == {
                "store": "closed", "metadata": "closed",
            }  # fmt: skip
            figures = service.figures()
            assert figures.of("store_bytes", kind="storage") > 0
            assert figures.of("circuit_breaker_open", breaker="store") == 0


@pytest.mark.parametrize("role", ["audit", "ALL", ""])
async def test_an_unknown_role_is_named_with_those_that_exist(tmp_path: Path, role: str) -> None:
    service = Service(tmp_path, nats_url=f"nats://127.0.0.1:{free_port()}", arguments=["--role", role])
    with pytest.raises(AssertionError, match=r"(?s)ended at once.*--role.*ingest.*work"):
        await service.start()
    assert await service.exit_code() == 2
