"""A job: fetch the rows of one series in some stretches of its past. Its life, and how two that overlap become one.

    pending ──> running ──> completed        every stretch was asked for; what the source lacks is named
       │  ^────────┤
       │           ├──────> failed ──┐       asking failed too often, or can never work
       └───────────┴──────> cancelled┴──> pending, when somebody asks to retry

What is finished is remembered by stretch, so that a job that was interrupted goes on where it stopped. Every function
gives the job as it is after one event, or raises Conflict where its life has no such step: give way to who was first.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.dataset import Dataset
from data_manager.domain.errors import Conflict
from data_manager.domain.finding import Evidence
from data_manager.domain.holes.continuity import Grid
from data_manager.domain.span import Span, cut_at, difference, intersection, union
from data_manager.domain.time import INTERVALS_MS, floor_open_ms

Choice = Literal["auto", "rest", "archive"]
"""Which source may be asked; auto: whichever is cheapest."""

FAILURES_MAX: Final = 6
"""So often in a row a job may fail without having finished anything new."""

ABSENT_MAX: Final = 200
"""Stretches that a job names as absent at the source one by one; more are counted."""

OWN: Final = ("audit", "finding")
"""Who asks for jobs on our own account: auto-heal."""

PRIORITIES: Final = range(1, 11)
"""1 goes first."""


class JobState(Enum):
    """Where a job stands. The first two are open: there is something to do."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN: Final = (JobState.PENDING, JobState.RUNNING)

_MAY_BECOME: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.PENDING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
}


class Target(Struct, frozen=True, order=True):
    """A stretch to fetch, half open. after, before: keys of the rows held around it, where rows between are meant."""

    start_ms: int
    end_ms: int
    after: int | None = None
    before: int | None = None

    @property
    def span(self) -> Span:
        """Its instants."""
        return Span(self.start_ms, self.end_ms)


class Absent(Struct, frozen=True):
    """A stretch in which the sources asked have no rows, or lack some. missing: how many, if countable.

    call: who was asked, by commas. after, before: keys of the rows on either side, where they are known. doubt: why
    this is no proof: another source could not be asked, or one gave rows that were refused.
    """

    start_ms: int
    end_ms: int
    missing: int | None
    call: str
    evidence: Evidence
    after: int | None = None
    before: int | None = None
    doubt: str | None = None

    @property
    def span(self) -> Span:
        """Its instants."""
        return Span(self.start_ms, self.end_ms)


class Job(Struct, frozen=True, kw_only=True):
    """One job. wanted: disjoint, in order. done: what of it is finished. version: one more at each change kept.

    fetched = new + changed + duplicate: rows the source gave that were appended; refused: rows that broke a rule.
    failures: in a row, without anything new finished. run_from_ms: not before then.
    """

    id: str
    series: str
    wanted: tuple[Target, ...]
    source: Choice = "auto"
    priority: int = 5
    by: str = "api"  # who asked: api, cli, audit (the hole ledger), finding
    state: JobState = JobState.PENDING
    done: tuple[Span, ...] = ()
    fetched: int = 0
    new: int = 0
    changed: int = 0
    duplicate: int = 0
    refused: int = 0
    burned: int = 0  # ids that answers leave out and that are taken for burned by the venue
    coarse: bool = False  # some of it came coarser than what was lost
    absent: tuple[Absent, ...] = ()
    absent_more: int = 0  # stretches beyond those named
    attempts: int = 0  # times it was started
    failures: int = 0
    run_from_ms: int = 0
    error: str | None = None
    owner: str = ""  # who runs it
    into: str | None = None  # id of the job that took it over
    created_ms: int
    started_ms: int | None = None
    heartbeat_ms: int | None = None
    completed_ms: int | None = None  # when it ended, however
    updated_ms: int
    version: int = 0

    @property
    def span(self) -> Span:
        """From its first stretch to its last."""
        return Span(self.wanted[0].start_ms, self.wanted[-1].end_ms)

    @property
    def open(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in OPEN

    @property
    def remaining(self) -> list[Span]:
        """What is not finished yet."""
        return self.without()

    def without(self, present: Iterable[Span] = ()) -> list[Span]:
        """What is neither finished nor in these. Each span lies in one stretch of the wanted, and knows its keys."""
        left = difference((one.span for one in self.wanted), [*self.done, *present])
        return cut_at(left, (one.start_ms for one in self.wanted))

    @property
    def cursor_ms(self) -> int:
        """What is wanted before it is finished."""
        left = self.remaining
        return left[0].start_ms if left else self.span.end_ms

    @property
    def progress(self) -> float:
        """The share of the wanted time that is finished, 0 to 1; 1 only when all is."""
        total = _length(one.span for one in self.wanted)
        return _length(intersection((one.span for one in self.wanted), self.done)) / total


class Piece(Struct, frozen=True, kw_only=True):
    """One stretch of a job, finished: what came of it."""

    span: Span
    fetched: int = 0
    new: int = 0
    changed: int = 0
    duplicate: int = 0
    refused: int = 0
    burned: int = 0
    coarse: bool = False
    absent: tuple[Absent, ...] = ()

    def __add__(self, other: "Piece") -> "Piece":
        """With what another source gave for a part of the same stretch."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTED}
        return replace(self, **counts, coarse=self.coarse or other.coarse)


# ── One event each ───────────────────────────────────────────────────────────────────────────────────────────────────


def started(job: Job, owner: str, now_ms: int) -> Job:
    """Taken up by owner."""
    job = _became(job, JobState.RUNNING, now_ms)
    first_ms = now_ms if job.started_ms is None else job.started_ms
    return replace(job, owner=owner, attempts=job.attempts + 1, started_ms=first_ms, heartbeat_ms=now_ms)


def beaten(job: Job, now_ms: int) -> Job:
    """Its owner is at work."""
    _require(job, JobState.RUNNING, "be worked at")
    return replace(job, heartbeat_ms=now_ms, updated_ms=now_ms)


def advanced(job: Job, piece: Piece, now_ms: int) -> Job:
    """One stretch more is finished and its rows are durable."""
    job = beaten(job, now_ms)
    absent = _named([*job.absent, *piece.absent])
    return replace(
        job,
        done=tuple(union([*job.done, piece.span])),
        **{name: getattr(job, name) + getattr(piece, name) for name in _COUNTED},
        coarse=job.coarse or piece.coarse,
        absent=absent[:ABSENT_MAX],
        absent_more=job.absent_more + max(len(absent) - ABSENT_MAX, 0),
        failures=0,
        error=None,
    )


def completed(job: Job, now_ms: int) -> Job:
    """Everything was asked for."""
    assert not job.remaining, "nothing is left to do"
    return replace(_ended(job, JobState.COMPLETED, now_ms), error=None)


def failed(job: Job, why: str, now_ms: int) -> Job:
    """It cannot be done."""
    return replace(_ended(job, JobState.FAILED, now_ms), error=why)


def stumbled(job: Job, why: str, run_from_ms: int, now_ms: int) -> Job:
    """It did not work: again from run_from_ms on, or failed for good once it did not too often."""
    failures = job.failures + 1
    if failures >= FAILURES_MAX:
        return replace(failed(job, f"{why} ({failures} times in a row)", now_ms), failures=failures)
    return replace(released(job, run_from_ms, now_ms, why), failures=failures)


def released(job: Job, run_from_ms: int, now_ms: int, why: str | None = None) -> Job:
    """Laid down by its owner, or taken from one who is gone: it goes on where it stopped."""
    job = _became(job, JobState.PENDING, now_ms)
    return replace(job, owner="", run_from_ms=run_from_ms, error=why)


def cancelled(job: Job, why: str | None, now_ms: int) -> Job:
    """Nobody wants it any more; what is finished stays."""
    return replace(_ended(job, JobState.CANCELLED, now_ms), error=why)


def retried(job: Job, now_ms: int) -> Job:
    """Open again: what was finished is not asked for again."""
    job = _became(job, JobState.PENDING, now_ms)
    return replace(job, failures=0, error=None, run_from_ms=now_ms, completed_ms=None, into=None)


def _became(job: Job, to: JobState, now_ms: int) -> Job:
    if to not in _MAY_BECOME[job.state]:
        raise Conflict(f"job {job.id} is {job.state.value}: it cannot become {to.value}")
    return replace(job, state=to, updated_ms=now_ms)


def _ended(job: Job, to: JobState, now_ms: int) -> Job:
    return replace(_became(job, to, now_ms), owner="", completed_ms=now_ms)


def _require(job: Job, state: JobState, what: str) -> None:
    if job.state is not state:
        raise Conflict(f"job {job.id} is {job.state.value}: it cannot {what}")


# ── Two that overlap are one ─────────────────────────────────────────────────────────────────────────────────────────


class Entered(Struct, frozen=True):
    """The job that does what a new one asks for, and every job that has to be kept for that."""

    job: Job
    changes: tuple[Job, ...]


def entered(held: Sequence[Job], new: Job, now_ms: int) -> Entered:
    """A new job among the open ones of its series: itself, or the one that covers it after growing where it must.

    Of several that it overlaps the one at work longest takes the others over, which end as cancelled. But what we ask
    for on our own account and several together do already changes none of them: whoever asked for these waits for them
    by name, and an audit looks at what became of it in any case.
    """
    mine = [one.span for one in new.wanted]
    touched = [one for one in held if one.id != new.id and intersection((it.span for it in one.wanted), mine)]
    if not touched:
        return Entered(new, (new,))
    keeper, *others = sorted(touched, key=lambda one: (one.state is not JobState.RUNNING, one.created_ms, one.id))
    if new.by in OWN and not difference(mine, [it.span for one in touched for it in one.wanted]):
        return Entered(keeper, ())
    grown = keeper
    for one in (*others, new):
        grown = _joined(grown, one)
    if grown == keeper:
        return Entered(keeper, ())
    grown = replace(grown, updated_ms=now_ms)
    over = (replace(cancelled(one, f"taken over by job {keeper.id}", now_ms), into=keeper.id) for one in others)
    return Entered(grown, (grown, *over))


def _joined(one: Job, other: Job) -> Job:
    """one, which also does what other asks for."""
    return replace(
        one,
        wanted=targets_joined([*one.wanted, *other.wanted]),
        done=tuple(union([*one.done, *other.done])),
        priority=min(one.priority, other.priority),
        source=one.source if one.source == other.source else "auto",
        run_from_ms=min(one.run_from_ms, other.run_from_ms),
        **{name: getattr(one, name) + getattr(other, name) for name in _COUNTS},
        absent=_named([*one.absent, *other.absent])[:ABSENT_MAX],
        coarse=one.coarse or other.coarse,
    )


_COUNTED: Final = ("fetched", "new", "changed", "duplicate", "refused", "burned")
_COUNTS: Final = (*_COUNTED, "absent_more")


def targets_joined(targets: Iterable[Target]) -> tuple[Target, ...]:
    """The same instants as disjoint stretches in order; those that only touch stay apart, for they know their keys."""
    joined: list[Target] = []
    for one in sorted(targets, key=lambda it: (it.start_ms, it.end_ms)):
        last = joined[-1] if joined else None
        if last is None or last.end_ms <= one.start_ms:
            joined.append(one)
        elif one.end_ms > last.end_ms:
            after = last.after if last.start_ms < one.start_ms or last.after == one.after else None
            joined[-1] = Target(last.start_ms, one.end_ms, after, one.before)
        elif last.span == one.span and (last.after, last.before) != (one.after, one.before):
            joined[-1] = Target(last.start_ms, last.end_ms)  # the wider of the two wishes
    return tuple(joined)


def _named(absent: Iterable[Absent]) -> tuple[Absent, ...]:
    """In order of time; neighbours that the same were asked for are one, with the evidence of the first."""
    joined: list[Absent] = []
    for one in sorted(absent, key=lambda it: (it.start_ms, it.end_ms)):
        last = joined[-1] if joined else None
        follows = last is not None and _follows(last, one)
        if last is not None and last.end_ms >= one.end_ms and not follows:
            continue
        touch = last is not None and (last.end_ms == one.start_ms or (follows and last.end_ms > one.start_ms))
        if last is not None and touch and (last.call, last.doubt) == (one.call, one.doubt):
            missing = None if last.missing is None or one.missing is None else last.missing + one.missing
            end_ms = max(last.end_ms, one.end_ms)
            joined[-1] = replace(last, end_ms=end_ms, missing=missing, before=one.before)
        else:
            joined.append(one)
    return tuple(joined)


def _follows(last: Absent, one: Absent) -> bool:
    """Whether other rows are meant: several can be missing at one instant."""
    return last.before is not None and one.after is not None and last.before <= one.after


# ── How much it is ───────────────────────────────────────────────────────────────────────────────────────────────────


def expected_rows(dataset: Dataset, interval: str | None, wanted: Iterable[Target]) -> int | None:
    """How many rows a source that lacks nothing has there; None where that cannot be counted."""
    total = 0
    for one in wanted:
        rows = _rows_of(dataset, interval, one)
        if rows is None:
            return None
        total += rows
    return total


def _rows_of(dataset: Dataset, interval: str | None, target: Target) -> int | None:
    if isinstance(dataset.continuity, Grid) and interval is not None:
        length = INTERVALS_MS[interval]
        if length is None:
            return None
        first, end = (-(-(ms - floor_open_ms(0, interval)) // length) for ms in (target.start_ms, target.end_ms))
        return end - first
    if target.after is not None and target.before is not None:
        return max(target.before - target.after - 1, 0)
    return None


def _length(spans: Iterable[Span]) -> int:
    return sum(one.end_ms - one.start_ms for one in spans)
