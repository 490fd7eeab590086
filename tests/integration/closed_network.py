"""A closed network on this machine: a network namespace with loopback and no route, and an engine inside it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from second_engine import SecondEngine, can_run, running_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAMS = ("unshare", "nsenter", "ip")


@dataclass(frozen=True, kw_only=True)
class ClosedNetwork:
    """The network: the process that has it open, and its engine."""

    process: int
    engine: SecondEngine

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that runs inside."""
        return _inside(self.process)

    def routes(self) -> str:
        """Return the routes of the network."""
        argv = [*self.prefix, "ip", "route", "show", "table", "main"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def reason_against() -> str | None:
    """Return why this user cannot make a closed network, or None."""
    if not can_run():
        return "a closed network needs root and dockerd"
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        return f"a closed network needs {', '.join(missing)}"
    done = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True)
    return "the kernel allows no network namespace" if done.returncode else None


@contextmanager
def closed_network() -> Iterator[ClosedNetwork]:
    """Make a closed network with an engine, and end both."""
    script = "ip link set lo up && echo up && exec cat"
    # It ends with whoever started it, however that ends.
    argv = ["setpriv", "--pdeathsig", "TERM", "unshare", "--net", "sh", "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "up\n"
            assert Path(f"/proc/{process.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
            with running_engine(prefix=_inside(process.pid)) as engine:
                yield ClosedNetwork(process=process.pid, engine=engine)
        finally:
            process.terminate()


def _inside(process: int) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{process}/ns/net")
