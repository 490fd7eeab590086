"""The fingerprints of builds, by which their wheels are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.host import records

if TYPE_CHECKING:
    from builder.model.builds import BuiltWheels, LockedBuild
    from builder.model.locks import Lock
    from builder.model.wheels import LockedWheel

# Raise it when the foundry makes other bytes of the same inputs.
METHOD = 1


def fingerprint_of(build: LockedBuild) -> str:
    """Return the sha256 of everything that decides the bytes of a wheel; addresses do not."""
    source, target = build.source, build.target
    return records.fingerprint(
        METHOD,
        (build.name, build.version, source.kind, source.sha256),
        [patch.sha256 for patch in build.patches],
        build.environment,
        [_content(wheel) for wheel in build.requirements],
        (build.toolchain, [(tool.role, tool.sha256) for tool in build.tools]),
        (target.architecture, target.python, target.gpus, target.cuda, target.glibc),
        _content(target.torch) if target.torch else None,
    )


def _content(wheel: LockedWheel) -> tuple[str, str, str]:
    return wheel.name, wheel.version, wheel.sha256


def with_built(lock: Lock, built: BuiltWheels) -> Lock:
    """Return a lock with those of some wheels that were built from it."""
    by_fingerprint = {wheel.fingerprint: wheel.wheel for wheel in built.wheels}
    fingerprints = (fingerprint_of(build) for build in lock.builds or ())
    return lock.with_built(by_fingerprint[key] for key in fingerprints if key in by_fingerprint)
