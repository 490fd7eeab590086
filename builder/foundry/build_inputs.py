"""The inputs of a build: sources besides the package's own, in folders that variables of its environment name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.foundry.build_source import lock_input_source, unpack_source
from builder.foundry.source_patches import apply_patch, lock_patches
from builder.host.files import atomic_folder
from builder.model.builds import BuildInput

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session
    from builder.model.builds import BuildSpec, LockedBuild

_FOLDER = "inputs"


def lock_build_inputs(spec: BuildSpec, session: Session) -> tuple[BuildInput, ...] | None:
    """Return the inputs of a build with their hashes, or None without any.

    Raises:
        LockError: a source or a patch cannot be read.
        IntegrityError: an archive has another sha256.
        NetworkError: a server does not answer.
    """
    inputs = tuple(
        BuildInput(
            variable=entry.variable,
            source=lock_input_source(entry, session),
            patches=lock_patches(entry.patches, spec.folder, session.workspace),
        )
        for entry in spec.inputs
    )
    return inputs or None


def unpack_inputs(build: LockedBuild, folder: Path, session: Session) -> None:
    """Write a build's inputs below its folder, with their patches; those of an interrupted build stay as they are.

    Raises:
        IntegrityError: an input is not the locked one.
        BuildError: a patch does not fit.
        NetworkError, DiskError: an input cannot be fetched or stored.
    """
    for entry in build.inputs or ():
        target = folder / _FOLDER / entry.variable
        if target.is_dir():
            continue
        with atomic_folder(target) as content:
            unpack_source(entry.source, content, session)
            for patch in entry.patches:
                apply_patch(patch, content, session.workspace)


def input_variables(build: LockedBuild) -> dict[str, str]:
    """Return the variables of a build's inputs: their folders in the sandbox."""
    return {entry.variable: f"/build/{_FOLDER}/{entry.variable}" for entry in build.inputs or ()}
