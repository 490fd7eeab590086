"""Files of indexes that builds name, and sources, unpacked for a build."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
import zipfile
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from builder.errors import BuildError, IntegrityError, LockError
from builder.foundry.fetched_files import archive_input, fetch_inputs
from builder.foundry.source_trees import source_tree, vaulted_tree
from builder.host.files import disk_errors, temp_folder
from builder.host.source_hash import copy_source, source_hash
from builder.lock.inspect_index import default_address
from builder.lock.locked_tree import lock_tree
from builder.model.builds import BuildSource
from builder.remote.index.index_client import client_of
from builder.remote.index.listing import Address, Index, own_indexes

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import InputSpec
    from builder.remote.index.listing import IndexFile, ProjectPage

_DEFAULT = "default"


def lock_input_source(spec: InputSpec, session: Session) -> BuildSource:
    """Return the source of an input with its hash.

    Raises:
        LockError: the source does not exist.
        IntegrityError: an archive has another sha256.
        NetworkError: its server does not answer.
    """
    if spec.kind in ("folder", "git"):
        return lock_tree(spec.variable, spec.location, spec.commit, session)[0]
    source = BuildSource(kind="archive", location=spec.location, sha256=spec.sha256 or "")
    # Its size, and whether the recipe's sha256 is that of the file.
    (path,) = fetch_inputs([archive_input(source)], session)
    return dataclasses.replace(source, size=path.stat().st_size)


def unpack_source(source: BuildSource, folder: Path, session: Session) -> None:
    """Write a locked source into an empty folder.

    Raises:
        IntegrityError: it is not the locked one.
        NetworkError, DiskError: it cannot be fetched or stored.
    """
    if source.kind in ("sdist", "archive"):
        (archive,) = fetch_inputs([archive_input(source)], session)
        _unpack_archive(archive, folder)
    elif packed := vaulted_tree(source, session):
        _unpack_tree(packed, source, folder)
    else:
        tree = source_tree(source, session)
        with disk_errors(folder):
            copy_source(tree, folder)


def _unpack_tree(packed: Path, source: BuildSource, folder: Path) -> None:
    """Unpack the archive of a commit or folder, whose name has the hash of its content."""
    try:
        with disk_errors(folder), tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        same = source_hash(folder) == source.sha256
    except (tarfile.TarError, EOFError):
        same = False
    if not same:
        raise IntegrityError(
            "the archive of the source has another content than was locked",
            where=str(packed),
            hint="remove the file; if it comes from a vault, write that again where the source is",
        )


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
