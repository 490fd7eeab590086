"""A wheel that is built from source: from the cache, else from a registry, else from a build on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.foundry.build_wheel import build_wheel
from builder.foundry.check_wheel import check_wheel
from builder.foundry.finish_wheel import finish_wheel
from builder.foundry.shared_wheels import pull_wheel
from builder.host import records
from builder.host.file_locks import scratch
from builder.host.files import disk_errors
from builder.model.builds import BuildOptions, BuiltWheel

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.remote.registry.reference import Reference

CACHE, BUILT = "cache", "built"


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelRequest:
    """A build, the options of this machine, the `registries` that may have its wheel, and the folder of its patches.

    `fresh` is whether the cache and the registries are left out.
    """

    build: LockedBuild
    patches: Path
    options: BuildOptions = field(default_factory=BuildOptions)
    registries: tuple[Reference, ...] = ()
    fresh: bool = False


def obtain_wheel(request: WheelRequest, session: Session) -> BuiltWheel:
    """Return the wheel of a build; it is in the wheelhouse by its sha256. One process builds a wheel, others wait.

    Raises:
        BuildError: it cannot be built, or does not fit the cell.
        NetworkError, IntegrityError, DiskError: an input cannot be fetched or stored.
    """
    build = request.build
    with session.workspace.file_lock(f"wheel-{build.fingerprint[:16]}"):
        if not request.fresh:
            if stored := stored_wheel(build, session):
                return replace(stored, origin=CACHE)
            if pulled := _pulled(request, session):
                return _store(pulled, session)
        return _store(_built(request, session), session)


def stored_wheel(build: LockedBuild, session: Session) -> BuiltWheel | None:
    """Return the wheel of a build from the cache, or None."""
    built = records.read(session.workspace.built(build.fingerprint), build.fingerprint, BuiltWheel)
    return built if built and wheel_path(built, session).is_file() else None


def wheel_path(built: BuiltWheel, session: Session) -> Path:
    """Return the file of a wheel in the wheelhouse."""
    return session.workspace.wheel(built.wheel.sha256, built.wheel.filename)


def _pulled(request: WheelRequest, session: Session) -> BuiltWheel | None:
    """Return the wheel from a registry, or None; a registry that does not answer is no reason to stop."""
    for registry in request.registries:
        try:
            if pulled := pull_wheel(request.build, registry, session):
                return pulled
        except JbuildError as error:
            session.console.say(f"built wheels cannot be pulled from {registry.host}: {error.message}")
    return None


def _built(request: WheelRequest, session: Session) -> BuiltWheel:
    build = request.build
    with scratch(session.workspace.cache) as folder:
        raw = build_wheel(build, session, request.options)
        built = finish_wheel(raw, build, folder)
        path = folder / built.wheel.filename
        check_wheel(path, build, session)
        target = wheel_path(built, session)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    return built


def _store(built: BuiltWheel, session: Session) -> BuiltWheel:
    """Note a wheel that is in the wheelhouse, and return it."""
    records.write(session.workspace.built(built.fingerprint), built.fingerprint, built)
    return built
