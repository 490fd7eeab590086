"""apt with a state of its own, on a package source in a folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from builder.errors import BuildError, NetworkError
from builder.foundry import sandbox_packages
from builder.foundry.apt_packages import Apt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")
STANZA = """Package: {name}
Version: {version}
Architecture: all
Maintainer: x <x@example.org>
Depends: {depends}
Filename: ./{name}.deb
Size: 8
SHA256: {sha256}
Description: x

"""


def _apt(folder: Path, *packages: tuple[str, str, str]) -> Apt:
    """Return apt on a source with packages of a name, a version and dependencies."""
    repository = folder / "repository"
    repository.mkdir()
    stanzas = [STANZA.format(name=n, version=v, depends=d, sha256=f"{i:064x}") for i, (n, v, d) in enumerate(packages)]
    (repository / "Packages").write_text("".join(stanzas))
    sources = folder / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{repository} ./\n")
    (folder / "state").mkdir()
    apt = Apt(folder=folder / "state", sources=sources)
    apt.update()
    return apt


def test_packages_come_with_what_they_depend_on_and_their_hashes(tmp_path: Path) -> None:
    apt = _apt(tmp_path, ("base", "1:2.0", "make"), ("make", "4.3", ""), ("other", "1", ""))
    files = apt.resolve(["base"], "system")
    assert [file.filename.partition("_")[0] for file in files] == ["base", "make"]
    assert {file.sha256 for file in files} == {f"{0:064x}", f"{1:064x}"}


def test_a_package_that_does_not_exist_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="package sources lack one of absent"):
        _apt(tmp_path, ("base", "1", "")).resolve(["absent"], "system")


def test_a_source_that_does_not_answer_is_one_error(tmp_path: Path) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{tmp_path}/absent ./\n")
    with pytest.raises(NetworkError, match="apt cannot fetch its lists of packages"):
        Apt(folder=tmp_path / "state", sources=sources).update()


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
    assert sandbox_packages._compiler(_apt(tmp_path, *packages), "", newest) == chosen


def test_a_distribution_with_newer_compilers_only_is_one_error(tmp_path: Path) -> None:
    apt = _apt(tmp_path, ("g++", "4:15.2.0-1", ""), ("g++-15", "15.2.0", ""))
    with pytest.raises(BuildError, match="gcc 15 is too new for this nvcc, which accepts gcc 13 and older"):
        sandbox_packages._compiler(apt, "", 13)


def test_a_distribution_without_the_cross_compiler_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="package sources lack g\\+\\+-aarch64-linux-gnu"):
        sandbox_packages._compiler(_apt(tmp_path, ("g++", "4:12.2.0-3", "")), "-aarch64-linux-gnu", 15)
