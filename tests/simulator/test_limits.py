"""Weights are charged as measured, windows end with the minute, and who goes on after 429 is banned."""

import re

import pytest

from data_manager.simulator.answers import Refused
from data_manager.simulator.clock import ExchangeClock
from data_manager.simulator.limits import FUNDING, WEIGHT, Limits
from tests.simulator.exchange import MINUTE, NOW, HandClock, running


def made(limit: int = 2_400) -> tuple[Limits, HandClock]:
    clock = HandClock()
    return Limits(ExchangeClock(clock, start_ms=NOW // MINUTE * MINUTE), limit=limit), clock


@pytest.mark.parametrize(
    ("path", "params", "weight"),
    [
        ("klines", {"limit": 100}, 1), ("klines", {"limit": 101}, 2), ("klines", {"limit": 500}, 2),
        ("klines", {"limit": 501}, 5), ("klines", {"limit": 1_000}, 5), ("klines", {"limit": 1_001}, 10),
        ("klines", {}, 5), ("klines", {"limit": 1_501}, 10), ("aggTrades", {}, 20), ("aggTrades", {"symbol": "NO"}, 20),
        ("trades", {}, 5), ("historicalTrades", {}, 200), ("depth", {}, 1), ("depth", {"limit": 50}, 2),
        ("depth", {"limit": 100}, 5), ("depth", {"limit": 500}, 10), ("depth", {"limit": 1_000}, 20),
        ("premiumIndex", {}, 1), ("ticker/24hr", {}, 1), ("exchangeInfo", {}, 1), ("openInterest", {}, 1),
        ("rpiDepth", {}, 20), ("constituents", {}, 2), ("tradingSchedule", {}, 5), ("insuranceBalance", {}, 1),
    ],
)  # fmt: skip
async def test_each_request_costs_what_was_measured(path: str, params: dict, weight: int) -> None:
    async with running() as exchange:
        asked = {"symbol": "BTCUSDT", "interval": "1m", **params}
        answer = await exchange.get(path, **asked)
        assert answer.headers["X-MBX-USED-WEIGHT-1M"] == str(weight)


async def test_requests_for_all_symbols_cost_more() -> None:
    async with running() as exchange:
        used = 0
        for path, weight in (("premiumIndex", 10), ("ticker/24hr", 40), ("ticker/price", 2), ("ticker/bookTicker", 5)):
            used += weight
            assert (await exchange.get(path)).headers["X-MBX-USED-WEIGHT-1M"] == str(used)


def test_the_window_is_the_minute_of_the_clock() -> None:
    limits, clock = made(10)
    assert limits.charge("a", WEIGHT, 10) == {"X-MBX-USED-WEIGHT-1M": "10"}
    clock.at_s = 45.2
    with pytest.raises(Refused) as no:
        limits.charge("a", WEIGHT, 1)
    assert no.value.status == 429
    assert no.value.headers["Retry-After"] == "15"
    assert no.value.code == -1003
    clock.at_s = 60
    assert limits.charge("a", WEIGHT, 1) == {"X-MBX-USED-WEIGHT-1M": "1"}


def test_addresses_have_budgets_of_their_own() -> None:
    limits, _ = made(10)
    limits.charge("a", WEIGHT, 10)
    assert limits.charge("b", WEIGHT, 10) == {"X-MBX-USED-WEIGHT-1M": "10"}


def test_who_goes_on_is_banned_and_each_ban_is_longer() -> None:
    limits, clock = made(10)
    lengths = []
    for _ in range(13):
        statuses = []
        while not statuses or statuses[-1] == 429:
            with pytest.raises(Refused) as no:
                limits.charge("a", WEIGHT, 11)
            statuses.append(no.value.status)
        assert statuses == [429] * 20 + [418]
        until = int(re.search(r"banned until (\d+)", no.value.message)[1])
        length = until - limits._clock.now_ms()
        assert no.value.headers["Retry-After"] == str(length // 1_000)
        with pytest.raises(Refused) as again:
            limits.charge("a", FUNDING, 1)
        assert again.value.status == 418
        lengths.append(length // MINUTE)
        clock.at_s += length / 1_000
    assert lengths == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 4_320]


def test_who_waits_is_not_banned() -> None:
    limits, clock = made(10)
    for minute in range(30):
        clock.at_s = minute * 60
        limits.charge("a", WEIGHT, 10)
        for _ in range(3):
            with pytest.raises(Refused) as no:
                limits.charge("a", WEIGHT, 1)
            assert no.value.status == 429


async def test_funding_has_a_bucket_of_its_own_and_no_header() -> None:
    async with running() as exchange:
        for _ in range(500):
            exchange.exchange.limits.charge("127.0.0.1", FUNDING, 1)
        answer = await exchange.get("fundingRate", symbol="BTCUSDT")
        assert answer.status_code == 429
        assert "X-MBX-USED-WEIGHT-1M" not in answer.headers
        assert (await exchange.get("time")).headers["X-MBX-USED-WEIGHT-1M"] == "1"
        await exchange.forward(300)
        answer = await exchange.get("fundingInfo")
        assert answer.status_code == 200
        assert "X-MBX-USED-WEIGHT-1M" not in answer.headers


async def test_statistics_have_a_bucket_of_their_own_and_no_header() -> None:
    async with running() as exchange:
        for _ in range(2):
            answer = await exchange.get("/futures/data/openInterestHist", symbol="BTCUSDT", period="5m")
            assert answer.status_code == 200
            assert "X-MBX-USED-WEIGHT-1M" not in answer.headers
        assert exchange.exchange.limits.used("127.0.0.1") == 0


async def test_over_http_the_budget_ends_in_the_venues_words() -> None:
    async with running(weight_per_minute=40) as exchange:
        for _ in range(2):
            await exchange.rows("aggTrades", symbol="BTCUSDT")
        status, code, message = await exchange.error("time")
        assert (status, code) == (429, -1003)
        assert message.startswith("Too many requests; current limit of IP(127.0.0.1) is 40 requests per minute.")
        for _ in range(20):
            status, code, message = await exchange.error("time")
        assert (status, code) == (418, -1003)
        assert re.fullmatch(r"Way too many requests; IP\(127\.0\.0\.1\) banned until \d{13}\. .*", message)


async def test_retry_after_can_be_withheld_as_the_futures_page_does() -> None:
    async with running(weight_per_minute=1, retry_after=False) as exchange:
        await exchange.get("time")
        answer = await exchange.get("time")
        assert answer.status_code == 429
        assert "Retry-After" not in answer.headers
