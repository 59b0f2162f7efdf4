"""The figures, as Prometheus scrapes them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from data_manager.adapters.clock import SystemClock
from data_manager.adapters.counting import count_calls
from data_manager.adapters.late import Late, late_rows
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.errors import Unavailable
from data_manager.ports import Receipt, SeriesStore
from data_manager.telemetry import Tally, TallyMetrics, registry
from tests.flow.test_inspect import TRADE
from tests.servers import own_server
from tests.service import Service, feed, running


def samples(tally: Tally) -> dict[tuple[str, str], float]:
    """Value by name (without our prefix) and le."""
    text = generate_latest(registry(TallyMetrics(tally))).decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(one.name.removeprefix("data_manager_"), one.labels.get("le", "")): one.value for one in found}


def labelled(metrics: TallyMetrics) -> list[tuple[str, dict[str, str], float]]:
    """Name (without our prefix), labels and value of every sample."""
    families = text_string_to_metric_families(generate_latest(registry(metrics)).decode())
    return [
        (one.name.removeprefix("data_manager_"), one.labels, one.value) for family in families for one in family.samples
    ]


def test_times_stand_in_the_bucket_whose_bound_they_reach() -> None:
    tally = Tally()
    tally.took["trade"].add(np.array([0, 1, 2, 3, 10, 99_000, -5]))
    found = samples(tally)
    name = "message_processing_seconds"
    expected = {"0.001": 3, "0.002": 4, "0.005": 5, "0.01": 6, "30.0": 6, "+Inf": 7}
    assert {le: found[f"{name}_bucket", le] for le in expected} == expected
    assert found[f"{name}_count", ""] == 7
    assert found[f"{name}_sum", ""] == 99.016


def test_the_law_can_be_read_off_the_figures_word_for_word_also_with_drops_and_dead_letters() -> None:
    tally = Tally(messages=12, dropped=4, in_flight=1)
    tally.received.update({"trade": 6, "unknown": 1})
    tally.stored("trade", Receipt(new=2, changed=1, duplicate=1))
    tally.rejected.update({("trade", "invalid"): 1, ("unknown", "undecodable"): 1})
    assert tally.missing() == 0
    found = {
        (name, labels.get("event_type")): value
        for name, labels, value in labelled(TallyMetrics(tally))
        if name == "messages_received_total"
    }
    assert found == {
        ("messages_received_total", "raw"): 12,
        ("messages_received_total", "trade"): 6,
        ("messages_received_total", "unknown"): 1 + 4,
    }


def test_only_writes_that_mysql_refused_are_write_failures() -> None:
    metrics = TallyMetrics(Tally())
    away = Unavailable("away")
    metrics.calls.note("mysql", "keep_dead", 0.2, away)
    metrics.calls.note("mysql", "findings", 0.2, away)
    metrics.calls.note("mysql", "keep_dead", 0.2)
    metrics.calls.note("mongodb", "append", 0.2, away)
    found = [(labels, value) for name, labels, value in labelled(metrics) if name == "mysql_write_failures_total"]
    assert found == [({"database": "mysql", "collection": "keep_dead", "reason": "Unavailable"}, 1)]


def test_dead_letters_are_counted_by_the_predecessors_words_and_by_ours() -> None:
    tally = Tally()
    tally.rejected.update({("trade", "invalid"): 2, ("unknown", "undecodable"): 3})
    found = [
        (labels, value) for name, labels, value in labelled(TallyMetrics(tally)) if name == "messages_failed_total"
    ]
    assert found == [
        ({"event_type": "trade", "error_type": "processing", "reason": "invalid"}, 2),
        ({"event_type": "unknown", "error_type": "json_decode", "reason": "undecodable"}, 3),
    ]


def test_what_nothing_came_of_yet_is_nought_and_not_absent() -> None:
    counts = {
        labels["event_type"]: value
        for name, labels, value in labelled(TallyMetrics(Tally()))
        if name == "messages_received_total"
    }
    assert counts == {"raw": 0, "unknown": 0}


async def test_a_bug_of_a_store_is_counted_as_an_error() -> None:
    class Broken:
        async def series(self) -> list[str]:
            raise ValueError("a bug")

    metrics, store = TallyMetrics(Tally()), Broken()
    count_calls(metrics.calls, "embedded", store, Broken)
    with pytest.raises(ValueError, match="a bug"):
        await store.series()
    found = [
        (labels["status"], value) for name, labels, value in labelled(metrics) if name == "database_operations_total"
    ]
    assert found == [("error", 1)]


async def test_what_a_store_is_asked_is_counted_with_its_success_also_of_one_that_comes_up_late(tmp_path: Path) -> None:
    async def open_it() -> SeriesStore:
        return EmbeddedStore(tmp_path, 2**20)

    metrics, store = TallyMetrics(Tally()), late_rows("embedded", open_it)
    count_calls(metrics.calls, store.kind, store, SeriesStore)
    with pytest.raises(Unavailable):
        await store.series()
    assert isinstance(store, Late)
    await store.appear(SystemClock())
    assert await store.series() == await store.series() == []
    await store.close()
    found = [(labels, value) for name, labels, value in labelled(metrics) if name == "database_operations_total"]
    assert found == [
        ({"database": "embedded", "operation": "series", "status": "error"}, 1),
        ({"database": "embedded", "operation": "series", "status": "success"}, 2),
    ]
    took = [value for name, _, value in labelled(metrics) if name == "database_operation_duration_seconds_count"]
    assert took == [3]


async def test_the_running_service_counts_what_it_asks_of_both_stores(tmp_path: Path) -> None:
    async with own_server(tmp_path / "nats") as server, running(Service(tmp_path, nats_url=server.url)) as service:
        await feed(server.url, service, [TRADE % (1, b"28145.10"), b"{"])
        figures = service.figures()
        of = partial(figures.of, "database_operations_total", status="success")
        assert of(database="embedded", operation="append") >= 1
        assert of(database="sqlite", operation="keep_dead") == 1
        assert figures.of("database_operations_total", status="error") == 0
        assert figures.of("messages_failed_total", error_type="json_decode") == 1
        assert figures.of("nats_errors_total") == 0


async def test_the_running_service_times_every_event(tmp_path: Path) -> None:
    trades = [TRADE % (number, b"28145.10") for number in (1, 2, 3, 2)]
    async with own_server(tmp_path / "nats") as server, running(Service(tmp_path, nats_url=server.url)) as service:
        await feed(server.url, service, [*trades, *trades[:1]])  # in whatever flush they come again
        await feed(server.url, service, trades[:2])
        figures = service.figures()
        assert figures.of("message_processing_seconds_count", event_type="trade") == 7
        assert figures.of("message_processing_seconds_bucket", event_type="trade", le="30.0") == 7
