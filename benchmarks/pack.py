"""Packs the wheels of a lock with more and more processors, and compares the times.

Wheels are in the wheelhouse of the cache; nothing is packed yet. jbuild compiles bytecode with the Python that the lock
names. The wheels that the cache lacks are fetched first.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from measure import measure
from sections import CHECKOUT, machine, write_section

sys.path.insert(0, str(CHECKOUT))

from builder.host.config import Config
from builder.host.console import Console
from builder.host.interpreters import find_compiler
from builder.host.paths import Workspace, cache_folder
from builder.host.session import Session
from builder.image.layers.layer import WheelsLayer
from builder.image.layers.layer_groups import wheel_layers
from builder.image.layers.pack_layers import pack_layers
from builder.image.wheels.wheel_entries import variant
from builder.lock import lockfile
from builder.remote.wheelhouse import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measure import Measured

_SHARED = ("interpreters", "metadata", "wheels")


def main() -> int:
    """Measure each number of processors, and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lock", type=Path, help="a lock file of a cell")
    parser.add_argument("--processors", help="numbers with commas (default: all, and halves down to 2)")
    parser.add_argument("--levels", default="4", help="levels of zstd, with commas (default: 4)")
    parser.add_argument("--once", type=int, metavar="LEVEL", help=argparse.SUPPRESS)
    parser.add_argument("--largest", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once is not None:
        _pack(options.lock, options.once, only_largest=options.largest)
        return 0
    numbers = [int(number) for number in options.processors.split(",")] if options.processors else _halves()
    levels = [int(level) for level in options.levels.split(",")]
    fetch(lockfile.read_file(options.lock).wheels, _session(cache_folder(), levels[0]))
    rows = {(number, level): _measured(options.lock, number, level) for level in levels for number in numbers}
    alone_s = _measured(options.lock, max(numbers), levels[0], "--largest").seconds
    write_section("Packing", _section(options.lock, rows, numbers, levels, alone_s))
    return 0


def _halves() -> list[int]:
    found = [os.cpu_count() or 1]
    while found[-1] > 2:  # noqa: PLR2004  # the least processors of a runner
        found.append(found[-1] // 2)
    return found


def _measured(lock: Path, processors: int, level: int, *options: str) -> Measured:
    with tempfile.TemporaryDirectory(prefix="jbuild-bench-") as name:
        for shared in _SHARED:
            if (cache_folder() / shared).is_dir():
                Path(name, shared).symlink_to(cache_folder() / shared)
        only = ["taskset", "--cpu-list", f"0-{processors - 1}"]
        argv = [*only, sys.executable, __file__, str(lock.resolve()), "--once", str(level), *options]
        path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        before = _children_seconds()
        done = measure(argv, cwd=Path(name), env={"JBUILD_CACHE": name, "PYTHONPATH": path})
    if done.code:
        raise SystemExit(f"{' '.join(argv)} ended with {done.code}:\n{done.stdout}\n{done.stderr}")
    print(f"{processors} processors, level {level} {' '.join(options)}: {done.seconds:.1f} s", flush=True)
    # Each batch of sources is compiled by a process too short for `measure` to see.
    return replace(done, cpu_seconds=_children_seconds() - before)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pack(path: Path, level: int, *, only_largest: bool) -> None:
    """Pack the wheels of a lock, or its largest layer, as a build does, on the processors that this process may use."""
    available = len(os.sched_getaffinity(0))
    # Python before 3.13 counts those of the machine.
    os.cpu_count = lambda: available
    lock, session = lockfile.read_file(path), _session(Path(os.environ["JBUILD_CACHE"]), level)
    python = lock.platform.python
    compiler = find_compiler(python, lock.compiler, session.workspace.interpreters)
    groups = wheel_layers(lock.wheels, variant(python, compiler), models=0, slimmed={})
    layers = [
        WheelsLayer(name=group.name, wheels=group.wheels, python=python, session=session, slim={}, compiled={})
        for group in groups
    ]
    if only_largest:
        layers = [max(layers, key=lambda layer: layer.size)]
    packed = pack_layers(layers, compiler, "benchmark", session)
    shutil.rmtree(session.workspace.images, ignore_errors=True)
    print(sum(layer.blob.size for layer in packed))


def _session(cache: Path, level: int) -> Session:
    return Session(
        workspace=Workspace(project=Path.cwd(), cache=cache), config=Config(compression_level=level), console=Console()
    )


def _section(
    lock: Path,
    rows: dict[tuple[int, int], Measured],
    numbers: Sequence[int],
    levels: Sequence[int],
    alone_s: float,
) -> str:
    wheels = lockfile.read_file(lock).wheels
    size = sum(wheel.size or 0 for wheel in wheels) / 1e6
    lines = [
        f"`.venv/bin/python benchmarks/pack.py {lock.name}`, {machine()}, load average {os.getloadavg()[0]:.1f}.",
        f"{len(wheels)} wheels of {size:.0f} MB become layers with bytecode: one run each. Memory is the peak of all",
        "processes together (PSS).",
        "",
        "| level of zstd | processors | seconds | processor seconds | peak MB | layers | times as fast |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for level in levels:
        slowest = rows[min(numbers), level].seconds
        for number in numbers:
            done = rows[number, level]
            packed = int(done.stdout.split()[0]) / 1e6
            cells = (
                f"{done.seconds:.1f}",
                f"{done.cpu_seconds:.1f}",
                f"{done.peak_bytes / 1e6:.0f}",
                f"{packed:.0f} MB",
            )
            lines.append(f"| {level} | {number} | {' | '.join(cells)} | {slowest / done.seconds:.1f} |")
    bound = (
        f"The largest layer alone takes {alone_s:.1f} s on {max(numbers)} processors. One thread reads the wheels of a",
        "layer and writes its stream; beside those of the other layers, it waits for Python's interpreter lock.",
    )
    return "\n".join([*lines, "", *bound])


if __name__ == "__main__":
    sys.exit(main())
