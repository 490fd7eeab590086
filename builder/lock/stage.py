"""The lock stage: locks a cell, or finds that its lock is still current."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from builder.errors import JbuildError, LockError, ModelError, OldLockError
from builder.host import records
from builder.host.files import sha256_of
from builder.host.paths import sha256_of_file
from builder.host.source_hash import source_hash
from builder.jetson import advisories
from builder.jetson.advisories import Situation
from builder.lock import lockfile
from builder.lock.index_sources import asked_of, index_pins_of, lock_inputs
from builder.lock.situation import pinned, situation_of
from builder.model.locks import LOCK_FORMAT, Locked
from builder.models import model_pins
from builder.models.model_state import quick_state
from builder.models.preflight.preflight import warn as warn_of_server
from builder.pipeline import history
from builder.pipeline.cell import start
from builder.pipeline.history import StageResult
from builder.pipeline.order import RunOptions
from builder.pipeline.stage import Stage
from builder.remote.model_sources import FolderSource, locate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.host.session import Session
    from builder.model.builds import BuildSource
    from builder.model.locks import Job, Lock
    from builder.model.model_files import LockedModel
    from builder.model.recipes import Model
    from builder.pipeline.cell import CellRun


class _LockStage(Stage[Locked]):
    """From a recipe's cell to its lock, which is a file of the project and not a record in the cell's folder."""

    name = "lock"
    record = Locked

    def project_inputs(self, run: CellRun) -> Mapping[str, object]:
        """Return what decides the lock, and the lock itself, which a project may commit."""
        job, session, locked = run.job, run.session, run.find(Locked)
        workspace, recipe = session.workspace, job.recipe.name
        if locked:
            situation = situation_of(job, locked.lock.wheels)
        else:
            situation = Situation(versions=pinned(job.spec.requires), platform=job.platform, apt=job.spec.apt)
        lock_files = (workspace.lock(recipe, job.cell.id), workspace.model_lock(recipe))
        rows = advisories.applying(situation, job.spec.ignored_advisories)
        asked, ties = asked_of(job, session.config)
        return {
            "jbuild": LOCK_FORMAT,
            "recipe": (asked, job.base),
            "platform": job.platform,
            "settings": ties,
            "advisories": [(row.id, row.constrain) for row in rows],
            "models": [_folder_files(model, job, session) for model in job.spec.models],
            "lock": [sha256_of_file(path) for path in lock_files],
        }

    def inputs(self, run: CellRun) -> str:
        """Return the fingerprint that lock files hold: it stays what it is, for projects commit them."""
        return lock_inputs(run.job, run.session.config)

    def load(self, run: CellRun) -> Locked | None:
        if run.options.upgrade:
            return None
        lock = current_lock(run.job, run.session, run.options)
        if lock and run.options.until == "lock":
            warn_of_server(run.job, lock, run.session)
        return Locked(lock=lock) if lock else None

    def make(self, run: CellRun) -> Locked:
        locked = lock_cell(run.job, run.session, run.options)
        if run.options.until == "lock":
            warn_of_server(run.job, locked.lock, run.session)
        return locked

    def save(self, run: CellRun, record: Locked) -> None:
        """Do nothing: `make` has written the lock while it kept other processes off it."""


STAGE = _LockStage()


def _folder_files(model: Model, job: Job, session: Session) -> list[tuple[str, str]] | None:
    """Return the files of a model that is a folder of the project, with their sha256; None for all others."""
    try:
        source = locate(model.source, job.recipe.path.parent, session.config)
    except ModelError:
        return None
    if not isinstance(source, FolderSource):
        return None
    folder = source.path.resolve()
    if not folder.is_relative_to(session.workspace.project.resolve()):
        return None
    return [(str(path.relative_to(folder)), sha256_of(path)) for path in sorted(folder.rglob("*")) if path.is_file()]


# Of a verb that needs the lock alone.
_LOCK_ONLY = RunOptions(until="lock")


def current_lock(job: Job, session: Session, options: RunOptions = _LOCK_ONLY) -> Lock | None:
    """Return the cell's lock if it is there and its inputs are unchanged.

    Raises:
        LockError: the lock is damaged.
        RecipeError: the recipe names an index that is not known.
    """
    lock, why = _state(job, session, options)
    return None if why else lock


def lock_cell(job: Job, session: Session, options: RunOptions = _LOCK_ONLY) -> Locked:
    """Return the cell's lock, made just now if need be.

    A lock whose inputs changed is stale: it is made anew, keeping the versions that still fit, and said so.

    Raises:
        LockError, NetworkError, IntegrityError, ModelError, RegistryError: the cell cannot be locked.
    """
    path = session.workspace.lock(job.recipe.name, job.cell.id)
    with session.workspace.file_lock(f"lock-{records.fingerprint(str(path))[:16]}"):
        current, why = (None, None) if options.forces("lock") else _state(job, session, options)
        if current and not why and not options.upgrade:
            return Locked(lock=current)
        if options.locked_only:
            problem = f"the lock is stale: {why}" if why else "there is no lock"
            hint = f"run `jbuild lock {job.recipe.name} --cell {job.cell.id}`"
            raise LockError(problem, where=str(path), hint=hint)
        if why:
            session.console.say(f"{job.cell.id}: the lock is stale ({why}); locking anew")
        before = None if options.forces("lock") else current
        upgrade = ("*",) if options.forces("lock") else options.upgrade
        from builder.lock.resolve import make  # noqa: PLC0415  # slow to import

        lock, changes = make(job, session, before=before, upgrade=upgrade, fetching="render" in options.stages)
        return Locked(lock=lock, made=True, changes=changes)


def lock_with_history(job: Job, session: Session) -> Lock:
    """Return the lock of a cell for a verb without other stages; the cell's history gets a failure, and its end.

    Raises:
        JbuildError: the cell cannot be locked.
    """
    run, began = start(job, session, _LOCK_ONLY), time.monotonic()
    try:
        locked = lock_cell(job, session)
    except JbuildError as error:
        history.note(run, (), error, "lock")
        raise
    result = StageResult(stage="lock", ran=locked.made, seconds=round(time.monotonic() - began, 2))
    history.note(run.with_records(locked), (result,), None, "lock")
    return locked.lock


def _state(job: Job, session: Session, options: RunOptions) -> tuple[Lock | None, str | None]:
    """Return the lock, if one can be read, and why it is stale, if it is."""
    path = session.workspace.lock(job.recipe.name, job.cell.id)
    try:
        lock = lockfile.read(path, recipe=job.recipe.name, cell=job.cell.id)
    except OldLockError as error:
        return lockfile.read_old_format(path), error.message
    return lock, _stale(lock, job, session, options) if lock else None


def _stale(lock: Lock, job: Job, session: Session, options: RunOptions) -> str | None:
    if lock.inputs != lock_inputs(job, session.config):
        return _moved(lock, job, session) or "the recipe or its platform changed"
    against = advisories.broken(situation_of(job, lock.wheels), job.spec.ignored_advisories)
    if against:
        return f"advisory {against[0].id} speaks against it: {against[0].symptom}"
    for build in lock.builds or ():
        for source in build.sources:
            if source.kind == "folder" and _folder_changed(source, session):
                return f"the folder {source.location} of {build.name} changed"
    for locked, model in zip(lock.models, job.spec.models, strict=True):
        # A folder can change under its name; a hub's revision cannot.
        if locked.origin == "folder" and _model_changed(locked, model, job, session, options):
            return f"the files of model {locked.name} changed"
        if locked.origin != "folder" and _pinned_otherwise(locked, model, job, session):
            return f"the recipe's model lock has another {locked.name}"
    return None


def _folder_changed(source: BuildSource, session: Session) -> bool:
    """Return whether a source has other content; a folder that is not on this machine is not a mistake."""
    folder = session.workspace.project / source.location
    return folder.is_dir() and source_hash(folder) != source.sha256


def _moved(lock: Lock, job: Job, session: Session) -> str | None:
    ties = index_pins_of(job, session.config)
    for wheel in lock.wheels:
        tie = ties.of(wheel.name)
        if wheel.index != (tie.index if tie else None):
            return f"{wheel.name} comes from {tie.index if tie else 'the default index'} now"
    return None


def _pinned_otherwise(locked: LockedModel, model: Model, job: Job, session: Session) -> bool:
    pinned = model_pins.find(session.workspace.model_lock(job.recipe.name), model)
    return pinned is not None and pinned.origin != "folder" and pinned != locked


def _has_files(model: Model, job: Job, session: Session) -> bool:
    """Return whether a model's folder has files; a folder that is not on this machine is not a mistake."""
    try:
        source = locate(model.source, job.recipe.path.parent, session.config)
        return isinstance(source, FolderSource) and any(source.path.iterdir())
    except (ModelError, OSError):
        return False


def _model_changed(locked: LockedModel, model: Model, job: Job, session: Session, options: RunOptions) -> bool:
    """Compare a model's folder with its lock, once for the same names, sizes and times."""
    state = records.fingerprint(locked, quick_state(model, job.recipe.path.parent, session.config))
    comparison = session.workspace.cell(job.recipe.name, job.cell.id).record(f"model-{model.name}")
    before = records.read(comparison, state, str)
    if before is not None:
        return before != locked.name
    fetching = "render" in options.stages and not options.locked_only
    from builder.lock.resolve import lock_one  # noqa: PLC0415  # slow to import

    try:
        changed = lock_one(model, job, session, fetching=fetching).files != locked.files
    except ModelError as error:
        # What was locked may be in the cache already; if not, fetching it says what is wrong with the folder.
        if _has_files(model, job, session):
            session.console.warn(f"{job.cell.id}: {error.message}; the files that were locked are used")
        return False
    # The name for the same files, nothing for others.
    records.write(comparison, state, "" if changed else locked.name)
    return changed
