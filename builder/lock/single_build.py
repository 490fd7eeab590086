"""The build of one package for a locked cell, whether or not the recipe lists it, and the wheel that an index has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from builder.errors import NoWheelsError
from builder.host.index_rows import DEFAULT
from builder.lock.alternatives import nearest_versions
from builder.lock.build_sources import solved_source, source_project
from builder.lock.graph import unmet_requirements
from builder.lock.index_sources import index_pins_of
from builder.lock.inspect_index import IndexInspector
from builder.lock.locked_builds import locked_build
from builder.model.locks import BuildBase
from builder.model.recipes import PackageBuild
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from builder.host.session import Session
    from builder.model.builds import LockedBuild
    from builder.model.locks import Job, Lock
    from builder.remote.index.index_view import SourceProject

_NEAREST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleBuild:
    """A build, whether the cell's lock has it, and the requirements of its wheel that the cell does not meet."""

    build: LockedBuild
    in_recipe: bool
    unmet: tuple[str, ...] = ()


def single_build(requirement: Requirement, job: Job, lock: Lock, session: Session) -> SingleBuild:
    """Return the build of a package with an exact version for a cell: that of the lock, else a new one.

    Raises:
        NoWheelsError: there is no source of this version.
        JbuildError: the source or its build requirements cannot be read.
    """
    name = str(canonicalize_name(requirement.name))
    (specifier,) = requirement.specifier
    version = specifier.version
    stored = next((build for build in lock.builds or () if build.name == name), None)
    if stored and Version(stored.version) == Version(version):
        return SingleBuild(build=stored, in_recipe=True)
    build = (job.spec.builds.named(name) if job.spec.builds else None) or PackageBuild(name=name)
    project = source_project(build, job, session, client_of(session.config, session.workspace.index_states))
    solved = solved_source(project, name, version)
    if solved is None:
        message = f"the index {project.index.name} has no source of {name} {version}"
        raise NoWheelsError(message, where=str(requirement), hint=_existing(project, version))
    unmet = tuple(unmet_requirements(solved.requires, lock))
    locked = locked_build(solved, build, job, BuildBase(image=lock.base), lock.wheels, session)
    return SingleBuild(build=locked, in_recipe=False, unmet=unmet)


def _existing(project: SourceProject, version: str) -> str:
    """Return a hint with the versions that have a source: the nearest ones and the newest."""
    versions = {parse_wheel_filename(candidate.file.filename)[1] for candidate in project.candidates()}
    newest = str(max(versions))
    nearest = nearest_versions(version, map(str, versions))[:_NEAREST]
    others = "" if newest in nearest else f"; the newest is {newest}"
    return f"there are sources of {', '.join(nearest)}{others}"


def index_with_wheel(requirement: Requirement, job: Job, session: Session) -> str | None:
    """Return the index that has a wheel of an exact version whose tags fit a cell, in words; None if it has none."""
    client, pins = client_of(session.config, session.workspace.index_states), index_pins_of(job, session.config)
    contents = IndexInspector(job=job, session=session, client=client, ties=pins).examine(requirement)
    if contents.hopeless:
        return None
    return "uv's default index" if contents.index == DEFAULT else f"the index {contents.index}"
