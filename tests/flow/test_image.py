"""The image without Docker: what its Dockerfile copies is built, installed, started and asked as it says there.

The tree is read-only and the user is the image's, with no capability, where the machine lets us become him; otherwise the
user is ours, who has none either. Only the packages we depend on are those of this environment, and not installed anew.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.servers import ended_with_us, free_port, own_server

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    tuple(line.split(maxsplit=1))
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
TREE = "/opt/data-manager"  # where the image has it
Image = tuple[Path, list[str]]


def said(word: str) -> str:
    """What stands behind the last step of that name."""
    return next(rest for name, rest in reversed(STEPS) if name == word)


def environment(tree: Path, **more: object) -> dict[str, str]:
    """ENV, with the tree where it is here; 0.0.0.0 is this machine alone."""
    given = dict(re.findall(r"(\w+)=(\S+)", said("ENV")))
    path = given["PATH"].replace(TREE, str(tree)).replace("$PATH", os.environ["PATH"])
    ours = {name: str(value) for name, value in more.items()}
    return {**given, "PATH": path, "API_HOST": "127.0.0.1", "METRICS_HOST": "127.0.0.1", **ours}


@pytest.fixture
def image() -> Iterator[Image]:
    """The tree as the first stage leaves it, and the words that make a command the image's user's."""
    folder = Path(tempfile.mkdtemp(prefix="petrosa-image-"))
    folder.chmod(0o755)  # the user of the image has to get there
    try:
        source, tree = folder / "src", folder / "data-manager"
        copied(source)
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source)
        run(sys.executable, "-m", "venv", "--without-pip", tree)
        [wheel] = folder.glob("*.whl")
        run(sys.executable, "-m", "pip", "--python", tree, "install", "-q", "--no-deps", "--no-index", wheel)
        [packages] = tree.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        run("chmod", "-R", "a-w", tree)
        yield tree, becoming(tree)
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)
        shutil.rmtree(folder)


def copied(source: Path) -> None:
    """What the build stage copies, and nothing else."""
    build = STEPS[: next(at for at, (name, _) in enumerate(STEPS) if name == "FROM" and at)]
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for words in (rest.split() for name, rest in build if name == "COPY"):
        for one in words[:-1]:
            assert f"!{one}" in allowed, f"{one} is copied, and .dockerignore keeps it out"
            of, to = ROOT / one, source / words[-1] / ("" if (ROOT / one).is_dir() else one)
            to.parent.mkdir(parents=True, exist_ok=True)
            if of.is_dir():
                shutil.copytree(of, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(of, to)


def becoming(tree: Path) -> list[str]:
    """Words in front of a command: the image's user, else ourselves without what root may do."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    user, _, group = said("USER").partition(":")
    bare = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    his = [*bare, f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    may = subprocess.run([*his, tree / "bin" / "python", "-c", "import data_manager, numpy"], check=False)
    return his if may.returncode == 0 else bare


def run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


async def test_it_starts_on_a_read_only_tree_is_healthy_and_stops(image: Image, tmp_path: Path) -> None:
    tree, become = image
    data = tree.parent / "data"
    data.mkdir()
    if any(one.startswith("--reuid") for one in become):
        os.chown(data, *map(int, said("USER").split(":")))
    start, check = json.loads(said("ENTRYPOINT")) + json.loads(said("CMD")), said("HEALTHCHECK").partition(" CMD ")[2]
    async with own_server(tmp_path / "nats") as server:
        ports = {"API_PORT": free_port(), "METRICS_PORT": free_port()}
        environ = environment(tree, DATA_DIR=data, NATS_URL=server.url, **ports)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([*become, *start], cwd=data, env=environ, stdout=log, stderr=log)
        ended_with_us(process.pid)
        try:

            def healthy() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                return asked([*become, *json.loads(check)], environ) == 0

            await eventually(healthy, within_s=30, what="the health check passes")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, (tmp_path / "log").read_text()
            assert asked(json.loads(check), environ) != 0, "it says what is so, not what it always says"
        finally:
            process.kill()
            process.wait()
    assert {one.name for one in data.iterdir()} >= {"series.db", "metadata.sqlite"}


def asked(command: Sequence[str], environ: dict[str, str]) -> int:
    """The exit code of a health check."""
    return subprocess.run(command, env=environ, capture_output=True, check=False).returncode


def test_what_it_is_made_of_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = next(
        re.findall(r"'\.\[([\w,]+)\]'", rest)[0] for name, rest in STEPS if name == "RUN" and "pip install" in rest
    )
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert json.loads(said("ENTRYPOINT"))[0] in project["scripts"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said("USER")), "a number, so that Kubernetes sees that it is not root"
    versions = {rest.split()[0] for name, rest in STEPS if name == "FROM"}
    assert versions == {f"python:{project['requires-python'].removeprefix('>=')}-slim"}
