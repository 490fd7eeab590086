"""What earlier builds of a package have cost, here or on a runner: the only estimate that does not guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.host import records
from builder.host.units import count_of, duration, gib
from builder.model.builds import BuiltWheel

if TYPE_CHECKING:
    from builder.host.session import Session
    from builder.model.builds import LockedBuild


def earlier_cost(build: LockedBuild, session: Session) -> str | None:
    """Return in words what the longest build of the same version took; None if there was none."""
    paths = session.workspace.built(build.fingerprint).parent.parent.glob("??/*.json")
    found = [built for path in paths if (built := records.read(path, None, BuiltWheel))]
    same = [built for built in found if built.wheel.name == build.name and _is_version(built.wheel.version, build)]
    longest = max(same, key=lambda built: built.seconds or 0, default=None)
    if longest is None or not longest.seconds:
        return None
    units = f", {count_of(longest.units, 'compiled file')}" if longest.units else ""
    memory = f", {gib(longest.peak_memory)} GiB in the largest process" if longest.peak_memory else ""
    return f"{build.name} {build.version} was built before, in {duration(longest.seconds)}{units}{memory}"


def _is_version(version: str, build: LockedBuild) -> bool:
    # Built wheels have a local label.
    return Version(version).public == Version(build.version).public
