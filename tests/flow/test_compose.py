"""compose.yaml and docs/cluster.md name only what exists: commands, roles, variables, services, figures."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from data_manager import settings
from data_manager.cli import app as command_line
from data_manager.cli.service import Role

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = {one.name for group in command_line.registered_groups for one in group.typer_instance.registered_commands}  # type: ignore[union-attr]


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def test_every_role_and_the_migration_are_there() -> None:
    commands = {name: one["command"] for name, one in OURS.items()}
    assert commands.pop("migrate") == ["migrate"]
    assert {tuple(one[:2]) for one in commands.values()} == {("serve", "--role")}
    assert {Role(one[2]) for one in commands.values()} == set(Role) - {Role.ALL}
    assert OURS["ingest"]["deploy"]["replicas"] == 3
    assert OURS["work"]["deploy"]["replicas"] > 1
    assert {one["command"][0] for one in OURS.values()} <= COMMANDS


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_one_that_we_take(name: str) -> None:
    given = environment(OURS[name])
    assert {one.lower() for one in given} <= set(settings.SETTINGS)
    assert settings.warnings(given) == []
    in_force = settings.load(given)
    assert (in_force.metadata_kind, in_force.rows_url is not None) == ("mysql", True)
    for url in (in_force.rows_url, in_force.metadata_url, *in_force.nats_servers):
        assert urlsplit(url).hostname in SERVICES, f"{name} is told of a host that is no service"


def test_the_database_of_the_metadata_is_the_one_that_is_made() -> None:
    url, made = urlsplit(environment(OURS["ingest"])["MYSQL_URI"]), environment(SERVICES["mysql"])
    assert (url.path.strip("/"), url.username, url.password) == (
        made["MYSQL_DATABASE"], made["MYSQL_USER"], made["MYSQL_PASSWORD"],
    )  # fmt: skip


def test_whom_a_service_waits_for_is_there_and_can_be_waited_for() -> None:
    for name, one in SERVICES.items():
        for other, how in one.get("depends_on", {}).items():
            assert how["condition"] in ("service_healthy", "service_completed_successfully", "service_started"), name
            assert (how["condition"] == "service_healthy") <= ("healthcheck" in SERVICES[other]), (name, other)
    mounted = {volume.partition(":")[0] for one in SERVICES.values() for volume in one.get("volumes", ())}
    assert mounted == set(COMPOSE["volumes"])


def test_nothing_is_offered_beyond_this_machine() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_every_variable_on_the_page_is_a_setting() -> None:
    named = set(re.findall(r"\b([A-Z][A-Z]+(?:_[A-Z]+)+)\b", PAGE))
    assert {"MONGODB_URL", "MYSQL_URI", "NATS_ACK_WAIT_S"} <= named
    assert {one.lower() for one in named} <= set(settings.SETTINGS)


def test_every_command_and_role_on_the_page_exists() -> None:
    assert set(re.findall(r"data-manager ([a-z-]+)", PAGE)) - {"work"} <= COMMANDS
    assert {Role(one) for one in re.findall(r"--role (\w+)", PAGE)} <= set(Role)


def test_every_route_on_the_page_exists() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("src/data_manager/api/*.py"))
    for route in set(re.findall(r"`(/health/\w+)`", PAGE)):
        assert f'"{route}"' in code, route
