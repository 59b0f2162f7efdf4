"""Ingest by itself: a bus and a store of a few lines, so that every order of things can be tried."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.domain.batch import Batch
from data_manager.domain.errors import Corrupt
from data_manager.ports import BusState, Clock, DeadLetter, Delivery, Dropped, Receipt
from data_manager.services.dead_letters import burying
from data_manager.services.ingest import Ports, Shed, ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.telemetry import Tally
from tests.conftest import eventually
from tests.memory import MemoryStore
from tests.servers import WallClock

NOW_MS = 1_700_000_000_000


def trade(number: int, symbol: str = "BTCUSDT", price: str = "1.0") -> bytes:
    at = NOW_MS + number
    return f'{{"e":"trade","E":{at},"s":"{symbol}","t":{number},"p":"{price}","q":"1","T":{at},"m":true}}'.encode()


def ticker(number: int) -> bytes:
    return (
        f'{{"e":"bookTicker","u":{number},"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1","T":{NOW_MS},"E":{NOW_MS}}}'
    ).encode()


class Desk:
    """Both sides of ingest: lists of deliveries as they come, and what happened to them in which order."""

    def __init__(self, lists: Sequence[Sequence[bytes]], limits: Limits = Limits()) -> None:  # noqa: B008  # a constant
        numbers = iter(range(10**6))
        self.lists = [[Delivery("market", one, NOW_MS, str(next(numbers))) for one in some] for some in lists]
        self.store = MemoryStore()
        self.tally = Tally()
        self.buffer = Buffer("um", DATASET_OF, self.tally, limits)
        self.store_keys: set[bytes] = set()  # payloads that are stored
        self.dead: list[DeadLetter] = []
        self.acked: list[str] = []
        self.pulled = 0
        self.appending = 0
        self.appending_most = 0
        self.clock: Clock = WallClock()
        self.also_safe: Callable[[Delivery], bool] = lambda one: b'"result"' in one.payload
        self.shed: Shed = lambda held: ()
        self.before_append: Callable[[Batch], None] = lambda _: None
        self.turns: Callable[[], int] = lambda: 0
        self.open = asyncio.Event()  # appends return
        self.open.set()
        self.meta_open = asyncio.Event()  # dead letters are kept
        self.meta_open.set()

    async def run(self) -> None:
        ports = Ports(self, Decoder("um"), self.append, self._keep_dead, self.clock, shed=self.shed)
        await ingest(ports, self.buffer)

    # ---- the bus ----

    async def batches(self, quiet_s: float) -> AsyncIterator[list[Delivery]]:
        for some in self.lists:
            self.pulled += len(some)
            yield list(some)
            for _ in range(self.turns()):
                await asyncio.sleep(0)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """What is acknowledged must be safe already."""
        safe = self.store_keys | {letter.payload for letter in self.dead}
        for one in deliveries:
            assert one.payload in safe or self.also_safe(one), f"{one.payload!r} was acknowledged and is not safe"
        self.acked += [one.token for one in deliveries]

    def stop(self) -> None: ...

    def drops(self) -> list[Dropped]:
        return []

    async def state(self) -> BusState:
        return BusState(connected=True)

    async def close(self) -> None: ...

    # ---- the stores ----

    async def append(self, batch: Batch) -> Receipt:
        self.appending += 1
        self.appending_most = max(self.appending_most, self.appending)
        try:
            for _ in range(self.turns()):
                await asyncio.sleep(0)
            await self.open.wait()
            self.before_append(batch)
            receipt = await self.store.append(batch)
            make = trade if batch.dataset.name == "trade" else lambda number, *_: ticker(number)
            self.store_keys |= {
                make(int(key), batch.series[code].symbol) for key, code in zip(batch.key, batch.codes, strict=True)
            }
            return receipt
        finally:
            self.appending -= 1

    async def _keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        await self.keep_dead(letters)

    async def keep_dead(self, letters: Sequence[DeadLetter]) -> None:
        await self.meta_open.wait()
        self.dead += letters


messages = st.one_of(
    st.integers(0, 30).map(trade),
    st.integers(0, 30).map(lambda number: trade(number, "ETHUSDT")),
    st.integers(0, 30).map(ticker),
    st.integers(0, 9).map(lambda number: b"garbage %d" % number),
    st.integers(0, 9).map(lambda number: trade(number, price="-1")),
    st.just(b'{"result":null,"id":1}'),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(messages, max_size=12), max_size=12), st.integers(1, 8), st.integers(0, 2), st.integers(0, 99))
def test_whatever_comes_is_safe_before_it_is_acknowledged(
    lists: list[list[bytes]], rows: int, age_ms: int, seed: int
) -> None:
    dice = random.Random(seed)

    async def go() -> Desk:
        desk = Desk(lists, Limits(rows=rows, age_ms=age_ms))
        desk.turns = lambda: dice.randrange(5)
        await asyncio.wait_for(desk.run(), 20)
        return desk

    desk = asyncio.run(go())
    sent = Counter(one for some in lists for one in some)
    assert sorted(desk.acked, key=int) == [str(number) for number in range(sent.total())]
    assert desk.tally.missing() == desk.tally.in_flight == 0
    assert desk.tally.messages == sent.total()
    bad = Counter({one: count for one, count in sent.items() if one.startswith(b"garbage") or b'"-1"' in one})
    assert Counter(letter.payload for letter in desk.dead) == bad
    good = {one for one in sent if one not in bad and b"result" not in one}
    assert desk.store_keys == good
    assert desk.tally.new.total() == len(good)
    assert desk.tally.oldest_unflushed_ms is None


async def test_what_comes_during_a_flush_is_decoded_meanwhile_and_no_further_than_the_bound() -> None:
    desk = Desk([[trade(number)] for number in range(100)], Limits(rows=10, age_ms=0))
    desk.turns = lambda: 3
    desk.open.clear()
    running = asyncio.create_task(desk.run())
    for _ in range(2_000):
        await asyncio.sleep(0)
    assert desk.appending_most == 1
    assert desk.acked == []
    assert desk.pulled == desk.tally.in_flight == 11  # the one being flushed and a buffer full
    assert desk.tally.oldest_unflushed_ms == NOW_MS
    desk.open.set()
    await asyncio.wait_for(running, 10)
    assert len(desk.acked) == desk.tally.new.total() == 100


async def test_quiet_times_flush_by_age_without_waiting_for_more() -> None:
    desk = Desk([[trade(1)], []], Limits(age_ms=1))
    waiting = asyncio.Event()
    desk.turns = lambda: 0
    lists = desk.batches

    async def slowly(quiet_s: float) -> AsyncIterator[list[Delivery]]:
        async for some in lists(quiet_s):
            yield some
            if some:
                await asyncio.wait_for(waiting.wait(), 5)

    desk.batches = slowly  # type: ignore[method-assign]
    ack = desk.ack

    async def noted(deliveries: Sequence[Delivery]) -> None:
        await ack(deliveries)
        waiting.set()

    desk.ack = noted  # type: ignore[method-assign]
    await desk.run()
    assert desk.acked == ["0"]


class AppendClock(WallClock):
    """Time passes only where an append or a sleep makes it; notes the sleeps."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.slept_s: list[float] = []

    def monotonic_s(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.at_s += seconds


@pytest.mark.parametrize(("took_ms", "rest_ms"), [(0.5, 3.5), (2, 2), (3, 3), (50, 4)])
async def test_after_a_flush_comes_a_rest_as_long_as_it_took(took_ms: float, rest_ms: float) -> None:
    """At least until FLUSH_AGE_MS after its beginning, at most until FLUSH_AGE_MS after its end."""
    desk = Desk([[trade(number)] for number in range(3)], Limits(age_ms=4))
    desk.clock = clock = AppendClock()
    desk.turns = lambda: 20

    def passing(_: Batch) -> None:
        clock.at_s += took_ms / 1_000

    desk.before_append = passing
    await desk.run()
    assert desk.tally.flushes == 4, "three of one row each, and one at the end for nothing"
    assert clock.slept_s == pytest.approx([rest_ms / 1_000] * 2)


async def test_damage_in_one_series_buries_its_events_only() -> None:
    sent = [trade(1), trade(2, "ETHUSDT"), trade(2), trade(2), trade(3, price="-1"), ticker(5)]
    desk = Desk([sent])

    def damaged(batch: Batch) -> None:
        if any(one.symbol == "BTCUSDT" and one.dataset == "trade" for one in batch.series):
            raise Corrupt("um.trade.BTCUSDT: chunk 7 does not match its checksum")

    desk.before_append = damaged
    await desk.run()
    assert desk.store_keys == {trade(2, "ETHUSDT"), ticker(5)}
    assert Counter(letter.reason for letter in desk.dead) == {"damaged": 3, "invalid": 1}
    assert "chunk 7" in next(letter.message for letter in desk.dead if letter.reason == "damaged")
    assert sorted(desk.acked) == [str(number) for number in range(6)]
    assert desk.tally.missing() == desk.tally.in_flight == 0


async def test_a_bug_in_the_store_ends_ingest_and_acknowledges_nothing() -> None:
    desk = Desk([[trade(number)] for number in range(20)], Limits(age_ms=0))
    desk.turns = lambda: 2

    def broken(_: Batch) -> None:
        raise ZeroDivisionError

    desk.before_append = broken
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(desk.run(), 10)
    assert desk.acked == []


async def test_dead_letters_wait_for_their_store_and_rows_do_not() -> None:
    desk = Desk([[b"garbage", trade(1)], [trade(2)], [b"more", trade(3)], [trade(4)]], Limits(rows=1, age_ms=0))
    desk.turns = lambda: 4
    desk.meta_open.clear()
    running = asyncio.create_task(desk.run())
    await eventually(lambda: len(desk.acked) == 4)
    assert sorted(desk.acked) == ["1", "2", "4", "5"]
    assert desk.tally.oldest_unflushed_ms == NOW_MS
    assert (desk.tally.refused.total(), desk.tally.rejected.total(), desk.tally.in_flight) == (2, 0, 2)
    assert desk.tally.missing() == 0
    desk.meta_open.set()
    await running
    assert (desk.tally.rejected, desk.tally.in_flight) == (desk.tally.refused, 0)
    assert [letter.payload for letter in desk.dead] == [b"garbage", b"more"]
    assert sorted(desk.acked) == ["0", "1", "2", "3", "4", "5"]
    assert desk.tally.missing() == 0
    assert desk.tally.oldest_unflushed_ms is None


async def test_dead_letters_do_not_wait_for_company_when_the_bus_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burying, "_APART_S", 3_600.0)
    desk = Desk([[b"garbage"], [b"more"], [b"last"]], Limits(age_ms=0))
    desk.turns = lambda: 20
    lists = desk.batches

    async def and_then_quiet(quiet_s: float) -> AsyncIterator[list[Delivery]]:
        async for some in lists(quiet_s):
            yield some
        while True:
            await asyncio.sleep(0)
            yield []

    desk.batches = and_then_quiet  # type: ignore[method-assign]
    running = asyncio.create_task(desk.run())
    await eventually(lambda: len(desk.acked) == 3, what="all three are kept, though the bus goes on")
    running.cancel()


async def test_dead_letters_wait_up_to_a_bound_and_then_everything_does() -> None:
    desk = Desk([[b"garbage %d" % number, trade(number)] for number in range(50)], Limits(1, age_ms=0, dead_max=10))
    desk.meta_open.clear()
    running = asyncio.create_task(desk.run())
    for _ in range(2_000):
        await asyncio.sleep(0)
    assert len(desk.buffer.unkept) == 11
    assert desk.pulled <= 28
    desk.meta_open.set()
    await running
    assert len(desk.acked) == 100
    assert len(desk.dead) == 50


async def test_a_stop_does_not_wait_for_the_dead_and_acknowledges_none_of_them() -> None:
    desk = Desk([[b"garbage", trade(1)]])
    desk.meta_open.clear()
    await asyncio.wait_for(desk.run(), 3)
    assert desk.acked == ["1"]


async def test_a_damaged_metadata_store_ends_ingest() -> None:
    desk = Desk([[b"garbage %d" % number] for number in range(20)], Limits(age_ms=0))
    desk.turns = lambda: 5

    async def damaged(_: object) -> None:
        raise Corrupt("the metadata is damaged")

    desk.keep_dead = damaged  # type: ignore[method-assign]
    with pytest.raises(Corrupt):
        await asyncio.wait_for(desk.run(), 5)
    assert desk.acked == []
