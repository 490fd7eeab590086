"""Commits and folders as single files, for vaults: archives that are named by the hash of their content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import IntegrityError, LockError
from builder.host.files import atomic_file, disk_errors
from builder.host.source_hash import pack_source, source_hash
from builder.lock.git_commit import checkout, is_checked_out
from builder.remote.vault.vaulted_files import fetch_from_vault, fetch_vaulted

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import BuildSource


def source_tree(source: BuildSource, session: Session) -> Path:
    """Return the folder with the content of a commit or of a folder, as it was locked.

    Raises:
        IntegrityError: it has changed.
        LockError: it does not exist, or cannot be fetched.
    """
    if source.kind == "folder":
        origin = session.workspace.project / source.location
    else:
        origin = checkout(source.location, source.commit or "", session)
    if not origin.is_dir():
        raise LockError("the source is not a folder", where=str(origin), hint="put it back, or run `jbuild lock` again")
    if source_hash(origin) != source.sha256:
        raise IntegrityError(
            "the source has changed since it was locked",
            where=str(origin),
            hint="run `jbuild lock` again to take its present content",
        )
    return origin


def packed_tree(source: BuildSource, session: Session) -> Path:
    """Return the archive of a commit or of a folder, after making it.

    Raises:
        IntegrityError, LockError: the source is not there, or not as it was locked.
        DiskError: the archive cannot be written.
    """
    path = session.workspace.source(source.sha256, packed_name(source))
    if not path.is_file():
        tree = source_tree(source, session)
        with disk_errors(path), atomic_file(path) as partial:
            pack_source(tree, partial)
    return path


def vaulted_tree(source: BuildSource, session: Session) -> Path | None:
    """Return the archive of a source that is not on this machine, out of the cache or a vault; None if neither has it.

    Its content is not checked yet.
    """
    if source.kind == "folder":
        present = (session.workspace.project / source.location).is_dir()
    else:
        present = is_checked_out(source.location, source.commit or "", session)
    path = session.workspace.source(source.sha256, packed_name(source))
    if present:
        return None
    if path.is_file() or fetch_from_vault(None, path.name, session, lambda found: fetch_vaulted(found, path)):
        return path
    return None


def packed_name(source: BuildSource) -> str:
    """Return the name of the archive of a source."""
    return f"{source.sha256}.tar"
