"""Patches: files of the recipe, kept by their hash and applied with Git."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from builder.errors import BuildError, IntegrityError, LockError, ProgramFailedError
from builder.host.files import write_bytes
from builder.host.process import run
from builder.model.builds import BuildPatch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.host.paths import Workspace


def lock_patches(names: Iterable[str], folder: Path, workspace: Workspace) -> tuple[BuildPatch, ...]:
    """Return a recipe's patches, relative to its folder, with their hashes; the cache keeps a copy of each.

    Raises:
        LockError: a patch cannot be read.
    """
    patches: list[BuildPatch] = []
    for name in names:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            where = str(folder / name)
            raise LockError(
                f"a patch cannot be read: {error.strerror}", where=where, hint="correct the recipe"
            ) from error
        sha256 = hashlib.sha256(content).hexdigest()
        path = _copy(sha256, workspace)
        if not path.is_file():
            write_bytes(path, content)
        patches.append(BuildPatch(name=name, sha256=sha256))
    return tuple(patches)


def patch_file(patch: BuildPatch, workspace: Workspace) -> Path:
    """Return the file of a locked patch: the cache's copy, or that of the project or of the shipped recipes.

    Raises:
        IntegrityError: none has the locked content.
    """
    copy = _copy(patch.sha256, workspace)
    folders = (workspace.project, *workspace.recipe_folders)
    for path in (copy, *(folder / patch.name for folder in folders)):
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == patch.sha256:
            return path
    raise IntegrityError(
        "the patch has changed since it was locked, or is missing",
        where=patch.name,
        hint="run `jbuild lock` again to take its present content",
    )


def apply_patch(patch: BuildPatch, source: Path, workspace: Workspace) -> None:
    """Apply a patch to a source.

    Raises:
        BuildError: it does not fit the source.
    """
    path = patch_file(patch, workspace)
    # Without the limit, Git would take the source as a part of a repository around the cache.
    environment = {"GIT_CEILING_DIRECTORIES": str(source.parent)}
    try:
        run(["git", "apply", "--whitespace=nowarn", str(path)], cwd=source, env=environment)
    except ProgramFailedError as error:
        raise BuildError(
            "the patch does not fit the source",
            where=patch.name,
            hint="make it again for this version: `git diff` in the unpacked source",
            log=error.output,
        ) from error


def _copy(sha256: str, workspace: Workspace) -> Path:
    return workspace.foundry / "patches" / f"{sha256}.patch"
