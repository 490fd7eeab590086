"""An image with its evidence as an OCI layout that skopeo, oras and `docker load` read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from builder.host.records import as_bytes
from builder.publish.attachments import cosign_image, cosign_tag
from builder.publish.bundle.members import BundleMember, text_member
from builder.publish.evidence import CosignTag
from builder.remote.registry.registry_client import OCI_INDEX, OCI_MANIFEST
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from builder.model.images import Descriptor, Image
    from builder.publish.evidence import Evidence
    from builder.publish.image_source import ImageSource
    from builder.remote.registry.upload import BlobSource

_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_HUB = "docker.io"


def layout_members(
    image: Image,
    name: str,
    source: ImageSource,
    evidence: Evidence,
    missing: Collection[str],
    annotations: dict[str, str],
) -> Iterator[BundleMember]:
    """Yield the files of the layout, the large blobs last, without the blobs with the digests of `missing`.

    `name` is the image's, such as `jbuild/RECIPE:CELL`; `annotations` are those of `index.json`.
    """
    cosign = dict(_cosign_images(image, evidence))
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            _entry(image, name),
            *(artifact.referrer.entry for artifact in evidence.artifacts),
            *(_cosign_entry(tag, manifest) for tag, (manifest, *_) in cosign.items()),
        ],
        "annotations": annotations,
    }
    yield text_member("oci-layout", as_bytes({"imageLayoutVersion": "1.0.0"}))
    yield text_member("index.json", as_bytes(index))
    yield text_member("manifest.json", as_bytes(docker_manifest(image, name)))
    blobs: list[BlobSource] = [BytesBlob(source.content)]
    for artifact in evidence.artifacts:
        blobs += [BytesBlob(artifact.manifest), *artifact.blobs]
    blobs += [blob for images in cosign.values() for blob in images]
    blobs += sorted(source.blobs, key=lambda blob: (blob.size, blob.digest))
    yield from _blob_members(blobs, missing)


def blob_path(digest: str) -> str:
    """Return the path of a blob in a layout."""
    return "blobs/" + digest.replace(":", "/", 1)


def docker_manifest(image: Image, name: str) -> list[dict[str, Any]]:
    """Return the `manifest.json` of `docker save`."""
    paths = [blob_path(layer.digest) for layer in image.layers]
    return [{"Config": blob_path(image.config.digest), "RepoTags": [name], "Layers": paths}]


def _entry(image: Image, name: str) -> dict[str, Any]:
    """Return the image's entry in `index.json`; only this one has a name for Docker."""
    system, architecture = image.platform.split("/")[:2]
    return {
        **_described(image.manifest),
        "platform": {"os": system, "architecture": architecture},
        "annotations": {_CONTAINERD_NAME: f"{_HUB}/{name}", _REF_NAME: name.rpartition(":")[2]},
    }


def _described(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _cosign_images(image: Image, evidence: Evidence) -> Iterator[tuple[str, list[BytesBlob]]]:
    """Yield cosign's images with signatures and attestations: tag, and the blobs, the manifest first."""
    for tag in get_args(CosignTag):
        layers = [layer for layer in evidence.cosign if layer.tag == tag]
        if layers:
            manifest, config = cosign_image([layer.layer for layer in layers])
            blobs = [BytesBlob(manifest), config, *(BytesBlob(layer.content) for layer in layers)]
            yield cosign_tag(image.digest, tag), blobs


def _cosign_entry(tag: str, manifest: BytesBlob) -> dict[str, Any]:
    described = {"mediaType": OCI_MANIFEST, "digest": manifest.digest, "size": manifest.size}
    return {**described, "annotations": {_REF_NAME: tag}}


def _blob_members(blobs: Iterable[BlobSource], missing: Collection[str]) -> Iterator[BundleMember]:
    distinct = {blob.digest: blob for blob in blobs}
    for digest, blob in distinct.items():
        if digest not in missing:
            yield BundleMember(path=blob_path(digest), blob=blob)
