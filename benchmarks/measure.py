"""Runs a program and measures it: seconds, and the most memory that it and its processes held at once."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A program that ended: its exit code, what it printed, seconds, and memory in bytes (see `memory`)."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int


def measure(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Measured:
    """Run a program to its end in a session of its own."""
    begun = time.monotonic()
    child = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    peaks: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            peaks.append(memory(child.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    stdout, stderr = child.communicate()
    seconds = time.monotonic() - begun
    ended.set()
    watcher.join()
    return Measured(
        code=child.returncode, stdout=stdout, stderr=stderr, seconds=seconds, peak_bytes=max(peaks, default=0)
    )


def memory(session: int) -> int:
    """Return the bytes that the processes of a session hold, shared pages counted once (PSS); see proc(5)."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        # It may end while it is looked at.
        with suppress(OSError, ValueError, IndexError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += _pss((process / "smaps_rollup").read_text())
    return total


def _pss(rollup: str) -> int:
    line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024
