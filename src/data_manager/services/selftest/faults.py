"""What can go wrong with a tape, and exactly where it did.

Each fault takes a tape and gives another one, with a list of what was put in: whatever is reported afterwards and
cannot be put down to one of these is a false alarm. Nothing is put in at the ends of a series, where nobody can know.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.holes.continuity import Chained, Continuity, Grid, MaxSilence, Numbered
from data_manager.domain.time import DAY_MS, HOUR_MS, INTERVALS_MS, SECOND_MS
from data_manager.services.selftest.tape import Message, Told

EDGE: Final = 3
"""So many rows at either end of a series are left alone."""

_SHARE: Final = 100  # every so manieth row
_LENGTHS: Final = (1, 1, 1, 2, 5)  # of what is lost in a row
_SILENCE_MS: Final = 90 * SECOND_MS  # longer than any stream that is watched may be silent, whatever the turn
_SHIFTS_MS: Final = (-2 * HOUR_MS, 2 * HOUR_MS, 2 * DAY_MS)


class Missing(NamedTuple):
    """What has to be said of missing rows, to the last figure: half-open times, how many, and the keys beside them."""

    kind: str
    start_ms: int
    end_ms: int
    missing: int | None
    after: int | None
    before: int | None


class Put(Struct, frozen=True, kw_only=True):
    """One thing that was put in. found_as: how it should be reported; keys and times are both inclusive.

    at_ms: when it happened, by the tape's clock. hole: what exactly is missing then. watched: the watch over streams
    must notice too. touched: keys of the rows that may be held otherwise than on the clean tape. label: of a message
    that was given the label of another series, that one.
    """

    found_as: str  # hole, missing, flaw, dead, duplicate, held, changed
    series: str
    key: int
    last_key: int
    start_ms: int
    end_ms: int
    at_ms: int
    payload: bytes = b""
    hole: Missing | None = None
    watched: bool = False
    touched: tuple[int, ...] = ()
    label: str = ""


class Faulty(NamedTuple):
    """A tape with faults. same: it still says all that the clean one says."""

    messages: list[Message]
    puts: list[Put]
    same: bool = False


class Other(NamedTuple):
    """What a message says instead, how that should be reported, and by how much the time of its row is off."""

    found_as: str
    payload: bytes
    shift_ms: int = 0


class Around(NamedTuple):
    """What a fault is made from. every_ms: so often there is an audit; delay_ms: later than two of them overlook."""

    messages: Sequence[Message]
    told: Sequence[Told]
    random: Random
    every_ms: int
    delay_ms: int


Make = Callable[[Around], Faulty]


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def drop(around: Around) -> Faulty:
    """Rows of numbered and timed series are lost: single ones, and a few in a row."""
    return _lost(around, Numbered, Grid)


def chain_break(around: Around) -> Faulty:
    """Changes of a book are lost: its chain is broken."""
    return _lost(around, Chained)


def _lost(around: Around, *kinds: type) -> Faulty:
    gone: list[Told] = []
    puts = []
    for rows in _series(around, *kinds):
        for start, length in _runs(rows, around.random):
            some = rows[start : start + length]
            hole = _hole(rows[start - 1], some, rows[start + length])
            gone += some
            keys = tuple(one.key for one in some)
            put = _put("hole", some[0], around)
            puts.append(replace(put, last_key=keys[-1], end_ms=some[-1].time_ms, hole=hole, touched=keys))
    return Faulty(_without(around.messages, {one.at for one in gone}), puts)


def _runs(rows: Sequence[Told], random: Random) -> Iterator[tuple[int, int]]:
    """Starts and lengths of stretches to lose, so far apart that each is a hole of its own."""
    last, end_ms = 0, rows[0].time_ms
    inner = range(EDGE, len(rows) - EDGE)
    for start in sorted(random.sample(inner, min(len(inner), max(1, len(rows) // _SHARE)))):
        length = min(random.choice(_LENGTHS), len(rows) - EDGE - start) if last else 1  # of a short series a single one
        around = rows[start - 1 : start + length + 1]
        beside_ms = sorted((around[0].time_ms, around[-1].time_ms))
        if start > last + EDGE - 1 and beside_ms[0] >= end_ms and _unbroken(around):
            yield start, length
            last, end_ms = start + length, beside_ms[1] + 1


def _unbroken(rows: Sequence[Told]) -> bool:
    """Whether the tape lacks nothing there by itself, as far as keys tell."""
    step = _step(rows[0])
    return step is None or all(later.key - one.key == step for one, later in pairwise(rows))


def _step(row: Told) -> int | None:
    """From one key to the next; None where that is not fixed."""
    rule: Continuity = row.dataset.continuity
    if isinstance(rule, Grid):
        return INTERVALS_MS[row.series.interval or ""]
    return 1 if isinstance(rule, Numbered) else None


def _hole(before: Told, some: Sequence[Told], after: Told) -> Missing:
    rule, beside = before.dataset.continuity, (before.key, after.key)
    if isinstance(rule, Grid):
        return Missing("grid", some[0].key, after.key, len(some), *beside)
    times = (before.time_ms, after.time_ms)
    kind, count = ("ids", len(some)) if isinstance(rule, Numbered) else ("chain", None)
    return Missing(kind, min(times), max(times) + 1, count, *beside)


def stall(around: Around) -> Faulty:
    """A stream falls silent for longer than its kind ever is, and goes on."""
    gone: set[int] = set()
    puts = []
    for rows in _series(around, MaxSilence):
        continuity = rows[0].dataset.continuity
        assert isinstance(continuity, MaxSilence)
        times, length_ms = [one.time_ms for one in rows], max(2 * continuity.silence_ms + SECOND_MS, _SILENCE_MS)
        latest_ms = times[-EDGE] - length_ms
        if latest_ms <= times[EDGE]:
            continue  # the tape is too short for it
        begin = bisect_left(times, around.random.randint(times[EDGE], latest_ms))
        end = bisect_left(times, times[begin] + length_ms)
        some = rows[begin:end]
        gone |= {one.at for one in some}
        hole = Missing("silence", times[begin - 1] + 1, times[end], None, rows[begin - 1].key, rows[end].key)
        at_ms = around.messages[rows[begin].at].at_ms + continuity.silence_ms
        puts.append(
            Put(
                found_as="hole", series=rows[0].series.id, key=rows[begin].key, last_key=some[-1].key,
                start_ms=times[begin - 1], end_ms=times[end], at_ms=at_ms, hole=hole, watched=True,
                touched=tuple(one.key for one in some),
            )
        )  # fmt: skip
    return Faulty(_without(around.messages, gone), puts)


# ── The same, differently ────────────────────────────────────────────────────────────────────────────────────────────


def double(around: Around) -> Faulty:
    """Messages come twice, at once or some seconds later."""
    twice = _some([one for one in around.told if one.closed], around.random)
    added = [
        Message(message.at_ms + around.random.choice((0, 1, 3 * SECOND_MS)), message.payload)
        for message in (around.messages[one.at] for one in twice)
    ]
    puts = [_put("duplicate", one, around) for one in twice]
    return Faulty(sorted([*around.messages, *added], key=lambda one: one.at_ms), puts, same=True)


def reorder(around: Around) -> Faulty:
    """Messages overtake one another by up to some seconds; not those whose time is that of their arrival."""
    messages, fixed = list(around.messages), {one.at for one in around.told if not one.timed}
    moved: set[int] = set()
    for start in range(0, len(messages), 400):
        block = [place for place in range(start, min(start + 60, len(messages))) if place not in fixed]
        shuffled = around.random.sample(block, len(block))
        for place, origin in zip(block, shuffled, strict=True):
            messages[place] = Message(around.messages[place].at_ms, around.messages[origin].payload)
        moved |= {place for place, origin in zip(block, shuffled, strict=True) if place != origin}
    puts = [_put("held", one, around) for one in around.told if one.at in moved and one.closed]
    return Faulty(messages, puts, same=True)


def delay(around: Around) -> Faulty:
    """Messages come so late that audits have missed them meanwhile."""
    last_ms = around.messages[-1].at_ms - around.delay_ms - SECOND_MS
    late: dict[int, Told] = {}
    for rows in _series(around, Numbered, Grid):
        # A hole in ids shows only once the row after it is there: every other row, where that one comes soon.
        at_ms = [around.messages[one.at].at_ms for one in rows]
        soon = range(EDGE, len(rows) - EDGE, 2)
        inner = [rows[n] for n in soon if at_ms[n] < last_ms and at_ms[n + 1] - at_ms[n] <= around.every_ms]
        late |= {one.at: one for one in _some(inner, around.random)}
    messages = [
        Message(one.at_ms + around.delay_ms, one.payload) if at in late else one
        for at, one in enumerate(around.messages)
    ]
    puts = [_put("missing", one, around) for one in late.values()]
    return Faulty(sorted(messages, key=lambda one: one.at_ms), puts, same=True)


# ── Something else ───────────────────────────────────────────────────────────────────────────────────────────────────


def corrupt(around: Around) -> Faulty:
    """Values are not what they were: impossible ones, cut messages, candles that contradict themselves, prices afar."""

    def broken(one: Told, number: int) -> Other:
        payload = around.messages[one.at].payload
        if isinstance(one.dataset.continuity, Grid):
            contradictory = _changed(payload, lambda data: data["k"].update(h=data["k"]["l"], l=data["k"]["h"]))
            return Other("dead", contradictory)
        kinds: tuple[Callable[[], Other], ...] = (
            lambda: Other("dead", _changed(payload, lambda data: data.update(p=f"-{data['p']}"))),
            lambda: Other("dead", payload[:-12]),
            lambda: Other("dead", _changed(payload, lambda data: data.update(q="many"))),
            lambda: Other("flaw", _changed(payload, lambda data: data.update(p=f"{float(data['p']) * 3:.2f}"))),
        )
        return kinds[number % len(kinds)]()

    return _replaced(around, _series(around, Numbered, Grid), broken)


def clock_shift(around: Around) -> Faulty:
    """Times are hours behind, hours ahead or days ahead, while ids go on. What is days ahead cannot be kept."""

    def shifted(one: Told, number: int) -> Other:
        by_ms = _SHIFTS_MS[number % len(_SHIFTS_MS)]

        def shift(data: dict[str, Any]) -> None:
            data.update({name: data[name] + by_ms for name in ("E", "T")})

        found_as = "dead" if by_ms > DAY_MS else "flaw"
        return Other(found_as, _changed(around.messages[one.at].payload, shift), by_ms)

    return _replaced(around, _series(around, Numbered), shifted)


def mislabel(around: Around) -> Faulty:
    """Books without a symbol arrive under the label of another one."""
    books = [
        one
        for one in around.told
        if b'"lastUpdateId"' in around.messages[one.at].payload and b'"stream":"' in around.messages[one.at].payload
    ]
    symbols = sorted({one.series.symbol for one in books})
    if len(symbols) < 2:
        return Faulty(list(around.messages), [])

    def other(symbol: str) -> str:
        return next(one for one in symbols if one != symbol)

    def relabelled(one: Told, number: int) -> Other:
        mine, theirs = (
            f'"stream":"{symbol.lower()}@'.encode() for symbol in (one.series.symbol, other(one.series.symbol))
        )
        return Other("dead", around.messages[one.at].payload.replace(mine, theirs))

    faulty = _replaced(around, [books[10 * EDGE : -EDGE]], relabelled)
    labels = {one.series.id: replace(one.series, symbol=other(one.series.symbol)).id for one in books}
    return faulty._replace(puts=[replace(one, label=labels[one.series]) for one in faulty.puts])


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _series(around: Around, *kinds: type) -> list[list[Told]]:
    """Final rows of the series of these kinds, each in order of its key; of those long enough to have a middle."""
    found: dict[str, list[Told]] = defaultdict(list)
    for one in around.told:
        if one.closed and isinstance(one.dataset.continuity, kinds):
            found[one.series.id].append(one)
    return [sorted(rows, key=lambda one: one.key) for _, rows in sorted(found.items()) if len(rows) > 4 * EDGE]


def _some(rows: Sequence[Told], random: Random) -> list[Told]:
    """About one of a hundred, at least one."""
    return random.sample(list(rows), min(len(rows), max(1, len(rows) // _SHARE))) if rows else []


def _without(messages: Iterable[Message], gone: Iterable[int]) -> list[Message]:
    places = set(gone)
    return [one for at, one in enumerate(messages) if at not in places]


def _replaced(around: Around, series: Iterable[Sequence[Told]], change: Callable[[Told, int], Other]) -> Faulty:
    """Some messages say something else."""
    messages, puts = list(around.messages), []
    for rows in series:
        for number, one in enumerate(_some(rows[EDGE:-EDGE], around.random)):
            other = change(one, number)
            messages[one.at] = Message(around.messages[one.at].at_ms, other.payload)
            put = _put(other.found_as, one, around, other.payload, other.shift_ms)
            puts.append(replace(put, touched=(one.key,)))
    return Faulty(messages, puts)


def _put(found_as: str, one: Told, around: Around, payload: bytes = b"", shift_ms: int = 0) -> Put:
    return Put(
        found_as=found_as, series=one.series.id, key=one.key, last_key=one.key, start_ms=one.time_ms + shift_ms,
        end_ms=one.time_ms + shift_ms, at_ms=around.messages[one.at].at_ms, payload=payload,
    )  # fmt: skip


def _changed(payload: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The message with another event in it, whatever it is wrapped in."""
    message = json.loads(payload)
    change(message.get("data", message))
    return json.dumps(message, separators=(",", ":")).encode()


FAULTS: Final[dict[str, Make]] = {
    "drop": drop,
    "chain_break": chain_break,
    "double": double,
    "reorder": reorder,
    "delay": delay,
    "stall": stall,
    "corrupt": corrupt,
    "clock_shift": clock_shift,
    "mislabel": mislabel,
}
"""By class of fault, how it is put into a tape."""

REQUIRED: Final = ("drop", "chain_break", "double", "tamper")
"""Classes of which every single one must be found, each exactly, and nothing else."""
