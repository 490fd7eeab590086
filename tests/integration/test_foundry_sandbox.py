"""Real cross builds: the distribution's compiler, a real sandbox, projects with their own setup.py."""

from __future__ import annotations

import platform
import shutil
import sys
import zipfile
from typing import TYPE_CHECKING

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
from builder.model.builds import BuildOptions, BuildSource, BuildSpec, BuildTarget
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

    def call(extra: str = "", native: str = NATIVE) -> tuple[LockedBuild, Session]:
        source = tmp_path / "demo"
        (source / "demo").mkdir(parents=True, exist_ok=True)
        (source / "demo/__init__.py").write_text("from demo import _native\n")
        (source / "setup.py").write_text(SETUP.format(extra=extra))
        (source / "native.cpp").write_text(native)
        spec = BuildSpec(name="demo", version="1.0", folder=tmp_path)
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
