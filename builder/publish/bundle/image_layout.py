"""An image with its evidence as an OCI layout that skopeo, oras and `docker load` read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from builder.host.records import as_bytes
from builder.publish.bundle.members import BundleMember, text_member
from builder.remote.registry.cosign_images import CosignTag, cosign_image, cosign_tag
from builder.remote.registry.registry_client import OCI_INDEX, OCI_MANIFEST
from builder.remote.registry.upload import BytesBlob

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from builder.model.images import Image
    from builder.publish.evidence import Evidence
    from builder.publish.image_source import ImageSource
    from builder.remote.registry.upload import BlobSource

_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_HUB = "docker.io"
# What `cosign save` writes, so that `cosign verify --local-image FOLDER` reads the layout.
_COSIGN_KIND = "kind"
_COSIGN_KINDS: dict[str, str] = {
    "image": "dev.cosignproject.cosign/image",
    "sig": "dev.cosignproject.cosign/sigs",
    "att": "dev.cosignproject.cosign/atts",
}


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
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [_entry(image, name), *evidence_entries(image, evidence)],
        "annotations": annotations,
    }
    yield text_member("oci-layout", as_bytes({"imageLayoutVersion": "1.0.0"}))
    yield text_member("index.json", as_bytes(index))
    yield text_member("manifest.json", as_bytes(_docker_manifest(image, name)))
    blobs: list[BlobSource] = [BytesBlob(source.content)]
    for artifact in evidence.artifacts:
        blobs += [BytesBlob(artifact.manifest), *artifact.blobs]
    for _, images in _cosign_images(evidence):
        blobs += images
    blobs += sorted(source.blobs, key=lambda blob: (blob.size, blob.digest))
    for digest, blob in {blob.digest: blob for blob in blobs}.items():
        if digest not in missing:
            yield BundleMember(path=_blob_path(digest), blob=blob)


def evidence_entries(image: Image, evidence: Evidence) -> list[dict[str, Any]]:
    """Return the entries of the evidence in `index.json`: referrers, and cosign's images by their tags."""
    entries = [artifact.referrer.entry for artifact in evidence.artifacts]
    for tag, (manifest, *_) in _cosign_images(evidence):
        annotations = {_REF_NAME: cosign_tag(image.digest, tag), _COSIGN_KIND: _COSIGN_KINDS[tag]}
        described = {"mediaType": OCI_MANIFEST, "digest": manifest.digest, "size": manifest.size}
        entries.append({**described, "annotations": annotations})
    return entries


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _docker_manifest(image: Image, name: str) -> list[dict[str, Any]]:
    """Return the `manifest.json` of `docker save`."""
    paths = [_blob_path(layer.digest) for layer in image.layers]
    return [{"Config": _blob_path(image.config.digest), "RepoTags": [name], "Layers": paths}]


def _entry(image: Image, name: str) -> dict[str, Any]:
    """Return the image's entry in `index.json`; only this one has a name for Docker."""
    system, architecture = image.platform.split("/")[:2]
    kind = {_COSIGN_KIND: _COSIGN_KINDS["image"]}
    return {
        "mediaType": image.manifest.media_type,
        "digest": image.manifest.digest,
        "size": image.manifest.size,
        "platform": {"os": system, "architecture": architecture},
        "annotations": {_CONTAINERD_NAME: f"{_HUB}/{name}", _REF_NAME: name.rpartition(":")[2], **kind},
    }


def _cosign_images(evidence: Evidence) -> Iterator[tuple[CosignTag, list[BytesBlob]]]:
    """Yield cosign's images with signatures and attestations: the end of the tag, and the blobs, the manifest first."""
    for tag in get_args(CosignTag):
        layers = [layer for layer in evidence.cosign if layer.tag == tag]
        if layers:
            manifest, config = cosign_image([layer.layer for layer in layers])
            yield tag, [BytesBlob(manifest), config, *(BytesBlob(layer.content) for layer in layers)]
