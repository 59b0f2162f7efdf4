"""Days that are over are certified as soon as they are audited, once each: by the replica that leads, a few at a time.

A day waits while rows of it are still coming in, while it is not audited as far as its rows reach, and while a hole in
it may still be mended. What cannot be read waits for somebody to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
from msgspec import Struct

from data_manager.domain.condition.partition import Condition as Word
from data_manager.domain.condition.partition import Range
from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.retention import piece_of
from data_manager.domain.span import Span
from data_manager.domain.time import HOUR_MS, MINUTE_MS
from data_manager.ports import Clock, SeriesStore
from data_manager.ports.truth import TruthStore
from data_manager.services.conditions import Conditions
from data_manager.services.keeping.certify import Certifier

SETTLED_MS: Final = 10 * MINUTE_MS
"""So long nothing came into a day before it is certified."""

MENDED_MS: Final = HOUR_MS
"""So long a new hole may be mended before its day is certified with it."""

_SECONDS_MAX: Final = 20.0
_AGAIN_MS: Final = 2 * MINUTE_MS
_WAITING_MAX: Final = 8  # pieces of one series that are looked at again each time because they were not ready
_log = structlog.get_logger(__name__)


class Certified(Struct, frozen=True):
    """What a turn came to. more: it ended before everything was looked at."""

    issued: int
    waiting: int
    more: bool


class CertifyDays:
    """Knows which days of one store are certified. failed: pieces that cannot be read, by series."""

    def __init__(
        self,
        store: SeriesStore,
        truth: TruthStore,
        certifier: Certifier,
        conditions: Conditions,
        clock: Clock,
        *,
        seconds_max: float = _SECONDS_MAX,
    ) -> None:
        self.failed: dict[str, str] = {}
        self._store = store
        self._truth = truth
        self._certifier = certifier
        self._conditions = conditions
        self._clock = clock
        self._seconds_max = seconds_max
        self._known: set[tuple[str, int, int]] = set()  # series and span of every certificate
        self._known_to_ms = 0
        self._rests_until_ms: dict[str, int] = {}  # until when there is nothing to do for a series
        self._not_before_ms: dict[tuple[str, int], int] = {}  # the same for a piece

    async def run(self, truth: TruthStore | None = None) -> Certified:
        """One turn. truth: where certificates are kept, such as under a lease."""
        records = truth or self._truth
        until_s = self._clock.monotonic_s() + self._seconds_max
        await self._learn()
        known = {one.series: one for one in await self._truth.truths() if one.mark is not None}
        issued = waiting = 0
        for series in await self._store.series():
            if series.id in known and self._rests_until_ms.get(series.id, 0) <= self._clock.now_ms():
                done = await self._of(series, known[series.id], records, until_s)
                issued, waiting = issued + done.issued, waiting + done.waiting
                if done.more:
                    return Certified(issued, waiting, True)
        return Certified(issued, waiting, False)

    async def _learn(self) -> None:
        """What was certified since, by whomever."""
        for ref in await self._truth.certificate_refs(from_ms=self._known_to_ms):
            self._known.add((ref.series, ref.start_ms, ref.end_ms))
            self._known_to_ms = max(self._known_to_ms, ref.issued_ms)

    async def _of(self, series: Series, known: SeriesTruth, records: TruthStore, until_s: float) -> Certified:
        """All that is due of one series."""
        issued = waiting = 0
        extent = await self._store.extent(series)
        row_ms = None if extent is None else extent.first_ms
        rests_ms = self._clock.now_ms() + HOUR_MS
        while row_ms is not None and waiting < _WAITING_MAX:
            piece = piece_of(series, row_ms)
            if piece.end_ms > self._clock.now_ms() - SETTLED_MS:
                rests_ms = min(rests_ms, piece.end_ms + SETTLED_MS)
                break
            if self._clock.monotonic_s() >= until_s:
                return Certified(issued, waiting, True)
            if (series.id, piece.start_ms, piece.end_ms) not in self._known:
                ready = await self._certified(series, piece, known, records)
                issued, waiting = issued + ready, waiting + (not ready)
            row_ms = await self._next_ms(series, piece.end_ms)
        self._rests_until_ms[series.id] = self._clock.now_ms() + _AGAIN_MS if waiting else rests_ms
        return Certified(issued, waiting, False)

    async def _next_ms(self, series: Series, from_ms: int) -> int | None:
        """The time of the first row from then on; None when there is none that is over."""
        until_ms = self._clock.now_ms() - SETTLED_MS
        if from_ms >= until_ms:
            return None
        names = DATASETS[series.dataset].audited_columns
        found = await self._store.scan(series, Span(from_ms, until_ms), columns=names, limit=1)
        return int(found.time_ms[0]) if len(found) else None

    async def _certified(self, series: Series, piece: Span, known: SeriesTruth, records: TruthStore) -> bool:
        """Certify it if it is ready."""
        now_ms = self._clock.now_ms()
        if self._not_before_ms.get((series.id, piece.start_ms), 0) > now_ms:
            return False
        if may_be_mended(known.holes, piece, now_ms) or not await self._judged(series, piece, now_ms):
            return False
        try:
            read = await self._certifier.read(series, piece)
        except Corrupt as error:
            if series.id not in self.failed:
                _log.error("a day cannot be certified", series=series.id, start_ms=piece.start_ms, reason=str(error))
            self.failed[series.id] = str(error)
            self._not_before_ms[series.id, piece.start_ms] = now_ms + HOUR_MS
            return False
        settles_ms = (read.newest_received_ms or 0) + SETTLED_MS
        if settles_ms > now_ms:
            self._not_before_ms[series.id, piece.start_ms] = settles_ms
            return False
        self._not_before_ms.pop((series.id, piece.start_ms), None)
        await self._certifier.issue(series, piece, read, truth=records)
        self._known.add((series.id, piece.start_ms, piece.end_ms))
        return True

    async def _judged(self, series: Series, piece: Span, now_ms: int) -> bool:
        extent = await self._store.extent(series)
        if extent is None:
            return False
        found = await self._conditions.condition_of(series, piece, now_ms)
        return judged(found.ranges, piece, Span(extent.first_ms, extent.last_ms + 1))


def judged(ranges: Sequence[Range], piece: Span, held: Span) -> bool:
    """Whether the audits came to something for all of the piece between the first and the last row held."""
    start_ms, end_ms = max(piece.start_ms, held.start_ms), min(piece.end_ms, held.end_ms)
    open_words = (Word.PENDING, Word.UNVERIFIED)
    return not any(one.condition in open_words and one.start_ms < end_ms and one.end_ms > start_ms for one in ranges)


def may_be_mended(holes: Sequence[LedgerEntry], piece: Span, now_ms: int) -> bool:
    """Whether a hole of the piece is new, or is being mended."""
    inside = (one for one in holes if one.live and one.start_ms < piece.end_ms and one.end_ms > piece.start_ms)
    unsettled = (HoleState.SUSPECTED, HoleState.HEALING)
    return any(
        one.state in unsettled or (one.state is HoleState.OPEN and now_ms - one.found_ms < MENDED_MS) for one in inside
    )
