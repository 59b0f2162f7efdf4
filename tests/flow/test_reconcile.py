"""Reconcile: held rows against two sources, these against one another, candles against trades; and what becomes of it."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_manager.adapters.meta.sql import SqlMetaStore
from data_manager.domain.batch import STREAM, pack
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.errors import BadQuery
from data_manager.domain.events import Candle, Event, Number, Trade
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, MINUTE_MS
from data_manager.services.ingesting.contradictions import Contradictions
from data_manager.services.reconciling import Reconciled, Reconciler
from tests.contract.rows import BASE_MS, candle
from tests.fresh_meta import fresh_meta
from tests.memory import MemoryStore
from tests.source import PastSource, SetClock

MINUTES, TRADES = Series("um", "candle", "BTCUSDT", "1m"), Series("um", "trade", "BTCUSDT")
NOW_MS = BASE_MS + 3 * HOUR_MS


def at(minute: int) -> int:
    return BASE_MS + minute * MINUTE_MS


def minutes(numbers: Sequence[int], **closes: str) -> list[Event]:
    return [candle(number, close=closes.get(f"m{number}", "2.0")) for number in numbers]


class House:
    def __init__(self, meta: SqlMetaStore) -> None:
        self.meta = meta
        self.store = MemoryStore()
        self.rest = PastSource({MINUTES: minutes(range(180))})
        self.archive = PastSource({MINUTES: minutes(range(180))}, name="archive", piece_ms=2 * HOUR_MS)
        self.told: list[Finding] = []
        self.reconciler = Reconciler(self.store, meta, [self.rest, self.archive], SetClock(NOW_MS), self.told.extend)

    async def hold(self, events: Sequence[Event]) -> None:
        dataset = BY_EVENT[type(events[0])]
        await self.store.append(pack(dataset, "um", events, [NOW_MS] * len(events), STREAM).batch)

    async def run(self, first: int = 0, end: int = 170, series: Series = MINUTES, **how: object) -> Reconciled:
        self.told.clear()
        done = await self.reconciler.run(series, Span(at(first), at(end)), **how)  # type: ignore[arg-type]
        await self.meta.keep_findings(self.told)
        return done

    async def standing(self) -> list[tuple[int, str, str]]:
        found, _ = await self.meta.findings(limit=99, kind=FindingKind.DIFFERS, open_only=True)
        return sorted(
            ((one.start_ms - BASE_MS) // MINUTE_MS, f"{one.evidence['what']} {one.evidence['field'] or ''}".strip(), str(one.evidence["source"]))
            for one in found
        )  # fmt: skip


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with fresh_meta(tmp_path) as meta:
        yield House(meta)


async def test_what_agrees_is_said_to_agree_by_both_sources(house: House) -> None:
    await house.hold(minutes(range(180)))
    done = await house.run()
    assert {(one.what, one.to): (one.agreed, one.differing) for one in done.compared} == {
        ("held", "archive:klines"): (170, 0), ("held", "rest:klines"): (170, 0), ("archive:klines", "rest:klines"): (170, 0),
    }  # fmt: skip
    assert (done.differences, done.unoffered, house.told) == ((), (), [])


async def test_planted_differences_are_findings_with_row_field_and_source_and_end_when_they_are_mended(
    house: House,
) -> None:
    held = [one for one in minutes(range(180), m7="3.5") if one.open_ms not in (at(20), at(21))]  # type: ignore[attr-defined]
    await house.hold(held)
    house.rest.past[MINUTES] = [one for one in minutes(range(180)) if one.open_ms != at(40)]  # type: ignore[attr-defined]
    house.archive.past[MINUTES] = minutes(range(180), m50="4.25")
    done = await house.run()
    assert done.differing == 10
    assert await house.standing() == [
        (7, "changed close", "archive:klines"), (7, "changed close", "rest:klines"),
        (20, "missing", "archive:klines"), (20, "missing", "rest:klines"),
        (21, "missing", "archive:klines"), (21, "missing", "rest:klines"),
        (40, "extra", "archive:klines and rest:klines"), (40, "extra", "rest:klines"),
        (50, "changed close", "archive:klines"), (50, "changed close", "archive:klines and rest:klines"),
    ]  # fmt: skip
    [one] = [one for one in house.told if one.start_ms == at(50) and one.evidence["source"] == "archive:klines"]
    assert (one.evidence["held"], one.evidence["said"], one.series) == ("2.0", "4.25", MINUTES.id)
    await house.hold(minutes([20, 21]))
    house.archive.past[MINUTES] = minutes(range(180))
    await house.run(10, 170)
    assert [where[0] for where in await house.standing()] == [7, 7, 40, 40], "only where it was looked at again"
    house.rest.past[MINUTES] = minutes(range(180), m7="3.5")
    await house.run(0, 60, choice="rest")
    assert [(where, source) for where, _, source in await house.standing()] == [
        (7, "archive:klines"), (40, "archive:klines and rest:klines"),
    ]  # fmt: skip


async def test_what_a_stream_told_otherwise_is_decided_by_a_source_that_agrees(house: House) -> None:
    await house.hold(minutes(range(180)))
    disputes = Contradictions("um", house.store, SetClock(NOW_MS), house.told.extend)
    for events in (minutes([7], m7="3.5"), minutes([150], m150="3.5")):
        disputes.came_again(BY_EVENT[Candle], events)
        await disputes.look()
    await house.meta.keep_findings(house.told)
    assert await house.standing() == [(7, "changed close", "stream"), (150, "changed close", "stream")]
    await house.run(0, 60)
    assert await house.standing() == [(150, "changed close", "stream")], "only where somebody was asked"


async def test_candles_are_held_against_trades(house: House) -> None:
    def fill(number: int, second: int, price: str) -> Trade:
        return Trade(
            symbol="BTCUSDT",
            trade_id=number,
            price=Number(price),
            quantity=Number("1"),
            traded_ms=BASE_MS + second * 1_000,
            buyer_is_maker=False,
        )

    def bar(minute: int, prices: Sequence[str], volume: str) -> Candle:
        opened, high, low, close = (Number(one) for one in prices)
        quote = Number(str(sum(float(one) for one in (prices[0], prices[3]))))
        return Candle(
            symbol="BTCUSDT", interval="1m", open_ms=at(minute), open=opened, high=high, low=low, close=close, volume=Number(volume),
            quote_volume=quote, trades=2, taker_buy_volume=Number(volume), taker_buy_quote_volume=quote, close_ms=at(minute) + 59_999, closed=True,
        )  # fmt: skip

    await house.hold([fill(number, 30 * number, str(10 + number)) for number in range(9)])
    right = [
        bar(minute, [str(10 + 2 * minute), str(11 + 2 * minute), str(10 + 2 * minute), str(11 + 2 * minute)], "2")
        for minute in range(1, 4)
    ]
    wrong = bar(2, ["14", "15", "14", "15"], "3")
    await house.hold([right[0], wrong, right[2]])
    house.rest.past[MINUTES] = house.archive.past[MINUTES] = [right[0], wrong, right[2]]
    done = await house.run(1, 4)
    [judged] = [one for one in done.compared if one.to == TRADES.id]
    assert (judged.agreed, judged.differing) == (2, 1)
    assert {(one.field, one.source) for one in done.differences} == {
        ("volume", TRADES.id),
        ("taker_buy_volume", TRADES.id),
    }
    assert {where[2] for where in await house.standing()} == {TRADES.id}


FATES = ("same", "same", "same", "held", "said", "changed", "burned", "insured")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fates=st.lists(st.sampled_from(FATES), min_size=3, max_size=60),
    others=st.lists(st.sampled_from(("same", "lacks", "otherwise")), min_size=60, max_size=60),
)
async def test_every_planted_difference_is_found_and_nothing_else(
    tmp_path: Path, fates: list[str], others: list[str]
) -> None:
    """Missing, extra and changed trades, placeholders, and an archive and REST that do not agree: each told exactly."""

    def fill(number: int, price: str = "9.5", quantity: str = "2", kind: str | None = None) -> Trade:
        return Trade(
            symbol="BTCUSDT", trade_id=number, price=Number(price), quantity=Number(quantity), kind=kind,
            traded_ms=BASE_MS + number * 2_000, buyer_is_maker=False,
        )  # fmt: skip

    held: list[Event] = []
    archive: list[Event] = []
    rest: list[Event] = []
    planted: set[tuple[int, str, str]] = set()
    for number, (fate, other) in enumerate(zip(fates, others, strict=False)):
        if fate in ("burned", "insured"):
            held.append(fill(number, "0", "0", "NA") if fate == "burned" else fill(number, kind="INSURANCE_FUND"))
            continue
        if fate != "said":
            held.append(fill(number, "9.25" if fate == "changed" else "9.50"))
        if fate != "held":
            archive.append(fill(number))
        if other != "lacks" and fate != "held":
            rest.append(fill(number, "9.75" if other == "otherwise" else "9.5"))
        ours = None if fate == "said" else "9.25" if fate == "changed" else "9.5"
        theirs = None if fate == "held" else "9.5"
        also = None if fate == "held" or other == "lacks" else "9.75" if other == "otherwise" else "9.5"
        for one, two, source in (
            (ours, theirs, "archive:trades"), (ours, also, "rest:historicalTrades"),
            (theirs, also, "archive:trades and rest:historicalTrades"),
        ):  # fmt: skip
            if one != two:
                planted.add((number, "missing" if one is None else "extra" if two is None else "changed price", source))
    async with fresh_meta(tmp_path) as meta:
        house = House(meta)
        if held:
            await house.hold(held)
        house.archive.past[TRADES], house.rest.past[TRADES] = archive, rest
        done = await house.run(0, 3, TRADES)
        found = {(int(one.key[0]), f"{one.what} {one.field or ''}".strip(), one.source) for one in done.differences}
        assert found == planted
        told = {(int(str(one.evidence["key"])), f"{one.evidence['what']} {one.evidence['field'] or ''}".strip(), one.evidence["source"]) for one in house.told}  # fmt: skip
        assert told == planted, "and each is a finding"
        excused = {one.to: one.excused for one in done.compared if one.what == "held"}
        assert set(excused.values()) == {fates.count("burned") + fates.count("insured")}


async def test_what_nobody_offers_is_told_and_what_cannot_be_compared_refused(house: House) -> None:
    await house.hold(minutes(range(180)))
    house.rest.reach = house.archive.reach = Span(at(0), at(60))
    done = await house.run(0, 90)
    assert done.unoffered == (Span(at(60), at(90)),)
    for series, words in (
        (Series("um", "depth", "BTCUSDT"), "nobody"),
        (Series("um", "mark_price", "BTCUSDT"), "coarser"),
    ):
        with pytest.raises(BadQuery, match=words):
            await house.run(series=series)
    with pytest.raises(BadQuery, match="future"):
        await house.reconciler.run(MINUTES, Span(NOW_MS + 1, NOW_MS + 2))
    with pytest.raises(BadQuery, match="of that time now: possible is"):  # nothing compared is no agreement
        await house.run(60, 90)
    house.archive.reach = Span(at(60), at(90))
    with pytest.raises(BadQuery, match="ask archive"):
        await house.run(60, 90, choice="rest")
