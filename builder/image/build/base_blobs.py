"""The image that a cell is built on, as its registry has it: blob by blob, for BuildKit may have packed it anew."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from builder.errors import RegistryError
from builder.host import records
from builder.host.concurrency import map_with_progress
from builder.host.files import disk_errors, mark_used, temp_file
from builder.image.oci.layout import blob, is_present, put, put_image, read_image
from builder.model.images import Descriptor, Image
from builder.remote.registry.base_lookup import connect_to, image_manifest
from builder.remote.registry.errors import ImageMissingError
from builder.remote.registry.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.remote.registry.registry_client import RegistryClient

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
# The old types of Docker's own, which no manifest of OCI's may name.
_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{_LAYER}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": _LAYER,
}
_AT_ONCE = 4


def base_image(pinned: str, architecture: str, session: Session) -> Image:
    """Return a base image (`host/repository@sha256:…`, after mirror rules); its layers may still be missing here.

    Raises:
        RegistryError: it cannot be read.
        DiskError: it cannot be kept.
    """
    workspace, platform = session.workspace, f"linux/{architecture}"
    # By digest alone: whichever mirror it comes from, it is the same.
    key = records.fingerprint("base", pinned.rpartition("@")[2], architecture)[:32]
    found = records.read(workspace.system(key), key, Image)
    if found and all(is_present(workspace.images, part) for part in (found.manifest, found.config)):
        mark_used(workspace.system(key))
        mark_used(blob(workspace.images, found.digest))
        return found
    reference = Reference.parse(pinned)
    client = connect_to(reference, session.config)
    try:
        document = json.loads(image_manifest(client, reference, architecture))
        config = client.read_blob(reference.repository, document["config"]["digest"])
        layers = [_descriptor(layer) for layer in document["layers"]]
        json.loads(config)["rootfs"]["diff_ids"][len(layers) - 1]
    except ImageMissingError as error:
        hint = "`jbuild lock --force` looks the base up again; a system layer is made again by `jbuild system --force`"
        raise ImageMissingError(
            f"the image to build on is not in its registry any more: {error.message}", where=pinned, hint=hint
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        hint = "is it a container image? `docker buildx imagetools inspect` shows what it is"
        raise RegistryError("the base image's manifest cannot be understood", where=pinned, hint=hint) from error
    digest = put_image(workspace.images, put(workspace.images, config, _CONFIG), layers).digest
    made = read_image(workspace.images, digest, platform)
    records.write(workspace.system(key), key, made)
    return made


def fetch_layers(image: Image, pinned: str, session: Session) -> None:
    """Fetch those layers of a base image that the layout lacks.

    Raises:
        RegistryError, IntegrityError: a layer cannot be had, or is another.
        DiskError: it cannot be kept.
    """
    layout = session.workspace.images
    missing = {layer.digest: layer for layer in image.layers if not is_present(layout, layer)}
    if not missing:
        return
    reference = Reference.parse(pinned)
    client, title = connect_to(reference, session.config), f"fetching the layers of {reference.name}"
    with session.console.task(title, float(sum(layer.size for layer in missing.values())), unit="B") as task:
        map_with_progress(
            lambda layer, progress: _fetch(client, reference.repository, layer, layout, progress.advance),
            list(missing.values()),
            task.advance,
            _AT_ONCE,
        )


def _fetch(
    client: RegistryClient, repository: str, layer: Descriptor, layout: Path, advance: Callable[[float], None]
) -> None:
    target = blob(layout, layer.digest)
    with disk_errors(target), temp_file(target.parent) as temporary:
        with temporary.open("wb") as file:

            def take(block: bytes) -> None:
                file.write(block)
                advance(len(block))

            client.get_blob(repository, layer.digest, take)
        temporary.replace(target)


def _descriptor(layer: dict[str, Any]) -> Descriptor:
    kind = str(layer["mediaType"])
    digest = str(layer["digest"])
    if len(bytes.fromhex(digest.removeprefix("sha256:"))) != hashlib.sha256().digest_size:
        raise ValueError("not a digest")
    return Descriptor(media_type=_TYPES.get(kind, kind), digest=digest, size=int(layer["size"]))
