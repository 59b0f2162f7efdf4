"""The truth over HTTP: audits on demand, the ledger, and the condition of ranges that partition the request."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.api.app import Components, Readiness, create_app
from data_manager.api.pages import condition_headers
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.services.answering.query import fetch, parse
from data_manager.services.auditing.desk import Desk
from data_manager.services.conditions import Condition, Conditions, answered_span
from tests.contract.rows import BASE_MS, candle, depth_update, liquidation, trade
from tests.flow.test_api import listening, no_facts
from tests.flow.test_audit import MINUTES, TRADES, House, at, minutes
from tests.memory import MemoryStore

SERIES = "um.candle.BTCUSDT.1m"


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    one = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    try:
        yield one
    finally:
        await one.close()


@pytest.fixture
async def house(meta: SqlMetaStore) -> House:
    """Fifty minutes without the seventh, trades without the fortieth, and one liquidation."""
    made = House(MemoryStore(), meta, at(50) + 20_000)
    await made.hold([*minutes(set(range(50)) - {7}), candle(50, closed=False)])
    await made.hold([trade(number) for number in range(1, 100) if number != 40])
    await made.hold([liquidation(1)])
    return made


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx2.AsyncClient]:
    async def readiness() -> Readiness:
        return Readiness(ready=True, status="healthy", components={}, reasons=[])

    from prometheus_client import CollectorRegistry

    desk = Desk(house.auditor)
    conditions = Conditions(house.meta, house.clock)
    app = create_app(
        Components(
            store=house.store,
            meta=house.meta,
            clock=house.clock,
            market="um",
            version="9.9.9",
            readiness=readiness,
            registry=CollectorRegistry(),
            conditions=conditions,
            desk=desk,
            ingest=no_facts,
            databases=no_facts,
            connections=no_facts,
        )
    )
    async with listening(app) as one:
        yield one
    await desk.close()


async def condition(client: httpx2.AsyncClient, **query: Any) -> Any:
    answer = await client.get("/condition", params={"series": SERIES, **query})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    edges = [(one["start_ms"], one["end_ms"]) for one in body["ranges"]]
    assert edges[0][0] == body["start_ms"]
    assert edges[-1][1] == body["end_ms"]
    assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]
    return body


def words(body: Any) -> list[tuple[int, int, str]]:
    return [(one["start_ms"], one["end_ms"], one["condition"]) for one in body["ranges"]]


async def test_an_audit_on_demand_says_what_is_missing(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/audit/run", json={"series": SERIES})
    assert answer.status_code == 200
    assert answer.json() == {
        "audited": 1, "failed": [], "unjudged": [], "findings": 1, "changed": 1, "rows": 49, "holes_total": 1,
        "holes": [
            {"series": SERIES, "start_ms": at(7), "end_ms": at(8), "kind": "grid", "missing": 1, "state": "open"},
        ],
        "cross_checked": {"agreed": 0, "excused": 0, "differing": 0, "unjudged": 49},
    }  # fmt: skip
    everything = (await client.post("/audit/run")).json()
    assert (everything["audited"], everything["holes_total"]) == (3, 2)
    spelled = (
        await client.post(
            "/audit/run", json={"series": ["candles_BTCUSDT_1m"], "start": at(10), "end": "2023-11-15", "full": False}
        )
    ).json()
    assert (spelled["audited"], spelled["holes"]) == (1, [])
    ledger = (await client.get("/audit/holes", params={"series": SERIES})).json()
    assert ledger["pagination"] == {"limit": 100, "offset": 0, "total": 1, "has_more": False}
    [hole] = ledger["data"]
    assert (hole["start_ms"], hole["state"], hole["history"][0]["why"]) == (at(7), "open", "found")
    assert (await client.get("/audit/holes", params={"state": "live", "limit": 1})).json()["pagination"]["has_more"]
    assert (await client.get("/audit/holes", params={"state": "healed,open", "start": at(8)})).json()["data"] == []


async def test_the_condition_of_a_range_before_and_after_an_audit(client: httpx2.AsyncClient, house: House) -> None:
    asked = {"start": at(-1), "end": at(52)}
    body = await condition(client, **asked)
    assert body["completeness"] is None
    assert {one[2] for one in words(body)} == {"unverified", "pending"}
    await client.post("/audit/run")
    body = await condition(client, **asked)
    assert [one[2] for one in words(body)] == ["unverified", "good", "known_hole", "good", "pending", "pending"]
    assert [one[0] for one in words(body)] == [at(-1), at(0), at(7), at(8), at(50), house.clock.now]
    assert body["completeness"] is None, "the minute before the first row was never audited"
    assert (await condition(client, start=at(0), end=at(50)))["completeness"] == 49 / 50
    await house.hold(minutes([7]), origin="job:1")
    await client.post("/audit/run")
    body = await condition(client, start=at(0), end=at(52))
    assert [one[2] for one in words(body)][:3] == ["good", "healed", "good"]
    assert body["completeness"] == 1.0


async def test_when_nobody_audits_what_came_since_is_unverified(client: httpx2.AsyncClient, house: House) -> None:
    await client.post("/audit/run")
    house.clock.now += 5 * 60_000
    assert words(await condition(client, start=at(49), end=at(54)))[-1] == (at(50), at(54), "pending")
    house.clock.now += 20 * 60_000
    assert words(await condition(client, start=at(49), end=at(54))) == [
        (at(49), at(50), "good"),
        (at(50), at(54), "unverified"),
    ]


async def test_ids_are_pending_after_the_last_until_that_is_long_ago_and_liquidations_unverifiable(
    client: httpx2.AsyncClient, house: House
) -> None:
    late_ms, last_ms = 900_000, BASE_MS + 991
    house.clock.now = last_ms + late_ms
    await client.post("/audit/run")
    body = await condition(client, series=TRADES.id, start=BASE_MS + 10, end=BASE_MS + 2_000)
    assert words(body) == [
        (BASE_MS + 10, BASE_MS + 390, "good"), (BASE_MS + 390, BASE_MS + 411, "known_hole"),
        (BASE_MS + 411, BASE_MS + 991, "good"), (BASE_MS + 991, BASE_MS + 2_000, "pending"),
    ]  # fmt: skip
    assert body["completeness"] is not None
    house.clock.now += 2_000
    await client.post("/audit/run")
    body = await condition(client, series=TRADES.id, start=BASE_MS + 10, end=BASE_MS + 2_000)
    assert words(body)[-1] == (last_ms, BASE_MS + 2_000, "unverified"), "the next row may never come"
    assert body["completeness"] is None
    body = await condition(client, series="um.liquidation.BTCUSDT", start=BASE_MS, end=BASE_MS + 9)
    assert (words(body)[0][2], body["completeness"]) == ("unverifiable", None)


async def test_without_times_the_last_day_is_asked_for(client: httpx2.AsyncClient, house: House) -> None:
    body = await condition(client)
    assert (body["start_ms"], body["end_ms"]) == (house.clock.now - 86_400_000, house.clock.now)


async def test_what_was_audited_when_and_by_which_rules(client: httpx2.AsyncClient, house: House) -> None:
    never = (await client.get("/audit/coverage", params={"series": SERIES})).json()
    assert (never["looked_ms"], never["until_ms"], never["spans"], never["flaws"]) == (None, None, [], [])
    await client.post("/audit/run")
    body = (await client.get("/audit/coverage", params={"series": SERIES})).json()
    assert (body["looked_ms"], body["swept_ms"], body["until_ms"]) == (house.clock.now, house.clock.now, at(50))
    assert [(one["start_ms"], one["end_ms"], one["result"]) for one in body["spans"]] == [
        (at(0), at(7), "pass"), (at(7), at(8), "fail"), (at(8), at(50), "pass"),
    ]  # fmt: skip
    assert {one["rule_version"] for one in body["spans"]} == {body["rule_version"]}
    assert {one["audited_ms"] for one in body["spans"]} == {house.clock.now}
    assert (await client.get("/audit/coverage")).json()["error"]["field"] == "series"


async def test_the_longest_clean_segments_of_a_book(client: httpx2.AsyncClient, house: House) -> None:
    await house.hold([depth_update(number) for number in range(1, 400) if number not in (100, 101, 350)])
    await client.post("/audit/run")
    asked = {"series": "um.depth_update.BTCUSDT", "start": BASE_MS, "end": BASE_MS + 1_000}
    body = (await client.get("/condition/segments", params=asked)).json()
    found = [(one["start_ms"] - BASE_MS, one["end_ms"] - BASE_MS) for one in body["segments"]]
    assert found == [(103, 349), (1, 99), (352, 400)]
    assert (body["total"], body["clean_ms"]) == (3, 246 + 98 + 48)
    assert [(one["first_key"], one["last_key"]) for one in body["segments"]] == [(102, 349), (None, 99), (351, None)]
    assert body["segments"][0]["condition"] == "good"
    ordered = (await client.get("/condition/segments", params={**asked, "order": "time", "limit": 2})).json()
    assert [one["start_ms"] - BASE_MS for one in ordered["segments"]] == [1, 103]
    for query, field in (({}, "series"), ({**asked, "order": "best"}, "order"), ({**asked, "limit": 0}, "limit")):
        answer = await client.get("/condition/segments", params=query)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_every_series_day_by_day(client: httpx2.AsyncClient, house: House) -> None:
    await client.post("/audit/run")
    body = (await client.get("/condition/matrix", params={"start": "2023-11-13", "end": "2023-11-15T12:00:00Z"})).json()
    assert body["days"] == ["2023-11-13", "2023-11-14", "2023-11-15"]
    by_series = {one["series"]: one["days"] for one in body["data"]}
    assert by_series.keys() == {SERIES, TRADES.id, "um.liquidation.BTCUSDT"}
    before, on, after = by_series[SERIES]
    assert (before["condition"], before["completeness"], before["shares"]) == ("unverified", None, {"unverified": 1.0})
    assert on["condition"] == "known_hole"
    assert on["shares"]["known_hole"] == 60_000 / 86_400_000
    assert (after["condition"], after["completeness"]) == ("pending", None)
    found = [one["condition"] for one in by_series["um.liquidation.BTCUSDT"]]
    assert found == ["unverifiable", "unverifiable", "pending"]
    for one in body["data"]:
        assert all(abs(sum(day["shares"].values()) - 1) < 1e-9 for day in one["days"])
    some = (await client.get("/condition/matrix", params={"dataset": "candle", "limit": 1, "pair": "BTCUSDT"})).json()
    assert ([one["series"] for one in some["data"]], some["pagination"]["total"], len(some["days"])) == (
        [SERIES],
        1,
        31,
    )
    bad = await client.get("/condition/matrix", params={"start": "2020-01-01", "end": "2023-01-01"})
    assert (bad.status_code, bad.json()["error"]["field"]) == (422, "start")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "series"),
        ({"series": ""}, "series"),
        ({"series": "um.candle.BTCUSDT.2m"}, "series"),
        ({"series": "um.candles.BTCUSDT"}, "series"),
        ({"series": SERIES, "start": "yesterday"}, "start"),
        ({"series": SERIES, "start": 2_000_000_000_000, "end": BASE_MS}, "start"),
        ({"series": SERIES, "end": "1700000000"}, "end"),
        ({"series": SERIES, "limit": 1}, "limit"),
    ],
)
async def test_a_bad_condition_names_the_field(client: httpx2.AsyncClient, query: dict[str, Any], field: str) -> None:
    answer = await client.get("/condition", params=query)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", "body"),
        ("[]", "body"),
        (b"\xff\xfe", "body"),
        ({"series": 7}, "series"),
        ({"series": []}, "series"),
        ({"series": "nonsense"}, "series"),
        ({"series": ["um.candle.BTCUSDT.1m", None]}, "series"),
        ({"full": "yes"}, "full"),
        ({"start": True}, "start"),
        ({"start": BASE_MS, "end": BASE_MS}, "start"),
        ({"end": [1]}, "end"),
        ({"force": True}, "force"),
        ({"wait": -1}, "wait"),
        ({"wait": "long"}, "wait"),
        ({"wait": 11}, "wait"),
    ],
)
async def test_a_bad_audit_names_the_field(client: httpx2.AsyncClient, body: Any, field: str) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = await client.post("/audit/run", content=content)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


async def test_what_was_never_held_is_not_found_and_a_body_has_a_bound(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/audit/run", json={"series": "um.trade.XYZUSDT"})).status_code == 404
    assert (await client.get("/audit/runs/99")).status_code == 404
    assert (await client.get("/audit/runs/x")).status_code == 422
    assert (await client.get("/audit/run")).status_code == 405
    assert (await client.post("/audit/run", content=b" " * 70_000)).status_code == 413
    assert (await client.get("/audit/holes", params={"state": "gone"})).json()["error"]["field"] == "state"


async def test_a_long_audit_is_asked_for_again_by_its_number(client: httpx2.AsyncClient, house: House) -> None:
    answer = await client.post("/audit/run", json={"series": SERIES, "full": True, "wait": 0})
    body = answer.json()
    assert (answer.status_code, body["status"], body["href"]) == (202, "running", answer.headers["location"])
    assert {"done", "total", "at"} <= body.keys()
    desk = Desk(house.auditor, patience_s=0)
    asked = await desk.ask([MINUTES], None, full=True)
    assert asked.answer is None
    done = (await desk.outcome(asked.number, patience_s=10)).answer
    assert done is not None
    assert [one.start_ms for one in done.holes] == [at(7)]
    await desk.close()


async def test_the_ranges_are_those_of_the_domain_for_any_cut(client: httpx2.AsyncClient, house: House) -> None:
    await client.post("/audit/run")
    conditions = Conditions(house.meta, house.clock)
    whole = (await conditions.condition_of(MINUTES, Span(at(-5), at(60)))).ranges
    for cut in range(-4, 60, 7):
        left = (await conditions.condition_of(MINUTES, Span(at(-5), at(cut)))).ranges
        right = (await conditions.condition_of(MINUTES, Span(at(cut), at(60)))).ranges
        said = [(one.condition, one.end_ms - one.start_ms) for one in [*left, *right]]
        assert sum(length for _, length in said) == at(60) - at(-5)
        for word in {one.condition for one in whole}:
            assert sum(length for one, length in said if one is word) == sum(one.end_ms - one.start_ms for one in whole if one.condition is word)  # fmt: skip


async def test_openapi_tells_of_the_routes(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths.keys() >= {
        "/condition", "/condition/matrix", "/condition/segments", "/audit/run", "/audit/runs/{run}", "/audit/holes",
    }  # fmt: skip
    assert paths["/audit/run"].keys() == {"post"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"limit": "5"}, (45, 50)),
        ({"limit": "100"}, (0, 50)),
        ({"start": "3", "end": "9"}, (3, 9)),
        ({"start": "-5", "end": "70"}, (-5, 70)),
        ({"start": "3", "end": "40", "limit": "10"}, (3, 14)),
        ({"start": "3", "end": "40", "limit": "10", "sort_order": "desc"}, (30, 40)),
        ({"end": "20", "limit": "4"}, (16, 20)),
        ({"start": "60", "end": "70"}, (60, 70)),
        ({"start": "60"}, None),
    ],
)
async def test_a_page_speaks_for_what_was_asked_as_far_as_it_reaches(
    house: House, words: dict[str, str], expected: tuple[int, int] | None
) -> None:
    given = {name: str(at(int(text))) if name in ("start", "end") else text for name, text in words.items()}
    query = parse(DATASETS["candle"], "um", {"pair": "BTCUSDT", "period": "1m", **given})
    span = answered_span(query, await fetch(house.store, query))
    assert span == (None if expected is None else Span(at(expected[0]), at(expected[1])))


async def test_pages_one_after_another_speak_for_the_whole(house: House) -> None:
    given = {"pair": "BTCUSDT", "period": "1m", "start": str(at(-3)), "end": str(at(60)), "limit": "7"}
    query = parse(DATASETS["candle"], "um", given)
    spans = []
    while True:
        page = await fetch(house.store, query)
        spans.append(answered_span(query, page))
        if page.next_cursor is None:
            break
        query = parse(
            DATASETS["candle"], "um", {"pair": "BTCUSDT", "period": "1m", "limit": "7", "cursor": page.next_cursor}
        )
    assert spans[0] is not None
    assert spans[-1] is not None
    assert (spans[0].start_ms, spans[-1].end_ms) == (at(-3), at(60))


async def test_headers_say_one_only_of_what_lacks_nothing(house: House) -> None:
    conditions = Conditions(house.meta, house.clock)
    await house.auditor.run()
    for span, complete, said in (
        (Span(at(8), at(50)), b"1.000000", b"good=1"),
        (Span(at(0), at(10)), b"0.900000", b"good=0.9, known_hole=0.1"),
        (Span(at(-10), at(0)), b"null", b"unverified=1"),
    ):
        found = await conditions.condition_of(MINUTES, span)
        assert condition_headers(found, span) == [(b"x-data-completeness", complete), (b"x-data-condition", said)]
    rounded = Condition(0.99999999, [])
    assert condition_headers(rounded, Span(0, 1))[0][1] == b"0.999999"


async def test_while_the_metadata_is_away_rows_are_unverified_and_come_all_the_same(house: House) -> None:
    conditions = Conditions(house.meta, house.clock)
    await house.auditor.run()
    await conditions.keep_up()
    assert conditions.at_hand(MINUTES, Span(at(8), at(9))).condition.completeness == 1.0
    await house.meta.close()
    await conditions.keep_up()
    assert conditions.at_hand(MINUTES, Span(at(8), at(9))).condition.completeness == 1.0, "for a while we know it"
    house.clock.now += 31_000
    await conditions.keep_up()
    found = conditions.at_hand(MINUTES, Span(at(8), at(9))).condition
    assert (found.completeness, [one.condition.value for one in found.ranges]) == (None, ["unverified"])
