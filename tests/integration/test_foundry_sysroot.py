"""Builds on a distribution with a newer C library than the base image has: Debian 13's compilers for Debian 12."""

from __future__ import annotations

import platform
import re
import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest
from demo_build import lock_demo, write_demo
from factories import make_lock

from builder.foundry.apt_packages import Apt, distribution
from builder.foundry.build_wheel import build_folder, build_wheel
from builder.host.config import Config
from builder.host.console import Console
from builder.host.paths import Workspace
from builder.host.session import Session
from builder.model.builds import BuildOptions, BuildSpec
from builder.remote.registry.base_lookup import resolve_digest
from builder.remote.registry.registry_failures import ImageMissingError

if TYPE_CHECKING:
    from pathlib import Path

    from builder.model.builds import LockedBuild
    from builder.model.locks import LockedBase
    from builder.model.recipes import Architecture

pytestmark = [
    # The first test fetches the compilers, if the cache has none.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="compilers come from Debian packages"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the cross compiler of these tests runs on x86-64"),
]
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
# `stoi` calls `strtol`, which the headers of glibc 2.38 and later rename to a function of that release.
NATIVE = """#include <Python.h>
#include <string>
extern "C" PyMODINIT_FUNC PyInit__native(void) {
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, nullptr};
    return std::stoi("42") == 42 ? PyModule_Create(&definition) : nullptr;
}
"""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session on a machine whose package sources are those of Debian 13; the user's cache keeps the compilers."""
    if distribution() != "debian":
        pytest.skip("the package sources of these tests are Debian's")
    (tmp_path / "apt").mkdir()
    sources, settings = tmp_path / "trixie.list", tmp_path / "apt.conf"
    archive = Apt(folder=tmp_path / "apt").archive()
    sources.write_text(f"deb [signed-by={_KEYS}] {archive} trixie main\n")
    settings.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))
    workspace = Workspace(project=tmp_path, cache=Workspace.current().cache)
    return Session(workspace=workspace, config=Config(), console=Console(quiet=True))


def _base(host: str, repository: str, architecture: str, session: Session) -> LockedBase:
    try:
        return resolve_digest(f"{host}/stand-in/{repository}:bookworm-slim", session.config, architecture)
    except ImageMissingError:
        pytest.skip(f"no base image: run `scripts/engine base --arch {architecture}`")


def _lock(base: LockedBase, architecture: Architecture, session: Session) -> LockedBuild:
    source = session.workspace.project / "demo"
    write_demo(source, NATIVE)
    return lock_demo(BuildSpec(name="demo", version="1.0"), source, base, architecture, session)


def _newest_glibc(build: LockedBuild, session: Session) -> int:
    """Build the wheel, and return the minor version of the newest glibc that its module needs."""
    try:
        with zipfile.ZipFile(build_wheel(build, session, BuildOptions(jobs=1))) as archive:
            (module,) = (archive.read(name) for name in archive.namelist() if name.endswith(".so"))
    finally:
        shutil.rmtree(build_folder(build, session).path, ignore_errors=True)
    return max(int(match[1]) for match in re.finditer(rb"GLIBC_2\.([0-9]+)", module))


@pytest.mark.parametrize(("repository", "architecture"), [("debian", "arm64"), ("debian-amd64", "amd64")])
def test_a_wheel_needs_the_c_library_of_its_base_only(
    repository: str, architecture: Architecture, base_registry: str, session: Session
) -> None:
    build = _lock(_base(base_registry, repository, architecture, session), architecture, session)
    own = [tool.filename for tool in build.tools if tool.role == "system"]
    assert {tool.filename.partition("_")[0] for tool in build.tools if tool.role == "sysroot"} > {"libc6-dev", "libc6"}
    assert build.compiler.startswith("12.")
    assert not [name for name in own if name.startswith(("libc6-dev", "libstdc++-12-dev"))]
    assert build.without_sysroot is None
    assert _newest_glibc(build, session) <= 36


def test_without_the_bases_package_sources_the_machines_c_library_is_used_and_said(session: Session) -> None:
    base = make_lock().base
    unreachable = type(base)(name="debian", used="127.0.0.1:9/debian:absent", digest=base.digest)
    build = _lock(unreachable, "arm64", session)
    assert not [tool for tool in build.tools if tool.role == "sysroot"]
    assert "the base image cannot be read" in (build.without_sysroot or "")
    assert _newest_glibc(build, session) == 38
