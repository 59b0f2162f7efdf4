"""The running service mends itself: a hole is found, filled from the exchange and proven; one that is a true hole is told.

And the command line beside it, and alone.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from data_manager.adapters.meta.sql import open_meta
from data_manager.cli import run
from data_manager.domain.time import DAY_MS, MINUTE_MS, iso
from tests.conftest import eventually
from tests.faults.test_backfill_kill import start
from tests.servers import WallClock, own_server
from tests.service import Service, running
from tests.simulator.exchange import PassingClock, Running
from tests.simulator.exchange import running as exchange_running

MINUTES = "um.candle.BTCUSDT.1m"


class House(NamedTuple):
    service: Service
    exchange: Running
    first_ms: int  # midnight some days ago

    def at(self, minute: int) -> int:
        return self.first_ms + minute * MINUTE_MS

    async def command(self, *words: object) -> Any:
        """What a command says as JSON; the exchange answers meanwhile."""
        return json.loads(await asyncio.to_thread(self.service.command, *words, "--json"))

    def ledger(self, series: str = MINUTES) -> list[tuple[int, int, str]]:
        holes = self.service.page("/audit/holes", series=series)["data"]
        return [
            ((one["start_ms"] - self.first_ms) // MINUTE_MS, (one["end_ms"] - self.first_ms) // MINUTE_MS, one["state"])
            for one in holes
        ]


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def house(tmp_path: Path, nats: NatsServer) -> AsyncIterator[House]:
    now_ms = WallClock().now_ms()
    async with exchange_running("BTCUSDT", clock=PassingClock(), start_ms=now_ms) as exchange:
        service = Service(
            tmp_path / "service", nats_url=nats.url, binance_fapi_base_url=exchange.address, binance_archive_base_url=exchange.address,
            audit_interval=1, auto_backfill_ask_again_s=1, leader_election_timeout=2, leader_election_heartbeat_interval=1,
        )  # fmt: skip
        yield House(service, exchange, (now_ms - 3 * DAY_MS) // DAY_MS * DAY_MS)
        service.close()


async def test_a_hole_heals_by_itself_and_a_true_one_is_told_with_its_proof(house: House) -> None:
    await house.exchange.fault(
        "missing", dataset="klines", symbol="BTCUSDT", interval="1m", from_ms=house.at(65), until_ms=house.at(66)
    )
    async with running(house.service) as service:
        for first, end in ((0, 60), (70, 130)):
            start(service, "candles", "1m", house.at(first), house.at(end))
        settled = [(60, 65, "healed"), (65, 66, "absent_at_source"), (66, 70, "healed")]
        await eventually(lambda: house.ledger() == settled, within_s=40, what="the hole mended as far as it can be")
        [_, true_hole, _] = service.page("/audit/holes", series=MINUTES)["data"]
        evidence = true_hole["history"][-1]["evidence"]
        assert evidence["sha256"]
        assert "klines" in str(evidence["request"])
        ranges = service.page("/condition", series=MINUTES, start=house.at(55), end=house.at(75))["ranges"]
        said = [((one["start_ms"] - house.first_ms) // MINUTE_MS, one["condition"]) for one in ranges]
        assert said == [(55, "good"), (60, "healed"), (65, "known_hole"), (66, "healed"), (70, "good")]
        made = service.page("/backfill/jobs", status="completed")["jobs"]
        assert {one["requested_by"] for one in made} == {"api", "audit"}
        figures = service.figures()
        assert figures.of("audit_backfills_triggered_total") == 2, "asked twice"
        assert figures.of("auto_backfill_triggered_total") == 2
        assert figures.of("holes_settled_total", state="absent_at_source") == 1
        await eventually(lambda: service.figures().of("backfill_jobs", status="completed") == 4, within_s=10)
        assert (await house.command("verify", MINUTES))["verified"] >= 1, "what was healed is certified"
        meta = await open_meta(f"sqlite:///{service.data_dir}/metadata.sqlite")
        try:

            async def known() -> bool:
                return [(one.symbol, one.source) for one in await meta.lives()] == [("BTCUSDT", "exchangeInfo")]

            await eventually(known, within_s=25, what="what the exchange tells of the symbol's life")
        finally:
            await meta.close()


async def test_by_command_beside_the_service_and_without_it(house: House) -> None:
    words = ("backfill", MINUTES, "candles_BTCUSDT_5m", "--start", iso(house.at(0)), "--end", house.at(120))
    house.service.environ["ENABLE_AUTO_BACKFILL"] = "false"  # what is between the two stretches is for the last command
    async with running(house.service) as service:
        beside = await house.command(*words, "--wait")
        assert [(one["status"], one["records"]["new"]) for one in beside["jobs"]] == [
            ("completed", 120),
            ("completed", 24),
        ]
        assert beside["jobs"][0]["requested_by"] == "cli"
        assert len(service.rows("/data/candles", pair="BTCUSDT", period="1m")) == 120
        entered = await house.command(*words[:2], "--start", house.at(200), "--end", house.at(210), "--priority", 1)
        job = entered["jobs"][0]["job_id"]
        await eventually(lambda: service.page(f"/backfill/jobs/{job}")["status"] == "completed", within_s=20)
        await service.stop()
    alone = await house.command(*words[:2], "--start", house.at(100), "--end", house.at(150))
    [job] = alone["jobs"]
    assert (job["status"], job["records"]["new"], job["records"]["duplicate"]) == ("completed", 30, 20)
    listed = await house.command("backfill-jobs", "list", "--status", "completed")
    assert listed["total_count"] == 4
    assert (await house.command("backfill-jobs", "list", "--status", "open"))["total_count"] == 0
    assert (await house.command("backfill-jobs", "show", job["job_id"]))["progress"] == 100.0


def test_a_command_that_is_wrong_enters_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))

    def refused(*words: object) -> str:
        assert run(["backfill", *map(str, words)]) == 2
        return capsys.readouterr().err

    day = ("--start", "2024-05-01")
    assert "nobody can be asked" in refused("um.depth.BTCUSDT", *day)
    assert "can be done" in refused(MINUTES, *day, "--end", iso(WallClock().now_ms() + DAY_MS))
    assert "must lie after --start" in refused(MINUTES, *day, "--end", "2024-04-30")
    assert "auto rest archive" in refused(MINUTES, *day, "--source", "tape")
    assert "1 (first) to 10" in refused(MINUTES, *day, "--end", "2024-05-02", "--priority", 11)
    assert run(["backfill-jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_count"] == 0
    assert run(["backfill-jobs", "show", "nope"]) == 1
