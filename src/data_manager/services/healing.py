"""Auto-heal: what the audits found missing is fetched, looked at again, and entered into the ledger, on its own.

    ledger: open ──> job ──> ledger: healing ──> job over ──> audit of the holes ──> healed
    found: shed, dropped ──> job ─────────────────────────────> resolved       └───> absent, open again, given up

Every step follows from what the metadata store says, so whoever leads next goes on with it. Suspected holes wait; the
number of jobs made here that are open at a time is bounded; what overlaps becomes one job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol

import structlog

from data_manager.domain.condition.truth import SeriesTruth, TruthChange
from data_manager.domain.dataset import Series, parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import Conflict, DataManagerError, NotFound, Unavailable
from data_manager.domain.holes.ledger import HoleState, LedgerEntry, due
from data_manager.domain.holes.mending import Patience, after_job, asked_again, given_up, healing, job_of, ripe_from_ms
from data_manager.domain.job import OPEN, Job, Target, expected_rows, targets_joined
from data_manager.domain.span import Span, intersection, union
from data_manager.domain.time import HOUR_MS
from data_manager.ports import Clock, LeaseLost, Records
from data_manager.ports.truth import TruthStore
from data_manager.services.backfilling.asking import can_be_had_again, new_job
from data_manager.services.backfilling.losses import BY as BY_FINDING
from data_manager.services.backfilling.losses import Losses

BY: Final = "audit"
"""Who asked for the jobs made here."""

PRIORITY: Final = 3
"""Of these jobs: before what people ask for without saying how urgent it is."""

_PAGE: Final = 1_000  # entries of the ledger in one question
_PAGES_MAX: Final = 20
_TARGETS_MAX: Final = 200  # holes of one job
_RECHECK_S: Final = 30.0
_STILL_MS: Final = HOUR_MS
_SPANS_MAX: Final = 8  # holes of a series that are audited one by one; of more, or longer ones, all of it
_SPAN_ROWS_MAX: Final = 50_000
_SPAN_MS_MAX: Final = 6 * HOUR_MS  # where rows cannot be counted
_log = structlog.get_logger(__name__)


class Audits(Protocol):
    """What heals need of the auditor."""

    async def run(
        self, series: Sequence[Series] | None = None, *, span: Span | None = None, truth: TruthStore | None = None
    ) -> object:
        """See Auditor.run."""
        ...


class Certifies(Protocol):
    """What heals need of the certifier."""

    async def healed(self, series: Series, span: Span, *, truth: TruthStore | None = None) -> object:
        """See Certifier.healed."""
        ...


class Healing:
    """Mends what can be mended. figures: what was done since the start, by what it was."""

    def __init__(
        self,
        audits: Audits,
        losses: Losses,
        clock: Clock,
        *,
        jobs_max: int = 5,
        patience: Patience | None = None,
        certifier: Certifies | None = None,
    ) -> None:
        """jobs_max: of the jobs made here, so many are open at a time."""
        self.figures: Counter[str] = Counter()
        self._audits = audits
        self._losses = losses
        self._clock = clock
        self._jobs_max = jobs_max
        self._patience = patience or Patience()
        self._certifier = certifier
        self._rechecked_s: float | None = None
        self._versions: Mapping[str, int] = {}  # of the ledger, when the open holes were read last
        self._ripe_ms = 0  # when the turn of the next of them comes
        self._begun: set[str] = set()  # jobs whose end was not looked at yet

    async def turn(self, records: Records) -> None:
        """Do what is to be done now. records: the metadata, whose writes are under our lease."""
        await self._settle(records)
        await self._recheck(records)
        _, busy = await records.jobs(limit=1, states=OPEN, by=[BY, BY_FINDING])
        free = max(self._jobs_max - busy, 0)
        free -= await self._begin(records, free)
        self.figures["jobs_of_losses"] += await self._losses.turn(records, free)

    # ---- from holes to jobs --------------------------------------------------------------------------------------

    async def _begin(self, records: Records, free: int) -> int:
        """Make jobs for the holes whose turn it is, the latest lost first; how many."""
        ripe_ones = await self._ripe(records) if free else []
        of_series = {name: [*group] for name, group in groupby(ripe_ones, key=attrgetter("series"))}
        made = 0
        for name in sorted(of_series, key=lambda it: max(one.end_ms for one in of_series[it]), reverse=True):
            series = parse_series(name, DATASETS, "")
            dataset = DATASETS[series.dataset]
            if not dataset.refill:
                await self._give_up(records, series, of_series[name])
            elif can_be_had_again(dataset) and made < free:
                made += await self._make_job(records, series, of_series[name][:_TARGETS_MAX])
        return made

    async def _ripe(self, records: Records) -> list[LedgerEntry]:
        """The open holes whose turn it is. Reads them only where the ledger changed, or the turn of one has come."""
        now_ms, versions = self._clock.now_ms(), await records.truth_versions()
        if versions == self._versions and now_ms < self._ripe_ms:
            return []
        found, later = list[LedgerEntry](), [now_ms + _STILL_MS]
        for one in await _entries(records, [HoleState.OPEN]):
            from_ms = ripe_from_ms(one, self._patience)
            if from_ms is None or _grows(one, now_ms):
                continue
            if from_ms <= now_ms:
                found.append(one)
            else:
                later.append(from_ms)
        self._versions, self._ripe_ms = versions, now_ms if found else min(later)
        return found

    async def _make_job(self, records: Records, series: Series, holes: Sequence[LedgerEntry]) -> bool:
        """One job for holes of one series; whether it is new."""
        now_ms = self._clock.now_ms()
        wanted = targets_joined(Target(one.start_ms, one.end_ms, one.after, one.before) for one in holes)
        new = new_job(series, wanted, now_ms, by=BY, priority=PRIORITY)
        job = await records.submit_job(new)
        self._begun.add(job.id)
        ids = {one.id for one in holes}
        spans = [one.span for one in job.wanted]

        def begun(entry: LedgerEntry) -> LedgerEntry | None:
            mine = entry.id in ids and entry.state is HoleState.OPEN and intersection([entry.span], spans)
            return healing(entry, job, now_ms) if mine else None

        await _enter(records, series, begun)
        if job.id != new.id:
            return False
        self.figures["jobs"] += 1
        _log.info("healing", series=series.id, job=job.id, holes=len(holes), start_ms=job.span.start_ms)
        return True

    async def _give_up(self, records: Records, series: Series, holes: Sequence[LedgerEntry]) -> None:
        """Holes that nobody can mend."""
        ids = {one.id for one in holes}
        now_ms, why = self._clock.now_ms(), f"nobody can be asked for past rows of {series.dataset}"

        def over(entry: LedgerEntry) -> LedgerEntry | None:
            return given_up(entry, why, now_ms) if entry.id in ids and entry.state is HoleState.OPEN else None

        self.figures["unrecoverable"] += await _enter(records, series, over)

    async def _recheck(self, records: Records) -> None:
        """Open the holes again whose source is to be asked once more."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        if self._rechecked_s is not None and now_s - self._rechecked_s < _RECHECK_S:
            return
        self._rechecked_s = now_s
        waiting = due(await _entries(records, [HoleState.ABSENT, HoleState.UNRECOVERABLE]), now_ms)
        for name in sorted({one.series for one in waiting}):
            ids = {one.id for one in waiting if one.series == name}

            def again(entry: LedgerEntry, ids: set[str] = ids) -> LedgerEntry | None:
                closed = entry.state in (HoleState.ABSENT, HoleState.UNRECOVERABLE)
                return asked_again(entry, now_ms) if entry.id in ids and closed else None

            self.figures["rechecked"] += await _enter(records, parse_series(name, DATASETS, ""), again)

    # ---- from jobs back to holes ---------------------------------------------------------------------------------

    async def _settle(self, records: Records) -> None:
        """Look again at the holes whose jobs are over."""
        at_work = await _entries(records, [HoleState.HEALING])
        jobs = await _jobs(records, {job_of(one) for one in at_work} | self._begun)
        self._begun = {one for one in self._begun if one in jobs}
        over = [one for one in at_work if not _under_way(jobs.get(job_of(one) or ""))]
        ended = {name: jobs[name] for name in self._begun if not jobs[name].open}
        for name in sorted({one.series for one in over} | {one.series for one in ended.values()}):
            mine = [one for one in over if one.series == name]
            done = {job_id: job for job_id, job in ended.items() if job.series == name}
            series = parse_series(name, DATASETS, "")
            if await self._look_again(records, series, mine, jobs):
                await self._tell(records, series, mine, [*done.values()])
                self._begun -= done.keys()

    async def _look_again(
        self, records: Records, series: Series, over: Sequence[LedgerEntry], jobs: Mapping[str, Job]
    ) -> bool:
        """Audit these holes and enter what became of them; False when that has to be done again."""
        try:
            for span in _audit_spans(series, over) if over else ():
                await self._audits.run([series], span=span, truth=records)
        except NotFound:
            _log.info("nothing is held of a series after its heal", series=series.id)
        except LeaseLost:
            raise
        except Conflict:
            return False  # somebody else audits it
        now_ms = self._clock.now_ms()
        ids = {one.id for one in over} | {one.root for one in over}

        def verdict(entry: LedgerEntry) -> LedgerEntry | None:
            if entry.state is not HoleState.HEALING or not (entry.id in ids or entry.root in ids):
                return None
            job = jobs.get(job_of(entry) or "")
            return None if _under_way(job) else after_job(entry, job, now_ms)

        await _enter(records, series, verdict)
        return True

    async def _tell(self, records: Records, series: Series, over: Sequence[LedgerEntry], ended: Sequence[Job]) -> None:
        """What became of these holes, whichever audit found it, and a certificate for what is whole again."""
        truth = await _truth(records, series)
        spans = [*(one.span for one in over), *(target.span for job in ended for target in job.wanted)]
        since_ms = min([*(one.history[-1].at_ms for one in over), *(job.created_ms for job in ended)])
        mine = [one for one in truth.holes if intersection([one.span], spans)]
        healed = [one for one in mine if one.healed_ms is not None and one.healed_ms >= since_ms]
        told = Counter(one.state.value for one in mine if one.live and one.state is not HoleState.HEALING)
        told["healed"] = len(healed)
        self.figures.update(told)
        _log.info("healed" if healed else "not healed", series=series.id, **told)
        if healed and self._certifier is not None:
            await self._certify(self._certifier, records, series, Span(healed[0].start_ms, healed[-1].end_ms))

    async def _certify(self, certifier: Certifies, records: Records, series: Series, span: Span) -> None:
        """A heal is one with or without its certificate."""
        try:
            await certifier.healed(series, span, truth=records)
        except (LeaseLost, Unavailable):
            raise
        except DataManagerError as error:
            _log.warning("what was healed is not certified", series=series.id, reason=str(error))


def _grows(entry: LedgerEntry, now_ms: int) -> bool:
    """Whether a silence may not be over: what is not touched grows as one."""
    return entry.kind == "silence" and entry.before is None and now_ms - entry.end_ms < _STILL_MS


def _under_way(job: Job | None) -> bool:
    return job is not None and job.open


def _audit_spans(series: Series, over: Sequence[LedgerEntry]) -> list[Span | None]:
    """What to look at again; None: all that changed of the series."""
    spans = union(one.span for one in over)
    if len(spans) > _SPANS_MAX or any(_is_long(series, one) for one in spans):
        return [None]
    return [*spans]


def _is_long(series: Series, span: Span) -> bool:
    rows = expected_rows(DATASETS[series.dataset], series.interval, [Target(span.start_ms, span.end_ms)])
    return span.end_ms - span.start_ms > _SPAN_MS_MAX if rows is None else rows > _SPAN_ROWS_MAX


async def _truth(records: TruthStore, series: Series) -> SeriesTruth:
    [truth] = await records.truths([series.id]) or [SeriesTruth(series=series.id)]
    return truth


async def _entries(records: TruthStore, states: Sequence[HoleState]) -> list[LedgerEntry]:
    """All entries in these states, by series and time; of very many the first."""
    found: list[LedgerEntry] = []
    for _ in range(_PAGES_MAX):
        page, total = await records.holes(limit=_PAGE, offset=len(found), states=states)
        found += page
        if not page or len(found) >= total:
            break
    return found


async def _jobs(records: Records, ids: Iterable[str | None]) -> dict[str, Job]:
    """The jobs with these ids, each as the one that took it over where one did."""
    found: dict[str, Job] = {}
    for job_id in sorted(one for one in ids if one is not None):
        job = await records.job(job_id)
        while job is not None and job.into is not None:
            job = await records.job(job.into)
        if job is not None:
            found[job_id] = job
    return found


async def _enter(
    records: TruthStore, series: Series, change: Callable[[LedgerEntry], LedgerEntry | None], tries: int = 5
) -> int:
    """Change entries of the ledger of a series; how many. Where an auditor came first, it is done on what he left."""
    for _ in range(tries):
        truth = await _truth(records, series)
        changed = [it for it in map(change, truth.holes) if it is not None]
        if truth.mark is None or not changed:
            return 0
        one = TruthChange(
            series=series.id,
            version=truth.version,
            mark=truth.mark,
            coverage=truth.coverage,
            flaws=truth.flaws,
            let_go=truth.let_go,
            entries=tuple(changed),
        )
        try:
            await records.keep_truths([one])
        except LeaseLost:
            raise
        except Conflict:
            continue
        return len(changed)
    return 0  # at the next turn
