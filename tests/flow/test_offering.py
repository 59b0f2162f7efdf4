"""What nobody can be asked for is refused when it is asked: by what the venue's own sources offer; none is asked."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from data_manager.adapters.binance.sources import Access, open_archive, open_rest
from data_manager.api.app import create_app
from data_manager.domain.dataset import parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.job import Choice
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, parse_time
from data_manager.ports.source import Source
from data_manager.services.backfilling.asking import Names
from data_manager.services.backfilling.offering import require_offer
from tests.flow.test_api import listening
from tests.flow.test_backfill_api import components
from tests.fresh_meta import fresh_meta
from tests.memory import MemoryStore
from tests.past import MemoryDigests
from tests.source import SetClock

NOW_MS = parse_time("2026-03-05T07:00:00Z")  # yesterday's files are not out yet
DAY = Span(parse_time("2026-01-05"), parse_time("2026-01-06"))
YESTERDAY = Span(parse_time("2026-03-04"), parse_time("2026-03-05"))
EARLY = Span(parse_time("2015-01-01"), parse_time("2015-02-01"))


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[list[Source]]:
    clock = SetClock(NOW_MS)
    both = [open_rest(Access(), clock), open_archive(Access(), clock, MemoryDigests(), tmp_path)]
    yield both
    for one in both:
        await one.close()


def refused(sources: list[Source], series: str, span: Span = DAY, choice: Choice = "auto") -> tuple[str, str] | None:
    """The field that is refused and the rule; None where it can be asked for."""
    try:
        require_offer(sources, parse_series(series, DATASETS, "um"), span, NOW_MS, choice, Names())
    except BadQuery as error:
        return error.field, error.rule
    return None


def test_what_every_market_has(sources: list[Source]) -> None:
    words = ("candle.{}.1M", "candle.{}.1m", "candle.{}.3d", "trade.{}", "agg_trade.{}")
    futures = ("funding_rate.{}", "mark_price.{}")
    for market, symbol in (("um", "1000PEPEUSDT"), ("um", "币安人生USDT"), ("cm", "BTCUSD_PERP"), ("spot", "BTCUSDT")):
        for word in words if market == "spot" else (*words, *futures):
            assert refused(sources, f"{market}.{word.format(symbol)}") is None
    rule = "nobody can be asked for its past in market spot: possible there are trades agg_trades candles"
    for word in futures:
        assert refused(sources, f"spot.{word.format('BTCUSDT')}") == ("data_type", rule)


def test_what_is_not_there_now(sources: list[Source]) -> None:
    for series, span, choice, field, rule in (
        ("um.trade.BTCUSDT", YESTERDAY, "auto", "start_time", "2019-12-31T00:00:00.000Z to 2026-03-04T00:00:00.000Z"),
        ("um.trade.BTCUSDT", YESTERDAY, "rest", "start_time", "2019-12-31T00:00:00.000Z to 2026-03-04T00:00:00.000Z"),
        ("um.agg_trade.BTCUSDT", DAY, "rest", "source", "ask archive"),
        ("um.agg_trade.BTCUSDT", EARLY, "auto", "start_time", "possible is 2019-12-31T00:00:00.000Z to "),
        ("um.candle.BTCUSDT.1m", YESTERDAY, "archive", "source", "ask rest"),
        ("spot.candle.BTCUSDT.1m", EARLY, "archive", "source", "ask rest"),
        ("cm.funding_rate.BTCUSD_PERP", YESTERDAY, "archive", "source", "ask rest"),
    ):
        told = refused(sources, series, span, choice)
        assert told is not None, series
        assert (told[0], rule in told[1]) == (field, True), told


def test_a_part_that_somebody_has_is_enough(sources: list[Source]) -> None:
    assert refused(sources, "um.trade.BTCUSDT", Span(YESTERDAY.start_ms - DAY_MS, NOW_MS - HOUR_MS)) is None


async def test_over_http_it_is_422_and_no_job(tmp_path: Path, sources: list[Source]) -> None:
    asked = {"data_type": "funding", "symbol": "BTCUSDT", "start_time": "2026-01-05", "end_time": "2026-01-06"}
    async with fresh_meta(tmp_path) as meta:
        made = replace(components(meta, MemoryStore(), SetClock(NOW_MS), sources=sources), market="spot")
        async with listening(create_app(made)) as client:
            answer = await client.post("/backfill/start", json=asked)
        assert (answer.status_code, "possible there are" in answer.text) == (422, True), answer.text
        assert await meta.jobs(limit=1) == ([], 0)
