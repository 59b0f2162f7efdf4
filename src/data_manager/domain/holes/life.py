"""The life of a symbol: when rows of its series can exist, as the venue declares it or as it was learnt.

A symbol that is not listed yet, halted or delisted lacks nothing. Ids and chains know by themselves what is missing, so
a life changes nothing about them: nobody numbers a trade that was not made.
"""

from collections.abc import Iterable

from msgspec import Struct

from data_manager.domain.condition.partition import EVER, Life
from data_manager.domain.holes.continuity import Chained, Continuity, Grid, Hole, MaxSilence, Numbered
from data_manager.domain.span import Span
from data_manager.domain.time import INTERVALS_MS, floor_open_ms, next_open_ms


class SymbolLife(Struct, frozen=True, kw_only=True):
    """The life of one symbol of one market. source: who says so, such as exchangeInfo; told_ms: when."""

    market: str
    symbol: str
    life: Life
    source: str
    told_ms: int


def lived(holes: Iterable[Hole], life: Life, continuity: Continuity, interval: str | None) -> list[Hole]:
    """The holes less the instants in which no rows could exist. A candle that a halt touches is not expected."""
    if life == EVER or isinstance(continuity, Numbered | Chained):
        return list(holes)
    return [
        piece
        for hole in holes
        for part in life.expected(Span(hole.start_ms, hole.end_ms))
        if (piece := _piece(hole, part, continuity, interval)) is not None
    ]


def _piece(hole: Hole, part: Span, continuity: Continuity, interval: str | None) -> Hole | None:
    """The hole cut to a part of it; None when nothing is missing there."""
    if (part.start_ms, part.end_ms) == (hole.start_ms, hole.end_ms):
        return hole
    missing = None
    start_ms, end_ms = part.start_ms, part.end_ms
    if isinstance(continuity, Grid) and interval is not None and interval != "3d":
        opened = floor_open_ms(start_ms, interval)
        start_ms = opened if opened == start_ms else next_open_ms(opened, interval)
        end_ms = floor_open_ms(end_ms, interval)
        length = INTERVALS_MS[interval]
        missing = None if length is None else (end_ms - start_ms) // length
    if start_ms >= end_ms or (isinstance(continuity, MaxSilence) and end_ms - start_ms <= continuity.shortest_ms):
        return None
    after = hole.after if start_ms == hole.start_ms else None
    before = hole.before if end_ms == hole.end_ms else None
    return Hole(start_ms, end_ms, missing, after, before, hole.kind)
