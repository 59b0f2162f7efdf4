"""Health: how well each series stands, from what the audits know and from what the store holds last.

    store: extent, newest row, pauses ──┐
    audits: coverage, holes, flaws    ──┴──> SeriesHealth: score, parts, gaps, MTTD, MTTR, error budget

Computed anew where it is asked for, and kept in memory as long as the store's version of a series stands. Nothing here
is written: services/health_log.py does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import structlog
from msgspec import Struct

from data_manager.domain.checks.rules import CHECKS
from data_manager.domain.condition.partition import Flaw, Life
from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Corrupt, NotFound
from data_manager.domain.health import (
    Cadence,
    ErrorBudget,
    Freshness,
    Health,
    Repair,
    cadence,
    error_budget,
    freshness,
    health,
    repair,
    window,
)
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.span import Span, union
from data_manager.domain.time import DAY_MS, HOUR_MS
from data_manager.domain.values.columns import Ints
from data_manager.ports import Clock, Extent, SeriesStore
from data_manager.services.auditing.judging import bracketed, row_end_ms
from data_manager.services.auditing.looking import LIVE_WITHIN_MS
from data_manager.services.conditions import Conditions

PERIOD_MS: Final = 30 * DAY_MS
"""What error budgets, MTTD and MTTR speak for, ending now."""

PROMISED: Final = 0.999
DOUBLED: Final = "told_once"
"""The check that blames a key that stands there twice."""

_LEARN_ROWS: Final = 500
_LEARN_MS: Final = HOUR_MS  # a cadence is learnt anew after so long
_FLAWS_MAX: Final = 200  # flaws whose rows are counted; the others stand for one row each
_SERIES_S: Final = 5.0
_AT_ONCE: Final = 8  # series that the store is asked about at a time
_log = structlog.get_logger(__name__)


class SeriesHealth(Struct, frozen=True, kw_only=True):
    """The health of one series as of now_ms, and all it was made of. What is None is not known.

    window: what completeness and gaps speak for. awaited: rows are due (silence is not normal, the series is fed as it
    happens, the symbol lives). repair and budget speak for the last PERIOD_MS.
    """

    series: Series
    now_ms: int
    health: Health
    window: Span | None
    completeness: float | None  # 0 to 1
    freshness: Freshness | None
    cadence: Cadence | None
    awaited: bool
    rows: int | None
    first_ms: int | None
    last_ms: int | None
    gaps: int | None
    open_holes: int
    duplicates: int | None
    invalid: int | None
    repair: Repair
    budget: ErrorBudget | None
    audited_ms: int | None

    @property
    def consistency(self) -> float | None:
        """The share of rows that break no check, 0 to 1; None where none was checked."""
        return next((part.value for part in self.health.parts if part.name == "validity" and part.applies), None)


class _Held(NamedTuple):
    """What the store holds of a series: nothing where extent is None, and nobody knows what where it is damaged."""

    version: int | None
    extent: Extent | None
    fed: bool  # the newest row came as it happened


class HealthBook:
    """Tells the health of series. promised: the completeness that error budgets are counted from."""

    def __init__(self, store: SeriesStore, conditions: Conditions, clock: Clock, *, promised: float = PROMISED) -> None:
        self._store = store
        self._conditions = conditions
        self._clock = clock
        self._promised = promised
        self._held: dict[Series, _Held] = {}
        self._cadences: dict[Series, tuple[Cadence | None, int]] = {}
        self._counted: dict[Series, tuple[int, int, int]] = {}  # version of the truth, doubled rows, invalid rows
        self._every: list[SeriesHealth] = []
        self._every_s, self._every_state = float("-inf"), 0
        self._series: list[Series] = []
        self._series_s, self._series_state = float("-inf"), 0
        self._turn = asyncio.Lock()

    async def of(self, series: Series) -> SeriesHealth:
        """The health of one series, whether it holds anything or not. Raises Unavailable."""
        await self._conditions.refresh()
        now_ms = self._clock.now_ms()
        truth, life = self._conditions.known_of(series)
        held = await self._look(series)
        doubled, invalid = await self._count_flawed(series, truth)
        return await self._assessed(series, held, truth, life, doubled, invalid, now_ms)

    async def every(self, max_age_s: float = 0.0) -> list[SeriesHealth]:
        """The health of every series that holds a row, by id. Raises Unavailable.

        It may be so many seconds old, but never older than what an audit entered.
        """
        await self._conditions.refresh()  # a metadata store that is frozen holds up who asks, not who comes next
        async with self._turn:
            await self._conditions.refresh()
            state = self._conditions.state
            if state == self._every_state and self._clock.monotonic_s() - self._every_s < max_age_s:
                return self._every
            held = await self._all_held()
            found: list[SeriesHealth] = []
            for at in range(0, len(held), _AT_ONCE):
                found += await asyncio.gather(*(self.of(one) for one in held[at : at + _AT_ONCE]))
            self._forget_all_but(held)
            self._every, self._every_s, self._every_state = found, self._clock.monotonic_s(), state
            return found

    async def of_pair(self, market: str, symbol: str, interval: str | None) -> tuple[SeriesHealth, list[Series]]:
        """The health that answers for a pair, and all series held of it.

        With an interval it is that of its candles; without, of its trades, or where none are held of the first series
        in the order of the table. Raises NotFound when nothing was ever held of the pair.
        """
        await self._conditions.refresh()
        order = {name: place for place, name in enumerate(DATASETS)}
        held = [one for one in await self._all_held() if (one.market, one.symbol) == (market, symbol)]
        known = held or self._was_audited(market, symbol)
        if not known:
            held = [one for one in await self._all_held(anew=True) if (one.market, one.symbol) == (market, symbol)]
        held.sort(key=lambda one: (order[one.dataset], one.interval or ""))
        if not known and not held:
            raise NotFound(f"nothing was ever held of {symbol}: GET /health/series lists what is held")
        with_interval = next(one.name for one in DATASETS.values() if one.has_interval)
        spoken_of = held[0] if held and interval is None else Series(market, next(iter(DATASETS)), symbol)
        if interval is not None:
            spoken_of = Series(market, with_interval, symbol, interval)
        return await self.of(spoken_of), held

    async def knows(self, series: Series) -> bool:
        """Whether anything was ever held of a series."""
        await self._conditions.refresh()
        if series.id in self._conditions.known() or series in await self._all_held():
            return True
        return series in await self._all_held(anew=True)

    async def _all_held(self, *, anew: bool = False) -> list[Series]:
        """Every series that holds a row. Some stores have to look at each, so it is asked for every few seconds.

        Sooner when an audit entered something since, and anew for whoever was not found.
        """
        asked_s, state = self._clock.monotonic_s(), self._conditions.state
        if anew or state != self._series_state or asked_s - self._series_s >= _SERIES_S:
            self._series, self._series_s, self._series_state = await self._store.series(), asked_s, state
        return self._series

    def _was_audited(self, market: str, symbol: str) -> bool:
        return any(name.split(".")[:3:2] == [market, symbol] for name in self._conditions.known())

    def _forget_all_but(self, held: Iterable[Series]) -> None:
        kept = set(held)
        for memory in (self._held, self._cadences, self._counted):
            for series in memory.keys() - kept:
                memory.pop(series, None)

    # ---- what the store says -------------------------------------------------------------------------------------

    async def _look(self, series: Series) -> _Held:
        version, known = self._store.version(series), self._held.get(series)
        if known is not None and version is not None and known.version == version:
            return known
        try:
            held = await self._asked(series, version)
        except Corrupt as error:
            _log.warning("the health of a damaged series is not known", series=series.id, reason=str(error))
            held = _Held(version, None, fed=False)
        self._held[series] = held
        return held

    async def _asked(self, series: Series, version: int | None) -> _Held:
        extent = await self._store.extent(series)
        if extent is None:
            return _Held(version, None, fed=False)
        newest = await self._store.last(series, 1)
        received = newest.columns["received_ms"]
        assert isinstance(received, Ints)
        late_ms = int(received.values[-1]) - row_end_ms(series, int(newest.time_ms[-1])) if len(newest) else 0
        fed = late_ms <= LIVE_WITHIN_MS
        if fed and series.interval is None:
            await self._learn_cadence(series)
        return _Held(version, extent, fed)

    async def _learn_cadence(self, series: Series) -> None:
        _, learnt_ms = self._cadences.get(series, (None, 0))
        now_ms, dataset = self._clock.now_ms(), DATASETS[series.dataset]
        if dataset.fresh_within_ms is None or 0 <= now_ms - learnt_ms < _LEARN_MS:
            return
        rows = await self._store.scan(series, None, columns=(dataset.time,), limit=_LEARN_ROWS, descending=True)
        learnt = cadence(rows.time_ms)
        self._cadences[series] = learnt, now_ms if learnt is not None else 0

    async def _count_flawed(self, series: Series, truth: SeriesTruth) -> tuple[int, int]:
        """Rows that stand there twice, and rows that break another check: those in the spans of the flaws."""
        known = self._counted.get(series)
        if known is None or known[0] != truth.version:
            flaws = [one for one in truth.flaws if not one.lost]
            doubled = await self._rows_in(series, [one for one in flaws if one.reason == DOUBLED])
            invalid = await self._rows_in(series, [one for one in flaws if one.reason != DOUBLED])
            known = self._counted[series] = (truth.version, doubled, invalid)
        return known[1], known[2]

    async def _rows_in(self, series: Series, flaws: Sequence[Flaw]) -> int:
        spans = union(Span(one.start_ms, one.end_ms) for one in flaws)
        counted = spans[-_FLAWS_MAX:]
        try:
            rows = [await self._store.count(series, one) for one in counted]
        except Corrupt:
            rows = [1] * len(counted)
        return sum(rows) + len(spans) - len(counted)

    # ---- what follows --------------------------------------------------------------------------------------------

    async def _assessed(
        self, series: Series, held: _Held, truth: SeriesTruth, life: Life, doubled: int, invalid: int, now_ms: int
    ) -> SeriesHealth:
        dataset, extent, mark = DATASETS[series.dataset], held.extent, truth.mark
        checked = mark is not None and extent is not None
        over = life.delisted_ms is not None and life.delisted_ms <= now_ms
        pauses, _ = self._cadences.get(series, (None, 0))
        last_ms = None if extent is None else extent.last_ms
        fresh = freshness(dataset, series.interval, last_ms, now_ms, pauses)
        awaited = dataset.fresh_within_ms is not None and (held.fed or extent is None) and not over
        span = None if extent is None else self._window(series, extent, life, now_ms, None)
        judged = dataset.continuity.verifiable and mark is not None and mark.until_ms is not None
        complete = None if span is None else (await self._conditions.condition_of(series, span, now_ms)).completeness
        scored = health(
            completeness=complete,
            freshness=fresh,
            awaited=awaited,
            checked=bool(CHECKS.get(dataset.name)),
            rows=extent.rows if checked and extent is not None else None,
            repeated=doubled if checked else None,
            invalid=invalid if checked else None,
        )
        return SeriesHealth(
            series=series,
            now_ms=now_ms,
            health=scored,
            window=span,
            completeness=complete,
            freshness=fresh,
            cadence=pauses,
            awaited=awaited,
            rows=None if extent is None else extent.rows,
            first_ms=None if extent is None else extent.first_ms,
            last_ms=last_ms,
            gaps=sum(1 for one in truth.holes if _missing_in(one, span)) if judged and span is not None else None,
            open_holes=sum(1 for one in truth.holes if one.live),
            duplicates=doubled if checked else None,
            invalid=invalid if checked else None,
            repair=repair([one for one in truth.holes if one.found_ms >= now_ms - PERIOD_MS]),
            budget=await self._budget(series, extent, life, now_ms),
            audited_ms=None if mark is None else mark.looked_ms or None,  # 0: an audit was tried, none was done
        )

    def _window(self, series: Series, extent: Extent, life: Life, now_ms: int, window_ms: int | None) -> Span | None:
        judged_ms = self._conditions.judged_until_ms(series, now_ms)
        ends = [one for one in (judged_ms, life.delisted_ms) if one is not None]
        longer = {} if window_ms is None else {"window_ms": window_ms}
        if judged_ms is not None and bracketed(DATASETS[series.dataset].continuity):
            now_ms = min(now_ms, judged_ms)  # beyond the last id nothing can be told but that it is old
        return window(series.interval, extent.first_ms, min(ends, default=None), now_ms, **longer)

    async def _budget(self, series: Series, extent: Extent | None, life: Life, now_ms: int) -> ErrorBudget | None:
        span = None if extent is None else self._window(series, extent, life, now_ms, PERIOD_MS)
        if span is None:
            return None
        found = await self._conditions.condition_of(series, span, now_ms)
        return error_budget(self._promised, found.completeness)


def _missing_in(hole: LedgerEntry, span: Span) -> bool:
    return hole.live and hole.start_ms < span.end_ms and hole.end_ms > span.start_ms
