"""What becomes of a hole on the way to being mended: when it is its turn, and what the outcome of a job means for it.

    open ── ripe ──> healing ── job over, audited ──> healed              the rows are there
      ^                 │                    ├──> absent_at_source        the source has nothing, asked twice
      │                 │                    └──> unrecoverable           coarser rows only, or tried too often
      └── tried again, later and later ──────┘
    absent_at_source, unrecoverable ── re-check due ──> open

The claim that a source has nothing costs all further requests, so it is made on two answers that agree, some time
apart; afterwards one answer confirms it.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.finding import Evidence
from data_manager.domain.holes.ledger import HoleState, LedgerEntry, Step, moved
from data_manager.domain.job import Absent, Job, JobState
from data_manager.domain.span import Span, difference
from data_manager.domain.time import DAY_MS, HOUR_MS, MINUTE_MS

ATTEMPTS_MAX: Final = 8
"""Jobs made for one hole before it is given up for a while; from the beginning whenever it grew or some of it came."""

_PAUSES: Final = (1, 1, 10, 60, 360, 1_440)
"""After so many jobs, as multiples of Patience.ask_again_ms."""

_RECHECKS_MS: Final = (HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
"""After so many claims that the source has nothing; some venues publish late, and correct later."""

_GIVEN_UP_MS: Final = 7 * DAY_MS
_CANCELLED_MS: Final = DAY_MS


class Patience(Struct, frozen=True, kw_only=True):
    """ask_again_ms: between two answers that are to agree, and the unit of all pauses. least_ms: shorter holes wait."""

    ask_again_ms: int = MINUTE_MS
    least_ms: int = 0


def ripe_from_ms(entry: LedgerEntry, patience: Patience) -> int | None:
    """From when on a job should be made for a hole; None: for this one none is."""
    if entry.state is not HoleState.OPEN or entry.end_ms - entry.start_ms < patience.least_ms:
        return None
    if not _tried(entry):
        return 0
    pause = _PAUSES[min(entry.attempts, len(_PAUSES) - 1)] * patience.ask_again_ms
    return entry.history[-1].at_ms + pause


def job_of(entry: LedgerEntry) -> str | None:
    """Id of the job that was made for it last."""
    for step in reversed(entry.history):
        if step.state is HoleState.HEALING and step.by.startswith(_BY):
            return step.by.removeprefix(_BY)
    return None


def healing(entry: LedgerEntry, job: Job, now_ms: int) -> LedgerEntry:
    """A job fetches its rows."""
    return moved(entry, HoleState.HEALING, at_ms=now_ms, by=by(job.id), why="a job fetches its rows")


def after_job(entry: LedgerEntry, job: Job | None, now_ms: int) -> LedgerEntry:
    """What a hole becomes that an audit still finds after its job is over; None: nobody knows that job any more."""
    assert entry.state is HoleState.HEALING, "its job is over"
    if job is None:
        return moved(entry, HoleState.OPEN, at_ms=now_ms, by=_SELF, why="its job is gone")
    if job.state is JobState.CANCELLED:
        why = f"job {job.id} was cancelled"
        return _given_up(entry, job, why, now_ms, now_ms + _CANCELLED_MS)
    if job.state is JobState.FAILED:
        return _tried_in_vain(entry, job, f"job {job.id} failed: {job.error}", now_ms)
    proof = proof_of(entry.span, job.absent)
    if proof is not None:
        return _absent(entry, job, proof, now_ms)
    if job.coarse:
        why = "coarser rows came instead: what was lost cannot be had again"
        return _given_up(entry, job, why, now_ms, None)
    why = f"job {job.id} is completed and the rows are missing all the same"
    return _tried_in_vain(entry, job, why, now_ms)


def given_up(entry: LedgerEntry, why: str, now_ms: int) -> LedgerEntry:
    """Nobody can be asked for its rows, now or later."""
    return moved(entry, HoleState.UNRECOVERABLE, at_ms=now_ms, by=_SELF, why=why)


def asked_again(entry: LedgerEntry, now_ms: int) -> LedgerEntry:
    """Its re-check is due."""
    return moved(entry, HoleState.OPEN, at_ms=now_ms, by=_SELF, why="the source is asked again")


def proof_of(span: Span, absent: Iterable[Absent]) -> Absent | None:
    """The first of the answers that together say of the whole span that rows are absent; None when they do not.

    One in doubt proves nothing.
    """
    touching = [
        one for one in absent if one.start_ms < span.end_ms and one.end_ms > span.start_ms and one.doubt is None
    ]
    if not touching or difference([span], (Span(one.start_ms, one.end_ms) for one in touching)):
        return None
    return touching[0]


def by(job_id: str) -> str:
    """How histories name a job."""
    return f"{_BY}{job_id}"


_BY: Final = "job:"
_SELF: Final = "auto-heal"


def _tried(entry: LedgerEntry) -> bool:
    """Whether a job was in vain, as the newest step says: what an audit or a re-check opens waits for nothing."""
    return bool(entry.history) and entry.history[-1].by.startswith(_BY)


def _absent(entry: LedgerEntry, job: Job, proof: Absent, now_ms: int) -> LedgerEntry:
    if proof.span == entry.span:  # what is left of a hole that was cut is not counted yet
        entry = replace(entry, missing=proof.missing, after=proof.after, before=proof.before)
    evidence: Evidence = {**proof.evidence, "call": proof.call, "start_ms": entry.start_ms, "end_ms": entry.end_ms}
    claims = sum(step.state is HoleState.ABSENT for step in entry.history)
    if not any(_says_absent(step, entry) for step in entry.history):
        why = "the source has nothing there; it is asked once more"
        return moved(entry, HoleState.OPEN, at_ms=now_ms, by=by(job.id), why=why, evidence=evidence)
    return moved(
        entry,
        HoleState.ABSENT,
        at_ms=now_ms,
        by=by(job.id),
        why="the source has nothing there, and said so twice",
        evidence=evidence,
        recheck_ms=now_ms + _RECHECKS_MS[min(claims, len(_RECHECKS_MS) - 1)],
    )


def _says_absent(step: Step, entry: LedgerEntry) -> bool:
    """Whether an answer said before that all of the hole is absent, as it is now: it may have grown since."""
    if step.evidence is None or not step.by.startswith(_BY):
        return False
    start_ms, end_ms = step.evidence.get("start_ms"), step.evidence.get("end_ms")
    if not isinstance(start_ms, int) or not isinstance(end_ms, int):
        return False
    return start_ms <= entry.start_ms and entry.end_ms <= end_ms


def _tried_in_vain(entry: LedgerEntry, job: Job, why: str, now_ms: int) -> LedgerEntry:
    if entry.attempts >= ATTEMPTS_MAX:
        return _given_up(entry, job, why, now_ms, now_ms + _GIVEN_UP_MS)
    return moved(entry, HoleState.OPEN, at_ms=now_ms, by=by(job.id), why=why)


def _given_up(entry: LedgerEntry, job: Job, why: str, now_ms: int, recheck_ms: int | None) -> LedgerEntry:
    return moved(entry, HoleState.UNRECOVERABLE, at_ms=now_ms, by=by(job.id), why=why, recheck_ms=recheck_ms)
