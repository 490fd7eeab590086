"""A small project that is locked for a cross build: with the distribution's compiler, in the user's cache."""

from __future__ import annotations

import shutil
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_lock

from builder.errors import NetworkError
from builder.foundry.build_wheel import build_folder
from builder.foundry.prepare_build import lock_build
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.host.source_hash import source_hash
from builder.model.builds import BuildSource, BuildSpec, BuildTarget
from builder.model.locks import BuildBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.model.builds import LockedBuild
    from builder.model.locks import LockedBase
    from builder.model.recipes import Architecture

SETUP = """from setuptools import Extension, setup
# {mark}
{extra}
setup(name="demo", version="1.0", packages=["demo"], ext_modules=[Extension("demo._native", ["native.cpp"])])
"""
NATIVE = """#include <Python.h>
#include <string>
extern "C" PyMODINIT_FUNC PyInit__native(void) {
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, nullptr};
    return std::to_string(42).size() == 2 ? PyModule_Create(&definition) : nullptr;
}
"""


def write_demo(source: Path, native: str, extra: str = "", mark: str = "") -> None:
    """Write the project's files; another mark is another build."""
    (source / "demo").mkdir(parents=True, exist_ok=True)
    (source / "demo/__init__.py").write_text("from demo import _native\n")
    (source / "setup.py").write_text(SETUP.format(mark=mark, extra=extra))
    (source / "native.cpp").write_text(native)


def lock_demo(
    spec: BuildSpec, source: Path, base: LockedBase, architecture: Architecture, session: Session
) -> LockedBuild:
    """Lock the project for a base; skip the test if the package sources or indexes cannot be reached."""
    found = BuildSource(kind="folder", location="demo", sha256=source_hash(source))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = BuildTarget(architecture=architecture, python=python, glibc="2.36")
    try:
        return lock_build(spec, found, target, BuildBase(image=base), session)
    except NetworkError as error:
        pytest.skip(f"no network: {error.message}")


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Callable[..., tuple[LockedBuild, Session]]]:
    """Lock a small project for arm64; the user's cache keeps the compilers, and no build.

    The tests that run beside this one share that cache, so each has a build of its own.
    """
    mark = uuid.uuid4().hex
    workspace = Workspace(project=tmp_path, cache=Workspace.current().cache)
    session = Session(workspace=workspace, config=Config(), console=Console(quiet=True))
    builds: list[LockedBuild] = []

    def call(extra: str = "", native: str = NATIVE, **more: Any) -> tuple[LockedBuild, Session]:
        source = tmp_path / "demo"
        write_demo(source, native, extra, mark)
        spec = BuildSpec(name="demo", version="1.0", folder=tmp_path, **more)
        builds.append(lock_demo(spec, source, make_lock().base, "arm64", session))
        return builds[-1], session

    yield call
    for build in builds:
        folder = build_folder(build, session).path
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
