"""Real cross builds: the distribution's compiler, a real sandbox, projects with their own setup.py."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from demo_build import NATIVE, lock

from builder.errors import BuildError
from builder.foundry.build_wheel import build_folder, build_wheel
from builder.host.files import sha256_of
from builder.model.builds import BuildOptions, InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild

__all__ = ["lock"]

pytestmark = [
    # The first test fetches the compilers, if the cache has none.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="compilers come from Debian packages"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the cross compiler of these tests runs on x86-64"),
]
# e_machine of ELF.
_AARCH64 = 183


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
    assert message in caught.value.message, caught.value.log


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
