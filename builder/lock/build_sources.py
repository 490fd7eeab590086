"""The sources of the packages that a cell builds: archives of indexes, commits and folders, as candidates for uv."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from builder.host.index_rows import DEFAULT
from builder.lock import source_metadata
from builder.lock.graph import requirements
from builder.lock.index_sources import index_pins_of
from builder.lock.inspect_index import IndexInspector, requirements_in
from builder.lock.locked_tree import lock_tree
from builder.model.builds import BuildSource, SolvedSource
from builder.model.recipes import PackageBuild, PackageBuilds
from builder.remote.index.index_view import Candidate
from builder.remote.index.listing import Index, IndexFile, IndexPins
from builder.remote.index.source_project import ArchiveProject, archive_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.errors import NoWheelsError
    from builder.host.session import Session
    from builder.model.locks import Job
    from builder.model.recipes import PackageSource, Spec
    from builder.remote.index.index_client import IndexClient
    from builder.remote.index.index_view import SourceProject

# uv's messages about packages that have source archives only, or wheels for other machines.
_WITHOUT_WHEELS = re.compile(r"(?:Wheels are required for|only found wheels for) `([a-z0-9-]+)`")


@dataclass(slots=True)
class FixedProject:
    """A package whose only version is a commit or a folder."""

    name: str
    source: BuildSource
    version: str
    metadata: bytes
    index: Index = field(default_factory=lambda: Index(name=DEFAULT, addresses=()))

    def candidates(self) -> tuple[Candidate, ...]:
        """Return the only candidate."""
        file = IndexFile(
            filename=f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl",
            url=self.source.location,
            sha256=self.source.sha256,
            metadata="",
        )
        return (Candidate(index=self.index, file=file, read=lambda: self.metadata),)


def source_projects(job: Job, session: Session, client: IndexClient) -> dict[str, SourceProject]:
    """Return the packages that the recipe lists under `build`, by name.

    Raises:
        LockError: a folder or commit cannot be read, or does not state what a solver needs.
    """
    builds = job.spec.builds or PackageBuilds()
    return {build.name: source_project(build, job, session, client) for build in builds.packages}


def source_project(build: PackageBuild, job: Job, session: Session, client: IndexClient) -> SourceProject:
    """Return a package that is built.

    Raises:
        LockError: its folder or commit cannot be read, or does not state what a solver needs.
    """
    if build.source:
        return _fixed(build, build.source, session)
    return ArchiveProject(
        name=build.name,
        index=_index(build.name, job, session, client),
        client=client,
        workspace=session.workspace,
        describe=partial(_describe, build),
    )


def source_of(project: SourceProject, sha256: str) -> BuildSource:
    """Return the source that the candidate with this hash stands for."""
    if isinstance(project, FixedProject):
        return project.source
    if not isinstance(project, ArchiveProject):
        raise TypeError(f"{type(project).__name__} has no sources")
    file = project.archives[sha256]
    index = None if project.index.name == DEFAULT else project.index.name
    return BuildSource(kind="sdist", location=file.url, sha256=sha256, size=file.size, index=index)


def missing_builds(
    job: Job, error: NoWheelsError, taken: Mapping[str, object], session: Session, client: IndexClient
) -> Iterator[PackageBuild]:
    """Yield the packages in a conflict whose index has no wheel that fits, but an index has a source archive."""
    inspector = IndexInspector(job=job, session=session, client=client, ties=index_pins_of(job, session.config))
    for name, mentioned in _mentioned(job, error.log or "").items():
        if name not in taken and _is_missing(name, mentioned, inspector, _index(name, job, session, client)):
            yield PackageBuild(name=name)


def _mentioned(job: Job, explanation: str) -> dict[str, list[Requirement]]:
    """Return the requirements of each package in uv's explanation; of those that the recipe requires, only its own."""
    direct: dict[str, list[Requirement]] = {}
    for text in (*job.spec.requires, *job.spec.replace):
        direct.setdefault(str(canonicalize_name(Requirement(text).name)), []).append(Requirement(text))
    found: dict[str, list[Requirement]] = {}
    for requirement in requirements_in(explanation):
        found.setdefault(requirement.name, []).append(requirement)
    for name in [*found, *_WITHOUT_WHEELS.findall(explanation)]:
        # uv may name a version that it has seen, in place of the required ones.
        found.setdefault(name, []).append(Requirement(name))
    return found | direct


def _is_missing(name: str, mentioned: list[Requirement], inspector: IndexInspector, sources: Index) -> bool:
    """Return whether a package's index has no wheel that fits a requirement, but there is an archive that does."""
    hopeless = [requirement for requirement in mentioned if inspector.examine(requirement).hopeless]
    page = inspector.client.page(sources, name) if hopeless and sources.addresses else None
    versions = [version for file in (page.files if page else ()) if (version := archive_version(file))]
    return any(
        requirement.specifier.contains(version, prereleases=True) for requirement in hopeless for version in versions
    )


def _fixed(build: PackageBuild, source: PackageSource, session: Session) -> FixedProject:
    location = source.folder or source.git or ""
    locked, folder = lock_tree(build.name, location, source.commit, session)
    stated = source_metadata.with_recipe(source_metadata.of_folder(folder), build)
    metadata = source_metadata.complete(stated, build.name, location)
    version = metadata.version or ""
    return FixedProject(name=build.name, source=locked, version=version, metadata=metadata.text(build.name, version))


def _describe(build: PackageBuild, path: Path, version: str) -> bytes:
    metadata = source_metadata.with_recipe(source_metadata.of_archive(path), build)
    complete = source_metadata.complete(replace(metadata, version=version), build.name, path.name)
    return complete.text(build.name, version)


def _index(name: str, job: Job, session: Session, client: IndexClient) -> Index:
    """Return the index of a package's source archives: that of `from`, else uv's own.

    The usual pins of a platform are for builds of its CUDA, and say nothing about sources.
    """
    named: Spec = replace(job.spec, indexes=())
    pins = index_pins_of(replace(job, spec=named), session.config)
    return IndexInspector(job=job, session=session, client=client, ties=pins or IndexPins()).index_of(name)


def solved_source(project: SourceProject, name: str, version: str) -> SolvedSource | None:
    """Return the source of one version of a package, or None if there is none.

    Raises:
        JbuildError: the sources cannot be read.
    """
    for candidate in project.candidates():
        _, offered, _, _ = parse_wheel_filename(candidate.file.filename)
        if offered == Version(version) and candidate.read:
            requires = tuple(map(str, requirements(candidate.read())))
            source = source_of(project, candidate.file.sha256 or "")
            return SolvedSource(name=name, version=str(offered), source=source, requires=requires)
    return None
