"""Two builds of one lock are one image: twice on one machine, on two engines with nothing in common; if not, why."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from project import CELL, Project, assert_refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from second_engine import SecondEngine
    from servers import Registry


@pytest.fixture(scope="module")
def pinned(make_project: Callable[..., Project]) -> Project:
    """A project whose system layer is pinned, and whose image is built."""
    project = make_project()
    done = project.run("system", "--json")
    assert done.code == 0, done.stderr
    (cell,) = done.json["cells"]
    assert cell["made"]
    done = project.run("build", "--json")
    assert done.code == 0, done.stderr
    return project


@pytest.fixture
def mine(pinned: Project, tmp_path: Path) -> Project:
    """A copy of it, with which a test may do what it wants."""
    return pinned.copy(tmp_path / "work")


def pins(project: Project) -> str:
    return (project.folder / "locks" / "systems.toml").read_text()


def test_a_second_build_without_any_cache_gives_the_same_digest(mine: Project) -> None:
    done = mine.run("build", "--verify", "--json")
    assert done.code == 0, done.stderr
    cell = done.cells[CELL]
    assert cell["verified"] == cell["digest"] == mine.record("build")["manifest"]["digest"]
    assert "verify: a second build without any cache gave the same digest" in done.stderr
    assert "verified  a second build without any cache" in mine.run("build", "--verify").stdout
    assert list(mine.cache.glob("scratch-*")) == []


def test_the_first_layer_and_file_that_differ_are_named(mine: Project) -> None:
    step = 'RUN ["/bin/sh", "-c", "cat /proc/sys/kernel/random/uuid >/home/vllm/stamp"]'
    mine.override("{% block runtime %}\n{{ super() }}" + step + "\n{% endblock %}\n")
    done = mine.run("build", "--verify")
    said = r"two builds are not the same image \(sha256:\w+ and sha256:\w+\); they differ first in RUN"
    assert_refused(done, 8, said, r"/home/vllm: time \d+ and \d+", "let this step of your template")
    assert list(mine.cache.glob("scratch-*")) == []
    assert mine.run("build").code == 0


def test_another_machine_builds_the_same_image(mine: Project, other_engine: SecondEngine, tmp_path: Path) -> None:
    """Another engine, another cache: nothing in common but the project with its locks, the index and the registry."""
    environment = {**mine.environment, "DOCKER_HOST": other_engine.host, "JBUILD_CACHE": str(tmp_path / "cache")}
    other = replace(mine.copy(tmp_path / "there"), environment=environment, cache=tmp_path / "cache")
    shutil.rmtree(other.folder / "build")
    other_engine.forget()
    done = other.run("build", "--locked", "--json")
    assert done.code == 0, done.stderr
    assert done.ran() == ["audit", "render", "build"]
    assert done.cells[CELL]["digest"] == mine.record("build")["manifest"]["digest"]


def test_a_pinned_layer_is_built_on_and_not_built_again(mine: Project, shared_registry: Registry) -> None:
    text = (mine.cell / "Dockerfile").read_text()
    row = json.loads(mine.run("system", "--json").stdout)["cells"][0]
    assert row["made"] is False
    assert f"FROM {row['image']}@{row['digest']}\n" in text
    assert "\nRUN " not in text
    repository = row["image"].partition("/")[2]
    ((tag, digest),) = shared_registry.tags(repository).items()
    assert (tag.rpartition("-")[0], digest) == ("debian-12", row["digest"])
    assert mine.run("build", "--json").ran() == []


def test_an_image_on_a_pinned_layer_proves_itself(mine: Project) -> None:
    done = mine.run("smoke", "--json")
    assert done.code == 0, done.stderr
    assert done.cells[CELL]["verdict"]["passed"]


def test_other_packages_are_another_layer(mine: Project) -> None:
    before = pins(mine)
    mine.recipe["base"]["apt"] = ["libgomp1"]
    mine.write()
    assert mine.run("render").code == 0
    assert "\nRUN " in (mine.cell / "Dockerfile").read_text()
    assert pins(mine) == before


def test_a_registry_must_be_named(mine: Project) -> None:
    mine.recipe["publish"] = {"repository": "vllm"}
    mine.write()
    assert_refused(mine.run("system"), 2, "no registry to push the layers to", "--registry HOST/PREFIX")


def test_pins_with_mistakes(mine: Project) -> None:
    path = mine.folder / "locks" / "systems.toml"
    path.write_text(path.read_text().replace("digest =", "digst ="))
    assert_refused(mine.run("build"), 3, r"systems\.toml:\d+: systems\[0\]\.digst: unknown key `digst`")
    path.write_text("[[systems]\n")
    assert_refused(mine.run("build"), 3, r"systems\.toml", "not valid TOML")


def test_a_layer_whose_registry_has_lost_it(mine: Project) -> None:
    path = mine.folder / "locks" / "systems.toml"
    lost = "sha256:" + "0" * 64
    path.write_text(path.read_text().replace(mine.run("system", "--json").json["cells"][0]["digest"], lost))
    done = mine.run("build")
    assert_refused(done, 11, "the base image is no longer in its registry", "jbuild system --force")
