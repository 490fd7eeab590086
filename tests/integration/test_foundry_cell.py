"""A cell that builds a C extension from source: from its lock to an image in which the module answers."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from c_extension import make_extension, make_requirements
from index_server import running_index
from json_results import check
from project import CELL, Done, Project, assert_refused, make_wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from index_server import Index

pytestmark = pytest.mark.timeout(900)
# Locking a build asks the package sources of this machine.
LONG_S = 800.0
ALL = ["lock", "wheel", "audit", "render", "build", "smoke", "push"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with the stand-in server, and with an extension that has no wheel."""
    folder = tmp_path_factory.mktemp("index")
    make_wheels(folder)
    make_extension(folder)
    make_extension(folder, "1.1")
    make_requirements(folder)
    with running_index(folder) as running:
        yield running


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which nothing is built yet."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(make_project: Callable[..., Project], index: Index, cache: Path) -> tuple[Project, Done]:
    """A project whose recipe builds the extension, and the run that published its image."""
    project = make_project(cache=cache, index=index.host, packages=packages(environment={"TINYEXT_ANSWER": "43"}))
    done = project.run("recipe", "--push", "--json", timeout_s=LONG_S)
    assert done.code == 0, done.stderr
    return project, done


def packages(**build: Any) -> dict[str, Any]:
    return {"requires": ["vllm=={vllm}", "tinyext==1.0"], "build": [{"name": "tinyext", **build}]}


def test_the_stage_is_between_lock_and_audit(made: tuple[Project, Done]) -> None:
    project, done = made
    assert done.ran() == ALL
    (built,) = project.record("wheel")["wheels"]
    assert built["origin"] == "built"
    assert built["wheel"]["filename"].startswith("tinyext-1.0")
    wheel = Path(project.cache, "wheels", built["wheel"]["sha256"][:2], built["wheel"]["sha256"])
    assert [path.name for path in wheel.glob("*.whl")] == [built["wheel"]["filename"]]
    shown = project.run("show").stdout
    assert f"build       tinyext: {built['wheel']['filename']}" in shown
    assert "applied     tinyext 1.0 built from the source archive (`build` of the recipe)" in shown


def test_the_lock_names_the_source(made: tuple[Project, Done]) -> None:
    project, _ = made
    document = tomllib.loads(project.lock.read_text())
    package = next(package for package in document["packages"] if package["name"] == "tinyext")
    assert package["sdist"]["name"] == "tinyext-1.0.tar.gz"
    (build,) = document["tool"]["jbuild"]["builds"]
    assert build["source"]["sha256"] == package["sdist"]["hashes"]["sha256"]
    assert build["environment"] == [["TINYEXT_ANSWER", "43"]]
    assert str(project.cache) not in project.lock.read_text()


def test_a_second_run_does_nothing(made: tuple[Project, Done], tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "work")
    done = project.run("recipe", "--push")
    assert done.code == 0, done.stderr
    assert done.stderr.splitlines()[1:] == [f"{CELL}: {stage}: unchanged" for stage in ALL]


def test_the_module_is_in_the_image(made: tuple[Project, Done]) -> None:
    project, _ = made
    image = project.client.images.list(name=f"jbuild/{project.name}")[0].tags[0]
    command = ["-c", "import tinyext; print(tinyext.answer())"]
    output = project.client.containers.run(image, command, entrypoint="/opt/venv/bin/python", remove=True)
    assert output == b"43\n"


def test_the_wheel_comes_from_the_cache_or_is_built_again(made: tuple[Project, Done], tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "work")
    first = project.record("wheel")["wheels"][0]
    shutil.rmtree(project.folder / "build")
    done = project.run("recipe", "--until", "audit", "--json", timeout_s=LONG_S)
    assert done.ran() == ["wheel", "audit"]
    built = project.record("wheel")["wheels"][0]
    assert (built["origin"], built["wheel"]) == ("cache", first["wheel"])
    # The same inputs give the same bytes.
    again = project.run("recipe", "--until", "wheel", "--from", "wheel", "--json", timeout_s=LONG_S)
    assert again.ran() == ["wheel"]
    built = project.record("wheel")["wheels"][0]
    assert (built["origin"], built["wheel"]) == ("built", first["wheel"])
    shutil.rmtree(project.cache / "wheels" / first["wheel"]["sha256"][:2] / first["wheel"]["sha256"])
    lost = project.run("recipe", "--until", "audit", "--json", timeout_s=LONG_S)
    assert lost.ran() == ["wheel"]
    assert project.record("wheel")["wheels"][0]["wheel"] == first["wheel"]


def test_another_machine_takes_the_wheel_from_the_registry(made: tuple[Project, Done], tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "work")
    first = project.record("wheel")["wheels"][0]
    shutil.rmtree(project.folder / "build")
    done = project.run("recipe", "--until", "wheel", "--json", timeout_s=LONG_S, JBUILD_CACHE=str(tmp_path / "cache"))
    assert done.code == 0, done.stderr
    built = project.record("wheel")["wheels"][0]
    assert built["origin"] == f"registry:{project.registry}/{project.repository}-wheels"
    assert built["wheel"] == first["wheel"]


def test_without_packages_to_build_there_is_no_such_stage(project: Project) -> None:
    done = project.run("recipe", "--until", "audit", "--json")
    assert done.ran() == ["lock", "audit"]
    assert not (project.cell / "wheel.json").exists()
    assert project.run("recipe", "--until", "wheel", "--json").ran() == []


def test_a_build_that_fails_is_a_failure_of_the_cell(made: tuple[Project, Done], tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "work")
    project.recipe["packages"] = packages(environment={"TINYEXT_ANSWER": "nothing+"})
    project.write()
    done = project.run("recipe", timeout_s=LONG_S)
    assert_refused(done, 8, r"tinyext\.c does not compile", r"tinyext\.c:3:\d+: error: ")
    assert "at wheel, " in project.run("show").stdout.partition("failed")[2]
    project.recipe["packages"] = packages(environment={"TINYEXT_ANSWER": "7"})
    project.write()
    assert project.run("audit", timeout_s=LONG_S).code == 0
    assert project.record("wheel")["wheels"][0]["fingerprint"] != made[0].record("wheel")["wheels"][0]["fingerprint"]


def test_the_verb_builds_what_the_recipe_does_not(made: tuple[Project, Done], tmp_path: Path) -> None:
    project, output = made[0].copy(tmp_path / "work"), tmp_path / "out"
    wish = ("--for", project.name, "--output", str(output), "--json")
    done = project.jbuild("wheel", "tinyext==1.1", *wish, timeout_s=LONG_S)
    assert done.code == 0, done.stderr
    (wheel,) = check("wheel", done.stdout)["wheels"]
    assert (wheel["cell"], wheel["in_recipe"], wheel["unmet"], wheel["origin"]) == (CELL, False, [], "built")
    with zipfile.ZipFile(wheel["path"]) as archive:
        assert any(name.startswith("tinyext") and name.endswith(".so") for name in archive.namelist())
    assert Path(wheel["path"]).parent == output
    text = project.jbuild("wheel", "tinyext==1.0", "--for", project.name).stdout
    assert f"version     {made[0].record('wheel')['wheels'][0]['wheel']['version']}" in text
    assert "origin      cache" in text
    refused = project.jbuild("wheel", "tinyext==9.9", "--for", project.name)
    assert_refused(refused, 4, "has no source of tinyext 9.9", r"there are sources of 1\.1, 1\.0")
    assert project.jbuild("wheel", "tinyext", "--for", project.name).code == 2


def test_a_runner_compiles_the_same_wheel(made: tuple[Project, Done], tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "work")
    first = made[0].record("wheel")["wheels"][0]["wheel"]["sha256"]
    wish = ("wheel", "tinyext==1.0", "--for", project.name, "--fresh", "--json", "--runner")
    done = project.jbuild(*wish, "default", timeout_s=LONG_S)
    assert done.code == 0, done.stderr
    (wheel,) = check("wheel", done.stdout)["wheels"]
    assert (wheel["origin"], wheel["sha256"]) == ("built", first)
    # A wheel in the cache needs no builder, and still does not hide a wrong name.
    cached = tuple(word for word in wish if word != "--fresh")
    for words in (wish, cached):
        assert_refused(project.jbuild(*words, "nowhere", timeout_s=LONG_S), 7, "there is no such builder")
    # The stage knows the setting.
    again = ("recipe", "--until", "wheel", "--from", "wheel")
    done = project.run(*again, timeout_s=LONG_S, JBUILD_BUILD_RUNNER="nowhere")
    assert_refused(done, 7, "there is no such builder", "nowhere")
    done = project.run(*again, timeout_s=LONG_S, JBUILD_BUILD_RUNNER="default")
    assert done.code == 0, done.stderr
    assert project.record("wheel")["wheels"][0]["wheel"]["sha256"] == first
