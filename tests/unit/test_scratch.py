"""Folders for a while, and what is left of those whose owners were killed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from builder.host import file_locks as module
from builder.host.file_locks import abandoned, scratch

if TYPE_CHECKING:
    import pytest

HOLDER = """
import pathlib, sys, time
from builder.host.file_locks import scratch
with scratch(pathlib.Path(sys.argv[1])) as folder:
    (folder / "cache").mkdir()
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    checkout = Path(module.__file__).parents[1]
    with subprocess.Popen(argv, cwd=checkout, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        assert abandoned(tmp_path) == [], "its owner lives"
        holder.kill()
    assert (left / "cache").is_dir()
    assert abandoned(tmp_path) == [left]
    with scratch(tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert list(tmp_path.iterdir()) == []


def test_one_of_an_older_jbuild_goes_when_nobody_has_locked_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "scratch-abc"
    left.mkdir()
    (left / "held").touch()
    assert abandoned(tmp_path) == [], "it may just have been made"
    monkeypatch.setattr(module, "_SOON_S", 0.0)
    with (left / "held").open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        assert abandoned(tmp_path) == [], "its owner lives"
    assert abandoned(tmp_path) == [left]


def test_what_an_older_jbuild_left_goes_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch-abc" / "project").mkdir(parents=True)
    (tmp_path / "scratch-me").write_text("no folder of ours")
    assert abandoned(tmp_path) == []
    monkeypatch.setattr(module, "_LONG_S", 0.0)
    assert [path.name for path in abandoned(tmp_path)] == ["scratch-abc"]
