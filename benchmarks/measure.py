"""Runs a program and measures its time and the peak memory of all its processes together."""

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
    from collections.abc import Iterator, Mapping, Sequence

_EVERY_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The result of a program: its exit code, output, seconds, and peak memory in bytes (see `memory`).

    `cpu_seconds` is the processor time of all its processes, to within a tenth of a second each.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def installed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python keeps the bytecode of jbuild's own modules, as an installation has it."""
    return {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measure(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Measured:
    """Run a program to its end in a separate session."""
    start = time.monotonic()
    child = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=installed({**os.environ, **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    peaks: list[int] = []
    processors: dict[int, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            peaks.append(memory(child.pid))
            processors.update(processor_times(child.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    stdout, stderr = child.communicate()
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    return Measured(
        code=child.returncode,
        stdout=stdout,
        stderr=stderr,
        seconds=seconds,
        cpu_seconds=sum(processors.values()),
        peak_bytes=max(peaks, default=0),
    )


def processor_times(session: int) -> dict[int, float]:
    """Return the processor time so far of each process of a session, in seconds."""
    times = {}
    for process, fields in _processes(session):
        times[int(process.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return times


def _processes(session: int) -> Iterator[tuple[Path, list[str]]]:
    """Yield the processes of a session with the fields of their `stat` from the state on."""
    for process in Path("/proc").glob("[0-9]*"):
        # The process may end before its files are read.
        with suppress(OSError, ValueError, IndexError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield process, fields


def memory(session: int) -> int:
    """Return the memory of a session's processes in bytes; shared pages count once (PSS, see proc(5))."""
    total = 0
    for process, _ in _processes(session):
        with suppress(OSError, StopIteration):
            total += _pss((process / "smaps_rollup").read_text())
    return total


def _pss(rollup: str) -> int:
    row = next(row for row in rollup.splitlines() if row.startswith("Pss:"))
    return int(row.split()[1]) * 1024
