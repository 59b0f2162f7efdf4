"""Rows that come again: equal ones are duplicates and no more; others are told, and what is held of them is degraded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import BY_EVENT
from data_manager.domain.events import Event, Number
from data_manager.domain.finding import FindingKind
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS
from data_manager.ports import SeriesStore
from data_manager.services.conditions import Conditions
from data_manager.services.ingesting.contradictions import FINDINGS_MAX, WAITING_MAX, Contradictions
from data_manager.services.keeping.certify import Certifier
from data_manager.services.keeping.retain import Retention
from data_manager.services.reporting import Reporter
from tests.contract.rows import BASE_MS, agg_trade, candle, liquidation, trade
from tests.flow.test_audit import MINUTES, TRADES, House, at
from tests.memory import MemoryStore

Change = tuple[str, object, str | None, str | None, str | None]


class Desk(House):
    """A house whose rows come by a stream that repeats itself."""

    def __init__(self, store: SeriesStore, meta: SqlMetaStore) -> None:
        super().__init__(store, meta, at(500))
        self.contradictions = Contradictions("um", store, self.clock, self.told.extend)

    async def stream(self, events: Sequence[Event]) -> None:
        """As ingest does it: append, and say when something came again."""
        await self.hold(events)
        self.contradictions.came_again(BY_EVENT[type(events[0])], events)
        await self.contradictions.look()

    def said(self) -> list[Change]:
        """Series, key, field, held and said of what was found."""
        found = []
        for one in self.told:
            assert (one.kind, one.severity, one.evidence["source"]) == (FindingKind.DIFFERS, "warning", "stream")
            names = ("key", "field", "held", "said")
            found.append((one.series or "", *(one.evidence[name] for name in names)))
        return found  # type: ignore[return-value]  # of texts

    async def condition(self, series: Series, start_ms: int) -> list[str]:
        found = await Conditions(self.meta, self.clock).condition_of(series, Span(start_ms, start_ms + 1))
        return [one.condition.value for one in found.ranges]


@pytest.fixture(params=["memory", "embedded"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    meta = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    store: SeriesStore = MemoryStore() if request.param == "memory" else EmbeddedStore(tmp_path, 8 << 20)
    yield Desk(store, meta)
    await store.close()
    await meta.close()


async def test_the_same_again_is_no_contradiction(desk: Desk) -> None:
    trades = [trade(number) for number in range(200)]
    await desk.stream(trades)
    await desk.stream([replace(one, price=Number("1.5"), event_ms=(one.event_ms or 0) + 9) for one in trades])
    await desk.stream([candle(minute) for minute in range(5)])
    await desk.stream([candle(minute, late_ms=700) for minute in range(5)])
    await desk.stream([candle(5, "3", closed=False), candle(5, "4", closed=False, late_ms=9), candle(5)])
    await desk.stream([liquidation(1), liquidation(1), replace(liquidation(1), status="NEW")])
    assert (desk.told, desk.contradictions.found) == ([], 0)


async def test_another_price_under_a_held_id_is_told_once_and_the_row_is_degraded(desk: Desk) -> None:
    await desk.stream([trade(number) for number in range(300)])
    for _ in range(2):
        await desk.stream(
            [trade(7, price="1.51"), trade(299), trade(250, price="9"), trade(300), trade(300, price="2")]
        )
    assert sorted(set(desk.said())) == [
        (TRADES.id, "250", "price", "1.50", "9"), (TRADES.id, "300", "price", "1.50", "2"),
        (TRADES.id, "7", "price", "1.50", "1.51"),
    ]  # fmt: skip
    assert len({one.id for one in desk.told}) == 3, "the same again is the same finding"
    await desk.meta.keep_findings(desk.told)
    desk.told.clear()
    assert (await desk.auditor.run()).holes == ()
    assert desk.told == [], "it was told already"
    moments = [BASE_MS + 10 * number for number in (6, 7, 250)]
    assert [await desk.condition(TRADES, ms) for ms in moments] == [["good"], ["degraded"], ["degraded"]]
    [first, *others], _ = await desk.meta.findings(limit=9, kind=FindingKind.DIFFERS, open_only=True)
    await desk.meta.keep_findings([first.resolved(desk.clock.now, desk.clock.now)])
    desk.clock.now += 1
    await desk.auditor.run(full=True)
    assert await desk.condition(TRADES, first.start_ms) == ["good"], "somebody decided"
    assert [await desk.condition(TRADES, one.start_ms) for one in others] == [["degraded"]] * 2


async def test_a_closed_candle_that_is_told_otherwise_is_told_whichever_of_the_two_is_held(desk: Desk) -> None:
    await desk.stream([candle(minute) for minute in range(20)])
    await desk.stream([candle(3, "2.5"), candle(4, "2.25", late_ms=500), candle(19, "5", late_ms=-500), candle(20)])
    names = [(key, field, held, said) for _, key, field, held, said in desk.said()]
    assert names == [
        (str(at(3)), "close", "2.0", "2.5"), (str(at(19)), "close", "2.0", "5"), (str(at(4)), "close", "2.25", "2.0"),
    ]  # fmt: skip
    assert {one.series for one in desk.told} == {MINUTES.id}


async def test_history_that_corrects_the_stream_is_no_contradiction(desk: Desk) -> None:
    await desk.stream([candle(minute) for minute in range(5)])
    await desk.hold([candle(2, "3")], origin="rest:klines")
    await desk.stream([candle(2, "3", late_ms=800), candle(3)])
    assert desk.told == []


async def test_what_retention_let_go_is_in_dispute_no_more(desk: Desk) -> None:
    await desk.stream([trade(number) for number in range(100)])
    await desk.stream([trade(5, price="7"), trade(100)])
    await desk.meta.keep_findings(desk.told)
    await desk.auditor.run()
    desk.clock.now += 9 * DAY_MS
    certifier = Certifier(desk.store, desk.meta, Conditions(desk.meta, desk.clock), desk.clock)
    reporter = Reporter(desk.meta.keep_findings)
    reporter.report = desk.told.extend  # type: ignore[method-assign, assignment]  # what is told is looked at here
    retention = Retention(desk.store, desk.meta, certifier, reporter, desk.clock, days={"trade": 7}, by="test")
    desk.told.clear()
    assert (await retention.run()).dropped == 101
    [over] = [one for one in desk.told if one.kind is FindingKind.DIFFERS]
    assert not over.open
    assert (await desk.truth(TRADES)).flaws == ()


async def test_a_flood_is_bounded_and_what_was_not_compared_is_counted(desk: Desk) -> None:
    dataset = BY_EVENT[type(trade(1))]
    trades = [trade(number) for number in range(FINDINGS_MAX + 500)]
    await desk.hold(trades)
    wrong = [replace(one, price=Number("8")) for one in trades]
    desk.contradictions.came_again(dataset, wrong)
    for _ in range(WAITING_MAX // len(trades)):
        desk.contradictions.came_again(dataset, trades)
    assert desk.contradictions.unchecked == len(trades) * (1 + WAITING_MAX // len(trades)) - WAITING_MAX
    for _ in range(12):
        await asyncio.wait_for(desk.contradictions.look(), 20)
    assert desk.contradictions.found == len(trades)
    assert len(desk.told) == FINDINGS_MAX
    desk.clock.now += 3_600_001
    await desk.stream([replace(agg_trade(1), price=Number("5"))])
    await desk.stream([agg_trade(1)])
    assert len(desk.told) == FINDINGS_MAX + 1, "an hour later there is room again"
