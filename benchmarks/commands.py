"""Measures what users wait for without a server or an engine: completions, large matrices and wheels of many files."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from measure import measure
from sections import CHECKOUT, machine, write_section

sys.path.insert(0, str(CHECKOUT))

from builder.audit.wheel_reader import listing
from builder.recipe.load import load
from builder.recipe.matrix import expand

if TYPE_CHECKING:
    from collections.abc import Callable

_FILES = 5000
_RECIPE = """
description = "Many cells for a benchmark"
[matrix]
vllm = [{vllm}]
l4t = ["36.4.0", "36.4.4"]
python = ["3.10", "3.12"]
x = [{x}]
[packages]
requires = ["vllm=={{vllm}}"]
[[models]]
name = "tiny"
source = "../models/tiny"
licence = "Apache-2.0"
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
    parser.add_argument("--runs", type=int, default=7, help="number of runs of each case (default 7)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="jbuild-bench-") as name:
        folder = Path(name)
        recipe, wheel = _recipe(folder), _wheel(folder)
        cases: dict[str, Callable[[], object]] = {
            "complete the name of a verb": lambda: _complete(folder, "jbuild ma"),
            "complete the name of one of 10,000 cells": lambda: _complete(folder, "jbuild recipe many --cell 0.1"),
            "expand a matrix of 10,000 cells": lambda: expand(load(recipe)),
            "list the files of a wheel with 5,000": lambda: listing(wheel),
        }
        rows = [f"| {case} | {_median(work, runs):.2f} |" for case, work in cases.items()]
    head = (f"`.venv/bin/python benchmarks/commands.py`, {machine()}.", f"Medians of {runs} runs.", "")
    text = "\n".join((*head, "| case | seconds |", "|---|--:|", *rows))
    print(text)
    write_section("Short commands", text)
    return 0


def _median(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.monotonic()
        work()
        times.append(time.monotonic() - start)
    return statistics.median(times)


def _complete(project: Path, words: str) -> None:
    variables = {"COMP_WORDS": "\n".join(words.split()), "COMP_CWORD": str(len(words.split()) - 1)}
    environment = {**os.environ, **variables, "_JBUILD_COMPLETE": "bash_complete", "PYTHONPATH": str(CHECKOUT)}
    done = measure([sys.executable, "-m", "builder"], cwd=project, env=environment)
    if done.code or not done.stdout:
        raise SystemExit(f"commands: no completion of `{words}`: {done.stderr}")


def _recipe(project: Path) -> Path:
    path = project / "recipes" / "many.toml"
    path.parent.mkdir()
    vllm = ", ".join(f'"0.{n}.{m}"' for n in range(10) for m in range(10))
    axis = ", ".join(f'"{letter}"' for letter in "abcdefghijklmnopqrstuvwxy")
    path.write_text(_RECIPE.format(vllm=vllm, x=axis), encoding="utf-8")
    return path


def _wheel(folder: Path) -> Path:
    path = folder / "many-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(_FILES):
            file.writestr(f"many/{number}", b"")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
