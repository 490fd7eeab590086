"""The builds of a lock: all inputs of the packages that a solution builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.errors import IntegrityError
from builder.model.builds import BuildSpec, BuildTarget, InputSpec
from builder.model.locks import BuildBase, LockedRule
from builder.model.recipes import PackageBuild
from builder.pipeline.build_lock import build_locker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.host.session import Session
    from builder.lock.advisory_solve import Solution
    from builder.model.builds import LockedBuild, SolvedSource, SourceKind, ToolFile
    from builder.model.locks import Job, Lock, LockedBase
    from builder.model.platforms import Platform
    from builder.model.recipes import PackageInput
    from builder.model.wheels import LockedWheel

_TORCH = "torch"


def lock_builds(
    job: Job, solution: Solution, base: LockedBase, session: Session, before: Lock | None, upgrade: Sequence[str]
) -> tuple[LockedBuild, ...]:
    """Return the builds of a solution for a base image, sorted by name.

    Raises:
        IntegrityError: an archive that was locked has other bytes now.
        JbuildError: an input of a build cannot be locked.
    """
    builds = []
    for source in sorted(solution.sources, key=lambda source: source.name):
        _check_unchanged(source, job, before, upgrade)
        listed = job.spec.builds.named(source.name) if job.spec.builds else None
        kept = BuildBase(image=base, sysroot=_sysroot(source.name, base, before))
        builds.append(locked_build(source, listed, job, kept, solution.wheels, session))
    return tuple(builds)


def locked_build(
    solved: SolvedSource,
    build: PackageBuild | None,
    job: Job,
    base: BuildBase,
    wheels: Sequence[LockedWheel],
    session: Session,
) -> LockedBuild:
    """Return a build with all its inputs; `wheels` are the cell's.

    Raises:
        JbuildError: an input of the build cannot be locked.
    """
    build, source = build or PackageBuild(name=solved.name), solved.source
    spec = BuildSpec(
        name=solved.name,
        version=solved.version,
        patches=build.patches,
        requires=build.build_requires,
        environment=build.environment,
        inputs=tuple(map(_input, build.inputs or ())),
        folder=job.recipe.path.parent,
    )
    return build_locker()(spec, source, target_of(job.platform, solved.requires, wheels), base, session)


def _sysroot(name: str, base: LockedBase, before: Lock | None) -> tuple[ToolFile, ...]:
    """Return the packages of the base's C library that a build was locked with."""
    builds = (before.builds or ()) if before and before.base.name == base.name else ()
    return tuple(tool for build in builds if build.name == name for tool in build.tools if tool.role == "sysroot")


def _input(entry: PackageInput) -> InputSpec:
    source = entry.source
    kind: SourceKind = "folder" if source.folder else "git" if source.git else "archive"
    return InputSpec(
        variable=entry.variable,
        kind=kind,
        location=source.folder or source.git or source.archive or "",
        commit=source.commit,
        sha256=source.sha256,
        patches=entry.patches,
    )


def target_of(platform: Platform, requires: Sequence[str], wheels: Sequence[LockedWheel]) -> BuildTarget:
    """Return the target of a build; the cell's torch is part of it if the package requires torch."""
    names = {str(canonicalize_name(Requirement(text).name)) for text in requires}
    return BuildTarget(
        architecture=platform.architecture,
        python=platform.python,
        gpus=platform.sms,
        cuda=platform.cuda,
        torch=next((wheel for wheel in wheels if wheel.name == _TORCH and _TORCH in names), None),
        glibc=platform.glibc,
    )


def built(job: Job, solution: Solution) -> tuple[LockedRule, ...]:
    """Return which packages are built from which source, and why."""
    listed = job.spec.builds
    rules = []
    for source in solution.sources:
        why = "`build` of the recipe" if listed and listed.named(source.name) else "no wheel fits the cell"
        rules.append(LockedRule(rule=f"{source.name} {source.version} built from {source.source.words}", why=why))
    return tuple(rules)


def _check_unchanged(solved: SolvedSource, job: Job, before: Lock | None, upgrade: Sequence[str]) -> None:
    """Refuse an archive with the name and version of the locked one, but other bytes.

    Raises:
        IntegrityError: it is one.
    """
    locked = next((build for build in (before.builds or ()) if build.name == solved.name), None) if before else None
    if locked is None or locked.version != solved.version or solved.name in upgrade or "*" in upgrade:
        return
    old, new = locked.source, solved.source
    if (old.kind, new.kind, old.index) == ("sdist", "sdist", new.index) and old.sha256 != new.sha256:
        raise IntegrityError(
            f"the index serves another source archive of {solved.name} {solved.version} now: sha256 {new.sha256}, "
            f"locked was {old.sha256}",
            where=new.location,
            hint="find out why; to take the new one: "
            f"`jbuild lock {job.recipe.name} --cell {job.cell.id} --upgrade {solved.name}`",
        )
