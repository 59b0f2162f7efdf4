"""What the recordings hold that is odd and true, and what the audit must and must not say of it."""

import csv
import gzip
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from pyarrow import feather

from data_manager.adapters.meta.sql import open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.batch import STREAM, pack
from data_manager.domain.condition.coverage import Result
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.events import Candle, Event, FundingRate, Liquidation, Number, Trade
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS, parse_time
from data_manager.services.auditing.looking import Crossed
from data_manager.services.conditions import Conditions
from tests.flow.test_audit import House

NOW_MS = parse_time("2026-01-01")  # long after all of them: replayed, not fed as it happened
DAY_OF_ADA_MS = parse_time("2022-12-13")


class Archive(House):
    """A house on the embedded store that holds what is replayed today, market by market."""

    async def replay(self, events: Sequence[Event], market: str = "um") -> int:
        """Append them as one batch; how many of them were new."""
        batch = pack(BY_EVENT[type(events[0])], market, events, [self.clock.now] * len(events), STREAM).batch
        return (await self.store.append(batch)).new


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Archive]:
    meta = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    store = EmbeddedStore(tmp_path, 64 << 20)
    try:
        yield Archive(store, meta, NOW_MS)
    finally:
        await store.close()
        await meta.close()


def candle(
    symbol: str, open_ms: int, values: Sequence[str], interval: str = "1m", length_ms: int = MINUTE_MS
) -> Candle:
    opened, high, low, close, volume = map(Number, values)
    return Candle(
        symbol=symbol, interval=interval, open_ms=open_ms, open=opened, high=high, low=low, close=close, volume=volume,
        close_ms=open_ms + length_ms - 1, closed=True,
    )  # fmt: skip


def trade(
    symbol: str, number: int, at_ms: int, price: str, quantity: str, sold: bool, kind: str | None = None
) -> Trade:
    return Trade(
        symbol=symbol, trade_id=number, price=Number(price), quantity=Number(quantity), traded_ms=at_ms,
        buyer_is_maker=sold, kind=kind,
    )  # fmt: skip


def rows_of(file: Path) -> list[list[str]]:
    with gzip.open(file, "rt") as lines:
        return list(csv.reader(lines))


# ── Candles that make each other up ──────────────────────────────────────────────────────────────────────────────────


def ada(recordings: Path, interval: str) -> list[Candle]:
    """ADAUSDT of 2022-12-13."""
    rows = rows_of(recordings / "klines" / f"binance_usdm_ADAUSDT_{interval}_trade_2022-12-13.csv.gz")
    if interval == "1m":
        return [candle("ADAUSDT", DAY_OF_ADA_MS + int(row[0]), row[1:6]) for row in rows]
    return [candle("ADAUSDT", DAY_OF_ADA_MS + int(row[0][9:11]) * HOUR_MS, row[1:6], "1h", HOUR_MS) for row in rows]


async def test_hours_agree_with_their_minutes_and_one_digit_more_is_told(recordings: Path, house: Archive) -> None:
    """Must say: 24 of 24 agree; the hour whose high was raised. Must not: any hole, any other hour."""
    minutes, hours = ada(recordings, "1m"), ada(recordings, "1h")
    await house.replay(minutes)
    await house.replay(hours)
    done = await house.auditor.run()
    assert (done.holes, done.crossed) == ((), Crossed(agreed=24))
    assert house.told == []
    await house.replay([replace(one, symbol="BDAUSDT") for one in minutes])
    raised = Number(f"{float(hours[13].high) + 0.0001:.4f}")
    await house.replay([replace(one, symbol="BDAUSDT", **({"high": raised} if at == 13 else {})) for at, one in enumerate(hours)])  # fmt: skip
    done = await house.auditor.run()
    assert done.crossed == Crossed(agreed=23, differing=1)
    [told] = house.told
    assert (told.series, told.start_ms) == ("um.candle.BDAUSDT.1h", DAY_OF_ADA_MS + 13 * HOUR_MS)
    assert told.evidence == {
        "rule": "unlike candle.1m", "field": "high", "held": raised, "computed": hours[13].high, "by": "um.candle.BDAUSDT.1m",
    }  # fmt: skip
    conditions = Conditions(house.meta, house.clock)
    found = await conditions.condition_of(
        Series("um", "candle", "BDAUSDT", "1h"), Span(DAY_OF_ADA_MS, DAY_OF_ADA_MS + DAY_MS)
    )
    assert [(one.condition.value, one.reason) for one in found.ranges] == [
        ("good", "audited"), ("degraded", "unlike candle.1m"), ("good", "audited"),
    ]  # fmt: skip
    assert found.completeness == 1.0, "nothing is missing"


# ── Trades that make candles ─────────────────────────────────────────────────────────────────────────────────────────

SPOT_MINUTES, SPOT_TRADES = Series("spot", "candle", "XRPETH", "1m"), Series("spot", "trade", "XRPETH")


def xrpeth(recordings: Path) -> tuple[list[Candle], list[Trade]]:
    """Recorded as floats: to eight decimals these are the venue's numbers again."""
    minutes = feather.read_table(recordings / "klines" / "spot_XRPETH_1m_2019-10.feather").to_pylist()
    fills = feather.read_table(recordings / "trades" / "spot_XRPETH_trades_2019-10.feather").to_pylist()
    names = ("open", "high", "low", "close", "volume")
    candles = [
        candle("XRPETH", int(row["date"].timestamp() * 1000), [f"{row[name]:.8f}" for name in names]) for row in minutes
    ]
    trades = [
        trade("XRPETH", int(row["id"]), row["timestamp"], f"{row['price']:.8f}", f"{row['amount']:.8f}", row["side"] == "sell")
        for row in fills
    ]  # fmt: skip
    return candles, trades


async def test_minutes_in_which_nobody_traded_are_no_holes_once_the_trades_prove_it(
    recordings: Path, house: Archive
) -> None:
    """Spot makes no candle of an empty minute. Must say: 1,091 minutes missing as long as only candles are held, and
    none as soon as the trades are; 2,467 of 2,469 candles equal their trades to the last digit, and of the first and
    the last that nobody can tell. Must not: call the absent minutes healed.
    """
    candles, trades = xrpeth(recordings)
    await house.replay(candles, "spot")
    done = await house.auditor.run()
    assert (len(done.holes), sum(one.missing or 0 for one in done.holes)) == (676, 1_091)
    await house.replay(trades, "spot")
    house.clock.now += 1
    done = await house.auditor.run(full=True)
    assert (done.failed, done.holes) == ((), ())
    assert done.crossed == Crossed(agreed=2_467, unjudged=2)
    truth = await house.truth(SPOT_MINUTES)
    assert (truth.holes, {one.result for one in truth.coverage}) == ((), {Result.PASS})
    assert (await house.truth(SPOT_TRADES)).holes == ()
    span = Span(candles[0].open_ms, candles[-1].open_ms + MINUTE_MS)
    found = await Conditions(house.meta, house.clock).condition_of(SPOT_MINUTES, span)
    assert ([one.condition.value for one in found.ranges], found.completeness) == (["good"], 1.0)


async def test_where_a_trade_is_missing_an_absent_minute_stays_a_hole(recordings: Path, house: Archive) -> None:
    """Must not explain away what the ids do not prove."""
    candles, trades = xrpeth(recordings)
    await house.replay(candles, "spot")
    cut = next(at for at, one in enumerate(trades[1:], 1) if one.traded_ms - trades[at - 1].traded_ms > 3 * MINUTE_MS)
    await house.replay(trades[:cut] + trades[cut + 1 :], "spot")
    done = await house.auditor.run(full=True)
    by_series = {one.series for one in done.holes}
    assert by_series == {SPOT_MINUTES.id, SPOT_TRADES.id}
    lost_ms = (trades[cut - 1].traded_ms, trades[cut + 1].traded_ms)
    minutes = [one for one in done.holes if one.series == SPOT_MINUTES.id]
    assert all(lost_ms[0] - MINUTE_MS < one.start_ms < lost_ms[1] for one in minutes)


async def test_the_same_minutes_of_futures_would_be_holes(recordings: Path, house: Archive) -> None:
    """USDⓈ-M makes a flat candle of an empty minute: there an absent one is missing whatever the trades say."""
    candles, trades = xrpeth(recordings)
    some = candles[:200]
    await house.replay(some)
    await house.replay(trades[:2_000])
    done = await house.auditor.run(full=True)
    span = (some[-1].open_ms - some[0].open_ms) // MINUTE_MS + 1
    assert sum(one.missing or 0 for one in done.holes) == span - len(some)


# ── Oddities ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_zero_price_trade_is_present_and_no_price(recordings: Path, house: Archive) -> None:
    """TRXUSDT trade 548331095 has price 0 and quantity 0: a burned id. Must not: a hole, a spike, a price of 0."""
    with gzip.open(recordings / "binance_futures" / "csv" / "trades_TRXUSDT_2025-03-04.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    trades = [
        trade(
            "TRXUSDT", int(row["TradeId"]), int(row["TransactionTime"]), row["Price"], row["Quantity"],
            row["IsBuyerMarketMaker"] in ("1", "True", "true"), row["XUnknownParameter"] or "NA",
        )
        for row in rows
    ]  # fmt: skip
    assert [one.trade_id for one in trades if float(one.price) == 0] == [548331095]
    assert await house.replay(trades) == 10_000
    done = await house.auditor.run(full=True)
    assert (done.failed, done.holes) == ((), ())
    assert house.told == []
    await house.replay([replace(one, symbol="TRYUSDT") for one in trades if one.trade_id != 548331095])
    [hole] = (await house.auditor.run(full=True)).holes
    assert (hole.after, hole.before, hole.missing) == (548331094, 548331096, 1), "a placeholder that is lost is missing"


async def test_the_doubled_liquidation_file_is_held_once_and_nothing_is_said_of_its_silence(
    recordings: Path, house: Archive
) -> None:
    """3,510 lines of a recorder that ran twice. Must say: 1,837 orders, unverifiable. Must not: a hole of 238 hours."""
    file = recordings / "binance_futures" / "csv" / "liquidations_all_2025-01-26_2025-02-06.csv.gz"
    rows = rows_of(file)
    orders = [liquidation(row) for row in rows]
    assert (len(orders), await house.replay(orders)) == (3_510, 1_837)
    assert await house.replay(orders) == 0
    done = await house.auditor.run(full=True)
    assert (done.failed, done.holes, house.told) == ((), (), [])
    first, last = min(one.traded_ms for one in orders), max(one.traded_ms for one in orders)
    found = await Conditions(house.meta, house.clock).condition_of(
        Series("um", "liquidation", orders[0].symbol), Span(first, last + 1)
    )
    assert ([one.condition.value for one in found.ranges], found.completeness) == (["unverifiable"], None)


def liquidation(row: Sequence[str]) -> Liquidation:
    symbol = row[0] if row[0].endswith(("USDT", "USDC")) else f"{row[0]}USDT"
    return Liquidation(
        symbol=symbol, side=row[1], order_type=row[2], time_in_force=row[3], quantity=Number(row[4]), price=Number(row[5]),
        average_price=Number(row[6]), status=row[7], last_filled_quantity=Number(row[8]), filled_quantity=Number(row[9]),
        traded_ms=int(row[10]),
    )  # fmt: skip


async def test_six_years_of_hours_from_the_listing_on_lack_none(recordings: Path, house: Archive) -> None:
    """BCHUSDT from its listing hour: 56,690 candles. Must not: miss hours before the listing or after the file."""
    rows = rows_of(recordings / "klines" / "binance_usdm_BCHUSDT_1h_2019-12_2026-06.csv.gz")[1:]
    house.clock.now = parse_time("2026-07-01")
    candles = [candle("BCHUSDT", int(row[0]), row[1:6], "1h", HOUR_MS) for row in rows]
    await house.replay([one for at, one in enumerate(candles) if at not in (5_000, 40_000, 40_001)])
    done = await house.auditor.run()
    found = [(one.start_ms, one.missing) for one in done.holes]
    assert found == [(candles[5_000].open_ms, 1), (candles[40_000].open_ms, 2)]


async def test_funding_of_the_recorded_month_misses_no_settlement(recordings: Path, house: Archive) -> None:
    """XRPUSDT: 91 settlements whose times lie up to 19 ms after the slot. Must not: a hole for that."""
    table = feather.read_table(recordings / "funding" / "binance_usdm_XRPUSDT_funding_8h_2021-11_2021-12.feather")
    rates = []
    for row in table.to_pylist():
        at_ms = int(row["date"].timestamp() * 1000)
        slot_ms = at_ms - at_ms % HOUR_MS
        rates.append(
            FundingRate(symbol="XRPUSDT", slot_ms=slot_ms, funding_ms=at_ms, funding_rate=Number(f"{row['open']:.8f}"), rate_type="Regular")
        )  # fmt: skip
    assert await house.replay(rates) == 91
    done = await house.auditor.run()
    assert (done.failed, done.holes) == ((), ())
