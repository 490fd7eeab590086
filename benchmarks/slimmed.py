"""Compares the build of a cell with all GPU code and the build without the code for other GPUs, NVIDIA's included.

Wheels, facts and the system layer are in the cache; packed layers are not. The runs alternate.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from measure import measure
from sections import CHECKOUT, machine

sys.path.insert(0, str(CHECKOUT))

from builder.host import records
from builder.host.paths import Workspace, cache_folder
from builder.model.images import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from measure import Measured

# Folders that the measured builds share with the user's cache, and those that a cold build makes anew.
_SHARED = ("engine", "facts", "interpreters", "metadata", "models", "stand-in", "systems", "tools", "uv", "wheels")
_COLD = ("packed", "images")
VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {"slim": False, "slim-packages": {"*": False}},
    "slimmed": {"slim": True, "slim-packages": {"*": True}},
}
# A recipe with the same system layer, and almost no wheels.
_SYSTEM = "system"
_NAMES = {"whole": "all GPU code", "slimmed": "slimmed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Builds:
    """Cold builds and builds with warm caches by variant, in the order of the runs, and the bytes of each image."""

    cold: dict[str, list[Measured]]
    warm: dict[str, list[Measured]]
    bytes: dict[str, int]
    cell: str


def compare(recipe: Path, cell: str, runs: int, folder: Path | None) -> str:
    """Return the text of the section; `folder` is where each run packs layers."""
    with tempfile.TemporaryDirectory(prefix="jbuild-bench-", dir=folder) as name:
        workspace = Workspace(project=Path(name) / "project", cache=Path(name) / "cache")
        _prepare(workspace, recipe)
        return _section(recipe, _build_all(workspace, cell, runs), runs)


def _prepare(workspace: Workspace, recipe: Path) -> None:
    """Write both variants of a recipe, with the settings of the current project, and a cache that shares the user's."""
    for folder in (workspace.project / "recipes", workspace.cache):
        folder.mkdir(parents=True)
    for settings in ("jbuild.toml", "jbuild.local.toml"):
        if Path(settings).is_file():
            shutil.copy(settings, workspace.project)
    document = tomllib.loads(recipe.read_text(encoding="utf-8"))
    image = document.get("image", {})
    recipes = {variant: {"image": {**image, **changes}} for variant, changes in VARIANTS.items()}
    recipes[_SYSTEM] = {"packages": {"requires": ["six"]}}
    for variant, changes in recipes.items():
        text = tomli_w.dumps({**document, **changes})
        (workspace.project / "recipes" / f"{variant}.toml").write_text(text, encoding="utf-8")
    for name in _SHARED:
        (workspace.cache / name).symlink_to(cache_folder() / name)


def _build_all(workspace: Workspace, cell: str, runs: int) -> Builds:
    builds = Builds(cold={v: [] for v in VARIANTS}, warm={v: [] for v in VARIANTS}, bytes={}, cell=cell)
    for variant in VARIANTS:
        _jbuild(workspace, "lock", variant, cell)
    # The engine makes the system layer here, which is the same for both.
    _jbuild(workspace, "build", _SYSTEM, cell)
    for run in range(runs):
        for variant in list(VARIANTS)[:: 1 if run % 2 else -1]:
            _cold(workspace)
            builds.cold[variant].append(_jbuild(workspace, "build", variant, cell))
            builds.bytes[variant] = _image_bytes(workspace, variant)
            shutil.rmtree(workspace.project / "build")
            builds.warm[variant].append(_jbuild(workspace, "build", variant, cell))
    return builds


def _cold(workspace: Workspace) -> None:
    for folder in (workspace.project / "build", *(workspace.cache / name for name in _COLD)):
        shutil.rmtree(folder, ignore_errors=True)


def _jbuild(workspace: Workspace, verb: str, variant: str, cell: str) -> Measured:
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    environment = {"JBUILD_CACHE": str(workspace.cache), "PYTHONPATH": path}
    argv = [sys.executable, "-m", "builder", verb, variant, "--cell", cell]
    measured = measure(argv, cwd=workspace.project, env=environment)
    if measured.code:
        raise SystemExit(f"{' '.join(argv)} ended with {measured.code}:\n{measured.stdout}\n{measured.stderr}")
    print(f"{verb} {variant}: {measured.seconds:.1f} s, {measured.cpu_seconds:.1f} s of processors", flush=True)
    return measured


def _image_bytes(workspace: Workspace, variant: str) -> int:
    (path,) = (workspace.project / "build" / variant).glob("*/build.json")
    image = records.read(path, None, Image)
    if image is None:
        raise SystemExit(f"{path} is not a record of an image")
    return image.size


def _section(recipe: Path, builds: Builds, runs: int) -> str:
    command = f"`.venv/bin/python benchmarks/build.py --slim recipes/{recipe.name} --cell {builds.cell} --runs {runs}`"
    whole, slimmed = (_medians(builds.cold[variant]) for variant in VARIANTS)
    time, processors = (after / before for before, after in zip(whole, slimmed, strict=True))
    return "\n".join(
        (
            f"{command}, {machine()}, load average {os.getloadavg()[2]:.1f}.",
            "NVIDIA's wheels are slimmed, too. Wheels, facts and the system layer are in the cache. A cold build",
            "packs all layers; with warm caches, only the cell's folder is made again.",
            f"Medians of {runs}, alternating. Processor time is that of jbuild's processes, without the engine; memory",
            "is the peak of all processes together (PSS). The machine has other users: processor time says more.",
            "",
            "| build | seconds | processor seconds | peak MB | image |",
            "|---|--:|--:|--:|--:|",
            *_rows(builds),
            "",
            f"Slimmed to whole, cold: {time:.2f} of the time, {processors:.2f} of the processor time (aim: ≤ 1.3).",
        )
    )


def _rows(builds: Builds) -> Iterator[str]:
    for kind, measured in (("cold", builds.cold), ("warm caches", builds.warm)):
        for variant, rows in measured.items():
            seconds, processors = _medians(rows)
            peak = max(row.peak_bytes for row in rows) / 1e6
            size = f"{builds.bytes[variant] / 1e9:.2f} GB"
            yield f"| {_NAMES[variant]}, {kind} | {seconds:.1f} | {processors:.1f} | {peak:.0f} | {size} |"


def _medians(rows: Sequence[Measured]) -> tuple[float, float]:
    """Return the median of the seconds, and of the processor seconds."""
    return statistics.median(row.seconds for row in rows), statistics.median(row.cpu_seconds for row in rows)
