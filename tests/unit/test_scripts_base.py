"""The hook that prepares the packages of a base image for their installation under emulation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / "scripts" / "lib" / "before-installation"
pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")


def read(package: Path, option: str) -> bytes:
    return subprocess.run(["dpkg-deb", option, package], check=True, capture_output=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root file system as mmdebstrap leaves it after the extraction, with one package of an odd length."""
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN" / "control").write_text(
        "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: demo\n"
    )
    (source / "usr").mkdir()
    (source / "usr" / "data").write_bytes(b"x" * 100_001)
    for folder in ("etc/dpkg/dpkg.cfg.d", "var/cache/apt/archives", *(f"usr/share/{n}" for n in ("info", "locale"))):
        (root / folder).mkdir(parents=True)
    for name in ("doc/demo/copyright", "man/man1/demo.1", "demo/kept"):
        (root / "usr/share" / name).parent.mkdir(parents=True)
        (root / "usr/share" / name).write_text("text")
    package = root / "var/cache/apt/archives/demo_1_all.deb"
    argv = ["dpkg-deb", "--root-owner-group", "--build", str(source), str(package)]
    subprocess.run(argv, check=True, capture_output=True)
    return root


def test_packages_have_the_same_content_without_compression(root: Path) -> None:
    (package,) = (root / "var/cache/apt/archives").iterdir()
    before = [read(package, option) for option in ("--ctrl-tarfile", "--fsys-tarfile")]
    subprocess.run([HOOK, root], check=True)
    assert [read(package, option) for option in ("--ctrl-tarfile", "--fsys-tarfile")] == before
    assert b"data.tar  " in package.read_bytes()


def test_what_dpkg_leaves_out_is_deleted_and_the_rest_stays(root: Path) -> None:
    share = root / "usr/share"
    modified = (share / "man").stat().st_mtime
    subprocess.run([HOOK, root], check=True)
    assert sorted(path.name for path in share.rglob("*")) == ["demo", "doc", "info", "kept", "locale", "man"]
    assert int((share / "man").stat().st_mtime) == int(modified)
    options = (root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").read_text().splitlines()
    assert {"path-exclude=/usr/share/man/*", "path-include=/usr/share/doc/*/copyright"} <= set(options)
