"""Cells spread over two engines: each builds some, one that dies hands its cells over, and none left is said."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import second_engine
from project import Project, assert_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from second_engine import SecondEngine

CELLS = {"v1_0-debian12", "v1_1-debian12"}
DEAD = "unix:///nowhere/docker.sock"


# For an engine that has no network for its steps: a file that tells the cells' system images apart.
COMMAND = "mkdir -p /home/vllm /cache && touch -d @1 /of-{{ values.vllm }} /home/vllm /home /cache /"
STEP = f'{{% block system %}}\nRUN --network=none ["/bin/sh", "-c", "{COMMAND}"]\n{{% endblock %}}\n'


@pytest.fixture(scope="module")
def pinned(make_project: Callable[..., Project]) -> Project:
    """A project of two cells whose system images are not the same, and quickly built."""
    project = make_project(matrix={"vllm": ["1.0", "1.1"], "distribution": ["debian-12"]})
    project.override(STEP)
    done = project.run("render")
    assert done.code == 0, done.stderr
    return project


@pytest.fixture
def mine(pinned: Project, tmp_path: Path) -> Project:
    """A copy of it, with which a test may do what it wants."""
    return pinned.copy(tmp_path / "work")


@pytest.fixture
def mortal() -> Iterator[SecondEngine]:
    """An engine that may be killed."""
    if not second_engine.can_run():
        pytest.skip("a second engine needs root and dockerd")
    with second_engine.running_engine() as running:
        yield running


def digests(done_cells: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: cell["digest"] for name, cell in done_cells.items()}


def test_each_builder_builds_some_of_the_cells(mine: Project, other_engine: SecondEngine) -> None:
    other_engine.forget()
    other_engine.context("second", mine.environment)
    done = mine.run("build", "--builder", "default", "--builder", "second", "--json")
    assert done.code == 0, done.stderr
    assert set(done.cells) == CELLS
    assert other_engine.has_built()
    alone = mine.run("build", "--force", "--builder", "default", "--json")
    assert digests(alone.cells) == digests(done.cells)


def test_the_configuration_may_name_them(mine: Project, other_engine: SecondEngine) -> None:
    other_engine.forget()
    other_engine.context("jetson", mine.environment)
    settings = mine.folder / "jbuild.toml"
    settings.write_text(f'{settings.read_text()}\n[build]\nbuilders = ["jetson"]\n')
    assert mine.run("build", "--force").code == 0
    assert other_engine.has_built()


def test_a_builder_that_dies_hands_its_cells_to_the_others(mine: Project, mortal: SecondEngine) -> None:
    mortal.context("mortal", mine.environment)
    # It takes its cell and then says nothing, until it is gone.
    mortal.signal(signal.SIGSTOP)
    running = mine.start("build", mine.name, "--force", "--builder", "mortal", "--builder", "default", "--json")
    running.until(lambda: any(": build: " in line for line in running.err), 90)
    mortal.signal(signal.SIGKILL)
    done = running.wait()
    assert done.code == 0, done.stderr
    assert {cell["status"] for cell in done.cells.values()} == {"done"}
    said = [line for line in done.stderr.splitlines() if "has died" in line]
    assert len(said) == 1
    assert "builder mortal has died (" in said[0]
    assert said[0].endswith("its cells go to default")


def test_when_none_is_left(mine: Project, mortal: SecondEngine) -> None:
    for name in ("one", "two"):
        mortal.context(name, mine.environment)
    mortal.signal(signal.SIGKILL)
    done = mine.run("build", "--force", "--builder", "one", "--builder", "two", "--cell", "vllm=1.0")
    assert_refused(done, 7, "no builder is left: one: Cannot connect .*; two: Cannot connect", "docker buildx ls")


def test_a_builder_that_does_not_exist(mine: Project) -> None:
    for builders in (["--builder", "nowhere"], ["--builder", "default", "--builder", "nowhere"]):
        done = mine.run("build", "--force", *builders, "--cell", "vllm=1.0")
        if len(builders) == 2:
            assert_refused(done, 7, "there is no such builder", "docker buildx ls")
        else:
            assert done.code == 0, "one cell goes to the first"


@pytest.mark.parametrize("name", ["--evil", "a b", ""])
def test_a_name_that_is_none(mine: Project, name: str) -> None:
    done = mine.run("build", "--builder", name)
    assert done.code == 2
    assert "is not the name of a builder" in done.stderr
    assert "Traceback" not in done.stderr
