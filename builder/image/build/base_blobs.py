"""A cell's base image, with the blobs of its registry: BuildKit may have repacked its own copy."""

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
from builder.remote.registry.reference import Reference
from builder.remote.registry.transport import ImageMissingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.host.session import Session
    from builder.remote.registry.registry_client import RegistryClient

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
# Docker's old media types, which are not valid in OCI manifests.
_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{_LAYER}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": _LAYER,
}
_AT_ONCE = 4


def base_image(pinned: str, architecture: str, session: Session) -> Image:
    """Return a base image (`host/repository@sha256:…`, after mirror rules), possibly without its layers.

    Raises:
        RegistryError: it cannot be read.
        DiskError: it cannot be stored.
    """
    workspace, platform = session.workspace, f"linux/{architecture}"
    # By digest alone: it is the same from any mirror.
    key = records.fingerprint("base", pinned.rpartition("@")[2], architecture)[:32]
    cached = records.read(workspace.system(key), key, Image)
    if cached and all(is_present(workspace.images, descriptor) for descriptor in (cached.manifest, cached.config)):
        mark_used(workspace.system(key))
        mark_used(blob(workspace.images, cached.digest))
        return cached
    reference = Reference.parse(pinned)
    client = connect_to(reference, session.config)
    try:
        document = json.loads(image_manifest(client, reference, architecture))
        config = client.read_blob(reference.repository, document["config"]["digest"])
        layers = [_descriptor(layer) for layer in document["layers"]]
        json.loads(config)["rootfs"]["diff_ids"][len(layers) - 1]
    except ImageMissingError as error:
        hint = "`jbuild lock --force` looks up the base again; `jbuild system --force` builds a system layer again"
        raise ImageMissingError(
            f"the base image is no longer in its registry: {error.message}", where=pinned, hint=hint
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        hint = "check that it is a container image with `docker buildx imagetools inspect`"
        raise RegistryError("the base image's manifest is not valid", where=pinned, hint=hint) from error
    digest = put_image(workspace.images, put(workspace.images, config, _CONFIG), layers).digest
    image = read_image(workspace.images, digest, platform)
    records.write(workspace.system(key), key, image)
    return image


def fetch_layers(image: Image, pinned: str, session: Session) -> None:
    """Fetch the layers of a base image that are not in the layout.

    Raises:
        RegistryError, IntegrityError: a layer cannot be fetched, or does not match its digest.
        DiskError: it cannot be stored.
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
