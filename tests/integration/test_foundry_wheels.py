"""Built wheels with the real parts: a compiler, an engine that imports them, registries that share them."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import standalone_stand_in
from build_factory import make_build, make_target
from factories import make_lock, make_platform, make_wheel
from proofs import key_pairs, keys, stranger
from servers import running_registry

from builder.errors import AuditError
from builder.foundry.check_wheel import check_wheel
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.shared_wheels import fetch_shared, push_wheel
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.jetson.distributions import StandalonePython
from builder.model.locks import LockedInterpreter
from builder.remote.registry.base_lookup import resolve_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proofs import Keys
    from servers import Registry

    from builder.foundry.check_wheel import WheelCheck
    from builder.model.builds import BuiltWheel, LockedBuild
    from builder.model.locks import Lock

__all__ = ["key_pairs", "keys", "stranger"]
pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the base image of these tests is amd64"),
]

MINOR = standalone_stand_in.MINOR
_SUFFIX = f".cpython-{MINOR.replace('.', '')}-x86_64-linux-gnu.so"
_TAG = f"cp{MINOR.replace('.', '')}-cp{MINOR.replace('.', '')}-linux_x86_64"
TARGET = make_target(architecture="amd64", python=MINOR, glibc="2.36", gpus=(), cuda=None, torch=None)
SOURCE = """
#include <Python.h>
#include <stdlib.h>
static struct PyModuleDef module = {{PyModuleDef_HEAD_INIT, "_C", NULL, -1, NULL}};
{before}
PyMODINIT_FUNC PyInit__C(void) {{ {body} return PyModule_Create(&module); }}
"""


def compiled(folder: Path, body: str = "", before: str = "", *options: str) -> bytes:
    """Compile an extension module with the machine's compiler, or skip."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    folder.mkdir(parents=True, exist_ok=True)
    source, target = folder / "module.c", folder / "module.so"
    source.write_text(SOURCE.format(body=body, before=before))
    include = sysconfig.get_path("include")
    argv = [compiler, "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(target), *options]
    subprocess.run(argv, check=True, capture_output=True)
    return target.read_bytes()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A session, the lock of a cell, and a folder for wheels."""

    session: Session
    lock: Lock
    folder: Path

    def built(
        self, module: bytes, init: str = "from demo import _C\n", **changes: Any
    ) -> tuple[LockedBuild, BuiltWheel]:
        """Finish a wheel with a module."""
        build = make_build(target=TARGET, **changes)
        files: dict[str, str | bytes] = {"demo/__init__.py": init, f"demo/_C{_SUFFIX}": module}
        raw = make_wheel(self.folder / "raw", tag=_TAG, files=files)
        return build, finish_wheel(raw, build, self.folder / "out")

    def check(self, module: bytes, init: str = "from demo import _C\n", **changes: Any) -> WheelCheck:
        """Finish and check a wheel with a module."""
        build, built = self.built(module, init, **changes)
        return check_wheel(self.folder / "out" / built.wheel.filename, build, self.session, self.lock)


@pytest.fixture(scope="module")
def cell(docker_host: str, base_registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A cell of amd64 whose base image is in the engine's registry, with this machine's interpreter."""
    folder = tmp_path_factory.mktemp("cell")
    base = resolve_digest(f"{base_registry}/stand-in/debian-amd64:bookworm-slim", Config(), "amd64")
    version = ".".join(map(str, sys.version_info[:3]))
    row = StandalonePython(python=MINOR, version=version, build="20261110", sha256=(), source="this machine")
    locked = LockedInterpreter(release=row.release, url=row.url("amd64"), sha256="0" * 64)
    locked = replace(locked, sha256=standalone_stand_in.put_archive(folder / "mirror", locked, wrapped=True))
    lock = make_lock(
        base=base, interpreter=locked, platform=make_platform(architecture="amd64", python=MINOR), models=(), wheels=()
    )
    with standalone_stand_in.running_mirror(folder / "mirror") as mirror, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", docker_host)
        workspace = Workspace(project=folder, cache=folder / "cache")
        session = Session(workspace=workspace, config=Config(python_mirror=mirror), console=Console(quiet=True))
        yield Bench(session=session, lock=lock, folder=folder)


def test_a_compiled_module_is_imported(cell: Bench, tmp_path: Path) -> None:
    result = cell.check(compiled(tmp_path))
    assert result.imports is not None
    assert (result.imports.machine, result.imports.imported) == ("x86_64", ("demo", "demo._C"))
    assert result.imports.python.startswith(MINOR)
    assert not list((cell.session.workspace.cache).glob("scratch*"))


def test_auditwheel_agrees(cell: Bench, tmp_path: Path) -> None:
    pytest.importorskip("auditwheel")
    _, built = cell.built(compiled(tmp_path, "", "", "-Wl,--no-as-needed", "-lstdc++"))
    argv = [sys.executable, "-m", "auditwheel", "show", str(cell.folder / "out" / built.wheel.filename)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    tag = built.wheel.filename.removesuffix(".whl").rpartition("-")[2]
    assert f'consistent with the following platform tag: "{tag}"' in " ".join(shown.split())


def test_a_module_that_raises(cell: Bench, tmp_path: Path) -> None:
    body = 'PyErr_SetString(PyExc_RuntimeError, "no such table"); return NULL;'
    with pytest.raises(AuditError, match=r"demo cannot be imported: RuntimeError: no such table") as caught:
        cell.check(compiled(tmp_path, body))
    assert "Traceback" in (caught.value.log or "")


def test_a_module_that_ends_the_interpreter(cell: Bench, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"the import of demo\._C ends the interpreter"):
        cell.check(compiled(tmp_path, "abort();"), init="")


def test_a_package_that_the_metadata_does_not_name(cell: Bench, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No module named 'absent_package'") as caught:
        cell.check(compiled(tmp_path), init="import absent_package.part\n")
    assert "add the package that has `absent_package` to `requires`" in (caught.value.hint or "")


def test_the_network_is_out_of_reach(cell: Bench, tmp_path: Path) -> None:
    init = "import socket\nsocket.create_connection(('127.0.0.1', 5000), 5)\n"
    with pytest.raises(AuditError, match="ConnectionRefusedError"):
        cell.check(compiled(tmp_path), init=init)


def test_files_are_out_of_reach(cell: Bench, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"(OSError|PermissionError): "):
        cell.check(compiled(tmp_path), init="open(__file__, 'w')\n")


def test_a_symbol_that_nothing_defines_is_found_before_the_import(cell: Bench, tmp_path: Path) -> None:
    module = compiled(tmp_path, "demo_missing();", "void demo_missing(void);")
    with pytest.raises(
        AuditError, match=r"undefined-symbol: .* needs a symbol that nothing it loads defines, demo_missing"
    ):
        cell.check(module)


def test_the_driver_is_not_there_and_need_not_be(cell: Bench, tmp_path: Path) -> None:
    stub = tmp_path / "libcuda.so"
    subprocess.run(["gcc", "-shared", "-xc", "/dev/null", "-Wl,-soname,libcuda.so.1", "-o", str(stub)], check=True)
    module = compiled(tmp_path, "", "", "-Wl,--no-as-needed", f"-L{tmp_path}", "-lcuda")
    result = cell.check(module, init="")
    assert result.imports is not None
    assert result.imports.imported == ("demo",)
    assert result.imports.skipped == (("demo._C", "needs libcuda.so.1 of the GPU's driver"),)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry of the test's own."""
    with running_registry(tmp_path / "registry") as running:
        yield running


def machine(folder: Path, **settings: Any) -> Session:
    """Return a session of another machine of the team."""
    workspace = Workspace(project=folder, cache=folder / "cache")
    return Session(workspace=workspace, config=Config(**settings), console=Console())


def wheel_of(folder: Path, text: str = "", **changes: Any) -> tuple[LockedBuild, BuiltWheel, Path]:
    build = make_build(target=make_target(gpus=(), cuda=None, torch=None), **changes)
    built = finish_wheel(make_wheel(folder / "raw", files={"demo/__init__.py": text}), build, folder / "out")
    return build, built, folder / "out" / built.wheel.filename


def test_a_wheel_is_built_once_for_all(registry: Registry, tmp_path: Path) -> None:
    build, built, path = wheel_of(tmp_path)
    one, two = machine(tmp_path / "one"), machine(tmp_path / "two")
    assert fetch_shared(build, [registry.host], "team/vllm", two) is None
    assert push_wheel(path, built.wheel, build, registry.host, "team/vllm", one).state == "pushed"
    assert push_wheel(path, built.wheel, build, registry.host, "team/vllm", one).state == "present"
    pulled = fetch_shared(build, ["127.0.0.1:1", registry.host], "team/vllm", two)
    assert pulled is not None
    assert (pulled.origin, pulled.wheel) == (f"registry:{registry.host}/team/vllm-wheels", built.wheel)
    stored = two.workspace.wheel(pulled.wheel.sha256, pulled.wheel.filename)
    assert stored.read_bytes() == path.read_bytes()
    other = replace(build, compiler="13.1.0-1")
    assert fetch_shared(other, [registry.host], "team/vllm", two) is None


def test_two_machines_that_disagree(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, built, path = wheel_of(tmp_path / "a")
    _, other, theirs = wheel_of(tmp_path / "b", "x = 1\n")
    assert built.fingerprint == other.fingerprint
    one, two = machine(tmp_path / "one"), machine(tmp_path / "two")
    push_wheel(path, built.wheel, build, registry.host, "vllm", one)
    capsys.readouterr()
    shared = push_wheel(theirs, other.wheel, build, registry.host, "vllm", two)
    assert (shared.state, shared.digest) == ("different", f"sha256:{built.wheel.sha256}")
    warning = " ".join(capsys.readouterr().err.split())
    assert f"sha256:{built.wheel.sha256} there, sha256:{other.wheel.sha256} here" in warning
    assert "they differ in demo/__init__.py" in warning
    pulled = fetch_shared(build, [registry.host], "vllm", two)
    assert pulled is not None
    assert pulled.wheel.sha256 == built.wheel.sha256


def test_only_the_compression_differs(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, built, path = wheel_of(tmp_path)
    session = machine(tmp_path / "one")
    push_wheel(path, built.wheel, build, registry.host, "vllm", session)
    stored = tmp_path / "stored" / path.name
    stored.parent.mkdir()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(stored, "w") as copy:
        for entry in archive.infolist():
            copy.writestr(entry.filename, archive.read(entry))
    push_wheel(stored, replace(built.wheel, sha256="1" * 64), build, registry.host, "vllm", session)
    assert "only their compression differs" in " ".join(capsys.readouterr().err.split())


def test_a_wheel_of_other_inputs_does_not_count(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody pushes a wheel under the name and the tag of another one."""
    build, built, _ = wheel_of(tmp_path / "a")
    _, _, forged = wheel_of(tmp_path / "b", compiler="13.1.0-1")
    path = forged.rename(forged.with_name(built.wheel.filename))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    push_wheel(path, replace(built.wheel, sha256=digest), build, registry.host, "vllm", machine(tmp_path / "one"))
    two = machine(tmp_path / "two")
    assert fetch_shared(build, [registry.host], "vllm", two) is None
    assert "the provenance inside the wheel states other inputs" in " ".join(capsys.readouterr().err.split())
    assert not two.workspace.wheel(digest, built.wheel.filename).exists()


def test_only_a_trusted_key_counts(
    registry: Registry, tmp_path: Path, keys: Keys, stranger: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    build, built, path = wheel_of(tmp_path)
    signing = machine(tmp_path / "one", cosign_key=keys.private)
    push_wheel(path, built.wheel, build, registry.host, "vllm", signing)
    wary = machine(tmp_path / "two", trusted_keys=(stranger.public,))
    assert fetch_shared(build, [registry.host], "vllm", wary) is None
    assert "it is not signed by a trusted key" in " ".join(capsys.readouterr().err.split())
    trusting = machine(tmp_path / "three", trusted_keys=(stranger.public, keys.public))
    assert fetch_shared(build, [registry.host], "vllm", trusting) is not None
