"""Audit: looks at what is held and says what is missing or wrong, series by series.

    store ──> looking (pages of keys) ──> judging (holes) ──┐
                                      └─> checks (values) ──┴─> entering ──> coverage, ledger, flaws ──> TruthStore
                                                                         └─> findings ──> report

Incremental: each series from its mark on, and now and then all of it (a sweep). An audit that fails says so: the span
it could not judge is UNKNOWN, which nobody takes for complete, and a finding tells why. What is written names the
version it started from, so that two auditors at once do not overwrite each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, NamedTuple

import structlog
from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.condition.partition import EVER, Flaw, Life
from data_manager.domain.condition.truth import Mark, SeriesTruth, TruthChange
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Conflict, NotFound, Unavailable
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.holes.continuity import MaxSilence, Sparse
from data_manager.domain.holes.ledger import LedgerEntry
from data_manager.domain.span import Span
from data_manager.domain.time import DAY_MS, SECOND_MS
from data_manager.ports import Clock, MetaStore, SeriesStore
from data_manager.ports.truth import TruthStore
from data_manager.services.auditing.counting import Figures
from data_manager.services.auditing.crossing import Crossing
from data_manager.services.auditing.entering import DISPUTED, RULE_VERSION, Entering
from data_manager.services.auditing.judging import row_end_ms
from data_manager.services.auditing.looking import Crossed, Looked, Looking, Seen
from data_manager.services.auditing.telling import changes_of
from data_manager.services.auditing.undone import Undone

Report = Callable[[Sequence[Finding]], None]
Progress = Callable[[int, int, str], None]

GRACE_MS: Final = 10 * SECOND_MS
SWEEP_MS: Final = DAY_MS
PAGE_ROWS: Final = 500_000
_AT_ONCE: Final = 500  # series in one write
_AT_ONCE_S: Final = 2.0  # so long at most what was audited waits for it
_AGAIN_MAX: Final = 5  # times a series is audited again because somebody else entered it first
_WORKERS: Final = 6  # some are judged while others wait for the store
_DROPS_MAX: Final = 10_000
_log = structlog.get_logger(__name__)


class Audited(Struct, frozen=True, kw_only=True):
    """What a run came to.

    holes: entries of the ledger that are not healed, of the series and span audited. findings: all that stands of
    these, whoever found it: the holes, the flaws, and what could not be audited. changed: how many findings this run
    began, changed or ended. unjudged: ids of series of which nothing can be said in the span that was asked for, as
    before their first row. crossed: candles that were judged by other rows of the same facts.
    """

    audited: int  # series
    failed: tuple[str, ...]  # ids of series whose audit could not be done
    unjudged: tuple[str, ...] = ()
    findings: int
    changed: int
    holes: tuple[LedgerEntry, ...]
    rows: int  # read
    seconds: float
    crossed: Crossed = Crossed()


class _Outcome(Struct, frozen=True):
    series: Series
    change: TruthChange
    truth: SeriesTruth
    findings: list[Finding]
    rows: int
    crossed: Crossed
    seen: Seen | None
    error: Exception | None
    blank: bool  # nothing could be judged in the span


class _Said(NamedTuple):
    """What others found of one series: what was lost, and rows that were told otherwise."""

    lost: list[Flaw]
    disputed: list[Flaw]


_NOTHING_SAID: Final = _Said([], [])


class Auditor:
    """Audits the series of one store. failures: audits that could not be done since the start, by error."""

    def __init__(
        self,
        store: SeriesStore,
        truth: TruthStore,
        meta: MetaStore,
        clock: Clock,
        report: Report,
        *,
        grace_ms: int = GRACE_MS,
        sweep_ms: int = SWEEP_MS,
        page_rows: int = PAGE_ROWS,
        told_from_ms: int = 0,
    ) -> None:
        """told_from_ms: holes shorter than this are entered and raise no finding."""
        self._undone = Undone()
        self.failures = self._undone.failures
        self.figures = Figures()
        self.last: Audited | None = None  # of a run over all series
        self._told_from_ms = told_from_ms
        self._store = store
        self._truth = truth
        self._meta = meta
        self._clock = clock
        self._report = report
        self._sweep_ms = sweep_ms
        self._looking = Looking(store, grace_ms, page_rows)
        self._crossing = Crossing(store)
        self._turn = asyncio.Lock()
        self._known: dict[str, SeriesTruth] = {}
        self._seen: dict[str, Seen] = {}
        self._lives: dict[tuple[str, str], Life] = {}  # by market and symbol
        self._lives_known = False
        self._other_life: set[str] = set()  # series to be looked at again for that

    async def run(
        self,
        series: Sequence[Series] | None = None,
        *,
        span: Span | None = None,
        full: bool = False,
        truth: TruthStore | None = None,
        progress: Progress | None = None,
    ) -> Audited:
        """Audit these series (None: all that are held), by default what changed since the last time.

        full: all of each, values too. span: only that stretch. truth: where to write instead, such as under a lease.
        Raises NotFound for a series of which nothing was ever held, Conflict when other auditors came first again
        and again, and Unavailable when a store is away; what was audited by then is kept.
        """
        async with self._turn:
            wanted = await self._wanted(series)
            run = _Run(self, truth or self._truth, span, full, self._clock.now_ms())
            done = await run.all(wanted, progress or _nobody)
            self.figures.crossed += done.crossed
            if series is None and span is None:
                self.last = done
                self.figures.cycle(done.seconds)
            return done

    async def _wanted(self, series: Sequence[Series] | None) -> list[Series]:
        held = await self._store.series()
        self._crossing.learn(held)
        await self._refresh()
        await self._learn_lives()
        if series is None:
            emptied = [one.series for one in self._known.values() if one.coverage]
            return sorted({*held, *(parse_series(name, DATASETS, "") for name in emptied)})
        for one in series:
            if one not in held and one.id not in self._known:
                raise NotFound(
                    f"nothing was ever held of {one.id}: GET /health/series and `data-manager health` list what is held"
                )
        return sorted(set(series))

    async def _refresh(self, only: Iterable[str] = ()) -> None:
        """Learn what somebody else entered since we looked."""
        versions = await self._truth.truth_versions()
        stale = [name for name, version in versions.items() if getattr(self._known.get(name), "version", 0) != version]
        if stale:
            found = await self._truth.truths(stale if len(stale) < len(versions) else None)
            self._known.update((one.series, one) for one in found)
            for name in stale:
                self._seen.pop(name, None)
        for name in only:
            self._seen.pop(name, None)

    async def _learn_lives(self) -> None:
        """When rows can exist. Who is said to have lived otherwise is looked at from its first row on."""
        told = {(one.market, one.symbol): one.life for one in await self._truth.lives()}
        changed = {whose for whose in told.keys() | self._lives.keys() if told.get(whose) != self._lives.get(whose)}
        known = ((tuple(name.split(".")[0:3:2]), name, one) for name, one in self._known.items())
        if self._lives_known:
            self._other_life |= {name for whose, name, _ in known if whose in changed}
        else:  # since when that is told nobody here knows: holes that could be none are looked at again
            self._other_life |= {name for whose, name, one in known if whose in told and _lacks(one, told[whose])}
        self._lives, self._lives_known = told, True

    # ---- one series ----------------------------------------------------------------------------------------------

    async def _audit(self, series: Series, span: Span | None, full: bool, now_ms: int, said: _Said) -> _Outcome:
        """What became of the audit of one series; never raises but for a cancellation."""
        truth = self._known.get(series.id) or SeriesTruth(series=series.id)
        looked = Looked(Entering(truth, now_ms))
        error = await self._looked(looked, series, truth, span, full, now_ms)
        entering = looked.entering
        if said.lost:
            entering.lost(said.lost)
        entering.disputed(said.disputed)
        mark = looked.mark or truth.mark or Mark(looked_ms=0, swept_ms=0)
        lost, version = [], entering.version
        if truth.unreadable is not None:
            lost = self._undone.unreadable(series.id, truth.unreadable, now_ms, version)
        if error is None:
            told = changes_of(series.id, entering, truth.flaws, now_ms, self._told_from_ms)
            damage = self._undone.damaged(series.id, looked.damaged, now_ms, version)
            findings = [*told, *damage, *self._undone.done(series.id, entering, now_ms)]
            error = looked.damaged[0] if looked.damaged else None
        else:
            findings = self._undone.failed(series.id, looked, error, now_ms)
            mark = _from_the_first_row(truth.mark or mark)
        change, known = entering.change(mark), entering.truth(mark)
        blank = span is not None and entering.judged_until_ms is None
        return _Outcome(
            series, change, known, [*lost, *findings], looked.rows, looked.crossed, looked.seen, error, blank
        )

    async def _looked(
        self, looked: Looked, series: Series, truth: SeriesTruth, span: Span | None, full: bool, now_ms: int
    ) -> Exception | None:
        try:
            life = self._lives.get((series.market, series.symbol), EVER)
            if span is not None:
                await self._looking.within(looked, series, span, now_ms, life)
                looked.mark = looked.mark or _mark_after(looked.entering, truth.mark)
                await self._crossed(series, self._crossing.enter_within(looked, series, span))
                return None
            full = full or series.id in self._other_life or _to_be_judged_anew(truth)
            sweep = truth.mark is not None and now_ms - truth.mark.swept_ms >= self._sweep_ms
            await self._looking.go_on(
                looked,
                series,
                truth,
                now_ms,
                full=full or sweep,
                values=full or not sweep,
                seen=self._seen.get(series.id),
                life=life,
            )
            await self._crossed(
                series, self._crossing.enter(looked, series, truth, self._holes_of, self._clock, full=full)
            )
        except Exception as error:  # noqa: BLE001 - whatever broke the audit of one series, nobody may take it for complete
            looked.entering = Entering(truth, now_ms)
            return error
        return None

    async def _crossed(self, series: Series, work: Coroutine[Any, Any, None]) -> None:
        """Cross-checks. Where they cannot be done, nothing is said of more than they would have said."""
        try:
            await work
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - what others say of the series is not what its own audit says
            self.failures[f"cross-check {type(error).__name__}"] += 1
            _log.exception("a series could not be judged by others", series=series.id, reason=str(error))

    def _holes_of(self, name: str) -> Sequence[LedgerEntry]:
        known = self._known.get(name)
        return () if known is None else known.holes

    async def _said(self) -> dict[str, _Said]:
        """What others found: rows let go of series whose rule cannot see that, and rows that were told otherwise."""
        found: dict[str, _Said] = {}
        for one in (await self._meta.findings(limit=_DROPS_MAX, kind=FindingKind.DROPPED))[0]:
            series = _series_of(one)
            blind = series and isinstance(DATASETS[series.dataset].continuity, MaxSilence | Sparse)
            if blind and one.end_ms is not None:
                flaw = Flaw(one.start_ms, one.end_ms, FindingKind.DROPPED.value, lost=True)
                found.setdefault(str(one.series), _Said([], [])).lost.append(flaw)
        for one in (await self._meta.findings(limit=_DROPS_MAX, kind=FindingKind.DIFFERS, open_only=True))[0]:
            series, between_sources = _series_of(one), " and " in str(one.evidence.get("source"))
            if series is not None and one.evidence.get("what") == "changed" and not between_sources:
                flaw = Flaw(one.start_ms, row_end_ms(series, one.start_ms), DISPUTED)
                found.setdefault(series.id, _Said([], [])).disputed.append(flaw)
        return found


def _series_of(finding: Finding) -> Series | None:
    """None where it is of none, or of one that this version does not know."""
    try:
        return None if finding.series is None else parse_series(finding.series, DATASETS, "")
    except BadQuery:
        return None


class _Run:
    """One run of an auditor."""

    def __init__(self, auditor: Auditor, truth: TruthStore, span: Span | None, full: bool, now_ms: int) -> None:
        self._auditor = auditor
        self._truth = truth
        self._span = span
        self._full = full
        self._now_ms = now_ms
        self._waiting: list[_Outcome] = []
        self._failed: list[str] = []
        self._unjudged: list[str] = []
        self._changed = self._rows = 0
        self._crossed = Crossed()
        self._away: Unavailable | None = None
        self._said: dict[str, _Said] = {}

    async def all(self, wanted: Sequence[Series], progress: Progress) -> Audited:
        """Audit them, a few at a time, and write what came out in parts."""
        clock = self._auditor._clock
        started_s = written_s = clock.monotonic_s()
        await self._auditor._undone.learn(self._auditor._meta)
        self._said = await self._auditor._said()
        for at in range(0, len(wanted), _WORKERS):
            some = wanted[at : at + _WORKERS]
            self._take(await asyncio.gather(*(self._one(series) for series in some)))
            progress(at + len(some), len(wanted), some[-1].id)
            late = clock.monotonic_s() - written_s >= _AT_ONCE_S
            if late or len(self._waiting) >= _AT_ONCE or self._away is not None:
                await self._write()
                written_s = clock.monotonic_s()
            if self._away is not None:
                raise self._away
        await self._write()
        holes = tuple(self._holes(wanted))
        return Audited(
            audited=len(wanted) - len(self._failed),
            failed=tuple(self._failed),
            unjudged=tuple(self._unjudged),
            findings=len(holes) + sum(map(self._wrong, wanted)),
            changed=self._changed,
            holes=holes,
            rows=self._rows,
            seconds=clock.monotonic_s() - started_s,
            crossed=self._crossed,
        )

    async def _one(self, series: Series) -> _Outcome:
        await asyncio.sleep(0)  # where no store has to be waited for, others have their turn all the same
        said = self._said.get(series.id, _NOTHING_SAID)
        return await self._auditor._audit(series, self._span, self._full, self._now_ms, said)

    def _take(self, outcomes: Sequence[_Outcome]) -> None:
        for one in outcomes:
            self._waiting.append(one)
            self._rows += one.rows
            self._crossed += one.crossed
            if one.error is not None:
                self._failed.append(one.series.id)
            elif one.blank:
                self._unjudged.append(one.series.id)
            if isinstance(one.error, Unavailable):
                self._away = one.error

    async def _write(self) -> None:
        """Enter what waits; where somebody else came first, each series by itself."""
        waiting, self._waiting = self._waiting, []
        try:
            await self._truth.keep_truths([one.change for one in waiting])
        except Conflict as error:
            if type(error) is not Conflict:
                raise
            for one in waiting:
                self._entered(await self._entered_alone(one))
            return
        for one in waiting:
            self._entered(one)

    async def _entered_alone(self, one: _Outcome) -> _Outcome:
        """Enter it; as often as somebody else came first, audit the series again."""
        for _ in range(_AGAIN_MAX):
            try:
                await self._truth.keep_truths([one.change])
            except Conflict as error:
                if type(error) is not Conflict:
                    raise
            else:
                return one
            await self._auditor._refresh([one.series.id])
            one = await self._one(one.series)
        await self._truth.keep_truths([one.change])
        return one

    def _entered(self, one: _Outcome) -> None:
        auditor = self._auditor
        before = auditor._known.get(one.series.id) or SeriesTruth(series=one.series.id)
        auditor.figures.entered(one.series, before, one.truth)
        auditor._known[one.series.id] = one.truth
        if one.error is None and self._span is None:
            auditor._other_life.discard(one.series.id)
        if one.seen is not None:
            auditor._seen[one.series.id] = one.seen
        elif self._span is None:
            auditor._seen.pop(one.series.id, None)
        self._changed += len(one.findings)
        if one.findings:
            auditor._report(one.findings)

    def _holes(self, wanted: Sequence[Series]) -> Iterable[LedgerEntry]:
        for series in wanted:
            truth = self._auditor._known.get(series.id)
            for one in truth.holes if truth else ():
                if one.live and self._asked(one.start_ms, one.end_ms):
                    yield one

    def _wrong(self, series: Series) -> int:
        """Flaws of the series that stand, and audits of it that could not be done."""
        truth, undone = self._auditor._known.get(series.id), self._auditor._undone.open_of(series.id)
        flaws = sum(self._asked(one.start_ms, one.end_ms) for one in truth.flaws) if truth else 0
        return flaws + sum(self._asked(one.start_ms, one.end_ms) for one in undone)

    def _asked(self, start_ms: int, end_ms: int | None) -> bool:
        span = self._span
        return span is None or (start_ms < span.end_ms and (end_ms is None or end_ms > span.start_ms))


def _mark_after(entering: Entering, mark: Mark | None) -> Mark | None:
    """Of the audit of a span. What it found further back is not what the mark's count of rows was taken of: as many may
    come by the next audit as had gone by this one."""
    if mark is None or mark.from_ms is None or not entering.changed_before(mark.from_ms):
        return mark
    return _from_the_first_row(mark)


def _from_the_first_row(mark: Mark) -> Mark:
    """The next audit looks at everything."""
    return replace(mark, from_ms=None, anchor_key=None)


def _lacks(truth: SeriesTruth, life: Life) -> bool:
    """Whether rows are said to be missing that could not exist."""
    return any(one.live and life.expected(one.span) != [one.span] for one in truth.holes)


def _to_be_judged_anew(truth: SeriesTruth) -> bool:
    """Whether what was said of the series was said by older rules, or cannot be read."""
    return truth.unreadable is not None or any(one.rule_version < RULE_VERSION for one in truth.coverage)


def _nobody(done: int, total: int, at: str) -> None:
    """Progress that nobody watches."""
