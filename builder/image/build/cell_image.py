"""Builds a plan: BuildKit makes the system image, which alone runs anything, and our layers are packed onto it.

Where a template does more with our layers than to lay them down, BuildKit builds all of it. The layers of the base
come from its registry: BuildKit may have repacked its own copy.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError, RegistryError
from builder.host import records
from builder.host.concurrency import CancelToken, StoppedError, TaskGroup, map_with_progress
from builder.host.files import disk_errors, mark_used, temp_file, write_text
from builder.host.interpreters import find_compiler
from builder.host.json_documents import decode_json
from builder.host.process import end_all
from builder.image.build.buildx import SYSTEM_DOCKERFILE, BuildRequest, build, options
from builder.image.build.model_infos import with_model_infos
from builder.image.build.system_pins import pinned_base, script_of
from builder.image.layers.cell_layers import cell_layers
from builder.image.layers.pack_layers import pack_layers
from builder.image.layers.standalone import make_folders
from builder.image.oci.assemble import assemble, own_layers
from builder.image.oci.layout import blob, is_present, is_whole, mark_image_used, put_image
from builder.image.oci.pack import compression_key
from builder.model.images import Descriptor, Image
from builder.models.fetch import fetch_models
from builder.remote.registry.base_lookup import base_registry, connect_in, image_manifest
from builder.remote.registry.reference import Reference
from builder.remote.registry.registry_failures import ImageMissingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.engine.docker import Engine
    from builder.host.session import Session
    from builder.image.layers.cell_layers import CellLayers
    from builder.image.oci.pack import Packed
    from builder.model.locks import Job, Lock
    from builder.pipeline.cell import CellRun
    from builder.remote.registry.registry_client import RegistryClient

_FROM = re.compile(r"FROM ([^\s]+@sha256:[0-9a-f]{64})")
_LAYER = "application/vnd.oci.image.layer.v1.tar"
# Docker's old media types, which are not valid in OCI manifests.
_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{_LAYER}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": _LAYER,
}
_AT_ONCE = 4


def build_image(
    run: CellRun, engine: Engine, *, builder: str | None, again: bool = False, fresh: bool = False
) -> Image:
    """Build a rendered cell into the workspace's layout, add the model infos of its models, and return the image.

    `builder` is a buildx builder or a docker context instead of the engine's own. With `again`, the builder is asked
    for a system image that we have; a `fresh` build runs every step of it.

    Raises:
        BuildError, EngineError, NetworkError, RegistryError, DiskError: by what failed.
    """
    image = _without_infos(run, engine, BuildRequest(folder=run.folder.path, builder=builder, fresh=fresh), again=again)
    image = with_model_infos(run, image, engine)
    mark_image_used(run.session.workspace.images, image)
    return image


def _without_infos(run: CellRun, engine: Engine, request: BuildRequest, *, again: bool) -> Image:
    job, lock, plan, session, folder = run.job, run.lock, run.plan, run.session, run.folder
    compiler = find_compiler(lock.platform.python, lock.compiler, session.workspace.interpreters)
    layers = cell_layers(job, lock, compiler, session)
    if plan.layers != tuple(layer.name for layer in layers.all):
        hint = "run `jbuild render RECIPE --force`, then the same command again"
        raise BuildError(f"{job.name}: the rendered layers are out of date", where=str(folder.path), hint=hint)
    if plan.system is None:
        make_folders(layers, folder.layers, job.cell.id, session)
        session.console.say(
            f"{job.cell.id}: {job.spec.template} has instructions after jbuild's layers; "
            "BuildKit builds the whole image"
        )
        return build(job, request, engine, session)
    system, packed = _together(
        partial(_system_image, run, plan.system, request, engine, again=again or request.fresh),
        partial(_packed_layers, run, layers),
        session.console.cancel,
    )
    return assemble(plan, packed, system, session.workspace.images)


def _together(
    system: Callable[[], Image], packed: Callable[[CancelToken], tuple[Packed, ...]], stop: Callable[[], object]
) -> tuple[Image, tuple[Packed, ...]]:
    """Return the system image and the packed layers, made at the same time; a failure of the first ends the other."""
    token = CancelToken()
    # The system image may be another process's work: it has no steps between which it could end.
    with TaskGroup(1, grace_s=None) as group:
        future = group.submit(system)
        future.add_done_callback(lambda done: token.cancel() if done.exception() else None)
        try:
            layers = packed(token)
            return future.result(), layers
        except StoppedError:
            future.result()
            raise
        except KeyboardInterrupt:
            # The thread does not see it: end its programs, and stop it at its next step of progress.
            stop()
            end_all()
            raise


def _system_image(run: CellRun, text: str, request: BuildRequest, engine: Engine, *, again: bool) -> Image:
    """Return the system image of a Dockerfile's beginning; another cell, or an earlier build, may have left it."""
    lock, session = run.lock, run.session
    workspace, key = session.workspace, _key(lock, text, session)
    system = None if again else records.read(workspace.system(key), key, Image)
    if system and is_whole(workspace.images, system):
        mark_used(workspace.system(key))
        return system
    with session.console.working_on(run.job.cell.id):
        system = build_system(run.job, lock, text, request, engine, session)
    records.write(workspace.system(key), key, system)
    return system


def _packed_layers(run: CellRun, layers: CellLayers, token: CancelToken) -> tuple[Packed, ...]:
    # The store may have lost files since the plan was made.
    fetch_models(run.job, run.lock, run.session)
    return pack_layers(layers.all, layers.compiler, run.job.cell.id, run.session, token)


def _key(lock: Lock, text: str, session: Session) -> str:
    """Return what identifies a system image: cells whose Dockerfiles begin alike share it."""
    steps = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    made_from = (
        script_of(session.workspace),
        options(lock.platform.architecture),
        compression_key(session.config.layers),
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
        return base_image(only[1], architecture, session)
    with disk_errors(request.folder):
        write_text(request.folder / SYSTEM_DOCKERFILE, text)
        # BuildKit reads what a Dockerfile's context leaves out from a file of this name.
        write_text(request.folder / f"{SYSTEM_DOCKERFILE}.dockerignore", "*\n!system\n")
    built = build(job, replace(request, system=True), engine, session)
    return own_layers(built, base_image(pinned_base(lock), architecture, session), job.cell.id, session)


def base_image(pinned: str, architecture: str, session: Session) -> Image:
    """Return a base image (`host/repository@sha256:…`, after mirror rules), after fetching missing layers.

    Raises:
        NetworkError: its registry does not answer.
        RegistryError, IntegrityError: it cannot be read, or a layer does not match its digest.
        DiskError: it cannot be stored.
    """
    with base_registry(pinned):
        return _with_layers(_described(pinned, architecture, session), pinned, session)


def _with_layers(image: Image, pinned: str, session: Session) -> Image:
    layout = session.workspace.images
    missing = {layer.digest: layer for layer in image.layers if not is_present(layout, layer)}
    if not missing:
        return image
    reference = Reference.parse(pinned)
    client, title = connect_in(session, reference), f"fetching the layers of {reference.name}"
    with session.console.task(title, float(sum(layer.size for layer in missing.values())), unit="B") as task:
        map_with_progress(
            lambda layer, progress: _fetch(client, reference.repository, layer, layout, progress.advance),
            list(missing.values()),
            task.advance,
            _AT_ONCE,
        )
    return image


def _described(pinned: str, architecture: str, session: Session) -> Image:
    """Return a base image, possibly without its layers."""
    workspace = session.workspace
    # By digest alone: it is the same from any mirror.
    key = records.fingerprint("base", pinned.rpartition("@")[2], architecture)[:32]
    cached = records.read(workspace.system(key), key, Image)
    if cached and all(is_present(workspace.images, descriptor) for descriptor in (cached.manifest, cached.config)):
        mark_used(workspace.system(key))
        mark_used(blob(workspace.images, cached.digest))
        return cached
    reference = Reference.parse(pinned)
    client = connect_in(session, reference)
    try:
        document = decode_json(image_manifest(client, reference, architecture))
        config = client.read_blob(reference.repository, document["config"]["digest"])
        layers = [_descriptor(layer) for layer in document["layers"]]
        decode_json(config)["rootfs"]["diff_ids"][len(layers) - 1]
    except ImageMissingError as error:
        hint = "`jbuild lock --force` looks up the base again; `jbuild system --force` builds a system layer again"
        raise ImageMissingError(
            f"the base image is no longer in its registry: {error.message}", where=pinned, hint=hint
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        hint = "check that it is a container image with `docker buildx imagetools inspect`"
        raise RegistryError("the base image's manifest is not valid", where=pinned, hint=hint) from error
    image = put_image(workspace.images, config, layers, f"linux/{architecture}")
    records.write(workspace.system(key), key, image)
    return image


def _fetch(
    client: RegistryClient, repository: str, layer: Descriptor, layout: Path, advance: Callable[[float], None]
) -> None:
    target = blob(layout, layer.digest)
    with disk_errors(target), temp_file(target.parent) as temporary:
        with temporary.open("wb") as file:

            def write(block: bytes) -> None:
                file.write(block)
                advance(len(block))

            client.get_blob(repository, layer.digest, write)
        temporary.replace(target)


def _descriptor(layer: dict[str, Any]) -> Descriptor:
    kind = str(layer["mediaType"])
    digest = str(layer["digest"])
    if len(bytes.fromhex(digest.removeprefix("sha256:"))) != hashlib.sha256().digest_size:
        raise ValueError("not a digest")
    return Descriptor(media_type=_TYPES.get(kind, kind), digest=digest, size=int(layer["size"]))
