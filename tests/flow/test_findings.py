"""Findings as people and programs ask for them: GET /findings and `data-manager findings`, over one metadata file."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from data_manager.adapters.meta.sql import open_meta
from data_manager.domain.finding import Finding, FindingKind, found
from tests.servers import free_port
from tests.service import Service, running

AT = 1_680_652_700_000


def finding(number: int, kind: FindingKind, series: str | None, *, over: bool = False) -> Finding:
    """The number-th found."""
    news = found(
        kind, series=series, severity="warning", start_ms=AT + number, evidence={"why": f"n{number}"}, found_ms=AT + number
    )  # fmt: skip
    return news.resolved(AT + 1_000, AT + 500) if over else news


FOUND = [
    finding(1, FindingKind.SILENCE, "um.trade.BTCUSDT"),
    finding(2, FindingKind.SILENCE, "um.candle.BTCUSDT.1h", over=True),
    finding(3, FindingKind.DROPPED, "um.trade.BTCUSDT", over=True),
    finding(4, FindingKind.DRIFT, None),
]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    one = Service(tmp_path, nats_url=f"nats://127.0.0.1:{free_port()}", arguments=["--role", "api"])
    one.data_dir.mkdir()
    meta = await open_meta(f"sqlite:///{one.data_dir}/metadata.sqlite")
    await meta.keep_findings(FOUND)
    await meta.close()
    async with running(one, ready=False):
        yield one


async def test_a_page_of_findings_is_the_same_by_api_and_by_command(service: Service) -> None:
    asked: list[tuple[dict[str, object], list[str], list[int]]] = [
        ({}, [], [4, 3, 2, 1]),
        ({"open": "true"}, ["--open"], [4, 1]),
        ({"open": "false"}, ["--resolved"], [3, 2]),
        ({"kind": "silence"}, ["--kind", "silence"], [2, 1]),
        ({"series": "um.trade.BTCUSDT", "open": "true"}, ["um.trade.BTCUSDT", "--open"], [1]),
        ({"series": "candles_BTCUSDT_1h"}, ["candles_BTCUSDT_1h"], [2]),
        ({"limit": 1, "offset": 1}, ["--limit", "1", "--offset", "1"], [3]),
        ({"series": "um.trade.ETHUSDT"}, ["um.trade.ETHUSDT"], []),
    ]
    for query, words, expected in asked:
        page = service.page("/findings", **query)
        assert [one["start_ms"] - AT for one in page["data"]] == expected, query
        total, more = page["pagination"]["total"], page["pagination"]["has_more"]
        assert (total, more) == ((4, True) if "limit" in query else (len(expected), False))
        if len(query) > 1 or not query:  # a process each
            said = json.loads(service.command("findings", "--json", *words))
            assert said["data"] == page["data"]
            assert (said["pagination"]["total"], said["pagination"]["has_more"]) == (total, more)
    assert service.page("/findings", kind="dropped")["data"] == [
        {
            "id": FOUND[2].id, "kind": "dropped", "series": "um.trade.BTCUSDT", "stream": None, "severity": "warning",
            "start_ms": AT + 3, "end_ms": AT + 500, "evidence": {"why": "n3"}, "found_ms": AT + 3,
            "resolved_ms": AT + 1_000,
        }
    ]  # fmt: skip
    heads, line = service.command("findings", "--kind", "drift").decode().splitlines()
    assert [heads.split()[0], *line.split()[1:3], line.split()[-2:]] == ["found", "warning", "drift", ["why", "n4"]]


async def test_what_cannot_be_asked_is_named_with_what_can(service: Service) -> None:
    wrong = {"kind": "noise", "open": "yes", "series": "um.trades.BTCUSDT", "limit": "0", "offset": "-1", "page": "2"}
    for name, value in wrong.items():
        answer = service.get("/findings", **{name: value})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, name)
    assert "silence" in service.get("/findings", kind="noise").json()["error"]["message"]
    documented = service.page("/openapi.json")["paths"]["/findings"]["get"]
    assert {one["name"] for one in documented["parameters"]} == {"kind", "series", "open", "limit", "offset"}
