"""The workflow that GitHub runs is one it can run: valid, pinned, and about commands, tests and images that exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]
COMMANDS = [line.strip() for _, step in STEPS for line in step.get("run", "").splitlines()]


def test_it_runs_for_every_change_and_may_only_read() -> None:
    on = WORKFLOW[True]  # what YAML 1.1 makes of the word on
    assert (on["push"], "pull_request" in on) == ({"branches": ["main"]}, True)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {name for name, job in JOBS.items() if not 0 < job.get("timeout-minutes", 0) <= 60} == set()
    assert all(job["runs-on"].startswith("ubuntu-") for job in JOBS.values())
    assert all(("run" in step) != ("uses" in step) for _, step in STEPS)


def test_every_action_is_pinned_to_a_commit_whose_version_is_named() -> None:
    uses = re.findall(r"uses: (\S+)(.*)", TEXT)
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    assert len(set(uses)) == len({action.partition("@")[0] for action, _ in uses}), "one version of each"


def test_the_check_is_make_check_on_every_python_we_name() -> None:
    assert any(line.startswith("make check") for line in COMMANDS)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert JOBS["check"]["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)", project)


@pytest.mark.parametrize("command", [one for one in COMMANDS if re.search(r"\b(make|pytest)\b", one)])
def test_every_command_is_about_what_exists(command: str) -> None:
    words = shlex.split(command)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    if words[0] == "make":
        assert words[1] in targets
    for path in (one for one in words if one.startswith("tests/")):
        assert (ROOT / path).exists(), path


def test_its_servers_are_those_of_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert JOBS["mysql"]["services"]["mysql"]["image"] == compose["mysql"]["image"]
    assert re.findall(r"mongo:\S+", "\n".join(COMMANDS)) == [compose["mongo"]["image"]]
    assert {"TEST_MYSQL_URL", "TEST_MONGODB_URL"} <= {name for job in JOBS.values() for name in job.get("env", {})}
