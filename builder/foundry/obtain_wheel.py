"""A wheel that is built from source: from the cache, a vault or a registry, else from a build on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from builder.errors import EngineError, NetworkError
from builder.foundry.build_wheel import build_folder, build_wheel
from builder.foundry.check_wheel import check_wheel
from builder.foundry.earlier_builds import earlier_cost
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.shared_wheels import fetch_shared
from builder.foundry.vaulted_wheel import vaulted_wheel
from builder.host import records
from builder.host.engine.docker import find_engine
from builder.host.file_locks import scratch
from builder.host.files import disk_errors
from builder.model.builds import BuildOptions, BuiltWheel

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.model.locks import Lock

CACHE = "cache"


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelRequest:
    """A build for a cell with a lock and packages `apt` in its image.

    `registries` may have its wheel, beside the `repository` of images. With `options.fresh`, neither the cache nor a
    registry counts.
    """

    build: LockedBuild
    lock: Lock
    apt: tuple[str, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    registries: tuple[str, ...] = ()
    repository: str = ""


def obtain_wheel(request: WheelRequest, session: Session) -> BuiltWheel:
    """Return the wheel of a build; it is in the wheelhouse by its sha256. One process builds a wheel, others wait.

    Raises:
        BuildError: it cannot be built.
        AuditError: it would not load in the cell.
        NetworkError, IntegrityError, DiskError: an input cannot be fetched or stored.
    """
    build = request.build
    with session.workspace.file_lock(f"wheel-{build.fingerprint[:16]}"):
        if not request.options.fresh:
            if stored := stored_wheel(build, session):
                return replace(stored, origin=CACHE)
            if vaulted := vaulted_wheel(build, session):
                return _noted(vaulted, session)
            if pulled := fetch_shared(build, request.registries, request.repository, session):
                return _noted(pulled, session)
        return _noted(_built(request, session), session)


def stored_wheel(build: LockedBuild, session: Session) -> BuiltWheel | None:
    """Return the wheel of a build from the cache, or None."""
    built = records.read(session.workspace.built(build.fingerprint), build.fingerprint, BuiltWheel)
    return built if built and wheel_path(built, session).is_file() else None


def wheel_path(built: BuiltWheel, session: Session) -> Path:
    """Return the file of a wheel in the wheelhouse."""
    return session.workspace.wheel(built.wheel.sha256, built.wheel.filename)


def _built(request: WheelRequest, session: Session) -> BuiltWheel:
    """Build, finish and check a wheel; one that does not pass stays in the folder of the build."""
    build = request.build
    if earlier := earlier_cost(build, session):
        session.console.say(earlier)
    raw, cost = build_wheel(build, session, request.options), build_folder(build, session).cost()
    with scratch(session.workspace.cache) as folder:
        built = finish_wheel(raw, build, folder)
        path = folder / built.wheel.filename
        _check(path, request, session)
        target = wheel_path(built, session)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            raw.unlink()
    return replace(built, seconds=cost.seconds, peak_memory=cost.peak_memory, units=cost.units)


def _check(wheel: Path, request: WheelRequest, session: Session) -> None:
    """Audit a wheel in its cell and import it there; an image's smoke run imports what cannot be imported here.

    Raises:
        AuditError: it would not load.
    """
    check = partial(check_wheel, wheel, request.build, session, request.lock, request.apt)
    try:
        find_engine(session.workspace, session.config.gpu)
        result = check()
    except (EngineError, NetworkError) as error:
        result = check(imports=False)
        session.console.warn(f"{wheel.name} was audited, but not imported: {error.message}")
    for warning in result.warnings:
        session.console.warn(f"{wheel.name}: {warning}")
    if result.imports:
        count, python, machine = len(result.imports.imported), result.imports.python, result.imports.machine
        session.console.say(f"{wheel.name}: CPython {python} on {machine} imported {count} of its modules")


def _noted(built: BuiltWheel, session: Session) -> BuiltWheel:
    """Note a wheel that is in the wheelhouse, and return it."""
    records.write(session.workspace.built(built.fingerprint), built.fingerprint, built)
    return built
