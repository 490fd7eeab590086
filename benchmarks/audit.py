"""Audits the CUDA stack of vLLM 0.20.2, cold and warm, and compares the times with those of other tools.

cold        without cached facts about wheels and base image; the wheels are in the wheelhouse
warm        with cached facts
readelf     unzip every wheel, and run `readelf -dVW --dyn-syms` on all files named *.so*: facts without a verdict
auditwheel  with --auditwheel PROGRAM, `auditwheel show` on every wheel for aarch64: a verdict on each wheel alone

The benchmark needs the registry and the base image that scripts/audit-agreement sets up, unzip, and about 20 GB of disk
space. It first fetches the wheels. It writes docs/benchmarks.md.

With --kernels FOLDER, it measures only how long facts, kernels and verdicts of the wheels in a folder take.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sections import CHECKOUT, machine, write_section

sys.path.insert(0, str(CHECKOUT))
sys.path.insert(0, str(CHECKOUT / "scripts"))

from agreement.stack_project import StackProject
from agreement.stacks import read_stacks
from builder.errors import AuditError, JbuildError
from builder.host.files import sha256_of
from builder.host.paths import Workspace
from builder.lock.stage import lock_cell
from builder.remote.wheelhouse import fetch
from measure import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.model.locks import Lock
    from measure import Measured

STACK = "vllm-0.20.2-cuda"
# Folders that the measured audit shares with the user's cache: all except facts.
_SHARED = ("wheels", "engine", "uv")
_READELF = """\
set -eu
for wheel in "$@"; do mkdir -p "$(basename "$wheel")"; unzip -q -o "$wheel" -d "$(basename "$wheel")"; done
find . -type f -name '*.so*' -exec readelf -dVW --dyn-syms {} + >all.txt 2>/dev/null || true
"""
_AUDITWHEEL = 'for wheel in "$@"; do "$AUDITWHEEL" show "$wheel" || true; done'
_READING = {
    "facts": "facts of all wheels",
    "kernels": "kernels of the wheels with families and verdicts for SM 8.7 and 11.0, cached facts",
    "cold": "facts, kernels and verdicts, nothing cached",
    "warm": "the same, cached",
    "all": "kernels of all wheels, those of NVIDIA's libraries too, cached facts",
    "all-warm": "the same, cached",
}
# What is deleted from the cache before a step, what is read then, and the row of its time.
_STEPS = (
    ("facts", "facts", "facts"),
    ("", "families", "kernels"),
    ("facts", "families", "cold"),
    ("", "families", "warm"),
    ("facts/*/*-kernels-*", "all", "all"),
    ("", "all", "all-warm"),
)
_COMMANDS = {
    "cold": "`jbuild audit`, no cached facts about wheels or base image",
    "warm": "`jbuild audit`, cached facts",
    "readelf": "`unzip` of every wheel and `readelf` on its libraries, without a verdict",
    "auditwheel": "`auditwheel show` on every binary wheel, without environment and base image",
}


def main() -> int:
    """Run the benchmark and write its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="number of cold and of warm audits (default 3)")
    parser.add_argument("--auditwheel", metavar="PROGRAM", help="also compare with this auditwheel")
    parser.add_argument("--kernels", metavar="FOLDER", type=Path, help="read the kernels of the wheels of this folder")
    options = parser.parse_args()
    if options.kernels:
        write_section("Kernels", _kernels(options.kernels, options.runs))
        return 0
    stacks = read_stacks()
    project = StackProject.open(stacks)
    try:
        lock = lock_cell(project.job(next(stack for stack in stacks if stack.name == STACK)), project.session).lock
        fetch(lock.wheels, project.session)
        wheels = [project.session.workspace.wheel(wheel.sha256, wheel.filename) for wheel in lock.wheels]
        times = _audits(project, options.runs) | _other_tools(wheels, options.auditwheel, project.folder)
    except JbuildError as error:
        project.session.console.failure(error)
        return error.exit_code
    text = _section(times, lock, wheels)
    project.session.console.result(None, text)
    write_section("Auditing", text)
    return 0


def _audits(project: StackProject, runs: int) -> dict[str, list[Measured]]:
    """Audit with a separate cache that shares the wheelhouse, so that the user's facts stay."""
    measured: dict[str, list[Measured]] = {"cold": [], "warm": []}
    argv = [sys.executable, "-m", "builder", "audit", STACK, "--json"]
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=project.folder) as name:
        cache = Path(name)
        for shared in _SHARED:
            (cache / shared).symlink_to(project.session.workspace.cache / shared)
        for _ in range(runs):
            _delete_facts(cache)
            for kind, results in measured.items():
                done = measure(argv, cwd=project.root, env={"JBUILD_CACHE": str(cache), "PYTHONPATH": path})
                if done.code not in (0, AuditError.exit_code):
                    raise JbuildError(f"the {kind} `jbuild audit` ended with {done.code}", log=done.stderr)
                results.append(done)
    return measured


def _kernels(folder: Path, runs: int) -> str:
    """Measure with a cache of its own, whose wheelhouse has links to the wheels of a folder."""
    with tempfile.TemporaryDirectory(prefix="jbuild-benchmark-") as name:
        cache, wheels = Path(name) / "cache", sorted(folder.glob("*.whl"))
        for wheel in wheels:
            sha256 = sha256_of(wheel)
            place = Workspace(project=Path(name), cache=cache).wheel(sha256, wheel.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(wheel.resolve())
        measured: dict[str, list[Measured]] = {row: [] for row in _READING}
        for _ in range(runs):
            for before, what, row in _STEPS:
                for path in cache.glob(before) if before else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                measured[row].append(_read_kernels(cache, what, Path(name)))
    packed = sum(path.stat().st_size for path in wheels) / 1e9
    return _kernels_section(measured, len(wheels), packed)


def _read_kernels(cache: Path, what: str, folder: Path) -> Measured:
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    argv = [sys.executable, str(CHECKOUT / "benchmarks" / "read_kernels.py"), str(cache), what]
    done = measure(argv, cwd=folder, env={"PYTHONPATH": path})
    if done.code:
        raise JbuildError("the wheels cannot be read", log=done.stderr)
    return done


def _kernels_section(times: dict[str, list[Measured]], wheels: int, packed: float) -> str:
    count = len(times["cold"])
    repeats = "One run." if count == 1 else f"Medians of {count} runs."
    families, everything = (json.loads(times[row][0].stdout) for row in ("cold", "all"))
    lines = [
        f"`.venv/bin/python benchmarks/audit.py --kernels FOLDER`, {machine()}, load average {os.getloadavg()[2]:.1f}.",
        f"{wheels} wheels, {packed:.1f} GB packed, as many as fit in the page cache. {repeats}",
        "Memory is the peak of all processes together (PSS), processor time that of all of them.",
        f"{families['with_code']} wheels have GPU code, and {families['read']} of them libraries of a family: their",
        f"{families['libraries']} libraries have {families['modules']} modules with {families['kernels']} kernels, and",
        f"{families['cache_bytes'] / 1e6:.1f} MB in the cache. All {everything['read']} wheels have",
        f"{everything['modules']} modules with {everything['kernels']} kernels; the cache has",
        f"{everything['cache_bytes'] / 1e6:.1f} MB of them.",
        "",
        "| reading | seconds | processor seconds | peak MB |",
        "|---|--:|--:|--:|",
    ]
    for row, runs in times.items():
        seconds, processor = (
            statistics.median(getattr(run, key) for run in runs) for key in ("seconds", "cpu_seconds")
        )
        peak = max(run.peak_bytes for run in runs) / 1e6
        lines.append(f"| {_READING[row]} | {seconds:.1f} | {processor:.1f} | {peak:.0f} |")
    return "\n".join(lines)


def _delete_facts(cache: Path) -> None:
    for entry in cache.iterdir():
        if not entry.is_symlink():
            shutil.rmtree(entry)


def _other_tools(wheels: Sequence[Path], auditwheel: str | None, folder: Path) -> dict[str, list[Measured]]:
    names = [str(wheel) for wheel in wheels]
    measured = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as name:
        measured["readelf"] = [measure(["sh", "-c", _READELF, "sh", *names], cwd=Path(name))]
    if measured["readelf"][0].code:
        raise JbuildError("the wheels cannot be unzipped", log=measured["readelf"][0].stderr)
    if auditwheel:
        binary = [path for path in names if path.endswith("aarch64.whl")]
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=folder) as name:
            environment = {"AUDITWHEEL": str(Path(auditwheel).absolute()), "TMPDIR": name}
            measured["auditwheel"] = [
                measure(["sh", "-c", _AUDITWHEEL, "sh", *binary], cwd=Path(name), env=environment)
            ]
    return measured


def _section(times: dict[str, list[Measured]], lock: Lock, wheels: Sequence[Path]) -> str:
    packed = sum(path.stat().st_size for path in wheels) / 1e9
    audit = json.loads(times["cold"][0].stdout)
    cold = statistics.median(run.seconds for run in times["cold"])
    lines = [
        f"`.venv/bin/python benchmarks/audit.py`, {machine()}, load average {os.getloadavg()[2]:.1f}.",
        f"The CUDA stack of vLLM {lock.versions['vllm']}: {len(wheels)} wheels, {packed:.1f} GB packed. Medians of",
        f"{len(times['cold'])} runs, with as many wheels in the page cache as fit. Memory is the peak of all",
        f"processes together (PSS). The audit has {len(audit['findings'])} findings.",
        "",
        "| command | seconds | ratio to cold | peak MB |",
        "|---|--:|--:|--:|",
    ]
    for kind, runs in times.items():
        seconds = statistics.median(run.seconds for run in runs)
        peak = max(run.peak_bytes for run in runs) / 1e6
        lines.append(f"| {_COMMANDS[kind]} | {seconds:.1f} | {seconds / cold:.2f} | {peak:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
