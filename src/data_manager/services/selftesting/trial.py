"""The whole self-test: the undamaged tape first, then each class of fault on a copy of its own."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from msgspec import Struct

from data_manager.services.selftesting.planting import PLANTS
from data_manager.services.selftesting.playing import Options, Tools, play
from data_manager.services.selftesting.reading import read
from data_manager.services.selftesting.scoring import Score, score, undamaged_score
from data_manager.services.selftesting.tape import Message

REQUIRED: Final = ("drop", "chain", "double")
"""Classes in which nothing may be missed and nothing said too much."""

Progress = Callable[[int, int, str], None]


class Trial(Struct, frozen=True, kw_only=True):
    """How it came out. passed: the classes of REQUIRED are perfect, and so is all that was said of a tape of ours."""

    seed: int
    messages: int
    series: int
    data_s: float
    audit_every_s: int
    tolerance_s: float
    scores: tuple[Score, ...]
    passed: bool


async def try_all(
    messages: Sequence[Message],
    tools: Tools,
    options: Options,
    *,
    seed: int,
    ours: bool,
    faults: Sequence[str] = (),
    progress: Progress,
) -> Trial:
    """Every class of fault, or these, planted with that seed. ours: the tape was made, and is known to be whole."""
    tape = read(messages, tools.decode, tools.dataset_of, tools.market)
    undamaged = await play(tape.messages, tools, options, tape.start_ms, tape.end_ms)
    scores = [undamaged_score(undamaged)]
    wanted = [fault for fault in PLANTS if fault in faults or not faults]
    for number, fault in enumerate(wanted, 1):
        progress(number, len(wanted) + 1, fault)
        damage = PLANTS[fault](tape, Random(f"{seed} {fault}"))
        if damage.planted:
            said = await play(damage.messages, tools, options, tape.start_ms, tape.end_ms)
            scores.append(score(fault, damage.planted, said, undamaged))
        else:
            scores.append(score(fault, (), undamaged, undamaged))
    required = (*REQUIRED, "undamaged") if ours else REQUIRED
    return Trial(
        seed=seed,
        messages=len(tape.messages),
        series=len(tape.rows),
        data_s=(tape.end_ms - tape.start_ms) / 1_000,
        audit_every_s=options.audit_every_s,
        tolerance_s=options.tolerance_ms / 1_000,
        scores=tuple(scores),
        passed=all(one.perfect for one in scores if one.fault in required),
    )
