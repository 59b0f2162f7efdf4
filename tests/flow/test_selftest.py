"""The self-test passes with our auditor, by the command that users run, and fails with one that was made worse."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import typer

from data_manager.adapters.binance.wire import Decoder, dataset_of
from data_manager.cli import run, selftest
from data_manager.domain.continuity import Hole
from data_manager.domain.span import Span
from data_manager.services.auditing.entering import Entering
from data_manager.services.selftest.faults import FAULTS, REQUIRED, Around, Faulty
from data_manager.services.selftest.running import Result
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
    # A price that is far off makes the labels of a few books look wrong until the next one comes: those are false alarms.
    least = {"corrupt": 0.5}
    for name, one in scores.items():
        assert one["recall"] == 1.0, (name, one)
        assert one["precision"] >= least.get(name, 1.0), (name, one)
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


def test_a_tolerance_is_told_by_what_it_costs(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GAP_SIZE_SECONDS", "61")
    code, out, err = shell("--short", "--only", "drop", "--seed", "7")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["fault", "drop"]
    assert "drop: not found: missing um." in err
    assert "seed 7: failed" in err
