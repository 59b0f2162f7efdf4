"""The hole ledger: every hole has a life, and its history is kept.

    suspected ──> open ──> healing ──> healed ──> open again, should its rows vanish
        │          │  ^───────┤
        │          ├──────────┴──> absent_at_source | unrecoverable ──> open, when a re-check is due
        └──────────┴─────────────> healed, whenever an audit finds the rows

Entries of one series never overlap: an instant is missing once, or was mended once, or neither. What an audit changes
is in reconcile.py; what jobs and people change goes through moved().
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from data_manager.domain.errors import Conflict
from data_manager.domain.finding import Evidence
from data_manager.domain.span import Span


class HoleState(Enum):
    """Where a hole stands. All but HEALED are live: rows are missing."""

    SUSPECTED = "suspected"  # seen once; the rows may still be on their way
    OPEN = "open"  # seen again: they are missing
    HEALING = "healing"  # a job is fetching them
    HEALED = "healed"  # an audit found the rows
    ABSENT = "absent_at_source"  # the source has nothing there either, and we hold the proof
    UNRECOVERABLE = "unrecoverable"  # nobody can be asked, or asking was given up


_MAY_BECOME: Final[Mapping[HoleState, frozenset[HoleState]]] = {
    HoleState.SUSPECTED: frozenset({HoleState.OPEN, HoleState.HEALED}),
    HoleState.OPEN: frozenset({HoleState.HEALING, HoleState.HEALED, HoleState.ABSENT, HoleState.UNRECOVERABLE}),
    HoleState.HEALING: frozenset({HoleState.OPEN, HoleState.HEALED, HoleState.ABSENT, HoleState.UNRECOVERABLE}),
    HoleState.HEALED: frozenset({HoleState.OPEN}),
    HoleState.ABSENT: frozenset({HoleState.OPEN, HoleState.HEALED}),
    HoleState.UNRECOVERABLE: frozenset({HoleState.OPEN, HoleState.HEALED}),
}

STEPS_MAX: Final = 50
"""Steps a history keeps: the first one, and the newest."""


class Step(Struct, frozen=True):
    """One event of a life: when, what the hole became, who said so and why."""

    at_ms: int
    state: HoleState
    by: str  # audit, a job's id, a person
    why: str
    evidence: Evidence | None = None


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """One hole of one series, or one that was. Its rows' times lie in [start_ms, end_ms).

    missing, after and before are as in continuity.Hole; None where they are not known (any more), as after a cut.
    """

    id: str
    series: str
    kind: str  # grid, ids, chain, schedule or silence
    start_ms: int
    end_ms: int
    missing: int | None
    after: int | None
    before: int | None
    state: HoleState
    found_ms: int  # of the first audit that saw it, or what it was cut from
    seen_ms: int  # of the last audit that saw it
    healed_ms: int | None = None
    attempts: int = 0  # times it went to HEALING, since what it lacks is what it lacks
    recheck_ms: int | None = None  # ABSENT and UNRECOVERABLE: ask again from then on; None: never
    root: str = ""  # id of the entry this one was cut from, at the beginning; its own when none
    children: int = 0  # how many entries were cut from it
    history: tuple[Step, ...] = ()

    @property
    def span(self) -> Span:
        """When its rows are missing, or were."""
        return Span(self.start_ms, self.end_ms)

    @property
    def live(self) -> bool:
        """Whether rows are missing."""
        return self.state is not HoleState.HEALED


def moved(
    entry: LedgerEntry,
    to: HoleState,
    *,
    at_ms: int,
    by: str,
    why: str,
    evidence: Evidence | None = None,
    recheck_ms: int | None = None,
) -> LedgerEntry:
    """The entry in another state. Raises Conflict where the life above has no such step: give way to who was first.

    ABSENT needs evidence (request, response digest, time): the claim costs all further requests. Nobody but an audit
    calls a hole healed, see reconcile.py.
    """
    if to not in _MAY_BECOME[entry.state]:
        raise Conflict(f"hole {entry.id} of {entry.series} is {entry.state.value}: it cannot become {to.value}")
    assert to is not HoleState.ABSENT or evidence, "absent at the source is claimed with evidence"
    return replace(
        entry,
        state=to,
        attempts=entry.attempts + (to is HoleState.HEALING),
        healed_ms=at_ms if to is HoleState.HEALED else None,
        recheck_ms=recheck_ms if to in (HoleState.ABSENT, HoleState.UNRECOVERABLE) else None,
        history=grown(entry.history, Step(at_ms, to, by, why, evidence)),
    )


def grown(history: Sequence[Step], *steps: Step) -> tuple[Step, ...]:
    """The history with steps at its end, cut to STEPS_MAX."""
    whole = (*history, *steps)
    return whole if len(whole) <= STEPS_MAX else (whole[0], *whole[1 - STEPS_MAX :])


def due(entries: Iterable[LedgerEntry], now_ms: int) -> list[LedgerEntry]:
    """Entries whose source ought to be asked again, the longest overdue first."""
    waiting = [(one.recheck_ms, one.id, one) for one in entries if one.recheck_ms is not None]
    return [one for recheck_ms, _, one in sorted(waiting, key=lambda it: it[:2]) if recheck_ms <= now_ms]


def first_id(series: str, kind: str, start_ms: int, found_ms: int) -> str:
    """Id of a hole nobody knew: 32 hexadecimal digits, the same when the same audit is recorded twice."""
    return _digest(series, kind, str(start_ms), str(found_ms))


def child_id(entry: LedgerEntry, number: int) -> str:
    """Id of the number-th entry cut from this one."""
    return _digest(entry.id, str(number))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def require_disjoint(entries: Iterable[LedgerEntry]) -> None:
    """Assert what only a bug can break: entries of one series do not overlap, and ids are told apart."""
    ordered = sorted(entries, key=lambda entry: entry.start_ms)
    for one, other in pairwise(ordered):
        assert one.end_ms <= other.start_ms, f"entries {one.id} and {other.id} overlap"
    assert len({entry.id for entry in ordered}) == len(ordered), "two entries with one id"
