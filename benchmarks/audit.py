"""Times the audit of vLLM 0.20.2's whole CUDA stack, cold and warm, and what one would do without it.

cold   the cache of facts is empty, wheels are in the wheelhouse; the base image is read from its registry too
warm   the facts are there
by hand   unzip every wheel and run `readelf -dVW --dyn-syms` on all that is called *.so*: reading, without a verdict
auditwheel   `auditwheel show` on every wheel for aarch64 Linux that it can read: with --auditwheel PROGRAM

Wheels are fetched first (some gigabytes, once). The result goes to docs/benchmarks-audit.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from agreement.place import Place
from agreement.report import when_and_where
from agreement.stacks import read_stacks
from builder.errors import AuditError, JbuildError
from builder.resolve.locking import lock_cell
from builder.wheels.house import fetch, path_of
from builder.workspace import write_text
from measure import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.resolve.model import Lock
    from measure import Measured

STACK = "vllm-0.20.2-cuda"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-audit.md"
_CHECKOUT = Path(__file__).parents[1]
# What the issue asks for.
_AIMS = {"cold": 30.0, "warm": 1.0}
_READ_ALL = """\
set -eu
for wheel in "$@"; do mkdir -p "$(basename "$wheel")"; unzip -q -o "$wheel" -d "$(basename "$wheel")"; done
find . -type f -name '*.so*' -exec readelf -dVW --dyn-syms {} + >all.txt
"""
_AUDITWHEEL = 'for wheel in "$@"; do "$AUDITWHEEL" show "$wheel" || true; done'


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--auditwheel", metavar="PROGRAM", help="compare with this auditwheel too")
    parser.add_argument("--runs", type=int, default=3, help="of cold and of warm; the best counts (default 3)")
    options = parser.parse_args(arguments)
    stacks = read_stacks()
    place = Place.open(stacks)
    try:
        lock = lock_cell(place.job(next(stack for stack in stacks if stack.name == STACK)), place.session).lock
        fetch(lock.wheels, place.session)
        wheels = [path_of(wheel, place.session.workspace.wheels) for wheel in lock.wheels]
        times = _audits(place, options.runs) | _others(wheels, options.auditwheel, place.folder)
    except JbuildError as error:
        place.session.console.failure(error)
        return error.exit_code
    text = _page(times, lock, wheels)
    place.session.console.result(None, text)
    write_text(PAGE, text + "\n")
    return 0


def _audits(place: Place, runs: int) -> dict[str, Measured]:
    """Audit with a cache of its own that shares the wheelhouse, so that the user's facts stay."""
    best: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=place.folder) as name:
        cache = Path(name)
        for shared in ("wheels", "engine", "uv"):
            (cache / shared).symlink_to(place.session.workspace.cache / shared)
        environment = {"JBUILD_CACHE": str(cache)}
        argv = [sys.executable, "-m", "builder", "audit", STACK, "--json"]
        for _ in range(runs):
            for kind in ("cold", "warm"):
                if kind == "cold":
                    _forget(cache)
                done = measure(argv, cwd=place.project, env=environment)
                if done.code not in (0, AuditError.exit_code):
                    raise JbuildError(f"`jbuild audit` ended with {done.code}", log=done.stderr)
                if kind not in best or done.seconds < best[kind].seconds:
                    best[kind] = done
    return best


def _forget(cache: Path) -> None:
    for entry in cache.iterdir():
        if not entry.is_symlink():
            shutil.rmtree(entry)


def _others(wheels: Sequence[Path], auditwheel: str | None, folder: Path) -> dict[str, Measured]:
    names = [str(wheel) for wheel in wheels]
    measured = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as name:
        measured["by hand"] = measure(["sh", "-c", _READ_ALL, "sh", *names], cwd=Path(name))
    if measured["by hand"].code:
        raise JbuildError("unzip or readelf failed", log=measured["by hand"].stderr)
    if auditwheel:
        binary = [path for path in names if path.endswith("aarch64.whl")]
        program = str(Path(auditwheel).absolute())
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as name:
            argv = ["sh", "-c", _AUDITWHEEL, "sh", *binary]
            environment = {"AUDITWHEEL": program, "TMPDIR": name}
            measured["auditwheel"] = measure(argv, cwd=Path(name), env=environment)
    return measured


def _page(times: dict[str, Measured], lock: Lock, wheels: Sequence[Path]) -> str:
    packed = sum(path.stat().st_size for path in wheels) / 1e9
    cell = json.loads(times["cold"].stdout)
    head = (
        f"`benchmarks/audit`, {when_and_where()}. The CUDA stack of vLLM {lock.versions['vllm']}: "
        f"{len(wheels)} wheels, {packed:.1f} GB packed, {len(cell['findings'])} findings."
    )
    lines = [
        "# How fast the audit is",
        "",
        head,
        "",
        "| what | seconds | peak memory (PSS of all processes) | against the cold audit |",
        "|---|--:|--:|--:|",
    ]
    cold = times["cold"].seconds
    for kind, measured in times.items():
        aim = f" (aim {_AIMS[kind]:g})" if kind in _AIMS else ""
        memory = f"{measured.peak_bytes / 1e6:.0f} MB"
        lines.append(f"| {kind} | {measured.seconds:.1f}{aim} | {memory} | {measured.seconds / cold:.2f} |")
    return "\n".join([*lines, "", *(__doc__ or "").strip().splitlines()[2:-2]])


if __name__ == "__main__":
    sys.exit(main())
