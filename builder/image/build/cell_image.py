"""Builds a plan: BuildKit makes the system image, which alone runs anything, and our layers are packed onto it.

Where a template does more with our layers than to lay them down, BuildKit builds all of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.host import records
from builder.host.files import disk_errors, mark_used, write_text
from builder.image.build.base_blobs import base_image, fetch_layers
from builder.image.build.buildx import BuildRequest, build, options
from builder.image.build.system_pins import script_of
from builder.image.oci.assemble import assemble, own_layers
from builder.image.oci.layout import is_whole, mark_image_used
from builder.image.oci.pack import compression_key
from builder.image.render.context import stored_files
from builder.model.images import Image

if TYPE_CHECKING:
    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.model.locks import Job, Lock
    from builder.pipeline.cell import CellRun

_SYSTEM = "Dockerfile.system"
# BuildKit reads what a Dockerfile's context leaves out from a file of this name.
_IGNORE = ".dockerignore"
_FROM = re.compile(r"FROM ([^\s]+@sha256:[0-9a-f]{64})")


def build_image(
    run: CellRun, engine: Engine, *, builder: str | None, again: bool = False, fresh: bool = False
) -> Image:
    """Build a rendered cell into the workspace's layout and return the image.

    `builder` is a buildx builder or a docker context instead of the engine's own. With `again`, the builder is asked
    for a system image that we have; a `fresh` build runs every step of it.

    Raises:
        BuildError, EngineError, NetworkError, RegistryError, DiskError: by what failed.
    """
    job, lock, plan, session, folder = run.job, run.lock, run.plan, run.session, run.folder
    request = BuildRequest(
        folder=folder.path, platform=plan.platform, layout=session.workspace.images, builder=builder, fresh=fresh
    )
    if plan.system is None:
        session.console.say(
            f"{job.cell.id}: {job.spec.template} has instructions after jbuild's layers; "
            "BuildKit builds the whole image"
        )
        return build(job, request, engine, session)
    system = None if again or fresh else _find_system_image(lock, plan.system, session)
    system = system or _new_system_image(job, lock, plan.system, request, engine, session)
    external = stored_files(lock.models, session.workspace.models)
    image = assemble(plan, folder.layers, system, job.cell.id, session, external)
    mark_image_used(session.workspace.images, image)
    return image


def _find_system_image(lock: Lock, text: str, session: Session) -> Image | None:
    """Return the system image that another cell, or an earlier build, has left."""
    workspace, key = session.workspace, _key(lock, text, session)
    image = records.read(workspace.system(key), key, Image)
    if image is None or not is_whole(workspace.images, image):
        return None
    mark_used(workspace.system(key))
    return image


def _new_system_image(
    job: Job, lock: Lock, text: str, request: BuildRequest, engine: Engine, session: Session
) -> Image:
    workspace, key = session.workspace, _key(lock, text, session)
    image = build_system(job, lock, text, request, engine, session)
    records.write(workspace.system(key), key, image)
    return image


def _key(lock: Lock, text: str, session: Session) -> str:
    """Return what identifies a system image: cells whose Dockerfiles begin alike share it."""
    steps = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    made_from = (
        script_of(session.workspace),
        options(lock.platform.architecture),
        compression_key(session.config.compression),
    )
    return records.fingerprint(steps, made_from)[:32]


def build_system(job: Job, lock: Lock, text: str, request: BuildRequest, engine: Engine, session: Session) -> Image:
    """Build a Dockerfile that puts packages on a cell's base; the base's layers stay as its registry has them.

    Raises:
        BuildError, EngineError, NetworkError, RegistryError, DiskError: by what failed.
    """
    architecture = lock.platform.architecture
    steps = [line for line in text.splitlines() if line and not line.startswith("#")]
    if len(steps) == 1 and (only := _FROM.fullmatch(steps[0])):
        # A pinned system layer: there is nothing to run, and nothing that BuildKit is needed for.
        system = base_image(only[1], architecture, session)
        fetch_layers(system, only[1], session)
        return system
    with disk_errors(request.folder):
        write_text(request.folder / _SYSTEM, text)
        write_text(request.folder / f"{_SYSTEM}{_IGNORE}", "*\n!system\n")
    built = build(job, replace(request, dockerfile=_SYSTEM, passing=True), engine, session)
    pinned = f"{lock.base.used.rpartition('@')[0] or lock.base.used}@{lock.base.digest}"
    below = base_image(pinned, architecture, session)
    fetch_layers(below, pinned, session)
    return own_layers(built, below, job.cell.id, session)
