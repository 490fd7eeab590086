"""Locks a folder of the project, or a commit of a Git repository, as the source of a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import LockError
from builder.host.source_hash import source_hash
from builder.lock.git_commit import checkout
from builder.model.builds import BuildSource

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session


def lock_tree(owner: str, location: str, commit: str | None, session: Session) -> tuple[BuildSource, Path]:
    """Return a source with its hash, and the folder of its files.

    `owner` is the package or variable that names the source in the recipe. `location` is a folder of the project, or,
    with a `commit`, the address of a repository.

    Raises:
        LockError: the folder or commit does not exist, or the folder is outside the project.
        EngineError: git is missing.
    """
    if commit:
        tree = checkout(location, commit, session)
        return BuildSource(kind="git", location=location, sha256=source_hash(tree), commit=commit), tree
    folder = _project_folder(owner, location, session)
    return BuildSource(kind="folder", location=location, sha256=source_hash(folder)), folder


def _project_folder(owner: str, location: str, session: Session) -> Path:
    project = session.workspace.project.resolve()
    folder = (project / location).resolve()
    problem = f"the source of {owner}, folder {location},"
    if not folder.is_dir():
        hint = "`folder` in the recipe is relative to the project"
        raise LockError(f"{problem} does not exist", where=str(folder), hint=hint)
    if not folder.is_relative_to(project):
        hint = "copy the folder into the project"
        raise LockError(f"{problem} is a link out of the project", where=str(folder), hint=hint)
    return folder
