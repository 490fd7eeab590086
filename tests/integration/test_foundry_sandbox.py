"""Real cross builds: the distribution's compiler, a real sandbox, projects with their own setup.py."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_lock

from builder.errors import BuildError, NetworkError
from builder.foundry.build_wheel import build_folder, build_wheel
from builder.foundry.prepare_build import lock_build
from builder.host.config import Config
from builder.host.console import Console
from builder.host.files import sha256_of
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.host.source_hash import source_hash
from builder.model.builds import BuildOptions, BuildSource, BuildSpec, BuildTarget, InputSpec
from builder.model.locks import BuildBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.model.builds import LockedBuild

pytestmark = [
    # The first test fetches the compilers, if the cache has none.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="compilers come from Debian packages"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the cross compiler of these tests runs on x86-64"),
]
SETUP = """from setuptools import Extension, setup
{extra}
setup(name="demo", version="1.0", packages=["demo"], ext_modules=[Extension("demo._native", ["native.cpp"])])
"""
# e_machine of ELF.
_AARCH64 = 183
NATIVE = """#include <Python.h>
#include <string>
extern "C" PyMODINIT_FUNC PyInit__native(void) {
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, nullptr};
    return std::to_string(42).size() == 2 ? PyModule_Create(&definition) : nullptr;
}
"""


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Callable[..., tuple[LockedBuild, Session]]]:
    """Lock a small project for arm64; the user's cache keeps the compilers, and no build."""
    workspace = Workspace(project=tmp_path, cache=Workspace.current().cache)
    session = Session(workspace=workspace, config=Config(), console=Console(quiet=True))
    builds: list[LockedBuild] = []

    def call(extra: str = "", native: str = NATIVE, **more: Any) -> tuple[LockedBuild, Session]:
        source = tmp_path / "demo"
        (source / "demo").mkdir(parents=True, exist_ok=True)
        (source / "demo/__init__.py").write_text("from demo import _native\n")
        (source / "setup.py").write_text(SETUP.format(extra=extra))
        (source / "native.cpp").write_text(native)
        spec = BuildSpec(name="demo", version="1.0", folder=tmp_path, **more)
        found = BuildSource(kind="folder", location="demo", sha256=source_hash(source))
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        target = BuildTarget(architecture="arm64", python=python, glibc="2.36")
        try:
            builds.append(lock_build(spec, found, target, BuildBase(image=make_lock().base), session))
        except NetworkError as error:
            pytest.skip(f"no network: {error.message}")
        return builds[-1], session

    yield call
    for build in builds:
        shutil.rmtree(build_folder(build, session).path, ignore_errors=True)


def test_an_unmodified_project_is_built_for_arm64_twice_with_the_same_bytes(
    lock: Callable[..., tuple[LockedBuild, Session]], tmp_path: Path
) -> None:
    build, session = lock()
    assert build.is_cross
    wheel = build_wheel(build, session, BuildOptions())
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name == f"demo-1.0-cp{version}-cp{version}-linux_aarch64.whl"
    with zipfile.ZipFile(wheel) as archive:
        native = archive.read(f"demo/_native.cpython-{version}-aarch64-linux-gnu.so")
    assert int.from_bytes(native[18:20], "little") == _AARCH64
    assert str(tmp_path).encode() not in native
    first = sha256_of(wheel)
    assert sha256_of(build_wheel(build, session, BuildOptions(fresh=True))) == first


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("import urllib.request; urllib.request.urlopen('https://example.org')", "the build asked for the network"),
        ("open('/usr/evil', 'w')", "the project's build failed"),
        ("import os; os.getuid() or exit(0); exit('jbuild: not root')", "not root"),
        ("import subprocess; subprocess.run(['cmake'], check=True)", "the build runs the program cmake"),
    ],
)
def test_the_sandbox_has_no_network_no_root_and_no_program_of_this_machine(
    lock: Callable[..., tuple[LockedBuild, Session]], extra: str, message: str
) -> None:
    build, session = lock(extra)
    with pytest.raises(BuildError) as caught:
        build_wheel(build, session, BuildOptions())
    assert message in caught.value.message


def test_an_error_is_the_compilers_own(lock: Callable[..., tuple[LockedBuild, Session]]) -> None:
    build, session = lock(native="int f() { return undeclared; }\n")
    with pytest.raises(BuildError, match=r"native\.cpp does not compile") as caught:
        build_wheel(build, session, BuildOptions(jobs=1))
    assert "'undeclared' was not declared in this scope" in (caught.value.log or "")


def test_what_only_the_backend_asks_for_is_locked(lock: Callable[..., tuple[LockedBuild, Session]]) -> None:
    plain, _ = lock()
    late = "import functools; setup = functools.partial(setup, setup_requires=['typing-extensions>=4'])"
    build, session = lock(late)
    more = {wheel.name for wheel in build.requirements} - {wheel.name for wheel in plain.requirements}
    assert more == {"typing-extensions"}
    assert build_wheel(build, session, BuildOptions()).suffix == ".whl"


def test_a_machine_without_sandboxes_locks_what_the_project_states(
    lock: Callable[..., tuple[LockedBuild, Session]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forbidden = tmp_path / "bin/bwrap"
    forbidden.parent.mkdir()
    forbidden.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    forbidden.chmod(0o755)
    monkeypatch.setenv("PATH", f"{forbidden.parent}:{os.environ['PATH']}")
    build, _ = lock("import functools; setup = functools.partial(setup, setup_requires=['typing-extensions>=4'])")
    assert "typing-extensions" not in {wheel.name for wheel in build.requirements}
    warning = "demo: this machine forbids the user namespaces that a sandbox needs, so its build requirements may be"
    assert warning in " ".join(capsys.readouterr().err.split())


def test_a_backend_that_cannot_be_asked_ends_the_lock(lock: Callable[..., tuple[LockedBuild, Session]]) -> None:
    with pytest.raises(BuildError, match="the build imports absent_module"):
        lock("import absent_module  # for setup_requires")


def test_an_input_is_in_the_folder_that_its_variable_names(
    lock: Callable[..., tuple[LockedBuild, Session]], tmp_path: Path
) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor/answer.h").write_text("const int answer = 41;\n")
    (tmp_path / "answer.patch").write_text(
        "--- a/answer.h\n+++ b/answer.h\n@@ -1 +1 @@\n-const int answer = 41;\n+const int answer = 42;\n"
    )
    vendor = InputSpec(variable="ANSWER_DIR", kind="folder", location="vendor", patches=("answer.patch",))
    native = '#include "answer.h"\nstatic_assert(answer == 42);\n' + NATIVE
    extra = "import os; os.environ['CPPFLAGS'] = '-I' + os.environ['ANSWER_DIR']"
    build, session = lock(extra, native, inputs=(vendor,))
    assert build_wheel(build, session, BuildOptions()).suffix == ".whl"
    assert not (build_folder(build, session).path / "inputs").exists()
