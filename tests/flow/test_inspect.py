"""What ingest says of itself, and the dead letters, over HTTP of the real service."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from data_manager.adapters.bus.nats_server import NatsServer
from tests.conftest import eventually
from tests.servers import fresh, own_server
from tests.service import Service, connected, drained, publish, running

LAW = ("new", "changed", "duplicate", "rejected", "dropped", "in_flight")
TRADE = (
    b'{"e":"trade","E":1680652700455,"T":1680652700452,"s":"BTCUSDT","t":%d,"p":"%s","q":"0.002","X":"MARKET","m":true}'
)
ACK = b'{"result":null,"id":1}'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with own_server(tmp_path / "nats") as one:
        yield one


@pytest.fixture
async def service(server: NatsServer, tmp_path: Path) -> AsyncIterator[Service]:
    async with running(Service(tmp_path, nats_url=server.url)) as service:
        messages = [TRADE % (number, b"28145.10") for number in (1, 2, 3, 2)]
        broken = [b"not json", b"not json", TRADE % (4, b"NaN"), b'{"e":"trade","t":1}']
        async with connected(server.url) as client:
            await publish(client, service.subject, [*messages, ACK, *broken])
            await drained(client, service)
        yield service


async def test_every_event_is_accounted_for(service: Service) -> None:
    facts = service.page("/health/ingest")
    assert facts["received"] == sum(facts[name] for name in LAW) == 8
    assert {name: facts[name] for name in ("new", "duplicate", "rejected", "ignored", "in_flight", "dropped")} == {
        "new": 3, "duplicate": 1, "rejected": 4, "ignored": 1, "in_flight": 0, "dropped": 0,
    }  # fmt: skip
    assert facts["oldest_unflushed_ms"] is None
    assert facts["pending"] == 0
    assert facts["rate_per_s"] >= 0
    (series,) = facts["series"]
    assert series["series"] == "um.trade.BTCUSDT"
    assert series["last_event_ms"] == 1_680_652_700_455
    assert series["state"] in ("live", "silent", "stale")


async def test_dead_letters_name_reason_and_field_and_come_in_pages(service: Service) -> None:
    answer = service.page("/dead-letters", limit=2)
    assert answer["pagination"] == {"limit": 2, "offset": 0, "total": 3, "has_more": True}
    letters = answer["data"] + service.page("/dead-letters", limit=2, offset=2)["data"]
    assert len({letter["id"] for letter in letters}) == 3
    told = {(letter["reason"], letter["field"], letter["count"]) for letter in letters}
    assert told == {("undecodable", None, 2), ("invalid", "p", 1), ("invalid", "s", 1)}
    assert {letter["subject"] for letter in letters} == {service.subject}
    assert next(letter for letter in letters if letter["reason"] == "undecodable")["sample"] == "not json"
    only = service.page("/dead-letters", reason="undecodable")
    assert [letter["count"] for letter in only["data"]] == [2]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": "x"}, {"offset": -1}, {"page": 2}])
async def test_wrong_parameters_are_named(service: Service, query: dict[str, object]) -> None:
    answer = service.get("/dead-letters", **query)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == next(iter(query))


@pytest.mark.parametrize("shared", [False, True], ids=["a subject of its own", "a wildcard"])
async def test_events_wrapped_in_an_unknown_way_are_noticed(
    server: NatsServer, tmp_path: Path, *, shared: bool
) -> None:
    """The predecessor looked at the wrong level for eight releases and was ready all the time."""
    stem = fresh("wrapped.data")
    service = Service(tmp_path, nats_url=server.url, nats_consumer_subject=f"{stem}.>" if shared else stem)
    target, wrapped = f"{stem}.um" if shared else stem, [b'{"payload":%s}' % (TRADE % (n, b"1.5")) for n in range(100)]
    async with running(service), connected(server.url) as client:
        await publish(client, target, [ACK, *wrapped])
        await drained(client, service)
        refused = service.get("/health/readiness")
        assert (refused.status_code, refused.json()["components"]["ingest"]) == (503, "unhealthy")
        assert "100 " in refused.json()["reasons"][0]
        facts = service.page("/health/ingest")
        assert (facts["rejected"], facts["ignored"]) == ((0, 101) if shared else (100, 1))
        assert service.page("/dead-letters")["pagination"]["total"] == facts["rejected"]
        await publish(client, target, [TRADE % (1, b"1.5")])
        await eventually(lambda: service.get("/health/readiness").status_code == 200, what="ready")


async def test_who_waits_for_the_figures_finds_everything(server: NatsServer, tmp_path: Path) -> None:
    """Nothing pending and nothing in flight: then rows are held and dead letters listed, at that very moment."""
    service = Service(tmp_path, nats_url=server.url)
    async with running(service), connected(server.url) as client:
        for times in range(1, 6):
            await publish(client, service.subject, [b"no market data %d" % times, TRADE % (times, b"1.5")])

            def done() -> bool:
                facts = service.page("/health/ingest")
                return not facts["pending"] and not facts["in_flight"]

            await eventually(done, what="all done")
            assert service.page("/dead-letters")["pagination"]["total"] == times
            assert len(service.rows("/data/trades", pair="BTCUSDT")) == times
