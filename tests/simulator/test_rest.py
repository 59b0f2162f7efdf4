"""REST answers: the shapes of the recorded ones, the venue's reading of parameters, pages that join without a seam."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.domain.time import INTERVALS_MS
from data_manager.simulator.app import Exchange, Plan
from tests.simulator.exchange import DAY, HOUR, MINUTE, NOW, HandClock, running

SHAPES = {
    "klines_LTCUSDT_5m": ("klines", {"symbol": "BTCUSDT", "interval": "5m"}),
    "klines_BTCUSDT_1d_2023-01": ("klines", {"symbol": "BTCUSDT", "interval": "1d"}),
    "aggTrades_LTCUSDT": ("aggTrades", {"symbol": "BTCUSDT"}),
    "aggTrades_BTCUSDT_limit5": ("aggTrades", {"symbol": "BTCUSDT", "limit": "5"}),
    "trades_BTCUSDT_limit5": ("trades", {"symbol": "BTCUSDT", "limit": "5"}),
    "bookTicker_all_symbols": ("ticker/bookTicker", {}),
    "depth_BTCUSDT_limit100": ("depth", {"symbol": "BTCUSDT", "limit": "100"}),
    "depth_BTCUSDT_1723161255319": ("depth", {"symbol": "BTCUSDT", "limit": "1000"}),
    "fundingRate_BTCUSDT": ("fundingRate", {"symbol": "BTCUSDT"}),
    "fundingInfo": ("fundingInfo", {}),
    "premiumIndex_BTCUSDT": ("premiumIndex", {"symbol": "BTCUSDT"}),
    "premiumIndex_few_symbols": ("premiumIndex", {}),
    "openInterest_BTCUSDT": ("openInterest", {"symbol": "BTCUSDT"}),
    "ticker24hr_BTCUSDT": ("ticker/24hr", {"symbol": "BTCUSDT"}),
    "ticker24hr_few_symbols": ("ticker/24hr", {}),
    "tickerPrice_some_symbols": ("ticker/price", {}),
    "openInterestHist_LTCUSDT_1d": ("/futures/data/openInterestHist", {"symbol": "BTCUSDT", "period": "1d"}),
    "takerlongshortRatio_BTCUSDT_5m": ("/futures/data/takerlongshortRatio", {"symbol": "BTCUSDT", "period": "5m"}),
    "globalLongShortAccountRatio_BTCUSDT_4h": (
        "/futures/data/globalLongShortAccountRatio",
        {"symbol": "BTCUSDT", "period": "4h"},
    ),
    "indexInfo_BTCDOMUSDT": ("indexInfo", {"symbol": "BTCDOMUSDT"}),
    "time": ("time", {}),
    "error_ticker24hr_invalid_symbol": ("ticker/24hr", {"symbol": "BTCUSD_201225"}),
    "exchangeInfo_few_symbols": ("exchangeInfo", {}),
    "exchangeInfo_1626992740175": ("exchangeInfo", {}),
}
SINCE = {  # what the facts sheet says came after these were recorded
    "aggTrades": {"nq"}, "trades": {"isRPITrade"}, "fundingRate": {"markPrice", "rateType"}, "klines": set(),
    "/futures/data/openInterestHist": {"CMCCirculatingSupply"},
    "premiumIndex": {"estimatedSettlePrice"}, "ticker/bookTicker": {"lastUpdateId"},
    "exchangeInfo": {"maxMoveOrderLimit", "permissionSets", "marketTakeBound", "liquidationFee", "deliveryDate", "multiplierDecimal"},
}  # fmt: skip
GONE = {"exchangeInfo": {"settlePlan", "timeInforce"}}


def made(**plan: Any) -> Exchange:
    return Exchange(Plan(symbols=plan.pop("symbols", ("BTCUSDT", "ETHUSDT", "SOLUSDT", "ALGOUSDT", "BTCDOMUSDT")), start_ms=NOW, **plan), HandClock())  # fmt: skip


def ask(exchange: Exchange, path: str, **params: Any) -> Any:
    path = path if path.startswith("/") else f"/fapi/v1/{path}"
    answer = exchange.rest.answer(path, {name: str(value) for name, value in params.items()}, {"x-mbx-apikey": "k"}, "9.9.9.9")  # fmt: skip
    return json.loads(answer.body)


def agree(path: str, ours: Any, theirs: Any, where: str = "") -> None:
    """Same fields of the same kinds, but for what came later; the same way of writing numbers."""
    endpoint = path
    if isinstance(theirs, dict):
        extra = ours.keys() - theirs.keys() - SINCE.get(endpoint, set())
        lacking = theirs.keys() - ours.keys() - GONE.get(endpoint, set())
        assert not extra, f"{where} has {extra}"
        assert not lacking, f"{where} lacks {lacking}"
        for name in ours.keys() & theirs.keys():
            agree(path, ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, list):
        assert isinstance(ours, list), where
        if where.endswith(("filters", "rateLimits")):
            ours_by, theirs_by = ({str(min(one.items())[1]) if where.endswith("rateLimits") else one["filterType"]: one for one in rows} for rows in (ours, theirs))  # fmt: skip
            for name in ours_by.keys() & theirs_by.keys():
                agree(path, ours_by[name], theirs_by[name], f"{where}[{name}]")
        elif theirs and ours:
            if isinstance(theirs[0], str | int):
                assert len(ours) == len(theirs) or where.count(".") > 1, where
            for one, other in zip(ours, theirs, strict=False):
                agree(path, one, other, f"{where}[]")
    elif theirs is not None and ours is not None:
        assert type(ours) is type(theirs), f"{where}: {ours!r} is not as {theirs!r}"
        if isinstance(theirs, str):
            assert "filters" in where or ("." in ours) == ("." in theirs) or theirs.strip("-0123456789"), (
                f"{where}: {ours} {theirs}"
            )


@pytest.mark.parametrize("name", SHAPES)
def test_answers_have_the_shapes_of_the_recorded_ones(name: str, recordings: Path) -> None:
    path, params = SHAPES[name]
    theirs = json.loads((recordings / "binance_futures" / "rest" / f"{name}.json").read_text())
    agree(path, ask(made(), path, **params), theirs)


# ---- candles -----------------------------------------------------------------------------------------------------


def test_without_times_the_newest_candles_and_the_last_is_unfinished() -> None:
    rows = ask(made(), "klines", symbol="BTCUSDT", interval="1m", limit=3)
    now = NOW // MINUTE * MINUTE
    assert [row[0] for row in rows] == [now - 2 * MINUTE, now - MINUTE, now]
    assert rows[-1][6] > NOW
    assert len(ask(made(), "klines", symbol="BTCUSDT", interval="1m")) == 500


def test_both_edges_are_inclusive_on_the_open_time() -> None:
    start = NOW // HOUR * HOUR - 10 * HOUR
    rows = ask(made(), "klines", symbol="BTCUSDT", interval="1h", startTime=start, endTime=start + 3 * HOUR)
    assert [row[0] for row in rows] == [start + n * HOUR for n in range(4)]
    inside = ask(made(), "klines", symbol="BTCUSDT", interval="1h", startTime=start + 1, endTime=start + 3 * HOUR - 1)
    assert [row[0] for row in inside] == [start + HOUR, start + 2 * HOUR]


def test_a_start_gives_the_first_rows_and_an_end_alone_the_last() -> None:
    start, end = NOW - 10 * DAY, NOW - 5 * DAY
    both = ask(made(), "klines", symbol="BTCUSDT", interval="1m", startTime=start, endTime=end, limit=5)
    assert both == ask(made(), "klines", symbol="BTCUSDT", interval="1m", startTime=start, limit=5)
    assert both[0][0] - start < MINUTE
    last = ask(made(), "klines", symbol="BTCUSDT", interval="1m", endTime=end, limit=5)
    assert last[-1][0] == end // MINUTE * MINUTE


def test_zero_starts_at_the_listing_and_the_future_is_empty() -> None:
    exchange = made()
    first = ask(exchange, "klines", symbol="SOLUSDT", interval="1d", startTime=0, limit=1)
    assert first[0][0] == exchange.tape.contracts["SOLUSDT"].onboard_ms // DAY * DAY
    assert ask(exchange, "klines", symbol="SOLUSDT", interval="1m", startTime=NOW + DAY) == []
    assert ask(exchange, "klines", symbol="SOLUSDT", interval="1m", endTime=1_000) == []


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["1m", "5m", "1h", "12h"]), st.integers(0, 300 * DAY), st.integers(1, 400), st.integers(1, 90),
    st.sampled_from(["klines", "markPriceKlines"]),
)  # fmt: skip
def test_pages_join_to_the_whole(interval: str, back: int, count: int, page: int, path: str) -> None:
    exchange = made()
    length = INTERVALS_MS[interval]
    start = NOW - back
    end = start + count * length
    whole = ask(exchange, path, symbol="ALGOUSDT", interval=interval, startTime=start, endTime=end, limit=1_500)
    joined, at = [], start
    while at <= end and (rows := ask(exchange, path, symbol="ALGOUSDT", interval=interval, startTime=at, endTime=end, limit=page)):  # fmt: skip
        joined += rows
        at = rows[-1][0] + length
    assert joined == whole
    assert whole == sorted(whole)


def test_missing_candles_do_not_shorten_a_page() -> None:
    exchange = made()
    start = NOW // HOUR * HOUR - 40 * HOUR
    exchange.faults.add(missing(from_ms=start, until_ms=start + 30 * HOUR))
    rows = ask(exchange, "klines", symbol="BTCUSDT", interval="1h", startTime=start, limit=5)
    assert [row[0] for row in rows] == [start + n * HOUR for n in range(30, 35)]
    assert ask(exchange, "klines", symbol="BTCUSDT", interval="1h", startTime=start, endTime=start + 2 * HOUR) == []


def missing(**words: Any) -> Any:
    from data_manager.simulator.faults import parse

    return parse({"kind": "missing", "dataset": "klines", **words})


# ---- trades ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(HOUR, 40 * HOUR), st.integers(1, 90), st.sampled_from(["BTCUSDT", "ALGOUSDT"]))
def test_pages_of_aggregates_by_id_join_to_the_whole(back: int, page: int, symbol: str) -> None:
    exchange = made(weight_per_minute=10**9)
    start = NOW - back
    whole = ask(exchange, "aggTrades", symbol=symbol, startTime=start, endTime=start + 20 * MINUTE, limit=1_000)
    joined = ask(exchange, "aggTrades", symbol=symbol, startTime=start, limit=page)
    while joined[-1]["T"] <= start + 20 * MINUTE:
        joined += ask(exchange, "aggTrades", symbol=symbol, fromId=joined[-1]["a"] + 1, limit=page)
    assert [row for row in joined if row["T"] <= start + 20 * MINUTE] == whole
    assert all(start <= row["T"] <= start + 20 * MINUTE for row in whole)


def test_aggregates_are_kept_for_48_hours_by_time_and_by_id() -> None:
    exchange = made()
    kept = ask(exchange, "aggTrades", symbol="BTCUSDT", startTime=NOW - 48 * HOUR, limit=1)
    wall = {"code": -4166, "msg": "Search window is restricted to recent 2 days only."}
    assert ask(exchange, "aggTrades", symbol="BTCUSDT", startTime=NOW - 49 * HOUR) == wall
    assert ask(exchange, "aggTrades", symbol="BTCUSDT", fromId=kept[0]["a"] - 3_000) == wall
    assert ask(exchange, "aggTrades", symbol="BTCUSDT", fromId=10**12) == []


def test_trades_are_the_newest_and_those_of_the_aggregates() -> None:
    exchange = made()
    trades = ask(exchange, "trades", symbol="BTCUSDT", limit=1_000)
    assert len(trades) == 1_000
    aggregates = ask(exchange, "aggTrades", symbol="BTCUSDT", limit=1_000)
    by_id = {row["id"]: row for row in trades}
    for row in aggregates[-300:]:
        parts = [by_id[number] for number in range(row["f"], row["l"] + 1)]
        assert sum(round(float(one["qty"]) * 1_000) for one in parts) == round(float(row["q"]) * 1_000)
        assert {one["price"] for one in parts} == {row["p"]}
    older = ask(exchange, "historicalTrades", symbol="BTCUSDT", fromId=trades[100]["id"], limit=50)
    assert older == trades[100:150]


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_funding_pages_join_and_bounds_are_inclusive() -> None:
    exchange = made()
    start = NOW - 60 * DAY
    whole = ask(exchange, "fundingRate", symbol="SOLUSDT", startTime=start, endTime=NOW, limit=1_000)
    joined, at = [], start
    while at <= NOW and (rows := ask(exchange, "fundingRate", symbol="SOLUSDT", startTime=at, endTime=NOW, limit=7)):
        joined += rows
        at = rows[-1]["fundingTime"] + 1
    assert joined == whole
    edge = whole[3]["fundingTime"]
    assert ask(exchange, "fundingRate", symbol="SOLUSDT", startTime=edge, endTime=edge) == [whole[3]]
    assert len(ask(exchange, "fundingRate", symbol="SOLUSDT")) == 100
    assert {row["fundingTime"] % 1_000 for row in whole} > {0}
    assert ask(exchange, "fundingRate", symbol="BTCUSDT", startTime=NOW - 2_000 * DAY, limit=1)[0]["markPrice"] == ""


def test_statistics_of_periods_are_those_of_the_candles_and_only_of_periods_that_are_over() -> None:
    exchange = made()
    rows = ask(exchange, "/futures/data/takerlongshortRatio", symbol="BTCUSDT", period="15m", limit=40)
    assert [row["timestamp"] for row in rows] == [NOW // (15 * MINUTE) * 15 * MINUTE - back * 15 * MINUTE for back in range(40, 0, -1)]  # fmt: skip
    candles = ask(exchange, "klines", symbol="BTCUSDT", interval="15m", limit=41)[:-1]
    assert [(float(row["buyVol"]), round(float(row["buyVol"]) + float(row["sellVol"]), 4)) for row in rows] == [(float(one[9]), float(one[5])) for one in candles]  # fmt: skip
    first = rows[0]["timestamp"]
    assert ask(exchange, "/futures/data/takerlongshortRatio", symbol="BTCUSDT", period="15m", startTime=first, limit=3) == rows[:3]  # fmt: skip
    for wrong, code in (({"startTime": NOW - 31 * DAY}, -1130), ({"limit": 501}, -1130), ({"period": "3m"}, -1130), ({"period": ""}, -1102)):  # fmt: skip
        asked = {"symbol": "BTCUSDT", "period": "15m", **wrong}
        assert ask(exchange, "/futures/data/openInterestHist", **asked)["code"] == code


def test_the_last_24_hours_are_those_of_the_candles() -> None:
    exchange = made()
    day = ask(exchange, "ticker/24hr", symbol="BTCUSDT")
    rows = ask(exchange, "klines", symbol="BTCUSDT", interval="1m", startTime=day["openTime"], limit=1_500)
    assert day["openTime"] % MINUTE == 0
    assert day["openPrice"] == rows[0][1]
    assert day["lastPrice"] == rows[-1][4]
    assert float(day["highPrice"]) == max(float(row[2]) for row in rows)
    assert day["count"] == sum(row[8] for row in rows)
    assert round(float(day["volume"]) * 1_000) == sum(round(float(row[5]) * 1_000) for row in rows)


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("klines", {"symbol": "NOUSDT", "interval": "1m"}, -1121),
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "1s"}, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 1_501}, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 0}, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "many"}, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": ""}, -1105),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": 2, "endTime": 1}, -1023),
        ("indexPriceKlines", {"symbol": "BTCUSDT", "interval": "1m"}, -1102),
        ("indexPriceKlines", {"pair": "NOUSDT", "interval": "1m"}, -4144),
        ("aggTrades", {"symbol": "BTCUSDT", "limit": 1_001}, -1130),
        ("historicalTrades", {"symbol": "BTCUSDT", "limit": 501}, -1130),
        ("depth", {"symbol": "BTCUSDT", "limit": 7}, -4021),
        ("nothing", {}, -5000),
    ],
)
def test_what_is_wrong_is_refused_in_the_venues_words(path: str, params: dict[str, Any], code: int) -> None:
    answer = ask(made(), path, **params)
    assert answer.keys() == {"code", "msg"}
    assert answer["code"] == code


def test_what_was_delivered_has_its_last_settlements_and_what_is_announced_no_candle() -> None:
    exchange = made(symbols=("OMGUSDT", "SOONUSDT"))
    [last] = ask(exchange, "fundingRate", symbol="OMGUSDT", limit=1)
    delivered = exchange.tape.contracts["OMGUSDT"].delivery_ms
    assert delivered - 8 * HOUR < last["fundingTime"] <= delivered
    for path in ("klines", "markPriceKlines", "premiumIndexKlines"):
        assert ask(exchange, path, symbol="SOONUSDT", interval="1w") == []


async def test_symbols_are_case_insensitive_and_may_be_chinese() -> None:
    async with running("BTCUSDT", "币安人生USDT") as exchange:
        assert await exchange.rows("klines", symbol="btcusdt", interval="1m") == await exchange.rows(
            "klines", symbol="BTCUSDT", interval="1m"
        )
        assert len(await exchange.rows("klines", symbol="币安人生USDT", interval="1m", limit=7)) == 7


async def test_over_real_http_headers_statuses_and_bodies_are_the_venues() -> None:
    async with running() as exchange:
        answer = await exchange.get("klines", symbol="BTCUSDT", interval="1m", limit=2)
        assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "1"
        assert answer.headers["content-type"] == "application/json;charset=UTF-8"
        assert await exchange.error("klines", symbol="X", interval="1m") == (400, -1121, "Invalid symbol.")
        assert (await exchange.error("historicalTrades", symbol="BTCUSDT"))[:2] == (401, -2014)
        doubled = await exchange.client.get("/fapi/v1/time?a=1&a=2")
        assert (doubled.status_code, doubled.json()["code"]) == (400, -1101)
        posted = await exchange.client.post("/fapi/v1/klines")
        assert (posted.status_code, posted.json()["code"]) == (404, -5000)
        assert (await exchange.rows("time"))["serverTime"] == NOW
        await exchange.forward(2.5)
        assert (await exchange.rows("time"))["serverTime"] == NOW + 2_500


async def test_truth_knows_no_budget_no_wall_and_no_fault() -> None:
    async with running(weight_per_minute=1) as exchange:
        await exchange.fault("status", status=500)
        path = "/control/truth/fapi/v1/aggTrades"
        rows = await exchange.rows(
            path, symbol="BTCUSDT", startTime=NOW - 90 * DAY, endTime=NOW - 89 * DAY, limit=10**6
        )
        assert len(rows) > 15_000
        assert all(after["a"] == before["a"] + 1 for before, after in itertools.pairwise(rows))
