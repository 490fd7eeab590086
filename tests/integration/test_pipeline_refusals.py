"""Bad input and bad luck: one clear error with the next step, nothing half done, and the next run goes on."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from factories import make_wheel
from index_server import running_index
from project import BASE, CELL, Project, assert_refused, log_in, make_model, make_wheels
from servers import PASSWORD, USER, Fault, Registry, free_port, running_front, running_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from index_server import Index
    from project import Done


TAG = "1.0-cpu-bookworm"
DEAD_ENGINE = "unix:///nowhere/docker.sock"
WHEEL = "vllm-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index of the test's own."""
    make_wheels(tmp_path / "wheels")
    with running_index(tmp_path / "wheels") as running:
        yield running


def nothing_made(project: Project) -> bool:
    """Return whether there is no lock, and of the cell's runs only the history with their failures."""
    files = {path.name for path in (project.folder / "build").rglob("*") if path.is_file()}
    return not (project.folder / "locks").exists() and files <= {"history.jsonl"}


# --- names and files


def test_unknown_names_are_answered_with_the_nearest(finished: Project) -> None:
    assert_said(finished.jbuild("recip", finished.name), "there is no command `recip`", "did you mean `?recipe")
    assert_said(finished.jbuild("recipe", finished.name[:-1]), "there is no recipe", finished.name)
    done = finished.run("recipe", "--cell", "v1_0-debian21")
    assert_said(done, "no cell is called `v1_0-debian21`", CELL)
    assert_said(finished.run("recipe", "--cell", "vlm=1.0"), "`vlm` is not an axis", "did you mean `?vllm")
    assert_said(finished.run("recipe", "--cell", "vllm=1.1"), "no cell has vllm=1.1", "1.0")
    assert_said(finished.run("build", "--frce"), "--frce", "--force")
    assert_said(finished.run("push", "--registry", "https://host/x"), "is not a registry such as host:5000/team")
    assert_said(finished.run("promote", "--tag", "Bad Tag!"), "'Bad Tag!' is not a tag")
    assert_said(finished.jbuild("recipe"), "Missing argument")


def assert_said(done: Done, *said: str) -> None:
    assert_refused(done, 2, *said, placed=False)


@pytest.mark.parametrize("verb", ["recipe", "show", "matrix"])
def test_a_broken_recipe(project: Project, verb: str) -> None:
    path = project.folder / "recipes" / f"{project.name}.toml"
    path.write_text(path.read_text() + "\n[packages\n")
    line = path.read_text().count("\n")
    assert_refused(project.run(verb), 3, rf"{project.name}\.toml:{line}")
    done = project.jbuild("list")
    assert done.code == 0
    assert f"{project.name}.toml:{line}" in done.stdout
    assert nothing_made(project)


def test_all_mistakes_of_a_recipe_at_once(project: Project) -> None:
    project.recipe |= {"architekture": "amd64", "labels": {"a": 1}}
    project.recipe["models"][0]["sauce"] = "x"
    project.write()
    done = project.run("recipe", "--json")
    assert_refused(done, 3, "architekture", "did you mean `?architecture")
    assert {problem["key"] for problem in done.json["problems"]} >= {"architekture", "labels.a", "models[0].sauce"}
    assert all(problem["line"] for problem in done.json["problems"])


def test_a_mistake_in_the_configuration(project: Project) -> None:
    path = project.folder / "jbuild.toml"
    before = path.read_text()
    path.write_text("[publish]\nregistrys = []\n" + before)
    assert_refused(project.run("recipe"), 3, r"jbuild\.toml:2: publish\.registrys", "registries")
    path.write_text(before)
    assert project.run("lock").code == 0


# --- the engine


@pytest.mark.parametrize(
    ("host", "step"),
    [(DEAD_ENGINE, "correct or unset DOCKER_HOST"), ("tcp://127.0.0.1:{port}", "scripts/engine up")],
)
def test_no_engine(finished: Project, host: str, step: str) -> None:
    host = host.format(port=free_port())
    for verb in ("build", "smoke"):
        assert_refused(finished.run(verb, "--force", DOCKER_HOST=host), 7, "engine", step)
    done = finished.run("recipe", "--push", "--json", DOCKER_HOST=host)
    assert (done.code, done.ran()) == (0, [])


def test_no_engine_is_found_before_the_first_stage(project: Project) -> None:
    assert_refused(project.run("recipe", DOCKER_HOST=DEAD_ENGINE), 7, "engine", "DOCKER_HOST")
    assert nothing_made(project)
    assert project.run("render", "--json", DOCKER_HOST=DEAD_ENGINE).ran() == ["lock", "audit", "render"]


def test_no_buildx(finished: Project, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = finished.run("build", "--force", PATH=str(tmp_path / "bin"))
    assert_refused(done, 7, "`docker` is not installed", "jbuild doctor", placed=False)
    assert finished.run("build", "--json").ran() == []


# --- packages


def test_an_index_that_cannot_be_reached(project: Project) -> None:
    done = project.run("recipe", UV_DEFAULT_INDEX=f"http://127.0.0.1:{free_port()}/simple")
    assert_refused(done, 5, "a package index did not answer", "UV_DEFAULT_INDEX")
    assert nothing_made(project)
    assert project.run("lock", "--json").ran() == ["lock"]


def test_an_index_that_is_overloaded(project: Project, shared_index: Index, tmp_path: Path) -> None:
    upstream = Registry(host=shared_index.host, storage=tmp_path)
    with running_front(upstream, Fault(match="/simple/", kind="answer", status=503, times=None)) as front:
        done = project.run("lock", UV_DEFAULT_INDEX=f"http://{front.host}/simple")
    assert_refused(done, 5, "a package index did not answer", "503")
    assert nothing_made(project)


def test_versions_that_do_not_exist(project: Project) -> None:
    project.recipe["packages"]["requires"] = ["vllm==3.0"]
    project.write()
    assert_refused(project.run("lock"), 4, "no wheels work together for debian-12", r"vllm==3\.0", "relax `packages`")
    assert not (project.folder / "locks").exists()
    assert "no wheels work together" in project.run("matrix").stdout


def test_a_wheel_that_changed_after_the_lock(
    make_project: Callable[..., Project], index: Index, tmp_path: Path
) -> None:
    project = make_project(index=index.host, cache=tmp_path / "cache")
    assert project.run("lock").code == 0
    kept = (index.folder / WHEEL).read_bytes()
    make_wheel(index.folder, "vllm", "1.0", files={"vllm/__init__.py": "print('somebody else')\n"})
    done = project.run("recipe", "--push", "--locked")
    assert_refused(done, 6, f"{WHEEL} is not the file that was locked", f"/files/{WHEEL}", "jbuild lock")
    assert [path.name for path in project.cache.glob("wheels/*/*/*.whl")] in ([], ["ballast-1.0-py3-none-any.whl"])
    assert not (project.cell / "render.json").exists()
    (index.folder / WHEEL).write_bytes(kept)
    assert project.run("render", "--json").ran() == ["audit", "render"]


def test_a_wheel_that_arrives_in_pieces(make_project: Callable[..., Project], index: Index, tmp_path: Path) -> None:
    upstream = Registry(host=index.host, storage=tmp_path)
    with running_front(upstream) as front:
        project = make_project(index=front.host, cache=tmp_path / "cache")
        assert project.run("lock").code == 0
        front.faults.append(Fault(match=rf"GET /files/{WHEEL}$", kind="cut-answer", after=0, times=None))
        done = project.run("render")
        assert_refused(done, 5, f"{WHEEL} cannot be downloaded: the connection was cut")
        assert not (project.cell / "render.json").exists()
        front.faults[:] = [Fault(match=rf"GET /files/{WHEEL}$", kind="cut-answer", after=700, times=2)]
        assert project.run("render", "--json").ran() == ["audit", "render"]
    assert len(list(project.cache.glob(f"wheels/*/*/{WHEEL}"))) == 1


def test_a_wheel_that_the_index_has_no_longer(
    make_project: Callable[..., Project], index: Index, tmp_path: Path
) -> None:
    project = make_project(index=index.host, cache=tmp_path / "cache")
    assert project.run("lock").code == 0
    (index.folder / WHEEL).rename(tmp_path / WHEEL)
    assert_refused(project.run("render"), 5, f"{WHEEL} cannot be downloaded: .* 404", "jbuild lock")


# --- base image and model


def test_a_base_image_that_is_missing(project: Project) -> None:
    path = project.folder / "jbuild.toml"
    before = path.read_text()
    path.write_text(before.replace("stand-in/debian-amd64", "no/such-image"))
    done = project.run("recipe")
    assert_refused(done, 11, "no/such-image", "a mirror rule sends docker.io/library/debian to")
    assert nothing_made(project)
    path.write_text(before)
    assert project.run("lock", "--json").ran() == ["lock"]


def test_a_base_image_for_another_architecture(project: Project) -> None:
    project.recipe["architecture"] = "arm64"
    project.write()
    assert_refused(project.run("lock"), 3, "the base image is for linux/amd64, not for linux/arm64", BASE)
    assert nothing_made(project)


def test_a_model_without_its_configuration(project: Project) -> None:
    (project.model / "config.json").rename(project.folder / "elsewhere.json")
    assert_refused(project.run("recipe"), 9, r"model tiny has no config\.json", "models/tiny", "save_pretrained")
    assert nothing_made(project)
    (project.folder / "elsewhere.json").rename(project.model / "config.json")
    assert project.run("lock", "--json").ran() == ["lock"]


def test_a_model_that_is_not_there_or_not_whole(project: Project) -> None:
    weights = project.model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert_refused(project.run("lock"), 9, r"model tiny: model\.safetensors", "again")
    shutil.rmtree(project.model)
    assert_refused(project.run("lock"), 9, "model tiny: the folder does not exist", "`source` in the recipe")
    assert nothing_made(project)
    make_model(project.model)
    assert project.run("lock", "--json").ran() == ["lock"]


# --- the disk


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of a few megabytes."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    argv = ["mount", "-t", "tmpfs", "-o", "size=12m", "small", str(folder)]
    mount = subprocess.run(argv, capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {mount.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_while_packing(make_project: Callable[..., Project], index: Index, tmp_path: Path) -> None:
    make_wheel(index.folder, "heavy", files={f"heavy/{n}.bin": os.urandom(1 << 20) for n in range(8)})
    with small_disk(tmp_path / "small") as disk:
        project = make_project(index=index.host, cache=disk, packages={"requires": ["vllm=={vllm}", "heavy"]})
        # The render stage packs the layers of slimmed wheels.
        project.recipe["image"] = {"exclude-files": {"heavy": ["heavy/0.bin"]}}
        project.write()
        done = project.run("recipe")
        assert_refused(done, 12, "the disk is full", str(disk), "free some space .* run the same command again")
        assert not (project.cell / "render.json").exists()
        assert project.half_written() == []
        assert [str(path) for path in (*disk.glob("images/blobs/sha256/.*"), *disk.glob("scratch-*"))] == []
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        assert project.run("render", "--json").ran() == ["render"]


# --- registries


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(match="^(POST|PUT|PATCH) ", kind="answer", status=401, times=None), "docker login"),
        (Fault(match="^(POST|PUT|PATCH) ", kind="answer", status=403, times=None), "may not push|right"),
        (Fault(match="^(POST|PUT|PATCH) ", kind="answer", status=500, times=None), "500"),
        (Fault(match="^PUT .*/manifests/", kind="answer", status=403, times=None), "may not push|right"),
    ],
    ids=["401", "403", "500", "manifest-403"],
)
def test_a_registry_that_refuses(
    finished: Project, shared_registry: Registry, fault: Fault, said: str, request: pytest.FixtureRequest
) -> None:
    name = f"{finished.name}/refused-{request.node.callspec.id}"
    with running_front(shared_registry, fault) as front:
        done = finished.run("push", "--registry", f"{front.host}/{name}")
        assert_refused(done, 11, said, "No tags were set", front.host)
        assert shared_registry.tags(f"{name}/vllm") == {}
        front.faults.clear()
        done = finished.run("recipe", "--push", "--json", "--registry", f"{front.host}/{name}")
    assert done.ran() == ["push"]
    assert shared_registry.tags(f"{name}/vllm") == {TAG: done.cells[CELL]["digest"]}


def test_one_of_two_registries_is_down(finished: Project, shared_registry: Registry, tmp_path: Path) -> None:
    up, down = f"{shared_registry.host}/{finished.name}/one-of-two", f"127.0.0.1:{free_port()}/team"
    done = finished.run("recipe", "--push", "--registry", up, "--registry", down)
    assert_refused(done, 11, down, "the push would fail: connection refused", "is the registry running")
    assert ": lock:" not in done.stderr
    assert shared_registry.tags(f"{finished.name}/one-of-two/vllm") == {}
    with running_registry(tmp_path / "second") as second:
        targets = (up, f"{second.host}/team")
        done = finished.run("recipe", "--push", "--json", *(w for t in targets for w in ("--registry", t)))
        digest = done.cells[CELL]["digest"]
        assert done.ran() == ["push"]
        assert second.tags("team/vllm") == {TAG: digest}
    assert shared_registry.tags(f"{finished.name}/one-of-two/vllm") == {TAG: digest}


def test_a_registry_that_wants_a_log_in(finished: Project, tmp_path: Path) -> None:
    with running_registry(tmp_path / "locked", locked=True) as registry:
        target = f"{registry.host}/team"
        assert_refused(finished.run("push", "--registry", target), 11, f"docker login {registry.host}")
        log_in(finished.environment, registry.host, USER, PASSWORD)
        done = finished.run("push", "--json", "--registry", target)
        assert done.ran() == ["push"]
        assert registry.tags("team/vllm", user=f"{USER}:{PASSWORD}") == {TAG: done.cells[CELL]["digest"]}
        assert PASSWORD not in done.stdout + done.stderr


def test_no_registry_at_all(finished: Project) -> None:
    del finished.recipe["publish"]["registries"]
    finished.write()
    done = finished.run("recipe", "--push")
    assert_refused(done, 2, "no registry is configured", "--registry HOST/PREFIX")


def test_a_registry_that_was_emptied_is_filled_again(finished: Project, tmp_path: Path) -> None:
    with running_registry(tmp_path / "first") as registry:
        assert finished.run("push", "--registry", f"{registry.host}/team").code == 0
        shutil.rmtree(registry.storage / "docker")
        done = finished.run("push", "--json", "--registry", f"{registry.host}/team")
        assert done.ran() == ["push"]
        assert list(registry.tags("team/vllm")) == [TAG]


def test_a_dead_registry_is_no_reason_to_hang(finished: Project) -> None:
    """It accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}/team"
        running = finished.start("push", finished.name, "--registry", target)
        running.until(lambda: any("smoke: unchanged" in line for line in running.err))
        running.interrupt()
        assert running.wait(15).code == 130
