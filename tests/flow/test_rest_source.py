"""The REST source under limits, refusals and trouble: what the venue asks for is done, and nothing is made up."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadSetting, NotFound, Throttled, Unavailable
from data_manager.domain.span import Span
from data_manager.domain.time import parse_time
from data_manager.ports.source import Offer, Wanted
from tests.conftest import eventually
from tests.past import Past, fetched, past, pieces, rows_of
from tests.simulator.exchange import DAY, HOUR, MINUTE, NOW

CANDLES = Series("um", "candle", "SOLUSDT", "1m")
AGGREGATES = Series("um", "agg_trade", "SOLUSDT")


@asynccontextmanager
async def time_passing(one: Past, *, speed: float = 60.0) -> AsyncIterator[list[tuple[int, int]]]:
    """Within, the exchange's clock runs that fast. Minutes that went by, each with the weight used in it by then."""
    seen: list[tuple[int, int]] = []

    async def run() -> None:
        while True:
            await asyncio.sleep(0.005)
            one.exchange.clock.at_s += 0.005 * speed
            seen.append((one.now_ms // MINUTE, one.exchange.exchange.limits.used("127.0.0.1")))

    task = asyncio.create_task(run())
    try:
        yield seen
    finally:
        task.cancel()


def by_minute(seen: list[tuple[int, int]]) -> dict[int, int]:
    """The most weight that was used in each minute."""
    used: dict[int, int] = {}
    for minute, weight in seen:
        used[minute] = max(used.get(minute, 0), weight)
    return used


async def asked(one: Past, start_ms: int, end_ms: int, series: Series = CANDLES) -> Any:
    return await fetched(one.rest, series, start_ms, end_ms, one.now_ms)


def facts(one: Past) -> Any:
    return one.rest.facts()["um"]


async def test_the_budget_is_spent_and_never_overdrawn(tmp_path: Path) -> None:
    """60 % of the venue's limit in every minute of its clock, with one another's requests, and 0.9 of that is pages."""
    async with past(tmp_path, "SOLUSDT", weight_per_minute=100) as one:
        await one.rest.listing(CANDLES)  # the limit is told there
        assert facts(one)["weight_ceiling"] == 60
        one.exchange.clock.at_s += 60 - (NOW // 1_000) % 60  # a fresh minute
        async with time_passing(one, speed=120) as seen:
            answer = await asked(one, NOW - 45 * DAY, NOW - DAY)
        assert len(rows_of(answer)) == 44 * 1_440
        used = by_minute(seen)
        assert max(used.values()) <= 60
        assert facts(one)["halts"] == 0
        whole = [weight for minute, weight in used.items() if min(used) < minute < max(used)]
        assert len(whole) >= 3
        assert sum(whole) >= 0.9 * 60 * len(whole), "two weights a page: so many pages of what could be had"


async def test_what_others_use_of_our_address_counts(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT", weight_per_minute=100) as one:
        one.exchange.clock.at_s += 60 - (NOW // 1_000) % 60
        await one.rest.listing(CANDLES)
        await asked(one, NOW - HOUR, NOW - MINUTE)
        for _ in range(6):  # somebody else, up to our ceiling
            await one.exchange.rows("klines", symbol="SOLUSDT", interval="1m", limit=1_500)
        async with time_passing(one, speed=120) as seen:
            await asked(one, NOW - 13 * DAY, NOW - 2 * DAY)
        assert max(by_minute(seen).values()) <= 60 + 3 + 6 * 2, "pages on their way before the header told"
        assert facts(one)["halts"] == 0
        assert facts(one)["waited_s"] > 10


async def test_a_refusal_stops_every_request_until_the_moment_it_names(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        await asked(one, NOW - HOUR, NOW - MINUTE)
        await one.exchange.fault("status", status=429, retry_after_s=20, paths="*/klines")
        before = facts(one)["requests"]
        both = [
            asyncio.create_task(asked(one, NOW - 2 * HOUR, NOW - HOUR)),
            asyncio.create_task(asked(one, NOW - DAY, NOW - HOUR, Series("um", "funding_rate", "SOLUSDT"))),
        ]
        while facts(one)["halts"] == 0:
            await asyncio.sleep(0.005)
        sent = facts(one)["requests"]
        assert sent <= before + 2
        await one.exchange.mend()
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert facts(one)["requests"] == sent, "nothing goes out meanwhile, not to other routes either"
        async with time_passing(one):
            answers = await asyncio.gather(*both)
        assert len(rows_of(answers[0])) == 60
        assert facts(one)["waited_s"] >= 15


@pytest.mark.parametrize("tells", [True, False])
async def test_a_ban_is_obeyed_to_the_millisecond_it_names(tmp_path: Path, tells: bool) -> None:
    """With Retry-After or with nothing but the text; nobody waits for it, everybody is told how long it lasts."""
    async with past(tmp_path, "SOLUSDT", retry_after=tells) as one:
        words = {"retry_after_s": 600} if tells else {}
        await one.exchange.fault("status", status=418, paths="*/klines", **words)
        with pytest.raises(Throttled, match="banned") as caught:
            await asked(one, NOW - HOUR, NOW - MINUTE)
        least_s = 600 if tells else 120
        assert least_s - 1 <= caught.value.retry_after_s <= least_s
        await one.exchange.mend()
        sent = facts(one)["requests"]
        with pytest.raises(Throttled):
            await asked(one, NOW - HOUR, NOW - MINUTE, AGGREGATES)
        assert facts(one)["requests"] == sent
        assert facts(one)["halted_s"] > 100
        [offer] = one.offers(one.rest, CANDLES, NOW - HOUR, NOW)
        assert offer.seconds > 100, "a plan takes that into account"
        one.exchange.clock.at_s += least_s + 1
        assert len(rows_of(await asked(one, NOW - HOUR, NOW - MINUTE))) == 59


@pytest.mark.parametrize("dataset", ["candle", "agg_trade", "trade", "funding_rate", "mark_price"])
async def test_pages_cut_short_lose_nothing(tmp_path: Path, dataset: str) -> None:
    async with past(tmp_path, "SOLUSDT", weight_per_minute=100_000) as one:
        series = Series("um", dataset, "SOLUSDT", "1m" if dataset == "candle" else None)
        await one.rest.listing(series)
        span = (NOW - 40 * DAY, NOW) if dataset == "funding_rate" else (NOW - 20 * MINUTE, NOW - 3_000)
        whole = rows_of(await asked(one, *span, series))
        await one.exchange.fault("short", rows=17)
        cut = rows_of(await asked(one, *span, series))
        assert len(whole) >= 19
        assert cut.key.tolist() == whole.key.tolist()


async def test_what_passes_is_tried_again_and_what_does_not_rises(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        for passing in ({"status": 503}, {"status": 408}, {"status": 500}):
            fault = await one.exchange.fault("status", share=0.4, **passing)
            assert len(rows_of(await asked(one, NOW - 5 * DAY, NOW - 4 * DAY))) == 1_440
            await one.exchange.client.delete(f"/control/faults/{fault}")
        await one.exchange.fault("truncate", share=0.4)
        assert len(rows_of(await asked(one, NOW - 5 * DAY, NOW - 4 * DAY))) == 1_440
        assert facts(one)["failures"] > 2
        await one.exchange.mend()
        for status, words in ((403, "firewall"), (451, "location")):
            await one.exchange.fault("status", status=status)
            sent = facts(one)["requests"]
            with pytest.raises(Unavailable, match=words) as caught:
                await asked(one, NOW - HOUR, NOW - MINUTE)
            assert caught.value.retry_after_s >= 300
            assert facts(one)["requests"] == sent + 1, "asking again at once would make it worse"
            assert facts(one)["state"] == "open"
            await one.exchange.mend()
        assert len(rows_of(await asked(one, NOW - HOUR, NOW - MINUTE))) == 59
        assert facts(one)["state"] == "closed"


async def test_each_market_is_asked_at_its_own_address_only(tmp_path: Path) -> None:
    """No fallback: what is not there is not asked for elsewhere, and an address that is wrong is named."""
    async with past(tmp_path, "SOLUSDT", access={"spot": "http://127.0.0.1:9"}) as one:
        with pytest.raises(Unavailable, match=re.escape("127.0.0.1:9")):
            await asked(one, NOW - HOUR, NOW - MINUTE, Series("spot", "candle", "SOLUSDT", "1m"))
        assert one.exchange.exchange.limits.used("127.0.0.1") == 0
    async with past(tmp_path, "SOLUSDT") as one, past(tmp_path, access={"cm": one.exchange.address}) as other:
        with pytest.raises(BadSetting, match="BINANCE_DAPI_BASE_URL") as caught:
            await asked(other, NOW - HOUR, NOW - MINUTE, Series("cm", "candle", "SOLUSD_PERP", "1m"))
        assert one.exchange.address in str(caught.value)


async def test_a_venue_that_tells_no_time_is_asked_all_the_same(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        await one.exchange.fault("status", paths="*/time", status=404)
        assert len(rows_of(await asked(one, NOW - HOUR, NOW - MINUTE))) == 59


async def test_a_symbol_that_the_venue_does_not_know_is_not_absent_but_unknown(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        with pytest.raises(NotFound, match="-1121"):
            await asked(one, NOW - HOUR, NOW - MINUTE, Series("um", "candle", "NOSUCHUSDT", "1m"))
        assert await one.rest.listing(Series("um", "candle", "NOSUCHUSDT", "1m")) is None
        known = [
            await one.rest.knows(Series(*words))
            for words in (("um", "trade", "NOSUCHUSDT"), ("um", "trade", "SOLUSDT"))
        ]
        assert known == [False, True]


@pytest.mark.parametrize("ours_ahead_s", [0, 90, -90])
async def test_an_open_candle_is_never_a_closed_one(tmp_path: Path, ours_ahead_s: int) -> None:
    """Whichever clock is wrong. Nothing is made up for the minute that cannot be had yet."""
    async with past(tmp_path, "SOLUSDT") as one:
        await one.exchange.fault("skew", skew_ms=-1_000 * ours_ahead_s)  # to the source its own clock is off
        if ours_ahead_s > 0:
            await one.rest.listing(CANDLES)  # it has read the venue's clock by now
        offers = one.offers(one.rest, CANDLES, NOW - HOUR, NOW + HOUR)
        rows = rows_of([piece for offer in offers for piece in await pieces(one.rest, Wanted(series=CANDLES, span=Span(NOW - HOUR, NOW + HOUR)), offer)])  # fmt: skip
        last_ms = int(rows.columns["close_ms"].values_list()[-1])
        assert last_ms < NOW - max(0, ours_ahead_s) * 1_000
        assert last_ms > NOW - 2 * MINUTE - abs(ours_ahead_s) * 1_000
        open_ms = NOW // MINUTE * MINUTE
        offer = Offer(call="rest:klines", span=Span(open_ms - MINUTE, open_ms + MINUTE), seconds=1)
        with pytest.raises(Unavailable, match="not closed yet"):
            await pieces(one.rest, Wanted(series=CANDLES, span=offer.span), offer)


async def test_only_what_lies_behind_the_walls_is_offered(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        wall_ms = NOW - 48 * HOUR
        [offer] = one.offers(one.rest, AGGREGATES, NOW - 9 * DAY, NOW)
        assert wall_ms < offer.span.start_ms < wall_ms + HOUR
        rows = rows_of(await pieces(one.rest, Wanted(series=AGGREGATES, span=Span(NOW - 9 * DAY, NOW)), Offer(call=offer.call, span=Span(offer.span.start_ms, offer.span.start_ms + HOUR), seconds=1)))  # fmt: skip
        assert len(rows) > 100
        assert one.offers(one.rest, AGGREGATES, NOW - 9 * DAY, wall_ms) == []
        beyond = Offer(call=offer.call, span=Span(wall_ms - DAY, wall_ms - DAY + HOUR), seconds=1)
        with pytest.raises(Unavailable, match="further back"):
            await pieces(one.rest, Wanted(series=AGGREGATES, span=beyond.span), beyond)
        trades = Series("um", "trade", "SOLUSDT")
        month = NOW - 29 * DAY
        assert one.offers(one.rest, trades, month, month + HOUR) == []  # no id is known there
        [known] = one.offers(one.rest, trades, month, month + HOUR, after=17)
        assert known.call == "rest:historicalTrades"
    async with past(tmp_path, "SOLUSDT", api_key=None) as one:
        assert one.offers(one.rest, Series("um", "trade", "SOLUSDT"), NOW - HOUR, NOW) == []
        assert one.offers(one.rest, Series("um", "depth", "SOLUSDT"), NOW - HOUR, NOW) == []


async def test_what_a_listing_says(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT", "OMGUSDT", weight_per_minute=3_000) as one:
        life = await one.rest.life_of(CANDLES)
        assert life is not None
        assert (life.life.listed_ms, life.life.delisted_ms) == (parse_time("2020-09-14T07:00:00Z"), None)
        settled = await one.rest.listing(Series("um", "candle", "OMGUSDT", "1m"))
        assert settled is not None
        assert settled.delivery_ms == parse_time("2025-01-31T09:00:00Z")
        assert settled.status == "SETTLING"
        assert settled.funding_interval_ms == 8 * HOUR
        assert facts(one)["weight_ceiling"] == 1_800, "the venue's limit is the one it tells"
        requests = facts(one)["requests"]
        await one.rest.listing(CANDLES)
        assert facts(one)["requests"] == requests, "kept for an hour"


async def test_funding_has_a_bucket_of_its_own(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT", access={"ceiling_percent": 1.0}) as one:
        series = Series("um", "funding_rate", "SOLUSDT")
        asked_for = [asyncio.create_task(asked(one, NOW - DAY, NOW - 245 * MINUTE, series)) for _ in range(7)]
        await eventually(lambda: sum(task.done() for task in asked_for) == 5)  # 1 % of 500 requests in 5 minutes
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert sum(task.done() for task in asked_for) == 5
        assert len(rows_of(await asked(one, NOW - HOUR, NOW - MINUTE))) == 59, "candles do not wait for that"
        async with time_passing(one, speed=600):
            await asyncio.gather(*asked_for)
