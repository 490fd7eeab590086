"""The packages of a sandbox: this machine's compilers, and the C library of a base image."""

from __future__ import annotations

import base64
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from apt_repository import source_line, updated_apt
from build_factory import make_tool
from factories import make_lock

from builder.errors import BuildError, NetworkError
from builder.foundry import base_packages, sandbox_packages
from builder.foundry.base_packages import _pair, base_sysroot
from builder.foundry.sandbox_packages import SandboxTarget
from builder.foundry.sandbox_root import compiler_of
from builder.model.audits import BaseFacts
from builder.model.locks import BuildBase

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")
BASE = make_lock().base
GCC = "gcc-12-aarch64-linux-gnu, libgcc-12-dev-arm64-cross, libstdc++-12-dev-arm64-cross, libc6-dev-arm64-cross"
MACHINE = (
    *((name, "1", "") for name in sandbox_packages._ALWAYS),
    ("g++-aarch64-linux-gnu", "4:14.2.0-1", "g++-14-aarch64-linux-gnu"),
    ("g++-14-aarch64-linux-gnu", "14.2.0", "gcc-14-aarch64-linux-gnu, libc6-dev-arm64-cross"),
    ("gcc-14-aarch64-linux-gnu", "14.2.0", ""),
    ("g++-12-aarch64-linux-gnu", "12.4.0", GCC),
    ("gcc-12-aarch64-linux-gnu", "12.4.0", ""),
    ("libgcc-12-dev-arm64-cross", "12.4.0", ""),
    ("libstdc++-12-dev-arm64-cross", "12.4.0", ""),
    ("libc6-dev-arm64-cross", "2.41-11cross1", ""),
)
OLD_BASE = (
    ("libstdc++-11-dev", "11.3.0", "libc6-dev"),
    ("libstdc++-12-dev", "12.2.0", "libc6-dev, libgcc-12-dev"),
    ("libgcc-12-dev", "12.2.0", ""),
    ("libc6-dev", "2.36-9", "libc6"),
    ("libc6", "2.36-9", ""),
)


def _image(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Make every base image have these files, by name in `etc/apt`."""
    apt = tuple((f"etc/apt/{name}", base64.b64encode(text.encode()).decode()) for name, text in files.items())
    monkeypatch.setattr(base_packages, "read_base", lambda *_: BaseFacts(apt=apt))


def _target(**changes: Any) -> SandboxTarget:
    base = BuildBase(image=BASE)
    facts: dict[str, Any] = {
        "machine": "amd64",
        "architecture": "arm64",
        "newest_gcc": 99,
        "glibc": "2.36",
        "base": base,
    }
    return SandboxTarget(**(facts | changes))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the machine's sources have `MACHINE`."""
    (tmp_path / "machine.list").write_text(source_line(tmp_path / "machine", *MACHINE))
    settings = tmp_path / "apt.conf"
    settings.write_text(f'Dir::Etc::sourcelist "{tmp_path}/machine.list";\nDir::Etc::sourceparts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))


@pytest.mark.usefixtures("machine")
def test_a_base_with_the_machines_c_library_or_a_newer_one_is_not_asked(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_packages, "read_base", lambda *_: pytest.fail("read"))
    packages = sandbox_packages.sandbox_packages(_target(glibc="2.41"), session)
    names = {tool.filename.partition("_")[0] for tool in packages.tools}
    assert {"g++-14-aarch64-linux-gnu", "libc6-dev-arm64-cross"} < names
    assert packages.without_sysroot is None


@pytest.mark.usefixtures("machine")
def test_an_older_base_brings_its_c_library_and_decides_the_compiler(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(monkeypatch, **{"sources.list": source_line(tmp_path / "base", *OLD_BASE)})
    packages = sandbox_packages.sandbox_packages(_target(), session)
    by_role: dict[str, set[str]] = {"system": set(), "sysroot": set()}
    for tool in packages.tools:
        by_role[tool.role].add(tool.filename.partition("_")[0])
    assert by_role["sysroot"] == {"libc6", "libc6-dev", "libgcc-12-dev", "libstdc++-12-dev"}
    # What the compiler brings of its own stays.
    assert {"g++-12-aarch64-linux-gnu", "libgcc-12-dev-arm64-cross"} < by_role["system"]
    assert not by_role["system"] & {"libc6-dev-arm64-cross", "libstdc++-12-dev-arm64-cross"}
    assert packages.without_sysroot is None


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "the base image has no package sources"),
        (
            {"sources.list": "deb [trusted=yes] file:/absent ./\n"},
            "none of the base image's package sources has libstdc++-dev",
        ),
    ],
)
def test_a_base_whose_sources_cannot_be_had_leaves_the_machines_c_library_with_the_reason(
    files: dict[str, str], reason: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(monkeypatch, **files)
    packages = sandbox_packages.sandbox_packages(_target(), session)
    assert not [tool for tool in packages.tools if tool.role == "sysroot"]
    assert reason in (packages.without_sysroot or "")


@pytest.mark.usefixtures("machine")
def test_a_registry_that_does_not_answer_is_a_reason_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> BaseFacts:
        raise NetworkError("the base image cannot be read")

    monkeypatch.setattr(base_packages, "read_base", refuse)
    assert sandbox_packages.sandbox_packages(_target(), session).without_sysroot == "the base image cannot be read"


@pytest.mark.usefixtures("machine")
def test_packages_of_the_lock_before_stay_while_the_sources_do_not_answer(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image(monkeypatch)
    names = ("libstdc++-12-dev_12.1.0_arm64.deb", "libc6-dev_2.36_arm64.deb")
    locked = tuple(make_tool(name, "sysroot") for name in names)
    packages = sandbox_packages.sandbox_packages(_target(base=BuildBase(image=BASE, sysroot=locked)), session)
    assert packages.tools[-2:] == locked
    assert compiler_of(packages.tools) == ("12", "12.4.0")
    assert packages.without_sysroot is None


def test_other_sources_of_the_image_need_not_answer(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = "deb [trusted=yes] file:/absent ./\n"
    _image(monkeypatch, **{"sources.list": source_line(tmp_path / "base", *OLD_BASE), "sources.list.d/x.list": absent})
    assert base_sysroot(BASE, "arm64", (12, 14), session).compiler == 12


def test_keys_are_those_of_the_image(tmp_path: Path) -> None:
    line = b"deb [arch=arm64 signed-by=/usr/share/keyrings/a.gpg,/etc/apt/keyrings/b.asc] http://h/etc/apt/ x main\n"
    base_packages._write(tmp_path, "etc/apt/sources.list", line)
    assert (tmp_path / "etc/apt/sources.list").read_text() == (
        f"deb [arch=arm64 signed-by={tmp_path}/usr/share/keyrings/a.gpg,{tmp_path}/etc/apt/keyrings/b.asc] "
        "http://h/etc/apt/ x main\n"
    )


@pytest.mark.parametrize(
    ("compilers", "libraries", "pair"),
    [
        ((14, 13, 12), {11, 12}, (12, 12)),
        ((12, 11), {11, 12, 13}, (12, 12)),
        ((14, 12, 11), {9, 10}, (11, 10)),
    ],
)
def test_the_compiler_is_not_newer_than_the_bases_libstdcxx_where_that_can_be(
    compilers: tuple[int, ...], libraries: set[int], pair: tuple[int, int]
) -> None:
    assert _pair(compilers, libraries) == pair


def test_a_machine_with_older_compilers_only_is_one_error() -> None:
    with pytest.raises(BuildError, match="no compiler for the base image's libstdc"):
        _pair((11,), {13, 14})


@pytest.mark.parametrize(
    ("packages", "newest", "chosen"),
    [
        ((("g++", "4:12.2.0-3", ""), ("g++-12", "12.2.0", "")), 15, "g++-12"),
        ((("g++", "4:14.2.0-1", ""), ("g++-14", "14.2.0", ""), ("g++-13", "13.3.0", "")), 13, "g++-13"),
    ],
)
def test_the_compiler_is_the_distributions_or_an_older_one_that_nvcc_accepts(
    tmp_path: Path, packages: tuple[tuple[str, str, str], ...], newest: int, chosen: str
) -> None:
    assert sandbox_packages._compiler(updated_apt(tmp_path, *packages), "", newest) == chosen


def test_a_distribution_with_newer_compilers_only_is_one_error(tmp_path: Path) -> None:
    apt = updated_apt(tmp_path, ("g++", "4:15.2.0-1", ""), ("g++-15", "15.2.0", ""))
    with pytest.raises(BuildError, match="gcc 15 is too new for this nvcc, which accepts gcc 13 and older"):
        sandbox_packages._compiler(apt, "", 13)


def test_a_distribution_without_the_cross_compiler_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="package sources lack g\\+\\+-aarch64-linux-gnu"):
        sandbox_packages._compiler(updated_apt(tmp_path, ("g++", "4:12.2.0-3", "")), "-aarch64-linux-gnu", 15)
