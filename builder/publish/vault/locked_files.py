"""The files that locks name, as files of a vault: wheels, build tools and interpreters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import JbuildError
from builder.host.concurrency import TaskGroup
from builder.lock.index_sources import index_pins_of
from builder.lock.inspect_index import IndexInspector
from builder.lock.python_archives import archive_name, interpreter_archive
from builder.model.vaults import VaultFile, VaultOrigin
from builder.publish.vault.build_files import fetch_builds
from builder.publish.vault.wheel_files import StoredFile, fetch_wheels
from builder.remote.index.index_client import client_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.remote.index.listing import IndexFile, ProjectPage

_AT_ONCE = 8


def fetch_locked(job: Job, lock: Lock, session: Session) -> tuple[StoredFile, ...]:
    """Return the files that a lock names, after fetching those that the cache lacks.

    Raises:
        NetworkError, IntegrityError, DiskError: a file cannot be fetched.
    """
    stored = fetch_wheels((*lock.wheels, *(lock.tools or ())), job.name, session)
    if lock.interpreter:
        source = interpreter_archive(lock.interpreter, lock.platform, session)
        origin = VaultOrigin(index=None, url=lock.interpreter.url, lock=job.name)
        file = VaultFile(
            filename=archive_name(lock.interpreter),
            sha256=lock.interpreter.sha256,
            size=source.stat().st_size,
            kind="file",
            origins=(origin,),
        )
        stored.append(StoredFile(file=file, source=source))
    return (*stored, *fetch_builds(job, lock, session))


def with_index_facts(
    files: Iterable[StoredFile], job: Job, session: Session
) -> tuple[list[StoredFile], tuple[str, ...]]:
    """Return files with their upload times and yanked marks, and the projects whose indexes did not answer."""
    inspector = IndexInspector(
        job=job,
        session=session,
        client=client_of(session.config, session.workspace.index_states),
        ties=index_pins_of(job, session.config),
    )
    files = tuple(files)
    projects = sorted({stored.file.project for stored in files if stored.file.project})

    def page(project: str) -> ProjectPage | JbuildError | None:
        try:
            return inspector.page(project)
        except JbuildError as error:
            return error

    with session.console.task("reading the pages of the indexes", unit="steps"), TaskGroup(_AT_ONCE) as group:
        pages = dict(zip(projects, group.map(page, projects), strict=True))
    silent = tuple(name for name, found in pages.items() if isinstance(found, JbuildError))
    listed = {
        (entry.filename, entry.sha256): entry
        for found in pages.values()
        if found is not None and not isinstance(found, JbuildError)
        for entry in found.files
    }
    return list(_stated(files, listed)), silent


def _stated(files: Iterable[StoredFile], listed: dict[tuple[str, str | None], IndexFile]) -> Iterator[StoredFile]:
    for stored in files:
        entry = listed.get((stored.file.filename, stored.file.sha256))
        if entry:
            facts = replace(stored.file, yanked=entry.yanked, upload_time=entry.upload_time)
            yield replace(stored, file=facts)
        else:
            yield stored
