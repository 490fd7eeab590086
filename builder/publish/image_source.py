"""An image to publish, on disk or in a registry: its manifest is in memory, its blobs are read on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from builder.errors import IntegrityError, RegistryError
from builder.host.json_documents import decode_json
from builder.image.oci import layout as oci
from builder.remote.registry.manifests import parts_of
from builder.remote.registry.registry_client import INDEXES, RemoteBlob
from builder.remote.registry.upload import DiskBlob

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from builder.image.layers.layer_blobs import LayerBlobs
    from builder.image.oci.layout import MakeBlobs
    from builder.model.images import Descriptor, Image
    from builder.model.recipes import Pairs
    from builder.remote.registry.reference import Reference
    from builder.remote.registry.registry_client import RegistryClient
    from builder.remote.registry.upload import BlobSource

_BASE_NAME = "org.opencontainers.image.base.name"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource:
    """An image: its manifest's descriptor and bytes, its labels, and its distinct blobs, the largest first.

    `origins` are repositories with blobs of it, which their registries can mount. `provide` is called with the digests
    of blobs before they are opened, and raises IntegrityError if the cache lacks one.
    """

    manifest: Descriptor
    content: bytes
    labels: Pairs
    blobs: tuple[BlobSource, ...]
    origins: tuple[Reference, ...] = ()
    provide: MakeBlobs = field(default=lambda _: None, compare=False)

    @property
    def digest(self) -> str:
        """The image's digest."""
        return self.manifest.digest

    @property
    def base_name(self) -> str | None:
        """The base image's name, as the labels hold it."""
        return dict(self.labels).get(_BASE_NAME)


def layout_blob(layout: Path, digest: str, size: int) -> DiskBlob:
    """Return a blob of an OCI layout."""
    content, corruption = partial(oci.open_blob, layout, digest), partial(oci.find_corruption, layout, digest)
    return DiskBlob(digest, size, content, corruption)


def from_layout(
    image: Image, layout: Path, of_cell: LayerBlobs | None = None, origins: tuple[Reference, ...] = ()
) -> ImageSource:
    """Return a built image in its OCI layout; `of_cell` makes blobs that are missing, `origins` have some of them.

    Raises:
        IntegrityError: the layout does not hold the image.
    """

    def provide(digests: Collection[str]) -> None:
        if of_cell:
            of_cell.make(digests)
        for absent in oci.absent_blobs(layout, image):
            if absent.digest in digests:
                raise oci.absence(layout, absent.digest)

    if of_cell is None:
        provide([descriptor.digest for descriptor in oci.image_blobs(image)])
    elif missing := of_cell.missing(image):
        raise oci.absence(layout, min(missing))
    path = oci.blob(layout, image.digest)
    content = path.read_bytes()
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != image.digest:
        raise IntegrityError(
            "the built image's manifest is damaged", where=str(path), hint="build it again with --force"
        )
    blobs = [layout_blob(layout, blob.digest, blob.size) for blob in (*image.layers, image.config)]
    return ImageSource(
        manifest=image.manifest,
        content=content,
        labels=image.labels,
        blobs=ordered(blobs),
        origins=origins,
        provide=provide,
    )


def from_registry(client: RegistryClient, reference: Reference) -> ImageSource:
    """Return an image in a registry, by tag or digest.

    Raises:
        ImageMissingError: the registry does not have it.
        RegistryError: the registry refuses, or the reference is not a single image.
    """
    repository = reference.repository
    content, manifest = client.get_manifest(repository, reference.tag_or_digest)
    if manifest.media_type in INDEXES:
        raise RegistryError(
            "this is an index of several images, not a single image",
            where=str(reference),
            hint=f"name one of its images by digest: `docker buildx imagetools inspect {reference}` lists them",
        )
    blobs = [RemoteBlob(client, repository, part["digest"], part["size"]) for part in parts_of(content)]
    if not blobs:
        raise RegistryError("this is not an image manifest", where=str(reference), hint="is it a container image?")
    labels = labels_of(client.read_blob(repository, blobs[0].digest))
    return ImageSource(manifest=manifest, content=content, labels=labels, blobs=ordered(blobs), origins=(reference,))


def labels_of(config: bytes) -> Pairs:
    """Return the labels in an image's configuration, sorted; none for other artifacts."""
    try:
        labels = decode_json(config)["config"]["Labels"] or {}
        return tuple(sorted((str(name), str(value)) for name, value in labels.items()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def ordered(blobs: Iterable[BlobSource]) -> tuple[BlobSource, ...]:
    """Return distinct blobs, the largest first."""
    distinct: dict[str, BlobSource] = {blob.digest: blob for blob in blobs}
    return tuple(sorted(distinct.values(), key=lambda blob: (-blob.size, blob.digest)))
