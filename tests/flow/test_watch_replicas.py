"""The watch of one replica of several: what it does not hear but another stores is not silent."""

import pytest

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.finding import Finding
from data_manager.services.watch import Rules, Watch, ask_about_silence
from tests.contract.rows import batch_of, candle
from tests.flow.test_watch import BTC, ETH, SILENCE, Bench
from tests.memory import MemoryStore


class Store(MemoryStore):
    """Counts the questions; raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.error: Exception | None = None

    async def last(self, series: Series, n: int) -> Batch:
        self.asked.append(series.id)
        if self.error is not None:
            raise self.error
        return await super().last(series, n)


class Replica(Bench):
    """A watch that asks the store; others() stores rows that this replica never hears of."""

    def __init__(self, rules: Rules | None = None) -> None:
        super().__init__(rules)
        self.store = Store()
        self.watch = Watch(self.clock, self.tally, self.found.extend, rules, shared=True)

    async def hear(self, *symbols: str) -> None:
        batch = self.trades(*symbols)
        await self.store.append(batch)
        self.watch.saw(batch)

    async def others(self, *symbols: str) -> None:
        await self.store.append(self.trades(*symbols))

    async def pass_by(self, seconds: int, *others: str) -> list[Finding]:
        """So many seconds, in each of which others store a row of these; what was reported meanwhile."""
        before = len(self.found)
        for _ in range(seconds):
            self.clock.turn(1)
            if others:
                await self.others(*others)
            self.watch.judge()
            await ask_about_silence(self.watch, self.store)
        return self.found[before:]

    def state(self, series: str) -> str | int | None:
        [fact] = [one for one in self.watch.series_facts() if one["series"] == series]
        return fact["state"]


async def test_what_others_store_is_not_silent() -> None:
    replica = Replica()
    await replica.hear("BTCUSDT", "ETHUSDT")
    assert await replica.pass_by(200, "BTCUSDT", "ETHUSDT") == []
    assert replica.state(BTC) == replica.state(ETH) == "live"
    assert len(replica.store.asked) < 2 * 200 / 50, "a question a minute and series, no more"


async def test_what_nobody_stores_is_silent_since_anybodys_last_row() -> None:
    replica = Replica()
    await replica.hear("BTCUSDT", "ETHUSDT")
    await replica.pass_by(90, "BTCUSDT", "ETHUSDT")
    last_ms = replica.clock.now_ms()
    raised = await replica.pass_by(100, "ETHUSDT")
    assert [(one.kind, one.series, one.start_ms) for one in raised] == [(SILENCE, BTC, last_ms)]
    assert (replica.state(BTC), replica.state(ETH)) == ("silent", "live")
    resolved = await replica.pass_by(20, "BTCUSDT", "ETHUSDT")
    assert [(one.id, one.open) for one in resolved] == [(raised[0].id, False)]


async def test_a_stream_is_silent_when_all_its_series_are_for_everybody() -> None:
    replica = Replica()
    await replica.hear("BTCUSDT", "ETHUSDT")
    assert {one.series for one in await replica.pass_by(70)} == {BTC, ETH, None}
    assert all(not one.open for one in await replica.pass_by(20, "ETHUSDT"))
    assert {one.series for one in replica.found if not one.open} == {ETH, None}


async def test_two_replicas_find_the_same_thing() -> None:
    one, other = Replica(), Replica()
    other.store, other.clock = one.store, one.clock
    other.watch = Watch(other.clock, other.tally, other.found.extend, shared=True)
    await one.hear("BTCUSDT")
    one.clock.turn(30)
    batch = one.trades("BTCUSDT")
    await one.store.append(batch)
    other.watch.saw(batch)
    for _ in range(100):
        await one.pass_by(1)
        other.watch.judge()
        await ask_about_silence(other.watch, other.store)
    assert {found.id for found in one.found} == {found.id for found in other.found}
    assert len(one.found) == 2, "the series, and its stream"


async def test_an_open_candle_that_others_keep_up_to_date_is_heard() -> None:
    replica = Replica()
    replica.watch.saw(batch_of([candle(0, interval="1h")], received_ms=replica.clock.now_ms()))
    for turn in range(10):
        live = batch_of([candle(1, interval="1h", closed=False, late_ms=turn)], received_ms=replica.clock.now_ms())
        await replica.store.append(live)
        assert await replica.pass_by(30) == []
    assert replica.store.asked
    assert {one.kind for one in await replica.pass_by(100)} == {SILENCE}


async def test_questions_are_few_and_everything_has_its_turn() -> None:
    replica = Replica()
    symbols = [f"S{number:03}USDT" for number in range(100)]
    await replica.hear(*symbols)
    await replica.pass_by(63)
    assert len(replica.store.asked) <= 10 * 3
    assert not replica.found, "nothing is raised before it was asked about"
    await replica.pass_by(20)
    assert len(replica.found) == 101
    assert len(replica.store.asked) <= 10 * 23
    assert set(replica.store.asked) == {f"um.trade.{symbol}" for symbol in symbols}


async def test_a_store_that_is_away_leaves_it_unknown_and_a_damaged_one_says_nothing() -> None:
    replica = Replica()
    await replica.hear("BTCUSDT")
    replica.store.error = Unavailable("away")
    for _ in range(100):
        replica.clock.turn(1)
        replica.watch.judge()
        if replica.watch.unsure(1):
            with pytest.raises(Unavailable):
                await ask_about_silence(replica.watch, replica.store)
    assert (replica.found, replica.state(BTC)) == ([], "live")
    replica.store.error = Corrupt("a bad disk")
    assert {one.series for one in await replica.pass_by(5)} == {BTC, None}


async def test_rows_of_a_time_that_a_clock_set_back_left_behind_are_no_news() -> None:
    replica = Replica()
    await replica.hear("BTCUSDT")
    await replica.pass_by(5)
    replica.clock.set(-3_600_000)
    assert {one.series for one in await replica.pass_by(80)} == {BTC, None}


async def test_a_store_of_our_own_is_never_asked() -> None:
    replica = Replica()
    replica.watch = Watch(replica.clock, replica.tally, replica.found.extend)
    await replica.hear("BTCUSDT")
    assert {one.series for one in await replica.pass_by(70)} == {BTC, None}
    assert replica.store.asked == []
