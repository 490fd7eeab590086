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
from project import CELL, Done, Project, assert_refused, make_wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from index_server import Index

pytestmark = pytest.mark.timeout(300)
ALL = ["lock", "wheel", "audit", "render", "build", "smoke", "push"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index with the stand-in server, and with an extension that has no wheel."""
    folder = tmp_path_factory.mktemp("index")
    make_wheels(folder)
    make_extension(folder)
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
    done = project.run("recipe", "--push", "--json", timeout_s=250)
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
    tags = (tag for image in project.client.images.list() for tag in image.tags)
    image = next(tag for tag in tags if tag.startswith(f"jbuild/{project.name}"))
    command = ["-c", "import tinyext; print(tinyext.answer())"]
    output = project.client.containers.run(image, command, entrypoint="/opt/venv/bin/python", remove=True)
    assert output == b"43\n"


def test_another_project_takes_the_wheel_from_the_cache(
    made: tuple[Project, Done], make_project: Callable[..., Project], index: Index
) -> None:
    first, _ = made
    project = make_project(cache=first.cache, index=index.host, packages=packages(environment={"TINYEXT_ANSWER": "43"}))
    done = project.run("recipe", "--until", "audit", "--json")
    assert done.code == 0, done.stderr
    assert done.ran() == ["lock", "wheel", "audit"]
    (built,) = project.record("wheel")["wheels"]
    assert built["origin"] == "cache"
    assert built["wheel"] == first.record("wheel")["wheels"][0]["wheel"]


def test_other_inputs_make_another_wheel(make_project: Callable[..., Project], index: Index, cache: Path) -> None:
    project = make_project(cache=cache, index=index.host, packages=packages())
    assert project.run("recipe", "--until", "wheel", "--json").ran() == ["lock", "wheel"]
    first = project.record("wheel")["wheels"][0]
    assert first["origin"] == "built"
    assert project.run("recipe", "--until", "wheel", "--json").ran() == []
    again = project.run("recipe", "--until", "wheel", "--from", "wheel", "--json")
    assert again.ran() == ["wheel"]
    # The same inputs give the same bytes.
    assert project.record("wheel")["wheels"][0]["wheel"] == first["wheel"]
    project.recipe["packages"]["build"][0]["environment"] = {"TINYEXT_ANSWER": "7"}
    project.write()
    assert project.run("recipe", "--until", "wheel", "--json").ran() == ["lock", "wheel"]
    assert project.record("wheel")["wheels"][0]["fingerprint"] != first["fingerprint"]


def test_a_wheel_that_left_the_wheelhouse_is_built_again(
    make_project: Callable[..., Project], index: Index, tmp_path: Path
) -> None:
    project = make_project(cache=tmp_path / "cache", index=index.host, packages=packages())
    assert project.run("recipe", "--until", "audit", "--json").code == 0
    built = project.record("wheel")["wheels"][0]["wheel"]
    shutil.rmtree(project.cache / "wheels" / built["sha256"][:2] / built["sha256"])
    done = project.run("recipe", "--until", "audit", "--json")
    assert done.ran() == ["wheel"]
    assert project.record("wheel")["wheels"][0]["wheel"] == built


def test_what_lacks_a_wheel_is_built(make_project: Callable[..., Project], index: Index, cache: Path) -> None:
    wishes = {"requires": ["vllm=={vllm}", "tinyext"], "build": "missing"}
    project = make_project(cache=cache, index=index.host, packages=wishes)
    done = project.run("audit")
    assert done.code == 0, done.stderr
    assert "no wheel of tinyext fits; it will be built from source" in done.stderr
    assert project.record("wheel")["wheels"][0]["wheel"]["name"] == "tinyext"


def test_without_packages_to_build_there_is_no_such_stage(project: Project) -> None:
    done = project.run("recipe", "--until", "audit", "--json")
    assert done.ran() == ["lock", "audit"]
    assert not (project.cell / "wheel.json").exists()
    assert project.run("recipe", "--until", "wheel", "--json").ran() == []


def test_a_build_that_fails_is_a_failure_of_the_cell(
    make_project: Callable[..., Project], index: Index, cache: Path
) -> None:
    project = make_project(cache=cache, index=index.host, packages=packages(environment={"TINYEXT_ANSWER": "nothing+"}))
    done = project.run("recipe")
    assert_refused(done, 8, "tinyext")
    assert "wheel" in project.run("show").stdout.partition("failed")[2]
    assert not (project.cell / "wheel.json").exists()


def test_the_verb_builds_what_the_recipe_does_not_list(
    make_project: Callable[..., Project], index: Index, cache: Path, tmp_path: Path
) -> None:
    project = make_project(cache=cache, index=index.host)
    done = project.jbuild("wheel", "tinyext==1.0", "--for", project.name, "--output", str(tmp_path / "out"), "--json")
    assert done.code == 0, done.stderr
    (wheel,) = done.json["wheels"]
    assert (wheel["cell"], wheel["in_recipe"], wheel["unmet"]) == (CELL, False, [])
    with zipfile.ZipFile(wheel["path"]) as archive:
        assert any(name.startswith("tinyext") and name.endswith(".so") for name in archive.namelist())
    assert Path(wheel["path"]).parent == tmp_path / "out"
    text = project.jbuild("wheel", "tinyext==1.0", "--for", project.name).stdout
    assert "recipe      does not build it" in text
    refused = project.jbuild("wheel", "tinyext==9.9", "--for", project.name)
    assert_refused(refused, 4, "has no source of tinyext 9.9")
    assert project.jbuild("wheel", "tinyext", "--for", project.name).code == 2
