"""The files of a wheel in an image: those that `installer` writes and bytecode, the same on every machine."""

from __future__ import annotations

import importlib.util
import marshal
import os
import py_compile
import stat
import sys
import warnings
import zipfile
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from factories import locked, make_wheel
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile
from layer_files import COMPILER, PACKAGES, PYTHON, installed, make, wheels_layer

from builder.errors import IntegrityError
from builder.image.wheels import wheel_entries
from builder.image.wheels.wheel_entries import variant
from builder.model.images import ENVIRONMENT, EPOCH, site_packages
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import CodeType

    from builder.host.session import Session
    from builder.model.wheels import LockedWheel


def unpacked(path: Path, session: Session) -> Path:
    return installed(locked(path), session, compiler=COMPILER).folder


def housed(path: Path, session: Session) -> tuple[LockedWheel, Path]:
    """Put a wheel into the wheelhouse; return it and its file there."""
    wheel = locked(path)
    fetch([wheel], session)
    return wheel, session.workspace.wheel(wheel.sha256, wheel.filename)


def snapshot(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    """Return mode, time and content of everything below a folder."""
    found = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (facts.st_mode, 0.0 if path.is_dir() else facts.st_mtime, content)
    return found


def by_installer(path: Path, folder: Path) -> Path:
    """Install a wheel with `installer`, and compile its sources, as the reference."""
    scheme = {
        "purelib": f"/{PACKAGES}",
        "platlib": f"/{PACKAGES}",
        "headers": f"{ENVIRONMENT}/include/site/python{PYTHON}/demo",
        "scripts": f"{ENVIRONMENT}/bin",
        "data": ENVIRONMENT,
    }
    with warnings.catch_warnings(), WheelFile.open(path) as source:
        warnings.simplefilter("ignore")
        destination = SchemeDictionaryDestination(
            scheme,
            interpreter=f"{ENVIRONMENT}/bin/python",
            script_kind="posix",
            destdir=str(folder),
            overwrite_existing=True,
        )
        install(source, destination, {"INSTALLER": b"jbuild"})
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for file in [path for path in folder.rglob("*.py") if not {"test", "tests"} & set(path.relative_to(folder).parts)]:
        target = file.parent / "__pycache__" / f"{file.stem}.{sys.implementation.cache_tag}.pyc"
        with suppress(py_compile.PyCompileError):
            inside = f"/{file.relative_to(folder)}"
            py_compile.compile(str(file), cfile=str(target), dfile=inside, doraise=True, invalidation_mode=mode)
    return folder


def meaning(folder: Path) -> dict[str, object]:
    """Return what everything below a folder is; of bytecode the code, since `marshal` may write it in several ways."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        said = (content[:16], marshal.loads(content[16:])) if path.suffix == ".pyc" else content
        mode = 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644
        found[str(path.relative_to(folder))] = (path.is_dir(), mode, said)
    return found


def code_of(path: Path) -> CodeType:
    raw = path.read_bytes()
    assert raw[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(raw[4:8], "little") == 0b01, "not an unchecked hash"
    code: CodeType = marshal.loads(raw[16:])
    return code


def test_files_lie_where_the_environment_has_them(session: Session, tmp_path: Path) -> None:
    found = unpacked(make_wheel(tmp_path), session)
    assert (found / PACKAGES / "demo" / "__init__.py").read_text() == "VERSION = '1.0'\n"
    info = found / PACKAGES / "demo-1.0.dist-info"
    assert sorted(path.name for path in info.iterdir()) == ["INSTALLER", "METADATA", "RECORD", "WHEEL"]
    assert (info / "INSTALLER").read_text() == "jbuild"


def test_the_record_names_every_file_with_its_hash(session: Session, tmp_path: Path) -> None:
    found = unpacked(make_wheel(tmp_path, scripts={"demo": "demo:main"}), session)
    lines = (found / PACKAGES / "demo-1.0.dist-info" / "RECORD").read_text().splitlines()
    names = [line.split(",")[0] for line in lines]
    assert "../../../bin/demo" in names
    assert all((found / PACKAGES / name).exists() for name in names)
    assert [line for line in lines if "sha256=" not in line] == ["demo-1.0.dist-info/RECORD,,"]


def test_scripts_start_the_images_interpreter(session: Session, tmp_path: Path) -> None:
    files = {
        "demo.py": "def main(): pass\n",
        "demo-1.0.data/scripts/tool": "#!python\nprint(1)\n",
        "demo-1.0.data/scripts/shell": "#!/bin/sh\n",
    }
    wheel = make_wheel(tmp_path, files=files, scripts={"demo": "demo:main"}, executable=("demo-1.0.data/scripts/tool",))
    scripts = unpacked(wheel, session) / ENVIRONMENT.lstrip("/") / "bin"
    assert (scripts / "demo").read_text().splitlines()[0] == "#!/opt/venv/bin/python"
    assert (scripts / "tool").read_text() == "#!/opt/venv/bin/python\nprint(1)\n"
    assert (scripts / "shell").read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE((scripts / "demo").stat().st_mode) == 0o755
    assert stat.S_IMODE((scripts / "tool").stat().st_mode) == 0o755


def test_data_schemes(session: Session, tmp_path: Path) -> None:
    files = {
        "demo-1.0.data/purelib/pure.txt": "1",
        "demo-1.0.data/platlib/plat.txt": "2",
        "demo-1.0.data/headers/demo.h": "3",
        "demo-1.0.data/data/share/demo/d.txt": "4",
    }
    found = unpacked(make_wheel(tmp_path, files=files), session)
    environment = found / ENVIRONMENT.lstrip("/")
    assert (found / PACKAGES / "pure.txt").read_text() == "1"
    assert (found / PACKAGES / "plat.txt").read_text() == "2"
    assert (environment / f"include/site/python{PYTHON}/demo/demo.h").read_text() == "3"
    assert (environment / "share/demo/d.txt").read_text() == "4"


def test_modes_and_times_are_the_same_everywhere(session: Session, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"demo/__init__.py": "", "demo/tool": "x", "demo/lib.so": b"\x7fELF"}
    wheel = make_wheel(tmp_path, files=files, executable=("demo/tool",))
    previous = os.umask(0o077)
    try:
        found = unpacked(wheel, session)
    finally:
        os.umask(previous)
    for name, (mode, time, _) in snapshot(found).items():
        expected = 0o755 if stat.S_ISDIR(mode) or name.endswith("demo/tool") else 0o644
        assert (name, stat.S_IMODE(mode), time) == (name, expected, 0.0 if stat.S_ISDIR(mode) else EPOCH)


def test_the_same_wheel_gives_the_same_bytes(session: Session, tmp_path: Path) -> None:
    code = (
        "import os\n\nNAMES = {'a', 'b', 'c', 'd', 'e'}\n\n"
        "def f(x: int = 1) -> set[str]:\n    return NAMES | {'x', os.name}\n"
    )
    wheel = make_wheel(tmp_path, files={f"demo/m{i}.py": code for i in range(5)}, scripts={"demo": "demo.m1:f"})
    first = snapshot(unpacked(wheel, session))
    elsewhere = replace(session.workspace, cache=tmp_path / "other" / "much" / "longer" / "cache")
    assert snapshot(unpacked(wheel, replace(session, workspace=elsewhere))) == first
    assert any(name.endswith(".pyc") for name in first)


def test_bytecode_is_unchecked_and_names_the_file_in_the_image(session: Session, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/__init__.py": "def f(): return 1\n", "demo/deep/m.py": "x = 1\n"})
    found = unpacked(wheel, session) / PACKAGES
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
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / value) if name.endswith("PREFIX") else value)
    found = unpacked(make_wheel(tmp_path), session) / PACKAGES
    assert (found / f"demo/__pycache__/__init__.{sys.implementation.cache_tag}.pyc").is_file()


def test_modules_of_the_current_folder_are_not_imported(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warnings.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    unpacked(make_wheel(tmp_path), session)


def test_sources_that_cannot_be_compiled_stay_sources(session: Session, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "demo/bad.py": "def (:\n",
        "demo/null.py": "\0",
        "demo/latin.py": b"x = '\xe9'\n",
        "demo/good.py": "x = 1\n",
    }
    found = unpacked(make_wheel(tmp_path, files=files), session) / PACKAGES / "demo"
    assert (found / "bad.py").read_text() == "def (:\n"
    assert [path.name.split(".")[0] for path in (found / "__pycache__").iterdir()] == ["good"]


def test_test_suites_stay_sources(session: Session, tmp_path: Path) -> None:
    files = {
        "demo/testing.py": "x = 1\n",
        "demo/tests/__init__.py": "",
        "demo/deep/test/test_m.py": "",
        "demo/test_m.py": "x = 1\n",
        "tests/a.py": "x = 1\n",
    }
    found = unpacked(make_wheel(tmp_path, files=files), session) / PACKAGES
    compiled = {path.name.partition(".")[0] for path in found.rglob("*.pyc")}
    assert compiled == {"testing", "test_m"}
    assert not list((found / "demo" / "tests").rglob("*.pyc"))
    assert not list((found / "demo" / "deep").rglob("*.pyc"))
    assert (found / "tests" / "a.py").is_file()


def test_bytecode_is_what_python_itself_would_write(session: Session, tmp_path: Path) -> None:
    source = "import os\n\nclass A:\n    def f(self, x=(1, 2)):\n        return [y for y in x if y], os.name\n"
    found = unpacked(make_wheel(tmp_path, files={"demo/m.py": source}), session) / PACKAGES / "demo"
    (made,) = (found / "__pycache__").glob("m.*")
    other = tmp_path / "m.pyc"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    place = f"{site_packages(PYTHON)}/demo/m.py"
    py_compile.compile(str(found / "m.py"), cfile=str(other), dfile=place, invalidation_mode=mode)
    ours, theirs = made.read_bytes(), other.read_bytes()
    assert ours[:16] == theirs[:16]
    assert marshal.loads(ours[16:]) == marshal.loads(theirs[16:])


def test_without_an_interpreter_nothing_is_compiled(session: Session, tmp_path: Path) -> None:
    assert not list(installed(locked(make_wheel(tmp_path)), session).folder.rglob("*.pyc"))


def test_the_compilers_release_is_part_of_the_names_of_layers() -> None:
    compilers = (None, COMPILER, replace(COMPILER, version="3.99.1"), replace(COMPILER, path="/elsewhere"))
    names = [variant(PYTHON, compiler) for compiler in compilers]
    assert names[1] == f"6-py{PYTHON}-c{COMPILER.version}" == names[3]
    assert len(set(names)) == 3


def test_bytecode_in_a_wheel_is_left_out_without_a_word(session: Session, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "demo/__init__.py": "x = 1\n",
        "demo/__pycache__/old.cpython-39.pyc": b"stale",
        "demo/__pycache__/x.txt": "y",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = unpacked(make_wheel(tmp_path, files=files), session) / PACKAGES / "demo" / "__pycache__"
    assert [path.name for path in found.iterdir()] == [f"__init__.{sys.implementation.cache_tag}.pyc"]


def test_a_wheel_that_ships_what_installers_write(session: Session, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo.py": "", "demo-1.0.dist-info/INSTALLER": "pip"})
    found = unpacked(wheel, session)
    assert (found / PACKAGES / "demo-1.0.dist-info" / "INSTALLER").read_text() == "jbuild"


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
def test_a_wheel_that_reaches_outside_is_refused(session: Session, tmp_path: Path, name: str) -> None:
    wheel, _ = housed(make_wheel(tmp_path / "in", files={"demo.py": "", name: "evil"}), session)
    try:
        made = installed(wheel, session).folder
    except IntegrityError as error:
        assert "demo-1.0-py3-none-any.whl" in error.message  # noqa: PT017
    else:
        assert [path for path in made.rglob("*evil*") if path.is_file()]
        assert not [path for path in tmp_path.rglob("*evil*") if made not in path.parents]


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "demo-1.0.data/nowhere/x"])
def test_the_refusal_is_an_integrity_error(session: Session, tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="is not a valid wheel"):
        unpacked(make_wheel(tmp_path, files={"demo.py": "", name: "evil"}), session)


def test_a_script_that_reaches_outside_is_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        unpacked(make_wheel(tmp_path, scripts={"../../../evil": "demo:main"}), session)


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
def test_what_is_no_sound_wheel_is_refused(session: Session, tmp_path: Path, kind: str) -> None:
    wheel, path = housed(_flawed(kind, tmp_path), session)
    with pytest.raises(IntegrityError, match="is not a valid wheel") as caught:
        installed(wheel, session)
    assert "constraints" in (caught.value.hint or "")
    assert path.exists()


@pytest.mark.parametrize("keep", [0, 100, -1, -100])
def test_a_wheel_that_was_damaged_on_disk_is_fetched_anew(session: Session, tmp_path: Path, keep: int) -> None:
    wheel, path = housed(make_wheel(tmp_path, files={"demo.py": "x = 1\n" * 1000}), session)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="was damaged on this disk") as caught:
        installed(wheel, session)
    assert "fetch it again" in (caught.value.hint or "")
    assert not path.exists()


@pytest.mark.parametrize("size", [10_000, 9 << 20])
@pytest.mark.parametrize("stored", [True, False])
def test_flipped_bits_inside_a_file_are_noticed(session: Session, tmp_path: Path, size: int, stored: bool) -> None:
    wheel, path = housed(make_wheel(tmp_path, files={"demo.bin": os.urandom(size)}, stored=stored), session)
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 0xFF
    path.write_bytes(bytes(raw))
    with pytest.raises(IntegrityError, match="was damaged on this disk"):
        installed(wheel, session)


@pytest.mark.parametrize("size", [10_000, 9 << 20])
def test_a_wrong_row_of_record_is_corrected(session: Session, tmp_path: Path, size: int) -> None:
    wheel = make_wheel(tmp_path, files={"demo.bin": b"x" * size})
    record = zipfile.ZipFile(wheel).read("demo-1.0.dist-info/RECORD").replace(b"demo.bin,sha256=", b"demo.bin,sha256=A")
    found = unpacked(_with(wheel, {"RECORD": record}), session) / PACKAGES
    reference = by_installer(wheel, tmp_path / "reference") / PACKAGES
    name = "demo-1.0.dist-info/RECORD"
    assert (found / name).read_text() == (reference / name).read_text()
    assert b"sha256=A" in record


MANY = {f"demo/m{number}.py": f"VALUE = {number}\n" + "x = 'abcdefgh' * 3\n" * 4000 for number in range(40)}


@pytest.mark.parametrize(
    "files",
    [
        {"demo/__init__.py": "x = 1\n", "demo/bad.py": "def (:\n", "demo/tests/t.py": "", "demo/latin.py": b"'\xe9'\n"},
        {"demo-1.0.data/platlib/a.py": "1\n", "demo-1.0.data/scripts/b.py": "#!python3\n1\n", "c.py": "'x'\n"},
        {"demo-1.0.data/headers/x.h": "x", "demo-1.0.data/data/share/d.py": "y = 'x'\n", "demo/naïve file.txt": "☃"},
        {"demo/large.bin": os.urandom(100) * 100_000, "demo-1.0.data/scripts/large": b"#!pythonw\n" + b"y" * (9 << 20)},
        {"demo/__pycache__/x.pyc": b"x", "demo/empty": "", "demo-1.0.dist-info/INSTALLER": "pip"},
        MANY,
    ],
)
def test_the_files_are_those_of_installer(session: Session, tmp_path: Path, files: dict[str, str | bytes]) -> None:
    wheel = make_wheel(tmp_path, files=files, scripts={"run": "demo:main"}, executable=tuple(files)[:1])
    assert meaning(unpacked(wheel, session)) == meaning(by_installer(wheel, tmp_path / "reference"))


def test_a_name_that_is_in_the_zip_twice(session: Session, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo.py": "x = 1\n"})
    with warnings.catch_warnings(), zipfile.ZipFile(wheel, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("demo.py", "x = 2\n")
    made = installed(locked(wheel), session, compiler=COMPILER)
    assert meaning(made.folder) == meaning(by_installer(wheel, tmp_path / "reference"))
    assert made.tar.count(b"demo.py\0") == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_compression(session: Session, tmp_path: Path, method: int) -> None:
    wheel = make_wheel(tmp_path, files={"demo.py": "x = 1\n", "demo.bin": b"y" * (9 << 20)})
    kept = wheel.with_name("new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(kept, "w", method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    kept.replace(wheel)
    assert meaning(unpacked(wheel, session)) == meaning(by_installer(wheel, tmp_path / "reference"))


def test_the_number_of_processes_does_not_matter(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = locked(make_wheel(tmp_path, files=MANY))
    found = set()
    for count in (1, 2, 7):
        monkeypatch.setattr("builder.image.wheels.bytecode.os.cpu_count", lambda count=count: count)
        found.add(installed(wheel, session, compiler=COMPILER).tar)
    assert len(found) == 1


def test_a_compiler_that_dies_is_an_error(session: Session, tmp_path: Path) -> None:
    wheel = locked(make_wheel(tmp_path))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(IntegrityError, match="could not be compiled") as caught:
        installed(wheel, session, compiler=replace(COMPILER, path=str(broken)))
    assert "it broke" in (caught.value.log or "")


def test_of_two_wheels_with_one_path_the_later_wins(session: Session, tmp_path: Path) -> None:
    first = locked(make_wheel(tmp_path, "one", files={"shared.py": "x = 1\n", "big": b"1" * (9 << 20)}))
    second = locked(make_wheel(tmp_path, "two", files={"shared.py": "x = 2\n", "big": b"2"}))
    made = make(wheels_layer([first, second], session), session, COMPILER)
    packages = made.packages
    assert (packages / "shared.py").read_text() == "x = 2\n"
    assert (packages / "big").read_bytes() == b"2"
    code = code_of(packages / f"__pycache__/shared.{sys.implementation.cache_tag}.pyc")
    assert 2 in code.co_consts
    assert made.tar.count(b"/shared.py\0") == 1
    for name in ("one", "two"):
        record = (packages / f"{name}-1.0.dist-info" / "RECORD").read_text()
        alone = by_installer(tmp_path / f"{name}-1.0-py3-none-any.whl", tmp_path / name)
        assert record == (alone / PACKAGES / f"{name}-1.0.dist-info" / "RECORD").read_text()


@pytest.mark.parametrize(("first", "second"), [("x", "x/y"), ("x/y", "x")])
def test_where_a_file_meets_a_folder_the_later_wheel_wins(
    session: Session, tmp_path: Path, first: str, second: str
) -> None:
    wheels = [locked(make_wheel(tmp_path, name, files={path: name})) for name, path in (("a", first), ("b", second))]
    assert (make(wheels_layer(wheels, session), session).packages / second).read_text() == "b"


def test_large_members_are_never_whole_in_memory(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel_entries, "_LARGE", 1 << 20)
    wheel = locked(make_wheel(tmp_path, files={"demo.bin": b"x" * (5 << 20)}))
    fetch([wheel], session)
    layer = wheels_layer([wheel], session)
    from builder.image.layers.layer import LayerWork  # noqa: PLC0415

    work = LayerWork(pool=None, scratch=tmp_path, advance=lambda _: None)
    assert max(len(part) for part in layer.segments(work) if isinstance(part, bytes)) <= 1 << 20
