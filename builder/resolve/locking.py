"""Locks a cell, or finds that its lock is still right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filelock import FileLock

from builder import records
from builder.compiler import find_compiler
from builder.errors import LockError, ModelError, OldLockError
from builder.jetson.pythons import standalone
from builder.models.lock import lock_model, quick_state
from builder.registry.lookup import resolve_digest
from builder.resolve import advisories, lockfile
from builder.resolve.advised import solve_with_advisories
from builder.resolve.model import LOCK_FORMAT, Job, Lock, LockedBase, LockedInterpreter
from builder.resolve.sizes import measured
from builder.workspace import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from builder.models.model import LockedModel
    from builder.recipe.model import Model
    from builder.session import Session


def inputs_of(job: Job) -> str:
    """Return the fingerprint of everything that a lock is made from."""
    spec = job.spec
    asked = (spec.requires, spec.constraints, spec.replace, spec.ignored_advisories, spec.models)
    return records.fingerprint(LOCK_FORMAT, asked, job.platform, job.base)


def current_lock(job: Job, session: Session) -> Lock | None:
    """Return the cell's lock if it is there and its inputs are unchanged.

    Raises:
        LockError: the lock is damaged.
    """
    found, why = _state(session.workspace.lock(job.recipe.name, job.cell.id), job, session)
    return None if why else found


def lock_cell(job: Job, session: Session, *, locked_only: bool = False, force: bool = False) -> tuple[Lock, bool]:
    """Return the cell's lock, and whether it was made just now.

    A lock whose inputs changed is stale: it is made anew, keeping the versions that still fit, and said so. With
    `locked_only` a missing or stale lock is an error instead.

    Raises:
        LockError, NetworkError, ModelError, RegistryError: the cell cannot be locked.
    """
    path = session.workspace.lock(job.recipe.name, job.cell.id)
    folder = session.workspace.locks_in_use
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"lock-{records.fingerprint(str(path))[:16]}"):
        found, why = (None, None) if force else _state(path, job, session)
        if found and not why:
            return found, False
        if locked_only:
            problem = f"the lock is stale: {why}" if why else "there is no lock"
            raise LockError(problem, where=str(path), hint=_relock(job))
        if why:
            session.console.say(f"{job.cell.id}: the lock is stale ({why}); locking anew")
        return _make(job, session, path, before=found, keep=not force), True


def _relock(job: Job) -> str:
    return f"run `jbuild lock {job.recipe.name} --cell {job.cell.id}`"


def _make(job: Job, session: Session, path: Path, *, before: Lock | None, keep: bool) -> Lock:
    base = resolve_digest(job.base, session.config, job.platform.architecture)
    if base.stand_in:
        session.console.warn(f"{base.used} stands in for {base.asked}: {base.stand_in}")
    with session.console.task(f"{job.cell.id}: solving", unit="steps"):
        wheels, kept = solve_with_advisories(job, session, before=path if keep else None)
    lock = Lock(
        recipe=job.recipe.name,
        cell=job.cell.id,
        inputs=inputs_of(job),
        platform=job.platform,
        base=LockedBase(name=base.asked, used=base.used, digest=base.digest, stand_in=base.stand_in),
        wheels=measured(wheels, session),
        models=tuple(_model(model, job, session) for model in job.spec.models),
        advisories=kept,
        interpreter=_interpreter(job),
        compiler=_compiler(job, before, session),
    )
    lockfile.write(path, lock)
    return lock


def _interpreter(job: Job) -> LockedInterpreter | None:
    if job.platform.standalone is None:
        return None
    row = standalone(job.platform.python)
    architecture = job.platform.architecture
    return LockedInterpreter(release=row.release, url=row.url(architecture), sha256=dict(row.sha256)[architecture])


def _compiler(job: Job, before: Lock | None, session: Session) -> str | None:
    """Return the release that compiles: the image's own if it is fetched, that of the lock before, or one found here.

    Another one would change the bytes of every layer.
    """
    python = job.platform.python
    if job.platform.standalone:
        return standalone(python).version
    if before and before.compiler and before.platform.python == python:
        return before.compiler
    found = find_compiler(python, None, session.workspace.interpreters)
    return found.version if found else None


def _model(model: Model, job: Job, session: Session) -> LockedModel:
    return lock_model(model, job.recipe.path.parent, session.config, session.workspace.models, session.console)


def _state(path: Path, job: Job, session: Session) -> tuple[Lock | None, str | None]:
    """Return the lock, if one can be read, and why it is stale, if it is."""
    try:
        found = lockfile.read(path, recipe=job.recipe.name, cell=job.cell.id)
    except OldLockError as error:
        return None, error.message
    return found, _stale(found, job, session) if found else None


def _stale(found: Lock, job: Job, session: Session) -> str | None:
    if found.inputs != inputs_of(job):
        return "the recipe or its platform changed"
    against = advisories.broken(found.versions, job.spec.ignored_advisories)
    if against:
        return f"advisory {against[0].id} speaks against it: {against[0].symptom}"
    for locked, model in zip(found.models, job.spec.models, strict=True):
        # A folder can change under its name; a hub's revision cannot.
        if locked.origin == "folder" and _model_changed(locked, model, job, session):
            return f"the files of model {locked.name} changed"
    return None


def _model_changed(locked: LockedModel, model: Model, job: Job, session: Session) -> bool:
    """Compare a model's folder with its lock, by names, sizes and times where those were seen to match before."""
    state = records.fingerprint(locked, quick_state(model, job.recipe.path.parent, session.config))
    seen = session.workspace.cell(job.recipe.name, job.cell.id).record(f"model-{model.name}")
    if records.read(seen, state, str) is not None:
        return False
    try:
        changed = _model(model, job, session).files != locked.files
    except ModelError:
        # What was locked may be in the cache already; if not, fetching it says what is wrong with the folder.
        return False
    if not changed:
        records.write(seen, state, locked.name)
    return changed
