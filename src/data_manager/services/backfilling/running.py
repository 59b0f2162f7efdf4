"""One job at work: each stretch that is not finished is planned, fetched piece by piece, appended, and noted.

    remaining ── plan ──> steps ── Source.fetch ──> pieces ── append (durable) ──> noted in the job (durable)
                                                      └─ lack rows ──> the other sources, for these only ──┘

Killed between the two, a piece is asked for again and its rows are duplicates: nothing twice, nothing missing. What
nobody offers fails the job in the end, for a job that is completed has asked for all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import reduce
from typing import Final, NamedTuple

import structlog
from msgspec.structs import replace

from data_manager.domain import job as jobs
from data_manager.domain.batch import Batch
from data_manager.domain.dataset import parse_series
from data_manager.domain.datasets import DATASETS
from data_manager.domain.errors import BadQuery, Conflict, DataManagerError, Unavailable
from data_manager.domain.finding import Evidence
from data_manager.domain.job import OWN, Absent, Choice, Job, JobState, Piece
from data_manager.domain.span import Span, difference
from data_manager.domain.time import iso
from data_manager.ports import Clock, DeadLetter, LeaseLost, Receipt
from data_manager.ports.jobs import JobStore
from data_manager.ports.source import Fetched, Offer, Source, Wanted
from data_manager.services.backfilling.choosing import Failed, Plan, Step
from data_manager.services.backfilling.lacking import Edge, edge_of, lacking
from data_manager.services.backfilling.seconding import REFUSALS, Second

Append = Callable[[Batch], Awaitable[Receipt]]
KeepDead = Callable[[list[DeadLetter]], Awaitable[None]]

PIECE_S: Final = 900.0
"""So long a source may take for one piece, waiting for its own limits included."""

_ROWS_AT_ONCE: Final = 20_000  # appended: live rows get their turn between
_NOTE_S: Final = 0.2  # pieces that come faster are noted together
_BEAT_S: Final = 10.0
_CONFLICTS_MAX: Final = 20
_log = structlog.get_logger(__name__)


class SourceFailed(Exception):
    """A source raised what the cause says, and no other can be asked instead: the job's trouble, not ours."""


class NotOffered(Exception):
    """No source can be asked for a part, at least not now."""


class Run:
    """The work at one job that was started. job: as it stands."""

    def __init__(
        self,
        job: Job,
        store: JobStore,
        sources: Sequence[Source],
        plan: Plan,
        append: Append,
        keep_dead: KeepDead,
        clock: Clock,
    ) -> None:
        self.job = job
        self._every = sources
        self._given_up: set[str] = set()  # names of sources that are not asked again
        self._series = parse_series(job.series, DATASETS, "")
        self._owner = job.owner
        self._store = store
        self._plan = plan
        self._append = append
        self._keep_dead = keep_dead
        self._clock = clock
        self._second = Second(self._series, self._fetch, self._stored, clock)
        self._pieces: list[Piece] = []  # finished, not noted yet
        self._noted_s = clock.monotonic_s()
        self._writing = asyncio.Lock()

    async def all(self) -> None:
        """Everything that is wanted, also what somebody adds meanwhile; the job is completed then.

        Raises SourceFailed and NotOffered; Conflict when the job is not ours any more; and what the stores raise.
        """
        while self.job.open:
            await self._everything()
            await self._keep(self._completed)

    def _completed(self, job: Job) -> Job:
        """Completed, unless somebody has added to it at the last moment."""
        return job if job.remaining else jobs.completed(job, self._clock.now_ms())

    async def _everything(self) -> None:
        """All that is left. Raises SourceFailed and NotOffered where a part of it cannot be had."""
        missed: list[Span] = []
        choice = self.job.source
        failure: SourceFailed | None = None
        refusal: SourceFailed | None = None
        while left := self._left(missed):
            try:
                for span in left:
                    missed += await self._stretch(span)
            except Failed as error:
                failure = SourceFailed(str(error))
                failure.__cause__ = error.cause
                refusal = failure if isinstance(error.cause, REFUSALS) else refusal
                self._instead_of(error)
            await self._note(everything=True)
            if self.job.source != choice:  # it took over one that may ask others
                missed, choice = [], self.job.source
        if missed and refusal is not None and not self.job.fetched and self.job.by not in OWN:
            raise refusal  # no use in waiting for another source: who asked has to know
        if missed and failure is not None:
            raise failure
        if missed:
            named = ", ".join(f"{iso(one.start_ms)} to {iso(one.end_ms)}" for one in missed[:3])
            raise NotOffered(f"no {_who(self.job.source)} offers {self.job.series} from {named}")
        self._require_known(failure)
        await self._require_listed()

    def _require_known(self, failure: SourceFailed | None) -> None:
        """Raise SourceFailed where a source refuses for good what somebody asked for, and no row of it came."""
        second = self._second.refusal
        if second is not None and failure is None:
            failure = SourceFailed(str(second))
            failure.__cause__ = second.cause
        if failure is None or not isinstance(failure.__cause__, REFUSALS) or self.job.fetched or self.job.by in OWN:
            return
        raise failure

    async def _require_listed(self) -> None:
        """Raise SourceFailed where no row came of what somebody asked for, and the venue lists no such symbol."""
        if self.job.fetched or self.job.by in OWN:
            return
        for source in self._sources():
            try:
                known = await source.knows(self._series)
            except DataManagerError as error:  # whoever cannot be asked says nothing against the symbol
                _log.warning("nobody tells whether a symbol exists", job=self.job.id, reason=str(error))
                continue
            if known is False:
                raise SourceFailed(
                    f"{self._series.id}: no source has a row there, and the venue lists no such symbol now"
                )

    def _sources(self) -> list[Source]:
        """Who may be asked now: by the job's choice, which is wider when it took over another one."""
        return [one for one in self._every if self.job.source in ("auto", one.name) and one.name not in self._given_up]

    def _left(self, missed: Sequence[Span]) -> list[Span]:
        """What is not finished, noted or not, nor missed."""
        return self.job.without([*(one.span for one in self._pieces), *missed])

    def _instead_of(self, error: Failed) -> None:
        """Ask the others from now on, if what went wrong is that source's alone."""
        self._given_up |= (
            {one.name for one in self._every} if isinstance(error.cause, BadQuery) else {error.source.name}
        )
        others = [one.name for one in self._sources()]
        _log.warning("a source failed", job=self.job.id, source=error.source.name, reason=str(error), others=others)

    async def keep(self, step: Callable[[Job], Job]) -> None:
        """How it ended; what is finished is noted first."""
        await self._note(everything=True)
        await self._keep(step)

    async def beat(self) -> None:
        """Say now and then that we are at work, until cancelled. Raises Conflict when the job is not ours any more."""
        while True:
            await self._clock.sleep(_BEAT_S)
            await self._keep(lambda one: jobs.beaten(one, self._clock.now_ms()))

    async def _stretch(self, span: Span) -> list[Span]:
        """Fetch one stretch; the parts of it nobody offers."""
        wanted = self._wanted(span)
        steps = self._plan(self._sources(), wanted, self._clock.now_ms())
        last: _Last | None = None
        for step in steps:
            if last is not None and last.step.offer.span.end_ms != step.offer.span.start_ms:
                last = None
            async with aclosing(self._fetch(wanted, step)) as pieces:
                last = await self._take(wanted, step, pieces, last)
        return difference([span], (step.offer.span for step in steps))

    async def _take(
        self, wanted: Wanted, step: Step, pieces: AsyncIterator[Fetched], last: _Last | None
    ) -> _Last | None:
        """Store and note the pieces of a step. last: the answer before it with rows, if that touches it; then ours."""
        async for fetched in pieces:
            before = None if last is None else last.edge
            lack = lacking(self._series, wanted, step.offer, fetched, before, self._clock.now_ms())
            piece, absent = await self._stored(fetched, step.offer), list[Absent]()
            for owner, lacks in _owned(lack.absent, step, last):
                second = await self._second.ask(self._others(owner), owner.offer, lacks)
                piece = sum(second.pieces, piece)
                absent += second.absent
            self._pieces.append(replace(piece, span=fetched.span, absent=tuple(absent), burned=lack.burned))
            edge = edge_of(fetched, None)
            last = last if edge is None else _Last(step, edge, fetched.evidence)
            await self._note()
        return last

    def _others(self, step: Step) -> list[Source]:
        """Who else the job may ask."""
        return [one for one in self._every if self.job.source == "auto" and one is not step.source]

    async def _stored(self, fetched: Fetched, offer: Offer) -> Piece:
        """The rows, appended: as a piece of the job."""
        receipt = await self._store_rows(fetched)
        return Piece(
            span=fetched.span,
            fetched=len(fetched.rows),
            new=receipt.new,
            changed=receipt.changed,
            duplicate=receipt.duplicate,
            refused=fetched.broken,
            coarse=offer.coarse and len(fetched.rows) > 0,
        )

    def _wanted(self, span: Span) -> Wanted:
        """Keys are meant where the stretch still reaches the row they are of."""
        target = next(one for one in self.job.wanted if one.start_ms <= span.start_ms and span.end_ms <= one.end_ms)
        after = target.after if span.start_ms == target.start_ms else None
        before = target.before if span.end_ms == target.end_ms else None
        return Wanted(series=self._series, span=span, after=after, before=before)

    async def _fetch(self, wanted: Wanted, step: Step) -> AsyncGenerator[Fetched]:
        """The pieces of a step. Raises Failed for whatever the source raises on purpose."""
        pieces = step.source.fetch(wanted, step.offer, f"job:{self.job.id}")
        try:
            while (fetched := await _next(pieces, step)) is not None:
                yield fetched
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _store_rows(self, fetched: Fetched) -> Receipt:
        receipt = Receipt()
        for rows in _parts(fetched.rows):
            receipt += await self._append(rows)
        if fetched.refused:
            await self._keep_dead([*self._dead(fetched)])
        return receipt

    def _dead(self, fetched: Fetched) -> Iterator[DeadLetter]:
        now_ms = self._clock.now_ms()
        request = str(fetched.evidence.get("request") or "")
        for one in fetched.refused:
            yield DeadLetter(
                received_ms=now_ms,
                subject=f"job.{self.job.id}",
                reason=one.why.reason,
                field=one.why.field,
                message=str(one.why),
                payload=f"{request}#{one.position}".encode(),
            )

    # ---- noting --------------------------------------------------------------------------------------------------

    async def _note(self, *, everything: bool = False) -> None:
        """Note in the job what is finished, when it is time to."""
        now_s = self._clock.monotonic_s()
        if not self._pieces or (not everything and now_s - self._noted_s < _NOTE_S):
            return
        pieces, self._pieces = self._pieces, []
        self._noted_s, now_ms = now_s, self._clock.now_ms()
        await self._keep(lambda one: reduce(lambda job, piece: jobs.advanced(job, piece, now_ms), pieces, one))

    async def _keep(self, step: Callable[[Job], Job]) -> None:
        """Keep the job after that step; where somebody else changed it meanwhile, the step is taken from there."""
        async with self._writing:  # our own heartbeat is nobody else
            for _ in range(_CONFLICTS_MAX):
                try:
                    self.job = await self._store.keep_job(step(self.job))
                    return
                except LeaseLost:
                    raise
                except Conflict:
                    fresh = await self._store.job(self.job.id)
                    if fresh is None or fresh.state is not JobState.RUNNING or fresh.owner != self._owner:
                        raise
                    self.job = fresh
        raise Unavailable(f"job {self.job.id} is changed by others all the time")


class _Last(NamedTuple):
    """An answer with rows: what was asked, its last row, and its evidence."""

    step: Step
    edge: Edge
    evidence: Evidence


def _owned(absent: Sequence[Absent], step: Step, last: _Last | None) -> Iterator[tuple[Step, Sequence[Absent]]]:
    """What is absent, by who said so: what happened before this step was asked of the one before it."""
    ours = [one for one in absent if last is None or one.start_ms >= step.offer.span.start_ms]
    if last is not None and len(ours) < len(absent):
        theirs = (one for one in absent if one.start_ms < step.offer.span.start_ms)
        yield last.step, [replace(one, call=last.step.offer.call, evidence=last.evidence) for one in theirs]
    if ours:
        yield step, ours


async def _next(pieces: AsyncIterator[Fetched], step: Step) -> Fetched | None:
    try:
        async with asyncio.timeout(PIECE_S):
            return await anext(pieces, None)
    except DataManagerError as error:
        raise Failed(step.source, error) from error
    except TimeoutError as error:
        away = Unavailable(f"{step.offer.call} gave nothing for {PIECE_S:.0f} s")
        raise Failed(step.source, away) from error


def _parts(rows: Batch) -> Iterator[Batch]:
    if len(rows) <= _ROWS_AT_ONCE:
        yield rows
        return
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows.take(slice(at, at + _ROWS_AT_ONCE))


def _who(choice: Choice) -> str:
    return "source" if choice == "auto" else f"source {choice}"
