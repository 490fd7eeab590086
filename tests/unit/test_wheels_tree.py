"""Trees: a wheel as it will lie in the image, the same on every machine."""

from __future__ import annotations

import importlib.util
import marshal
import os
import pickle
import platform
import py_compile
import stat
import sys
import warnings
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel

from builder.errors import DiskError, IntegrityError
from builder.host.interpreters import Compiler
from builder.image.wheels import tree
from builder.image.wheels.tree import EPOCH, Unpacking, normalise, unpack, unpacking, variant
from builder.model.images import ENVIRONMENT, site_packages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import CodeType

    from builder.host.paths import Workspace

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
COMPILER = Compiler(path=sys.executable, version=platform.python_version())
PACKAGES = site_packages(PYTHON).lstrip("/")


def housed(path: Path, workspace: Workspace, python: str = PYTHON) -> Unpacking:
    """Put a wheel into the wheelhouse and describe its unpacking."""
    wheel = locked(path)
    target = workspace.wheel(wheel.sha256, wheel.filename)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    return unpacking(wheel, python, COMPILER if python == PYTHON else None, workspace)


def unpacked(path: Path, workspace: Workspace, python: str = PYTHON) -> Path:
    work = housed(path, workspace, python)
    unpack(work)
    return work.tree


def snapshot(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    """Return mode, time and content of everything below a folder, and of itself."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        facts = path.lstat()
        found[str(path.relative_to(folder))] = (
            facts.st_mode,
            facts.st_mtime,
            path.read_bytes() if path.is_file() else b"",
        )
    return found


def code_of(path: Path) -> CodeType:
    raw = path.read_bytes()
    assert raw[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(raw[4:8], "little") == 0b01, "not an unchecked hash"
    code: CodeType = marshal.loads(raw[16:])
    return code


def test_files_lie_where_the_environment_has_them(workspace: Workspace, tmp_path: Path) -> None:
    found = unpacked(make_wheel(tmp_path), workspace)
    assert (found / PACKAGES / "demo" / "__init__.py").read_text() == "VERSION = '1.0'\n"
    info = found / PACKAGES / "demo-1.0.dist-info"
    assert sorted(path.name for path in info.iterdir()) == ["INSTALLER", "METADATA", "RECORD", "WHEEL"]
    assert (info / "INSTALLER").read_text() == "jbuild"


def test_the_record_names_every_file_with_its_hash(workspace: Workspace, tmp_path: Path) -> None:
    found = unpacked(make_wheel(tmp_path, scripts={"demo": "demo:main"}), workspace)
    lines = (found / PACKAGES / "demo-1.0.dist-info" / "RECORD").read_text().splitlines()
    names = [line.split(",")[0] for line in lines]
    assert "../../../bin/demo" in names
    assert all((found / PACKAGES / name).exists() for name in names)
    assert [line for line in lines if "sha256=" not in line] == ["demo-1.0.dist-info/RECORD,,"]


def test_scripts_start_the_images_interpreter(workspace: Workspace, tmp_path: Path) -> None:
    files = {
        "demo.py": "def main(): pass\n",
        "demo-1.0.data/scripts/tool": "#!python\nprint(1)\n",
        "demo-1.0.data/scripts/shell": "#!/bin/sh\n",
    }
    wheel = make_wheel(tmp_path, files=files, scripts={"demo": "demo:main"}, executable=("demo-1.0.data/scripts/tool",))
    scripts = unpacked(wheel, workspace) / ENVIRONMENT.lstrip("/") / "bin"
    assert (scripts / "demo").read_text().splitlines()[0] == "#!/opt/venv/bin/python"
    assert (scripts / "tool").read_text() == "#!/opt/venv/bin/python\nprint(1)\n"
    assert (scripts / "shell").read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE((scripts / "demo").stat().st_mode) == 0o755
    assert stat.S_IMODE((scripts / "tool").stat().st_mode) == 0o755


def test_data_schemes(workspace: Workspace, tmp_path: Path) -> None:
    files = {
        "demo-1.0.data/purelib/pure.txt": "1",
        "demo-1.0.data/platlib/plat.txt": "2",
        "demo-1.0.data/headers/demo.h": "3",
        "demo-1.0.data/data/share/demo/d.txt": "4",
    }
    found = unpacked(make_wheel(tmp_path, files=files), workspace)
    environment = found / ENVIRONMENT.lstrip("/")
    assert (found / PACKAGES / "pure.txt").read_text() == "1"
    assert (found / PACKAGES / "plat.txt").read_text() == "2"
    assert (environment / f"include/site/python{PYTHON}/demo/demo.h").read_text() == "3"
    assert (environment / "share/demo/d.txt").read_text() == "4"


def test_modes_and_times_are_the_same_everywhere(workspace: Workspace, tmp_path: Path) -> None:
    files = {"demo/__init__.py": "", "demo/tool": "x", "demo/lib.so": b"\x7fELF"}
    wheel = make_wheel(tmp_path, files=files, executable=("demo/tool",))
    previous = os.umask(0o077)
    try:
        found = unpacked(wheel, workspace)
    finally:
        os.umask(previous)
    for name, (mode, time, _) in snapshot(found).items():
        expected = 0o755 if stat.S_ISDIR(mode) or name.endswith("demo/tool") else 0o644
        assert (name, stat.S_IMODE(mode), time) == (name, expected, EPOCH)


def test_the_same_wheel_gives_the_same_bytes(workspace: Workspace, tmp_path: Path) -> None:
    code = (
        "import os\n\nNAMES = {'a', 'b', 'c', 'd', 'e'}\n\n"
        "def f(x: int = 1) -> set[str]:\n    return NAMES | {'x', os.name}\n"
    )
    wheel = make_wheel(tmp_path, files={f"demo/m{i}.py": code for i in range(5)}, scripts={"demo": "demo.m1:f"})
    first = snapshot(unpacked(wheel, workspace))
    second = snapshot(unpacked(wheel, replace(workspace, cache=tmp_path / "other" / "much" / "longer" / "cache")))
    assert first == second
    assert any(name.endswith(".pyc") for name in first)


def test_bytecode_is_unchecked_and_names_the_file_in_the_image(workspace: Workspace, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/__init__.py": "def f(): return 1\n", "demo/deep/m.py": "x = 1\n"})
    found = unpacked(wheel, workspace) / PACKAGES
    tag = sys.implementation.cache_tag
    code = code_of(found / f"demo/__pycache__/__init__.{tag}.pyc")
    assert code.co_filename == f"{site_packages(PYTHON)}/demo/__init__.py"
    assert code.co_consts[0].co_filename == code.co_filename
    assert (
        code_of(found / f"demo/deep/__pycache__/m.{tag}.pyc").co_filename == f"{site_packages(PYTHON)}/demo/deep/m.py"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONPYCACHEPREFIX", "elsewhere"), ("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONOPTIMIZE", "2")],
)
def test_the_users_own_settings_do_not_change_the_bytecode(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / value) if name.endswith("PREFIX") else value)
    found = unpacked(make_wheel(tmp_path), workspace) / PACKAGES
    assert (found / f"demo/__pycache__/__init__.{sys.implementation.cache_tag}.pyc").is_file()


def test_modules_of_the_current_folder_are_not_imported(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warnings.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    unpacked(make_wheel(tmp_path), workspace)


def test_sources_that_cannot_be_compiled_stay_sources(workspace: Workspace, tmp_path: Path) -> None:
    files = {
        "demo/bad.py": "def (:\n",
        "demo/null.py": "\0",
        "demo/latin.py": b"x = '\xe9'\n",
        "demo/good.py": "x = 1\n",
    }
    found = unpacked(make_wheel(tmp_path, files=files), workspace) / PACKAGES / "demo"
    assert (found / "bad.py").read_text() == "def (:\n"
    assert [path.name.split(".")[0] for path in (found / "__pycache__").iterdir()] == ["good"]


def test_test_suites_stay_sources(workspace: Workspace, tmp_path: Path) -> None:
    files = {
        "demo/testing.py": "x = 1\n",
        "demo/tests/__init__.py": "",
        "demo/deep/test/test_m.py": "",
        "demo/test_m.py": "x = 1\n",
        "tests/a.py": "x = 1\n",
    }
    found = unpacked(make_wheel(tmp_path, files=files), workspace) / PACKAGES
    compiled = {path.name.partition(".")[0] for path in found.rglob("*.pyc")}
    assert compiled == {"testing", "test_m"}
    assert not list((found / "demo" / "tests").rglob("*.pyc"))
    assert not list((found / "demo" / "deep").rglob("*.pyc"))
    assert (found / "tests" / "a.py").is_file()


def test_bytecode_is_what_python_itself_would_write(workspace: Workspace, tmp_path: Path) -> None:
    source = "import os\n\nclass A:\n    def f(self, x=(1, 2)):\n        return [y for y in x if y], os.name\n"
    found = unpacked(make_wheel(tmp_path, files={"demo/m.py": source}), workspace) / PACKAGES / "demo"
    (made,) = (found / "__pycache__").glob("m.*")
    other = tmp_path / "m.pyc"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    place = f"{site_packages(PYTHON)}/demo/m.py"
    py_compile.compile(str(found / "m.py"), cfile=str(other), dfile=place, invalidation_mode=mode)
    ours, theirs = made.read_bytes(), other.read_bytes()
    assert ours[:16] == theirs[:16]
    assert marshal.loads(ours[16:]) == marshal.loads(theirs[16:])


def test_without_an_interpreter_nothing_is_compiled(workspace: Workspace, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path))
    housed(tmp_path / wheel.filename, workspace)
    plain = unpacking(wheel, PYTHON, None, workspace)
    unpack(plain)
    assert not list(plain.tree.rglob("*.pyc"))


def test_the_compilers_release_is_part_of_a_trees_name(workspace: Workspace, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path))
    compilers = (None, COMPILER, replace(COMPILER, version="3.99.1"), replace(COMPILER, path="/elsewhere"))
    names = [unpacking(wheel, PYTHON, compiler, workspace).tree.name for compiler in compilers]
    assert names[1] == f"{wheel.sha256}-3-py{PYTHON}-c{COMPILER.version}" == names[3]
    assert len(set(names)) == 3
    assert [variant(PYTHON, compiler) for compiler in compilers] == [name[65:] for name in names]


def test_bytecode_in_a_wheel_is_left_out_without_a_word(workspace: Workspace, tmp_path: Path) -> None:
    files = {
        "demo/__init__.py": "x = 1\n",
        "demo/__pycache__/old.cpython-39.pyc": b"stale",
        "demo/__pycache__/x.txt": "y",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = unpacked(make_wheel(tmp_path, files=files), workspace) / PACKAGES / "demo" / "__pycache__"
    assert [path.name for path in found.iterdir()] == [f"__init__.{sys.implementation.cache_tag}.pyc"]


def test_a_wheel_that_ships_what_installers_write(workspace: Workspace, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo.py": "", "demo-1.0.dist-info/INSTALLER": "pip"})
    found = unpacked(wheel, workspace)
    assert (found / PACKAGES / "demo-1.0.dist-info" / "INSTALLER").read_text() == "jbuild"


def test_a_tree_that_is_there_is_left_alone(workspace: Workspace, tmp_path: Path) -> None:
    work = housed(make_wheel(tmp_path), workspace)
    unpack(work)
    work.wheel.unlink()
    unpack(work)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "../../../../../../../../etc/evil",
        "/etc/evil",
        "demo/../../evil.py",
        "demo-1.0.data/scripts/../../evil",
        "demo-1.0.data/data/../../../evil",
        "demo-1.0.data/data//etc/evil",
        "demo-1.0.data/nowhere/x",
    ],
)
def test_a_wheel_that_reaches_outside_is_refused(workspace: Workspace, tmp_path: Path, name: str) -> None:
    work = housed(make_wheel(tmp_path / "in", files={"demo.py": "", name: "evil"}), workspace)
    try:
        unpack(work)
    except IntegrityError as error:
        assert "demo-1.0-py3-none-any.whl" in error.message  # noqa: PT017
        assert not work.tree.exists()
    names = [path for path in tmp_path.rglob("*evil*") if work.tree not in path.parents]
    assert names == []


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "demo-1.0.data/nowhere/x"])
def test_the_refusal_is_an_integrity_error(workspace: Workspace, tmp_path: Path, name: str) -> None:
    work = housed(make_wheel(tmp_path, files={"demo.py": "", name: "evil"}), workspace)
    with pytest.raises(IntegrityError, match="is not a valid wheel"):
        unpack(work)
    assert list(work.tree.parent.glob(".*.*")) == []


def test_a_script_that_reaches_outside_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    work = housed(make_wheel(tmp_path, scripts={"../../../evil": "demo:main"}), workspace)
    with pytest.raises(IntegrityError):
        unpack(work)


def _without(path: Path, *members: str) -> Path:
    kept = path.with_name("new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(kept, "w") as new:
        for entry in old.infolist():
            if entry.filename.rpartition("/")[2] not in members:
                new.writestr(entry, old.read(entry))
    kept.replace(path)
    return path


def _with(path: Path, changes: Mapping[str, bytes]) -> Path:
    kept = path.with_name("new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(kept, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, changes.get(entry.filename.rpartition("/")[2], old.read(entry)))
    kept.replace(path)
    return path


_REPLACED = {
    "entry points of nonsense": ("entry_points.txt", b"demo = demo:main\n[[["),
    "entry points without a function": ("entry_points.txt", b"[console_scripts]\ndemo = nonsense here\n"),
    "record of nonsense": ("RECORD", b"a,b,c,d,e\n\xff\xfe,,\n"),
    "metadata that is no text": ("WHEEL", b"\xff\xfe"),
}


def _flawed(kind: str, folder: Path) -> Path:
    if kind in _REPLACED:
        name, content = _REPLACED[kind]
        return _with(make_wheel(folder, scripts={"demo": "demo:main"}), {name: content})
    if kind == "two dist-infos":
        return make_wheel(folder, files={"other-1.0.dist-info/METADATA": ""})
    if kind == "wheel version 2":
        return make_wheel(folder, wheel_version="2.0")
    if kind == "file and folder":
        return make_wheel(folder, files={"demo": "file", "demo/x.py": ""})
    wheel = make_wheel(folder)
    if kind in ("no RECORD", "no WHEEL"):
        return _without(wheel, kind[3:])
    wheel.write_bytes(b"not a zip at all" * 100 if kind == "no zip" else b"")
    return wheel


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "no zip", "no RECORD", "no WHEEL", "two dist-infos", "wheel version 2", "file and folder"),
        *("entry points of nonsense", "entry points without a function", "record of nonsense"),
        "metadata that is no text",
    ],
)
def test_what_is_no_sound_wheel_is_refused(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    work = housed(_flawed(kind, tmp_path), workspace)
    with pytest.raises(IntegrityError, match="is not a valid wheel") as caught:
        unpack(work)
    assert "constraints" in (caught.value.hint or "")
    assert not work.tree.exists()
    assert work.wheel.exists()


@pytest.mark.parametrize("keep", [0, 100, -1, -100])
def test_a_wheel_that_was_damaged_on_disk_is_fetched_anew(workspace: Workspace, tmp_path: Path, keep: int) -> None:
    work = housed(make_wheel(tmp_path, files={"demo.py": "x = 1\n" * 1000}), workspace)
    work.wheel.write_bytes(work.wheel.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="was damaged on this disk") as caught:
        unpack(work)
    assert "fetch it again" in (caught.value.hint or "")
    assert not work.tree.exists()
    assert not work.wheel.exists()


def test_flipped_bits_inside_a_file_are_noticed(workspace: Workspace, tmp_path: Path) -> None:
    work = housed(make_wheel(tmp_path, files={"demo.bin": os.urandom(10_000)}), workspace)
    raw = bytearray(work.wheel.read_bytes())
    raw[5000] ^= 0xFF
    work.wheel.write_bytes(bytes(raw))
    with pytest.raises(IntegrityError):
        unpack(work)


def test_failures_travel_between_processes(workspace: Workspace, tmp_path: Path) -> None:
    work = housed(_flawed("no RECORD", tmp_path), workspace)
    with pytest.raises(IntegrityError) as caught:
        unpack(work)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.as_json() == caught.value.as_json()
    assert pickle.loads(pickle.dumps(work)) == work


def test_a_full_disk(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = housed(make_wheel(tmp_path), workspace)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree, "normalise", full)
    with pytest.raises(DiskError, match="the disk is full"):
        unpack(work)
    assert [path.name for path in work.tree.parent.iterdir() if not path.name.endswith(".lock")] == []


def test_normalise_leaves_the_target_of_a_link_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    (folder / "broken").symlink_to("/no/such/file")
    normalise(folder)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    assert outside.stat().st_mtime != EPOCH
    assert all(path.lstat().st_mtime == EPOCH for path in [folder, *folder.iterdir()])
