"""Locks a cell, or finds that its lock is still right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import records
from builder.errors import LockError, ModelError, OldLockError
from builder.jetson import advisories
from builder.models import pins
from builder.models.lock import quick_state
from builder.models.places import FolderPlace, locate
from builder.resolve import lockfile
from builder.resolve.advised import situation_of
from builder.resolve.making import inputs_of, lock_one, make
from builder.resolve.sources import ties_of

if TYPE_CHECKING:
    from pathlib import Path

    from builder.models.model import LockedModel
    from builder.recipe.model import Model
    from builder.resolve.changes import Change
    from builder.resolve.model import Job, Lock
    from builder.session import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """How to lock: `locked_only` makes a missing or stale lock an error; `force` solves as if there were none.

    `upgrade` are packages whose locked versions are not kept, `*` for all. `fetching` says that what is locked will be
    fetched next, so that models in folders need not be read twice.
    """

    locked_only: bool = False
    force: bool = False
    upgrade: tuple[str, ...] = ()
    fetching: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """A cell's lock, whether it was made just now, and what is different from the one before."""

    lock: Lock
    made: bool
    changes: tuple[Change, ...] = ()


def current_lock(job: Job, session: Session) -> Lock | None:
    """Return the cell's lock if it is there and its inputs are unchanged.

    Raises:
        LockError: the lock is damaged.
        RecipeError: the recipe names an index that is not known.
    """
    found, why = _state(session.workspace.lock(job.recipe.name, job.cell.id), job, session, Wish())
    return None if why else found


def lock_cell(job: Job, session: Session, wish: Wish | None = None) -> Locked:
    """Return the cell's lock, made just now if need be.

    A lock whose inputs changed is stale: it is made anew, keeping the versions that still fit, and said so.

    Raises:
        LockError, NetworkError, IntegrityError, ModelError, RegistryError: the cell cannot be locked.
    """
    wish = wish or Wish()
    path = session.workspace.lock(job.recipe.name, job.cell.id)
    with session.workspace.file_lock(f"lock-{records.fingerprint(str(path))[:16]}"):
        found, why = (None, None) if wish.force else _state(path, job, session, wish)
        if found and not why and not wish.upgrade:
            return Locked(lock=found, made=False)
        if wish.locked_only:
            problem = f"the lock is stale: {why}" if why else "there is no lock"
            raise LockError(problem, where=str(path), hint=_relock(job))
        if why:
            session.console.say(f"{job.cell.id}: the lock is stale ({why}); locking anew")
        before = None if wish.force else found
        upgrade = ("*",) if wish.force else wish.upgrade
        lock, changes = make(job, session, before=before, upgrade=upgrade, fetching=wish.fetching)
        return Locked(lock=lock, made=True, changes=changes)


def _relock(job: Job) -> str:
    return f"run `jbuild lock {job.recipe.name} --cell {job.cell.id}`"


def _state(path: Path, job: Job, session: Session, wish: Wish) -> tuple[Lock | None, str | None]:
    """Return the lock, if one can be read, and why it is stale, if it is."""
    try:
        found = lockfile.read(path, recipe=job.recipe.name, cell=job.cell.id)
    except OldLockError as error:
        return lockfile.read_old(path), error.message
    return found, _stale(found, job, session, wish) if found else None


def _stale(found: Lock, job: Job, session: Session, wish: Wish) -> str | None:
    if found.inputs != inputs_of(job, session.config):
        return _moved(found, job, session) or "the recipe or its platform changed"
    against = advisories.broken(situation_of(job, found.wheels), job.spec.ignored_advisories)
    if against:
        return f"advisory {against[0].id} speaks against it: {against[0].symptom}"
    for locked, model in zip(found.models, job.spec.models, strict=True):
        # A folder can change under its name; a hub's revision cannot.
        if locked.origin == "folder" and _model_changed(locked, model, job, session, wish):
            return f"the files of model {locked.name} changed"
        if locked.origin != "folder" and _pinned_otherwise(locked, model, job, session):
            return f"the recipe's model lock has another {locked.name}"
    return None


def _moved(found: Lock, job: Job, session: Session) -> str | None:
    ties = ties_of(job, session.config)
    for wheel in found.wheels:
        tie = ties.of(wheel.name)
        if wheel.index != (tie.index if tie else None):
            return f"{wheel.name} comes from {tie.index if tie else 'the default index'} now"
    return None


def _pinned_otherwise(locked: LockedModel, model: Model, job: Job, session: Session) -> bool:
    pinned = pins.find(session.workspace.model_lock(job.recipe.name), model)
    return pinned is not None and pinned.origin != "folder" and pinned != locked


def _has_files(model: Model, job: Job, session: Session) -> bool:
    """Tell whether a model's folder holds anything: one that is not on this machine at all is no mistake."""
    try:
        place = locate(model.source, job.recipe.path.parent, session.config)
        return isinstance(place, FolderPlace) and any(place.path.iterdir())
    except (ModelError, OSError):
        return False


def _model_changed(locked: LockedModel, model: Model, job: Job, session: Session, wish: Wish) -> bool:
    """Compare a model's folder with its lock, by names, sizes and times where those were seen to match before."""
    state = records.fingerprint(locked, quick_state(model, job.recipe.path.parent, session.config))
    seen = session.workspace.cell(job.recipe.name, job.cell.id).record(f"model-{model.name}")
    if records.read(seen, state, str) is not None:
        return False
    try:
        changed = lock_one(model, job, session, fetching=wish.fetching and not wish.locked_only).files != locked.files
    except ModelError as error:
        # What was locked may be in the cache already; if not, fetching it says what is wrong with the folder.
        if _has_files(model, job, session):
            session.console.warn(f"{job.cell.id}: {error.message}; the files that were locked are used")
        return False
    if not changed:
        records.write(seen, state, locked.name)
    return changed
