"""The smoke run of a bundle's image on a machine that has the bundle and an engine, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from project import CELL, Project, clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from project import Done


@dataclass(frozen=True, kw_only=True)
class FarSide:
    """A bundle that has travelled, and jbuild beside it: with a cache and a home of its own."""

    bundle: Path
    project: Project
    near: Project

    def smoke(self, *arguments: str, **environment: str) -> Done:
        """Run `jbuild smoke` on the bundle."""
        return self.project.jbuild("smoke", "--bundle", str(self.bundle), *arguments, **environment)

    def verdict(self, level: str = "cpu") -> dict[str, Any]:
        """Return the predicate of an unsigned verdict."""
        statement = json.loads((self.bundle / "verdict" / f"verdict-{level}.json").read_bytes())
        return dict(statement["predicate"])

    def has_changed(self) -> list[str]:
        """Return the files of the bundle that are newer than the bundle, without its verdicts."""
        made = (self.bundle / "SHA256SUMS").stat().st_mtime_ns
        paths = (path for path in self.bundle.rglob("*") if path.is_file())
        return [
            str(path)
            for path in paths
            if "verdict" not in path.relative_to(self.bundle).parts and path.stat().st_mtime_ns > made
        ]


@pytest.fixture(scope="module")
def bundles(published: tuple[Project, Done], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of an image that has passed: a whole one and one in parts."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, options in (("whole", ()), ("split", ("--split", "1M"))):
        done = published[0].run("bundle", "--output", str(folder / name), *options)
        assert done.code == 0, done.stderr
    return {name: folder / name for name in ("whole", "split")}


@pytest.fixture
def carry(bundles: dict[str, Path], published: tuple[Project, Done], tmp_path: Path) -> Callable[[str], FarSide]:
    """Give a function that takes a bundle to another machine."""

    def carried(name: str) -> FarSide:
        near = published[0]
        home = tmp_path / "far"
        bundle = shutil.copytree(bundles[name], home / "carried")
        environment = clean_environment(home, near.environment.get("DOCKER_HOST"))
        environment |= {"JBUILD_CACHE": str(home / "cache")}
        project = replace(near, folder=home, cache=home / "cache", environment=environment)
        return FarSide(bundle=bundle, project=project, near=near)

    return carried


@pytest.fixture
def far(carry: Callable[[str], FarSide]) -> FarSide:
    """The whole bundle on another machine."""
    return carry("whole")


@pytest.mark.parametrize("name", ["whole", "split"])
def test_it_needs_only_the_bundle_and_writes_only_the_verdict(carry: Callable[[str], FarSide], name: str) -> None:
    far = carry(name)
    done = far.smoke("--json")
    assert done.code == 0, done.stderr
    result = done.json
    assert (result["recipe"], result["cell"], result["ran"]) == (far.near.name, CELL, True)
    assert result["file"] == str(far.bundle / "verdict" / "verdict-cpu.json")
    assert "the verdict is not signed" in done.stderr
    predicate = far.verdict()
    assert (predicate["result"], predicate["level"]) == ("PASSED", "cpu")
    assert predicate["digest"] == result["verdict"]["digest"] == far.near.record("build")["manifest"]["digest"]
    assert "stand-in ready" in (far.bundle / "verdict" / "smoke-cpu.log").read_text()
    assert sorted(path.name for path in (far.bundle / "verdict").iterdir()) == ["smoke-cpu.log", "verdict-cpu.json"]
    assert far.has_changed() == []
    assert result["image"] in far.project.client.images.get(result["image"]).tags

    again = far.smoke("--json")
    assert again.code == 0, again.stderr
    assert again.json["ran"] is False
    assert "this digest passed at level cpu on " in again.stderr
    assert far.smoke("--force", "--json").json["ran"] is True


def test_a_level_out_of_reach_is_refused_before_the_image_is_loaded(far: FarSide) -> None:
    done = far.smoke("--level", "gpu")
    assert_refused(done, 2, "level gpu is out of reach: the image is a CPU build, whose highest level is cpu")
    assert not (far.bundle / "verdict").exists()
