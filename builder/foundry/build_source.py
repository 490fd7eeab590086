"""Files of indexes that builds name, and sources, unpacked for a build."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.errors import BuildError, IntegrityError, LockError
from builder.foundry.fetched_files import archive_input, fetch_inputs
from builder.host.files import disk_errors, temp_folder
from builder.host.source_hash import copy_source, source_hash
from builder.lock.git_commit import checkout
from builder.lock.inspect_index import default_address
from builder.remote.index.index_client import client_of
from builder.remote.index.listing import Address, Index, own_indexes

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import BuildSource
    from builder.remote.index.listing import IndexFile, ProjectPage

_DEFAULT = "default"


def unpack_source(source: BuildSource, folder: Path, project: Path, session: Session) -> None:
    """Write a locked source into an empty folder.

    Raises:
        IntegrityError: it is not the locked one.
        NetworkError, DiskError: it cannot be fetched or stored.
    """
    if source.kind == "sdist":
        (archive,) = fetch_inputs([archive_input(source)], session)
        _unpack_archive(archive, folder)
        return
    origin = (
        project / source.location
        if source.kind == "folder"
        else checkout(source.location, source.commit or "", session)
    )
    if not origin.is_dir():
        raise LockError("the source is not a folder", where=str(origin), hint="put it back, or run `jbuild lock` again")
    if source_hash(origin) != source.sha256:
        raise IntegrityError(
            "the source has changed since it was locked",
            where=str(origin),
            hint="run `jbuild lock` again to take its present content",
        )
    with disk_errors(folder):
        copy_source(origin, folder)


def _page(name: str, session: Session) -> ProjectPage:
    client = client_of(session.config, session.workspace.index_states)
    for index in (*own_indexes(), *_default_index(session)):
        page = client.page(index, str(canonicalize_name(name)))
        if page:
            return page
    raise LockError(f"no index has {name}", hint="name its repository: `source = { git = …, commit = … }`")


@lru_cache(maxsize=4)
def _default_index(session: Session) -> tuple[Index, ...]:
    """Return uv's default index, whose address uv itself is asked for; cached, since that takes a second."""
    url = default_address(session)
    return (Index(name=_DEFAULT, addresses=(Address(url=url),)),) if url else ()


def project_files(name: str, session: Session) -> tuple[IndexFile, ...]:
    """Return the files that the index of a project has.

    Raises:
        LockError: no index has the project.
        NetworkError: an index does not answer.
    """
    return _page(name, session).files


def index_file(filename: str, session: Session) -> IndexFile:
    """Return a wheel of an index by its file name.

    Raises:
        LockError: no index has it.
        NetworkError: an index does not answer.
    """
    page = _page(filename.split("-", maxsplit=1)[0], session)
    file = next((file for file in page.files if file.filename == filename), None)
    if file is None:
        raise LockError(f"the index lacks {filename}", where=page.url, hint="use an index that has it")
    return file


def _unpack_archive(archive: Path, folder: Path) -> None:
    """Unpack an archive without its top folder."""
    with disk_errors(folder), temp_folder(folder.parent, "unpacked") as scratch:
        try:
            if archive.name.endswith(".zip"):
                with zipfile.ZipFile(archive) as members:
                    members.extractall(scratch)  # noqa: S202  # zipfile drops `..` and absolute paths
            else:
                with tarfile.open(archive) as tarball:
                    tarball.extractall(scratch, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise BuildError(
                f"the source archive is damaged: {error}", where=archive.name, hint="tell its authors"
            ) from error
        entries = list(scratch.iterdir())
        top = entries[0] if len(entries) == 1 and entries[0].is_dir() else scratch
        for entry in top.iterdir():
            shutil.move(entry, folder / entry.name)
