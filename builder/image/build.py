"""Builds a plan: BuildKit makes the system image, which alone runs anything, and our layers are packed onto it.

Where a template does more with our layers than to lay them down, BuildKit builds all of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from filelock import FileLock

from builder import records
from builder.image.assemble import assemble, own_layers
from builder.image.buildx import Request, build, options
from builder.image.layout import blob, is_whole
from builder.image.model import Image
from builder.image.pack import how
from builder.image.system import script_of
from builder.workspace import disk_errors, mark_used, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from builder.engine import Engine
    from builder.image.model import Plan
    from builder.resolve.model import Job, Lock
    from builder.session import Session

_SYSTEM = "Dockerfile.system"
_BASE = "Dockerfile.base"
# BuildKit reads what a Dockerfile's context leaves out from a file of this name.
_IGNORE = ".dockerignore"


def build_image(
    job: Job, lock: Lock, plan: Plan, engine: Engine, session: Session, *, builder: str | None, fresh: bool = False
) -> Image:
    """Build a rendered cell into the workspace's layout and return the image.

    `builder` is a buildx builder or a docker context instead of the engine's own. A `fresh` build runs every step.

    Raises:
        BuildError, EngineError, NetworkError, RegistryError, DiskError: by what failed.
    """
    folder = session.workspace.cell(job.recipe.name, job.cell.id)
    request = Request(
        folder=folder.path, platform=plan.platform, layout=session.workspace.images, builder=builder, fresh=fresh
    )
    if plan.system is None:
        return build(job, request, engine, session)
    system = _system(job, lock, plan.system, request, engine, session)
    image = assemble(plan, folder.layers, system, job.cell.id, session)
    mark_used(blob(session.workspace.images, image.digest))
    return image


def _system(job: Job, lock: Lock, text: str, request: Request, engine: Engine, session: Session) -> Image:
    """Return the system image, which cells with the same beginning of their Dockerfiles share."""
    workspace, compression = session.workspace, session.config.compression
    steps = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    made_from = (steps, script_of(workspace), options(lock.platform.architecture), how(compression))
    key = records.fingerprint(*made_from)[:32]
    with disk_errors(workspace.locks_in_use):
        workspace.locks_in_use.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.locks_in_use / f"system-{key}"):
        found = None if request.fresh else records.read(workspace.system(key), key, Image)
        if found and is_whole(workspace.images, found):
            mark_used(workspace.system(key))
            return found
        made = build_system(job, lock, text, request, engine, session)
        records.write(workspace.system(key), key, made)
    return made


def build_system(job: Job, lock: Lock, text: str, request: Request, engine: Engine, session: Session) -> Image:
    """Build a Dockerfile that puts packages on a cell's base; the base's layers stay as its registry has them.

    Raises:
        BuildError, EngineError, NetworkError, RegistryError, DiskError: by what failed.
    """
    _write(request.folder, _SYSTEM, text, ignored="*\n!system\n")
    made = build(job, replace(request, dockerfile=_SYSTEM, keep=True), engine, session)
    if "\nRUN " not in text:
        # A pinned system layer: all its layers are in a registry as they are.
        return made
    base = f"{lock.base.used.rpartition('@')[0] or lock.base.used}@{lock.base.digest}"
    _write(request.folder, _BASE, f"FROM {base}\n", ignored="*\n")
    below = build(job, replace(request, dockerfile=_BASE, keep=True, fresh=False), engine, session)
    return own_layers(made, below, job.cell.id, session)


def _write(folder: Path, name: str, text: str, *, ignored: str) -> None:
    with disk_errors(folder):
        write_text(folder / name, text)
        write_text(folder / f"{name}{_IGNORE}", ignored)
