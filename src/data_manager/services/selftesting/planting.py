"""Faults, planted: a tape and chance in, damaged messages and what was done to them out. Pure.

    drop       rows of a numbered or gridded series never come     named exactly: series, span, neighbours, count
    chain      changes of a book never come                        the broken link, exactly
    double     a message comes twice                               counted as duplicate, nothing stored twice
    reorder    messages of two seconds come in another order       nothing is said, the same is stored
    corrupt    a message is cut off, or a value is spoilt          a dead letter, or a check blames the row
    late       messages come half a minute late                    in the end all is stored and nothing is missing
    clock      the times in a message are off                      a dead letter, or a check blames the row
    stall      a series falls silent                               a finding of that series in that span
    mislabel   a book bears another symbol's label                 a dead letter

Messages are spoilt as text, a value for another: what a value is called on the wire nobody here needs to know.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Final

from msgspec import Struct

from data_manager.domain.checks import CHECKS
from data_manager.domain.continuity import Chained, Grid, MaxSilence, Numbered
from data_manager.domain.dataset import Kind, Series
from data_manager.domain.errors import BadQuery
from data_manager.domain.span import Span
from data_manager.domain.spikes import REACH
from data_manager.domain.time import DAY_MS, INTERVALS_MS, MINUTE_MS, SECOND_MS
from data_manager.services.selftesting.reading import Tape, Told
from data_manager.services.selftesting.tape import Message

PER_SERIES: Final = 3
_EDGE: Final = 2  # rows left as they are before, after and between faults of one series
_WINDOW_MS: Final = 2 * SECOND_MS
_LATE_MS: Final = 30 * SECOND_MS
_STALL_MS: Final = 70 * SECOND_MS  # longer than a series that is watched may be silent
_OFF_MS: Final = (3 * DAY_MS, 10 * MINUTE_MS, -10 * MINUTE_MS)


class Hole(Struct, frozen=True):
    """What has to be said of missing rows, to the last figure. missing: None where nobody can count them."""

    start_ms: int
    end_ms: int
    missing: int | None
    after: int
    before: int


class Planted(Struct, frozen=True, kw_only=True):
    """One fault. at_ms: when it could first be noticed, by the time of receipt.

    spans: the times of the rows it touches, as they are and as the message says. rows: series and key of those that may
    be held otherwise than without the fault. keys: of all it touches. payload: the message as it was spoilt.
    """

    fault: str
    series: str
    symbol: str
    wire: str
    at_ms: int
    spans: tuple[Span, ...]
    rows: tuple[tuple[str, int], ...] = ()
    keys: tuple[int, ...] = ()
    payload: bytes = b""
    hole: Hole | None = None


class Damage(Struct, frozen=True):
    """A damaged copy of a tape, by time of receipt, and the truth about it."""

    messages: Sequence[Message]
    planted: Sequence[Planted]


Plant = Callable[[Tape, Random], Damage]


def drop(tape: Tape, chance: Random) -> Damage:
    """Rows of series with ids or a grid, some in a row, go."""
    return _removed(tape, chance, "drop", Numbered | Grid)


def chain(tape: Tape, chance: Random) -> Damage:
    """Changes of books go."""
    return _removed(tape, chance, "chain", Chained)


def _removed(tape: Tape, chance: Random, fault: str, rules: object) -> Damage:
    planted: list[Planted] = []
    gone: set[int] = set()
    for series, rows in tape.rows.items():
        if isinstance(rows[0].dataset.continuity, rules) and _unbroken(series, rows):  # type: ignore[arg-type]
            for first, last in _runs(rows, chance, 3):
                some = rows[first : last + 1]
                gone |= {one.position for one in some}
                hole = _hole(series, rows[first - 1], some, rows[last + 1])
                planted.append(_planted(fault, some, at_ms=rows[last + 1].received_ms, gone=True, hole=hole))
    return Damage(_without(tape, gone), planted)


def _unbroken(series: Series, rows: Sequence[Told]) -> bool:
    """Whether the rows have no holes of their own, as far as keys tell; what a book's keys tell stands in its rows."""
    rule = rows[0].dataset.continuity
    if isinstance(rule, Chained):
        return all(getattr(later.event, "previous_update_id", None) in (None, one.key) for one, later in pairwise(rows))
    step = INTERVALS_MS[series.interval or ""] if isinstance(rule, Grid) else 1
    return all(later.key - one.key == step for one, later in pairwise(rows))


def _hole(series: Series, before: Told, some: Sequence[Told], after: Told) -> Hole:
    rule = before.dataset.continuity
    if isinstance(rule, Grid):
        return Hole(some[0].key, after.key, len(some), before.key, after.key)
    times = (before.time_ms, after.time_ms)
    count = len(some) if isinstance(rule, Numbered) else None
    return Hole(min(times), max(times) + 1, count, before.key, after.key)


def double(tape: Tape, chance: Random) -> Damage:
    """Messages come again: at once, soon, or after a while."""
    again: list[Message] = []
    planted: list[Planted] = []
    for rows in tape.rows.values():
        for first, _ in _runs(rows, chance, 1):
            row = rows[first]
            at_ms = min(row.received_ms + chance.choice((0, SECOND_MS, _LATE_MS)), tape.end_ms)
            again.append(Message(at_ms, row.payload))
            planted.append(_planted("double", [row], at_ms=at_ms))
    return Damage(_sorted([*tape.messages, *again]), planted)


def reorder(tape: Tape, chance: Random) -> Damage:
    """Stretches of two seconds, all series together, are shuffled."""
    messages = list(tape.messages)
    told = {one.position: one for rows in tape.rows.values() for one in rows}
    planted: list[Planted] = []
    for at_ms in _moments(tape, chance, 2 * PER_SERIES, _WINDOW_MS):
        inside = [at for at, one in enumerate(messages) if at_ms <= one.received_ms < at_ms + _WINDOW_MS]
        shuffled = chance.sample(inside, len(inside))
        for place, source in zip(inside, shuffled, strict=True):
            messages[place] = Message(tape.messages[place].received_ms, tape.messages[source].payload)
            if place != source and source in told:
                planted.append(_planted("reorder", [told[source]], at_ms=tape.messages[place].received_ms))
    return Damage(messages, planted)


def late(tape: Tape, chance: Random) -> Damage:
    """Some rows of each series come half a minute late."""
    moments: dict[int, int] = {}
    planted: list[Planted] = []
    for rows in tape.rows.values():
        for first, last in _runs(rows, chance, 3):
            some = rows[first : last + 1]
            if some[-1].received_ms + _LATE_MS < tape.end_ms:
                moments |= {one.position: one.received_ms + _LATE_MS for one in some}
                planted.append(_planted("late", some, at_ms=some[0].received_ms))
    moved = [Message(moments.get(at, one.received_ms), one.payload) for at, one in enumerate(tape.messages)]
    return Damage(_sorted(moved), planted)


def corrupt(tape: Tape, chance: Random) -> Damage:
    """Messages are cut off; numbers become text, or ten times as large where a check would see it."""
    return _spoilt(tape, chance, "corrupt", _corruptions)


def clock(tape: Tape, chance: Random) -> Damage:
    """Times are days or minutes ahead, or minutes behind, where keys or our own clock tell that they are."""
    return _spoilt(tape, chance, "clock", _shifts)


def mislabel(tape: Tape, chance: Random) -> Damage:
    """Books bear the label of another symbol whose books come too, and whose price is another."""
    symbols = sorted({series.symbol for series, rows in tape.rows.items() if _labelled(rows[0])})

    def wrong(row: Told, _: Sequence[Told]) -> list[tuple[bytes, int]]:
        others = [one for one in symbols if one != row.series.symbol]
        if not (_labelled(row) and others):
            return []
        return [(row.payload.replace(_label(row.series.symbol), _label(chance.choice(others)), 1), 0)]

    return _spoilt(tape, chance, "mislabel", wrong)


def stall(tape: Tape, chance: Random) -> Damage:
    """A series falls silent for longer than it may, and goes on; the last one does not go on."""
    planted: list[Planted] = []
    gone: set[int] = set()
    for rows in tape.rows.values():
        rule = rows[0].dataset.continuity
        silent_ms = (rule.silence_ms if isinstance(rule, MaxSilence) else _STALL_MS) * 5 // 4
        arrivals = sorted(rows, key=lambda one: one.received_ms)
        for at_ms in _moments(tape, chance, 1, silent_ms):
            some = [one for one in arrivals if at_ms <= one.received_ms < at_ms + silent_ms]
            around = len(arrivals) - len(some)
            if len(some) >= _EDGE and around >= 2 * _EDGE and arrivals[0].received_ms < at_ms:
                gone |= {one.position for one in some}
                planted.append(_planted("stall", some, at_ms=at_ms, gone=True))
    return Damage(_without(tape, gone), planted)


PLANTS: Final[Mapping[str, Plant]] = {
    "drop": drop, "chain": chain, "double": double, "reorder": reorder, "corrupt": corrupt, "late": late,
    "clock": clock, "stall": stall, "mislabel": mislabel,
}  # fmt: skip
"""Every class of fault, in the order they are told."""


def require_faults(names: Sequence[str]) -> Sequence[str]:
    """The names. Raises BadQuery for one that is no class of fault."""
    for name in names:
        if name not in PLANTS:
            raise BadQuery("fault", name[:64], f"must be one of {' '.join(PLANTS)}")
    return names


# ── Spoiling ─────────────────────────────────────────────────────────────────────────────────────────────────────────

Spoil = Callable[[Told, Sequence[Told]], list[tuple[bytes, int]]]
"""Ways to spoil a row's message, given all rows of its series: what becomes of it, and how far its times are off."""


def _spoilt(tape: Tape, chance: Random, fault: str, spoil: Spoil) -> Damage:
    messages = list(tape.messages)
    planted: list[Planted] = []
    turn = 0
    for rows in tape.rows.values():
        for first, _ in _runs(rows, chance, 1):
            row = rows[first]
            ways = [one for one in spoil(row, rows) if one[0] != row.payload]
            if ways:
                payload, off_ms = ways[turn % len(ways)]
                turn += 1
                messages[row.position] = Message(row.received_ms, payload)
                one = _planted(fault, [row], at_ms=row.received_ms, gone=True, payload=payload, off_ms=off_ms)
                planted.append(one)
    return Damage(messages, planted)


def _corruptions(row: Told, rows: Sequence[Told]) -> list[tuple[bytes, int]]:
    ways = [(row.payload[: len(row.payload) * 2 // 3], 0)]
    numbers = [one.name for one in row.dataset.fields if one.kind is Kind.NUMBER and getattr(row.event, one.name, None)]
    ways += [(_with(row, name, "many"), 0) for name in numbers[:1]]
    if len(rows) > 2 * REACH + 2 * _EDGE:
        seen = {one.field for one in CHECKS.get(row.dataset.name, ()) if one.rule == "spike"}
        judged = [name for name in numbers if name in seen][:1]
        ways += [(_with(row, name, f"9{getattr(row.event, name)}"), 0) for name in judged]
    return ways


def _with(row: Told, name: str, value: str) -> bytes:
    return row.payload.replace(f'"{getattr(row.event, name)}"'.encode(), f'"{value}"'.encode(), 1)


def _shifts(row: Told, _: Sequence[Told]) -> list[tuple[bytes, int]]:
    judged = any(one.rule == "in_time" for one in CHECKS.get(row.dataset.name, ()))
    if not judged or row.dataset.time in row.dataset.key:
        return []
    names = [one.name for one in row.dataset.fields if one.name.endswith("_ms")]
    times = {str(getattr(row.event, name, None)) for name in names} - {"None"}
    if str(row.time_ms).encode() not in row.payload:
        return []  # it is the envelope's
    ways = []
    for off_ms in _OFF_MS:
        payload = row.payload
        for text in times:
            payload = payload.replace(f":{text}".encode(), f":{int(text) + off_ms}".encode())
        ways.append((payload, off_ms))
    return ways


def _labelled(row: Told) -> bool:
    """Whether nothing but the label of its stream tells whose row it is."""
    name = row.series.symbol.encode()
    return name not in row.payload and _label(row.series.symbol) in row.payload


def _label(symbol: str) -> bytes:
    return f'{{"stream":"{symbol.lower()}@'.encode()


# ── Choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _runs(rows: Sequence[Told], chance: Random, longest: int) -> Iterator[tuple[int, int]]:
    """PER_SERIES stretches of up to longest rows, or fewer, well apart: positions of the first and the last."""
    if len(rows) < 2 * _EDGE + longest:
        longest = 1
    parts = min(PER_SERIES, (len(rows) - _EDGE) // (longest + _EDGE))
    for part in range(parts):
        low = _EDGE + part * (len(rows) - _EDGE) // parts
        high = _EDGE + (part + 1) * (len(rows) - _EDGE) // parts - _EDGE
        length = chance.randint(1, min(longest, high - low))
        first = chance.randint(low, high - length)
        yield first, first + length - 1


def _moments(tape: Tape, chance: Random, count: int, length_ms: int) -> Iterator[int]:
    """Starts of count stretches of that length, spread over the tape; none where it is too short."""
    part_ms = (tape.end_ms - tape.start_ms) // count
    slack_ms = part_ms - length_ms - 2 * _WINDOW_MS
    for part in range(count if slack_ms > 0 else 0):
        yield tape.start_ms + part * part_ms + _WINDOW_MS + chance.randrange(slack_ms)


def _planted(
    fault: str,
    some: Sequence[Told],
    *,
    at_ms: int,
    gone: bool = False,
    payload: bytes = b"",
    off_ms: int = 0,
    hole: Hole | None = None,
) -> Planted:
    """gone: the rows are not held as they were. off_ms: so much later, or earlier, they say they were."""
    series, times = some[0].series, [one.time_ms for one in some]
    span = Span(min(times), max(times) + 1)
    keys = tuple(one.key for one in some)
    return Planted(
        fault=fault,
        series=series.id,
        symbol=series.symbol,
        wire=some[0].dataset.wire,
        at_ms=at_ms,
        spans=(span, Span(span.start_ms + off_ms, span.end_ms + off_ms)) if off_ms else (span,),
        rows=tuple((series.id, key) for key in keys) if gone else (),
        keys=keys,
        payload=payload,
        hole=hole,
    )


def _without(tape: Tape, positions: set[int]) -> list[Message]:
    """A row that came twice by itself goes with both."""
    payloads = {tape.messages[at].payload for at in positions}
    return [one for at, one in enumerate(tape.messages) if at not in positions and one.payload not in payloads]


def _sorted(messages: Sequence[Message]) -> list[Message]:
    return sorted(messages, key=lambda one: one.received_ms)
