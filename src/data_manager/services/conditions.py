"""Conditions: what may be believed of any range of a series, now. Travels with every answer.

What the audits know is kept in memory and refreshed when its version changes, at most once a second. Most of what is
asked for was judged long ago: that part of the partition is laid out once per version, and an answer is cut from it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import structlog

from data_manager.domain.condition.partition import EVER, Flaw, Known, Life, Range, completeness, joined, ranges
from data_manager.domain.condition.partition import Condition as Word
from data_manager.domain.condition.truth import Mark, SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt, Unavailable
from data_manager.domain.holes.continuity import Grid, MaxSilence, Schedule
from data_manager.domain.holes.life import SymbolLife
from data_manager.domain.retention import LET_GO
from data_manager.domain.span import Span
from data_manager.domain.time import EARLIEST_MS, INTERVALS_MS, LATEST_MS, MINUTE_MS
from data_manager.ports import Clock
from data_manager.ports.truth import TruthStore
from data_manager.services.answering.query import Page, Query
from data_manager.services.audit import GRACE_MS
from data_manager.services.auditing.entering import RULE_VERSION
from data_manager.services.auditing.judging import SCHEDULE_GRACE_MS, row_end_ms, settled_ms, whole_until_ms

LATE_MS: Final = 15 * MINUTE_MS
"""An audit may be so long ago; what came since is pending. When it is longer ago, nobody looks: it is unverified."""

_MONTH_MS: Final = 31 * 86_400_000
_REFRESH_S: Final = 0.9  # whoever asks once a second is told each time
_REFRESH_MS: Final = 1_000  # what changes with every millisecond is said again after so long
_TRUSTED_S: Final = 30.0  # so long after the metadata store told us everything we believe to know it
_LIVES_S: Final = 60.0  # lives of symbols are asked for so often
_CHANGE: Final = 2**40  # more than a series has versions
_AT_ONCE: Final = 250  # series learnt in one go
_CANNOT_TELL: Final = -1
_log = structlog.get_logger(__name__)


class Condition(NamedTuple):
    """Of one range: covered / expected time (None: unknown), and the ranges that partition it."""

    completeness: float | None
    ranges: list[Range]


NOTHING: Final = Condition(None, [])
"""Of no instant at all."""


class Said(NamedTuple):
    """A condition, and what it rests on: the version of what is known, and until when that alone tells it."""

    condition: Condition
    version: int
    until_ms: int | None  # by our clock; None: time changes nothing about it


class Conditions:
    """Answers from what the audits entered, as far as it was learnt by refresh().

    at_hand() is for answers with rows: it never waits and never fails. keep_up() is to be called again and again, so
    that it knows. condition_of() learns what is new first, and raises what the metadata store raises.
    """

    def __init__(self, truth: TruthStore, clock: Clock, *, grace_ms: int = GRACE_MS, late_ms: int = LATE_MS) -> None:
        self._truth = truth
        self._clock = clock
        self._grace_ms = grace_ms
        self._late_ms = late_ms
        self._known: dict[str, _Known] = {}
        self._lives: dict[tuple[str, str], Life] = {}  # by market and symbol
        self._life_changes = 0
        self._state = 0  # of all truths, as it was when we learnt them
        self._lives_learnt_s = float("-inf")
        self._learnt_s = float("-inf")  # when we were told everything last
        self._reason: str | None = None

    async def condition_of(self, series: Series, span: Span, now_ms: int | None = None) -> Condition:
        """The condition of every instant of the span. now_ms: judge as of then instead of now."""
        await self.refresh()
        return self._said(series, span, self._clock.now_ms() if now_ms is None else now_ms).condition

    def said(self, series: Series, span: Span, now_ms: int) -> Condition:
        """The condition by what is known here, judged as of now_ms."""
        return self._said(series, span, now_ms).condition

    def at_hand(self, series: Series, span: Span | None) -> Said:
        """The condition as far as it is known here; unverified while the metadata store cannot tell."""
        version = self.version(series)
        if span is None:
            return Said(NOTHING, version, None)
        if version == _CANNOT_TELL:
            unknown = Range(span.start_ms, span.end_ms, Word.UNVERIFIED, "the metadata store cannot tell")
            return Said(Condition(None, [unknown]), version, None)
        return self._said(series, span, self._clock.now_ms())

    def holds(self, series: Series, version: int, until_ms: int | None) -> bool:
        """Whether what was said on these grounds is still to be said."""
        return version == self.version(series) and (until_ms is None or self._clock.now_ms() < until_ms)

    def version(self, series: Series) -> int:
        """Of what is known of the series here: differs whenever an answer may, but for the passing of time."""
        if self._clock.monotonic_s() - self._learnt_s > _TRUSTED_S:
            return _CANNOT_TELL
        known = self._known.get(series.id)
        return self._life_changes * _CHANGE + (0 if known is None else known.truth.version)

    @property
    def state(self) -> int:
        """Of all that was learnt here: differs whenever any of it may."""
        return self._life_changes * _CHANGE + self._state

    def known(self) -> list[str]:
        """Ids of all series that were ever audited, as far as it was learnt."""
        return list(self._known)

    def known_of(self, series: Series) -> tuple[SeriesTruth, Life]:
        """All that is known of a series here, and its life."""
        known = self._known.get(series.id)
        return SeriesTruth(series=series.id) if known is None else known.truth, self.life_of(series)

    def judged_until_ms(self, series: Series, now_ms: int) -> int | None:
        """Where the audits of a series end; None when nobody keeps them up."""
        known = self._known.get(series.id)
        mark = None if known is None else known.truth.mark
        return None if mark is None or now_ms - mark.looked_ms > self._late_ms else mark.until_ms

    def life_of(self, series: Series) -> Life:
        """When rows of the series can exist, as far as it was learnt."""
        return self._lives.get((series.market, series.symbol), EVER)

    async def keep_up(self) -> None:
        """Learn what was entered since; that this fails is told by the answers, and once in the log."""
        try:
            await self.refresh()
        except (Unavailable, Corrupt) as error:
            if self._reason is None:
                _log.warning("what the audits know cannot be learnt", reason=str(error))
            self._reason = str(error)
        else:
            self._reason = None

    async def refresh(self, *, at_once: bool = False) -> None:
        """Learn what the auditor entered since, unless that was asked for within a second.

        at_once: in any case, so that who was told that an audit is done finds what it entered.
        """
        asked_s = self._clock.monotonic_s()
        if asked_s - self._learnt_s < _REFRESH_S and not at_once:
            return
        if at_once or asked_s - self._lives_learnt_s >= _LIVES_S:
            self._learn_lives(await self._truth.lives())
            self._lives_learnt_s = asked_s
        state = await self._truth.truth_state()
        if state != self._state:
            versions = await self._truth.truth_versions()
            await self._learn([name for name, version in versions.items() if self._version(name) != version])
            self._state = state
        self._learnt_s = max(asked_s, self._learnt_s)

    async def _learn(self, names: Sequence[str]) -> None:
        """What is new of these series, a few at a time: others have their turn in between."""
        for at in range(0, len(names), _AT_ONCE):
            for one in await self._truth.truths(names[at : at + _AT_ONCE]):
                self._known[one.series] = _Known(one, self._lives.get(_whose(one.series), EVER))

    def _learn_lives(self, told: Iterable[SymbolLife]) -> None:
        lives = {(one.market, one.symbol): one.life for one in told}
        for name, known in list(self._known.items()):
            life = lives.get(_whose(name), EVER)
            if known.life != life:
                self._known[name] = _Known(known.truth, life)
        if lives != self._lives:
            self._lives = lives
            self._life_changes += 1

    def _version(self, name: str) -> int:
        known = self._known.get(name)
        return 0 if known is None else known.truth.version

    def _said(self, series: Series, span: Span, now_ms: int) -> Said:
        life = self.life_of(series)
        known = self._known.get(series.id) or _Known(SeriesTruth(series=series.id), life)
        settled_ms, turn_ms = self._settled_ms(series, known.truth.mark, now_ms)
        found = known.ranges(span, settled_ms, now_ms, DATASETS[series.dataset].continuity.verifiable)
        condition = Condition(completeness(found, life), found)
        if span.end_ms <= settled_ms:
            until_ms = None
        elif span.end_ms <= now_ms and turn_ms is not None:
            until_ms = turn_ms
        else:
            until_ms = now_ms + _REFRESH_MS
        return Said(condition, self.version(series), until_ms)

    def _settled_ms(self, series: Series, mark: Mark | None, now_ms: int) -> tuple[int, int | None]:
        """From where on it is too early to judge, or the next audit's turn; and, if so, until when that is its turn."""
        anchor_ms = now_ms if mark is None or mark.until_ms is None else mark.until_ms
        settled = whole_until_ms(series, anchor_ms, settled_ms(series, now_ms, self._grace_ms))
        if mark is None or mark.until_ms is None or now_ms - mark.looked_ms > self._late_ms:
            return settled, None
        recent_until_ms = mark.until_ms + self._late_ms + _pause_ms(series) + 1
        if now_ms >= recent_until_ms:
            return settled, None
        turn_ms = min(mark.looked_ms + self._late_ms + 1, recent_until_ms)
        if settled <= mark.until_ms:
            return settled, None
        return mark.until_ms, turn_ms


class _Known:
    """What is known of one series, with what was judged laid out once: most answers are cut from there."""

    def __init__(self, truth: SeriesTruth, life: Life) -> None:
        self.truth = truth
        self.life = life
        self._judged_ms = EARLIEST_MS if truth.mark is None or truth.mark.until_ms is None else truth.mark.until_ms
        self._parts: list[Range] | None = None
        self._ends: list[int] = []

    def ranges(self, span: Span, settled_ms: int, now_ms: int, verifiable: bool) -> list[Range]:
        """See condition.ranges."""
        cut = min(self._judged_ms, span.end_ms)
        if settled_ms < cut or now_ms < cut or span.start_ms < EARLIEST_MS or span.start_ms >= cut:
            return ranges(span, self._facts(settled_ms, now_ms, verifiable))
        found = self._judged(Span(span.start_ms, cut), verifiable)
        if cut == span.end_ms:
            return found
        return joined([*found, *ranges(Span(cut, span.end_ms), self._facts(settled_ms, now_ms, verifiable))])

    def _judged(self, span: Span, verifiable: bool) -> list[Range]:
        if self._parts is None:
            whole = Span(EARLIEST_MS, self._judged_ms)
            self._parts = ranges(whole, self._facts(LATEST_MS, LATEST_MS, verifiable))
            self._ends = [one.end_ms for one in self._parts]
        found = []
        for at in range(bisect_right(self._ends, span.start_ms), len(self._parts)):
            one = self._parts[at]
            if one.start_ms >= span.end_ms:
                break
            start_ms, end_ms = max(one.start_ms, span.start_ms), min(one.end_ms, span.end_ms)
            found.append(Range(start_ms, end_ms, one.condition, one.reason))
        return found

    def _facts(self, settled_ms: int, now_ms: int, verifiable: bool) -> Known:
        return Known(
            coverage=self.truth.coverage,
            holes=self.truth.holes,
            flaws=(
                *self.truth.flaws,
                *(Flaw(one.start_ms, one.end_ms, LET_GO, lost=True) for one in self.truth.let_go),
            ),
            life=self.life,
            rule_version=RULE_VERSION,
            settled_ms=settled_ms,
            now_ms=now_ms,
            verifiable=verifiable,
        )


def _whose(name: str) -> tuple[str, str]:
    """Market and symbol of a series by its id."""
    market, _, symbol = name.split(".")[:3]
    return market, symbol


def answered_span(query: Query, page: Page) -> Span | None:
    """What a page of rows speaks of: the span asked for as far as the page reaches; None when that is nothing.

    Where no start or no end was asked for, the rows' own times bound it.
    """
    rows, more = page.rows, page.next_cursor is not None
    start_ms, end_ms = query.start_ms, query.end_ms
    if len(rows):
        times = rows.time_ms
        first, last = int(times.min()), row_end_ms(query.series, int(times.max()))
        begun = query.cursor is not None or query.offset > 0
        cut_at_start, cut_at_end = (begun, more) if query.forward else (more, begun)
        start_ms = first if start_ms is None or cut_at_start else start_ms
        end_ms = last if end_ms is None or cut_at_end else end_ms
    return None if start_ms is None or end_ms is None or start_ms >= end_ms else Span(start_ms, end_ms)


def _pause_ms(series: Series) -> int:
    """How far behind now an audit that is up to date may end."""
    continuity = DATASETS[series.dataset].continuity
    if isinstance(continuity, Grid) and series.interval:
        return INTERVALS_MS[series.interval] or _MONTH_MS
    if isinstance(continuity, Schedule):
        return SCHEDULE_GRACE_MS
    return continuity.silence_ms if isinstance(continuity, MaxSilence) else 0
