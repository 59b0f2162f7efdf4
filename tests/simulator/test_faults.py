"""Every switch breaks what it says, for as long as it says, the same each time; and nobody else may throw it."""

import asyncio
import itertools
import json
import time

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from data_manager.simulator.app import Exchange, Plan
from data_manager.simulator.faults import KINDS
from tests.conftest import eventually
from tests.simulator.exchange import HOUR, MINUTE, NOW, HandClock, Running, drained, running

TRADES = "/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade"


async def heard(exchange: Running, seconds: float = 600, path: str = TRADES) -> list[dict]:
    """What a socket hears in so much time."""
    async with exchange.socket(path, max_size=None) as socket:
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
        for _ in range(4):
            await exchange.forward(seconds / 4)
        found = await drained(socket)
    await eventually(lambda: not exchange.exchange.hub.listeners)
    return found


def ids(messages: list[dict], symbol: str = "btcusdt") -> list[int]:
    return [message["data"]["a"] for message in messages if message["stream"].startswith(symbol)]


def whole(numbers: list[int]) -> list[int]:
    return list(range(min(numbers), max(numbers) + 1))


# ---- streams -----------------------------------------------------------------------------------------------------


async def test_a_stalled_stream_is_silent_and_its_socket_lives() -> None:
    async with running() as exchange:
        await exchange.fault("stall", streams="btcusdt@*", end_ms=NOW + 600_000)
        messages = await heard(exchange)
        assert ids(messages) == []
        assert ids(messages, "ethusdt") == whole(ids(messages, "ethusdt"))
        assert len(ids(await heard(exchange))) > 50


async def test_a_deaf_socket_hears_a_stream_no_more_and_the_next_one_does() -> None:
    async with running() as exchange, exchange.socket(TRADES, max_size=None) as old:
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
        await exchange.fault("deaf", streams="btcusdt@*")
        await exchange.forward(0.001)
        async with exchange.socket(TRADES, max_size=None) as new:
            await eventually(lambda: len(exchange.exchange.hub.listeners) == 2)
            await exchange.forward(600)
            before, after = await drained(old), await drained(new)
    assert ids(before) == []
    assert ids(before, "ethusdt") == ids(after, "ethusdt") == whole(ids(after, "ethusdt"))
    assert ids(after) == whole(ids(after))


async def test_the_truth_of_a_stream_is_what_it_would_have_said() -> None:
    async with running() as exchange:
        begun_ms = exchange.exchange.clock.now_ms()
        await exchange.fault("lose", streams="btcusdt@*", share=0.5)
        messages = await heard(exchange)
        words = {"after": begun_ms, "until": begun_ms + 600_000}
        told = (await exchange.get("/control/truth/streams/btcusdt@aggTrade", **words)).text.splitlines()
        assert set(ids(messages)) < {json.loads(line)["a"] for line in told}
        other = (await exchange.get("/control/truth/streams/ethusdt@aggTrade", **words)).text.splitlines()
        assert ids(messages, "ethusdt") == [json.loads(line)["a"] for line in other]
        assert (await exchange.get("/control/truth/streams/nothing@trade", **words)).status_code == 404
        assert (await exchange.get("/control/truth/streams/btcusdt@trade", after=1)).status_code == 422


async def test_lost_events_are_a_share_and_the_same_ones_each_time() -> None:
    found = []
    for _ in range(2):
        async with running() as exchange:
            await exchange.fault("lose", streams="btcusdt@*", share=0.2)
            found.append(ids(await heard(exchange)))
    assert found[0] == found[1]
    lost = set(whole(found[0])) - set(found[0])
    assert 0.08 < len(lost) / len(whole(found[0])) < 0.35


async def test_doubled_events_come_twice() -> None:
    async with running() as exchange:
        await exchange.fault("double", share=0.3)
        numbers = ids(await heard(exchange))
        assert sorted(set(numbers)) == whole(numbers)
        assert len(numbers) > 1.1 * len(set(numbers))


@pytest.mark.parametrize("kind", ["reorder", "late"])
async def test_late_events_come_after_later_ones_and_none_is_lost(kind: str) -> None:
    async with running() as exchange:
        await exchange.fault(kind, share=0.2, delay_ms=20_000)
        messages = await heard(exchange)
        numbers = ids(messages)
        assert numbers != sorted(numbers)
        assert sorted(numbers)[: len(numbers) // 2] == whole(sorted(numbers)[: len(numbers) // 2])


async def test_a_lost_difference_breaks_the_chain_of_a_book() -> None:
    async with running() as exchange:
        await exchange.fault("lose", streams="*@depth*", share=0.1)
        messages = await heard(exchange, 20, "/public/stream?streams=btcusdt@depth@100ms")
        pairs = [message["data"] for message in messages]
        assert any(after["pu"] != before["u"] for before, after in itertools.pairwise(pairs))


# ---- sockets -----------------------------------------------------------------------------------------------------


async def test_the_event_that_closes_a_candle_can_be_dropped_alone() -> None:
    async with running() as exchange:
        await exchange.fault("lose", streams="btcusdt@kline_1m", closes=True)
        messages = await heard(exchange, path="/market/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m")
    closed = {message["stream"] for message in messages if message["data"]["k"]["x"]}
    assert closed == {"ethusdt@kline_1m"}
    assert len({message["data"]["k"]["t"] for message in messages if message["stream"] == "btcusdt@kline_1m"}) > 5


async def test_a_slow_socket_falls_behind_in_order_and_the_next_one_does_not() -> None:
    async with running() as exchange, exchange.socket(TRADES, max_size=None) as old:
        await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
        await exchange.fault("lag", delay_ms=500, end_ms=NOW + 600_000)
        await exchange.forward(0.001)
        async with exchange.socket(TRADES, max_size=None) as new:
            await eventually(lambda: len(exchange.exchange.hub.listeners) == 2)
            await exchange.forward(300)
            slow, quick = await drained(old), await drained(new)
            assert ids(slow) == ids(quick)[: len(ids(slow))]
            assert 0.5 < len(slow) / len(quick) < 0.8, "two thirds are there when each second is half a second late"
            await exchange.forward(600)
            slow += await drained(old)
            quick += await drained(new)
        assert ids(slow) == ids(quick) == whole(ids(quick))


async def test_dropped_sockets_get_no_goodbye_and_only_once() -> None:
    async with running() as exchange:
        async with exchange.socket(TRADES) as market, exchange.socket("/public/ws") as public:
            await eventually(lambda: len(exchange.exchange.hub.listeners) == 2)
            await exchange.fault("drop", route="market")
            with pytest.raises(ConnectionClosed) as end:
                async with asyncio.timeout(5):
                    await market.recv()
            assert end.value.rcvd is None
            await (await public.ping())
        assert len(await heard(exchange)) > 10


async def test_refused_sockets_get_a_status() -> None:
    async with running() as exchange:
        await exchange.fault("refuse", status=429)
        with pytest.raises(InvalidStatus) as no:
            await exchange.socket(TRADES)
        assert no.value.response.status_code == 429
        await exchange.mend()
        assert len(await heard(exchange)) > 10


async def test_an_outage_takes_everything_for_its_time_and_history_has_no_hole() -> None:
    async with running() as exchange:
        async with exchange.socket(TRADES) as socket:
            await eventually(lambda: len(exchange.exchange.hub.listeners) == 1)
            await exchange.fault("outage", start_ms=NOW + 60_000, end_ms=NOW + 360_000)
            await exchange.forward(30)
            assert (await exchange.get("time")).status_code == 200
            await exchange.forward(60)
            with pytest.raises(ConnectionClosed):
                while True:
                    await socket.recv()
            with pytest.raises(InvalidStatus):
                await exchange.socket(TRADES)
            assert await exchange.error("time") == (503, 0, "Service Unavailable.")
            archive = "/data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-03-04.zip"
            assert (await exchange.get(archive)).status_code == 503
        await exchange.forward(400)
        rows = await exchange.rows("aggTrades", symbol="BTCUSDT", startTime=NOW, limit=1_000)
        assert [row["a"] for row in rows] == whole([row["a"] for row in rows])
        assert len(await heard(exchange)) > 10


async def test_an_outage_can_be_of_sockets_alone() -> None:
    async with running() as exchange:
        await exchange.fault("outage", where=["ws"])
        assert (await exchange.get("time")).status_code == 200
        with pytest.raises(InvalidStatus):
            await exchange.socket(TRADES)


async def test_a_skewed_clock_shows_and_the_market_does_not_move() -> None:
    async with running() as exchange:
        true = await heard(exchange, 60)
        await exchange.fault("skew", skew_ms=-1_272)
        now = exchange.exchange.clock.now_ms()
        assert (await exchange.rows("time"))["serverTime"] == now - 1_272
        skewed = await heard(exchange, 60)
        assert all(0 < message["data"]["E"] - message["data"]["T"] <= 100 for message in true)
        assert all(-1_272 < message["data"]["E"] - message["data"]["T"] <= -1_172 for message in skewed)


# ---- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ({"status": 429, "retry_after_s": 7}, -1003, "Too many requests"),
        ({"status": 418, "retry_after_s": 9}, -1003, "banned until"),
        ({"status": 451}, 0, "restricted location"),
        ({"status": 503}, -1000, "Unknown error"),
        ({"status": 503, "variant": "down"}, 0, "Service Unavailable."),
        ({"status": 503, "variant": "throttled"}, -1008, "throttled"),
        ({"status": 408}, -1007, "Timeout"),
        ({"status": 502}, -1001, "Internal error"),
    ],
)
async def test_a_storm_of_a_status(words: dict, code: int, text: str) -> None:
    async with running() as exchange:
        await exchange.fault("status", paths="/fapi/v1/klines", **words)
        answer = await exchange.get("klines", symbol="BTCUSDT", interval="1m")
        assert answer.status_code == words["status"]
        assert answer.json()["code"] == code
        assert text in answer.json()["msg"]
        assert answer.headers.get("Retry-After") == (str(words["retry_after_s"]) if "retry_after_s" in words else None)
        assert (await exchange.get("time")).status_code == 200


async def test_the_firewall_answers_with_a_page() -> None:
    async with running() as exchange:
        await exchange.fault("status", status=403)
        answer = await exchange.get("time")
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (403, "text/html")
        assert answer.content.startswith(b"<HTML>")


async def test_a_share_of_requests_fails_and_the_same_ones_each_time() -> None:
    found = []
    for _ in range(2):
        async with running() as exchange:
            await exchange.fault("status", status=500, share=0.3)
            found.append([(await exchange.get("time")).status_code for _ in range(60)])
    assert found[0] == found[1]
    assert 6 < found[0].count(500) < 32


async def test_short_pages_are_short_and_lose_nothing_to_who_pages_on() -> None:
    async with running() as exchange:
        start = NOW - 10 * HOUR
        asked = {"symbol": "BTCUSDT", "interval": "1m", "startTime": start, "limit": 100}
        whole_page = await exchange.rows("klines", **asked)
        await exchange.fault("short", paths="/fapi/v1/klines", rows=7)
        assert await exchange.rows("klines", **asked) == whole_page[:7]
        assert len(await exchange.rows("aggTrades", symbol="BTCUSDT", limit=100)) == 100


async def test_a_truncated_answer_breaks_off() -> None:
    async with running() as exchange:
        await exchange.fault("truncate")
        with pytest.raises(httpx2.TransportError):
            await exchange.get("klines", symbol="BTCUSDT", interval="1m")
        await exchange.mend()
        assert (await exchange.get("time")).status_code == 200


async def test_a_slow_answer_is_slow() -> None:
    async with running() as exchange:
        slept = []
        exchange.clock.sleep = lambda seconds: _noted(slept, seconds)
        await exchange.fault("slow", paths="/fapi/v1/time", delay_ms=4_000)
        await exchange.get("time")
        assert 4.0 in slept


async def _noted(slept: list[float], seconds: float) -> None:
    slept.append(seconds)
    await asyncio.sleep(0.001)


async def test_a_slow_answer_takes_its_time_on_a_real_clock() -> None:
    from tests.servers import WallClock

    exchange = Exchange(Plan(port=0, symbols=("BTCUSDT",)), WallClock())
    async with exchange.serving() as address, httpx2.AsyncClient(base_url=address) as client:
        await client.post("/control/faults", json={"kind": "slow", "delay_ms": 300})
        started = time.monotonic()
        await client.get("/fapi/v1/time")
        assert time.monotonic() - started >= 0.3


# ---- history -----------------------------------------------------------------------------------------------------


async def test_missing_rows_are_absent_from_what_is_named_and_from_nothing_else() -> None:
    start = NOW // HOUR * HOUR - 3 * HOUR
    async with running() as exchange:
        words = {"symbol": "BTCUSDT", "from_ms": start, "until_ms": start + HOUR}
        span = {"startTime": start, "endTime": start + 2 * HOUR - 1, "limit": 1_000}
        await exchange.fault("missing", dataset="klines", interval="1m", **words)
        assert len(await exchange.rows("klines", symbol="BTCUSDT", interval="1m", **span)) == 60
        assert len(await exchange.rows("klines", symbol="BTCUSDT", interval="5m", **span)) == 24
        assert len(await exchange.rows("klines", symbol="ETHUSDT", interval="1m", **span)) == 120
        assert len(await exchange.rows("markPriceKlines", symbol="BTCUSDT", interval="1m", **span)) == 120
        await exchange.fault("missing", dataset="aggTrades", **words)
        rows = await exchange.rows("aggTrades", symbol="BTCUSDT", **span)
        assert min(row["T"] for row in rows) >= start + HOUR
        first = await exchange.rows("/control/truth/fapi/v1/aggTrades", symbol="BTCUSDT", startTime=start, limit=1)
        by_id = await exchange.rows("aggTrades", symbol="BTCUSDT", fromId=first[0]["a"], limit=50)
        assert by_id == rows[:50], "pages by id go on behind a hole"
        truth = await exchange.rows("/control/truth/fapi/v1/aggTrades", symbol="BTCUSDT", **span)
        assert min(row["T"] for row in truth) < start + 10 * MINUTE


async def test_settlements_can_be_missing() -> None:
    async with running() as exchange:
        rows = await exchange.rows("fundingRate", symbol="BTCUSDT", limit=5)
        slot = rows[2]["fundingTime"] // HOUR * HOUR
        await exchange.fault("missing", dataset="fundingRate", from_ms=slot, until_ms=slot + 1)
        assert rows[2] not in await exchange.rows("fundingRate", symbol="BTCUSDT", limit=5)


@pytest.mark.parametrize("how", ["zero", "tick"])
async def test_history_can_be_wrong_until_it_is_corrected(how: str) -> None:
    start = NOW // HOUR * HOUR - 3 * HOUR
    async with running() as exchange:
        span = {"symbol": "BTCUSDT", "startTime": start, "limit": 10}
        true = await exchange.rows("klines", interval="1m", **span)
        trades = await exchange.rows("aggTrades", **span)
        await exchange.fault("altered", how=how, from_ms=start, until_ms=start + MINUTE, end_ms=NOW + 60_000)
        wrong = await exchange.rows("klines", interval="1m", **span)
        assert wrong[1:] == true[1:]
        assert [at for at in range(12) if wrong[0][at] != true[0][at]] in ([5, 7, 8, 9, 10], [4], [2, 4])
        assert (await exchange.rows("aggTrades", **span)) != trades
        await exchange.forward(60)
        assert await exchange.rows("klines", interval="1m", **span) == true
        assert await exchange.rows("aggTrades", **span) == trades


# ---- the endpoint ------------------------------------------------------------------------------------------------


async def test_switches_can_be_listed_read_and_removed() -> None:
    async with running() as exchange:
        one, other = await exchange.fault("stall"), await exchange.fault("slow", delay_ms=5)
        assert [fault["id"] for fault in await exchange.rows("/control/faults")] == [one, other]
        assert (await exchange.rows(f"/control/faults/{other}"))["delay_ms"] == 5
        assert (await exchange.client.delete(f"/control/faults/{one}")).json()["kind"] == "stall"
        assert (await exchange.client.delete(f"/control/faults/{one}")).status_code == 404
        assert (await exchange.get(f"/control/faults/{one}")).status_code == 404
        assert (await exchange.client.delete("/control/faults")).json() == {"removed": 1}
        assert await exchange.rows("/control/faults") == []
        assert (await exchange.rows("/control/state"))["symbols"] == ["BTCUSDT", "ETHUSDT"]


@pytest.mark.parametrize(
    "body",
    ["", "[]", "7", '{"kind":"nothing"}', '{"kind":"stall","shere":1}', '{"kind":"stall","share":0}', '{"kind":"stall","share":2}', '{"kind":"late","delay_ms":"soon"}', "{" + " " * 70_000 + "}"],
)  # fmt: skip
async def test_a_switch_that_makes_no_sense_is_refused(body: str) -> None:
    async with running() as exchange:
        answer = await exchange.client.post("/control/faults", content=body)
        assert answer.status_code == 422
        assert answer.json()["error"]
        assert await exchange.rows("/control/faults") == []


async def test_whoever_is_not_on_this_machine_is_refused() -> None:
    application = Exchange(Plan(port=0), HandClock()).application()
    paths = [("GET", "/control/faults"), ("POST", "/control/faults"), ("DELETE", "/control/faults/f1"), ("GET", "/control/state"), ("GET", "/control/truth/fapi/v1/time")]  # fmt: skip
    for client, status in ((("10.1.2.3", 1), 403), (("testclient", 1), 403), (("::1", 1), None)):
        transport = httpx2.ASGITransport(app=application, client=client)
        async with httpx2.AsyncClient(transport=transport, base_url="http://exchange") as outsider:
            for method, path in paths:
                answer = await outsider.request(method, path, content=json.dumps({"kind": "stall"}))
                assert (answer.status_code == 403) == (status == 403), path


def test_every_kind_is_explained_and_documented() -> None:
    from pathlib import Path

    from data_manager.simulator import faults

    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert kind in (faults.__doc__ or "")
        assert f"`{kind}`" in page
