"""`data-manager migrate`: what it would do, what it does, and the way back, which has to be meant."""

import json
from pathlib import Path

import pytest

from data_manager import cli
from data_manager.adapters.meta.migrate import revisions


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


Says = pytest.CaptureFixture[str]


def said(capsys: Says, *arguments: str, code: int = 0) -> dict[str, object]:
    """What the command answers as JSON, on whichever stream."""
    assert cli.run(["migrate", *arguments, "--json"]) == code
    out, err = capsys.readouterr()
    answer: dict[str, object] = json.loads(out or err)
    return answer


def test_a_check_names_what_is_to_be_done_and_makes_nothing(capsys: Says, data_dir: Path) -> None:
    found = said(capsys, "--check", code=1)
    assert found == {"up_to_date": False, "pending": [f"metadata: {one} is to be applied" for one in revisions()]}
    assert not data_dir.exists()
    assert said(capsys)["applied"] == [f"metadata: applied {one}" for one in revisions()]
    assert said(capsys, "--check") == {"up_to_date": True, "pending": []}


def test_back_and_forth_again(capsys: Says) -> None:
    first, *later = revisions()
    assert said(capsys, "--to", first)["applied"] == [f"metadata: applied {first}"]
    said(capsys)
    refused = said(capsys, "--to", first, code=2)["error"]
    assert isinstance(refused, dict)
    assert (refused["field"], later[-1] in refused["message"], "--yes" in refused["message"]) == ("yes", True, True)
    assert said(capsys, "--check")["up_to_date"] is True, "nothing was undone"
    assert said(capsys, "--to", first, "--yes")["applied"] == [f"metadata: undid {one}" for one in later[::-1]]
    assert said(capsys, "--check", code=1)["pending"] == [f"metadata: {one} is to be applied" for one in later]
    assert said(capsys, "--to", later[0])["applied"] == [f"metadata: applied {later[0]}"]
    assert said(capsys, "--to", later[0])["applied"] == []


@pytest.mark.parametrize(("arguments", "field"), [(("--to", "4711"), "to"), (("--to", "0001", "--check"), "check")])
def test_what_cannot_be_is_named(capsys: Says, arguments: tuple[str, ...], field: str) -> None:
    refused = said(capsys, *arguments, code=2)["error"]
    assert isinstance(refused, dict)
    assert refused["field"] == field


def test_a_folder_that_cannot_be_made_is_needed_by_its_own_file_only(
    capsys: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file" / "data"))
    refused = said(capsys, code=1)["error"]
    assert isinstance(refused, dict)
    assert "its folder must exist" in str(refused["message"])
    monkeypatch.setenv("META_URL", f"sqlite:///{tmp_path}/elsewhere.db")
    assert said(capsys)["applied"] == [f"metadata: applied {one}" for one in revisions()]
