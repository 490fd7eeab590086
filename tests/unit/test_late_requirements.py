"""Build requirements that only a backend knows: which backends are asked, and what the hook in the sandbox answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import builder.foundry
from builder.foundry.late_requirements import may_ask_later

HOOK = Path(builder.foundry.__file__).with_name("inside") / "pep517_hook.py"
BACKEND = """def get_requires_for_build_wheel(config_settings=None):
    return [{answers}]

def build_wheel(directory, config_settings=None, metadata_directory=None):
    raise SystemExit("nothing is built")
"""
OWN = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.mark.parametrize(
    ("pyproject", "setup", "asked"),
    [
        (None, "from setuptools import setup\nsetup()\n", False),
        (None, "setup(setup_requires=['cffi'])\n", True),
        ('build-backend = "setuptools.build_meta"', "setup()", False),
        ('build-backend = "setuptools.build_meta:__legacy__"', "setup(setup_requires=REQUIRES)", True),
        ('build-backend = "setuptools.build_meta"\nbackend-path = ["."]', "setup()", True),
        ('build-backend = "flit_core.buildapi"', None, False),
        ('build-backend = "poetry.core.masonry.api"', None, False),
        ('build-backend = "scikit_build_core.build"', None, True),
        ('build-backend = "mesonpy"', None, True),
    ],
)
def test_only_backends_that_may_add_something_are_asked(
    pyproject: str | None, setup: str | None, asked: bool, tmp_path: Path
) -> None:
    if pyproject:
        (tmp_path / "pyproject.toml").write_text(f"[build-system]\nrequires = []\n{pyproject}\n")
    if setup:
        (tmp_path / "setup.py").write_text(setup)
    assert may_ask_later(tmp_path) is asked


def test_setup_cfg_may_ask_too(tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("[options]\nsetup_requires =\n  cffi\n")
    assert may_ask_later(tmp_path)


def _hook(source: Path, answers: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    source.mkdir()
    (source / "pyproject.toml").write_text(OWN)
    (source / "backend.py").write_text(BACKEND.format(answers=answers))
    argv = [sys.executable, str(HOOK), str(source), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_hook_answers_what_the_sandbox_lacks(tmp_path: Path) -> None:
    answers = (
        "'packaging', 'packaging<2', 'absent-package>=1', "
        "'other-absent; python_version < \"3\"', 'late; python_version > \"3\"'"
    )
    asked = _hook(tmp_path / "source", answers, "--ask", str(tmp_path / "answer.json"))
    assert asked.returncode == 0, asked.stderr
    expected = ["packaging<2", "absent-package>=1", 'late; python_version > "3"']
    assert json.loads((tmp_path / "answer.json").read_text()) == expected


def test_a_build_without_them_names_them(tmp_path: Path) -> None:
    built = _hook(tmp_path / "source", "'absent-package>=1', 'packaging<2'", str(tmp_path), str(tmp_path / "cost"))
    assert built.returncode == 1
    assert "jbuild: the project also needs absent-package>=1, packaging<2 (the lock has " in built.stderr
