"""Reconcile: what is held against REST, against the archive, these two against one another, and candles against fills.

    archive ──> pieces ──┬── held rows of the same stretch
                         └── REST, asked for the same stretch
    REST ─────> pieces ───── held rows of the same stretch
    finer candles, trades ── candles, as the audit judges them

Every difference names the row, the field and both values, and is a finding until a later look at the same stretch finds
none there. What the venue does by its own rules is excused and counted. Nothing is changed by it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Final

import structlog
from msgspec import Struct

from data_manager.domain.batch import STREAM, empty, joined, settle
from data_manager.domain.checks.comparing import DIFFERENCES_MAX, Comparison, RowDifference, compare
from data_manager.domain.checks.crosscheck import CrossCheck, Difference
from data_manager.domain.dataset import Series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery
from data_manager.domain.finding import Finding, FindingKind, finding_id
from data_manager.domain.job import Choice
from data_manager.domain.proof.canonical import facts
from data_manager.domain.span import Span, difference, intersection, union
from data_manager.domain.time import floor_open_ms, next_open_ms
from data_manager.ports import Clock, MetaStore, SeriesStore
from data_manager.ports.source import Digests, Fetched, Offer, Source, Wanted
from data_manager.services.audit import GRACE_MS
from data_manager.services.auditing.crossing import Crossing
from data_manager.services.backfilling.asking import Names, require_source, whole
from data_manager.services.backfilling.offering import require_offer

FINDINGS_MAX: Final = 200
"""Differences told one by one as findings; the rest are in the answer alone."""

_HELD: Final = "held"
_NAMES: Final = Names(dataset="series", start="start")
_OPEN_MAX: Final = 10_000
_log = structlog.get_logger(__name__)

Report = Callable[[Sequence[Finding]], None]
Progress = Callable[[int, int, str], None]


class Compared(Struct, frozen=True, kw_only=True):
    """What came of one comparison. what: held, or the call of a source; to: the call, or the series judged by."""

    what: str
    to: str
    spans: tuple[Span, ...]
    agreed: int
    excused: int
    differing: int
    unjudged: int = 0


class Reconciled(Struct, frozen=True, kw_only=True):
    """What a run came to. unoffered: stretches nobody could be asked for; nothing is said of them."""

    series: str
    start_ms: int
    end_ms: int
    compared: tuple[Compared, ...]
    differences: tuple[RowDifference, ...]
    unoffered: tuple[Span, ...]

    @property
    def differing(self) -> int:
        """Rows that differ, over all comparisons."""
        return sum(one.differing for one in self.compared)


class Reconciler:
    """Compares what one store holds with what sources say. report takes the findings; meta knows those of before."""

    def __init__(
        self, store: SeriesStore, meta: MetaStore, sources: Sequence[Source], clock: Clock, report: Report
    ) -> None:
        self._store = store
        self._meta = meta
        self._sources = sorted(sources, key=lambda one: one.name)  # archives by the file, REST by any stretch
        self._clock = clock
        self._report = report

    async def run(
        self, series: Series, span: Span, *, choice: Choice = "auto", progress: Progress | None = None
    ) -> Reconciled:
        """Compare the rows whose times lie in span, as far as they are settled and anybody can be asked.

        Raises BadQuery for a series nobody can be asked for row by row, a span in which nothing is over or of which
        nobody has anything to compare with; and what sources and store raise: then nothing is reported.
        """
        asked = self._asked(series, span)
        run = _Run(self._store, series, asked, progress or _nobody)
        sources = [one for one in self._sources if choice in ("auto", one.name)]
        for place, source in enumerate(sources):
            await run.against(source, sources[place + 1 :], self._clock.now_ms())
        await run.against_fills()
        done = run.outcome()
        if not done.compared:
            require_offer(self._sources, series, asked, self._clock.now_ms(), choice, _NAMES)
        await self._tell(series, done)
        return done

    def _asked(self, series: Series, span: Span) -> Span:
        require_source(series)
        dataset = DATASETS[series.dataset]
        if dataset.coarse:
            rule = f"{' '.join(dataset.coarse)} are coarser: their rows cannot be compared one by one"
            raise BadQuery("series", series.id, rule)
        settled_ms = self._clock.now_ms() - GRACE_MS
        if span.start_ms >= settled_ms:
            raise BadQuery("start", span.start_ms, "lies in the future, or a moment ago: nothing is settled there")
        asked = whole(series, Span(span.start_ms, min(span.end_ms, settled_ms)), self._clock.now_ms())
        if asked is None:
            raise BadQuery("end", span.end_ms, f"no candle of {series.interval} is over in that span")
        return asked

    async def _tell(self, series: Series, done: Reconciled) -> None:
        """Findings of what differs; those of before are over where a look at the same stretch found nothing now."""
        now_ms = self._clock.now_ms()
        found = {one.id: one for one in islice((_finding(one, now_ms) for one in done.differences), FINDINGS_MAX)}
        before, _ = await self._meta.findings(
            limit=_OPEN_MAX, kind=FindingKind.DIFFERS, series=series.id, open_only=True
        )
        looked = {(one.what, one.to): one.spans for one in done.compared}
        all_told = done.differing <= len(done.differences) <= FINDINGS_MAX
        over = [
            one.resolved(now_ms, now_ms)
            for one in before
            if all_told and one.id not in found and any(span.holds(one.start_ms) for span in _looked_at(one, looked))
        ]
        self._report([*found.values(), *over])


class _Run:
    """One run: what is compared by now."""

    def __init__(self, store: SeriesStore, series: Series, span: Span, progress: Progress) -> None:
        self._store = store
        self._series = series
        self._span = span
        self._progress = progress
        self._names = [*DATASETS[series.dataset].key, *(field.name for field in facts(DATASETS[series.dataset]))]
        self._names = list(dict.fromkeys([*self._names, DATASETS[series.dataset].time]))
        self._sums: dict[tuple[str, str], Comparison] = {}
        self._spans: dict[tuple[str, str], list[Span]] = {}
        self._crossed: list[tuple[str, CrossCheck]] = []
        self._offered: list[Span] = []

    async def against(self, source: Source, others: Sequence[Source], now_ms: int) -> None:
        """What is held against what a source says, and that against what the others say of the same stretches."""
        wanted = Wanted(series=self._series, span=self._span)
        for offer in source.offers(wanted, now_ms):
            self._offered.append(offer.span)
            async with aclosing(_pieces(source, wanted, offer)) as pieces:
                async for piece in pieces:
                    await self._piece(offer.call, piece, others, now_ms)

    async def _piece(self, call: str, piece: Fetched, others: Sequence[Source], now_ms: int) -> None:
        held = await self._store.scan(self._series, piece.span, columns=self._names)
        self._add(_HELD, call, piece.span, compare(held, piece.rows, call))
        for other in others:
            await self._sources_apart(call, piece, other, now_ms)
        at, whole = piece.span.end_ms - self._span.start_ms, self._span.end_ms - self._span.start_ms
        self._progress(at, whole, call)

    async def _sources_apart(self, call: str, piece: Fetched, other: Source, now_ms: int) -> None:
        wanted = Wanted(series=self._series, span=piece.span)
        for offer in other.offers(wanted, now_ms):
            said = [one.rows async for one in _pieces(other, wanted, offer)]
            whole = settle(joined(said)) if said else empty(DATASETS[self._series.dataset], (self._series,))
            times = piece.rows.time_ms
            first = piece.rows.take((times >= offer.span.start_ms) & (times < offer.span.end_ms))
            self._add(call, offer.call, offer.span, compare(first, whole, f"{call} and {offer.call}"))

    async def against_fills(self) -> None:
        """Candles against finer ones and against trades, as far as these are held."""
        crossing = Crossing(self._store)
        crossing.learn(await self._store.series())
        for judge in crossing.judges(self._series, every=True):
            span = await self._held_of(judge.source)
            if span is None:
                continue
            async for window in crossing.windows(self._series, judge, span):
                self._crossed.append((window.source.id, window.found))
                self._spans.setdefault((_HELD, window.source.id), []).append(window.span)

    async def _held_of(self, source: Series) -> Span | None:
        """The candles in which rows of a series may be held."""
        extent = await self._store.extent(source)
        if extent is None:
            return None
        interval = str(self._series.interval)
        first_ms, last_ms = (floor_open_ms(ms, interval) for ms in (extent.first_ms, extent.last_ms))
        parts = intersection([self._span], [Span(first_ms, next_open_ms(last_ms, interval))])
        return parts[0] if parts else None

    def _add(self, what: str, to: str, span: Span, found: Comparison) -> None:
        self._sums[(what, to)] = self._sums.get((what, to), Comparison()) + found
        self._spans.setdefault((what, to), []).append(span)

    def outcome(self) -> Reconciled:
        """All of it."""
        compared = [
            Compared(
                what=what, to=to, spans=tuple(union(self._spans[(what, to)])), agreed=one.agreed, excused=one.excused,
                differing=one.differing,
            )
            for (what, to), one in self._sums.items()
        ]  # fmt: skip
        for name in dict.fromkeys(name for name, _ in self._crossed):
            mine = [one for source, one in self._crossed if source == name]
            compared.append(
                Compared(
                    what=_HELD, to=name, spans=tuple(union(self._spans[(_HELD, name)])),
                    agreed=sum(one.agreed for one in mine), excused=sum(one.excused for one in mine),
                    differing=sum(one.differing for one in mine), unjudged=sum(one.unjudged for one in mine),
                )
            )  # fmt: skip
        rows = [one for comparison in self._sums.values() for one in comparison.differences]
        rows += [_of_a_bar(one) for _, found in self._crossed for one in found.differences]
        return Reconciled(
            series=self._series.id,
            start_ms=self._span.start_ms,
            end_ms=self._span.end_ms,
            compared=tuple(compared),
            differences=tuple(sorted(rows, key=lambda one: (one.at_ms, one.source)))[:DIFFERENCES_MAX],
            unoffered=tuple(difference([self._span], self._offered)),
        )


class NotTakenIn:
    """Digests of archive files, for one who reads them and takes nothing in."""

    def __init__(self, digests: Digests) -> None:
        self._digests = digests

    async def digest_of(self, path: str) -> str | None:
        """See Digests.digest_of."""
        return await self._digests.digest_of(path)

    async def keep_digest(self, path: str, sha256: str, at_ms: int) -> None:
        """Nothing: the version was read, not taken in."""


async def _pieces(source: Source, wanted: Wanted, offer: Offer) -> AsyncGenerator[Fetched]:
    pieces = source.fetch(wanted, offer, "reconcile")
    try:
        async for one in pieces:
            yield one
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def _of_a_bar(one: Difference) -> RowDifference:
    """A candle that its judge computes otherwise."""
    key = (one.start_ms,)
    return RowDifference("changed", one.series, key, one.start_ms, one.field, one.held, one.computed, one.source)


def _finding(one: RowDifference, now_ms: int) -> Finding:
    named = f"{one.source} {one.what} {one.field or ''} {one.key}"
    return Finding(
        id=finding_id(FindingKind.DIFFERS, one.series, named, one.at_ms),
        kind=FindingKind.DIFFERS,
        series=one.series,
        stream=None,
        severity="warning",
        start_ms=one.at_ms,
        end_ms=one.at_ms + 1,
        evidence={
            "what": one.what,
            "key": " ".join(map(str, one.key)),
            "field": one.field,
            "held": one.held,
            "said": one.said,
            "source": one.source,
        },
        found_ms=now_ms,
    )


def _looked_at(finding: Finding, looked: dict[tuple[str, str], tuple[Span, ...]]) -> Iterable[Span]:
    """Where the comparison was made again that the finding is of."""
    source = str(finding.evidence.get("source"))
    for (what, to), spans in looked.items():
        if source in (to if what == _HELD else f"{what} and {to}", STREAM if what == _HELD else None):
            yield from spans


def _nobody(done: int, total: int, at: str) -> None:
    """Progress that nobody watches."""
