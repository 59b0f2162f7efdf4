"""The command line as a person and as a program meet it."""

import asyncio
import csv
import gzip
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from data_manager import __version__
from data_manager.cli import run
from data_manager.cli.output import quiet_logs
from data_manager.settings import SETTINGS
from tests.conftest import eventually
from tests.servers import free_port

COMMANDS = (
    "run", "serve", "feed", "replay", "query", "dead-letters", "export", "import", "config", "doctor", "migrate", "version",
    "simulate", "audit", "demo",
)  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No settings but a data directory of its own, which is given to the test."""
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command that succeeds says as JSON."""
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_help_names_the_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line]
    assert set(listed) >= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_the_traceback_of_a_command_tells_no_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    password = "".join(["hunter", "2"])
    try:
        raise RuntimeError("it broke")
    except RuntimeError:
        quiet_logs()
        structlog.get_logger().exception("something could not be done")
    said = capsys.readouterr()
    assert (said.out, "RuntimeError: it broke" in said.err, "Traceback" in said.err) == ("", True, True)
    assert password not in said.err


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Commands:" in said.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing"], "nothing"),
        (["config", "--nothing"], "--nothing"),
        (["query"], "dataset"),
        (["replay"], "files"),
        (["serve", "--role", "audit"], "--role"),
        (["dead-letters", "--limit", "0"], "--limit"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert named in said.err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert json_of(capsys, "version")["version"] == __version__


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data_manager", "version", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["version"] == __version__


@pytest.mark.parametrize("arguments", [["--help"], ["config"], ["version"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
import sys
from data_manager.cli import run
run({arguments})
heavy = {{"numpy", "pyarrow", "fastapi", "sqlalchemy", "nats", "uvicorn"}} & set(sys.modules)
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- config -----------------------------------------------------------------------------------------------------


def test_config_prints_every_setting_with_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_PORT", "8123")
    rows = {row["name"]: row for row in json_of(capsys, "config")}
    assert list(rows) == [name.upper() for name in SETTINGS]
    assert (rows["API_PORT"]["value"], rows["API_PORT"]["source"]) == ("8123", "environment")
    assert (rows["API_PORT"]["default"], rows["METRICS_PORT"]["source"]) == ("8000", "default")
    assert run(["config"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + len(SETTINGS)
    assert any(line.split()[:2] == ["API_PORT", "8123"] for line in table)


def test_config_hides_credentials(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://me:hunter2@bus:4222")
    monkeypatch.setenv("NATS_TOKEN", "hunter2")
    assert run(["config"]) == 0
    said = capsys.readouterr().out
    assert "hunter2" not in said
    assert "nats://***@bus:4222" in said


def test_config_warns_of_a_misspelt_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATSURL", "nats://bus")
    assert run(["config"]) == 0
    assert "did you mean NATS_URL?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["config"], ["run"], ["serve"], ["migrate"], ["dead-letters"]])
def test_bad_settings_stop_a_command_with_a_line_for_each(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_PORT", "http")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    assert run(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["error: LOG_LEVEL", "error: API_PORT"]
    assert run([*command, "--json"]) == 2
    told = json.loads(capsys.readouterr().err)
    assert [problem["field"] for problem in told["errors"]] == ["LOG_LEVEL", "API_PORT"]


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Exit code and what is shown when standard output and error are a terminal 200 columns wide."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "data_manager", *arguments]
    with os.fdopen(ours, "rb") as screen:
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ | {"COLUMNS": "200"})
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how Linux says that nobody has the other end open any more
            while more := screen.read1():
                shown += more
        return process.wait(), shown.decode()


def test_a_terminal_gets_a_drawn_table() -> None:
    code, shown = on_a_terminal("config")
    assert code == 0
    assert "─" in shown
    assert "NATS_CONSUMER_SUBJECT" in shown


def test_a_terminal_gets_no_bytes() -> None:
    code, shown = on_a_terminal("query", "trade", "BTCUSDT", "--format", "parquet")
    assert code == 2
    assert "--output" in shown


# ---- doctor -----------------------------------------------------------------------------------------------------


def diagnosis(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and checks by name (the last one of a name)."""
    code = run(["doctor", "--json"])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)}


@pytest.fixture
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings whose ports nobody holds."""
    for name in ("API_PORT", "METRICS_PORT", "NATS_OWN_PORT"):
        monkeypatch.setenv(name, str(free_port()))


@pytest.mark.usefixtures("free_ports")
def test_the_doctor_finds_a_sound_machine_sound(capsys: pytest.CaptureFixture[str], environment: Path) -> None:
    code, checks = diagnosis(capsys)
    assert code == 0
    assert [check for check in checks.values() if check["ok"] is False] == []
    assert checks["nats-server"]["ok"] is True
    assert not environment.exists()
    assert run(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(checks)


@pytest.mark.usefixtures("free_ports")
@pytest.mark.parametrize("name", ["API_PORT", "METRICS_PORT", "NATS_OWN_PORT"])
def test_the_doctor_names_a_port_in_use(
    name: str, capsys: pytest.CaptureFixture[str], taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(taken_port))
    code, checks = diagnosis(capsys)
    assert code == 1
    [failed] = [check for check in checks.values() if check["ok"] is False]
    assert str(taken_port) in failed["detail"]
    assert name in failed["fix"]


@pytest.mark.usefixtures("free_ports")
def test_the_doctor_names_a_bad_setting_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUSH_AGE_MS", "soon")
    code, checks = diagnosis(capsys)
    assert code == 1
    assert "FLUSH_AGE_MS" in checks["settings"]["detail"]
    assert checks["python"]["ok"] is True


@pytest.mark.usefixtures("free_ports")
def test_the_doctor_names_a_data_dir_that_is_no_folder(capsys: pytest.CaptureFixture[str], environment: Path) -> None:
    environment.write_text("a file stands here")
    code, checks = diagnosis(capsys)
    assert code == 1
    assert checks["data dir"]["ok"] is False
    assert "DATA_DIR" in checks["data dir"]["fix"]


@pytest.mark.usefixtures("free_ports")
def test_the_doctor_names_a_bus_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", f"nats://me:hunter2@127.0.0.1:{free_port()}")
    code, checks = diagnosis(capsys)
    assert code == 1
    assert checks["nats"]["ok"] is False
    assert "hunter2" not in str(checks)
    assert "NATS_URL" in checks["nats"]["fix"]


# ---- with a service that runs -----------------------------------------------------------------------------------

RECORDING = "binance_futures/ws/2021-07-22_sushi-akro-keep-ctk.jsonl.gz"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Iterator[dict[str, str]]:
    """The settings of a running service that holds RECORDING. In the end it is interrupted, and must stop well."""
    folder = tmp_path_factory.mktemp("service")
    ports = {name: str(free_port()) for name in ("API_PORT", "METRICS_PORT", "NATS_OWN_PORT")}
    ours = {"DATA_DIR": str(folder / "data"), "ENABLE_FEED": "false", **ports}
    plain = {name: text for name, text in os.environ.items() if name.lower() not in SETTINGS}
    with (folder / "log").open("wb") as log, started(["run", "--json"], plain | ours, log) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert "Ctrl-C" in said.pop("message")
        assert said == {
            "version": __version__, "role": "all", "api": f"http://127.0.0.1:{ours['API_PORT']}",
            "metrics": f"http://127.0.0.1:{ours['METRICS_PORT']}/metrics",
            "bus": f"nats://127.0.0.1:{ours['NATS_OWN_PORT']}", "subject": "binance.futures.websocket.data",
            "rows": ours["DATA_DIR"], "metadata": "sqlite",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "data_manager", "replay", str(recordings / RECORDING), "--json"],
            env=plain | ours, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout)["messages"] == 1_535
        wait_until(lambda: messages_received(ours) >= 1_535)
        yield ours
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0, (folder / "log").read_text()


@contextmanager
def started(arguments: list[str], environ: dict[str, str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The program as a process of its own; killed if it is still there at the end."""
    command = [sys.executable, "-m", "data_manager", *arguments]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def messages_received(ours: dict[str, str]) -> int:
    with urlopen(f"http://127.0.0.1:{ours['METRICS_PORT']}/metrics") as answer:
        found = re.search(
            r'^data_manager_messages_received_total{event_type="raw"} (\S+)$', answer.read().decode(), re.MULTILINE
        )
    return int(float(found[1])) if found else 0


def wait_until(check: Callable[[], bool]) -> None:
    asyncio.run(eventually(lambda: asyncio.to_thread(check)))


@pytest.fixture
def running(service: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process' settings are those of the running service."""
    for name, text in service.items():
        monkeypatch.setenv(name, text)
    return service


def recorded_trades(recordings: Path, symbol: str) -> list[dict[str, Any]]:
    """Id, price and quantity of the aggregate trades in RECORDING, in order."""
    with gzip.open(recordings / RECORDING, "rt", encoding="utf-8") as lines:
        events = [json.loads(line)["msg"]["data"] for line in lines]
    ours = [event for event in events if event["e"] == "aggTrade" and event["s"] == symbol]
    return [{"agg_id": event["a"], "price": event["p"], "quantity": event["q"]} for event in ours]


QUERY = ["query", "agg_trade", "SUSHIUSDT", "--columns", "agg_id,price,quantity", "--limit", "1000"]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("form", "read"),
    [
        ("json", json.loads),
        ("ndjson", lambda raw: [json.loads(line) for line in raw.splitlines()]),
        (
            "csv",
            lambda raw: [row | {"agg_id": int(row["agg_id"])} for row in csv.DictReader(raw.decode().splitlines())],
        ),
        ("arrow", lambda raw: as_text(pa.ipc.open_stream(raw).read_all())),
        ("parquet", lambda raw: as_text(pq.read_table(pa.BufferReader(raw)))),
    ],
)
def test_every_format_holds_the_recorded_rows(
    form: str, read: Callable[[bytes], Any], recordings: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    recorded = recorded_trades(recordings, "SUSHIUSDT")
    assert len(recorded) > 10
    expected = recorded if form not in ("arrow", "parquet") else [by_value(row) for row in recorded]
    assert run([*QUERY, "--format", form]) == 0
    assert read(capfdbinary.readouterr().out) == expected
    file = tmp_path / "rows"
    assert run([*QUERY, "--format", form, "--output", str(file)]) == 0
    assert read(file.read_bytes()) == expected
    assert capfdbinary.readouterr().out == b""


def as_text(table: pa.Table) -> list[dict[str, Any]]:
    return [by_value(row) for row in table.to_pylist()]


def by_value(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: Decimal(row[name]) for name in ("price", "quantity")}


@pytest.mark.usefixtures("running")
def test_a_table_for_people(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(QUERY) == 0
    said = capsys.readouterr()
    expected = [[str(value) for value in row.values()] for row in recorded_trades(recordings, "SUSHIUSDT")]
    assert [line.split() for line in said.out.splitlines()] == [["agg_id", "price", "quantity"], *expected]
    assert "nobody knows what is missing (unverified=1)" in said.err or "% complete" in said.err, (
        "audited by now, or not"
    )


@pytest.mark.usefixtures("running")
def test_following_the_cursor_gives_every_row_once(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids: list[int] = []
    first = ["query", "agg_trade", "SUSHIUSDT", "--start", "2021-07-22", "--limit", "7", "--json"]
    following: list[str] = first
    while following:
        assert run(following) == 0
        said = capsys.readouterr()
        ids += [row["agg_id"] for row in json.loads(said.out)]
        about = json.loads(said.err)
        assert about["data_completeness"] in (None, 1.0), "not audited yet, or whole"
        following = [*first, "--cursor", about["next_cursor"]] if about["next_cursor"] else []
    assert ids == [row["agg_id"] for row in recorded_trades(recordings, "SUSHIUSDT")]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "words",
    [["candle", "AKROUSDT", "1m"], ["candles", "AKROUSDT", "1m"], ["um.candle.AKROUSDT.1m"], ["candles_AKROUSDT_1m"]],
)
def test_a_series_is_named_in_several_ways(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    [row] = json_of(capsys, "query", *words)
    assert (row["timestamp"], row["close"]) == ("2021-07-22T22:25:00.000Z", "0.01733")


@pytest.mark.usefixtures("running")
def test_newest_first(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json_of(capsys, "query", "agg_trade", "SUSHIUSDT", "--order", "desc", "--limit", "2")
    assert [row["agg_id"] for row in rows] == [
        row["agg_id"] for row in recorded_trades(recordings, "SUSHIUSDT")[:-3:-1]
    ]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["trade", "../x"], "pair"),
        (["trade", "btcusdt"], "pair"),
        (["candle", "BTCUSDT", "2m"], "period"),
        (["trade", "BTCUSDT", "1m"], "period"),
        (["nothing", "BTCUSDT"], "dataset"),
        (["nothing"], "series"),
        (["trade", "BTCUSDT", "--limit", "0"], "limit"),
        (["trade", "BTCUSDT", "--start", "2023-01-02", "--end", "2023-01-01"], "start"),
        (["trade", "BTCUSDT", "--end", "soon"], "end"),
        (["trade", "BTCUSDT", "--order", "down"], "sort_order"),
        (["trade", "BTCUSDT", "--cursor", "x"], "cursor"),
        (["trade", "BTCUSDT", "--columns", "colour"], "columns"),
        (["trade", "BTCUSDT", "--format", "xml"], "format"),
        (["trade", "BTCUSDT", "--output", "/nowhere/x"], "output"),
        (["trade", "BTCUSDT", "--format", "csv", "--output", "/nowhere/x"], "output"),
    ],
)
def test_a_wrong_query_names_the_field(arguments: list[str], field: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", *arguments, "--json"] if "--output" not in arguments else ["query", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert field in said.err


def test_a_query_before_there_is_anything_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", "trade", "BTCUSDT"]) == 1
    assert "DATA_DIR" in capsys.readouterr().err


def test_what_cannot_be_a_row_is_listed_as_a_dead_letter(
    running: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"recv_ns":1626992741017000000,"msg":{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT"}}}\n'
    )
    before = messages_received(running)
    assert json_of(capsys, "replay", str(file), "--raw")["messages"] == 1
    wait_until(lambda: messages_received(running) > before)
    wait_until(lambda: bool(json_of(capsys, "dead-letters")["pagination"]["total"]))
    [letter] = json_of(capsys, "dead-letters", "--reason", "invalid")["data"]
    assert '"s":"BTCUSDT"' in letter["sample"]
    assert run(["dead-letters"]) == 0
    assert "invalid" in capsys.readouterr().out


def test_the_doctor_knows_a_running_service(running: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = diagnosis(capsys)
    assert code == 0
    assert checks["data dir"]["ok"] is None
    assert checks["api port"]["ok"] is None
    assert running["API_PORT"] in checks["api port"]["detail"]


@pytest.mark.usefixtures("running")
def test_a_second_service_on_one_data_dir_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["run"]) == 2
    assert "METRICS_PORT" in capsys.readouterr().err
    for name in ("API_PORT", "METRICS_PORT", "NATS_OWN_PORT"):
        monkeypatch.setenv(name, str(free_port()))
    assert run(["run"]) == 1
    assert "DATA_DIR" in capsys.readouterr().err


def test_an_interrupted_replay_stops_cleanly(running: dict[str, str], recordings: Path) -> None:
    before = messages_received(running)
    arguments = ["replay", str(recordings / RECORDING), "--speed", "1"]
    with started(arguments, os.environ | running, subprocess.DEVNULL) as process:
        wait_until(lambda: messages_received(running) > before)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"stopped before the end" in said


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["missing.jsonl"], 1, "cannot connect"),
        (["missing.jsonl", "--speed", "fast"], 2, "speed"),
        (["missing.jsonl", "--nats-url", "here"], 2, "NATS_URL"),
        (["missing.jsonl", "--subject", "a b"], 2, "NATS_CONSUMER_SUBJECT"),
    ],
)
def test_a_replay_that_cannot_begin_says_why(
    arguments: list[str], code: int, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_OWN_PORT", str(free_port()))
    assert run(["replay", *arguments]) == code
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert what in said.err
    assert said.out == ""


def test_migrating_twice_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert json_of(capsys, "migrate")["applied"] != []
    assert json_of(capsys, "migrate")["applied"] == []
