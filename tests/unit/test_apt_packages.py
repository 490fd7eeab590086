"""apt with a state of its own, on a package source in a folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from apt_repository import updated_apt

from builder.errors import BuildError, NetworkError
from builder.foundry.apt_packages import Apt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt")


def test_packages_come_with_what_they_depend_on_and_their_hashes(tmp_path: Path) -> None:
    apt = updated_apt(tmp_path, ("base", "1:2.0", "make"), ("make", "4.3", ""), ("other", "1", ""))
    files = apt.resolve(["base"], "system")
    assert [file.filename.partition("_")[0] for file in files] == ["base", "make"]
    assert {file.sha256 for file in files} == {f"{0:064x}", f"{1:064x}"}


def test_a_package_that_does_not_exist_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="package sources lack one of absent"):
        updated_apt(tmp_path, ("base", "1", "")).resolve(["absent"], "system")


def test_a_source_that_does_not_answer_is_one_error(tmp_path: Path) -> None:
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{tmp_path}/absent ./\n")
    with pytest.raises(NetworkError, match="apt cannot fetch its lists of packages"):
        Apt(folder=tmp_path / "state", sources=sources).update()
