"""The watch over the stream: rows in, findings out, with a clock that is turned by hand and a real metadata store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.adapters.bus.connection import NatsConnection
from data_manager.adapters.bus.nats_core import CoreOptions, NatsCore
from data_manager.adapters.meta.sql import SqlMetaStore, open_meta
from data_manager.domain.batch import STREAM, Batch, pack
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Rejected, Unavailable, Undecodable
from data_manager.domain.events import Liquidation, Trade
from data_manager.domain.finding import Finding, FindingKind, found
from data_manager.ports import Bus, Clock, Delivery, Dropped
from data_manager.services.ingest import Ports, ingest
from data_manager.services.ingesting.buffer import Buffer, Limits
from data_manager.services.ingesting.dropping import Losses
from data_manager.services.reporting import Reporter
from data_manager.services.watch import Rules, Watch, left_open
from data_manager.services.watched import Verdicts
from data_manager.telemetry import Tally
from tests.conftest import eventually
from tests.memory import MemoryStore
from tests.servers import WallClock, access_to, client_of, fresh, own_server

NOW_MS = 1_700_000_000_000
SILENCE, STALE, PARSE_ERRORS = FindingKind.SILENCE, FindingKind.STALE, FindingKind.PARSE_ERRORS
BTC, ETH = "um.trade.BTCUSDT", "um.trade.ETHUSDT"


class HandClock:
    """Time passes when turn() says so; the time of day may be set besides, the monotonic clock never goes back."""

    def __init__(self) -> None:
        self._ms = 0
        self._offset_ms = NOW_MS

    def now_ms(self) -> int:
        return self._offset_ms + self._ms

    def venue_ms(self) -> int:
        """The venue's clock, which nobody sets."""
        return NOW_MS + self._ms

    def monotonic_s(self) -> float:
        return self._ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.turn(seconds)
        await asyncio.sleep(0)

    def turn(self, seconds: float) -> None:
        assert seconds >= 0
        self._ms += round(seconds * 1000)

    def set(self, offset_ms: int) -> None:
        """Somebody sets the time of day that much on or back."""
        self._offset_ms += offset_ms


@given(st.lists(st.tuples(st.sampled_from(["turn", "set"]), st.integers(-(10**7), 10**7))))
def test_the_clock_of_these_tests_is_a_clock(moves: list[tuple[str, int]]) -> None:
    clock: Clock = (hand := HandClock())
    for what, ms in moves:
        before = clock.now_ms(), clock.monotonic_s()
        if what == "set":
            hand.set(ms)
            assert (clock.now_ms() - before[0], clock.monotonic_s()) == (ms, before[1])
        else:
            hand.turn(abs(ms) / 1000)
            assert clock.now_ms() - before[0] == abs(ms)
            assert clock.monotonic_s() >= before[1]


class Bench:
    """A watch, what it is fed from and what it reports."""

    def __init__(self, rules: Rules | None = None, *, ahead_ms: int = 0) -> None:
        self.clock = HandClock()
        self.clock.set(ahead_ms)
        self.tally = Tally()
        self.found: list[Finding] = []
        self.watch = Watch(self.clock, self.tally, self.found.extend, rules)
        self._ids = 0

    def trades(self, *symbols: str, lag_ms: int = 5, without_time: bool = False) -> Batch:
        """One trade of each symbol, received now."""
        now_ms, venue_ms = self.clock.now_ms(), self.clock.venue_ms()
        events = []
        for symbol in symbols:
            self._ids += 1
            event_ms = None if without_time else venue_ms - lag_ms
            events.append(
                Trade(
                    symbol=symbol, trade_id=self._ids, price="1", quantity="1", traded_ms=venue_ms - lag_ms,
                    buyer_is_maker=True, event_ms=event_ms,
                )
            )  # fmt: skip
        return pack(DATASETS["trade"], "um", events, [now_ms] * len(events), STREAM).batch

    def seconds(self, n: int, *symbols: str, lag_ms: int = 5, away: str | None = None) -> list[Finding]:
        """n seconds with a trade of each symbol and a judgement in each; what was reported meanwhile."""
        before = len(self.found)
        for _ in range(n):
            self.clock.turn(1)
            if symbols:
                self.watch.saw(self.trades(*symbols, lag_ms=lag_ms))
                self.tally.flushes += 1
            self.watch.judge(away)
        return self.found[before:]

    def state(self) -> dict[Any, Any]:
        return {fact["series"]: fact["state"] for fact in self.watch.series_facts()}


def what(findings: Sequence[Finding]) -> list[tuple[FindingKind, str | None, bool]]:
    return sorted(((one.kind, one.series, one.open) for one in findings), key=str)


def test_one_of_two_falls_silent_and_comes_back() -> None:
    bench = Bench()
    assert bench.seconds(30, "BTCUSDT", "ETHUSDT") == []
    last_ms = bench.clock.now_ms()
    assert bench.seconds(61, "BTCUSDT") == []
    (silent,) = bench.seconds(1, "BTCUSDT")
    assert (silent.kind, silent.series, silent.stream, silent.severity) == (SILENCE, ETH, "trade", "warning")
    assert (silent.start_ms, silent.end_ms, silent.found_ms) == (last_ms, None, bench.clock.now_ms())
    assert silent.evidence == {"last_event_ms": last_ms - 5}
    assert bench.state() == {BTC: "live", ETH: "silent"}
    assert bench.tally.findings_open["silence"] == 1
    assert bench.seconds(500, "BTCUSDT") == []
    back_ms = bench.clock.now_ms() + 1000
    (over,) = bench.seconds(5, "BTCUSDT", "ETHUSDT")
    assert (over.id, over.start_ms, over.end_ms) == (silent.id, last_ms, back_ms)
    assert over.resolved_ms == back_ms + 2000
    assert bench.state() == {BTC: "live", ETH: "live"}
    assert bench.tally.findings_open["silence"] == 0


def test_a_whole_stream_that_falls_silent_is_critical() -> None:
    bench = Bench()
    bench.seconds(3, "BTCUSDT", "ETHUSDT")
    raised = bench.seconds(70)
    assert what(raised) == sorted([(SILENCE, BTC, True), (SILENCE, ETH, True), (SILENCE, None, True)], key=str)
    (stream,) = [one for one in raised if one.series is None]
    assert (stream.stream, stream.severity) == ("trade", "critical")
    assert len({one.id for one in raised}) == 3
    assert len(bench.seconds(5, "BTCUSDT")) == 2, "the stream and the one that is back"


def test_silence_that_is_shorter_than_its_limit_is_none() -> None:
    bench = Bench()
    for _ in range(10):
        bench.seconds(1, "BTCUSDT")
        assert bench.seconds(59) == []


def test_what_was_never_heard_is_not_silent() -> None:
    assert Bench().seconds(500) == []


def test_what_is_sparse_by_nature_is_never_silent() -> None:
    bench = Bench()
    rare = Liquidation(
        symbol="BTCUSDT", traded_ms=NOW_MS, price="1", quantity="1", side="sell", average_price="1",
        last_filled_quantity="1", filled_quantity="1", order_type="LIMIT", time_in_force="IOC", status="FILLED",
        event_ms=NOW_MS,
    )  # fmt: skip
    bench.watch.saw(pack(DATASETS["liquidation"], "um", [rare], [NOW_MS], STREAM).batch)
    assert bench.seconds(5_000) == []


@pytest.mark.parametrize("offset_ms", [3_600_000, -3_600_000])
def test_a_clock_that_is_set_makes_nothing_silent_and_hides_no_silence(offset_ms: int) -> None:
    bench = Bench()
    bench.seconds(10, "BTCUSDT", "ETHUSDT")
    bench.clock.set(offset_ms)
    assert bench.seconds(50, "BTCUSDT") == []
    assert what(bench.seconds(15, "BTCUSDT")) == [(SILENCE, ETH, True)]


def test_an_event_loop_that_stood_still_makes_nothing_silent() -> None:
    bench = Bench()
    bench.seconds(10, "BTCUSDT")
    for _ in range(5):
        bench.clock.turn(300)
        assert bench.seconds(5, "BTCUSDT") == []


def test_a_store_that_is_away_makes_nothing_silent() -> None:
    bench = Bench()
    bench.seconds(10, "BTCUSDT")
    bench.tally.in_flight = 1  # an append hangs
    assert bench.seconds(600) == []
    bench.tally.in_flight = 0
    assert bench.seconds(30, "BTCUSDT") == []
    assert what(bench.seconds(70)) == [(SILENCE, BTC, True), (SILENCE, None, True)]


def test_a_bus_that_is_away_is_one_finding_and_silences_no_series() -> None:
    bench = Bench()
    bench.seconds(3, "BTCUSDT", "ETHUSDT", "GONEUSDT")
    bench.seconds(62, "BTCUSDT", "ETHUSDT")
    bench.seconds(55, "BTCUSDT")
    since_ms = bench.clock.now_ms() + 1_000
    (away,) = bench.seconds(600, away="connection refused")
    assert (away.kind, away.series, away.stream, away.severity) == (SILENCE, None, None, "critical")
    assert (away.start_ms, away.evidence) == (since_ms, {"why": "connection refused"})
    assert bench.state() == {BTC: "live", ETH: "live", "um.trade.GONEUSDT": "silent"}
    back_ms = bench.clock.now_ms() + 1_000
    assert [(one.id, one.end_ms) for one in bench.seconds(3)] == [(away.id, back_ms)]
    assert bench.seconds(60) == [], "everything has its whole time again"
    assert what(bench.seconds(1)) == sorted(
        [(SILENCE, BTC, True), (SILENCE, ETH, True), (SILENCE, None, True)], key=str
    )


def test_a_bus_that_is_away_for_a_moment_is_no_finding() -> None:
    bench = Bench()
    for _ in range(5):
        bench.seconds(3, "BTCUSDT")
        assert bench.seconds(2, away="connection refused") == []


async def test_a_bus_that_was_away_when_we_were_killed_is_back_in_the_next_run(meta: SqlMetaStore) -> None:
    first = Bench()
    await meta.keep_findings(first.seconds(5, away="connection refused"))
    second = Bench()
    second.watch.adopt(await left_open(meta))
    assert what(second.seconds(5, "BTCUSDT")) == [(SILENCE, None, False)]


@pytest.mark.parametrize("why", ["the bus", "the store", "the event loop"])
def test_what_we_held_up_is_late_and_not_stale(why: str) -> None:
    bench = Bench()
    bench.seconds(10, "BTCUSDT")
    if why == "the event loop":
        bench.clock.turn(120)
    elif why == "the store":
        bench.tally.in_flight = 1
        bench.seconds(120)
        bench.tally.in_flight = 0
    else:
        bench.seconds(120, away="gone")
    caught_up = [one for behind_s in range(120, 0, -2) for one in bench.seconds(1, "BTCUSDT", lag_ms=behind_s * 1_000)]
    assert [one for one in caught_up if one.kind is STALE] == []
    assert bench.seconds(30, "BTCUSDT") == []
    assert what(bench.seconds(100, "BTCUSDT", lag_ms=31_000)) == [(STALE, BTC, True), (STALE, None, True)]


@pytest.mark.parametrize("wrong_before", [True, False])
@pytest.mark.parametrize("set_ms", [3_600_000, -3_600_000])
def test_a_clock_that_is_set_makes_nothing_stale_and_hides_no_staleness(set_ms: int, wrong_before: bool) -> None:
    """It is set from wrong to right, or from right to wrong; a clock that is ahead from the start is no riddle: late."""
    bench = Bench(ahead_ms=-set_ms if wrong_before else 0)
    bench.seconds(10, "BTCUSDT")
    before = bench.state()
    assert before == {BTC: "stale" if wrong_before and set_ms < 0 else "live"}
    bench.clock.set(set_ms)
    assert [one for one in bench.seconds(30, "BTCUSDT") if one.open] == []
    assert bench.state() == {BTC: "live"}
    assert what(bench.seconds(5, "BTCUSDT", lag_ms=40_000)) == [(STALE, BTC, True), (STALE, None, True)]
    assert {one.evidence["lag_ms"] for one in bench.found[-2:]} == {40_000}
    assert what(bench.seconds(5, "BTCUSDT")) == [(STALE, BTC, False), (STALE, None, False)]


@pytest.mark.parametrize("set_ms", [3_600_000, -3_600_000])
def test_spans_tell_how_long_it_lasted_whatever_was_done_to_the_clock(set_ms: int) -> None:
    bench = Bench()
    bench.seconds(10, "BTCUSDT", "ETHUSDT")
    bench.clock.set(set_ms)
    (silent,) = bench.seconds(63, "BTCUSDT")
    assert silent.found_ms - silent.start_ms == 62_000, "in the clock as it is now"
    bench.clock.set(-2 * set_ms)
    bench.seconds(20, "BTCUSDT")
    (over,) = bench.seconds(3, "BTCUSDT", "ETHUSDT")
    assert over.end_ms == max(bench.clock.now_ms() - 2_000, silent.start_ms + 1)
    assert over.resolved_ms == max(bench.clock.now_ms(), silent.found_ms)


@pytest.mark.parametrize("set_ms", [3_600_000, -3_600_000])
def test_what_had_begun_when_the_clock_was_set_began_then_by_the_new_clock(set_ms: int) -> None:
    bench = Bench()
    bench.seconds(10, "BTCUSDT")
    bench.seconds(2, "BTCUSDT", lag_ms=40_000)
    bench.clock.set(set_ms)
    raised = bench.seconds(1, "BTCUSDT", lag_ms=40_000)
    assert [one.found_ms - one.start_ms for one in raised] == [2_000, 2_000]


def test_a_row_received_before_the_clock_was_set_back_begins_no_silence_in_the_future() -> None:
    bench = Bench()
    waiting = bench.trades("BTCUSDT")
    bench.seconds(1, "BTCUSDT")
    bench.clock.set(-3_600_000)
    bench.seconds(1, "ETHUSDT")
    bench.watch.saw(waiting)
    bench.watch.judge()
    bench.seconds(1, "BTCUSDT")
    last_ms = bench.clock.now_ms()
    starts = {one.series: one.start_ms for one in bench.seconds(70)}
    assert starts == {None: last_ms, BTC: last_ms, ETH: last_ms - 1_000}


def test_late_rows_are_stale_until_they_are_not() -> None:
    bench = Bench()
    bench.seconds(5, "BTCUSDT", "ETHUSDT")
    assert bench.seconds(2, "BTCUSDT", lag_ms=31_000) == [], "not yet three times"
    assert bench.seconds(1, "BTCUSDT", lag_ms=5) == []
    since_ms = bench.clock.now_ms() + 1000
    raised = bench.seconds(3, "BTCUSDT", lag_ms=31_000)
    assert what(raised) == [(STALE, BTC, True), (STALE, None, True)]
    assert {(one.start_ms, one.evidence["lag_ms"], one.severity) for one in raised} == {(since_ms, 31_000, "warning")}
    assert bench.state()[BTC] == "stale"
    bench.seconds(30)
    assert bench.state()[BTC] == "stale", "nothing came that would say otherwise"
    assert bench.seconds(2, "BTCUSDT") == []
    over = bench.seconds(1, "BTCUSDT")
    assert what(over) == [(STALE, BTC, False), (STALE, None, False)]


def test_one_late_row_among_fresh_ones_is_no_staleness() -> None:
    bench = Bench()
    for _ in range(20):
        bench.watch.saw(bench.trades("BTCUSDT", lag_ms=600_000))
        assert bench.seconds(1, "BTCUSDT") == []
        bench.watch.saw(bench.trades("BTCUSDT", lag_ms=600_000))


@pytest.mark.parametrize("lag_ms", [-20_000, 20_000, 3 * 365 * 86_400_000])
def test_clocks_off_by_seconds_and_replays_of_old_recordings_are_not_stale(lag_ms: int) -> None:
    bench = Bench()
    assert bench.seconds(30, "BTCUSDT", "ETHUSDT", lag_ms=lag_ms) == []
    assert set(bench.state().values()) == {"live"}


def test_rows_that_name_no_time_say_nothing_of_lag() -> None:
    bench = Bench()
    for _ in range(5):
        bench.watch.saw(bench.trades("BTCUSDT", without_time=True))
        assert bench.seconds(1) == []
    (fact,) = bench.watch.series_facts()
    assert fact == {"series": BTC, "last_event_ms": None, "events": 5, "state": "live"}


def test_parse_errors_of_a_stream_by_reason() -> None:
    bench = Bench()
    bench.seconds(1)
    bench.tally.refused["unknown", "invalid"] += 5
    bench.tally.refused["unknown", "undecodable"] += 5
    assert bench.seconds(65) == [], "five of each are allowed"
    bench.tally.refused["unknown", "invalid"] += 6
    bench.tally.refused["trade", "invalid"] += 1
    (raised,) = bench.seconds(5)
    assert (raised.kind, raised.stream, raised.series, raised.evidence) == (
        PARSE_ERRORS, "unknown", None, {"invalid": 6},
    )  # fmt: skip
    assert bench.seconds(50) == []
    (over,) = bench.seconds(20)
    assert (over.id, over.open) == (raised.id, False)


def test_parse_errors_of_a_series_name_it_though_none_of_its_events_was_ever_kept() -> None:
    bench = Bench()

    def refuse(times: int, payload: bytes, event_type: str) -> None:
        for _ in range(times):
            [why] = Decoder("um")(payload, 0)
            assert isinstance(why, Rejected)
            bench.tally.refuse(event_type, why)

    refuse(
        6, b'{"e":"trade","E":1680652700455,"s":"ETHUSDT","t":1,"p":1.5,"q":"1","T":1680652700452,"m":true}', "trade"
    )
    refuse(5, b'{"e":"kline","E":1680652700455,"s":"ETHUSDT","k":{"s":"ETHUSDT","i":"1h"}}', "kline")
    raised = {(one.series, one.stream): one for one in bench.seconds(5)}
    assert raised.keys() == {(ETH, "trade"), (None, "trade")}
    assert {str(one.evidence) for one in raised.values()} == {str({"invalid": 6})}
    assert [(fact["series"], fact["state"]) for fact in bench.watch.series_facts()] == [(ETH, "unknown")]
    assert what(bench.seconds(65)) == [(PARSE_ERRORS, ETH, False), (PARSE_ERRORS, None, False)]


def test_refusals_while_their_letters_wait_are_no_store_that_hangs() -> None:
    """Without the metadata database letters stay in flight; who falls silent meanwhile is told all the same."""
    bench = Bench()
    bench.seconds(10, "BTCUSDT")
    bench.tally.in_flight += 1
    bench.tally.refuse("unknown", Undecodable("not JSON"))
    assert what(bench.seconds(70)) == [(SILENCE, BTC, True), (SILENCE, None, True)]


def test_more_subjects_than_may_be_are_not_watched_and_nothing_breaks() -> None:
    bench = Bench(Rules(subjects_max=3))
    bench.seconds(3, "AAUSDT", "BBUSDT", "CCUSDT", "DDUSDT")
    bench.seconds(3, "CCUSDT", "DDUSDT")
    assert sorted(bench.state()) == ["um.trade.AAUSDT", "um.trade.BBUSDT"]
    assert len(bench.seconds(70)) == 3


def test_a_series_whose_rows_were_all_refused_was_not_heard() -> None:
    bench = Bench()
    batch = bench.trades("AAUSDT", "BBUSDT", "CCUSDT")
    for rows in ([True, False, True], [True, False, False], [False, False, False], [False, False, True]):
        bench.watch.saw(batch.take(np.array(rows)))
    assert {fact["series"]: fact["events"] for fact in bench.watch.series_facts()} == {
        "um.trade.AAUSDT": 2,
        "um.trade.BBUSDT": 0,
        "um.trade.CCUSDT": 2,
    }


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.integers(1, 4))
def test_a_verdict_changes_exactly_when_the_last_known_judgements_all_say_otherwise(
    judgements: list[tuple[bool, bool]], turns: int
) -> None:
    verdicts, holds, row = Verdicts(turns), False, 0
    for now_ms, (wrong, known) in enumerate(judgements):
        changed = verdicts.turn(np.array([wrong]), np.array([known]), now_ms)
        if known:
            row = row + 1 if wrong != holds else 0
        if row == turns:
            holds, row = not holds, 0
            assert changed == [0]
        else:
            assert changed == []
        assert verdicts.is_raised(0) == holds


# ── To the store ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def meta(tmp_path: Path) -> AsyncIterator[SqlMetaStore]:
    store = await open_meta(f"sqlite:///{tmp_path}/meta.db")
    yield store
    await store.close()


class Gate:
    """A metadata store that may be away."""

    def __init__(self, meta: SqlMetaStore) -> None:
        self.away = False
        self._meta = meta

    async def keep_findings(self, findings: Sequence[Finding]) -> None:
        if self.away:
            raise Unavailable("the metadata store is away")
        await self._meta.keep_findings(findings)


def some(n: int, at: int = 0, **other: Any) -> list[Finding]:
    rest = {"series": BTC, "severity": "warning", "evidence": {}, "found_ms": NOW_MS} | other
    return [found(SILENCE, start_ms=NOW_MS + at + i, **rest) for i in range(n)]


async def held(meta: SqlMetaStore) -> dict[str, Finding]:
    return {one.id: one for one in (await meta.findings(limit=100_000))[0]}


async def test_findings_wait_while_the_store_is_away_and_the_newest_version_arrives(meta: SqlMetaStore) -> None:
    gate = Gate(meta)
    reporter = Reporter(gate.keep_findings)
    gate.away = True
    findings = some(1_500)
    over = findings[7].resolved(NOW_MS + 9_999, NOW_MS + 5_000)
    reporter.report(findings)
    await reporter.keep()
    reporter.report([over])
    await reporter.keep()
    assert (reporter.waiting, await held(meta)) == (1_500, {})
    assert reporter.reason == "the metadata store is away"
    gate.away = False
    await reporter.keep()
    assert (reporter.waiting, reporter.reason) == (0, None)
    assert await held(meta) == {one.id: one for one in [*findings, over]}


async def test_what_waits_is_bounded_and_what_is_lost_is_counted(meta: SqlMetaStore) -> None:
    reporter = Reporter(meta.keep_findings, waiting_max=10)
    findings = some(25)
    for one in findings:
        reporter.report([one])
    assert (reporter.waiting, reporter.lost) == (10, 15)
    await reporter.keep()
    assert set(await held(meta)) == {one.id for one in findings[15:]}


async def test_a_version_that_comes_during_a_write_is_not_forgotten(meta: SqlMetaStore) -> None:
    (one,) = some(1)

    async def keep(findings: Sequence[Finding]) -> None:
        if findings[0].open:
            reporter.report([one.resolved(NOW_MS + 9, NOW_MS + 5)])
        await meta.keep_findings(findings)

    reporter = Reporter(keep)
    reporter.report([one])
    await reporter.keep()
    assert (reporter.waiting, [kept.resolved_ms for kept in (await held(meta)).values()]) == (0, [NOW_MS + 9])


async def test_what_an_earlier_run_left_open_ends_when_all_is_well(meta: SqlMetaStore) -> None:
    first = Bench()
    first.seconds(3, "BTCUSDT", "ETHUSDT")
    first.tally.refused["unknown", "invalid"] += 9
    first.seconds(5, "BTCUSDT", "ETHUSDT", lag_ms=60_000)
    first.seconds(70)
    foreign = some(1, series="um.nothing.BTCUSDT")
    await meta.keep_findings([*first.found, *foreign])
    left = await left_open(meta)
    assert {one.kind for one in left} == {SILENCE, STALE}, "the parse errors are over by then"
    second = Bench()
    second.watch.adopt(left)
    assert second.seconds(200) == [], "still silent, and known"
    assert second.tally.findings_open["silence"] == 3
    await meta.keep_findings(second.seconds(10, "BTCUSDT", "ETHUSDT"))
    assert await left_open(meta) == foreign


# ── Drops ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def trade(symbol: str, number: int, traded_ms: int) -> bytes:
    return (
        f'{{"e":"trade","E":{traded_ms + 1},"s":"{symbol}","t":{number},"p":"1.0","q":"1","T":{traded_ms},"m":true}}'
    ).encode()


def kline(event_ms: int, *, closed: bool) -> bytes:
    k = f'"t":{NOW_MS - NOW_MS % 60_000},"T":{NOW_MS - NOW_MS % 60_000 + 59_999},"s":"BTCUSDT","i":"1m","f":1,"L":2'
    rest = '"o":"1","c":"1","h":"1","l":"1","v":"1","n":1,"q":"1","V":"1","Q":"1","B":"0"'
    state = f'"x":{str(closed).lower()}'
    return f'{{"e":"kline","E":{event_ms},"s":"BTCUSDT","k":{{{k},{rest},{state}}}}}'.encode()


def losses() -> Losses:
    return Losses(Decoder("um"), DATASET_OF, "um", HandClock())


def spans(findings: Sequence[Finding]) -> list[tuple[str | None, int, int | None, Any]]:
    return [
        (one.series, one.start_ms - NOW_MS, None if one.end_ms is None else one.end_ms - NOW_MS, one.evidence["events"])
        for one in findings
    ]


def test_what_is_let_go_has_a_series_a_span_and_a_count() -> None:
    let = losses()
    for number, (symbol, at) in enumerate([("BTCUSDT", 50), ("ETHUSDT", 60), ("BTCUSDT", 40), ("BTCUSDT", 90)]):
        let.let_go(Delivery("market", trade(symbol, number, NOW_MS + at), NOW_MS + 100 + number))
    let.let_go(Delivery("market", b"garbage", NOW_MS + 7))
    first = let.findings()
    assert spans(first) == [(BTC, 40, 91, 3), (ETH, 60, 61, 1), (None, 7, 8, 1)]
    assert {(one.kind, one.severity, one.open) for one in first} == {(FindingKind.DROPPED, "critical", True)}
    assert first[0].evidence["first_received_ms"] == NOW_MS + 100
    assert first[0].evidence["last_received_ms"] == NOW_MS + 103
    assert let.findings() == []


def test_what_grows_stays_one_finding_and_what_began_earlier_is_another() -> None:
    let = losses()
    let.let_go(Delivery("market", trade("BTCUSDT", 1, NOW_MS + 50), NOW_MS))
    (first,) = let.findings()
    let.let_go(Delivery("market", trade("BTCUSDT", 2, NOW_MS + 70), NOW_MS))
    let.let_go(Delivery("market", trade("BTCUSDT", 3, NOW_MS + 10), NOW_MS))
    grown, earlier = let.findings()
    assert grown.id == first.id
    assert spans([grown, earlier]) == [(BTC, 50, 71, 2), (BTC, 10, 11, 1)]
    for _ in range(20):
        assert let.findings() == []
    let.let_go(Delivery("market", trade("BTCUSDT", 4, NOW_MS + 80), NOW_MS))
    assert spans(let.findings()) == [(BTC, 80, 81, 1)]


def test_a_closed_candle_is_missed_where_it_opens_and_an_open_one_where_it_was_said() -> None:
    let = losses()
    let.let_go(Delivery("market", kline(NOW_MS + 3, closed=False), NOW_MS))
    let.let_go(Delivery("market", kline(NOW_MS + 5, closed=True), NOW_MS))
    (candle,) = let.findings()
    assert (candle.series, candle.start_ms, candle.end_ms) == (
        "um.candle.BTCUSDT.1m", NOW_MS - NOW_MS % 60_000, NOW_MS + 4,
    )  # fmt: skip


def test_what_nobody_saw_is_told_without_a_series() -> None:
    let = losses()
    let.note(
        [
            Dropped(5, NOW_MS, NOW_MS + 9, "overflow", 5),
            Dropped(5, NOW_MS, NOW_MS + 9, "overflow", 2),
            Dropped(0, NOW_MS + 1, NOW_MS + 8, "away"),
            Dropped(4, NOW_MS + 2, NOW_MS + 7, "discarded"),
        ]
    )
    let.note([Dropped(6, NOW_MS + 2, NOW_MS + 30, "discarded")])
    findings = let.findings()
    assert spans(findings) == [(None, 0, 10, 3), (None, 1, 9, None), (None, 2, 8, 4), (None, 2, 31, 10)]
    assert [one.kind.value for one in findings] == ["dropped", "dropped", "discarded", "discarded"]
    assert findings[2].id == findings[3].id, "one that grows: nothing was read in between"


@given(st.lists(st.tuples(st.sampled_from(["AAUSDT", "BBUSDT", "tell"]), st.integers(0, 50)), max_size=40))
def test_every_drop_is_counted_once_and_lies_in_the_span_of_a_finding(moves: list[tuple[str, int]]) -> None:
    let, newest = losses(), dict[str, Finding]()
    for number, (symbol, at) in enumerate(moves):
        if symbol == "tell":
            newest |= {one.id: one for one in let.findings()}
        else:
            let.let_go(Delivery("market", trade(symbol, number, NOW_MS + at), NOW_MS))
    newest |= {one.id: one for one in let.findings()}
    for symbol, at in moves:
        if symbol != "tell":
            of_symbol = [one for one in newest.values() if one.series == f"um.trade.{symbol}"]
            assert any(one.start_ms <= NOW_MS + at < (one.end_ms or 0) for one in of_symbol)
    counted = sum(int(one.evidence["events"] or 0) for one in newest.values())
    assert counted == sum(symbol != "tell" for symbol, _ in moves)


async def test_events_that_overflow_are_findings_and_with_what_is_stored_they_are_all(tmp_path: Path) -> None:
    clock, tally, store = WallClock(), Tally(), MemoryStore()
    let = Losses(Decoder("um"), DATASET_OF, "um", clock)
    watch = Watch(clock, tally, lambda _: None)
    options = CoreOptions(rows_max=50, show_dropped=let.let_go)
    subject, n = fresh("market"), 400
    async with own_server(tmp_path, jetstream=False) as server:
        bus: Bus = NatsCore(NatsConnection(access_to(server)), subject, clock=clock, options=options)

        async def all_there() -> bool:
            return (await bus.state()).dropped == n - 50

        async def none_dead(_: object) -> None:
            raise AssertionError("none of these is dead")

        async with client_of(server) as client:
            bus.start()  # type: ignore[attr-defined]  # the port's users need not
            await eventually(lambda: _connected(bus), what="connected")
            for number in range(n):
                await client.publish(subject, trade(("BTCUSDT", "ETHUSDT")[number % 2], number, NOW_MS + number))
            await client.flush()
            await eventually(all_there, what="the rest let go")
        ports = Ports(bus, Decoder("um"), store.append, none_dead, clock, watch.saw, let.note)
        bus.stop()
        await ingest(ports, Buffer("um", DATASET_OF, tally, Limits()))
        await bus.close()
    assert (tally.dropped, tally.new["trade"], tally.missing(), tally.oldest_unflushed_ms) == (n - 50, 50, 0, None)
    assert tally.messages == n, "raw is every message"
    assert spans(let.findings()) == [(BTC, 0, n - 51, (n - 50) // 2), (ETH, 1, n - 50, (n - 50) // 2)]
    assert [fact["events"] for fact in watch.series_facts()] == [25, 25]


async def _connected(bus: Bus) -> bool:
    return (await bus.state()).connected
