"""The files of builds from source, as files of a vault: sources, build requirements, tools, and the built wheels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.foundry.fetched_files import RemoteInput, archive_input, fetch_inputs
from builder.foundry.obtain_wheel import stored_wheel
from builder.foundry.source_trees import packed_tree
from builder.foundry.wheel_members import as_wheel
from builder.host.files import sha256_of
from builder.host.index_rows import DEFAULT
from builder.model.vaults import BUILT_INDEX, VaultFile, VaultOrigin
from builder.publish.vault.wheel_files import StoredFile, fetch_wheels, stored_wheel_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.host.session import Session
    from builder.model.builds import BuildSource, LockedBuild, ToolFile
    from builder.model.locks import Job, Lock

_WHEEL = ".whl"
_ARCHIVES = ("sdist", "archive")


def fetch_builds(job: Job, lock: Lock, session: Session) -> tuple[StoredFile, ...]:
    """Return the inputs of the builds in a lock, after fetching those that the cache lacks, and the built wheels.

    Raises:
        NetworkError, IntegrityError, DiskError: a file cannot be fetched.
    """
    return tuple(stored for build in lock.builds or () for stored in _of_build(build, job, session))


def _of_build(build: LockedBuild, job: Job, session: Session) -> Iterator[StoredFile]:
    tools = tuple(as_wheel(tool) for tool in build.tools if tool.filename.endswith(_WHEEL))
    yield from fetch_wheels((*build.requirements, *tools), job.name, session)
    yield from (_package(tool, job, session) for tool in build.tools if not tool.filename.endswith(_WHEEL))
    for source in build.sources:
        yield _archive(source, build, job, session) if source.kind in _ARCHIVES else _tree(source, job, session)
    built = stored_wheel(build, session)
    if built:
        origin = VaultOrigin(index=BUILT_INDEX, url=built.wheel.url, lock=job.name)
        yield stored_wheel_file(built.wheel, origin, session)


def _archive(source: BuildSource, build: LockedBuild, job: Job, session: Session) -> StoredFile:
    """Return a source archive: that of a package of an index, or an input."""
    wanted, of_index = archive_input(source), source.kind == "sdist"
    (path,) = fetch_inputs([wanted], session)
    index = (source.index or DEFAULT) if of_index else None
    origin = VaultOrigin(index=index, url=source.location, lock=job.name)
    file = VaultFile(
        filename=wanted.filename,
        sha256=source.sha256,
        size=path.stat().st_size,
        kind="sdist" if of_index else "file",
        origins=(origin,),
        project=build.name if of_index else None,
    )
    return StoredFile(file=file, source=path)


def _tree(source: BuildSource, job: Job, session: Session) -> StoredFile:
    """Return the content of a commit or folder as one file."""
    path = packed_tree(source, session)
    origin = VaultOrigin(index=None, url=source.location, lock=job.name)
    file = VaultFile(
        filename=path.name, sha256=sha256_of(path), size=path.stat().st_size, kind="file", origins=(origin,)
    )
    return StoredFile(file=file, source=path)


def _package(tool: ToolFile, job: Job, session: Session) -> StoredFile:
    (path,) = fetch_inputs(
        [RemoteInput(filename=tool.filename, url=tool.url, sha256=tool.sha256, size=tool.size)], session
    )
    origin = VaultOrigin(index=None, url=tool.url, lock=job.name)
    file = VaultFile(
        filename=tool.filename, sha256=tool.sha256, size=path.stat().st_size, kind="file", origins=(origin,)
    )
    return StoredFile(file=file, source=path)
