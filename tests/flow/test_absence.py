"""What a bus without memory let pass while nobody listened: found where the rows show it, and nowhere else."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.domain.batch import STREAM, Batch, pack
from data_manager.domain.dataset import Series
from data_manager.ports import Dropped, Extent
from data_manager.services.ingesting.absence import Absences, Gap
from data_manager.services.ingesting.dropping import Losses
from tests.servers import WallClock

BASE_MS = 1_700_000_000_000 - 1_700_000_000_000 % 60_000
MINUTE_MS = 60_000
DECODE = Decoder("um")


def batch_of(*payloads: str, received_ms: Sequence[int]) -> Batch:
    """Rows of one dataset, as a flush makes them."""
    events: list[Any] = [DECODE(payload.encode(), 0)[0] for payload in payloads]
    return pack(DATASET_OF[type(events[0])], "um", events, received_ms, STREAM).batch


def trades(numbers: Sequence[int], received_ms: int | Sequence[int], symbol: str = "BTCUSDT") -> Batch:
    """Trades, ten milliseconds apart."""
    rows = [
        f'{{"e":"trade","E":{at},"T":{at},"s":"{symbol}","t":{n},"p":"1","q":"1","X":"MARKET","m":true}}'
        for n in numbers
        for at in [BASE_MS + 10 * n]
    ]
    received = [received_ms] * len(rows) if isinstance(received_ms, int) else received_ms
    return batch_of(*rows, received_ms=received)


def candle(minute: int, received_ms: int, *, closed: bool) -> Batch:
    """One candle of one minute."""
    at = BASE_MS + minute * MINUTE_MS
    said = at + (MINUTE_MS + 5 if closed else 20_000)
    rest = '"f":1,"L":2,"o":"1","c":"1","h":"1","l":"1","v":"1","n":1,"q":"1","V":"1","Q":"1","B":"0"'
    k = f'"t":{at},"T":{at + MINUTE_MS - 1},"s":"BTCUSDT","i":"1m",{rest},"x":{str(closed).lower()}'
    return batch_of(f'{{"e":"kline","E":{said},"s":"BTCUSDT","k":{{{k}}}}}', received_ms=[received_ms])


def update(last: int, previous: int, received_ms: int) -> Batch:
    """A change of a book."""
    at = BASE_MS + last
    row = f'{{"e":"depthUpdate","E":{at},"T":{at},"s":"BTCUSDT","U":{previous + 1},"u":{last},"pu":{previous},"b":[],"a":[]}}'
    return batch_of(row, received_ms=[received_ms])


def book_ticker(number: int, received_ms: int) -> Batch:
    at = BASE_MS + number
    row = f'{{"e":"bookTicker","E":{at},"T":{at},"s":"BTCUSDT","u":{number},"b":"1","B":"1","a":"2","A":"1"}}'
    return batch_of(row, received_ms=[received_ms])


def spans(gaps: Sequence[Gap]) -> list[tuple[int, int, int | None]]:
    return [(gap.hole.start_ms - BASE_MS, gap.hole.end_ms - BASE_MS, gap.hole.missing) for gap in gaps]


def test_ids_tell_what_passed_and_that_nothing_did() -> None:
    absences = Absences()
    assert absences.saw(trades([1, 2, 3], 100)) == []
    assert absences.saw(trades([7], 100, "ETHUSDT")) == []
    assert absences.saw(trades([9], 101)) == [], "a hole while we listened is nobody's absence"
    absences.note(200)
    assert spans(absences.saw(trades([13, 14], 200))) == [(90, 131, 3)]
    assert absences.saw(trades([20], 201)) == []
    assert absences.saw(trades([8], 202, "ETHUSDT")) == []


def test_rows_from_before_the_absence_may_be_stored_after_it() -> None:
    absences = Absences()
    absences.saw(trades([1], 100))
    absences.note(200)
    assert absences.saw(trades([2, 3], 150)) == []
    assert spans(absences.saw(trades([4, 5, 7], [199, 199, 200]))) == [(50, 71, 1)]


def test_what_comes_again_tells_nothing() -> None:
    absences = Absences()
    absences.saw(trades([1, 2, 3], 100))
    absences.note(200)
    assert absences.saw(trades([1, 2, 3], 200)) == []
    assert spans(absences.saw(trades([2, 3, 6], 201))) == [(30, 61, 2)]


def test_two_absences_before_a_series_is_heard_are_one_gap() -> None:
    absences = Absences()
    absences.saw(trades([1], 100))
    absences.note(200)
    absences.note(300)
    assert spans(absences.saw(trades([5], 300))) == [(10, 51, 3)]


def test_a_chain_tells_too() -> None:
    absences = Absences()
    absences.saw(update(10, 5, 100))
    absences.note(200)
    assert absences.saw(update(17, 10, 200)) == []
    absences.note(300)
    assert spans(absences.saw(update(30, 25, 300))) == [(17, 31, None)]


def test_a_candle_is_missed_by_the_next_one_even_while_that_is_open() -> None:
    absences = Absences()
    absences.saw(candle(0, 100, closed=True))
    absences.note(200)
    assert absences.saw(candle(1, 200, closed=True)) == []
    absences.note(300)
    assert absences.saw(candle(2, 300, closed=False)) == []
    absences.note(400)
    assert spans(absences.saw(candle(4, 400, closed=False))) == [(2 * MINUTE_MS, 4 * MINUTE_MS, 2)]
    assert absences.saw(candle(4, 401, closed=True)) == []


def test_of_some_nobody_can_know() -> None:
    absences = Absences()
    absences.saw(book_ticker(10, 100))
    absences.note(200)
    assert spans(absences.saw(book_ticker(11, 200))) == [(10, 12, None)]


def test_a_run_goes_on_where_another_ended() -> None:
    absences = Absences()
    absences.resume({Series("um", "trade", "BTCUSDT"): Extent(3, 1, 3, BASE_MS + 10, BASE_MS + 30)})
    absences.note(200)
    assert spans(absences.saw(trades([6], 200))) == [(30, 61, 2)]


def test_where_an_earlier_run_ended_may_be_known_late_and_is_the_first_absence_all_the_same() -> None:
    """Two more passed while the store was still away; what was received is stored at last, in order."""
    absences = Absences()
    absences.note(300)
    absences.note(400)
    absences.resume({Series("um", "trade", "BTCUSDT"): Extent(3, 1, 3, BASE_MS + 10, BASE_MS + 30)}, 200)
    gaps = absences.saw(trades([6, 7, 9, 12], [200, 201, 300, 400]))
    assert spans(gaps) == [(30, 61, 2), (70, 91, 1), (90, 121, 2)]


def test_so_many_series_are_remembered_and_no_more() -> None:
    absences = Absences(series_max=1)
    absences.saw(trades([1], 100))
    absences.saw(trades([1], 100, "ETHUSDT"))
    absences.note(200)
    assert spans(absences.saw(trades([3], 200)) + absences.saw(trades([3], 200, "ETHUSDT"))) == [(10, 31, 1)]


def test_a_gap_is_a_finding_without_a_count() -> None:
    losses = Losses(DECODE, DATASET_OF, "um", WallClock())
    losses.saw(trades([1], 100))
    losses.away(Dropped(0, 150, 200, "away"))
    losses.saw(trades([4], 200))
    [gap] = losses.findings()
    assert (gap.series, gap.stream, gap.start_ms, gap.end_ms) == (
        "um.trade.BTCUSDT", "trade", BASE_MS + 10, BASE_MS + 41,
    )  # fmt: skip
    assert gap.evidence == {"events": None, "why": "away", "after_key": 1, "before_key": 4, "absent": 2}
    assert losses.findings() == []


@given(st.lists(st.tuples(st.sampled_from("hla"), st.integers(1, 5)), max_size=30), st.integers(1, 7))
def test_every_unseen_trade_lies_in_a_gap_and_every_gap_holds_one(moves: list[tuple[str, int]], flush: int) -> None:
    """h: so many heard; l: so many passed while we were away; a: away, and nothing passed. Stored flush by flush."""
    absences, number, clock_ms = Absences(), 1, 1_000
    unseen: set[int] = set()
    pending: list[tuple[int, int]] = [(0, clock_ms)]
    gaps: list[Gap] = []

    def store(rows: list[tuple[int, int]]) -> None:
        if rows:
            gaps.extend(absences.saw(trades([n for n, _ in rows], [at for _, at in rows])))

    store(pending)
    pending = []
    for what, count in [*moves, ("h", 1)]:
        clock_ms += 1
        if what == "h":
            pending += [(number + n, clock_ms) for n in range(count)]
            number += count
        else:
            if what == "l":
                unseen |= set(range(number, number + count))
                number += count
            absences.note(clock_ms + 1)
            clock_ms += 1
            if len(pending) >= flush:
                store(pending)
                pending = []
    store(pending)
    covered = {n for gap in gaps for n in range(int(gap.hole.after or 0) + 1, int(gap.hole.before or 0))}
    assert unseen <= covered
    assert all(unseen & set(range(int(gap.hole.after or 0) + 1, int(gap.hole.before or 0))) for gap in gaps)
