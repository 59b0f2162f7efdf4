"""What one source lacks is asked of the others before anybody calls it absent: no source is complete by its own word.

the first ── lacks ──> another, that stretch only ──┬── rows, which are appended
                                                    ├── lacks it too: absent, with both answers as evidence
                                                    ├── refuses for good: absent, as the first says
                                                    └── cannot be asked now: absent, in doubt
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import accumulate, islice
from typing import Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from data_manager.domain.batch import Batch
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, NotFound
from data_manager.domain.finding import Evidence
from data_manager.domain.holes.continuity import Numbered
from data_manager.domain.job import Absent, Piece, Target, expected_rows
from data_manager.domain.span import Span, difference, intersection
from data_manager.ports import Clock
from data_manager.ports.source import Fetched, Offer, Source, Wanted
from data_manager.services.backfilling.choosing import Failed, Step
from data_manager.services.backfilling.lacking import edge_of, lacking

APART_MAX: Final = 8
"""Stretches of an answer that another source is asked for one by one; of more, for all between the first and the last.

Ids are always asked for one by one, and no more than so many at once: the rest stays in doubt until asked for again.
"""

REFUSALS: Final = (BadQuery, NotFound)
"""What a source that refuses for good raises: it will say the same the next time."""

Fetch = Callable[[Wanted, Step], AsyncGenerator[Fetched]]
Stored = Callable[[Fetched, Offer], Awaitable[Piece]]


class Seconded(NamedTuple):
    """What is absent after the others were asked, and what they gave."""

    absent: tuple[Absent, ...]
    pieces: list[Piece]


class Second:
    """Asks other sources. fetch raises Failed; stored appends rows and counts them."""

    def __init__(self, series: Series, fetch: Fetch, stored: Stored, clock: Clock) -> None:
        self._series = series
        self._fetch = fetch
        self._stored = stored
        self._clock = clock
        self.refusal: Failed | None = None  # the last one for good

    async def ask(self, others: Sequence[Source], first: Offer, absent: Sequence[Absent]) -> Seconded:
        """Ask them for what the answer to first lacks. Raises what stored raises."""
        left, pieces = list(absent), list[Piece]()
        for other in others if absent else ():
            left = await self._ask(other, first, left, pieces)
        return Seconded(tuple(left), pieces)

    async def _ask(self, other: Source, first: Offer, absent: Sequence[Absent], pieces: list[Piece]) -> list[Absent]:
        asked, lacks, unasked = list[Span](), list[Absent](), list[tuple[Span, str]]()
        wished, rest = _wishes(self._series, absent)
        for offer in self._offers(other, first, rest) if rest else ():
            unasked.append((offer.span, f"{offer.call} is not asked for so many at once"))
        for wish in wished:
            for offer in self._offers(other, first, wish.span):
                try:
                    lacks += await self._lacking(wish, Step(other, offer), absent, pieces)
                    asked.append(offer.span)
                except Failed as error:
                    if isinstance(error.cause, REFUSALS):
                        self.refusal = error
                        asked.append(offer.span)
                        lacks.append(_lacks_all(wish, offer, {"why": str(error)[:200]}))
                    else:
                        unasked.append((offer.span, f"{offer.call} could not be asked: {error}"))
        return _doubted(self._series, _agreed(self._series, absent, asked, lacks), unasked)

    def _offers(self, other: Source, first: Offer, span: Span) -> list[Offer]:
        """What it can be asked for now; coarser rows are no answer where finer ones lack."""
        offers = other.offers(Wanted(series=self._series, span=span), self._clock.now_ms())
        return [one for one in offers if first.coarse or not one.coarse]

    async def _lacking(self, wish: Absent, step: Step, absent: Sequence[Absent], pieces: list[Piece]) -> list[Absent]:
        """What it lacks of a stretch. Its rows are appended, as far as the first lacks them."""
        span = step.offer.span
        wanted = Wanted(series=self._series, span=span)
        between = replace(wanted, after=wish.after, before=wish.before) if span == wish.span else wanted
        lacks, before, rows, evidence = list[Absent](), None, 0, Evidence()
        async with aclosing(self._fetch(wanted, step)) as answer:
            async for fetched in answer:
                now_ms = self._clock.now_ms()
                lacks += lacking(self._series, between, step.offer, fetched, before, now_ms, may_burn=False).absent
                before, evidence = edge_of(fetched, before), fetched.evidence
                rows += len(fetched.rows) + fetched.broken
                pieces.append(await self._stored(replace(fetched, rows=_inside(fetched.rows, absent)), step.offer))
        if not rows and not lacks:  # a rule that sees holes between rows only
            lacks = [_lacks_all(wish, step.offer, evidence)]
        return lacks


def _wishes(series: Series, absent: Sequence[Absent]) -> tuple[list[Absent], Span | None]:
    """What to ask another source for, bounded, and around what is not asked for then."""
    if len(absent) <= APART_MAX:
        return list(absent), None
    first, last = absent[0], absent[-1]
    if isinstance(DATASETS[series.dataset].continuity, Numbered):
        return list(absent[:APART_MAX]), Span(absent[APART_MAX].start_ms, last.end_ms)
    return [Absent(first.start_ms, last.end_ms, None, first.call, first.evidence)], None


def _inside(rows: Batch, absent: Sequence[Absent]) -> Batch:
    """The rows whose time lies in one of the stretches: what the first source gave stands."""
    starts = np.array([one.start_ms for one in absent], np.int64)
    ends = np.maximum.accumulate(np.array([one.end_ms for one in absent], np.int64))
    at = np.searchsorted(starts, rows.time_ms, side="right") - 1
    wanted = (at >= 0) & (rows.time_ms < ends[at])
    return rows if wanted.all() else rows.take(wanted)


def _agreed(series: Series, first: Iterable[Absent], asked: Sequence[Span], second: Iterable[Absent]) -> list[Absent]:
    """What of it is absent still, after another source was asked for some spans and lacks what it lacks."""
    lacks = sorted(second, key=lambda one: one.start_ms)
    ends = list(accumulate((one.end_ms for one in lacks), max))
    found: list[Absent] = []
    for one in first:
        found += (_part(series, one, rest) for rest in difference([one.span], asked))
        for other in islice(lacks, bisect_right(ends, one.start_ms), None):
            if other.start_ms >= one.end_ms:
                break
            found += (_both(series, one, other, part) for part in intersection([one.span], [other.span]))
    return sorted(found, key=lambda one: one.start_ms)


def _doubted(series: Series, absent: Iterable[Absent], unasked: Iterable[tuple[Span, str]]) -> list[Absent]:
    """The same, in doubt where another source could not be asked, with the reason."""
    left = list(absent)
    for span, why in unasked:
        outside = [_part(series, one, part) for one in left for part in difference([one.span], [span])]
        doubtful = [_part(series, one, part) for one in left for part in intersection([one.span], [span])]
        left = [*outside, *(replace(one, doubt=one.doubt or why) for one in doubtful)]
    return sorted(left, key=lambda one: one.start_ms)


def _part(series: Series, one: Absent, part: Span) -> Absent:
    if part == one.span:
        return one
    return replace(
        one,
        start_ms=part.start_ms,
        end_ms=part.end_ms,
        missing=_rows(series, part),
        after=one.after if part.start_ms == one.start_ms else None,
        before=one.before if part.end_ms == one.end_ms else None,
    )


def _lacks_all(wish: Absent, offer: Offer, evidence: Evidence) -> Absent:
    """Nothing of what was offered of it came."""
    return replace(
        wish, start_ms=offer.span.start_ms, end_ms=offer.span.end_ms, call=offer.call, evidence=evidence, doubt=None
    )


def _both(series: Series, one: Absent, other: Absent, part: Span) -> Absent:
    """A stretch that two lack, with what both said."""
    known = other if part == other.span else _part(series, one, part)
    second: Evidence = {f"second_{name}": value for name, value in other.evidence.items()}
    return replace(
        known,
        call=f"{one.call}, {other.call}",
        evidence={**one.evidence, "second_call": other.call, **second},
        doubt=one.doubt or other.doubt,
    )


def _rows(series: Series, part: Span) -> int | None:
    return expected_rows(DATASETS[series.dataset], series.interval, [Target(part.start_ms, part.end_ms)])
