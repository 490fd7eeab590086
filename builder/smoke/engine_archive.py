"""Streams an image of an OCI layout as a tar archive that every Docker engine can load."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

from builder.image.oci.layout import image_blobs, open_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from builder.model.images import Descriptor, Image

_BLOCK = 1 << 20


def stream(
    image: Image,
    layout: Path,
    name: str,
    on_bytes: Callable[[float], None],
    without: Collection[str] = (),
) -> Iterator[bytes]:
    """Yield the tar of an image of a layout, under a name such as `repository:tag`, without the blobs of `without`.

    Engines with containerd's store read `index.json`, the others `manifest.json`.
    `on_bytes` gets the number of bytes read.
    """
    yield from _file("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
    yield from _file("index.json", index(image, name))
    yield from _file("manifest.json", docker_manifest(image, name))
    for blob in image_blobs(image):
        if blob.digest in without:
            on_bytes(blob.size)
        else:
            yield from _blob(blob, layout, on_bytes)
    yield bytes(2 * tarfile.BLOCKSIZE)


def index(image: Image, name: str) -> bytes:
    """Return the `index.json` of a layout with only this image."""
    system, architecture = image.platform.split("/")[:2]
    manifest = {
        "mediaType": image.manifest.media_type,
        "digest": image.manifest.digest,
        "size": image.manifest.size,
        "platform": {"os": system, "architecture": architecture},
        "annotations": {
            "io.containerd.image.name": f"docker.io/library/{name}",
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        },
    }
    media_type = "application/vnd.oci.image.index.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [manifest]}).encode()


def docker_manifest(image: Image, name: str) -> bytes:
    """Return the `manifest.json` of `docker save`."""
    layers = [_path(layer) for layer in image.layers]
    return json.dumps([{"Config": _path(image.config), "RepoTags": [name], "Layers": layers}]).encode()


def _path(blob: Descriptor) -> str:
    return "blobs/" + blob.digest.replace(":", "/", 1)


def _blob(blob: Descriptor, layout: Path, on_bytes: Callable[[float], None]) -> Iterator[bytes]:
    yield _header(_path(blob), blob.size)
    with open_blob(layout, blob.digest) as file:
        while block := file.read(_BLOCK):
            on_bytes(len(block))
            yield block
    yield _padding(blob.size)


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data))
    yield data
    yield _padding(len(data))


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 else tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
