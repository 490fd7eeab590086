"""Which interpreter of this machine compiles: the pinned release where there is one."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import pytest

from builder.host import interpreters
from builder.host.interpreters import Compiler, find_compiler

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
OWN = Compiler(path=sys.executable, version=platform.python_version())


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which programs are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    interpreters._inspect.cache_clear()
    return folder


def put(path: Path, answer: str) -> str:
    """Write a program that answers as an interpreter does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


def test_jbuilds_own_interpreter_comes_first(tmp_path: Path) -> None:
    assert find_compiler(PYTHON, None, tmp_path) == OWN
    assert find_compiler(PYTHON, OWN.version, tmp_path) == OWN


def test_one_that_lies_about_its_version_is_not_taken(programs: Path, tmp_path: Path) -> None:
    put(programs / "python9.9", "exit 127")
    put(programs / "python3", "echo PyPy 9.9.1")
    assert find_compiler("9.9", None, tmp_path) is None
    put(programs / "python9.9", "echo CPython 9.8.1")
    interpreters._inspect.cache_clear()
    assert find_compiler("9.9", None, tmp_path) is None
    path = put(programs / "python9.9", "echo CPython 9.9.1")
    interpreters._inspect.cache_clear()
    assert find_compiler("9.9", None, tmp_path) == Compiler(path=path, version="9.9.1")


def test_the_pinned_release_comes_before_others(programs: Path, tmp_path: Path) -> None:
    first, second = (
        put(programs / "python9.9", "echo CPython 9.9.1"),
        put(programs / "python3", "echo CPython 9.9.2"),
    )
    assert find_compiler("9.9", "9.9.2", tmp_path) == Compiler(path=second, version="9.9.2")
    assert find_compiler("9.9", "9.9.1", tmp_path) == Compiler(path=first, version="9.9.1")


def test_without_the_pinned_release_another_is_found(programs: Path, tmp_path: Path) -> None:
    path = put(programs / "python9.9", "echo CPython 9.9.1")
    assert find_compiler("9.9", "9.9.7", tmp_path) == Compiler(path=path, version="9.9.1")
    assert find_compiler("9.8", "9.8.7", tmp_path) is None


def test_what_uv_fetched_is_found(programs: Path, tmp_path: Path) -> None:
    """uv asks an interpreter a great deal: the one of the tests stands in its folder under its own release."""
    folder = tmp_path / "fetched" / f"cpython-{OWN.version}-linux-x86_64-gnu" / "bin"
    folder.mkdir(parents=True)
    (folder / f"python{PYTHON}").symlink_to(sys.executable)
    found = interpreters._by_uv(OWN.version, tmp_path / "fetched")
    assert found is not None
    assert found.version == OWN.version


def test_a_version_that_is_a_prefix_of_another_is_not_that_one(programs: Path, tmp_path: Path) -> None:
    put(programs / "python9.9", "echo CPython 9.99.1")
    assert find_compiler("9.9", None, tmp_path) is None
