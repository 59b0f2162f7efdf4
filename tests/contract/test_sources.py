"""The port Source: REST and archives promise the same, and both give what the exchange truly holds."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.span import Span
from data_manager.domain.time import parse_time
from data_manager.ports.source import Wanted
from tests.past import Past, facts, fetched, past, pieces, rows_of
from tests.simulator.exchange import DAY, HOUR, MINUTE, NOW

TODAY = parse_time("2026-03-05")
SOURCES = ("rest", "archive")


def um(dataset: str, symbol: str = "SOLUSDT", interval: str | None = None) -> Series:
    return Series("um", dataset, symbol, interval)


async def told(one: Past, path: str, **params: Any) -> Any:
    """What the exchange holds, without limits and faults."""
    return await one.exchange.rows(f"/control/truth/fapi/v1/{path}", limit=10**6, **params)


def candle(row: list[Any]) -> dict[str, Any]:
    names = ("open_ms", "open", "high", "low", "close", "volume", "close_ms", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")  # fmt: skip
    return dict(zip(names, row, strict=False)) | {
        "closed": True, "first_trade_id": None, "last_trade_id": None,
    }  # fmt: skip


def aggregate(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "agg_id": row["a"], "price": row["p"], "quantity": row["q"], "plain_quantity": row["nq"], "first_trade_id": row["f"],
        "last_trade_id": row["l"], "traded_ms": row["T"], "buyer_is_maker": row["m"],
    }  # fmt: skip


def trade(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "trade_id": row["id"], "price": row["price"], "quantity": row["qty"], "traded_ms": row["time"],
        "buyer_is_maker": row["isBuyerMaker"], "kind": None,
    }  # fmt: skip


def settlement(row: dict[str, Any]) -> dict[str, Any]:
    slot_ms = row["fundingTime"] // HOUR * HOUR
    return {
        "slot_ms": slot_ms, "rate_type": "Regular", "funding_ms": row["fundingTime"], "funding_rate": row["fundingRate"],
        "mark_price": row["markPrice"] or None,
    }  # fmt: skip


def same(rows: list[dict[str, Any]], truth: list[dict[str, Any]], unknown: tuple[str, ...] = ()) -> None:
    """Equal by value: files drop zeros at the end. unknown: columns the source does not tell."""

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {name: Decimal(value) if isinstance(value, str) and value[-1:].isdigit() else value for name, value in row.items() if name not in unknown}  # fmt: skip

    assert list(map(plain, rows)) == list(map(plain, truth))


# source, series, span, the endpoint that tells the truth, what its rows mean, columns the source does not know
CASES: list[tuple[str, Series, int, int, str, Callable[[Any], dict[str, Any]], tuple[str, ...]]] = [
    ("rest", um("candle", interval="1m"), NOW - 2 * DAY - 7_777, NOW, "klines", candle, ()),
    ("rest", um("candle", interval="1w"), NOW - 90 * DAY, NOW, "klines", candle, ()),
    ("rest", um("agg_trade"), NOW - 3 * HOUR, NOW - 1_234, "aggTrades", aggregate, ()),
    ("rest", um("trade"), NOW - 40 * MINUTE, NOW - MINUTE, "historicalTrades", trade, ()),
    ("rest", um("funding_rate"), NOW - 90 * DAY, NOW, "fundingRate", settlement, ()),
    ("archive", um("candle", interval="5m"), TODAY - 40 * DAY + 1, NOW, "klines", candle, ()),
    ("archive", um("candle", "币安人生USDT", "1h"), TODAY - 2 * DAY, TODAY, "klines", candle, ()),
    ("archive", um("agg_trade"), TODAY - DAY - HOUR, TODAY - 20 * HOUR, "aggTrades", aggregate, ("plain_quantity",)),
    ("archive", um("trade"), TODAY - 2 * HOUR, TODAY, "historicalTrades", trade, ()),
    ("archive", um("funding_rate"), NOW - 90 * DAY, NOW, "fundingRate", settlement, ("mark_price",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "series", "start_ms", "end_ms", "path", "meaning", "unknown"),
    CASES,
    ids=[f"{case[0]}-{case[1]}" for case in CASES],
)
async def test_what_is_offered_is_what_the_exchange_holds(
    tmp_path: Path, name: str, series: Series, start_ms: int, end_ms: int, path: str,
    meaning: Callable[[Any], dict[str, Any]], unknown: tuple[str, ...],
) -> None:  # fmt: skip
    async with past(tmp_path, series.symbol) as one:
        answer = await fetched(one.source(name), series, start_ms, end_ms, one.now_ms)
        covered = Span(answer[0].span.start_ms, answer[-1].span.end_ms)
        assert covered.start_ms == start_ms
        rows = facts(rows_of(answer))
        asked: dict[str, Any] = {"symbol": series.symbol, "startTime": start_ms - HOUR, "endTime": end_ms + HOUR}
        if series.interval:
            asked["interval"] = series.interval
        if path == "historicalTrades":
            asked = {"symbol": series.symbol, "fromId": rows[0]["trade_id"] - 50}
        truth = [meaning(row) for row in await told(one, path, **asked)]
        time = DATASETS[series.dataset].time
        same(rows, [row for row in truth if covered.holds(row[time])], unknown)
        assert len(rows) > 10
        assert not any(piece.refused for piece in answer)
        assert not one.downloads.exists() or list(one.downloads.iterdir()) == []


@pytest.mark.parametrize("name", SOURCES)
async def test_mark_prices_come_by_the_minute_and_say_so(tmp_path: Path, name: str) -> None:
    async with past(tmp_path, "BTCUSDT") as one:
        series, start_ms = um("mark_price", "BTCUSDT"), TODAY - 2 * HOUR
        offers = one.offers(one.source(name), series, start_ms, TODAY)
        assert [offer.coarse for offer in offers] == [True]
        rows = facts(rows_of(await fetched(one.source(name), series, start_ms, TODAY, one.now_ms)))
        asked = {"interval": "1m", "startTime": start_ms, "endTime": TODAY - 1}
        marks = await told(one, "markPriceKlines", symbol="BTCUSDT", **asked)
        indexes = await told(one, "indexPriceKlines", pair="BTCUSDT", **asked)
        found = [(row["event_ms"], Decimal(row["mark_price"]), Decimal(row["index_price"])) for row in rows]
        assert found == [
            (mark[6], Decimal(mark[4]), Decimal(index[4])) for mark, index in zip(marks, indexes, strict=True)
        ]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("dataset", ["candle", "agg_trade", "funding_rate"])
async def test_offers_are_disjoint_in_order_inside_what_is_wanted_and_may_be_cut(
    tmp_path: Path, name: str, dataset: str
) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        series = um(dataset, interval="1h" if dataset == "candle" else None)
        source = one.source(name)
        days = 5 if dataset == "agg_trade" else 100
        wanted = Wanted(series=series, span=Span(NOW - days * DAY + 1, NOW + DAY))
        offers = source.offers(wanted, one.now_ms)
        assert offers
        edges = [edge for offer in offers for edge in (offer.span.start_ms, offer.span.end_ms)]
        assert edges == sorted(edges)
        assert wanted.span.start_ms <= edges[0]
        assert edges[-1] <= NOW, "nothing that is to come"
        assert all(offer.seconds > 0 and offer.call in DATASETS[dataset].refill for offer in offers)
        cut = min(offers, key=lambda offer: offer.span.end_ms - offer.span.start_ms)
        middle = (cut.span.start_ms + cut.span.end_ms) // 2
        part = type(cut)(call=cut.call, span=Span(middle, min(middle + 3 * HOUR, cut.span.end_ms)), seconds=1)
        whole = rows_of(await pieces(source, Wanted(series=series, span=cut.span), cut))
        some = rows_of(await pieces(source, Wanted(series=series, span=cut.span), part))
        inside = (whole.time_ms >= part.span.start_ms) & (whole.time_ms < part.span.end_ms)
        assert facts(some) == facts(whole.take(inside))


@pytest.mark.parametrize("name", SOURCES)
async def test_who_leaves_early_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    async with past(tmp_path, "SOLUSDT", activity=20) as one:
        series, source = um("candle", interval="1m"), one.source(name)
        wanted = Wanted(series=series, span=Span(TODAY - 9 * DAY, TODAY))
        [offer] = source.offers(wanted, one.now_ms)
        answer: Any = source.fetch(wanted, offer, "")
        first = await anext(answer)
        assert str(first.rows.columns["origin"].words[0]).startswith(offer.call)
        await answer.aclose()
        assert not one.downloads.exists() or list(one.downloads.iterdir()) == []


@pytest.mark.parametrize("name", SOURCES)
async def test_what_is_not_there_is_said_with_proof(tmp_path: Path, name: str) -> None:
    """A true hole, and the time before the listing: no rows, an answer that says so, and no request for every page."""
    async with past(tmp_path, "SOLUSDT") as one:
        gone = Span(TODAY - DAY, TODAY - DAY + 30 * HOUR if name == "rest" else TODAY)
        await one.exchange.fault("missing", dataset="klines", from_ms=gone.start_ms, until_ms=gone.end_ms)
        series = um("candle", interval="1m")
        answer = await fetched(one.source(name), series, TODAY - 2 * DAY, NOW, one.now_ms)
        opens = rows_of(answer).key
        assert not ((opens >= gone.start_ms) & (opens < gone.end_ms)).any()
        assert (np.diff(opens) == MINUTE).sum() == len(opens) - (2 if name == "rest" else 1)
        empty = [piece for piece in answer if gone.start_ms <= piece.span.start_ms and piece.span.end_ms <= gone.end_ms]
        assert empty
        assert all(piece.evidence["rows"] == 0 for piece in empty)
        requests = one.rest.facts()["um"]["requests"]
        listed = parse_time("2020-09-14")
        early = await fetched(one.source(name), series, listed - 400 * DAY, listed - DAY, one.now_ms)
        assert len(rows_of(early)) == 0
        assert int(one.rest.facts()["um"]["requests"] or 0) - int(requests or 0) <= 12


async def test_rows_around_a_hole_are_not_asked_for_again(tmp_path: Path) -> None:
    """Ids of the neighbours that are held: rows strictly between them come, in the first and last instant too."""
    async with past(tmp_path, "BTCUSDT") as one:
        series, start_ms = um("agg_trade", "BTCUSDT"), TODAY - HOUR
        every = rows_of(await fetched(one.rest, series, start_ms, TODAY, one.now_ms))
        ids, times = every.key.tolist(), every.time_ms.tolist()
        shared = [at for at in range(100, len(ids) - 1) if times[at] == times[at + 1]]
        low, high = shared[0], shared[-1] + 1
        keys = {"after": ids[low], "before": ids[high]}
        hole = Span(times[low], times[high] + 1)
        for name in SOURCES:
            answer = await fetched(one.source(name), series, hole.start_ms, hole.end_ms, one.now_ms, **keys)
            assert rows_of(answer).key.tolist() == ids[low + 1 : high]
