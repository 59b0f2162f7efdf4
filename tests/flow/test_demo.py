"""`data-manager demo`: it comes out, it would say so if it did not, and it leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from data_manager.demo.judging import Verdict, compared
from data_manager.demo.watching import Hole
from tests.service import bare_environment, data_manager

_WITHIN_S = 600.0


def play(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A whole demonstration, its temporary folder in the one given."""
    environ = {**bare_environment(), "TMPDIR": str(folder)}
    return subprocess.run(
        [*data_manager(), "demo", *words], capture_output=True, text=True, timeout=_WITHIN_S, check=False, env=environ
    )


def test_the_whole_loop_comes_out_row_for_row(tmp_path: Path) -> None:
    """The short variant: five symbols, time as fast as it goes in under a minute."""
    done = play(tmp_path, "--fast", "--symbols", "5", "--seed", "11", "--json")
    logs = "\n".join(file.read_text(errors="replace")[-3_000:] for file in tmp_path.glob("*/*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert outcome["holds"]
    assert outcome["problems"] == []
    assert outcome["lost"] == outcome["doubled"] == 0
    assert outcome["excused"] == 7, "what the exchange itself lacks is known, and lacking"
    assert outcome["absent_at_source"] == 1
    assert outcome["healed"] == outcome["found"] - 1 >= 4
    assert outcome["rows"] > 50_000
    assert outcome["certificates"] == outcome["proven"] >= 4
    assert outcome["dead_letters"] == {"undecodable": 3, "mislabelled": 1}
    assert {one["dataset"] for one in outcome["verdicts"] if one["rows"]} == {
        "candle", "agg_trade", "funding_rate", "trade", "mark_price", "depth",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_ctrl_c_ends_everything_it_started(tmp_path: Path) -> None:
    environ = {**bare_environment(), "TMPDIR": str(tmp_path)}
    command = [*data_manager(), "demo", "--fast", "--headless", "--symbols", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "streams speak on" in line:
                break
        assert children(demo.pid)
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(30) == 130, rest
    assert list(tmp_path.iterdir()) == []
    deadline_s = time.monotonic() + 10
    while left := processes_with(str(tmp_path)):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Processes that this one started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in listed.split()]


def processes_with(words: str) -> list[str]:
    """Command lines and environments that name our folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if words.encode() in told and int(folder.name) != os.getpid():
            found.append(told[:100].decode(errors="replace"))
    return found


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--duration", "10"], 2, "duration 10.0: must lie between 40 and 3600 seconds"),
        (["--symbols", "4"], 2, "symbols 4: must lie between 5 and 20"),
        (["--port", "70000"], 2, "port 70000: must be 0 (any free one) to 65535"),
        (["--seed", "x"], 2, "Invalid value for '--seed'"),
    ],
)
def test_what_cannot_be_played_is_one_line_and_an_exit_code(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = play(tmp_path, *words)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = play(tmp_path, "--fast", "--symbols", "5", "--port", str(port), "--json")
    assert done.returncode == 1
    assert f"port {port} cannot be used" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- the judge ----------------------------------------------------------------------------------------------------

TRUE = {key: (str(key), [["1.50", "2"]], None) for key in range(0, 600_000, 60_000)}
HELD = [(key, (f"{key}.0", [["1.5", "2.000"]], None)) for key in TRUE]
KNOWN = Hole(
    id="h", series="um.candle.XUSDT.1m", start_ms=120_000, end_ms=240_000, missing=2, state="absent_at_source",
    found_ms=0, healed_ms=None, history=[],
)  # fmt: skip


def told(verdict: Verdict) -> tuple[int, int, int, int, int]:
    return verdict.lacking, verdict.excused, verdict.extra, verdict.altered, verdict.doubled


def test_the_judge_knows_the_same_number_in_another_spelling() -> None:
    verdict = compared("x", HELD, TRUE, [])
    assert verdict.holds
    assert verdict.rows == 10


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (HELD[1:], (1, 0, 0, 0, 0)),
        ([*HELD, (777, ("7", [], None))], (0, 0, 1, 0, 0)),
        ([*HELD, HELD[3]], (0, 0, 0, 0, 1)),
        ([*HELD[:-1], (540_000, ("540000.1", [["1.5", "2"]], None))], (0, 0, 0, 1, 0)),
        ([*HELD[:-1], (540_000, ("540000", [["1.5", "2.01"]], None))], (0, 0, 0, 1, 0)),
        ([*HELD[:-1], (540_000, ("540000", [["1.5", "2"]], "0"))], (0, 0, 0, 1, 0)),
        ([*HELD[:-1], (540_000, ("540000", [["1.5", "2"], ["1.4", "1"]], None))], (0, 0, 0, 1, 0)),
        ([*HELD[:2], *HELD[3:]], (0, 1, 0, 0, 0)),
        ([*HELD[:1], *HELD[4:]], (1, 2, 0, 0, 0)),
        ([], (8, 2, 0, 0, 0)),
    ],
)  # fmt: skip
def test_the_judge_sees_every_difference(held: list[Any], expected: tuple[int, ...]) -> None:
    verdict = compared("x", held, TRUE, [KNOWN])
    assert told(verdict) == expected
    assert verdict.holds == (sum(expected) - expected[1] == 0)
    assert bool(verdict.first) != verdict.holds
