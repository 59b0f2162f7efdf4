"""The self-test passes with our auditor, by the command that users run, and fails with one that was made worse."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import typer

from data_manager.adapters.binance.wire import Decoder, dataset_of
from data_manager.cli import run, selftest
from data_manager.domain.condition.truth import SeriesTruth
from data_manager.domain.finding import Finding, FindingKind
from data_manager.domain.holes.continuity import Hole
from data_manager.domain.holes.ledger import HoleState, LedgerEntry
from data_manager.domain.span import Span
from data_manager.services.auditing.entering import Entering
from data_manager.services.selftest.faults import FAULTS, REQUIRED, Around, Faulty, Missing, Put
from data_manager.services.selftest.playing import Played
from data_manager.services.selftest.running import Result
from data_manager.services.selftest.scoring import Score, score
from data_manager.services.selftest.tape import generated, told
from tests.truth import path_of

EVERY = (*FAULTS, "tamper")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def said(*arguments: str) -> tuple[int, str, str]:
        try:
            code = run(("selftest", *arguments))
        except typer.Exit as error:
            code = error.exit_code
        return (code, *capsys.readouterr())

    return said


Shell = Callable[..., tuple[int, str, str]]


async def scored(*only: str, seed: int) -> Result:
    """The self-test of these faults, without recordings."""
    return await selftest.selftest_of(seed, [], "um", only)


def test_everything_is_found_and_nothing_else(shell: Shell) -> None:
    code, out, err = shell("--short", "--json")
    found = json.loads(out)
    assert (code, found["passed"], found["clean"]) == (0, True, 0), err
    scores = {one["fault"]: one for one in found["scores"]}
    assert set(scores) == set(EVERY)
    assert set(REQUIRED) <= set(scores)
    for name, one in scores.items():
        assert (one["recall"], one["precision"]) == (1.0, 1.0), (name, one)
        assert one["put"] >= 6
    for name in ("drop", "chain_break", "stall"):
        assert 0 < scores[name]["delay_median_s"] <= scores[name]["delay_max_s"] <= 75, (
            "the next audit but one, at most"
        )


@pytest.mark.recordings
def test_recordings_are_tested_too(shell: Shell, recordings: Path) -> None:
    file = path_of(recordings, "um", "2021-07-22_sushi-akro-keep-ctk")
    only = [word for name in (*REQUIRED, "mislabel") for word in ("--only", name)]
    code, out, err = shell(str(file), "--json", *only)
    scores = {one["fault"]: one for one in json.loads(out)["scores"]}
    assert code == 0, err
    assert all(scores[name]["recall"] == 1 for name in REQUIRED)
    assert json.loads(out)["messages"] == 1_535
    assert (scores["mislabel"]["put"], scores["mislabel"]["recall"]) == (0, None), "it has no books without a symbol"


def test_what_cannot_be_tested_is_named(shell: Shell, tmp_path: Path, recordings: Path) -> None:
    coin = path_of(recordings, "cm", "2021-07-22_ten-symbols")
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, word in (
        (("--only", "luck"), "must be among drop"), (("--recording", str(tmp_path / "no.gz")), "no recording"),
        (("--recording", str(coin)), "must hold events of market um"), (("--market", "otc"), "must be one of um cm spot"),
        (("--recording", str(tmp_path / "empty.jsonl")), "must hold events"),
    ):  # fmt: skip
        code, _, err = shell(*arguments)
        assert (code in (1, 2), word in err) == (True, True), (arguments, err)


def test_the_same_seed_goes_wrong_in_the_same_way() -> None:
    decode = Decoder("um")

    def faulty(seed: int) -> list[Faulty]:
        tape = generated(seed, 4)
        events = told(tape, decode, dataset_of, "um")
        assert len(events) == len(tape), "every message is an event"
        return [make(Around(tape, events, Random(seed), 5_000, 21_000)) for make in FAULTS.values()]

    first, other = faulty(5), faulty(6)
    assert first == faulty(5)
    assert all(one != two for one, two in zip(first, other, strict=True))


# ── Auditors that were made worse ────────────────────────────────────────────────────────────────────────────────────


def mutate(monkeypatch: pytest.MonkeyPatch, change: Callable[[Span, Sequence[Hole]], list[Hole]]) -> None:
    """The auditor enters other holes than it found."""
    enter = Entering.enter

    def entered(self: Entering, span: Span, holes: Sequence[Hole]) -> Any:
        return enter(self, span, change(span, holes))

    monkeypatch.setattr(Entering, "enter", entered)


async def test_an_auditor_that_tolerates_a_minute_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, lambda _, holes: [one for one in holes if one.end_ms - one.start_ms > 60_000])
    done = await scored("drop", "chain_break", seed=1)
    scores = {one.fault: one for one in done.scores}
    assert not done.passed
    assert scores["drop"].recall == 0.0
    assert scores["chain_break"].recall == 0.0
    assert scores["drop"].missed


async def test_an_auditor_that_overlooks_some_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, lambda _, holes: [one for one in holes if (one.after or 1) % 7])
    done = await scored("drop", seed=1)
    assert not done.passed
    assert 0 < (done.scores[0].recall or 0) < 1


async def test_an_auditor_that_cries_wolf_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(span: Span, holes: Sequence[Hole]) -> list[Hole]:
        if holes and holes[0].kind == "grid" and holes[0].start_ms > span.start_ms:
            early = Hole(holes[0].start_ms - 60_000, holes[0].start_ms, 1, None, None, "grid")
            return [early, *holes]
        return list(holes)

    mutate(monkeypatch, seen)
    done = await scored("drop", seed=1)
    assert not done.passed
    assert done.scores[0].recall == 1
    assert 0 < (done.scores[0].precision or 0) < 1
    assert done.scores[0].false


@pytest.mark.parametrize(("seconds", "by"), [("60", "setting"), ("61", "setting"), ("60", "flag")])
def test_a_tolerance_is_told_by_what_it_costs(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, seconds: str, by: str
) -> None:
    """A single candle of each symbol is lost: a setting of 60 tells it still, for it is not shorter than that."""
    arguments = ["--short", "--only", "drop", "--seed", "3"]
    if by == "setting":
        monkeypatch.setenv("MIN_GAP_SIZE_SECONDS", seconds)
    else:
        arguments += ["--tolerance-s", seconds]
    code, out, err = shell(*arguments)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["fault", "drop"]
    assert "drop: not found: hole um." in err
    assert "seed 3: failed" in err
    code, out, _ = shell(*arguments, "--json")
    [score] = json.loads(out)["scores"]
    assert (score["precision"], score["found"]) == (1.0, 2 if (seconds, by) == ("60", "setting") else 0), score


# ── Scores, without a market ─────────────────────────────────────────────────────────────────────────────────────────

BREAK = Missing("ids", 1_000, 2_000, 1, 10, 12)
DROPPED = Put(
    found_as="hole", series="um.trade.BTCUSDT", key=11, last_key=11, start_ms=1_500, end_ms=1_500, at_ms=4_000, hole=BREAK,
    touched=(11,),
)  # fmt: skip


def played(*holes: Missing, told: bool = True, unaccounted: int = 0, **contents: set[tuple[int, int]]) -> Played:
    """What was to be seen: these holes, entered and told, and these rows of a trade series."""
    entries = [
        LedgerEntry(
            id=str(at), series="um.trade.BTCUSDT", kind=one.kind, start_ms=one.start_ms, end_ms=one.end_ms, missing=one.missing,
            after=one.after, before=one.before, state=HoleState.OPEN, found_ms=9_000, seen_ms=9_000,
        )
        for at, one in enumerate(holes)
    ]  # fmt: skip
    findings = [
        Finding(
            id=one.id, kind=FindingKind.HOLE, series=one.series, stream=None, severity="warning", start_ms=one.start_ms,
            end_ms=one.end_ms, found_ms=9_000,
            evidence={"rule": one.kind, "missing": one.missing, "after": one.after, "before": one.before},
        )
        for one in entries
    ]  # fmt: skip
    held = {f"um.{name}.BTCUSDT": frozenset(rows) for name, rows in contents.items()}
    truths = [SeriesTruth(series="um.trade.BTCUSDT", holes=tuple(entries))]
    return Played(truths, findings if told else [], [], Counter(), held, unaccounted)


def test_a_hole_that_is_not_named_exactly_is_missed_and_a_false_alarm() -> None:
    faulty, nothing = Faulty([], [DROPPED]), played()
    right = score("drop", faulty, nothing, played(BREAK))
    assert (right.recall, right.precision, right.delay_median_s, right.perfect) == (1.0, 1.0, 5.0, True)
    for wrong in (
        BREAK._replace(end_ms=2_001), BREAK._replace(start_ms=999), BREAK._replace(missing=2), BREAK._replace(after=9),
        BREAK._replace(before=None),
    ):  # fmt: skip
        one = score("drop", faulty, nothing, played(wrong))
        assert (one.recall, one.precision, len(one.false), one.perfect) == (0.0, 0.0, 1, False), wrong
    untold = score("drop", faulty, nothing, played(BREAK, told=False))
    assert (untold.recall, untold.precision) == (0.0, 1.0), "what is only entered helps nobody"
    known = BREAK._replace(start_ms=5_000, end_ms=6_000)
    assert score("drop", faulty, played(known), played(known, BREAK)).perfect, "it was said of the clean tape too"


@pytest.mark.parametrize(
    ("of_ours", "put", "missed", "passed"),
    [
        (False, {"drop": 0, "chain_break": 2}, 0, True), (False, {"drop": 0, "chain_break": 2}, 1, False),
        (False, {"drop": 0, "chain_break": 0}, 0, False), (True, {"drop": 0, "chain_break": 2}, 0, False),
        (True, {"drop": 3, "chain_break": 2, "stall": 0}, 0, True),
    ],
)  # fmt: skip
def test_what_a_recording_has_no_place_for_fails_no_self_test(
    of_ours: bool, put: dict[str, int], missed: int, passed: bool
) -> None:
    scores = []
    for name, count in put.items():
        recall, found = (1 - missed / count, count - missed) if count else (None, 0)
        scores.append(Score(fault=name, put=count, found=found, reported=0, explained=0, recall=recall, precision=None))
    done = Result(seed=1, messages=9, audit_every_s=5.0, clean=0, clean_tape=of_ours, scores=tuple(scores))
    assert done.passed == passed
    assert done.untested == tuple(name for name, count in put.items() if not count)


def test_rows_that_nobody_touched_must_be_held_as_they_were() -> None:
    faulty, clean = Faulty([], [DROPPED]), played(trade={(10, 1), (11, 2), (12, 3)}, depth={(7, 7)})
    good = score("drop", faulty, clean, played(BREAK, trade={(10, 1), (12, 3)}, depth={(7, 7)}))
    assert good.perfect
    for held in ({(10, 1)}, {(10, 1), (12, 4)}, {(10, 1), (12, 3), (13, 1)}):
        one = score("drop", faulty, clean, played(BREAK, trade=held, depth={(7, 7)}))
        assert (one.recall, one.perfect) == (1.0, False), held
    assert not score("drop", faulty, clean, played(BREAK, trade={(10, 1), (12, 3)})).perfect, (
        "another series lost a row"
    )
    assert not score("drop", Faulty([], [DROPPED]), played(), played(BREAK, unaccounted=1)).perfect
