"""One market per seed: the same in whatever order it is asked, and every way of telling it agrees with every other."""

import itertools
from collections import defaultdict
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.domain.errors import BadQuery
from data_manager.domain.time import INTERVALS_MS, floor_open_ms, next_open_ms, parse_time
from data_manager.simulator import path
from data_manager.simulator.contracts import Contract, interval_ms, settlements, universe
from data_manager.simulator.counting import Counter
from data_manager.simulator.market import Market
from data_manager.simulator.tape import Aggregates
from tests.simulator.exchange import DAY, HOUR, MINUTE, NOW

CONTRACTS = universe((), 7, NOW)
TRADED = [one for one in CONTRACTS.values() if one.status(NOW) == "TRADING"]
some_contract = st.sampled_from(TRADED)
some_time = st.integers(NOW - 700 * DAY, NOW - DAY).map(lambda ms: ms - ms % 1_000)
traded_at = some_contract.flatmap(
    lambda one: st.tuples(st.just(one), st.integers(max(one.onboard_ms, NOW - 700 * DAY), NOW - DAY))
)
quick = settings(max_examples=25, deadline=None)


def fresh() -> Market:
    return Market(CONTRACTS, 7)


def same(one: Aggregates, other: Aggregates) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)


@quick
@given(some_contract, some_time, st.lists(st.integers(1, 3 * HOUR), min_size=1, max_size=5), st.randoms())
def test_a_span_is_the_same_whole_and_in_parts_asked_in_any_order(contract: Contract, start, lengths, random) -> None:
    edges = [start, *(start + sum(lengths[: n + 1]) for n in range(len(lengths)))]
    parts = list(itertools.pairwise(edges))
    whole = fresh().aggregates(contract, edges[0], edges[-1])
    market, found = fresh(), {}
    for part in random.sample(parts, len(parts)):
        found[part] = market.aggregates(contract, *part)
    for name in whole.__struct_fields__:
        joined = np.concatenate([getattr(found[part], name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name)), name


@quick
@given(traded_at)
def test_candles_follow_from_trades_and_coarse_candles_from_fine_ones(traded: tuple[Contract, int]) -> None:
    market, (contract, start) = fresh(), traded
    start -= start % (12 * HOUR)
    end = start + 12 * HOUR
    fills = market.fills(market.aggregates(contract, start, end), contract)
    minutes = market.candles(contract, "1m", start, end, NOW)
    assert minutes[:, 0].tolist() == list(range(max(start, minutes[0, 0]), end, MINUTE))
    first = int(minutes[0, 0])
    before = market.price_before(contract, first // MINUTE)
    assert from_fills(fills, "1m", before, first, end) == as_told(minutes)
    for interval in ("3m", "5m", "15m", "1h", "4h", "12h"):
        coarse = market.candles(contract, interval, start, end, NOW)
        assert from_fills(fills, interval, before, first, end) == as_told(coarse), interval
        assert from_finer(minutes.tolist(), interval) == as_told(coarse), interval


def from_fills(fills, interval: str, before: int, first: int, end: int) -> dict[int, list[int]]:
    """Candles by plain arithmetic over single trades; flat ones at the price before."""
    groups = defaultdict(list)
    for at, price, quantity, maker in zip(
        fills.at_ms.tolist(), fills.price.tolist(), fills.quantity.tolist(), fills.buyer_is_maker.tolist(), strict=True
    ):
        groups[floor_open_ms(at, interval)].append((price, quantity, maker))
    made, last = {}, before
    for open_ms in range(floor_open_ms(first, interval), end, INTERVALS_MS[interval]):
        rows = groups.get(open_ms, [])
        prices = [price for price, _, _ in rows] or [last]
        last = prices[-1]
        buys = [(price, quantity) for price, quantity, maker in rows if not maker]
        made[open_ms] = [
            prices[0], max(prices), min(prices), prices[-1], sum(quantity for _, quantity, _ in rows),
            sum(price * quantity for price, quantity, _ in rows), len(rows), sum(quantity for _, quantity in buys),
            sum(price * quantity for price, quantity in buys),
        ]  # fmt: skip
    return made


def from_finer(rows: list[list[int]], interval: str) -> dict[int, list[int]]:
    groups = defaultdict(list)
    for row in rows:
        groups[floor_open_ms(row[0], interval)].append(row)
    return {
        open_ms: [
            held[0][1], max(row[2] for row in held), min(row[3] for row in held), held[-1][4],
            *(sum(row[at] for row in held) for at in range(5, 10)),
        ]
        for open_ms, held in groups.items()
    }  # fmt: skip


def as_told(rows) -> dict[int, list[int]]:
    return {row[0]: row[1:10] for row in rows.tolist()}


@pytest.mark.parametrize("interval", ["1d", "3d", "1w", "1M"])
def test_long_candles_follow_from_hours(interval: str) -> None:
    contract, market = CONTRACTS["ALGOUSDT"], fresh()
    open_ms = floor_open_ms(NOW - 70 * DAY, interval)
    end_ms = next_open_ms(open_ms, interval)
    [row] = market.candles(contract, interval, open_ms, open_ms + 1, NOW).tolist()
    hours = fresh().candles(contract, "1h", open_ms, end_ms, NOW).tolist()
    assert {row[0]: row[1:10]} == from_finer(hours, interval)


@quick
@given(traded_at)
def test_aggregates_are_exactly_their_fills(traded: tuple[Contract, int]) -> None:
    market, (contract, start) = fresh(), traded
    found = market.aggregates(contract, start, start + HOUR)
    fills = market.fills(found, contract)
    assert found.agg_id.tolist() == list(range(int(found.agg_id[0]), int(found.agg_id[0]) + len(found)))
    assert (found.first_id[1:] == found.last_id[:-1] + 1 + found.burned[:-1]).all()
    assert (np.diff(fills.trade_id) > 0).all()
    assert (np.diff(fills.at_ms) >= 0).all()
    owner = np.searchsorted(found.last_id, fills.trade_id)
    assert np.array_equal(np.bincount(owner, fills.quantity, len(found)), found.quantity)
    assert (fills.price == found.price[owner]).all()
    assert (fills.buyer_is_maker == found.buyer_is_maker[owner]).all()
    late = fills.at_ms - found.at_ms[owner]
    assert ((late >= 0) & (late < 100)).all()
    assert (fills.at_ms // MINUTE == found.at_ms[owner] // MINUTE).all()
    assert (fills.quantity > 0).all()
    plain = np.bincount(owner, fills.quantity * ~fills.improved, len(found))
    assert np.array_equal(plain, found.plain_quantity)


@quick
@given(some_contract, st.integers(1, 5_000_000), st.integers(1, 300))
def test_ids_lead_to_the_same_trades_as_times_do(contract: Contract, agg_id: int, count: int) -> None:
    market = fresh()
    found = market.aggregates_from(contract, agg_id, count)
    if len(found) == 0:  # beyond all that will ever be traded
        assert contract.delivery_ms < 4_000_000_000_000
        return
    assert found.agg_id.tolist() == list(range(agg_id, agg_id + len(found)))
    by_time = market.aggregates(contract, int(found.at_ms[0]), int(found.at_ms[-1]) + 1)
    low = int(np.searchsorted(by_time.agg_id, agg_id))
    assert same(by_time.take(slice(low, low + len(found))), found)
    assert market.agg_id_of(contract, int(found.first_id[0])) == agg_id
    assert market.agg_id_of(contract, int(found.last_id[-1])) == int(found.agg_id[-1])


@quick
@given(some_contract, st.integers(0, 600_000))
def test_counts_never_fall_and_every_3rd_and_5th_minute_has_trades(contract: Contract, from_minute: int) -> None:
    counter = Counter(7, contract)
    minutes = counter.first_minute + from_minute + np.arange(2_000)
    minutes = minutes[minutes <= counter.end_minute]
    counts = np.diff(counter.index_at(minutes))
    assert (counts >= 0).all()
    sure = (minutes[:-1] % 3 == 0) | (minutes[:-1] % 5 == 0)
    assert (counts[sure] > 0).all()


def test_thin_contracts_have_minutes_without_trades_and_they_are_flat() -> None:
    rows = fresh().candles(CONTRACTS["ALGOUSDT"], "1m", NOW - DAY, NOW, NOW).tolist()
    flat = [(before, row) for before, row in itertools.pairwise(rows) if row[7] == 0]
    assert len(flat) > 100
    for before, row in flat:
        assert row[1:5] == [before[4]] * 4
        assert row[5:] == [0, 0, 0, 0, 0, -1, -1]


def test_the_last_candle_grows_with_the_clock_until_it_is_whole() -> None:
    market, contract = fresh(), CONTRACTS["BTCUSDT"]
    open_ms = NOW // MINUTE * MINUTE
    counts = [
        int(market.candles(contract, "1m", open_ms, open_ms + 1, open_ms + ms)[0, 7]) for ms in range(0, MINUTE, 500)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert len(market.candles(contract, "1m", open_ms, open_ms + 1, open_ms - 1)) == 0


def test_another_seed_is_another_market_and_the_same_seed_the_same() -> None:
    contract = CONTRACTS["BTCUSDT"]
    one = Market(CONTRACTS, 7).aggregates(contract, NOW - HOUR, NOW)
    assert same(one, Market(CONTRACTS, 7).aggregates(contract, NOW - HOUR, NOW))
    assert not np.array_equal(one.price[:50], Market(CONTRACTS, 8).aggregates(contract, NOW - HOUR, NOW).price[:50])


def test_this_seed_is_this_market_on_every_machine() -> None:
    found = Market(CONTRACTS, 7).aggregates(CONTRACTS["BTCUSDT"], NOW - DAY, NOW)
    assert (len(found), int(found.price.sum()), int(found.quantity.sum()), int(found.at_ms.sum()) % 10**9) == PINNED


PINNED = (20_886, 129_470_319_080, 16_531_829, 11_737_674)


def test_what_is_kept_is_bounded_whatever_is_asked() -> None:
    market, contract = fresh(), CONTRACTS["ALGOUSDT"]
    for day in range(300):
        market.candles(contract, "1m", NOW - (day + 2) * DAY, NOW - (day + 2) * DAY + 4 * HOUR, NOW)
    assert len(market._days) == 256


@quick
@given(st.sampled_from([one for one in CONTRACTS.values() if one.funding_hours]), some_time, st.integers(1, 40))
def test_funding_follows_its_schedule_and_changes_it_in_mid_history(contract: Contract, start: int, days: int) -> None:
    slots = list(settlements(contract, start, start + days * DAY))
    middle = start + days * DAY // 2
    parts = [*settlements(contract, start, middle), *settlements(contract, middle + 1, start + days * DAY)]
    assert slots == parts
    for before, after in itertools.pairwise(slots):
        assert after - before <= 8 * HOUR
        assert after % interval_ms(contract, after) == 0
        assert after - before >= min(interval_ms(contract, after), interval_ms(contract, before))
    rates = [path.funding_rate(7, contract, slot) for slot in slots]
    assert all(abs(rate) <= contract.funding_cap for rate in rates)


def test_some_contract_changes_its_interval_within_any_fortnight() -> None:
    slots = list(settlements(CONTRACTS["SOLUSDT"], NOW - 14 * DAY, NOW))
    assert {after - before for before, after in itertools.pairwise(slots)} == {8 * HOUR, 4 * HOUR}


def test_the_estimate_ends_at_what_is_settled() -> None:
    contract, slot = CONTRACTS["BTCUSDT"], NOW // (8 * HOUR) * 8 * HOUR
    assert path.funding_estimate(7, contract, slot, slot) == path.funding_rate(7, contract, slot)
    drifting = {path.funding_estimate(7, contract, slot, slot - ms) for ms in range(0, 4 * HOUR, 10 * MINUTE)}
    assert len(drifting) > 10


def test_mark_candles_are_their_samples() -> None:
    market, contract = fresh(), CONTRACTS["ETHUSDT"]
    open_ms = NOW // HOUR * HOUR - 2 * HOUR
    [hour] = market.sampled_candles(contract, "mark", "1h", open_ms, open_ms + 1, NOW).tolist()
    values = path.sampled(7, contract, "mark", np.arange(open_ms, open_ms + HOUR, 1_000)).tolist()
    assert hour[1:5] == [values[0], max(values), min(values), values[-1]]
    assert hour[7] == 3_600


def test_prices_move_like_a_market() -> None:
    rows = fresh().candles(CONTRACTS["BTCUSDT"], "1m", NOW - DAY, NOW, NOW)
    moves = np.diff(np.log(rows[:, 4].astype(float)))
    assert 0.0001 < moves.std() < 0.002
    assert Decimal(int(rows[:, 3].min())) > 0


def test_all_kinds_of_contracts_are_listed() -> None:
    kinds = {(one.contract_type, one.status(NOW)) for one in CONTRACTS.values()}
    assert ("CURRENT_QUARTER", "TRADING") in kinds
    assert ("TRADIFI_PERPETUAL", "TRADING") in kinds
    assert ("PERPETUAL", "SETTLING") in kinds
    assert ("PERPETUAL", "PENDING_TRADING") in kinds
    assert any(not symbol.isascii() for symbol in CONTRACTS)
    assert any(one.market == "cm" for one in CONTRACTS.values())


def test_any_name_can_be_listed_and_nonsense_cannot() -> None:
    assert universe(("ZZTOPUSDT",), 1, NOW) == universe(("ZZTOPUSDT",), 1, NOW + DAY)
    [dated] = universe(("ETHUSDT_260626",), 1, NOW).values()
    assert (dated.pair, dated.contract_type, dated.status(NOW)) == ("ETHUSDT", "NEXT_QUARTER", "TRADING")
    assert dated.delivery_ms == parse_time("2026-06-26T08:00:00Z")
    for name in ("btcusdt", "USDT", "BTC", "B" * 40 + "USDT", "ETHUSDT_261332", "_260626"):
        with pytest.raises(BadQuery):
            universe((name,), 1, NOW)


def test_activity_multiplies_what_is_traded() -> None:
    once, often = (Market(universe(("BTCUSDT",), 1, NOW, activity=factor), 1) for factor in (1, 20))
    counts = [len(one.aggregates(one.contracts["BTCUSDT"], NOW - HOUR, NOW)) for one in (once, often)]
    assert counts[1] > 15 * counts[0]


def test_a_delivered_contract_ends() -> None:
    market, contract = fresh(), CONTRACTS["OMGUSDT"]
    rows = market.candles(contract, "1m", contract.delivery_ms - 10 * MINUTE, NOW, NOW)
    assert rows[-1, 0] == contract.delivery_ms - MINUTE
    assert len(market.aggregates(contract, contract.delivery_ms, NOW)) == 0
    assert len(market.aggregates_from(contract, 10**9, 10)) == 0
