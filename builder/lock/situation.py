"""The facts about packages that advisories are matched against; without the solver, which is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.jetson.advisories import Situation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.model.locks import Job
    from builder.model.wheels import LockedWheel


def situation_of(job: Job, wheels: Iterable[LockedWheel]) -> Situation:
    """Return the facts about a lock's wheels that advisories are matched against."""
    wheels = tuple(wheels)
    return Situation(
        versions={wheel.name: wheel.version for wheel in wheels},
        platform=job.platform,
        sources={wheel.name: wheel.index for wheel in wheels if wheel.index},
        apt=job.spec.apt,
    )


def pinned(requires: Iterable[str]) -> dict[str, str]:
    """Return the versions that requirements pin exactly, by normalised name."""
    pins = {}
    for requirement in map(Requirement, requires):
        for specifier in requirement.specifier:
            if specifier.operator == "==" and not specifier.version.endswith(".*"):
                pins[str(canonicalize_name(requirement.name))] = specifier.version
    return pins
