"""The figures, as Prometheus scrapes them."""

from pathlib import Path

import numpy as np
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from data_manager.telemetry import Tally, TallyMetrics, registry
from tests.flow.test_inspect import TRADE
from tests.servers import own_server
from tests.service import Service, feed, running


def samples(tally: Tally) -> dict[tuple[str, str], float]:
    """Value by name (without our prefix) and le."""
    text = generate_latest(registry(TallyMetrics(tally))).decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(one.name.removeprefix("data_manager_"), one.labels.get("le", "")): one.value for one in found}


def test_times_stand_in_the_bucket_whose_bound_they_reach() -> None:
    tally = Tally()
    tally.took["trade"].add(np.array([0, 1, 2, 3, 10, 99_000, -5]))
    found = samples(tally)
    name = "message_processing_seconds"
    expected = {"0.001": 3, "0.002": 4, "0.005": 5, "0.01": 6, "30.0": 6, "+Inf": 7}
    assert {le: found[f"{name}_bucket", le] for le in expected} == expected
    assert found[f"{name}_count", ""] == 7
    assert found[f"{name}_sum", ""] == 99.016


async def test_the_running_service_times_every_event(tmp_path: Path) -> None:
    trades = [TRADE % (number, b"28145.10") for number in (1, 2, 3, 2)]
    async with own_server(tmp_path / "nats") as server, running(Service(tmp_path, nats_url=server.url)) as service:
        await feed(server.url, service, [*trades, *trades[:1]])  # in whatever flush they come again
        await feed(server.url, service, trades[:2])
        figures = service.figures()
        assert figures.of("message_processing_seconds_count", event_type="trade") == 7
        assert figures.of("message_processing_seconds_bucket", event_type="trade", le="30.0") == 7
