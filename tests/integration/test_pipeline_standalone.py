"""A cell whose Python its distribution does not package: fetched through uv, a layer of its own, and run.

What stands in for the archive is this machine's interpreter: its releases cannot be had everywhere that tests run. The
lock is given the stand-in's sha256, and the recipe the folder of its library, which the real one needs no help to find.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from project import BASE, Project, assert_refused
from standalone_stand_in import MINOR, put_archive, running_mirror

from builder.jetson.distributions import distributions
from builder.lock import lockfile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.model.locks import Lock

DISTRIBUTION = next((row.name for row in distributions() if MINOR in row.standalone), None)
CELL = f"v1_0-{(DISTRIBUTION or '').replace('-', '')}-py{MINOR.replace('.', '')}"
pytestmark = [
    pytest.mark.skipif(DISTRIBUTION is None, reason=f"no distribution gets Python {MINOR} in this way"),
]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A mirror's folder and its address."""
    folder = tmp_path_factory.mktemp("mirror")
    with running_mirror(folder) as address:
        yield folder, address


@pytest.fixture
def project(make_project: Callable[..., Project], mirror: tuple[Path, str]) -> Project:
    """A project with one cell on a distribution that packages another Python."""
    made = make_project(
        matrix={"vllm": ["1.0"], "distribution": [DISTRIBUTION], "python": [MINOR]},
        base={"image": BASE},
        server={"environment": {"LD_LIBRARY_PATH": "/opt/python/lib"}},
        # The base is of the distribution that this machine has, for which nobody needs a Python to be fetched.
        audit={"waive": [{"rule": "other-distribution", "reason": "only its name is asked for"}]},
    )
    settings = made.folder / "jbuild.toml"
    settings.write_text(f'{settings.read_text()}\n[python]\nmirror = "{mirror[1]}"\n')
    return made


def relock(project: Project, **changes: str) -> Lock:
    """Lock the cell, then lock the stand-in in place of the real archive."""
    done = project.run("lock", "--json")
    assert done.code == 0, done.stderr
    path = project.folder / "locks" / project.name / f"pylock.{CELL}.toml"
    lock = lockfile.read(path, recipe=project.name, cell=CELL)
    assert lock is not None
    assert lock.interpreter is not None
    interpreter = replace(lock.interpreter, **changes)
    lock = replace(lock, interpreter=interpreter, compiler=platform.python_version())
    lockfile.write(path, lock)
    return lock


def test_a_cell_that_brings_its_own_python(project: Project, mirror: tuple[Path, str]) -> None:
    lock = relock(project)
    assert lock.interpreter
    lock = relock(project, sha256=put_archive(mirror[0], lock.interpreter))
    done = project.run("recipe", "--json")
    assert done.code == 0, done.stderr
    cell = done.cells[CELL]
    assert cell["verdict"]["passed"]
    assert lock.interpreter
    folder = project.folder / "build" / project.name / CELL
    text = (folder / "Dockerfile").read_text()
    packages = next(line for line in text.splitlines() if line.startswith("RUN"))
    assert "python" not in packages
    layers = [line.split()[2] for line in text.splitlines() if line.startswith("COPY")]
    assert layers[0].startswith(f"layers/interpreter-{lock.interpreter.version}-")
    labels = project.client.images.get(cell["digest"]).attrs["Config"]["Labels"]
    assert labels["io.jbuild.interpreter"] == f"python-build-standalone {lock.interpreter.release}"
    ask = "import sys, json, vllm; print(sys.base_prefix, sys.prefix, vllm.__cached__, json.__cached__)"
    said = project.client.containers.run(cell["digest"], ["python", "-c", ask], remove=True).decode().split()
    assert said[:2] == ["/opt/python", "/opt/venv"]
    assert all(path.endswith(".pyc") for path in said[2:])
    assert project.run("recipe", "--json").ran(CELL) == []


def test_matrix_and_show_note_it(project: Project) -> None:
    note = f"Python {MINOR} from python-build-standalone"
    assert note in project.run("matrix").stdout
    (cell,) = project.run("matrix", "--json").json["cells"]
    assert (cell["impossible"], cell["note"]) == (None, note)
    assert f"note        {note}" in project.run("show").stdout


def test_a_mirror_that_lacks_it(project: Project) -> None:
    relock(project, sha256="0" * 64)
    (project.folder / "jbuild.toml").write_text(
        (project.folder / "jbuild.toml").read_text().rpartition("mirror")[0] + 'mirror = "http://127.0.0.1:9"\n'
    )
    done = project.run("render", UV_HTTP_RETRIES="0")
    assert_refused(done, 5, "cannot be fetched: its server does not answer", r"`mirror` under \[python\]")
    assert not (project.folder / "build" / project.name / CELL / "Dockerfile").exists()


def test_a_mirror_that_is_no_address(project: Project) -> None:
    path = project.folder / "jbuild.toml"
    path.write_text(path.read_text().replace('mirror = "http://', 'mirror = "ftp://'))
    assert_refused(project.run("show"), 3, r"python\.mirror: `ftp://.*` is not an http\(s\) address")
