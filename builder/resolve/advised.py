"""Solves a cell so that no advisory speaks against the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import LockError, RecipeError
from builder.resolve import lockfile
from builder.resolve.advisories import advisories, applying, broken
from builder.resolve.model import LockedAdvisory, LockedWheel
from builder.resolve.solve import solve
from builder.tomldoc import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.resolve.advisories import Advisory
    from builder.resolve.model import Job
    from builder.session import Session

# A constraint can bring in a version that another advisory speaks of, and so on; more rounds than this are a circle.
_ROUNDS = 6


def solve_with_advisories(
    job: Job, session: Session, *, before: Path | None
) -> tuple[tuple[LockedWheel, ...], tuple[LockedAdvisory, ...]]:
    """Return the wheels of a cell, and the advisories that they keep.

    Advisories of packages that the recipe pins are constraints from the start; the others become so when an answer
    breaks them, and uv is asked again.

    Raises:
        LockError: no set of wheels satisfies the requirements and the advisories.
        NetworkError: an index did not answer.
        RecipeError: the recipe ignores an advisory that does not exist.
    """
    ignored = job.spec.ignored_advisories
    _check_ignored(ignored, job)
    active = list(applying(_pins(job.spec.requires), ignored))
    for _ in range(_ROUNDS):
        wheels = _solve(job, session, active, before)
        versions = {wheel.name: wheel.version for wheel in wheels}
        against = broken(versions, ignored)
        if not against:
            return wheels, _locked(applying(versions, ignored), versions)
        for advisory in against:
            rules = ", ".join(advisory.constrain)
            session.console.say(f"{job.cell.id}: advisory {advisory.id} asks for {rules} ({advisory.source})")
        active += against
    raise LockError("advisories contradict each other", where=job.name, hint=_hint(active))


def _solve(job: Job, session: Session, active: Iterable[Advisory], before: Path | None) -> tuple[LockedWheel, ...]:
    rules = tuple(rule for advisory in active for rule in advisory.constrain)
    spec = replace(job.spec, constraints=(*job.spec.constraints, *rules))
    try:
        text = solve(spec, job.platform, session.config, session.workspace.cache, before=before)
    except LockError as error:
        # A constraint of ours may be what makes it impossible: say so.
        error.hint = f"{error.hint}; {_hint(active)}" if rules else error.hint
        raise
    return lockfile.wheels_of(text, job.platform, job.name)


def _hint(active: Iterable[Advisory]) -> str:
    kept = ", ".join(f"{advisory.id} ({', '.join(advisory.constrain)})" for advisory in active)
    return f"these advisories were kept: {kept}; to go against one, name it in `ignore-advisories` under [packages]"


def _locked(kept: Iterable[Advisory], versions: dict[str, str]) -> tuple[LockedAdvisory, ...]:
    """Return those advisories that say something about a package that is there."""
    return tuple(
        LockedAdvisory(id=advisory.id, constrain=advisory.constrain, source=advisory.source)
        for advisory in kept
        if any(canonicalize_name(Requirement(rule).name) in versions for rule in advisory.constrain)
    )


def _pins(requires: Iterable[str]) -> dict[str, str]:
    """Return the versions that requirements pin exactly."""
    pins = {}
    for requirement in map(Requirement, requires):
        for specifier in requirement.specifier:
            if specifier.operator == "==" and not specifier.version.endswith(".*"):
                pins[str(canonicalize_name(requirement.name))] = specifier.version
    return pins


def _check_ignored(ignored: Iterable[str], job: Job) -> None:
    known = [advisory.id for advisory in advisories()]
    for name in ignored:
        if name not in known:
            hint = suggest(name, known, noun="advisories")
            raise RecipeError(f"there is no advisory `{name}` to ignore", where=str(job.recipe.path), hint=hint)
