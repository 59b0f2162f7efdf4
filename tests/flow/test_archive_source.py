"""The archive source against files that are late, absent, broken, out of order, or published again."""

from pathlib import Path
from typing import Any

import pytest

from data_manager.adapters.binance.sources import Access, open_archive
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.dataset import Series
from data_manager.domain.errors import BadSetting, Corrupt, Unavailable
from data_manager.domain.span import Span
from data_manager.domain.time import parse_time
from data_manager.ports.source import Fetched, Offer, Wanted
from tests.past import MemoryDigests, Past, facts, fetched, past, pieces, rows_of
from tests.simulator.exchange import DAY, HOUR, MINUTE, NOW

TODAY = parse_time("2026-03-05")
CANDLES = Series("um", "candle", "SOLUSDT", "1m")
AGGREGATES = Series("um", "agg_trade", "SOLUSDT")
JANUARY = Span(parse_time("2026-01-01"), parse_time("2026-02-01"))


async def asked(one: Past, series: Series, start_ms: int, end_ms: int) -> list[Fetched]:
    return await fetched(one.archive, series, start_ms, end_ms, one.now_ms)


def left_behind(one: Past) -> list[Path]:
    return list(one.downloads.iterdir()) if one.downloads.exists() else []


@pytest.mark.parametrize("kind", ["checksum", "cut"])
async def test_a_checksum_that_does_not_fit_is_fatal(tmp_path: Path, kind: str) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        await one.exchange.fault(kind, paths="*2026-03-03.zip")
        wanted = Wanted(series=AGGREGATES, span=Span(TODAY - 3 * DAY, TODAY))
        [offer] = one.archive.offers(wanted, one.now_ms)
        reached_ms = 0
        with pytest.raises(Corrupt, match=r"SOLUSDT-aggTrades-2026-03-03\.zip: its SHA-256") as caught:
            async for piece in one.archive.fetch(wanted, offer, "job:1"):
                reached_ms = piece.span.end_ms
        assert reached_ms == TODAY - 2 * DAY, "the day before, whole, and nothing of that one"
        evidence = caught.value.evidence
        assert evidence["file"] == "SOLUSDT-aggTrades-2026-03-03.zip"
        assert evidence["promised"] != evidence["sha256"]
        assert not any("03-03" in path for path in one.digests.held)
        assert left_behind(one) == []


async def test_files_out_of_order_doubled_without_header_in_microseconds_give_the_same_rows(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        for series in (AGGREGATES, CANDLES, Series("um", "trade", "SOLUSDT")):
            span = (TODAY - 5 * HOUR, TODAY - HOUR)
            plain = await asked(one, series, *span)
            faults = [await one.exchange.fault(kind) for kind in ("interleaved", "doubled", "header", "micro")]
            odd = await asked(one, series, *span)
            assert facts(rows_of(odd)) == facts(rows_of(plain))
            assert sum(int(piece.evidence.get("repeated") or 0) for piece in odd) == len(rows_of(plain))
            assert {piece.evidence.get("republished") for piece in odd} == {plain[0].evidence["sha256"]}
            for fault in faults:
                await one.exchange.client.delete(f"/control/faults/{fault}")


async def test_a_file_published_again_is_told_and_its_rows_are_revisions(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        store = EmbeddedStore(tmp_path / "store", 1 << 24)
        span = (TODAY - DAY, TODAY)
        first = await asked(one, CANDLES, *span)
        again = await asked(one, CANDLES, *span)
        assert "republished" not in first[0].evidence
        assert "republished" not in again[0].evidence
        await one.exchange.fault("altered", dataset="klines", how="tick", from_ms=TODAY - HOUR, until_ms=TODAY)
        revised = await asked(one, CANDLES, *span)
        assert revised[0].evidence["republished"] == first[0].evidence["sha256"]
        old, new = facts(rows_of(first)), facts(rows_of(revised))
        assert [row["open_ms"] for row, other in zip(old, new, strict=True) if row["close"] != other["close"]] == [
            TODAY - HOUR + minute * MINUTE for minute in range(60)
        ]
        part = await asked(one, CANDLES, TODAY - HOUR, TODAY)
        assert "republished" not in part[0].evidence, "told until all of it was asked for"
        receipts = [await store.append(rows_of(answer)) for answer in (first, again, revised, part, first)]
        assert [(one.new, one.changed, one.duplicate) for one in receipts] == [
            (1_440, 0, 0), (0, 0, 1_440), (0, 60, 1_380), (0, 0, 60), (0, 0, 1_440),
        ]  # fmt: skip
        assert facts(await store.scan(CANDLES))[-1]["close"] == new[-1]["close"]
        await store.close()


async def test_a_month_that_lacks_days_is_completed_by_those_days(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT", activity=0.1) as one:
        whole = facts(rows_of(await asked(one, CANDLES, JANUARY.start_ms, JANUARY.end_ms)))
        assert len(whole) == 31 * 1_440
        lost = [(3, 2 * DAY), (17, HOUR), (30, DAY)]  # two whole days, an hour, the last day
        for day, length_ms in lost:
            from_ms = JANUARY.start_ms + day * DAY
            await one.exchange.fault("missing", paths="*/monthly/*", from_ms=from_ms, until_ms=from_ms + length_ms)
        [piece] = await asked(one, CANDLES, JANUARY.start_ms, JANUARY.end_ms)
        assert facts(piece.rows) == whole
        assert piece.evidence["completed_by_days"] == 4
        words = {str(word).rsplit(" ", 1)[1] for word in piece.rows.columns["origin"].values_list()}
        assert "SOLUSDT-1m-2026-01-04.zip" in words
        assert "SOLUSDT-1m-2026-01.zip" in words


async def test_a_month_that_is_not_there_comes_from_its_days_and_a_day_from_its_month(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT", activity=0.1) as one:
        span = (JANUARY.start_ms + 5 * DAY, JANUARY.start_ms + 11 * DAY)
        whole = facts(rows_of(await asked(one, CANDLES, *span)))
        month = await one.exchange.fault("absent", paths="*/monthly/*")
        assert facts(rows_of(await asked(one, CANDLES, *span))) == whole
        await one.exchange.client.delete(f"/control/faults/{month}")
        trades = Series("um", "trade", "SOLUSDT")
        day = (span[0], span[0] + 4 * HOUR)
        fills = facts(rows_of(await asked(one, trades, *day)))
        await one.exchange.fault("absent", paths="*/daily/*")
        assert facts(rows_of(await asked(one, trades, *day))) == fills
        await one.exchange.fault("absent")
        for series in (CANDLES, trades):
            answer = await asked(one, series, *span)
            assert sum(len(piece.rows) for piece in answer) == 0
            assert all(piece.evidence["status"] == 404 for piece in answer)
            assert len(answer) <= 6


async def test_before_a_listing_a_month_is_not_asked_for_by_the_day(tmp_path: Path) -> None:
    """SOLUSDT was listed on 14 September 2020: the days before that are asked for back from it until one is not there."""
    async with past(tmp_path, "SOLUSDT") as one:
        listed = parse_time("2020-09-14")
        answer = await asked(one, Series("um", "candle", "SOLUSDT", "1h"), listed - 100 * DAY, listed + 17 * DAY)
        rows = rows_of(answer)
        assert int(rows.key[0]) == listed + 7 * HOUR
        assert len(rows) == 17 * 24 - 7
        assert len(one.digests.held) <= 3, "the month, and the day of the listing, which is short"


async def test_what_is_not_out_yet_is_not_offered_and_what_is_late_is_no_absence(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT", start_ms=TODAY + 8 * HOUR) as one:
        [offer] = one.offers(one.archive, AGGREGATES, TODAY - 2 * DAY, NOW)
        assert offer.span == Span(TODAY - 2 * DAY, TODAY - DAY)
        assert one.offers(one.archive, AGGREGATES, TODAY - HOUR, NOW) == []
        assert one.offers(one.archive, Series("um", "funding_rate", "SOLUSDT"), TODAY - DAY, NOW) == []
        one.exchange.clock.at_s += 3_600
        [offer] = one.offers(one.archive, AGGREGATES, TODAY - 2 * DAY, NOW)
        assert offer.span.end_ms == TODAY
        await one.exchange.fault("absent", paths="*2026-03-04.zip")
        with pytest.raises(Unavailable, match="not published yet") as caught:
            await asked(one, AGGREGATES, TODAY - HOUR, TODAY)
        assert caught.value.retry_after_s >= 600
        one.exchange.clock.at_s += 3 * 86_400
        [piece] = await asked(one, AGGREGATES, TODAY - HOUR, TODAY)
        assert (len(piece.rows), piece.evidence["status"]) == (0, 404)


async def test_an_archive_that_is_away_or_not_there(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        await one.exchange.fault("page")
        with pytest.raises(Unavailable, match="a page instead"):
            await asked(one, AGGREGATES, TODAY - HOUR, TODAY)
        await one.exchange.mend()
        await one.exchange.fault("outage", where=["archive"], end_ms=one.now_ms + 1_000)
        with pytest.raises(Unavailable, match="503"):
            await asked(one, AGGREGATES, TODAY - HOUR, TODAY)
        one.exchange.clock.at_s += 1
        assert len(rows_of(await asked(one, AGGREGATES, TODAY - HOUR, TODAY))) > 100
        # Somebody else's 404 proves nothing.
        wrong = open_archive(Access(archive=f"{one.exchange.address}/elsewhere"), one.exchange.exchange.clock, MemoryDigests(), tmp_path)  # fmt: skip
        with pytest.raises(BadSetting, match="BINANCE_ARCHIVE_BASE_URL"):
            await fetched(wrong, AGGREGATES, TODAY - HOUR, TODAY, one.now_ms)
        await wrong.close()
        (tmp_path / "file").write_text("")
        full = open_archive(Access(archive=one.exchange.address), one.exchange.exchange.clock, MemoryDigests(), tmp_path / "file")  # fmt: skip
        with pytest.raises(Unavailable, match="cannot take downloads"):
            await fetched(full, AGGREGATES, TODAY - HOUR, TODAY, one.now_ms)
        await full.close()


async def test_ten_years_are_months_first_and_then_days(tmp_path: Path) -> None:
    async with past(tmp_path, "SOLUSDT") as one:
        first, months, days = one.offers(one.archive, Series("um", "candle", "SOLUSDT", "1d"), NOW - 3_650 * DAY, NOW)
        assert first.span.start_ms == parse_time("2019-12-31"), "there is nothing before"
        assert months.span == Span(parse_time("2020-01-01"), parse_time("2026-02-01"))
        assert days.span == Span(months.span.end_ms, TODAY)
        assert one.offers(one.archive, Series("um", "candle", "SOLUSDT", "1w"), NOW - 400 * DAY, NOW)[-1].span.end_ms == months.span.end_ms  # fmt: skip
        trades = one.offers(one.archive, Series("um", "trade", "SOLUSDT"), NOW - 3_650 * DAY, NOW)
        assert [offer.span.end_ms for offer in trades] == [TODAY]
        spot = one.offers(one.archive, Series("spot", "candle", "SOLUSDT", "1d"), NOW - 3_650 * DAY, NOW)
        assert spot[0].span.start_ms == parse_time("2017-08-01")
        assert one.offers(one.archive, Series("spot", "mark_price", "SOLUSDT"), NOW - 9 * DAY, NOW) == []
        part = Offer(call="archive:klines", span=Span(months.span.end_ms - DAY, months.span.end_ms + DAY), seconds=1)
        wanted: Any = Wanted(series=Series("um", "candle", "SOLUSDT", "1d"), span=part.span)
        assert len(rows_of(await pieces(one.archive, wanted, part))) == 2
