"""Reads an image and its evidence from a bundle's layout, to push them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from builder.errors import IntegrityError
from builder.host.json_documents import decode_json
from builder.image.oci.layout import blob, open_blob
from builder.model.images import Descriptor
from builder.publish.evidence import Artifact, Evidence
from builder.publish.image_source import ImageSource, LayoutBlob, ordered
from builder.remote.registry.cosign_images import CosignLayer, CosignTag, cosign_tag
from builder.remote.registry.manifests import parts_of
from builder.remote.registry.referrers import Referrer
from builder.remote.registry.registry_client import LONGEST_DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.errors import JbuildError
    from builder.publish.bundle.opened import OpenBundle
    from builder.remote.registry.upload import BlobSource, Readable

_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class AbsentBlob:
    """A blob that the receiver of a bundle has; `size` in bytes."""

    folder: str
    digest: str
    size: int

    @contextmanager
    def open(self, offset: int) -> Iterator[Readable]:  # noqa: ARG002  # no offset can be read
        """Raise an error: the bundle does not have it."""
        raise self._error()
        yield

    def find_corruption(self) -> JbuildError | None:
        """Return the same error."""
        return self._error()

    def _error(self) -> JbuildError:
        return IntegrityError(
            f"the bundle does not have the blob {self.digest}, which its receiver should have",
            where=self.folder,
            hint="make the bundle without --since",
        )


def image_in_bundle(bundle: OpenBundle) -> ImageSource:
    """Return a bundle's image."""
    image, root = bundle.bundle.image, bundle.root
    missing = {descriptor.digest for descriptor in bundle.bundle.missing}
    present = [descriptor for descriptor in (*image.layers, image.config) if descriptor.digest not in missing]
    blobs: tuple[BlobSource, ...] = (
        *(LayoutBlob(root, descriptor.digest, descriptor.size) for descriptor in present),
        *(AbsentBlob(str(bundle.folder), descriptor.digest, descriptor.size) for descriptor in bundle.bundle.missing),
    )
    content = blob(root, image.digest).read_bytes()
    return ImageSource(manifest=image.manifest, content=content, labels=image.labels, blobs=ordered(blobs))


def evidence_in_bundle(bundle: OpenBundle) -> Evidence:
    """Return the evidence of a bundle's image.

    Raises:
        IntegrityError: an entry of the layout's index cannot be read.
    """
    entries = decode_json((bundle.root / "index.json").read_bytes())["manifests"]
    digest = bundle.bundle.image.digest
    cosign_names = {cosign_tag(digest, tag): tag for tag in get_args(CosignTag)}
    artifacts, layers = [], []
    for entry in entries:
        if entry["digest"] == digest:
            continue
        try:
            manifest = _content(bundle, entry)
            tag = cosign_names.get(str((entry.get("annotations") or {}).get(_REF_NAME)))
            if tag:
                layers += [_cosign_layer(bundle, tag, layer) for layer in parts_of(manifest)[1:]]
            elif decode_json(manifest)["subject"]["digest"] == digest:
                artifacts.append(_artifact(bundle, entry, manifest))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(bundle, entry["digest"]) from error
    return Evidence(artifacts=tuple(artifacts), cosign=tuple(layers))


def artifact_content(artifact: Artifact) -> bytes:
    """Return the content of an artifact on this disk: its first layer."""
    layers = parts_of(artifact.manifest)[1:]
    source = next((blob for blob in artifact.blobs if layers and blob.digest == layers[0]["digest"]), None)
    if source is None or source.size > LONGEST_DOCUMENT:
        return b""
    with source.open(0) as file:
        return file.read()


def _artifact(bundle: OpenBundle, entry: dict[str, Any], manifest: bytes) -> Artifact:
    descriptor = Descriptor(media_type=str(entry["mediaType"]), digest=entry["digest"], size=entry["size"])
    annotations = {str(key): str(value) for key, value in (entry.get("annotations") or {}).items()}
    kind = str(entry.get("artifactType") or "")
    blobs = {
        part["digest"]: LayoutBlob(bundle.root, part["digest"], _checked(bundle, part)) for part in parts_of(manifest)
    }
    if not blobs:
        raise ValueError("not an artifact")
    return Artifact(
        name=_name(manifest) or kind or "artifact",
        referrer=Referrer(descriptor=descriptor, artifact_type=kind, annotations=tuple(annotations.items())),
        manifest=manifest,
        blobs=tuple(blobs.values()),
    )


def _name(manifest: bytes) -> str:
    """Return the name that jbuild gave an artifact, from the title of its file."""
    layers = parts_of(manifest)[1:]
    title = str((layers[0].get("annotations") or {}).get("org.opencontainers.image.title") or "") if layers else ""
    return title.removesuffix(".json")


def _cosign_layer(bundle: OpenBundle, tag: CosignTag, layer: dict[str, Any]) -> CosignLayer:
    return CosignLayer(tag=tag, layer=layer, content=_content(bundle, layer))


def _content(bundle: OpenBundle, descriptor: dict[str, Any]) -> bytes:
    if _checked(bundle, descriptor) > LONGEST_DOCUMENT:
        raise ValueError("too long")
    with open_blob(bundle.root, descriptor["digest"]) as file:
        return file.read()


def _checked(bundle: OpenBundle, descriptor: dict[str, Any]) -> int:
    """Return the size of a blob of the bundle.

    Raises:
        ValueError: the bundle does not have it in that size.
    """
    sizes = {file.path: file.size for file in bundle.bundle.files}
    size = sizes.get(f"blobs/{descriptor['digest'].replace(':', '/', 1)}")
    if size is None or size != descriptor["size"]:
        raise ValueError("not in the bundle")
    return size


def _unreadable(bundle: OpenBundle, digest: str) -> IntegrityError:
    return IntegrityError(
        f"the bundle's evidence {digest} cannot be read, or lacks a blob",
        where=str(bundle.folder),
        hint="make the bundle again",
    )
