"""The loop as an operator sees it: a candle is missing, somebody is told; it comes, and that is told too."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.receiver import SECRET, receiving
from tests.servers import client_of, running_server
from tests.service import Service, feed, running

MINUTE_MS = 60_000
SERIES = "um.candle.BTCUSDT.1m"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_server(tmp_path_factory.mktemp("nats")) as one:
        yield one


def candle(open_ms: int) -> bytes:
    """A closed minute, as the publisher sends it."""
    k = {"t": open_ms, "T": open_ms + MINUTE_MS - 1, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "28000.1", "c": "28000.9", "h": "28001.0", "l": "28000.0", "v": "5.5", "n": 101, "x": True, "q": "154000.5", "V": "2.5", "Q": "70000.25", "B": "0"}  # fmt: skip
    event = {"e": "kline", "E": open_ms + MINUTE_MS, "s": "BTCUSDT", "k": k}
    return json.dumps({"stream": "btcusdt@kline", "data": event, "timestamp": "2026-01-01T00:00:00Z"}).encode()


def service_of(folder: Path, server: NatsServer, **more: object) -> Service:
    quick = {"audit_interval": 1, "health_check_interval": 1, "enable_backfiller": "no", "enable_auto_backfill": "no"}
    lease = {"leader_election_timeout": 2, "leader_election_heartbeat_interval": 1}
    return Service(folder, nats_url=server.url, **{**quick, **lease, **more})  # type: ignore[arg-type]


async def test_a_hole_is_told_once_by_whoever_leads_and_its_end_is_told_after_a_restart(
    tmp_path: Path, server: NatsServer
) -> None:
    """Two processes could tell: the service, and a second one of role work beside it on the same databases."""
    now_ms = time.time_ns() // 1_000_000
    first = now_ms - now_ms % MINUTE_MS - 60 * MINUTE_MS
    minutes = [first + n * MINUTE_MS for n in range(60)]
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    async with receiving() as hook, client_of(server) as client:
        await client.subscribe("alerts.>", cb=hear)
        service = service_of(tmp_path / "one", server, alert_webhook_url=hook.url)
        beside = {"data_dir": service.data_dir, "arguments": ["--role", "work"]}
        other = service_of(tmp_path / "other", server, alert_webhook_url=hook.url, **beside)
        async with running(service), running(other):
            assert service.get("/health", pair="BTCUSDT").status_code == 404
            await feed(server.url, service, [candle(ms) for ms in minutes if ms != minutes[30]])
            await eventually(lambda: hook.said("firing", "hole"), within_s=20, what=service.said())

            [alert] = hook.said("firing", "hole")
            assert (alert["series"], alert["severity"], alert["evidence"]["missing"]) == (SERIES, "warning", 1)
            assert hook.posted[0].path == SECRET
            assert hook.posted[0].body["text"].startswith(f"[warning] hole {SERIES}: 1 row is missing")
            await eventually(lambda: any(one.subject == "alerts.data-manager.warning.hole" for one in heard))

            def gaps() -> Any:
                return service.page("/health", pair="BTCUSDT", period="1m")["health"]

            await eventually(lambda: gaps()["gaps"] == 1 and gaps()["completeness"] is not None, within_s=20)
            told = gaps()
            assert 97 < told["completeness"] < 99
            assert (told["status"], told["duplicates"], told["consistency_score"]) == ("healthy", 0, 100.0)
            [firing] = service.page("/alerts")["data"]
            assert (firing["kind"], firing["state"], firing["series"]) == ("hole", "firing", SERIES)
            await eventually(lambda: service.page("/audit/log", kind="gap")["data"])
            [gap] = service.page("/audit/log", kind="gap")["data"]
            assert (gap["severity"], gap["result"], gap["details"]["missing"]) == ("medium", "fail", 1)

            leading = [one.figures().of("audit_leader_status") for one in (service, other)]
            assert sum(leading) == 1
            await service.stop()
            sent_before = len(hook.posted)
            await eventually(lambda: other.figures().of("audit_leader_status") == 1)
            await service.start()
            await eventually(lambda: service.page("/alerts")["data"])
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
            await eventually(lambda: service.page("/health", pair="BTCUSDT", period="1m")["health"]["gaps"] == 0)
            mended = service.page("/health", pair="BTCUSDT", period="1m")
            assert mended["health"]["completeness"] == 100.0
            assert mended["metadata"]["series"] == SERIES
            await eventually(lambda: service.page("/health/summary")["data"]["mttr_ms"] is not None, within_s=20)
            summary = service.page("/health/summary")["data"]
            assert (summary["total_datasets"], summary["open_holes"], summary["status"]) == (1, 0, "healthy")
            assert 29 * MINUTE_MS < summary["mttd_ms"] < 32 * MINUTE_MS
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
            await eventually(
                lambda: sum(one.figures().of("audit_health_score", dataset="candle") for one in (service, other)) == 100
            )  # by whoever leads
            points = [
                one for one in service.page("/health/history", series=SERIES)["data"] if one["status"] != "unknown"
            ]
            assert points
            assert min(one["quality_score"] for one in points) < 100
            assert SECRET not in service.said() + service.command("config").decode()
            assert SECRET not in json.dumps(service.page("/alerts", state="all"))
            assert service.get("/health/readiness").json()["components"]["alerts"] == "healthy"
            await other.stop()
            await service.stop()
