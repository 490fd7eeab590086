"""`scripts/stand-in` makes nothing unless it is told what."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "stand-in"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "JBUILD_CACHE": str(folder / "cache")}
    argv = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_without_a_word_it_shows_its_help(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: scripts/stand-in model [FOLDER]\n")
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_it_does_not_know(tmp_path: Path) -> None:
    done = run(tmp_path, "modell")
    assert done.returncode != 0
    assert "there is no stand-in `modell`" in done.stderr
    assert list(tmp_path.iterdir()) == []
