"""The self-test: the service answers every planted fault, says nothing else, and a weakened auditor fails."""

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from data_manager.adapters.binance.wire import DATASET_OF, Decoder
from data_manager.cli.selftesting import selftests
from data_manager.domain.errors import BadQuery
from data_manager.domain.finding import FindingKind, found
from data_manager.service.selftesting import selftest
from data_manager.services.selftesting.planting import PLANTS, Hole, Planted, require_faults
from data_manager.services.selftesting.playing import Account, Options
from data_manager.services.selftesting.reading import Tape, read
from data_manager.services.selftesting.scoring import Score, score
from data_manager.services.selftesting.tape import made
from data_manager.services.selftesting.trial import REQUIRED
from tests.truth import path_of

STEP_MS = 6_000
SHORT = "2021-07-22_sushi-akro-keep-ctk"


async def tried(*faults: str, recording: Path | None = None, passes: bool = True, **options: int) -> dict[str, Score]:
    """The scores of a run, by class."""
    done = await selftest(
        Options(step_ms=STEP_MS, **options),
        seed=7,
        minutes=5,
        recordings=[recording] if recording else [],
        faults=faults,
        progress=lambda *_: None,
    )
    assert done.passed == passes
    return {one.fault: one for one in done.scores}


async def test_drops_doubles_and_broken_chains_are_all_told_and_nothing_else() -> None:
    scores = await tried(*REQUIRED)
    assert scores["undamaged"].without_cause == ()
    for fault in REQUIRED:
        assert (scores[fault].recall, scores[fault].precision, scores[fault].missed) == (1.0, 1.0, ()), fault
    assert scores["drop"].planted >= 14, "trades, aggregates and a candle of each symbol"
    assert (scores["drop"].delay_max_s or 0) <= 2 * 60 + 60, "two turns, and a minute until the next candle"


async def test_the_other_faults_are_answered_too() -> None:
    scores = await tried("reorder", "corrupt", "clock", "stall", "mislabel", "late")
    assert {fault: one.missed for fault, one in scores.items()} == dict.fromkeys(scores, ())
    assert all(one.planted for fault, one in scores.items() if fault != "undamaged")
    assert {fault for fault, one in scores.items() if one.without_cause} <= {"corrupt"}, "a wrong price spoils more"


async def test_an_auditor_that_tells_no_hole_shorter_than_a_minute_fails() -> None:
    scores = await tried("drop", passes=False, tolerance_ms=60_000)
    assert scores["undamaged"].without_cause == ()
    assert 0 < (scores["drop"].recall or 0) < 1, "a candle is as long as that, a trade is not"


@pytest.mark.parametrize("name", [SHORT, "2023-04-04_btcusdt"])
async def test_recordings_hold_as_well_as_what_was_made(recordings: Path, name: str) -> None:
    scores = await tried(*REQUIRED, recording=path_of(recordings, "um", name), audit_every_s=15)
    assert scores["undamaged"].without_cause == ()
    assert {fault: (one.recall, one.precision) for fault, one in scores.items() if one.planted} == dict.fromkeys(
        REQUIRED, (1.0, 1.0)
    )


def test_the_command_says_how_it_came_out_and_fails_for_a_weakened_auditor(recordings: Path) -> None:
    arguments = ["--recording", str(path_of(recordings, "um", SHORT)), "--fault", "chain", "--json", "--tolerance-s"]
    runner = CliRunner()
    right, weakened = (runner.invoke(selftests, [*arguments, tolerance_s]) for tolerance_s in ("0", "60"))
    assert (right.exit_code, weakened.exit_code) == (0, 1)
    for said, recall in ((right, 1.0), (weakened, 0.0)):
        told = json.loads(said.stdout)
        assert told["passed"] == (recall == 1.0)
        assert [(one["fault"], one["recall"]) for one in told["scores"]] == [("undamaged", None), ("chain", recall)]


def test_what_is_no_class_of_fault_is_said() -> None:
    with pytest.raises(BadQuery, match="sabotage"):
        require_faults(["drop", "sabotage"])


# ── Planting and scoring, without a service ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tape() -> Tape:
    return read(made(3, 5), Decoder("um"), DATASET_OF, "um")


@pytest.mark.parametrize("fault", PLANTS)
def test_a_seed_is_a_set_of_faults(tape: Tape, fault: str) -> None:
    damage, again, other = (PLANTS[fault](tape, Random(seed)) for seed in (1, 1, 2))
    assert damage == again
    assert damage.planted
    assert list(damage.messages) != list(tape.messages)
    assert damage.planted != other.planted
    received = [one.received_ms for one in damage.messages]
    assert received == sorted(received)
    assert received[-1] <= tape.end_ms


def test_what_is_made_is_the_same_market_every_time() -> None:
    one, other = ([message.payload.partition(b'"message_id"')[0] for message in made(5, 5)] for _ in range(2))
    assert one == other


def _account(*holes: tuple[int, int, int]) -> Account:
    findings = [
        found(
            FindingKind.HOLE, series="um.trade.BTCUSDT", severity="warning", start_ms=start, end_ms=end,
            evidence={"missing": missing, "after": 10, "before": 12}, found_ms=9_000,
        )
        for start, end, missing in holes
    ]  # fmt: skip
    return Account([(9_000, one) for one in findings], [], {}, {}, 0)


def _dropped() -> Planted:
    return Planted(
        fault="drop", series="um.trade.BTCUSDT", symbol="BTCUSDT", wire="trade", at_ms=4_000, spans=(),
        hole=Hole(1_000, 2_000, 1, 10, 12),
    )  # fmt: skip


def test_a_hole_that_is_not_named_exactly_is_missed_and_said_without_a_cause() -> None:
    nothing = _account()
    right = score("drop", [_dropped()], _account((1_000, 2_000, 1)), nothing)
    assert (right.recall, right.precision, right.delay_median_s, right.perfect) == (1.0, 1.0, 5.0, True)
    for wrong in ((1_000, 2_001, 1), (999, 2_000, 1), (1_000, 2_000, 2)):
        one = score("drop", [_dropped()], _account(wrong), nothing)
        assert (one.recall, one.precision, len(one.without_cause)) == (0.0, 0.0, 1)
    silent = score("drop", [_dropped()], nothing, nothing)
    assert (silent.recall, silent.precision) == (0.0, None), "who says nothing says nothing wrong, and that is unknown"
    assert score("drop", [], nothing, nothing).recall is None
    known = score("drop", [_dropped()], _account((1_000, 2_000, 1), (5, 6, 1)), _account((5, 6, 1)))
    assert known.perfect, "it was said of the undamaged tape too"


def test_rows_that_nobody_damaged_must_be_held_as_they_were() -> None:
    nothing = _account((1_000, 2_000, 1))
    lost = nothing._replace(content={"um.depth.BTCUSDT": frozenset({(1, 7)})})
    whole = nothing._replace(content={"um.depth.BTCUSDT": frozenset({(1, 7), (2, 8)})})
    assert score("reorder", [], lost, whole).without_cause == ("um.depth.BTCUSDT 2 is held otherwise",)
    assert not score("reorder", [], whole._replace(unaccounted=2), whole).perfect
