"""The loop as an operator sees it: a candle is missing, somebody is told; it comes, and that is told too."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from data_manager.adapters.bus.nats_server import NatsServer
from tests import cluster as clusters
from tests.cluster import Cluster
from tests.conftest import eventually
from tests.mongo_server import AnyServer, mongo_server
from tests.mysql_server import MySqlServer, mysql_server
from tests.receiver import SECRET, receiving
from tests.servers import client_of, running_server
from tests.service import Service, connected, feed, publish, running

__all__ = ["mongo_server", "mysql_server"]  # fixtures

MINUTE_MS = 60_000
SERIES = "um.candle.BTCUSDT.1m"
QUICK = {"audit_interval": 1, "health_check_interval": 1, "enable_backfiller": "no", "enable_auto_backfill": "no"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


def candle(open_ms: int) -> bytes:
    """A closed minute, as the publisher sends it."""
    k = {"t": open_ms, "T": open_ms + MINUTE_MS - 1, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "28000.1", "c": "28000.9", "h": "28001.0", "l": "28000.0", "v": "5.5", "n": 101, "x": True, "q": "154000.5", "V": "2.5", "Q": "70000.25", "B": "0"}  # fmt: skip
    event = {"e": "kline", "E": open_ms + MINUTE_MS, "s": "BTCUSDT", "k": k}
    return json.dumps({"stream": "btcusdt@kline", "data": event, "timestamp": "2026-01-01T00:00:00Z"}).encode()


def an_hour() -> list[int]:
    """When the candles of sixty minutes open, fifty of them past: none is due before the test is over."""
    now_ms = time.time_ns() // 1_000_000
    return [now_ms - now_ms % MINUTE_MS + n * MINUTE_MS for n in range(-50, 10)]


async def test_a_hole_is_told_once_and_its_end_is_told_after_a_restart(tmp_path: Path, server: NatsServer) -> None:
    minutes = an_hour()
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    async with receiving() as hook, client_of(server) as client:
        await client.subscribe("alerts.>", cb=hear)
        service = Service(tmp_path, nats_url=server.url, alert_webhook_url=hook.url, **QUICK)  # type: ignore[arg-type]
        async with running(service):
            assert service.get("/health", pair="BTCUSDT").status_code == 404
            await feed(server.url, service, [candle(ms) for ms in minutes if ms != minutes[30]])
            await eventually(lambda: hook.said("firing", "hole"), within_s=20, what=service.said())

            [alert] = hook.said("firing", "hole")
            assert (alert["series"], alert["severity"], alert["evidence"]["missing"]) == (SERIES, "warning", 1)
            assert hook.posted[0].path == SECRET
            assert hook.posted[0].body["text"].startswith(f"[warning] hole {SERIES}: 1 row is missing")
            await eventually(
                lambda: any(one.subject == "alerts.data-manager.warning.hole" for one in heard), within_s=30
            )

            def gaps() -> Any:
                return service.page("/health", pair="BTCUSDT", period="1m")["health"]

            await eventually(lambda: gaps()["gaps"] == 1 and gaps()["completeness"] is not None, within_s=20)
            told = gaps()
            assert 97 < told["completeness"] < 99
            assert (told["status"], told["duplicates"], told["consistency_score"]) == ("healthy", 0, 100.0)
            [firing] = service.page("/alerts")["data"]
            assert (firing["kind"], firing["state"], firing["series"]) == ("hole", "firing", SERIES)
            await eventually(lambda: service.page("/audit/log", kind="gap")["data"], within_s=30)
            [gap] = service.page("/audit/log", kind="gap")["data"]
            assert (gap["severity"], gap["result"], gap["details"]["missing"]) == ("medium", "fail", 1)

            await service.stop()
            sent_before = len(hook.posted)
            await service.start()
            await eventually(lambda: service.page("/alerts")["data"], within_s=30)
            await feed(server.url, service, [candle(minutes[30])])
            await eventually(lambda: hook.said("resolved", "hole"), within_s=20, what=service.said())
            assert hook.said("firing", "hole") == [alert], "what was sent before the restart is not sent again"
            assert len(hook.posted) == sent_before + 1
            [over] = hook.said("resolved", "hole")
            assert (over["series"], over["alert"], over["text"]) == (
                SERIES,
                alert["alert"],
                "no row is missing any more",
            )
            await eventually(
                lambda: service.page("/health", pair="BTCUSDT", period="1m")["health"]["gaps"] == 0, within_s=30
            )
            mended = service.page("/health", pair="BTCUSDT", period="1m")
            assert mended["health"]["completeness"] == 100.0
            assert mended["metadata"]["series"] == SERIES
            await eventually(lambda: service.page("/health/summary")["data"]["mttr_ms"] is not None, within_s=20)
            summary = service.page("/health/summary")["data"]
            assert (summary["total_datasets"], summary["open_holes"], summary["status"]) == (1, 0, "healthy")
            assert 20 * MINUTE_MS <= summary["mttd_ms"] < 25 * MINUTE_MS
            assert 0 < summary["mttr_ms"] < MINUTE_MS
            [row] = service.page("/health/series", status="healthy")["data"]
            assert row["holes"] == {
                "open": 0,
                "found": 1,
                "healed": 1,
                "mttd_ms": summary["mttd_ms"],
                "mttr_ms": summary["mttr_ms"],
            }
            assert service.page("/alerts")["data"] == []
            await eventually(lambda: service.figures().of("audit_health_score", dataset="candle") == 100, within_s=30)
            assert service.figures().of("alert_deliveries_total", channel="webhook", outcome="sent") == 1
            points = [
                one for one in service.page("/health/history", series=SERIES)["data"] if one["status"] != "unknown"
            ]
            assert points
            assert min(one["quality_score"] for one in points) < 100
            assert SECRET not in service.said() + service.command("config").decode()
            assert SECRET not in json.dumps(service.page("/alerts", state="all"))
            assert service.get("/health/readiness").json()["components"]["alerts"] == "healthy"
            await service.stop()


@pytest.fixture
def cluster(tmp_path: Path, server: NatsServer, mongo_server: AnyServer, mysql_server: MySqlServer) -> Cluster:
    lease = {"leader_election_timeout": 2, "leader_election_heartbeat_interval": 1}
    return clusters.of(tmp_path, server.url, mongo_server, mysql_server, **QUICK, **lease)


async def test_in_a_cluster_whoever_leads_tells_and_the_next_leader_goes_on(cluster: Cluster) -> None:
    """Two replicas could tell. The one that did is killed; that the hole is over is told by the other."""
    minutes = an_hour()
    async with receiving() as hook, clusters.running(cluster):
        (ingest, api), workers = await asyncio.gather(
            cluster.start("ingest", "api"), cluster.start("work-1", "work-2", alert_webhook_url=hook.url)
        )

        def told() -> Any:
            return api.page("/health", pair="BTCUSDT", period="1m")["health"]

        async with connected(cluster.nats_url) as client:
            await publish(client, ingest.subject, [candle(ms) for ms in minutes if ms != minutes[30]])
            await eventually(lambda: hook.said("firing", "hole"), within_s=30)
            await eventually(lambda: told()["gaps"] == 1, within_s=20)
            [leader] = [one for one in workers if one.figures().of("audit_leader_status")]
            await leader.kill()
            await publish(client, ingest.subject, [candle(minutes[30])])
        await eventually(lambda: hook.said("resolved", "hole"), within_s=30)
        assert len(hook.said("firing", "hole")) == len(hook.said("resolved", "hole")) == 1
        await eventually(lambda: (told()["gaps"], told()["completeness"]) == (0, 100.0), within_s=20)
        assert api.page("/health/summary")["data"]["mttr_ms"] > 0
        assert [one["state"] for one in api.page("/alerts", state="all", kind="hole")["data"]] == ["resolved"]
