"""Locks, fetches and verifies the models of a recipe's cells, without their wheels, each model once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.errors import LockError, OldLockError
from builder.host import records
from builder.host.concurrency import map_with_progress
from builder.host.files import disk_errors
from builder.lock import lockfile
from builder.models import model_pins, model_store
from builder.models.fetch import fetch_model
from builder.models.model_lock import lock_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.host.concurrency import Progress
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.model_files import LockedModel, ModelFile


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedModel:
    """A locked model and the cells that use it."""

    model: LockedModel
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A used model's missing and damaged files in the store."""

    used: UsedModel
    missing: tuple[str, ...]
    damaged: tuple[str, ...]


def lock_models(jobs: Sequence[Job], every: Sequence[Job], session: Session) -> tuple[UsedModel, ...]:
    """Lock the models of these cells in the recipe's model lock; `every` are all possible cells.

    Each model is looked up once, for all cells that use it. Models of other cells only stay as they were.

    Raises:
        ModelError, NetworkError, IntegrityError, RegistryError: a model cannot be fetched or is not valid.
        LockError: the model lock is damaged.
    """
    recipe, workspace = jobs[0].recipe, session.workspace
    path = workspace.model_lock(recipe.name)
    with workspace.file_lock(f"models-{records.fingerprint(str(path))[:16]}"):
        models = {model_pins.reference_of(model): model for job in jobs for model in job.spec.models}
        other_models = {model_pins.reference_of(model) for job in every for model in job.spec.models} - set(models)
        old_pins = [pin for pin in model_pins.read(path) if pin.reference in other_models]
        new_pins = [
            model_pins.Pin(reference=reference, model=lock_model(model, recipe.path.parent, session))
            for reference, model in models.items()
        ]
        model_pins.write(path, [*old_pins, *new_pins])
    references = {job.cell.id: {*map(model_pins.reference_of, job.spec.models)} for job in jobs}
    return tuple(
        UsedModel(model=pin.model, cells=tuple(cell for cell, used in references.items() if pin.reference in used))
        for pin in new_pins
    )


def used_models(jobs: Iterable[Job], session: Session) -> tuple[UsedModel, ...]:
    """Return the locked models of cells, from their locks or the recipe's model lock, without duplicates.

    Raises:
        LockError: a cell's models are not locked, or a lock is damaged.
    """
    models_by_key: dict[str, tuple[LockedModel, list[str]]] = {}
    for job in jobs:
        models = locked_models(job, session)
        if models is None:
            recipe = job.recipe.name
            hint = f"run `jbuild models lock {recipe}`, or `jbuild lock {recipe}` for the wheels too"
            raise LockError(f"{job.cell.id}: its models are not locked", where=str(job.recipe.path), hint=hint)
        for model in models:
            models_by_key.setdefault(records.fingerprint(model), (model, []))[1].append(job.cell.id)
    return tuple(UsedModel(model=model, cells=tuple(cells)) for model, cells in models_by_key.values())


def locked_models(job: Job, session: Session) -> tuple[LockedModel, ...] | None:
    """Return the locked models of a cell, or None if some are not locked.

    Raises:
        LockError: a lock is damaged.
    """
    recipe, workspace = job.recipe.name, session.workspace
    with suppress(OldLockError):
        lock = lockfile.read(workspace.lock(recipe, job.cell.id), recipe=recipe, cell=job.cell.id)
        if lock:
            return lock.models
    pinned = [model_pins.find(workspace.model_lock(recipe), model) for model in job.spec.models]
    models = tuple(model for model in pinned if model)
    return models if len(models) == len(pinned) else None


def fetch_models(used: Sequence[UsedModel], recipe_folder: Path, session: Session) -> None:
    """Fetch the missing files of models into the store.

    Raises:
        ModelError, NetworkError, IntegrityError, RegistryError, DiskError: a file cannot be fetched or stored.
    """
    for use in used:
        fetch_model(use.model, recipe_folder, session)


def verify_models(used: Sequence[UsedModel], session: Session) -> tuple[Verified, ...]:
    """Compare every file of models in the store with its lock, and remove damaged files.

    Raises:
        DiskError: the store cannot be read or written.
    """
    models = session.workspace.models
    files = {file.sha256: file for use in used for file in use.model.files}
    total = sum(file.size for file in files.values())
    with disk_errors(models), session.console.task("verifying models", total) as task:
        largest_first = sorted(files.values(), key=lambda file: (-file.size, file.sha256))
        states = map_with_progress(lambda file, progress: _state(file, models, progress), largest_first, task.advance)
    by_hash = {file.sha256: state for file, state in zip(largest_first, states, strict=True)}
    return tuple(
        Verified(
            used=use,
            missing=tuple(file.path for file in use.model.files if by_hash[file.sha256] == "missing"),
            damaged=tuple(file.path for file in use.model.files if by_hash[file.sha256] == "damaged"),
        )
        for use in used
    )


def _state(file: ModelFile, models: Path, progress: Progress) -> Literal["whole", "missing", "damaged"]:
    path = model_store.blob(models, file.sha256)
    if not path.is_file():
        return "missing"
    with model_store.partial(models, file.sha256, progress.token.check), path.open("rb") as content:
        if model_store.digest_of(content, progress.advance).hexdigest() == file.sha256:
            return "whole"
        path.unlink()
        return "damaged"
