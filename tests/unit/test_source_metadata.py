"""What sources state of themselves, without running them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
from sources import make_sdist

from builder.errors import IntegrityError, LockError
from builder.lock.source_metadata import SourceMetadata, complete, of_archive, of_folder, with_recipe
from builder.model.recipes import PackageBuild

if TYPE_CHECKING:
    from pathlib import Path

PYPROJECT = """[project]
name = "ext"
version = "1.0"
requires-python = ">=3.9"
dependencies = ["numpy>=1", "tomli; python_version < '3.11'"]
[project.optional-dependencies]
fast = ["ninja", "jit; python_version > '3.10'"]
"""


def test_pkg_info_of_an_archive(tmp_path: Path) -> None:
    headers = ("Requires-Python: >=3.9", "Provides-Extra: fast", "Dynamic: Requires-Dist")
    path = make_sdist(tmp_path, "ext", headers=headers, requires=("torch", 'ninja; extra == "fast"'))
    stated = of_archive(path)
    assert stated == SourceMetadata(
        version="1.0", requires_python=">=3.9", requires=("torch", 'ninja; extra == "fast"'), extras=("fast",)
    )
    assert stated.text("ext", "1.0").decode().splitlines() == [
        "Metadata-Version: 2.1",
        "Name: ext",
        "Version: 1.0",
        "Requires-Python: >=3.9",
        "Provides-Extra: fast",
        "Requires-Dist: torch",
        'Requires-Dist: ninja; extra == "fast"',
    ]


def test_older_archives_have_their_requirements_beside(tmp_path: Path) -> None:
    text = "torch\neinops>=0.5\n\n[:python_version < '3.11']\ntomli\n\n[dev]\npytest\n\n[dev:os_name == 'posix']\nsh\n"
    path = make_sdist(tmp_path, "ext", files={"ext.egg-info/requires.txt": text})
    assert of_archive(path).requires == (
        "torch",
        "einops>=0.5",
        'tomli; python_version < "3.11"',
        'pytest; extra == "dev"',
        'sh; os_name == "posix" and extra == "dev"',
    )


def test_requirements_that_nobody_can_read_are_left_out(tmp_path: Path) -> None:
    path = make_sdist(tmp_path, "ext", requires=("good", "!! bad"))
    assert of_archive(path).requires == ("good",)


def test_a_zip_archive_and_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "ext-1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ext-1.0/PKG-INFO", "Metadata-Version: 2.2\nName: ext\nVersion: 1.0\nRequires-Dist: torch\n")
    assert of_archive(path).requires == ("torch",)
    for name in ("x-1.0.zip", "x-1.0.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(IntegrityError, match="is not a source archive"):
            of_archive(tmp_path / name)


def test_pyproject_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert of_folder(tmp_path) == SourceMetadata(
        version="1.0",
        requires_python=">=3.9",
        requires=(
            "numpy>=1",
            'tomli; python_version < "3.11"',
            'ninja; extra == "fast"',
            'jit; python_version > "3.10" and extra == "fast"',
        ),
        extras=("fast",),
    )
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "ext"\ndynamic = ["version", "dependencies"]\n')
    assert of_folder(tmp_path) == SourceMetadata()
    (tmp_path / "pyproject.toml").write_text("[project\n")
    with pytest.raises(LockError, match="cannot be read"):
        of_folder(tmp_path)
    (tmp_path / "pyproject.toml").unlink()
    assert of_folder(tmp_path) == SourceMetadata()


def test_the_recipe_states_what_a_source_does_not() -> None:
    build = PackageBuild(name="ext", version="2.0", requires=("numpy",))
    assert with_recipe(SourceMetadata(), None) == SourceMetadata()
    stated = with_recipe(SourceMetadata(requires=("torch",)), build)
    assert (stated.version, stated.requires) == ("2.0", ("numpy",))
    assert complete(stated, "ext", "here") == stated
    with pytest.raises(LockError, match="states no version"):
        complete(SourceMetadata(requires=()), "ext", "here")
    with pytest.raises(LockError, match="states no requirements"):
        complete(SourceMetadata(version="1.0"), "ext", "here")
