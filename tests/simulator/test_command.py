"""`data-manager simulate` as people start it: a process, an address, switches, an end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

from data_manager.domain.time import parse_time
from tests.servers import free_port

COMMAND = [sys.executable, "-m", "data_manager", "simulate"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60, check=False, env=os.environ)


@contextmanager
def simulator(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs, and its address."""
    process = subprocess.Popen([*COMMAND, "--json", "--port", "0", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())["address"]
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


def test_it_serves_takes_switches_and_ends_cleanly() -> None:
    words = ("--symbols", "BTCUSDT,ALGOUSDT", "--seed", "9", "--start", "2026-03-05T12:00:00Z", "--speed", "100")
    with simulator(*words, "--fault", "skew skew_ms=5000000000") as (process, address):
        with urlopen(f"{address}/fapi/v1/time", timeout=10) as answer:
            shown = json.load(answer)["serverTime"] - 5_000_000_000
        assert 0 <= shown - parse_time("2026-03-05T12:00:00Z") < 100 * 60_000
        added = run("fault", "stall", "streams=btcusdt@*", "where=ws,rest", "--at", address, "--json")
        assert json.loads(added.stdout)["streams"] == "btcusdt@*"
        listed = run("faults", "--at", address)
        assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [["f1", "skew"], ["f2", "stall"]]
        assert run("mend", "f2", "--at", address).stdout == "stall is off\n"
        assert run("mend", "--at", address).stdout == "1 off\n"
        bad = run("fault", "nothing", "--at", address)
        assert bad.returncode == 2
        assert "nothing" in bad.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_what_cannot_be_is_one_line_and_an_exit_code() -> None:
    for words, code in (
        (("--symbols", "nonsense"), 2), (("--speed", "0"), 2), (("--start", "yesterday"), 2), (("--life", "long"), 2),
        (("--port", "70000"), 2), (("--weight", "0"), 2), (("--ping-every", "0"), 2), (("--life", "0s"), 2),
        (("--from-recordings", "/nowhere"), 1), (("--fault", "bend"), 2), (("--fault", "stall streams"), 2),
        (("faults", "--at", f"http://127.0.0.1:{free_port()}"), 1), (("faults", "--at", "file:///etc"), 2),
    ):  # fmt: skip
        done = run(*words)
        assert done.returncode == code, (words, done.stderr)
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_taken_port_is_said() -> None:
    with simulator() as (_, address):
        done = run("--port", address.rsplit(":", 1)[1])
        assert done.returncode == 1
        assert "cannot be opened" in done.stderr
