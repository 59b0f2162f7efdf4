"""`data-manager audit` as a person and as a program meet it."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from data_manager.adapters.store.embedded import EmbeddedStore
from data_manager.cli.audit import audits
from data_manager.cli.output import say_error
from data_manager.domain.errors import DataManagerError
from data_manager.domain.events import Event
from data_manager.settings import SETTINGS
from tests.contract.rows import trade
from tests.flow.test_audit import at, fed, minutes
from tests.servers import free_port


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Forty minutes of long ago without two, and trades without one, as a replay leaves them."""
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    asyncio.run(hold(tmp_path / "data", minutes(set(range(40)) - {7, 8}), [trade(n) for n in range(1, 50) if n != 20]))
    return tmp_path / "data"


async def hold(folder: Path, *events: Sequence[Event]) -> None:
    store = EmbeddedStore(folder, 8 << 20)
    for some in events:
        batch = fed(some)
        batch.columns["received_ms"].values[:] = at(10**6)  # type: ignore[attr-defined]
        await store.append(batch)
        await store.fold(batch.dataset)
    await store.close()


def run(*arguments: str) -> int:
    """The exit code of the command, errors told as data-manager tells them."""
    try:
        return int(audits(list(arguments), standalone_mode=False) or 0)
    except typer.Exit as error:
        return error.exit_code
    except (typer.TyperException, DataManagerError) as error:
        return say_error(error, as_json="--json" in arguments)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_holes_are_shown_and_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys)
    assert (found["audited"], found["failed"]) == (2, [])
    assert [(one["series"], one["missing"], one["state"]) for one in found["holes"]] == [
        ("um.candle.BTCUSDT.1m", 2, "open"),
        ("um.trade.BTCUSDT", 1, "open"),
    ]
    assert run() == 0
    said = capsys.readouterr()
    assert "um.trade.BTCUSDT" in said.out
    assert "2 series audited" in said.err
    assert run("--strict") == 1


def test_a_query_says_how_complete_its_rows_are(capsys: pytest.CaptureFixture[str]) -> None:
    from data_manager.cli import run as command

    asked = ("query", "candle", "BTCUSDT", "1m", "--start", str(at(0)), "--end", str(at(40)))
    assert command(asked) == 0
    assert "nobody knows what is missing (unverified=1)" in capsys.readouterr().err
    told(capsys)
    assert command(asked) == 0
    assert "95.00 % complete (good=0.95, known_hole=0.05)" in capsys.readouterr().err
    assert command((*asked, "--json")) == 0
    about = json.loads(capsys.readouterr().err)
    assert about["data_completeness"] == 38 / 40
    assert [(one["start_ms"], one["condition"]) for one in about["coverage"]] == [
        (at(0), "good"), (at(7), "known_hole"), (at(9), "good"),
    ]  # fmt: skip


def test_one_series_one_span_and_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert [one["series"] for one in told(capsys, "candles_BTCUSDT_1m")["holes"]] == ["um.candle.BTCUSDT.1m"]
    span = ("um.candle.BTCUSDT.1m", "--start", str(at(10)), "--end", str(at(20)))
    assert told(capsys, *span)["holes"] == []
    assert run(*span, "--strict") == 0
    capsys.readouterr()
    assert told(capsys, "--full")["rows"] == 38 + 48


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("um.candle.BTCUSDT.7m",), 2, "period"),
        (("--start", "yesterday"), 2, "start"),
        (("--start", "2024-01-02", "--end", "2024-01-01"), 2, "start"),
        (("um.trade.XYZUSDT",), 1, "um.trade.XYZUSDT"),
    ],
)
def test_a_bad_question_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, word: str
) -> None:
    assert run(*arguments) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert word in said


def test_a_damaged_chunk_is_a_failure_and_no_gap_is_claimed(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    assert run() == 0
    capsys.readouterr()
    with sqlite3.connect(data_dir / "series.db") as connection:
        connection.execute("UPDATE chunk SET keys = zeroblob(100) WHERE rows = 38")
    connection.close()
    assert run("um.candle.BTCUSDT.1m", "--full") == 1
    assert "um.candle.BTCUSDT.1m could not be audited" in capsys.readouterr().err


def test_what_a_killed_service_left_behind_is_not_waited_for(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = {"pid": os.getpid(), "api": f"http://127.0.0.1:{free_port()}"}
    (data_dir / "service.json").write_text(json.dumps(left))
    assert told(capsys)["audited"] == 2
    assert run("--at", left["api"]) == 1
    assert "no service answers" in capsys.readouterr().err
    assert run("--at", "localhost:8000") == 2
    assert "at " in capsys.readouterr().err


def test_without_a_store_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "nothing"))
    assert run() == 1
    assert "no data" in capsys.readouterr().err
