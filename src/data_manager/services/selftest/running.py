"""The self-test: every class of fault put into a copy of a tape, played, and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from msgspec import Struct

from data_manager.domain.errors import BadQuery
from data_manager.domain.time import MINUTE_MS, SECOND_MS
from data_manager.ports import Clock, Records, SeriesStore
from data_manager.services.audit import GRACE_MS, Auditor
from data_manager.services.selftest.faults import FAULTS, REQUIRED, Around
from data_manager.services.selftest.playing import Auditors, OpenStage, Wire, play
from data_manager.services.selftest.scoring import Score, reports_of, score
from data_manager.services.selftest.tampering import TAMPER, tampered
from data_manager.services.selftest.tape import Message, told

_LONG_MS: Final = 10 * MINUTE_MS  # of a tape on which audits are a minute apart
_ORDINARY: Final = ("duplicate",)  # an open candle that says nothing new is one
_SHORT_AUDIT_MS: Final = 5 * SECOND_MS

Tell = Callable[[int, int, str], None]


class Result(Struct, frozen=True, kw_only=True):
    """What a self-test came to.

    clean: how much was reported of the tape without any fault; clean_tape: whether that must be nothing.
    """

    seed: int
    messages: int
    audit_every_s: float
    clean: int
    clean_tape: bool
    scores: tuple[Score, ...]
    required: tuple[str, ...] = REQUIRED

    @property
    def passed(self) -> bool:
        """Whether everything was found that must be, and nothing else, and there was something to be found.

        A recording may have no place for a class of fault; a market of ours has one for each that must be found.
        """
        if self.clean and self.clean_tape:
            return False
        must = [one for one in self.scores if one.fault in self.required]
        tested = [one for one in must if one.put > 0]
        if must and (not tested or (self.clean_tape and len(tested) < len(must))):
            return False
        return all(one.perfect for one in tested)

    @property
    def untested(self) -> tuple[str, ...]:
        """Classes of fault for which the tape has no place."""
        return tuple(one.fault for one in self.scores if not one.put)


def _unheard(done: int, total: int, what: str) -> None:
    """Nobody wants to know."""


def auditor_of(
    store: SeriesStore,
    records: Records,
    clock: Clock,
    report: Callable[..., None],
    *,
    told_from_ms: int = 0,
    grace_ms: int = GRACE_MS,
) -> Auditor:
    """The auditor as the service has it. told_from_ms, grace_ms: see Auditor."""
    return Auditor(store, records, records, clock, report, told_from_ms=told_from_ms, grace_ms=grace_ms)


async def selftest(
    messages: Sequence[Message],
    wire: Wire,
    open_stage: OpenStage,
    *,
    seed: int,
    only: Sequence[str] = (),
    clean_tape: bool = True,
    auditors: Auditors = auditor_of,
    grace_ms: int = GRACE_MS,
    tell: Tell = _unheard,
) -> Result:
    """Play the tape clean, and once for every class of fault (only: these). open_stage: a new, empty one each time.

    clean_tape: whether anything that is reported of the tape itself is a false alarm. grace_ms: of the auditors.

    Raises BadQuery for a tape without events, and for a class that is not known.
    """
    names = list(only or (*FAULTS, TAMPER))
    for name in names:
        if name not in (*FAULTS, TAMPER):
            raise BadQuery("only", name, f"must be among {' '.join((*FAULTS, TAMPER))}")
    events = told(messages, wire.decode, wire.dataset, wire.market)
    if not events:
        raise BadQuery("recording", len(messages), f"must hold events of market {wire.market}")
    length_ms = messages[-1].at_ms - messages[0].at_ms
    every_ms = MINUTE_MS if length_ms >= _LONG_MS else _SHORT_AUDIT_MS
    scores: list[Score] = []
    async with open_stage() as stage:
        tell(0, len(names) + 1, "clean")
        clean = await play(messages, stage, wire, auditors, audit_every_ms=every_ms, grace_ms=grace_ms)
        if TAMPER in names:
            scores.append(await tampered(stage, messages[-1].at_ms, Random(f"{seed} {TAMPER}")))
    for done, name in enumerate((name for name in names if name != TAMPER), start=1):
        tell(done, len(names) + 1, name)
        around = Around(messages, events, Random(f"{seed} {name}"), every_ms, 2 * every_ms + grace_ms + SECOND_MS)
        faulty = FAULTS[name](around)
        if not faulty.puts:
            scores.append(score(name, faulty, clean, clean))
            continue
        async with open_stage() as stage:
            played = await play(faulty.messages, stage, wire, auditors, audit_every_ms=every_ms, grace_ms=grace_ms)
        scores.append(score(name, faulty, clean, played))
    in_order = sorted(scores, key=lambda one: names.index(one.fault))
    return Result(
        seed=seed,
        messages=len(messages),
        audit_every_s=every_ms / SECOND_MS,
        clean=sum(one.kind not in _ORDINARY for one in reports_of(clean)),
        clean_tape=clean_tape,
        scores=tuple(in_order),
    )
